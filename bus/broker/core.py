"""The broker without its sockets: what comes in, what the journal answers, what goes out.

The ZeroMQ broker and the in-memory bus are thin shells around this one set of rules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

import schemas
from bus import protocol
from bus.access.rights import Grant
from bus.broker import operations
from bus.broker.legible import check_legible
from bus.broker.outstanding import CALLS, LEASES, RETRY_MS, Outstanding, weight
from bus.broker.waiting import Waiter, Waiters
from bus.errors import BusError, Damaged, NotPermitted, Overloaded, Refused, TooLarge
from bus.journal.journal import Entry, Journal
from bus.journal.writer import Committed, Writer
from bus.seldom import Seldom, shown
from bus.settings import BrokerSettings
from bus.sockets import PARTS
from schemas import EncodeFailed, EncodeRequested, Event

__all__ = ["Core", "Reply"]

SOURCE = "/broker/1"
Reply = Callable[[bytes, bytes], bool]
"""Sends a status and a body; False if the one who asked is gone."""

INCOMING = 16_384
"""Durable events from ingress, of one sender, that may be under way in the journal."""
SHED_MS = 1_000
"""Milliseconds after which a request that was dropped may come again."""
_log = logging.getLogger(__name__)


class Core:
    """One bus: validates ingress, journals durable events, answers the journal's requests.

    `emit` gets every message that goes out to subscribers, in order, in the event loop.
    """

    def __init__(
        self,
        emit: Callable[[Sequence[bytes]], None],
        *,
        path: Path | None = None,
        settings: BrokerSettings | None = None,
    ) -> None:
        self.settings = settings or BrokerSettings()
        self.emit = emit
        self.heads: dict[str, int] = {}
        """The last sequence of each type that was broadcast."""
        self.counters: dict[str, int] = dict.fromkeys(
            ("ingress", "broadcast", "appended", "duplicates", "refused", "dropped", "put_off"), 0
        )
        self._refusals = Seldom(_log)
        self.failure: BusError | None = None
        """Why the last group could not be written; None while the journal works."""
        self.failures = 0
        """Groups that could not be written."""
        self.writer = Writer(lambda: Journal(path, self.settings), self._committed)
        share = self.settings.writer_queue_bytes // 2
        self._asked = Outstanding(CALLS, share)
        self._incoming = Outstanding(INCOMING, share)
        self._waiters = Waiters(self._attempt)
        self._due: asyncio.TimerHandle | None = None
        self._due_at = float("inf")

    async def start(self) -> None:
        """Open the journal; raises what it raises."""
        await self.writer.start()
        self.writer.submit(lambda journal: journal.heads(), self._opened)
        self.writer.submit(lambda journal: setattr(journal.leases, "touched", True), _ignore)

    def _opened(self, heads: Any) -> None:
        for kind, head in heads.items() if isinstance(heads, dict) else ():
            self.heads[kind] = max(head, self.heads.get(kind, 0))  # its group may have appended

    async def aclose(self) -> None:
        """Answer who waits, finish what was submitted, close the journal."""
        self._waiters.close()
        if self._due is not None:
            self._due.cancel()
        await self.writer.stop()

    @property
    def congested(self) -> bool:
        """Whether the journal has enough to do, whoever asks."""
        return self.writer.queued_bytes > self.settings.writer_queue_bytes

    # ingress

    def ingress(self, message: Sequence[bytes], grant: Grant | None = None) -> None:
        """A message from a publisher: forwarded, journaled first if durable, or refused.

        `grant`: what the key may do under which it came; None where who comes in may do all.
        """
        self.counters["ingress"] += 1
        if message and message[0].startswith(protocol.PING):
            if sum(map(len, message)) <= 1024:
                self.emit(message)
            return
        try:
            if len(message) > 1 and len(message[1]) > self.settings.max_event_bytes:
                raise self._too_large(len(message[1]))
            if len(message) > PARTS:
                raise TooLarge(f"a message has at most {PARTS} frames")
            event = schemas.from_frames(message)
            check_legible(message[1])
            durable = event.data.lane is schemas.Lane.DURABLE
            if grant is not None:
                grant.check_event(event)
            if durable:
                sender = event.source if grant is None else grant.name
                if self.congested or self._incoming.full(sender, 1, len(message[1])):
                    self.counters["dropped"] += 1  # no receipt: its sender sends it again
                    return
            if grant is not None:
                grant.charge((event.type,))
                if event.type == EncodeRequested.type and (failed := grant.beyond(event)):
                    self._fail(event, failed)
                    return
            if not durable:
                self.counters["broadcast"] += 1
                self.emit(message)
                return
            if event.attachments:
                raise Refused(f"{event.type} is durable: attachments travel with live events only")
        except (schemas.SchemaError, BusError) as e:
            self._refuse(message[1] if len(message) > 1 else b"", e, grant)
            return
        except (ValueError, RecursionError) as e:  # JSON that is valid and absurd
            self._refuse(message[1], Refused(str(e)), grant)
            return
        raw = bytes(message[1])
        entry = Entry(event.type, event.source, event.id, raw)
        self._incoming.enter(sender, 1, len(raw))
        received = partial(self._received, entry, grant, sender)
        self.writer.submit(operations.append_ingress(entry), received, len(raw))

    def shed(self, message: Sequence[bytes], grant: Grant | None = None, *, told: bool) -> None:
        """Drop a message nearly unread, since more large ones come than can be taken.

        `told`: a request is answered; all else is sent again, or was promised to nobody.
        """
        self.counters["dropped"] += 1
        self._refusals.warning("dropped a message of %d bytes: too many", sum(map(len, message)))
        if not told or message[0] != EncodeRequested.type.encode() or len(message) < 2:
            return
        why = "too many large events come at once"
        for answer in schemas.refusals(
            bytes(message[1]), "overloaded", why, source=SOURCE, thorough=False
        ):
            if isinstance(answer.data, EncodeFailed) and (
                grant is None or grant.is_addressed(answer.to or "")
            ):
                failed = msgspec.structs.replace(
                    answer.data, code="overloaded", retry_after_ms=SHED_MS
                )
                self.emit(schemas.frames(msgspec.structs.replace(answer, data=failed)))

    def _received(self, entry: Entry, grant: Grant | None, sender: str, result: Any) -> None:
        self._incoming.leave(sender, 1, len(entry.raw))
        if isinstance(result, BusError):
            self._refuse(entry.raw, result, grant)
        elif result is not None:  # known before: its broadcast is the receipt that was missed
            self.counters["duplicates"] += 1
            self.emit([_type_of(result, entry.type).encode(), result])

    def _refuse(
        self, raw: bytes, error: schemas.SchemaError | BusError, grant: Grant | None
    ) -> None:
        self.counters["refused"] += 1
        answers = schemas.refusals(
            raw,
            _code(error),
            str(error),
            source=SOURCE,
            thorough=len(raw) <= self.settings.max_event_bytes,
        )
        if grant is not None:  # whose name it bears is told nothing of what others send
            answers = tuple(each for each in answers if grant.is_addressed(each.to or ""))
        told = shown(answers[0].to or "") if answers else "nobody"
        self._refusals.warning(
            "refused an event of %d bytes, told %s: %s", len(raw), told, shown(str(error))
        )
        for message in map(schemas.frames, answers):
            if len(message[1]) <= self.settings.max_event_bytes:  # it repeats names, however long
                self.emit(message)

    def _fail(self, event: Event[EncodeRequested], failed: EncodeFailed) -> None:
        """Answer a request in the router's stead; without `event.refused`, which would end it."""
        self.counters["refused"] += 1
        self._refusals.warning("refused a request: %s", shown(failed.message))
        to = event.data.reply_to
        answer = event.derive(failed, source=SOURCE, to=to)
        self.emit(schemas.frames(msgspec.structs.replace(answer, correlation_id=event.id)))

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(
            f"the event has {size} bytes, at most {self.settings.max_event_bytes} are taken"
        )

    # the journal's requests

    def request(
        self,
        key: tuple[bytes, bytes],
        verb: bytes,
        body: bytes,
        reply: Reply,
        grant: Grant | None = None,
    ) -> None:
        """Answer one request through `reply`, at once or later; `key` names asker and request.

        `grant`: what the asker may do; None for all.
        """
        asker = key[0] if grant is None else grant.name
        calls = weight(verb)
        why = (
            "the journal has too much to do"
            if self.congested
            else self._asked.full(asker, calls, len(body))
        )
        if why:
            self._put_off(reply, why)
            return
        try:
            asked = protocol.parse_request(verb, body)
            if grant is not None:
                asked = grant.check_request(asked)
            if isinstance(asked, protocol.Lease):
                _check_durable(asked.types)
                if self._waiters.full(key, asker):
                    self._put_off(reply, f"this client waits for leases {LEASES} times over")
                else:
                    self._waiters.add(Waiter(key, asker, asked, reply, grant))
                return
            run = self._operation(asked, verb, body, grant)
        except (schemas.SchemaError, BusError) as e:
            self.counters["refused"] += 1
            if isinstance(e, NotPermitted):
                self._refusals.warning("refused to %s: %s", shown(verb.decode("latin-1")), e)
            reply(protocol.ERROR, protocol.told(_code(e), str(e)))
            return
        except (ValueError, RecursionError) as e:  # JSON that is valid and absurd
            self.counters["refused"] += 1
            reply(protocol.ERROR, protocol.told("malformed", str(e)))
            return
        self._asked.enter(asker, calls, len(body))
        done = partial(self._answered, asker, calls, len(body), reply)
        self.writer.submit(run, done, len(body))

    def _answered(
        self, asker: bytes | str, calls: int, size: int, reply: Reply, result: Any
    ) -> None:
        self._asked.leave(asker, calls, size)
        _answer(reply, result)

    def _put_off(self, reply: Reply, why: str) -> None:
        self.counters["put_off"] += 1
        self._refusals.warning("put off a request to the journal: %s", why)
        reply(protocol.ERROR, protocol.told(Overloaded.code, why, RETRY_MS))

    def _operation(
        self, asked: protocol.Request, verb: bytes, body: bytes, grant: Grant | None
    ) -> operations.Operation:
        if isinstance(asked, protocol.Append):
            return operations.append(self._entries(asked.events, grant))
        if isinstance(asked, protocol.GroupsAsked | protocol.Drop):
            return operations.of_groups(asked, self._waiters.groups)
        receipt = blake2b(verb + b"\0" + body, digest_size=16).digest()
        if isinstance(asked, protocol.Ack):
            return operations.ack(asked.leases, self._entries(asked.publish, grant), receipt)
        return operations.of(asked, receipt, None if grant is None else grant.numbered)

    def _entries(self, raws: Sequence[msgspec.Raw], grant: Grant | None) -> list[Entry]:
        entries = []
        for raw in map(bytes, raws):
            if len(raw) > self.settings.max_event_bytes:
                raise self._too_large(len(raw))
            event = schemas.decode(raw)
            check_legible(raw)
            if event.data.lane is not schemas.Lane.DURABLE:
                raise Refused(f"{event.type} is live: the journal takes durable events only")
            if grant is not None:
                grant.check_event(event)
            entries.append(Entry(event.type, event.source, event.id, raw))
        if grant is not None:
            grant.charge([entry.type for entry in entries])
        return entries

    def withdraw(self, names: Collection[str]) -> None:
        """The rights of these keys are others now: who waits for a lease has to ask again."""
        self._waiters.withdraw(names)

    # leases that wait

    def _attempt(self, waiter: Waiter) -> None:
        asked = waiter.asked

        def run(journal: Journal) -> Any:
            return journal.leases.lease(
                asked.group, asked.types, asked.max, asked.visibility_ms / 1000, asked.start
            )

        self.writer.submit(run, partial(self._attempted, waiter))

    def _attempted(self, waiter: Waiter, result: Any) -> None:
        if isinstance(result, BusError):
            self._waiters.finish(waiter, protocol.ERROR, protocol.encode_error(result))
        elif result:
            granted = [protocol.Granted(r.lease, r.attempt, msgspec.Raw(r.raw)) for r in result]
            body = protocol.encode(protocol.Deliveries(granted))
            if not self._waiters.finish(waiter, protocol.OK, body):
                leases = [r.lease for r in result]
                self.writer.submit(lambda journal: journal.leases.release(leases), _ignore)
        else:
            self._waiters.idle(waiter)

    # after a commit

    def _told(self, failure: BusError | None) -> None:
        """Say what became of the journal, once for every change."""
        before, self.failure = self.failure, failure
        self.failures += failure is not None
        if str(failure) != str(before):
            if failure is None:
                _log.info("the journal is written again")
            else:
                _log.error("%s", failure)

    def retry(self) -> None:
        """Where the journal could not be written: see whether it can be now."""
        if self.failure is not None and not isinstance(self.failure, Damaged):
            self.writer.submit(lambda journal: journal.probe(), _ignore)

    def _committed(self, group: Committed) -> None:
        for event in group.events:
            self.heads[event.type] = event.sequence
            self.emit([event.type.encode(), event.raw])
        self.counters["appended"] += len(group.events)
        self.counters["broadcast"] += len(group.events)
        if group.failure is not None or group.wrote:  # reading tells nothing of writing
            self._told(group.failure)
        for done, result in group.results:
            try:
                done(result)
            except Exception:  # whose answer it is must not cost the others theirs
                _log.exception("an answer could not be given")
        if group.freed:
            self._waiters.wake(None)
        elif group.events:
            self._waiters.wake({event.type for event in group.events})
        if group.due_changed:
            self._arm(group.next_due)

    def _arm(self, due: float | None) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if due is not None:
            delay = max(0.0, due - datetime.now(UTC).timestamp()) + 0.002
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(min(delay, 3600.0), self._fell_due)

    def _fell_due(self) -> None:
        self.writer.submit(
            lambda journal: journal.leases.sweep(), lambda _: self._waiters.wake(None)
        )


def _type_of(raw: bytes, otherwise: str) -> str:
    """The type of a journaled event; an id may come again under another one."""
    try:
        return schemas.header(raw).type
    except schemas.SchemaError:  # journaled by a version that took what this one refuses
        return otherwise


def _code(error: schemas.SchemaError | BusError) -> str:
    return error.code if isinstance(error, schemas.SchemaError | Refused) else "malformed"


def _check_durable(types: Sequence[str]) -> None:
    for name in types:
        if schemas.payload_type(name).lane is not schemas.Lane.DURABLE:
            raise Refused(f"{name} is live: only durable events can be leased")


def _ignore(_: Any) -> None:
    return


def _answer(reply: Reply, result: Any) -> None:
    if isinstance(result, BusError):
        reply(protocol.ERROR, protocol.encode_error(result))
    else:
        reply(protocol.OK, result if isinstance(result, bytes) else protocol.encode(result))
