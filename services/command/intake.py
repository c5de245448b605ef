"""Feedback as JSON lines: checked one by one, journaled by the handful, each once."""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from bus import Bus, Refused, TooLarge
from schemas import DomainForget, Event, FeedbackGiven, derived_id
from services.command.errors import InputRefused
from services.command.past import from_place

__all__ = ["Intake", "Line", "Summary", "piece_of"]

SOURCE: Final = "/consonance/feedback"
"""The same for every run, so that the journal recognises a line that it has already."""

HANDFUL: Final = 100
HANDFUL_BYTES: Final = 2 << 20
TOLD: Final = 20
"""Refused lines that are told one by one."""


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of a file of feedback."""

    query: str
    relevant: tuple[str, ...]
    irrelevant: tuple[str, ...] = ()
    domain: str | None = None
    served: tuple[str, ...] | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the lines."""

    lines: int
    journaled: int
    """Given now."""
    known: int
    """In the journal already, from an earlier run."""
    refused: int


def piece_of(line: Line, domain: str | None) -> FeedbackGiven:
    """The piece of feedback; raises `InputRefused` where nothing can be learned from it."""
    if not line.query.strip():
        raise InputRefused("query is empty")
    if not any(map(str.strip, line.relevant + line.irrelevant)):
        raise InputRefused("no passage is relevant or irrelevant: nothing can be learned from it")
    try:
        return msgspec.convert(
            {
                "query": line.query,
                "relevant": line.relevant,
                "irrelevant": line.irrelevant,
                "domain": line.domain or domain,
                "served": line.served,
            },
            FeedbackGiven,
        )
    except msgspec.ValidationError as error:
        raise InputRefused(_wrong_name(str(error), line, domain)) from error


class Intake:
    """`add` every line, `flush` at the end; lines that are refused are told and passed over."""

    def __init__(self, bus: Bus, domain: str | None, *, say: Callable[[str], None]) -> None:
        self.lines = 0
        self.journaled = 0
        self.known = 0
        self.refused = 0
        self._bus = bus
        # Over tcp a key speaks below its own name, and so does what it gives.
        self._source = f"/{bus.source.strip('/').partition('/')[0]}/feedback"
        self._domain = domain
        self._say = say
        self._head: int | None = None
        self._forgotten: dict[str, str] = {}
        """The last order to forget a domain: what is given after it is given anew."""
        self._seen: Counter[bytes] = Counter()
        self._waiting: list[tuple[int, Event[FeedbackGiven]]] = []
        self._size = 0

    @property
    def told(self) -> str:
        """What became of the lines, in a sentence."""
        known = f", {self.known:,} were known already" if self.known else ""
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{self.lines:,} lines: {self.journaled:,} journaled{known}{refused}"

    def summary(self) -> Summary:
        """The same for programs."""
        return Summary(
            lines=self.lines,
            journaled=self.journaled,
            known=self.known,
            refused=self.refused,
        )

    async def add(self, raw: bytes) -> None:
        """Take one line; a blank one is none. Raises `BusError`."""
        self.lines += 1
        if not raw.strip():
            return
        try:
            piece = piece_of(_parsed(raw), self._domain)
        except InputRefused as error:
            self._refuse(self.lines, str(error))
            return
        await self._begin()
        self._waiting.append((self.lines, self._event(piece)))
        self._size += len(raw)
        if len(self._waiting) >= HANDFUL or self._size >= HANDFUL_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Journal what waits; on return it cannot be lost any more. Raises `BusError`."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if not waiting:
            return
        try:
            self._count(await self._bus.publish(*(event for _, event in waiting)))
        except TooLarge:
            # All or none: the line at fault is found by giving each alone.
            for number, event in waiting:
                try:
                    self._count(await self._bus.publish(event))
                except Refused as error:
                    self._refuse(number, str(error))

    async def _begin(self) -> None:
        if self._head is None:
            async for event in from_place(self._bus, (DomainForget,), 0):
                self._forgotten[event.data.domain] = event.id
            self._head = max((await self._bus.heads()).values(), default=0)

    def _count(self, sequences: tuple[int | None, ...]) -> None:
        known = sum(number is not None and number <= (self._head or 0) for number in sequences)
        self.known += known
        self.journaled += len(sequences) - known

    def _refuse(self, number: int, reason: str) -> None:
        self.refused += 1
        if self.refused <= TOLD:
            self._say(f"line {number} is refused: {reason}")
        elif self.refused == TOLD + 1:
            self._say("more lines are refused; they are counted at the end")

    def _event(self, piece: FeedbackGiven) -> Event[FeedbackGiven]:
        """An event whose id is that of the piece; equal pieces are told apart by their order.

        The journal knows the ids of what it has forgotten, too: those of a domain that was
        forgotten are others from then on.
        """
        order = self._forgotten.get(piece.domain or "", "")
        digest = hashlib.sha256(msgspec.json.encode(piece) + order.encode()).digest()
        self._seen[digest] += 1
        name = derived_id(SOURCE, digest.hex(), piece.type, self._seen[digest])
        return Event(data=piece, source=self._source, id=name)


def _parsed(raw: bytes) -> Line:
    """Raises `InputRefused`."""
    try:
        return msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputRefused(_reason(error)) from error


def _reason(error: Exception) -> str:
    """msgspec's message, with the nearest field where a name is unknown."""
    text = str(error)
    if "unknown field" in text:
        name = text.partition("unknown field `")[2].partition("`")[0]
        near = difflib.get_close_matches(name, Line.__struct_fields__, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {_FIELDS}"
        return f"{name!r} is no field of feedback; {hint}"
    return text.replace("Expected", "expected", 1)


def _wrong_name(text: str, line: Line, domain: str | None) -> str:
    """What is wrong where everything is text: one of the two that have a form of their own."""
    if "$.domain" in text:
        return (
            f"{line.domain or domain!r} is no domain: small letters, digits, '.', '_' and '-', "
            "64 at most"
        )
    return "served are digests, each sha256: and 64 hex digits"


_FIELDS: Final = ", ".join(Line.__struct_fields__)
