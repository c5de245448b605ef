"""The image: its base from Debian's own packages, and the Dockerfile's build on top."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from containers.check.tools import ROOT, Buildah, CheckError, program, run

__all__ = ["IMAGE", "base_image", "build", "pip_for_the_build"]

IMAGE = "localhost/consonance:check"

_PLACE = "/mnt/pip"


def base_image(buildah: Buildah, work: Path, mirror: str) -> str:
    """Import a fresh Debian under the very name that the Dockerfile builds on; that name."""
    name = base_name()
    suite = name.rpartition(":")[2].partition("-")[0]
    tree, archive = work / "base", work / "base.tar"
    if not archive.exists():
        log = work / "debootstrap.log"
        run((program("debootstrap"), "--variant=minbase", suite, str(tree), mirror), log=log)
        run((program("tar"), "-C", str(tree), "--numeric-owner", "-cf", str(archive), "."))
        run((program("rm"), "-rf", str(tree)))
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(archive), "/")
    buildah("config", "--cmd", "bash", container)
    buildah("commit", "--quiet", "--rm", container, name)
    return name


def base_name() -> str:
    """What the Dockerfile's last stage begins with, its argument at its default."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    if len(bases) != 1:
        raise CheckError(f"the Dockerfile builds on {len(bases)} images, not on one")
    return re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], bases.pop())


def build(buildah: Buildah, work: Path, torch_index: str | None) -> str:
    """Build the Dockerfile; the size of the image, in words."""
    settings, mounts = pip_for_the_build(run((sys.executable, "-m", "pip", "config", "list")))
    (work / "pip.conf").write_text(settings, "utf-8")
    # Where pip has sources of its own, PyTorch comes from them, as it did for this machine's.
    index = "" if torch_index is None and mounts else torch_index
    buildah(
        *("bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--tag", IMAGE),
        *("--secret", f"id=pip,src={work / 'pip.conf'}"),
        *(() if index is None else ("--build-arg", f"TORCH_INDEX={index}")),
        *(f"--volume={source}:{target}:ro" for source, target in mounts),
        str(ROOT),
        log=work / "build.log",
    )
    return buildah("images", "--format", "{{.Size}}", IMAGE)


def pip_for_the_build(listed: str) -> tuple[str, Sequence[tuple[str, str]]]:
    """This machine's own pip settings for use inside: the file, and what it needs mounted.

    `listed` is what `pip config list` prints. Local files and folders are mounted with the folder
    that they lie in, since an index may point beside itself.
    """
    values = {
        re.sub(r"^:env:\.", "global.", key): value
        for key, value in re.findall(r"^(\S+)='(.*)'$", listed, re.MULTILINE)
    }
    mounts: list[tuple[str, str]] = []

    def inside(word: str) -> str:
        path = Path(urlsplit(word).path if word.startswith("file://") else word)
        if not path.is_absolute() or not path.exists():
            return word
        target = f"{_PLACE}/{len(mounts)}"
        mounts.append((str(path.parent), target))
        prefix = "file://" if word.startswith("file://") else ""
        return f"{prefix}{target}/{path.name}"

    lines: dict[str, list[str]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        words = " ".join(inside(word) for word in value.split())
        lines.setdefault(section, []).append(f"{name} = {words}")
    blocks = (f"[{section}]\n" + "\n".join(body) + "\n" for section, body in lines.items())
    return "\n".join(blocks), mounts
