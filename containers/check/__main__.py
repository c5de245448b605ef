"""Builds the image and starts the fleet of compose.yaml from it: `python -m containers.check`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from containers.check import image
from containers.check.rehearsal import rehearse
from containers.check.tools import ROOT, Buildah, CheckError, program, step


def main() -> int:
    """Run; 0 where the fleet answered and stopped in order, 1 with what went wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m containers.check",
        description="Build the Dockerfile with buildah and run every service of compose.yaml.",
    )
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="%(default)s")
    parser.add_argument("--torch-index", default=None, help="the Dockerfile's TORCH_INDEX")
    parser.add_argument("--keep", type=Path, help="folder to work in, kept, and used again")
    parser.add_argument("--run-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.run_in is not None:
            rehearse(options.run_in)
            return 0
        if os.geteuid() != 0:
            raise CheckError("buildah's chroot isolation needs root")
        for name in ("buildah", "debootstrap", "unshare"):
            program(name)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            return _check(options.keep.absolute(), options.mirror, options.torch_index)
        work = Path(tempfile.mkdtemp(prefix="consonance-containers-", dir="/var/tmp"))
        try:
            return _check(work, options.mirror, options.torch_index)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except CheckError as error:
        print(f"container-check: {error}", file=sys.stderr)
        return 1


def _check(work: Path, mirror: str, torch_index: str | None) -> int:
    start = time.monotonic()
    buildah = Buildah(work)
    with step(f"{image.base_name()} from {mirror}"):
        image.base_image(buildah, work, mirror)
    with step("the Dockerfile"):
        size = image.build(buildah, work, torch_index)
    print(f"the image has {size}")
    # A network of its own: nothing here meets a fleet of yours, and nobody else this one.
    again = (sys.executable, "-m", "containers.check", "--run-in", str(work))
    with subprocess.Popen((program("unshare"), "--net", *again), cwd=ROOT) as inner:
        try:
            code = inner.wait()
        except BaseException:
            inner.terminate()  # and waited for: it ends its processes first
            raise
    if code == 0:
        print(f"all of compose.yaml runs; {time.monotonic() - start:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
