"""What nobody here reads is not checked by decoding, but whoever does must be able to read it."""

from __future__ import annotations

import re
from typing import Final

from bus.errors import Refused

__all__ = ["LEVELS", "check_legible"]

LEVELS: Final = 64
"""How deep an event may be nested. Readers have limits of their own, as deep as their stack is at
that moment: what the broker could just take would be the end of a consumer."""

_STRING: Final = re.compile(rb'"[^"]*"')
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_OTHERS: Final = bytes(set(range(256)) - set(b"[]{}"))


def check_legible(raw: bytes) -> None:
    """Raise `Refused` for JSON that is no UTF-8, or nested deeper than `LEVELS`."""
    if not raw.isascii():  # which is quicker to tell
        try:
            raw.decode()
        except UnicodeDecodeError as e:
            raise Refused(f"the event is not UTF-8 at byte {e.start}") from e
    # Nearly every event has fewer brackets than that in all.
    if raw.count(b"[") + raw.count(b"{") > LEVELS and _deeper(raw):
        raise Refused(f"the event is nested deeper than {LEVELS} levels")


def _deeper(raw: bytes) -> bool:
    """Whether brackets are left of JSON when the innermost were taken away `LEVELS` times."""
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")  # a quote that is left ends a text
    brackets = _STRING.sub(b"", plain).translate(_ALIKE, _OTHERS)
    for _ in range(LEVELS):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
