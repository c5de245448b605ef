"""How the process's allocator treats what a forward pass frees: it keeps it for the next one."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from typing import Final

__all__ = ["keep_freed_memory"]

_TRIM, _PAD, _MAP = -1, -2, -3
"""Numbers of the settings in glibc's malloc.h."""

KEPT: Final = 128 << 20
PADDED: Final = 16 << 20
MAPPED: Final = 32 << 20
"""The most that glibc takes; above it every block is mapped and unmapped by itself."""


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks up to `KEPT` bytes; False where there is no glibc.

    A pass allocates and frees some megabytes a hundred times. Given back to the system, they come
    again page by page, each zeroed: 4 % of the processor's time, where it was measured.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all([mallopt(_TRIM, KEPT), mallopt(_PAD, PADDED), mallopt(_MAP, MAPPED)])
