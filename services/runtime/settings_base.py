"""What the sections of the settings are made of."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Section", "doc"]


def doc(text: str, unit: str = "", **limits: Any) -> msgspec.Meta:
    """What a key means, its unit, and msgspec's own limits (`ge`, `gt`, `le`, `lt`, ...)."""
    return msgspec.Meta(description=text, extra={"unit": unit}, **limits)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the settings file."""
