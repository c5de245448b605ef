"""What a request must be before it is routed."""

from __future__ import annotations

import msgspec

from schemas import EncodeAssigned, EncodeRequested, Event, encode
from services.router.errors import Refused

__all__ = ["MAX_REQUEST_BYTES", "MAX_STACKED", "check", "check_assignment"]

MAX_STACKED = 3

MAX_REQUEST_BYTES = 896 << 10
"""JSON of all texts: what is assigned names the cards too, and an event may have 1 MiB."""


_ROW_BYTES = 64
"""JSON of a row's index and score, or of its reason, at most."""

_ENVELOPE_BYTES = 4096
"""What an answer's own attributes and figures take besides its rows, at most."""


def check(data: EncodeRequested, *, max_texts: int, max_text_bytes: int) -> None:
    """Raise `Refused` (`invalid` or `too_large`) with the first thing that is wrong."""
    wrong = _contradiction(data)
    if wrong is not None:
        raise Refused("invalid", wrong)
    if len(data.texts) > max_texts:
        raise Refused(
            "too_large", f"a request may have {max_texts} texts, not {len(data.texts)}: split it"
        )
    for number, text in enumerate((*data.texts, data.intent or "")):
        # A quarter of the limit in characters can never be too many bytes.
        if len(text) * 4 > max_text_bytes and (size := _bytes(text)) > max_text_bytes:
            which = "the intent" if number == len(data.texts) else f"text {number}"
            raise Refused(
                "too_large", f"{which} has {size} bytes, {max_text_bytes} are allowed: shorten it"
            )
    if sum(map(len, data.texts)) * 6 > MAX_REQUEST_BYTES:  # a character is at most 6 bytes of JSON
        size = len(msgspec.json.encode(data.texts))
        if size > MAX_REQUEST_BYTES:
            raise Refused(
                "too_large",
                f"the texts have {size} bytes of JSON in all, {MAX_REQUEST_BYTES} are allowed: "
                "split the request",
            )


def check_assignment(event: Event[EncodeAssigned], most: int) -> None:
    """Raise `Refused` (`too_large`) where the skills chosen do not fit into an event of `most`.

    The assignment names every card once, the answer names them in every row that they made.
    """
    data = event.data
    cards = [len(msgspec.json.encode(card)) + _ROW_BYTES for card in data.skills]
    used = [index for row in data.rows for index, _ in row.skills]
    answer = sum(cards[index] for index in used) + _ROW_BYTES * len(data.rows) + _ENVELOPE_BYTES
    # A bound that costs little tells nearly always that there is room.
    rows = _ROW_BYTES * (len(used) + len(data.rows))
    asked = 6 * sum(map(len, data.texts)) + sum(cards) + rows + _ENVELOPE_BYTES
    if asked > most:
        asked = len(encode(event))
    if max(asked, answer) > most:
        raise Refused(
            "too_large",
            f"{len(data.texts)} texts with {len(cards)} different skills need "
            f"{max(asked, answer)} bytes of JSON, {most} are allowed: split the request",
        )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _contradiction(data: EncodeRequested) -> str | None:
    if not data.texts:
        return "texts is empty: a request needs at least one text"
    if not data.reply_to:
        return "reply_to is empty: it must name who is answered"
    if data.route == "named":
        if not data.skills:
            return "route 'named' needs skills: it names none"
        if len(data.skills) > MAX_STACKED:
            return f"skills names {len(data.skills)}: at most {MAX_STACKED} may stack"
    elif data.skills:
        return f"skills goes with route 'named', not with {data.route!r}"
    if not 1 <= data.top_k <= MAX_STACKED:
        return f"top_k is {data.top_k}: it must be from 1 to {MAX_STACKED}"
    if data.route != "auto":
        if data.intent is not None:
            return f"intent goes with route 'auto', not with {data.route!r}"
        if data.top_k != 1:
            return f"top_k goes with route 'auto', not with {data.route!r}"
    elif data.intent == "":
        return "intent is empty: leave it out, or say what the texts are about"
    return None
