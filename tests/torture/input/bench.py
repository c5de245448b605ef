"""A real broker without sockets and threads: messages in, all that it says and keeps looked at.

A message is some parts, told apart by `PART`, and messages are told apart by `MESSAGE`. The first
part says where it comes in: `i` ingress, `j` the journal's requests (request id, verb, JSON), `s`
a subscription, `t` so many milliseconds go by. In a request `$0`, `$1`, … stand for leases granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

import schemas
from bus import protocol
from bus.broker import Broker
from bus.journal import Journal
from bus.journal.writer import Operation, Writer
from bus.settings import BrokerSettings
from tests.torture.input.target import hold

__all__ = ["MESSAGE", "PART", "played", "replayed"]

MESSAGE, PART = b"\x1e", b"\x1f"

SETTINGS = BrokerSettings(
    max_event_bytes=4096, retention_bytes=2**20, max_deliveries=2, free_lapses=1
)
CODES = {
    "malformed",
    "unknown_type",
    "too_large",
    "stale_lease",
    "consumed",
    "not_permitted",
    "overloaded",
}
_loop: list[asyncio.AbstractEventLoop] = []


class _Inline(Writer):
    """The journal's thread without the thread: each operation before the next message."""

    def __init__(self, journal: Journal, committed: Any) -> None:
        super().__init__(lambda: journal, committed)
        self._journal = journal
        self._waiting: deque[Operation] = deque()
        self._busy = False

    def submit(self, run: Any, done: Any, size: int = 0) -> None:
        self._waiting.append(Operation(run, done, size))
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting:
                operation = self._waiting.popleft()
                self.queued += 1
                self.queued_bytes += operation.size
                self._finish(self._attempt(self._journal, [operation]))
        finally:
            self._busy = False

    async def stop(self) -> None:
        """Nothing waits."""


