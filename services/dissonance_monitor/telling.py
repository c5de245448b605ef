"""What the monitor tells of pieces and batches to those who follow one: log lines, and spans."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from msgspec import structs

from schemas import Event, LearningBatchQueued
from services.dissonance_monitor.judge import Piece
from services.dissonance_monitor.store import Judgement
from services.runtime.tracing import begin, following, inside, tracing

__all__ = ["tell", "traced"]


async def traced(
    pieces: Sequence[Piece], judged: Callable[[Sequence[Piece]], Awaitable[list[Judgement]]]
) -> list[Judgement]:
    """Judge, each piece within a span of its own trace; the requests that they share lie in the
    first one's."""
    if not tracing() or not pieces:
        return await judged(pieces)
    spans = [
        begin("monitor judge", piece.event.traceparent, id=piece.event.id, pieces=len(pieces))
        for piece in pieces
    ]
    own = [
        replace(piece, event=structs.replace(piece.event, traceparent=span.traceparent))
        for piece, span in zip(pieces, spans, strict=True)
    ]
    try:
        with inside(spans[0]):
            return await judged(own)
    except Exception as error:
        for span in spans:
            span.fail(type(error).__name__)
        raise
    finally:
        for span in spans:
            span.end()


def tell(
    log: Any, judged: Sequence[Judgement], batches: Sequence[Event[LearningBatchQueued]]
) -> None:
    """Ids, reasons and numbers; never a text."""
    for one in judged:
        said = one.events[0]
        with following(said):
            clash = None if one.clash is None else one.clash.data.reason
            log.debug("judged", id=said.data.feedback_id, domain=said.data.domain, clash=clash)
    for batch in batches:
        with following(batch):
            log.info("batch queued", domain=batch.data.domain, clashes=len(batch.data.events))
