"""Secrets that were planted, and where they must not come up."""

from __future__ import annotations

import base64
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

__all__ = ["command_lines", "files", "kept_in", "leaks"]


def kept_in(keys: Path) -> dict[str, bytes]:
    """The secret half of every key pair of a folder, by its file's name.

    Each file that holds one must be its owner's alone.
    """
    found = {}
    for path in sorted(keys.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        curve = re.search(rb'secret-key = "([^"]+)"', data)
        pem = re.search(rb"PRIVATE KEY-----\s+(.+?)\s+-----END", data, re.DOTALL)
        if one := curve or pem:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            # Of PEM a line in the middle: the first ones say only what kind of key it is.
            found[str(path.relative_to(keys))] = one[1].splitlines()[
                -1 if curve else len(one[1].splitlines()) // 2
            ]
    return found


def files(root: Path, *, but: Iterable[Path] = ()) -> dict[str, bytes]:
    """What lies in a folder, by name, without what lies under `but`."""
    left_out = tuple(but)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not any(path.is_relative_to(one) for one in left_out)
    }


def command_lines(*pids: int) -> dict[str, bytes]:
    """What anybody on the machine can read of these processes and of those that they started."""
    own = [psutil.Process(pid) for pid in pids]
    every = [one for process in own for one in (process, *process.children(recursive=True))]
    return {
        f"command line of {one.pid}": Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in every
    }


def leaks(secrets: Mapping[str, bytes], places: Mapping[str, bytes]) -> list[str]:
    """Each secret that stands somewhere, as it is or in base64 or hexadecimal."""
    return [
        f"{name} in {place}"
        for name, secret in secrets.items()
        for place, data in places.items()
        if any(
            one in data
            for one in (secret, base64.b64encode(secret).rstrip(b"="), secret.hex().encode())
        )
    ]
