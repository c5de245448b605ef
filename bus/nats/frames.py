"""An event and its attachments in one message: one after the other, their lengths in a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["LENGTHS", "ORDER", "pack", "unpack"]

LENGTHS = "Consonance-Lengths"
"""Bytes of each part, in order; absent where there is one."""
ORDER = "Consonance-Order"
"""Which connection sent it and as its how manieth: what it sent comes in that order."""


def pack(parts: Sequence[bytes]) -> tuple[bytes, dict[str, str]]:
    """A message's bytes and headers."""
    if len(parts) == 1:
        return bytes(parts[0]), {}
    return b"".join(parts), {LENGTHS: ",".join(str(len(part)) for part in parts)}


def unpack(body: bytes, headers: Mapping[str, str] | None) -> list[bytes]:
    """The parts; raises `ValueError` where the lengths are not those of the message.

    Attachments are views of the message.
    """
    lengths = headers.get(LENGTHS) if headers else None
    if lengths is None:
        return [body]
    sizes = [int(size) for size in lengths.split(",")]
    if min(sizes) < 0 or sum(sizes) != len(body):
        raise ValueError(f"parts of {lengths} bytes do not make a message of {len(body)}")
    view = memoryview(body)
    parts: list[bytes] = [body[: sizes[0]]]
    at = sizes[0]
    for size in sizes[1:]:
        parts.append(view[at : at + size])  # type: ignore[arg-type]
        at += size
    return parts
