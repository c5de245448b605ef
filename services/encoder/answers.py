"""The events with which an encoder answers an assignment."""

from __future__ import annotations

from typing import Any

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
)
from services.encoder.batcher import Job
from services.runtime.vectors import to_stream

__all__ = ["completed", "expired", "failed", "told_to"]


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


def expired(event: Event[EncodeAssigned], *, source: str, worker: str) -> tuple[Event[Any], ...]:
    """The word for the router of a request whose deadline has passed.

    The router tells the client: it watches the same deadline, and one of the two must.
    """
    return (_finished(event, source=source, worker=worker, reason="deadline"),)


def told_to(router: str, events: tuple[Event[Any], ...]) -> tuple[Event[Any], ...]:
    """The same events, with the word for the router addressed to this one."""
    return tuple(
        msgspec.structs.replace(event, to=router)
        if isinstance(event.data, EncodeFinished)
        else event
        for event in events
    )


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
) -> Event[Any]:
    data = event.data
    finished = EncodeFinished(request_id=data.request_id, worker=worker, failed=reason)
    return event.derive(finished, source=source, to=data.router)


def _belongs(event: Event[Any], data: EncodeAssigned) -> Event[Any]:
    # A client knows its answer by its request's id, whatever the request itself belonged to.
    return msgspec.structs.replace(event, correlation_id=data.request_id)
