"""One peer's Flight server, as a client sees it: nothing that comes from it is decoded as Arrow.

Only streams of an empty schema are read, whose batches have no columns: what a peer says lies in
their metadata, opaque and bounded. Blocking; each call may be made from any thread.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
from pyarrow import flight

from schemas import SkillCard
from services.federation import protocol
from services.federation.credentials import ANY_NODE, Credentials, host_name
from services.federation.errors import (
    NotOffered,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerUnreachable,
)
from services.federation.protocol import EMPTY, MAX_FRAME, Endpoint, Health, Ticket

__all__ = ["Connection", "Stream"]

CALL_SECONDS: Final = 5.0
"""How long a peer may take to tell how it is, and what it offers for each 64 cards."""

AGAIN: Final = 3
"""How often a call is made again that found a connection dead which had worked."""

LISTING: Final = 16 << 20
"""What a peer's offers may have in bytes, or `EACH` for every card where that is more."""

EACH: Final = 64 << 10

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_FRAME),
    # A compressed message is as long as it is said to be, not as long as it becomes.
    ("grpc.per_message_decompression", 0),
    ("grpc.max_reconnect_backoff_ms", 5000),
    # Two connections to one peer do not share what one of them breaks.
    ("grpc.use_local_subchannel_pool", 1),
    # So much is under way to a reader at most, and it comes in large pieces: half the system calls.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 << 20),
    ("grpc.http2.max_frame_size", (1 << 24) - 1),
    ("grpc.experimental.tcp_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_min_read_chunk_size", 256 << 10),
)


class Stream:
    """The frames of an answer; `cancel` may be called from another thread."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __iter__(self) -> Iterator[pa.Buffer]:
        """Raises a `PeerError`."""
        while True:
            with _as_peer_error():
                try:
                    chunk = self._reader.read_chunk()
                except StopIteration:
                    return
            if chunk.data is None or chunk.data.num_columns or chunk.app_metadata is None:
                raise PeerMisbehaved("it sent a batch where a frame belongs")
            yield chunk.app_metadata

    def cancel(self) -> None:
        """Have the peer send no more; a read under way ends with an error."""
        self._reader.cancel()


class Connection:
    """A connection is made with the first call, and again after it was lost."""

    def __init__(
        self, endpoint: Endpoint, *, node: str | None = None, credentials: Credentials | None = None
    ) -> None:
        """With mutual TLS the peer must show a certificate of the same authority, for `node` if
        its name is known. Raises `PeerUnreachable` where the endpoint is of no use."""
        if "%" in endpoint.host:
            raise PeerUnreachable("its address is of one link only, which Flight cannot write")
        self.endpoint = endpoint
        self._lock = threading.Lock()
        self._closed = False
        self._worked = False
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        options: dict[str, Any] = {"generic_options": list(_OPTIONS)}
        if endpoint.tls:
            if credentials is None:
                raise PeerUnreachable("it asks for certificates, and this node has none")
            options |= {
                "tls_root_certs": credentials.authority,
                "cert_chain": credentials.certificate,
                "private_key": credentials.key,
                "override_hostname": ANY_NODE if node is None else host_name(node),
            }
        with _as_peer_error():
            self._client = flight.FlightClient(endpoint.uri, **options)

    def close(self) -> None:
        """Close the connection; what is being read ends with an error."""
        with self._lock:
            self._closed = True
            streams = tuple(self._streams)
        for stream in streams:
            stream.cancel()
        self._client.close()

    def health(self) -> Health:
        """How the peer is. Raises a `PeerError`."""
        for frame in self._frames(protocol.HEALTH.encode(), CALL_SECONDS):
            return protocol.health_from(frame.to_pybytes())
        raise PeerMisbehaved("it says nothing of itself")

    def cards(self, most: int) -> tuple[SkillCard, ...]:
        """What it offers, the first `most` cards; claims all of it. Raises a `PeerError`."""
        found: dict[str, SkillCard] = {}
        seconds = CALL_SECONDS * (1 + most / 64)
        left = limit = max(LISTING, EACH * most)
        for count, frame in enumerate(self._frames(protocol.SKILLS.encode(), seconds), 1):
            left -= frame.size
            if left < 0:
                raise PeerMisbehaved(f"what it says of its cards has more than {limit} bytes")
            card = protocol.card_from(frame.to_pybytes())
            found[card.digest] = card
            if count == most:
                break
        return tuple(found.values())

    def open(self, digest: str, offset: int, seconds: float) -> Stream:
        """The file of a card from `offset` on, within `seconds` in all. Raises a `PeerError`."""
        return self._open(Ticket(digest, offset, frames=True).encode(), seconds)

    def _open(self, ticket: bytes, seconds: float) -> Stream:
        worked, self._worked = self._worked, False
        left = AGAIN if worked else 0
        while True:
            try:
                stream = self._asked(ticket, seconds)
            except PeerUnreachable as error:
                # A connection may have died unseen since it was last used: a call finds it dead,
                # the next makes another, or is still told of the first's end.
                if left == 0 or not isinstance(error.__cause__, flight.FlightUnavailableError):
                    raise
                left -= 1
            else:
                self._worked = True
                return stream

    def _asked(self, ticket: bytes, seconds: float) -> Stream:
        with _as_peer_error():
            reader = self._client.do_get(
                flight.Ticket(ticket), flight.FlightCallOptions(timeout=seconds)
            )
            if reader.schema != EMPTY:
                reader.cancel()
                raise PeerMisbehaved("it answers with columns where frames were asked for")
        stream = Stream(reader)
        with self._lock:
            self._streams.add(stream)
            closed = self._closed
        if closed:
            stream.cancel()
        return stream

    def _frames(self, ticket: bytes, seconds: float) -> Iterator[pa.Buffer]:
        stream = self._open(ticket, seconds)
        # The deadline covers a peer that sends for ever, the limit of a frame one that sends much.
        timer = threading.Timer(seconds, stream.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield from stream
        finally:
            timer.cancel()
            stream.cancel()


@contextmanager
def _as_peer_error() -> Iterator[None]:
    try:
        yield
    except PeerError:
        raise
    except flight.FlightUnauthenticatedError as error:
        raise PeerUnreachable("it does not admit this node") from error
    except flight.FlightTimedOutError as error:
        raise PeerUnreachable("it did not answer in time") from error
    except flight.FlightUnavailableError as error:
        text = _sentence(error)
        # gRPC calls a peer unavailable that cannot be reached; ours say why not now.
        if any(word in text for word in ("transfers", "starts", "stops")):
            raise PeerBusy(text) from error
        raise PeerUnreachable(f"there is no connection to it: {text}") from error
    except flight.FlightCancelledError as error:
        raise PeerMisbehaved("it was cut off: too slow, or a message beyond the limit") from error
    except flight.FlightError as error:
        if error.extra_info == b"not_offered" or "not on offer" in str(error):
            raise NotOffered("it does not offer that skill") from error
        raise PeerMisbehaved(f"it answers with an error: {_sentence(error)}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PeerMisbehaved(f"its answer makes no sense: {_sentence(error)}") from error


def _sentence(error: BaseException) -> str:
    """The first line of what Flight or the peer said, printable and short."""
    text = str(error).split("gRPC client debug context")[0].split(". Detail:")[0].strip()
    line = (text.splitlines() or [""])[0][:200]
    return "".join(letter if letter.isprintable() else "?" for letter in line) or "no reason given"
