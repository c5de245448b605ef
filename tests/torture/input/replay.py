"""`python -m tests.torture.input.replay TARGET INPUT`: one input again, its traceback shown.

INPUT is what the torture printed, or a file of `cases/`.
"""

from __future__ import annotations

import base64
import sys
import zlib
from pathlib import Path

from tests.torture.input.runner import TARGETS

__all__ = ["main"]


def main(name: str, given: str) -> None:
    target = next(one for one in TARGETS if one.name == name)
    path = Path(given)
    try:
        data = path.read_bytes()
    except OSError:  # also where it is far too long for a name
        data = zlib.decompress(base64.b64decode(given))
    print(f"{len(data)} bytes: {data[:500]!r}")
    print("taken" if target.check(data) else "refused")


if __name__ == "__main__":
    main(*sys.argv[1:])
