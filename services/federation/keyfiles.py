"""Small files that others rely on: whole or absent, and private where they must be."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from services.federation.errors import FederationError

__all__ = ["LIMIT", "create", "locked", "make_folder", "read", "replace"]

LIMIT: Final = 1 << 20
"""Bytes above which nothing is a key, a certificate or a trust list."""


def read(path: Path, refusal: type[FederationError], *, private: bool = False) -> bytes | None:
    """The bytes of a regular file, None where there is none.

    Raises `refusal` for anything else: a folder or a pipe, more than `LIMIT` bytes, no
    permission, and, where it is `private`, a mode that lets others read or write it.
    """
    try:
        # Opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise refusal(f"{path} cannot be read: {e.strerror}") from e
    try:
        found = os.fstat(handle)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode):
            raise refusal(f"{path} cannot be read: it is no regular file")
        if private and mode & 0o077:
            raise refusal(f"{path} has mode {mode:04o}, others may use it: chmod 600 it")
        if found.st_size > LIMIT:
            raise refusal(
                f"{path} has {found.st_size} bytes, more than {LIMIT}: it is none of ours"
            )
        with open(handle, "rb", closefd=False) as file:
            return file.read(LIMIT)
    except OSError as e:
        raise refusal(f"{path} cannot be read: {e.strerror}") from e
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, for their owner only. Raises `OSError`."""
    for one in (*reversed(folder.parents), folder):
        if not one.exists():
            one.mkdir(mode=0o700, exist_ok=True)


def create(path: Path, data: bytes, mode: int) -> bool:
    """Write a file that is not there yet; False where one is by now, which stays as it is.

    Of several processes that create it at once one succeeds. Raises `OSError`.
    """
    with _written(path, data, mode) as beside:
        try:
            os.link(beside, path)  # unlike a rename it never takes the place of another
        except FileExistsError:
            return False
    return True


def replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file, or another in its place, at once and as a whole. Raises `OSError`."""
    with _written(path, data, mode) as beside:
        os.replace(beside, path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with a folder, among all who ask for this: read, change, write. Raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _written(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """The data on the disk under a name beside `path`; that name is gone afterwards."""
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        yield beside
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
