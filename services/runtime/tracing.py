"""What is being worked on: whose lines, events and spans it makes belong to.

Two things follow an event through the processes. Always: its `correlationid`, onto every log line
and every event that comes of it. And where somebody traces: spans, which OpenTelemetry collects,
joined across processes by `traceparent` (W3C Trace Context). Without a tracer nothing is recorded,
nothing of OpenTelemetry is imported, and a `traceparent` that came in is handed on all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from schemas import Event

__all__ = [
    "NOTHING",
    "Origin",
    "Span",
    "Tracer",
    "begin",
    "following",
    "here",
    "inside",
    "parent_of",
    "record",
    "span",
    "trace_with",
    "tracing",
    "under",
]

_E = TypeVar("_E", bound=Event[Any])

_PARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.DOTALL
)
_LENGTH: Final = 55
"""Characters of a traceparent of version 00; a later version may have more behind them."""


class Origin(NamedTuple):
    """Where what is made now comes from."""

    correlation_id: str | None = None
    """The request or batch that it belongs to."""
    causation_id: str | None = None
    """The event that caused it."""
    traceparent: str | None = None
    """The span that it lies in."""


_NOWHERE: Final = Origin()
_origin: ContextVar[Origin] = ContextVar("origin", default=_NOWHERE)


def here() -> Origin:
    """What is being worked on in this task; all None where nothing is."""
    return _origin.get()


class following:
    """While it lasts, what this task says and makes belongs to an event, or to an `Origin`."""

    __slots__ = ("_origin", "_token")

    def __init__(self, what: Event[Any] | Origin) -> None:
        self._origin = what if isinstance(what, Origin) else _of(what)

    def __enter__(self) -> None:
        self._token: Token[Origin] = _origin.set(self._origin)

    def __exit__(self, *_: object) -> None:
        _origin.reset(self._token)


def _of(event: Event[Any]) -> Origin:
    return Origin(event.correlation_id or event.id, event.id, event.traceparent)


def inside(span: Span) -> following:
    """Within this span, which somebody else ends; of nobody's interest: where this task is."""
    now = _origin.get()
    return following(now._replace(traceparent=span.traceparent or now.traceparent))


def under(event: _E) -> _E:
    """The event, as if it had come within the span that is open here: so does what it causes."""
    parent = _origin.get().traceparent
    if parent is None or parent == event.traceparent:
        return event
    return msgspec.structs.replace(event, traceparent=parent)


def parent_of(header: str | None) -> str | None:
    """A `traceparent` that may be handed on; None for one that is malformed.

    One of a later version is read as version 00, as the recommendation has it.
    """
    if header is None or _PARENT.fullmatch(header) is None:
        return None
    if header.startswith("00") and len(header) != _LENGTH:
        return None
    return f"00{header[2:_LENGTH]}"


class Span:
    """A stretch of work; this one is of nobody's interest."""

    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        """What events bear that are made within it; None: what they bear anyway."""
        return None

    def call(self, name: str) -> None:
        """Name it anew."""

    def note(self, **facts: Any) -> None:
        """Attributes: numbers, flags, names; never a user's text."""

    def fail(self, why: str) -> None:
        """It did not come to a good end; `why` is a code or an error's name, no user's text."""

    def end(self, at: float | None = None) -> None:
        """It is over; `at` seconds since the epoch, or now. A second time changes nothing."""


NOTHING: Final = Span()


class Tracer(Protocol):
    """Makes spans; see `services.runtime.tracing_otel`."""

    def begin(
        self,
        name: str,
        parent: str | None,
        links: Iterable[str | None],
        at: float | None,
        facts: dict[str, Any],
    ) -> Span:
        """A span that has begun."""
        ...


_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """From now on this process's spans are made by `tracer`; None: nothing is traced."""
    global _tracer
    _tracer = tracer


def tracing() -> bool:
    """Whether anybody traces; asked where making a span's facts would cost something."""
    return _tracer is not None


def begin(
    name: str,
    parent: str | None,
    *,
    links: Iterable[str | None] = (),
    at: float | None = None,
    **facts: Any,
) -> Span:
    """A span that somebody ends; `parent` is a traceparent, None begins a trace.

    `links`: traceparents of what else led to it. `at`: seconds since the epoch, or now.
    """
    if _tracer is None:
        return NOTHING
    return _tracer.begin(name, parent, links, at, facts)


def record(
    name: str, parent: str | None, started: float, ended: float | None = None, **facts: Any
) -> None:
    """A span that is over already; times in seconds since the epoch, `ended` None: now."""
    if _tracer is not None:
        _tracer.begin(name, parent, (), started, facts).end(ended)


class span:
    """`with span("manager install") as made:`: within the one that is open, and itself open.

    What is raised within it is noted by its type alone: its text may quote a user's.
    """

    __slots__ = ("_facts", "_links", "_name", "_span", "_token")

    def __init__(self, name: str, *, links: Iterable[str | None] = (), **facts: Any) -> None:
        self._name, self._links, self._facts = name, links, facts
        self._token: Token[Origin] | None = None

    def __enter__(self) -> Span:
        if _tracer is None:
            self._span = NOTHING
            return NOTHING
        now = _origin.get()
        self._span = _tracer.begin(self._name, now.traceparent, self._links, None, self._facts)
        self._token = _origin.set(now._replace(traceparent=self._span.traceparent))
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is None:
            return
        _origin.reset(self._token)
        if kind is not None:
            self._span.fail(kind.__name__)
        self._span.end()
