"""Which calls of peers are heard at all, and that they tell nothing of this machine."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

import structlog
from pyarrow import flight

from services.federation.errors import PeerBusy

__all__ = ["Admission", "answering", "guarded", "holder_of"]

NAME: Final = "admission"
MOST: Final = 256
"""Calls at a time; each has a thread of its own until the peer has read the answer."""
MOST_EACH: Final = 32
"""Of one peer."""

P = ParamSpec("P")
R = TypeVar("R")
_log = structlog.get_logger(service="federation")


class Admission(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Asked before anything of a call's stream is read. Thread-safe."""

    def __init__(self, most: int = MOST, each: int = MOST_EACH) -> None:
        self.closed: str | None = "this node starts: ask it again"
        """Why no call is answered now."""
        self._most = most
        self._each = each
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()

    @property
    def named(self) -> dict[str, Admission]:
        """As Flight takes it."""
        return {NAME: self}

    def start_call(self, info: Any, headers: Any) -> _Call:
        """Refuse what is never taken."""
        if info.method in (flight.FlightMethod.DO_PUT, flight.FlightMethod.DO_EXCHANGE):
            raise flight.FlightUnauthorizedError("this node takes no uploads")
        return _Call(self)

    def enter(self, holder: str) -> None:
        """Raises `PeerBusy` where this peer, or all together, have too many calls open."""
        if self.closed is not None:
            raise PeerBusy(self.closed)
        with self._lock:
            if self._calls.total() >= self._most or self._calls[holder] >= self._each:
                raise PeerBusy("too many transfers and questions are under way")
            self._calls[holder] += 1

    def leave(self, holder: str) -> None:
        """After `enter`, when the call is over."""
        with self._lock:
            self._calls[holder] -= 1
            if not self._calls[holder]:
                del self._calls[holder]


class _Call(flight.ServerMiddleware):  # type: ignore[misc]  # pyarrow has no types
    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._holder: str | None = None

    def admit(self, holder: str) -> None:
        self._admission.enter(holder)
        self._holder = holder

    def call_completed(self, exception: Any) -> None:
        holder, self._holder = self._holder, None
        if holder is not None:
            self._admission.leave(holder)


def answering(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a Flight server that heeds its `Admission`.

    Only Flight's own errors leave it: of others Flight tells the traceback, with paths.
    """

    @functools.wraps(method)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        context: Any = args[1]
        try:
            context.get_middleware(NAME).admit(holder_of(context))
            return method(*args, **kwargs)
        except Exception as error:
            raise _telling(error, method.__name__) from None

    return answer


def _telling(error: Exception, call: str) -> Any:
    """What a peer is told of an error; what nobody foresaw is logged."""
    if isinstance(error, flight.FlightError):
        return error
    if isinstance(error, PeerBusy):
        return flight.FlightUnavailableError(str(error))
    _log.error("a peer's call failed", call=call, exc_info=error)
    return flight.FlightServerError("this node failed; its log says how")


def holder_of(context: Any) -> str:
    """Who calls: the node of its certificate, else its address."""
    identity = context.peer_identity()
    if identity:
        return bytes(identity).decode("utf-8", "replace")
    # gRPC writes `ipv4:10.0.0.1:4711`, `ipv6:%5Bfe80::1%5D:4711`.
    return str(context.peer()).rpartition(":")[0]


def guarded(items: Iterator[R], call: str) -> Iterator[R]:
    """A stream whose errors tell nothing either."""
    try:
        yield from items
    except Exception as error:
        raise _telling(error, call) from None
