"""What the check calls: programs that must be there, and what they say when they fail."""

from __future__ import annotations

import fcntl
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ROOT", "Buildah", "CheckError", "lift_loopback", "program", "run", "step"]

ROOT = Path(__file__).resolve().parents[2]

_LAST = 30  # lines that an error quotes


class CheckError(Exception):
    """What kept the check from passing, in one sentence, or with the last lines of a log."""


def program(name: str) -> str:
    """The path of a program; raises `CheckError` where it is missing."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise CheckError(f"{name} is missing; on Debian: apt-get install -y buildah debootstrap")
    return found


def run(command: Sequence[str], *, log: Path | None = None) -> str:
    """Standard output of a command, or nothing where it goes to `log`; raises `CheckError`."""
    if log is None:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise CheckError(f"{_short(command)} failed:\n{_tail(ended.stdout + ended.stderr)}")
        return ended.stdout.strip()
    with log.open("a", encoding="utf-8") as file:
        code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, check=False).returncode
    if code:
        raise CheckError(f"{_short(command)} failed:\n{_tail(log.read_text('utf-8', 'replace'))}")
    return ""


def _short(command: Sequence[str]) -> str:
    return " ".join(word for word in command if not word.startswith("-"))[:120]


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_LAST:])


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"{what} ...", end=" ", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", flush=True)
        raise
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def lift_loopback() -> None:
    """Bring `lo` up, which is down in a new network namespace."""
    up = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", up))  # SIOCSIFFLAGS


class Buildah:
    """Debian's buildah with a storage of its own, so that nothing else is touched."""

    def __init__(self, work: Path) -> None:
        self._common = (
            program("buildah"),
            *("--root", str(work / "storage"), "--runroot", str(work / "run")),
            *("--storage-driver", "vfs"),
        )

    def command(self, *words: str) -> tuple[str, ...]:
        """The words of a call."""
        return (*self._common, *words)

    def __call__(self, *words: str, log: Path | None = None) -> str:
        """What the call prints; raises `CheckError`."""
        return run(self.command(*words), log=log)
