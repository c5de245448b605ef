"""Files that are whole or absent: written beside, flushed, renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from services.command.errors import InputRefused

__all__ = ["check_free", "whole_file"]


def check_free(path: Path, *, force: bool) -> None:
    """Raise `InputRefused` where a file cannot be written at `path`, or must not be replaced."""
    if not path.parent.is_dir():
        raise InputRefused(f"the folder {path.parent} does not exist")
    if os.path.lexists(path):
        if not path.is_file():
            raise InputRefused(f"{path} is there and is no file")
        if not force:
            raise InputRefused(f"{path} exists; --force replaces a file")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name when the block ends well, and never otherwise."""
    target = Path(os.path.realpath(path))  # a link stays one
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
