"""The three streams of a fleet: made where they are missing, looked at where they are there."""

from __future__ import annotations

import os
from typing import Any

from bus.errors import InvalidUrl, Refused, Unreachable
from bus.nats.names import Names
from bus.nats.server import Server, refused

__all__ = ["STREAMS", "make_streams"]

STREAMS = 3
STATES = 64
"""Of each group, that several servers keep: more than may be written at once."""
_NOT_FOUND = 10059
_IN_USE = 10058
_NO_JETSTREAM = (10039, 10076)
_NEEDED = ("subjects", "discard", "discard_new_per_subject", "max_msgs_per_subject", "republish")
_ONCE = ("discard_new_per_subject", "max_msgs_per_subject")
"""What keeps an event once. Where the last message counts, older ones may be kept, too."""


async def make_streams(server: Server, names: Names, end: float) -> bool:
    """Whether a stream was made; raises `Refused` where one is there that would not hold.

    Replicas come from `CONSONANCE_NATS_REPLICAS` (1), the bytes of the journal's stream from
    `CONSONANCE_NATS_BYTES` (no limit): only where a stream is made. What an operator changed
    later stays, as long as the promises can be kept with it.
    """
    replicas = _number("CONSONANCE_NATS_REPLICAS", 1)
    common: dict[str, Any] = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "duplicate_window": 10**8,  # nothing is told apart by it: the subject does that
    }
    once = {"discard": "new", "discard_new_per_subject": True, "max_msgs_per_subject": 1}
    fleet = names.fleet
    made = await _make(
        server,
        end,
        name=names.journal,
        subjects=[names.every],
        republish={"src": names.every, "dest": names.told()},
        max_bytes=_number("CONSONANCE_NATS_BYTES", -1),
        **once,
        **common,
    )
    made |= await _make(
        server,
        end,
        name=names.groups,
        subjects=[names.every_group],
        discard="old",
        max_msgs_per_subject=STATES if replicas > 1 else 1,
        **common,
    )
    made |= await _make(
        server, end, name=names.dead, subjects=[f"{fleet}.dead.*.*"], **once, **common
    )
    return made


async def _make(server: Server, end: float, **config: Any) -> bool:
    name = config["name"]
    found = await server.api(f"STREAM.INFO.{name}", end)
    made = False
    if found.error is not None and found.error.err_code == _NOT_FOUND:
        found = await server.api(f"STREAM.CREATE.{name}", end, **config)
        made = found.error is None
        if found.error is not None and found.error.err_code == _IN_USE:  # another was faster
            found = await server.api(f"STREAM.INFO.{name}", end)
    if found.error is not None:
        if found.error.err_code in _NO_JETSTREAM:
            raise Unreachable("JetStream is not enabled for this user's account")
        raise refused(found.error)
    for key in _NEEDED:
        if key in _ONCE and not config.get("discard_new_per_subject"):
            continue
        needed, there = config.get(key), found.config.get(key)
        if needed != there and (needed or there):
            raise Refused(
                f"the stream {name} has {key} = {there!r} and needs {needed!r}: it is somebody"
                " else's, or was changed"
            )
    return made


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise InvalidUrl(f"{variable} is {text!r}: expected a whole number above 0")
    return int(text)
