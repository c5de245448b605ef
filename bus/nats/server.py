"""What is asked of JetStream, with its answers as values and its errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from bus.errors import BusError, DiskFull, NotPermitted, ReadOnly, Refused, TooLarge, Unreachable
from bus.nats.connection import Connection

__all__ = ["SETTLE", "Known", "Moved", "Server", "Stored", "StreamState", "Stretch"]

API = "$JS.API"
SETTLE = 0.1
"""Seconds between two attempts while the servers have no leader, or JetStream starts."""
PAGE_BYTES = 8 * 2**20
IDLE = 10
"""Seconds that the server keeps what reads a page for somebody who is gone."""

NOT_FOUND = 10037
_MOVED = frozenset({10071, 10164})
_UNREADY = frozenset({10008, 10009, 10004, 10005, 10041, 10118})
"""What passes by itself; 10005: the servers that start together do not all know of each other."""
_FULL = frozenset({10023, 10028, 10047, 10002})
_STORE_FAILED = 10077


class Known(Exception):
    """The subject is taken: the same event is stored already."""


class Moved(Exception):
    """The subject's last message is not the one that was expected."""


class Stored(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    body: bytes
    headers: Mapping[str, str]
    time: datetime | None = None
    """When the server stored it, by its clock; None where a page was read."""


class Stretch(NamedTuple):
    """Messages of one subject filter, in order."""

    messages: list[Stored]
    whole: bool
    """Whether there are no more."""


class StreamState(msgspec.Struct):
    """How far a stream goes."""

    first_seq: int = 0
    last_seq: int = 0
    messages: int = 0
    bytes: int = 0
    subjects: dict[str, int] = {}
    """Messages of each subject, where they were asked for."""


class _Error(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Message(msgspec.Struct):
    subject: str
    seq: int
    time: datetime
    data: bytes = b""
    hdrs: bytes = b""


class _Answer(msgspec.Struct):
    error: _Error | None = None
    message: _Message | None = None
    seq: int = 0
    state: StreamState = msgspec.field(default_factory=StreamState)
    config: dict[str, Any] = {}
    name: str = ""
    num_pending: int = 0


_decode = msgspec.json.Decoder(_Answer).decode
_encode = msgspec.json.Encoder().encode


class Server:
    """JetStream's API, as far as the journal needs it.

    Every method takes `end`, the loop's time until which it may try again, and raises
    `Unreachable`, `NotPermitted`, `Closed`, and `Refused` with what the server said.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def _ask(
        self, subject: str, body: bytes, end: float, headers: Mapping[str, str] | None = None
    ) -> _Answer:
        loop = asyncio.get_running_loop()
        while True:
            message = await self.connection.request(subject, body, end, headers)
            try:
                answer = _decode(message.data)
            except msgspec.DecodeError as e:
                raise Refused(f"the NATS server's answer to {subject} cannot be read: {e}") from e
            error = answer.error
            if error is None or not (error.err_code in _UNREADY or error.code == 408):
                return answer
            if loop.time() + SETTLE >= end:
                raise Unreachable(f"JetStream is not ready: {error.description}")
            await asyncio.sleep(SETTLE)

    async def api(self, verb: str, end: float, **body: Any) -> _Answer:
        """Ask the API; what it refuses is in `error`."""
        return await self._ask(f"{API}.{verb}", _encode(body) if body else b"", end)

    # one message

    async def store(
        self,
        subject: str,
        body: bytes,
        end: float,
        *,
        headers: Mapping[str, str] | None = None,
        expected: int | None = None,
    ) -> int:
        """Its sequence, once the stream has it; raises `Known`, `Moved`, `DiskFull`, `TooLarge`.

        `expected`: the sequence of the subject's last message, 0 for none.
        """
        more = dict(headers or {})
        if expected is not None:
            more["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        answer = await self._ask(subject, body, end, more)
        if answer.error is not None:
            raise _not_stored(answer.error)
        return answer.seq

    async def get(self, stream: str, end: float, **which: Any) -> Stored | None:
        """One message: `seq`, `last_by_subj`, or `seq` and `next_by_subj`; None for none."""
        answer = await self.api(f"STREAM.MSG.GET.{stream}", end, **which)
        if answer.error is not None:
            if answer.error.err_code == NOT_FOUND:
                return None
            raise refused(answer.error)
        found = answer.message
        if found is None:
            raise Refused(f"the NATS server answered without the message of {stream}")
        return Stored(found.seq, found.subject, found.data, _headers(found.hdrs), found.time)

    async def last(self, stream: str, subject: str, end: float) -> Stored | None:
        """The last message of a subject, as its leader knows it."""
        return await self.get(stream, end, last_by_subj=subject)

    async def following(self, stream: str, subject: str, after: int, end: float) -> Stored | None:
        """The first message of a subject beyond a sequence."""
        return await self.get(stream, end, seq=after + 1, next_by_subj=subject)

    async def delete(self, stream: str, sequence: int, end: float) -> bool:
        """Delete a message and write over its bytes; False if it was gone."""
        answer = await self.api(f"STREAM.MSG.DELETE.{stream}", end, seq=sequence)
        if answer.error is None:
            return True
        if answer.error.code in (404, 500) and "no message" in answer.error.description:
            return False
        raise refused(answer.error)

    # a stream

    async def state(self, stream: str, end: float) -> StreamState:
        """How far a stream goes."""
        answer = await self.api(f"STREAM.INFO.{stream}", end)
        if answer.error is not None:
            raise refused(answer.error)
        return answer.state

    async def subjects(self, stream: str, subjects: str, end: float) -> list[str]:
        """The subjects that fit, and have a message."""
        answer = await self.api(f"STREAM.INFO.{stream}", end, subjects_filter=subjects)
        if answer.error is not None:
            raise refused(answer.error)
        return list(answer.state.subjects)

    async def count(self, stream: str, subject: str, after: int, end: float) -> int:
        """Messages of a subject beyond a sequence, as whichever server reads knows them."""
        made = await self._reader(stream, subject, after, end)
        self._done_with(stream, made.name)
        return made.num_pending

    async def stretch(
        self, stream: str, subject: str, after: int, limit: int, end: float
    ) -> Stretch:
        """Up to `limit` messages of a subject beyond a sequence, and about 8 MiB.

        All that was acknowledged before: any of several servers may read it, and one that is
        behind is asked again.
        """
        while True:
            last = await self.last(stream, subject, end) if self.connection.clustered else None
            found = await self._stretch(stream, subject, after, limit, end)
            if found is not None:
                far = found.messages[-1].sequence if found.messages else after
                if not found.whole or last is None or far >= last.sequence:
                    return found
                await asyncio.sleep(SETTLE)
            if asyncio.get_running_loop().time() >= end:
                raise Unreachable(f"a page of {stream} did not come in time")

    async def _stretch(
        self, stream: str, subject: str, after: int, limit: int, end: float
    ) -> Stretch | None:
        """As `stretch`; None where the server lost its place."""
        made = await self._reader(stream, subject, after, end)
        wanted = min(limit, made.num_pending)
        if not wanted:
            self._done_with(stream, made.name)
            return Stretch([], whole=True)
        inbox = self.connection.inbox()
        replies = await self.connection.subscribe(inbox)
        messages: list[Stored] = []
        size = 0
        try:
            await self.connection.publish(
                f"{API}.CONSUMER.MSG.NEXT.{stream}.{made.name}",
                _encode({"batch": wanted, "no_wait": True}),
                reply=inbox,
            )
            while len(messages) < wanted and size < PAGE_BYTES:
                left = end - asyncio.get_running_loop().time()
                message = await replies.next_msg(timeout=max(0.01, min(3.0, left)))
                if message.headers and "Status" in message.headers and not message.data:
                    if message.headers["Status"] in ("404", "408"):  # removed meanwhile
                        return Stretch(messages, whole=made.num_pending <= limit)
                    return None
                messages.append(
                    Stored(
                        message.metadata.sequence.stream,
                        message.subject,
                        message.data,
                        message.headers or {},
                    )
                )
                size += len(message.data)
        except TimeoutError:
            return None
        finally:
            await self.connection.unsubscribe(replies)
            self._done_with(stream, made.name)
        return Stretch(messages, whole=len(messages) == made.num_pending)

    async def _reader(self, stream: str, subject: str, after: int, end: float) -> _Answer:
        """What reads the messages of a subject beyond a sequence."""
        made = await self.api(
            f"CONSUMER.CREATE.{stream}",
            end,
            stream_name=stream,
            config={
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": after + 1,
                "ack_policy": "none",
                "filter_subject": subject,
                "inactive_threshold": IDLE * 10**9,
                "num_replicas": 1,
                "mem_storage": True,
            },
        )
        if made.error is not None:
            raise refused(made.error)
        return made

    def _done_with(self, stream: str, consumer: str) -> None:
        """It would go by itself; until then it costs the server a little."""
        task = asyncio.create_task(
            self.connection.publish(f"{API}.CONSUMER.DELETE.{stream}.{consumer}", b"")
        )
        task.add_done_callback(_ignore)


def _ignore(task: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()


def refused(error: _Error) -> BusError:
    """What the API's refusal is to us."""
    if error.err_code in _FULL:
        return DiskFull(f"JetStream is full: {error.description}")
    if error.code == 403:
        return NotPermitted(f"this user may not do that: {error.description}")
    return Refused(f"JetStream refused: {error.description} ({error.err_code})")


def _not_stored(error: _Error) -> Exception:
    if error.err_code in _MOVED:
        return Moved()
    if error.err_code == _STORE_FAILED:
        if "per subject" in error.description:
            return Known()
        if "maximum" in error.description or "space" in error.description:
            return DiskFull(f"the stream is full: {error.description}")
        return ReadOnly(f"the stream cannot be written: {error.description}")
    if error.err_code == 10054:
        return TooLarge(f"the stream does not take it: {error.description}")
    return refused(error)


def _headers(raw: bytes) -> dict[str, str]:
    lines = raw.decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def gathered(stretches: Sequence[Stretch], limit: int) -> tuple[list[Stored], bool]:
    """Several types' messages in one order, as far as all of them are known; and if that is all."""
    bound = min((s.messages[-1].sequence for s in stretches if not s.whole), default=None)
    every = sorted((m for s in stretches for m in s.messages), key=lambda m: m.sequence)
    kept = [m for m in every if bound is None or m.sequence <= bound]
    return kept[:limit], bound is None and len(kept) <= limit
