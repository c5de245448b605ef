"""Logs: one line an event, on standard error, JSON for machines or coloured for people."""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from services.runtime.tracing import Origin, following, here

__all__ = ["configure", "correlated"]


def configure(
    service: str,
    instance: str,
    level: str = "info",
    *,
    json: bool | None = None,
    stream: TextIO | None = None,
) -> None:
    """Set this process's logging up; called once, by its `__main__`.

    Every line carries `service`, `instance`, a UTC `timestamp`, `level`, `event`, and where it
    belongs to something the `correlationid` of that, and its `traceid`. `json`: None means JSON
    unless standard error is a terminal. What other libraries log or warn comes out in the same
    form, from `warning` on (all of it with `debug`).
    """
    stream = stream or sys.stderr
    as_json = not stream.isatty() if json is None else json
    number: int = getattr(logging, level.upper())

    def name(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {"service": service, "instance": instance, **event}

    shared: list[Processor] = [
        _belonging,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        name,
    ]
    last: list[Processor]
    if as_json:
        last = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    else:
        # The default shows the local variables of every frame: users' texts are among them.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    _adopt_libraries(stream, number, shared, last)


def correlated(identifier: str, traceparent: str | None = None) -> AbstractContextManager[None]:
    """While it lasts, lines and events of this task carry `correlationid`, and lie in a trace."""
    return following(Origin(correlation_id=identifier, traceparent=traceparent))


def _belonging(_logger: object, _method: str, event: EventDict) -> EventDict:
    origin = here()
    if origin.correlation_id is not None:
        event.setdefault("correlationid", origin.correlation_id)
    if origin.traceparent is not None:
        event.setdefault("traceid", origin.traceparent[3:35])
    return event


def _adopt_libraries(
    stream: TextIO, level: int, shared: list[Processor], last: list[Processor]
) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries tell at `info` what only their authors need.
    root.setLevel(level if level < logging.INFO else max(level, logging.WARNING))
    logging.captureWarnings(True)


def _to_json(event: Any, default: Any = None, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=default or repr).decode()
