"""The events with which an encoder answers an assignment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from schemas import (
    AppliedSkill,
    CompletedRow,
    EncodeAssigned,
    EncodeCompleted,
    EncodeFailed,
    EncodeFinished,
    Event,
    FinishedToo,
    encode,
)
from services.encoder.batcher import Job
from services.runtime.vectors import to_stream

__all__ = ["Word", "completed", "expired", "failed", "parted", "together", "told_to"]

Word = Event[EncodeFinished]
"""To the router: an assignment is off the encoder's hands."""

MOST: Final = 256
"""Assignments in one word: the router hears it as a whole, before anything else."""

_LIST_BYTES: Final = len('"also":[],')


def completed(
    job: Job, *, source: str, worker: str, model: str, dim: int
) -> tuple[Event[Any], ...]:
    """The vectors for the client, and the word for the router, of a request that is whole."""
    data = job.data
    vectors = [vector for vector in job.vectors if vector is not None]
    stacked = np.stack(vectors) if vectors else np.empty((0, dim), np.float32)
    answer = EncodeCompleted(
        request_id=data.request_id,
        model=model,
        dim=dim,
        rows=tuple(_row(data, index) for index in range(len(data.rows))),
        tokens=job.tokens,
        queue_ms=((job.started or job.received) - job.received) * 1000,
        compute_ms=job.compute * 1000,
        attachments=("embedding",),
    )
    event = job.event.derive(
        answer, source=source, to=data.reply_to, attachments=(to_stream(stacked),)
    )
    return _belongs(event, data), _finished(job.event, source=source, worker=worker)


def failed(
    event: Event[EncodeAssigned],
    code: Any,
    message: str,
    *,
    source: str,
    worker: str,
    retry_after_ms: int | None = None,
) -> tuple[Event[Any], ...]:
    """The reason for the client, and the word for the router."""
    data = event.data
    reason = EncodeFailed(
        request_id=data.request_id, code=code, message=message, retry_after_ms=retry_after_ms
    )
    return (
        _belongs(event.derive(reason, source=source, to=data.reply_to), data),
        _finished(event, source=source, worker=worker, reason=code),
    )


def expired(event: Event[EncodeAssigned], *, source: str, worker: str) -> Word:
    """The word for the router of a request whose deadline has passed.

    The router tells the client: it watches the same deadline, and one of the two must.
    """
    return _finished(event, source=source, worker=worker, reason="deadline")


def told_to(router: str, words: Iterable[Word]) -> list[Word]:
    """The same words for another router."""
    return [msgspec.structs.replace(word, to=router) for word in words]


def parted(events: Iterable[Event[Any]]) -> tuple[list[Event[Any]], list[Word]]:
    """What the client is told, and what the router is."""
    client: list[Event[Any]] = []
    words: list[Word] = []
    for event in events:
        (words if isinstance(event.data, EncodeFinished) else client).append(event)
    return client, words


def together(words: Sequence[Word], max_bytes: int) -> list[Word]:
    """The same words in as few events as their routers and `max_bytes` of JSON allow."""
    told: list[Word] = []
    for router in dict.fromkeys(word.to for word in words):
        told += _joined([word for word in words if word.to == router], max_bytes)
    return told


def _joined(words: Sequence[Word], max_bytes: int) -> list[Word]:
    told: list[Word] = []
    also: list[FinishedToo] = []
    room = 0
    for word in words:
        data = word.data
        more = FinishedToo(
            assignment=word.causation_id or "", request_id=data.request_id, failed=data.failed
        )
        size = len(msgspec.json.encode(more)) + 1
        if told and size <= room and len(also) < MOST - 1:
            also.append(more)
            room -= size
            continue
        _close(told, also)
        told.append(word)
        also, room = [], max_bytes - len(encode(word)) - _LIST_BYTES
    _close(told, also)
    return told


def _close(told: list[Word], also: list[FinishedToo]) -> None:
    """The last word tells of these, too."""
    if also:
        data = msgspec.structs.replace(told[-1].data, also=tuple(also))
        told[-1] = msgspec.structs.replace(told[-1], data=data)


def _row(data: EncodeAssigned, index: int) -> CompletedRow:
    row = data.rows[index]
    applied = []
    for number, score in row.skills:
        skill = data.skills[number]
        applied.append(
            AppliedSkill(name=skill.name, version=skill.version, digest=skill.digest, score=score)
        )
    return CompletedRow(skills=tuple(applied), reason=row.reason)


def _finished(
    event: Event[EncodeAssigned], *, source: str, worker: str, reason: str | None = None
) -> Word:
    data = event.data
    finished = EncodeFinished(request_id=data.request_id, worker=worker, failed=reason)
    return event.derive(finished, source=source, to=data.router)


def _belongs(event: Event[Any], data: EncodeAssigned) -> Event[Any]:
    # A client knows its answer by its request's id, whatever the request itself belonged to.
    return msgspec.structs.replace(event, correlation_id=data.request_id)