class _Out:
    """In a socket's place: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []

    def send(self, message: Sequence[Any]) -> bool:
        self.sent.append([bytes(part) for part in message])
        return True

    def pause(self) -> None:
        """Nothing is read here."""

    resume = close = pause


class _Bench:
    def __init__(self, folder: Path) -> None:
        self.now = 1_800_000_000.0
        self.journal = Journal(None, SETTINGS, clock=lambda: self.now)
        self.broker = Broker(f"ipc://{folder}/bus", folder, SETTINGS)
        self.core = self.broker.core
        self.core.writer = _Inline(self.journal, self.core._committed)
        self.out, self.replies = _Out(), _Out()
        self.broker._egress, self.broker._journal = self.out, self.replies  # type: ignore[assignment]
        self.asked: Counter[bytes] = Counter()
        self.leases: list[str] = []
        self.taken = 0

    def message(self, parts: list[bytes]) -> None:
        before = len(self.replies.sent)
        self.now += 0.001
        match parts[0][:1]:
            case b"i":
                self.core.ingress(parts[1:])
            case b"s":
                self.broker._subscribed(parts[1:] or [b""])
            case b"t":
                self.now += (
                    min(int(parts[1]), 10**10) / 1000 if parts[1:2] and _digits(parts[1]) else 1
                )
                self.core._fell_due()
            case _:
                self._request(parts[1:])
        for reply in self.replies.sent[before:]:
            self._replied(reply)

    def _request(self, frames: list[bytes]) -> None:
        if len(frames) == 3:
            frames[2] = self._named(frames[2])
        self.asked[frames[0] if frames else b""] += 1
        before = len(self.replies.sent)
        self.broker._asked([b"peer", *frames])
        if len(frames) == 3 and frames[1] == b"erase":
            answers = self.replies.sent[before:]
            if answers and answers[-1][2] == protocol.OK:
                self._erased(protocol.parse_request(frames[1], frames[2]))

    def _named(self, body: bytes) -> bytes:
        for place, lease in enumerate(self.leases[:10]):
            body = body.replace(b"$%d" % place, lease.encode())
        return body

    def _replied(self, reply: list[bytes]) -> None:
        hold(len(reply) == 4 and reply[2] in (protocol.OK, protocol.ERROR), "no reply of ours")
        body = reply[3]
        if reply[2] == protocol.ERROR:
            error = msgspec.json.decode(body, type=protocol.Error)
            hold(error.code in CODES, f"the error {error.code!r}: {error.message}")
            hold("cannot do this" not in error.message, f"nobody foresaw it: {error.message}")
            hold(len(body) <= 4096, "the error repeats a long part of the request")
            return
        self.taken += 1
        found: Any = json.loads(body)
        if isinstance(found, dict) and "deliveries" in found:
            for granted in msgspec.json.decode(body, type=protocol.Deliveries).deliveries:
                schemas.decode(bytes(granted.event))
                self.leases.insert(0, granted.lease)

    def _erased(self, asked: Any) -> None:
        """No event that has these values to any reader is left."""
        rows = self.journal.connection.execute(
            "SELECT type, sequence, raw FROM events UNION ALL SELECT type, sequence, raw FROM dead"
        )
        for kind, sequence, raw in rows.fetchall():
            if kind in asked.types and sequence <= (2**63 if asked.upto is None else asked.upto):
                data = json.loads(raw)["data"]
                there = all(data.get(field) == value for field, value in asked.where.items())
                hold(not there, "an event that was to be erased is still there")

    def closing(self) -> None:
        """After the last message."""
        told = Counter(reply[1] for reply in self.replies.sent)
        for name, count in self.asked.items():
            hold(
                1 <= told[name] <= count, f"{told[name]} replies to {count} requests {name[:40]!r}"
            )
        for message in self.out.sent:
            self._emitted(message)
        self._kept()

    def _emitted(self, message: list[bytes]) -> None:
        hold(message, "an empty message")
        if message[0].startswith((protocol.PING, protocol.ECHO)):
            hold(sum(map(len, message)) <= 2048, "a large echo")
            return
        event = schemas.from_frames(message)
        self.taken += 1
        hold(len(message[1]) <= SETTINGS.max_event_bytes + 64, "a larger event than is taken")
        hold(json.loads(message[1])["id"] == event.id, "another reader sees another id")

    def _kept(self) -> None:
        hold(not self.journal.connection.in_transaction, "a transaction is open")
        total = 0
        rows = self.journal.connection.execute("SELECT sequence, type, size, raw FROM events")
        for sequence, kind, size, raw in rows.fetchall():
            total += size
            event = schemas.decode(raw)
            hold(size == len(raw), "a size that is not the event's")
            hold((event.sequence, event.type) == (sequence, kind), "it says another number or type")
            read: Any = json.loads(raw)
            hold(read["sequence"] == sequence, "another reader sees another number")
            hold(read["type"] == kind and read["id"] == event.id, "another reader sees another one")
            hold(event.data.lane is schemas.Lane.DURABLE, "a live event is journaled")
        hold(total == self.journal.retention.bytes, "the bytes kept are counted wrongly")
        hold(total <= SETTINGS.retention_bytes, "the cap does not hold")
        (dead,) = self.journal.connection.execute(
            "SELECT coalesce(max(length(reason)), 0) FROM dead"
        ).fetchone()
        hold(dead <= 4096, "a dead letter's reason has no bound")


def _digits(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 12


async def _play(data: bytes) -> bool:
    bench = _Bench(Path("/nowhere"))  # it is not entered: nothing is bound, nothing written
    with contextlib.closing(bench.journal):
        try:
            for message in data.split(MESSAGE)[:40]:
                bench.message(message.split(PART))
        finally:
            before = len(bench.replies.sent)
            await bench.core.aclose()
        for reply in bench.replies.sent[before:]:
            bench._replied(reply)
        bench.closing()
        return bench.taken > 0


def played(data: bytes) -> bool:
    """Feed the messages to a fresh broker; whether anything of them was taken."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
    return _loop[0].run_until_complete(_play(data))


def replayed(data: bytes, random: Random, change: Any) -> bytes:
    """The messages with one changed, doubled, moved or taken away; `change` does the first."""
    messages = data.split(MESSAGE)
    at = random.randrange(len(messages))
    match random.randrange(8):
        case 0:
            messages.insert(random.randrange(len(messages) + 1), messages[at])
        case 1 if len(messages) > 1:
            del messages[at]
        case 2:
            messages.append(b"t" + PART + b"%d" % random.choice([1, 40_000, 10**9]))
        case 3:
            parts = messages[at].split(PART)
            place = random.randrange(len(parts))
            parts[place : place + 1] = random.choice(
                [[], [parts[place]] * 2, [b""], [b"\xff" * 90]]
            )
            messages[at] = PART.join(parts)
        case _:
            messages[at] = PART.join(change(messages[at].split(PART)))
    return MESSAGE.join(messages)
