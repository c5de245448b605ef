"""What a cluster's streams hold in the end: the events, the dead letters, and every state that
every group ever had, of which the turns of each lease are read.

A group is one message, changed by compare and set: the stream's order is the order in which its
changes became true. The server is told to keep them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

import schemas
from bus.nats.group import Group, Row
from bus.nats.letters import GROUP, SEQUENCE, WHY
from bus.nats.names import Names
from tests.torture.cluster.servers import SERVERS
from tests.torture.journal.history import Dead, Kept, Turn

__all__ = [
    "NAMES",
    "apart",
    "dead_letters",
    "install",
    "kept",
    "plant",
    "state",
    "stored",
    "turns",
]

NAMES = Names("consonance")
INSISTING = 60.0
"""Seconds for which the servers are asked again: who leads may change at any question."""
ANSWER, PAUSE = 5.0, 0.2
"""Seconds for one answer, and between two questions."""
BATCH = 500
"""Messages that are asked for at once: more than the client holds would be dropped."""
_READER = {
    "deliver_policy": "all",
    "ack_policy": "none",
    "inactive_threshold": 60 * 10**9,
    "num_replicas": 1,
    "mem_storage": True,
}
_ALONE = {"leader": "alone"}
"""Of a server that is in no cluster, which need not say so."""
_GROUP = msgspec.json.Decoder(Group).decode


async def _asked(client: Client, verb: str, **body: Any) -> dict[str, Any]:
    """The answer to what may be asked twice; raises `TimeoutError` where none comes at all."""
    end = time.monotonic() + INSISTING
    while True:
        trouble: object
        try:
            answer = await client.request(
                f"$JS.API.{verb}", json.dumps(body).encode(), timeout=ANSWER
            )
        except (TimeoutError, nats.errors.Error) as e:
            trouble = repr(e)
        else:
            found: dict[str, Any] = json.loads(answer.data)
            if "error" not in found:
                return found
            trouble = found["error"]
        if time.monotonic() > end:
            raise TimeoutError(f"{verb} was not answered in {INSISTING:g} s: {trouble}")
        await asyncio.sleep(PAUSE)


async def install(client: Client) -> None:
    """Have every state of every group kept, from now on."""
    config = (await _asked(client, f"STREAM.INFO.{NAMES.groups}"))["config"]
    config["max_msgs_per_subject"] = -1
    await _asked(client, f"STREAM.UPDATE.{NAMES.groups}", **config)


async def plant(client: Client, subject: str, raw: bytes) -> None:
    """Have a stream take what no bus would publish; it takes one message of a subject."""
    end = time.monotonic() + INSISTING
    while True:
        try:
            await client.jetstream().publish(subject, raw, timeout=ANSWER)
        except nats.js.errors.APIError as e:
            if "per subject" in (e.description or ""):  # it has it: the answer was lost
                return
            trouble: Exception = e
        except (TimeoutError, nats.errors.Error) as e:
            trouble = e
        else:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"{subject} was not taken in {INSISTING:g} s") from trouble
        await asyncio.sleep(PAUSE)


def apart(stream: str, counts: Mapping[str, int]) -> list[str]:
    """A sentence where the servers do not all have the same of a stream, by their counts."""
    if set(counts) == set(SERVERS) and len(set(counts.values())) == 1:
        return []
    return [f"servers: of {stream} they have {dict(counts)} messages"]


async def stored(client: Client, stream: str) -> tuple[list[Msg], dict[str, int]]:
    """Every message of a stream as its leader has it, in order; how many each server has of it.

    A server that is behind is given time; one that does not answer at all is in no count.
    """
    end = time.monotonic() + INSISTING
    while True:
        found, counts = await _stored(client, stream, end)
        if len(set(counts.values())) == 1 or time.monotonic() > end:
            return found, counts
        await asyncio.sleep(1.0)


async def _stored(client: Client, stream: str, end: float) -> tuple[list[Msg], dict[str, int]]:
    """As it is now. What reads is placed on any server: as often as it takes until each was met."""
    about = (await _asked(client, f"STREAM.INFO.{stream}")).get("cluster", _ALONE)
    servers = {about["leader"], *(each["name"] for each in about.get("replicas", ()))}
    found: list[Msg] = []
    counts: dict[str, int] = {}
    while set(counts) != servers and time.monotonic() < end:
        made = await _asked(client, f"CONSUMER.CREATE.{stream}", stream_name=stream, config=_READER)
        server, count = made.get("cluster", about)["leader"], made["num_pending"]
        if server in counts:
            continue
        with contextlib.suppress(TimeoutError):  # it lost its place: another one reads
            if server == about["leader"]:
                found = await _read(client, f"{stream}.{made['name']}", count)
            counts[server] = count
    return found, counts


async def _read(client: Client, consumer: str, count: int) -> list[Msg]:
    """Raises `TimeoutError` where not all of it comes."""
    inbox = client.new_inbox()
    replies = await client.subscribe(inbox)
    found: list[Msg] = []
    try:
        while len(found) < count:
            batch = min(BATCH, count - len(found))
            asked = json.dumps({"batch": batch, "no_wait": True}).encode()
            await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{consumer}", asked, inbox)
            for _ in range(batch):
                message = await replies.next_msg(ANSWER)
                if "Status" in (message.headers or {}):
                    raise TimeoutError(f"{len(found)} of {count} came: {message.headers}")
                found.append(message)
    finally:
        await replies.unsubscribe()
    return found


async def state(client: Client, group: str) -> Group:
    """What a group has taken and not ended now: what came too late may well be its last message."""
    reader, name = client.jetstream(), NAMES.group(group)
    last = await reader.get_last_msg(NAMES.groups, name)
    found = Group()
    head = at = _GROUP(last.data or b"{}").base
    while at < (last.seq or 0):
        each = await reader.get_msg(NAMES.groups, seq=at + 1, subject=name, next=True)
        at = each.seq or 0
        now_is = _GROUP(each.data or b"{}")
        if now_is.base == head:
            found, head = now_is, at
    return found


def kept(messages: Sequence[Msg]) -> list[Kept]:
    """The journal's events."""
    heads: dict[str, int] = {}
    found = []
    for message in messages:
        about, kind = schemas.header(message.data), NAMES.kind(message.subject)
        number = message.metadata.sequence.stream
        found.append(Kept(number, kind, about.id, heads.get(kind, 0), about.causationid))
        heads[kind] = number
    return found


