"""Serves cards to peers over Arrow Flight: lists them, describes them, streams their files."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import structlog
from pyarrow import flight

from lora.errors import LoRAError
from services.federation import protocol
from services.federation.admission import Admission, answering, guarded, holder_of
from services.federation.catalogue import Catalogue, Offer
from services.federation.credentials import Credentials
from services.federation.errors import ServerError
from services.federation.limits import Bucket, Slots
from services.federation.manifest import manifest
from services.federation.protocol import EMPTY, FRAME, NOTHING, SLICES, Endpoint, Health, Ticket

__all__ = ["LOOPBACK", "NOT_OFFERED", "LoRAFlightServer", "is_loopback"]

NOT_OFFERED: Final = b"not_offered"
"""The extra information of the error that a card is not on offer."""

_NOT_ON_OFFER: Final = ("that skill is not on offer", NOT_OFFERED)

LOOPBACK: Final = "127.0.0.1"
EVERYWHERE: Final = "::"
"""IPv4 too, where the system lets one socket do both, as gRPC has it by default."""

STOP_SECONDS: Final = 1.5
"""How long an orderly stop waits for peers that are reading."""

STALL: Final = 60.0
"""Seconds after which a peer that takes nothing loses its slot to one that asks; a frame over a
slow line may take half of it."""

_log = structlog.get_logger(service="federation")


class LoRAFlightServer(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """The catalogue of one node, for anybody who may connect.

    Bound when it is made; calls are answered, in threads of gRPC's, from `start` on. With
    `credentials` only peers of the same federation connect; without them nothing but a loopback
    address is bound. No call takes a path or tells one: cards are known by digest and name, files
    by the catalogue alone. Uploads are refused by the `Admission`.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        node: str,
        key: str,
        host: str | None = None,
        port: int = 0,
        credentials: Credentials | None = None,
        hosts: Callable[[], Sequence[str]] = lambda: (),
        slots: Slots | None = None,
        egress: Bucket | None = None,
    ) -> None:
        """`node` and `key`, its public key, are told as `health`; `hosts` gives the addresses that
        peers should connect to, for descriptions. Raises `ServerError`."""
        host = host or (LOOPBACK if credentials is None else EVERYWHERE)
        if credentials is None and not is_loopback(host):
            raise ServerError(
                f"without certificates only a loopback address is bound, not {host}: let a "
                "federation authority issue some, or leave federation.host unset"
            )
        options: dict[str, Any] = {}
        if credentials is not None:
            options = {
                "tls_certificates": [(credentials.certificate, credentials.key)],
                "verify_client": True,
                "root_certificates": credentials.authority,
            }
        self._catalogue = catalogue
        self._node = node
        self._key = key
        self.host = host
        self._tls = credentials is not None
        self._hosts = hosts
        self._slots = slots or Slots(16, 4, stall=STALL)
        self._egress = egress or Bucket(0)
        self._stopping = threading.Event()
        self._admission = Admission()
        endpoint = Endpoint(host, port, credentials is not None)
        try:
            # gRPC takes calls as soon as this is done.
            super().__init__(endpoint.uri, middleware=self._admission.named, **options)
        except (pa.ArrowException, OSError) as error:
            raise ServerError(
                f"{host}:{port} cannot be bound: it is in use, or not ours"
            ) from error

    def start(self) -> None:
        """Answer from now on.

        Flight's own `serve` does nothing but wait, and takes the process's signals to itself
        meanwhile: they would not come through before the last peer has read all.
        """
        self._admission.closed = None

    def stop(self) -> None:
        """Cut what is being transferred; a peer that reads no more is not waited for long."""
        self._admission.closed = "this node stops"
        self._stopping.set()
        closing = threading.Thread(target=self.shutdown, name="flight-stop", daemon=True)
        closing.start()
        closing.join(STOP_SECONDS)

    @property
    def transfers(self) -> int:
        """Cards that are being served now."""
        return self._slots.held

    # What peers call --------------------------------------------------------------------------

    @answering
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """Every card on offer; `criteria` is empty, a name or a digest."""
        wanted = criteria.decode("utf-8", "replace")
        offers = self._catalogue.offers()
        if wanted:
            offers = tuple(o for o in offers if wanted in (o.card.name, o.card.digest))
        uris = self._uris()
        return iter([self._described(offer, uris) for offer in offers])

    @answering
    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """A card by name, `name@version` or digest: its description, its ticket, its true size."""
        return self._described(self._offer(_words_of(descriptor)), self._uris())

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """The layout of the slices, whatever the descriptor: of an error that is raised here
        Flight tells the traceback, even of its own."""
        return flight.SchemaResult(SLICES)

    @answering
    def do_get(self, context: Any, ticket: Any) -> Any:
        """A card's file as slices of its mapping, or what the other tickets ask for."""
        text = bytes(ticket.ticket)
        if text == protocol.HEALTH.encode():
            return _stream(EMPTY, iter([_framed(self._health())]))
        if text == protocol.SKILLS.encode():
            cards = (msgspec.json.encode(offer.card) for offer in self._catalogue.offers())
            return _stream(EMPTY, guarded(map(_framed, cards), "do_get"))
        wanted = Ticket.parse(text)
        if wanted is None:
            raise flight.FlightServerError("the ticket is none of this node's")
        offer = self._offer(wanted.digest)
        if wanted.offset > offer.card.bytes:
            raise flight.FlightServerError("the ticket begins beyond the end of the card")
        slices = guarded(self._slices(offer, wanted.offset, holder_of(context)), "do_get")
        if wanted.frames:
            return _stream(EMPTY, ((NOTHING, part) for part in slices))
        return _stream(SLICES, map(_as_column, slices))

    @answering
    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """The actions and what they answer."""
        return [
            ("health", "How this node is, as JSON."),
            ("signature", "Body: a name or a digest. The card's signed manifest, as JSON."),
        ]

    @answering
    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """`health`, or the `signature` of a card."""
        if action.type == "health":
            return iter([flight.Result(self._health())])
        if action.type == "signature":
            body = b"" if action.body is None else action.body.to_pybytes()
            card = self._offer(body.decode("utf-8", "replace")).card
            answer = {
                "digest": card.digest,
                "signer": card.signer,
                "signature": card.signature,
                "manifest": manifest(card).decode(),
            }
            return iter([flight.Result(msgspec.json.encode(answer))])
        raise flight.FlightServerError("there is no such action: health, signature")

    # How it is done ---------------------------------------------------------------------------

    def _health(self) -> bytes:
        return msgspec.json.encode(
            Health(
                node=self._node,
                key=self._key,
                version=protocol.VERSION,
                cards=len(self._catalogue.offers()),
                revision=self._catalogue.revision,
            )
        )

    def _offer(self, text: str) -> Offer:
        offer = self._catalogue.find(text)
        if offer is None:
            raise flight.FlightServerError(*_NOT_ON_OFFER)
        return offer

    def _described(self, offer: Offer, uris: Sequence[str]) -> Any:
        card = offer.card
        ticket = flight.Ticket(Ticket(card.digest).encode())
        endpoint = flight.FlightEndpoint(ticket, [flight.Location(uri) for uri in uris])
        return flight.FlightInfo(
            SLICES,
            flight.FlightDescriptor.for_path(card.digest),
            [endpoint],
            total_records=-(-card.bytes // FRAME),
            total_bytes=card.bytes,
            ordered=True,
            app_metadata=msgspec.json.encode(card),
        )

    def _uris(self) -> list[str]:
        hosts = [self.host] if is_loopback(self.host) else list(self._hosts())
        # An address with a scope means nothing elsewhere, and Flight cannot write it.
        return [Endpoint(host, self.port, self._tls).uri for host in hosts if "%" not in host]

    def _slices(self, offer: Offer, offset: int, holder: str) -> Iterator[pa.Buffer]:
        """The file from `offset` on, without a copy; a slot is held until the last one is taken."""
        digest = offer.card.digest
        with self._slots.hold(holder) as hold:
            try:
                with pa.memory_map(str(self._catalogue.file(offer))) as file:
                    whole = file.read_buffer()
            except FileNotFoundError:
                # The manager tells of it anew when it is back.
                self._catalogue.remove(digest)
                _log.error("a card on offer is gone from the store", digest=digest)
                raise flight.FlightServerError(*_NOT_ON_OFFER) from None
            except (OSError, LoRAError, pa.ArrowException) as error:
                _log.error("a card on offer cannot be read", digest=digest, why=str(error))
                raise flight.FlightServerError("that card cannot be read now") from None
            if whole.size != offer.card.bytes:
                _log.error("a card on offer has another size", digest=digest, bytes=whole.size)
                raise flight.FlightServerError("that card cannot be read now")
            for start in range(offset, whole.size, FRAME):
                part = whole.slice(start, min(FRAME, whole.size - start))
                pause = self._egress.take(part.size)
                if not self._slots.progress(hold, pause):
                    raise flight.FlightUnavailableError("other transfers were waiting: too slow")
                if pause:
                    self._stopping.wait(pause)
                if self._stopping.is_set():
                    raise flight.FlightUnavailableError("this node stops")
                yield part


def _stream(schema: pa.Schema, batches: Iterator[Any]) -> Any:
    return flight.GeneratorStream(schema, batches)


def _framed(frame: bytes) -> tuple[pa.RecordBatch, pa.Buffer]:
    return NOTHING, pa.py_buffer(frame)


def _as_column(part: pa.Buffer) -> pa.RecordBatch:
    ends = pa.py_buffer(np.array([0, part.size], np.int64))
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, part])
    return pa.RecordBatch.from_arrays([column], schema=SLICES)


def _words_of(descriptor: Any) -> str:
    """A descriptor's one path element, or its command."""
    parts = list(descriptor.path or ()) or [descriptor.command or b""]
    if len(parts) != 1:
        raise flight.FlightServerError("a descriptor names one skill, in one part")
    return bytes(parts[0]).decode("utf-8", "replace")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
