"""Ids of events: random, or derived so that doing the work twice makes the same one."""

from __future__ import annotations

import os
from hashlib import sha1
from uuid import UUID

__all__ = ["NAMESPACE", "derived_id", "new_id"]

NAMESPACE = UUID("6a1c2f6e-7f0e-5f38-9d0b-3f6d1a0f6a77")
"""The UUIDv5 namespace of derived events."""

_SPACE = NAMESPACE.bytes
_POOL = 256
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
_ids: list[str] = []
os.register_at_fork(after_in_child=_ids.clear)  # else both would say the same


def new_id() -> str:
    """A random UUID. Drawn 256 at a time: `uuid4` takes longer than all the rest of an event."""
    try:
        return _ids.pop()  # one step, also where threads share it
    except IndexError:
        drawn = os.urandom(16 * _POOL).hex()
        found = [_uuid(drawn[at : at + 32], 4) for at in range(0, len(drawn), 32)]
        _ids.extend(found[1:])
        return found[0]


def _uuid(digits: str, version: int) -> str:
    """Of 32 hex digits: the version and the variant in their places (RFC 9562)."""
    third, fourth = f"{version}{digits[13:16]}", f"{_VARIANT[digits[16]]}{digits[17:20]}"
    return f"{digits[:8]}-{digits[8:12]}-{third}-{fourth}-{digits[20:]}"


def derived_id(source: str, cause: str, kind: str, ordinal: int = 0) -> str:
    """UUIDv5 of the causing event (its source and id), the derived type and an ordinal.

    The source takes part because an id is unique only within its source. Made here as `uuid.uuid5`
    does, which takes four times as long: there are three to a request that is encoded.
    """
    name = f"{source}\n{cause}\n{kind}\n{ordinal}"
    digest = sha1(_SPACE + name.encode(), usedforsecurity=False)
    return _uuid(digest.hexdigest()[:32], 5)
