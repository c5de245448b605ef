"""The journal's protocol: every verb, its JSON nearly right, in every order."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import schemas
from bus import protocol
from schemas import Event
from tests.torture.input.bench import MESSAGE, PART, played, replayed
from tests.torture.input.events import MOMENT, sample
from tests.torture.input.target import Target
from tests.torture.input.trees import mutated

__all__ = ["TARGET"]


def _durable() -> list[Any]:
    found = []
    for name, kind in schemas.catalogue().items():
        if kind.lane is schemas.Lane.DURABLE:
            event = Event(data=sample(kind), source="/test/1", id=f"id-{name}", time=MOMENT)
            found.append(json.loads(schemas.encode(event)))
    return found


def _asked(number: int, verb: str, **fields: Any) -> bytes:
    return PART.join([b"j", b"%d" % number, verb.encode(), json.dumps(fields).encode()])


def _seeds() -> list[bytes]:
    events = _durable()
    feedback = next(event for event in events if event["type"] == "feedback.given")
    forget = next(event for event in events if event["type"] == "domain.forget")
    types = ["feedback.given", "domain.forget"]
    append = _asked(1, "append", events=[feedback, forget])
    lease = _asked(2, "lease", group="g", types=types, max=2, visibility_ms=30_000, wait_ms=100)
    wait = b"t" + PART + b"40000"
    erase = _asked(9, "erase", types=types, where={"domain": "bank"}, upto=100)
    found = [
        [append, lease, _asked(3, "ack", leases=["$0", "$1"], publish=[forget]), erase],
        [append, lease, _asked(3, "nack", lease="$0", delay_ms=5, reason="no", dead=True), erase],
        [append, lease, _asked(3, "nack", lease="$0"), lease, _asked(4, "nack", lease="$0")],
        [append, lease, wait, lease, wait, lease, wait, _asked(4, "dead", action="retry")],
        [append, lease, _asked(3, "extend", lease="$0", visibility_ms=5), wait, lease],
        [append, lease, _asked(3, "defer", lease="$0", until="2030-01-01T00:00:00Z"), wait, lease],
        [append, _asked(3, "read", types=types, after=0, limit=10), _asked(4, "heads"), erase],
        [append, lease, _asked(3, "dead", action="drop", group="g", ids=[1]), erase],
        [append, lease, _asked(3, "groups"), _asked(4, "drop", group="g", force=True), lease],
        [lease, append, _asked(3, "lease", group="h", types=types, max=0, start="latest"), append],
        [PART.join([b"i", event["type"].encode(), json.dumps(event).encode()]) for event in events],
        [_asked(5, "append", events=events), lease, erase],
    ]
    return [MESSAGE.join(messages) for messages in found]


VALUES = [*protocol.REQUESTS, "$0", "$1", "feedback.given", "domain.forget", "g", "bank", "drop"]


def _mutate(data: bytes, random: Random) -> bytes:
    def change(parts: list[bytes]) -> list[bytes]:
        if random.random() < 0.1 and len(parts) > 2:
            parts[2] = random.choice(list(protocol.REQUESTS)).encode()
        else:
            parts[-1] = mutated(parts[-1], random, VALUES)
        return parts

    return replayed(data, random, change)


TARGET = Target(
    name="journal",
    about="the journal's protocol",
    seeds=_seeds,
    mutate=_mutate,
    check=played,
    weight=2.0,
)
