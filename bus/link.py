"""What a bus needs of its transport: frames out, frames in, requests answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from bus.protocol import Unheard

__all__ = ["Link"]


class Link(ABC):
    """One connection to a broker, in one event loop."""

    url: str
    on_message: Callable[[Sequence[bytes]], None]
    """Called in the loop with every message of a subscribed topic, or of one that begins so."""
    on_stray: Callable[[bytes], None]
    """Called with the JSON of an answer to a request that nobody waits for any more."""
    reconnects: int = 0
    shed: int = 0
    """Messages dropped unread, since more large ones came than could be taken."""
    live: bool = True
    """Whether the broker hears what is sent now."""

    @abstractmethod
    def send(self, message: Sequence[bytes]) -> bool:
        """Send to everybody, without waiting; False if it was dropped: the queue is full.

        It may leave at the end of the loop's turn, with what else was sent in it, in order.
        """

    @abstractmethod
    async def call(
        self, verb: str, body: bytes, patience: float, request: bytes | None = None
    ) -> bytes:
        """The JSON of the journal's answer; sent again after a lost connection, and where the
        journal has enough to do, when it says that it may be.

        `patience` in seconds. A call with the `request` id of one that still waits replaces it:
        both get the answer. Raises `Refused` and its kinds, `Unreachable`, `Closed`.
        """

    def new_request(self) -> bytes:
        """A request id that this connection has not used."""
        self._requests += 1
        return b"%d" % self._requests

    _requests = 0

    @abstractmethod
    def subscribe(self, topic: str) -> None:
        """Ask for a topic."""

    @abstractmethod
    def unsubscribe(self, topic: str) -> None:
        """Stop asking for a topic."""

    @abstractmethod
    async def confirm(self, patience: float) -> Unheard | None:
        """Return once every subscription so far is live, but those returned: they were refused.

        Raises `Unreachable`, `Closed`.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connection."""
