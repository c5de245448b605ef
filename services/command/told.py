"""Events as lines: the whole CloudEvent as JSON, or the gist of it for people."""

from __future__ import annotations

import shutil
import sys
from typing import Any, Final

import msgspec

from schemas import Event, encode
from services.command.kit import say

__all__ = ["gist", "say_event"]

_NOISE: Final = frozenset({"prototypes", "boundary", "signature", "heads", "counters"})
_WIDE: Final = 200


def say_event(event: Event[Any], *, json: bool) -> None:
    """One line on standard output. Raises `BrokenPipeError`."""
    if json:
        say(encode(event).decode())
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    line = f"{event.time.astimezone():%H:%M:%S} {event.sequence or '':>7} {event.type:<22} "
    say((line + gist(event.data))[:width].rstrip())


def gist(data: Any) -> str:
    """The fields that fit into a line: `domain=banking step=3`; a card is its name."""
    parts = []
    for name, value in msgspec.structs.asdict(data).items():
        if value is None or name in _NOISE:
            continue
        if name == "card":
            parts.append(f"card={value.name}@{value.version}")
        elif isinstance(value, str):
            parts.append(f"{name}={_short(value)}")
        elif isinstance(value, float):
            parts.append(f"{name}={value:.4g}")
        elif isinstance(value, tuple | list | dict):
            if value:
                parts.append(f"{name}×{len(value)}")
        else:
            parts.append(f"{name}={value}")
    return " ".join(parts)


def _short(text: str) -> str:
    """One word or quoted, on one line, control characters made harmless."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    clean = clean if len(clean) <= 60 else clean[:59] + "…"
    return repr(clean) if " " in clean or not clean else clean