def dead_letters(messages: Sequence[Msg]) -> dict[tuple[str, int], Dead]:
    """By group and sequence."""
    found = {}
    for message in messages:
        about = message.headers or {}
        group = unquote(about[GROUP])
        letter = Dead(group, schemas.header(message.data).id, unquote(about[WHY]))
        found[group, int(about[SEQUENCE])] = letter
    return found


def turns(
    messages: Sequence[Msg], dead: Mapping[tuple[str, int], Dead], visibility: float
) -> list[Turn]:
    """What became of every lease, by the differences between one state and the next."""
    found: list[Turn] = []
    before: dict[str, dict[int, Row]] = {}
    heads: dict[str, int] = {}
    for message in messages:
        group = unquote(message.subject.removeprefix(NAMES.group("")[:-1]))
        if not message.data or group.startswith("@"):
            continue
        now_is = _GROUP(message.data)
        if now_is.base != heads.get(group, 0):  # of a state that had a successor already
            continue
        heads[group] = message.metadata.sequence.stream
        rows = {row.sequence: row for row in now_is.rows}
        was = before.get(group, {})
        before[group] = rows

        def note(
            what: str, row: Row, lease: str, at: float, until: float, group: str = group
        ) -> None:
            name = f"{lease}.{group}" if lease else None
            turn = Turn(len(found), what, group, row.sequence, row.attempt, name, at, until)
            found.append(turn)

        for sequence, old in was.items():
            now = rows.get(sequence)
            if now is not None and now.lease != old.lease and old.lease:
                at = now.due - visibility if now.lease else now.due
                note(_back(old, now), old, old.lease, at, old.due)
            elif now is None and not old.dead:
                ended = "dead" if (group, sequence) in dead else "ack" if old.lease else "gone"
                note(ended, old, old.lease, 0.0, old.due)
        for sequence in sorted(rows):
            now, former = rows[sequence], was.get(sequence)
            if now.lease and (former is None or now.lease != former.lease):
                note("again" if former else "fresh", now, now.lease, 0.0, now.due)
    return found


def _back(old: Row, now: Row) -> str:
    """Why a lease ended whose event the group still has."""
    if now.dead:
        return "dead"
    if now.lapsed > old.lapsed:
        return "lapse"
    return "nack" if now.failed > old.failed else "back"
