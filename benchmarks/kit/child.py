"""A training in a process of its own, on so many threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

__all__ = ["THREAD_VARIABLES", "die_with_parent", "run_child"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by the libraries of numerical work, once, at their import."""


def run_child(module: str, folder: Path, *, whose: str, threads: int, **variables: str) -> None:
    """Run `python -m module folder`; raises RuntimeError with its last line where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, str(folder)],
        env=os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads)) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"{whose} child ended with {done.returncode} and said {last[0]}")


def die_with_parent() -> None:
    """In a worker: who is killed leaves nobody who computes on for nothing."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
