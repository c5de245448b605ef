"""A contestant in a process of its own, which sleeps while others run.

    python -m benchmarks.encode.child KIND SETTINGS

SETTINGS is JSON: the fields of `peers.Setting`, or, of the kind `fleet`, `bus` and `number`. Each
line of standard input is a `Task` in JSON; each line of standard output an answer to one. The
first line of output says that it is ready, or why it will never be.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.encode.peers import PEERS, Peer, Setting
from benchmarks.kit.child import die_with_parent

__all__ = ["Answer", "Task"]

Floats = npt.NDArray[np.float32]
Form = Literal["warm", "list", "clients", "blocks", "single"]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Texts, and how they are to be given."""

    form: Form
    """`warm`: get ready on them. `list`: all at once. `clients`: single texts, `size` at a time.
    `blocks`: one request a `size` texts, all at once. `single`: one after another, each timed."""
    texts: tuple[str, ...]
    size: int = 1
    out: str | None = None
    """File for the vectors, in NumPy's format."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How it went; times are `time.monotonic` seconds, the same clock in every process."""

    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    """Seconds of this process and all its threads."""
    each: tuple[float, ...] = ()
    """Seconds of each text of `single`."""
    note: str | None = None
    missing: str | None = None
    """Why it cannot run here."""


Encode = Callable[[Task, list[float]], Awaitable[Floats]]


def local(peer: Peer) -> Encode:
    """A model in this process; whatever the form, it gets the list, or one text after another."""

    async def encode(task: Task, each: list[float]) -> Floats:
        texts = list(task.texts)
        if task.form != "single":
            return peer.encode(texts)
        vectors = []
        for text in texts:
            start = time.perf_counter()
            vectors.append(peer.encode([text])[0])
            each.append(time.perf_counter() - start)
        return np.stack(vectors)

    return encode


def through_the_bus(client: Any) -> Encode:
    """Clients of a fleet: tasks that share the connection of `client`, a `FleetClient`."""

    async def encode(task: Task, each: list[float]) -> Floats:
        vectors: dict[int, Floats] = {}
        if task.form == "list":
            return np.asarray((await client.encode(task.texts, route="base")).vectors)
        size = task.size if task.form == "blocks" else 1
        parts = iter(range(0, len(task.texts), size))
        at_once = {"clients": task.size, "blocks": len(task.texts)}.get(task.form, 1)

        async def ask() -> None:
            for first in parts:
                start = time.perf_counter()
                part = task.texts[first : first + size]
                vectors[first] = (await client.encode(part, route="base")).vectors
                each.append(time.perf_counter() - start)

        await asyncio.gather(*(ask() for _ in range(at_once)))
        return np.concatenate([vectors[first] for first in sorted(vectors)])

    return encode


async def serve(encode: Encode, peer: Peer | None, say: Callable[[Answer], None]) -> None:
    """Answer task by task until standard input ends; it sleeps in between."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        task = msgspec.json.decode(line, type=Task)
        each: list[float] = []
        if task.form == "warm" and peer is not None:
            say(Answer(note=peer.warm(list(task.texts))))
            continue
        cpu, began = time.process_time(), time.monotonic()
        vectors = await encode(task, each)
        ended, cpu = time.monotonic(), time.process_time() - cpu
        if task.out is not None:
            np.save(task.out, np.asarray(vectors, np.float32))
        timed = tuple(each) if task.form == "single" else ()
        say(Answer(began=began, ended=ended, cpu=cpu, each=timed))


async def run(kind: str, given: dict[str, Any], say: Callable[[Answer], None]) -> None:
    """Get ready, say so, serve."""
    if kind == "fleet":
        import bus
        from services.runtime.client import FleetClient

        open_bus = await bus.connect(given["bus"], source=f"/benchmark/{given['number']}")
        async with open_bus:
            client = FleetClient(open_bus, deadline_ms=300_000, chunk=given.get("chunk", 64))
            say(Answer())
            await serve(through_the_bus(client), None, say)
        return
    try:
        paths = {name: Path(given[name]) for name in ("folder", "aside")}
        peer = PEERS[kind](Setting(**{**given, **paths}))
    except ImportError as error:
        say(Answer(missing=str(error)))
        return
    say(Answer())
    await serve(local(peer), peer, say)


def main(words: list[str]) -> None:
    """The process."""
    die_with_parent()  # the end of the pipe is not heard while texts are encoded
    # What libraries print goes to the log: this stream is for answers alone.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # what exporters deprecate is not ours

    def say(answer: Answer) -> None:
        answers.write(msgspec.json.encode(answer) + b"\n")

    asyncio.run(run(words[0], json.loads(words[1]), say))


if __name__ == "__main__":
    main(sys.argv[1:])
