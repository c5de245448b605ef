"""A sample through real sockets: a broker in a process of its own, messages that are nearly right.

Afterwards it must still serve: an event is published, read and consumed over the same bus.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
import zmq

import bus
from schemas import FeedbackGiven
from tests.bus.kit import BrokerProcess, feedback, short_folder
from tests.torture.input import broker, journal
from tests.torture.input.bench import MESSAGE, PART
from tests.torture.input.target import hold

__all__ = ["exchanged"]

MEMORY = 400 << 20
"""Bytes by which the broker may grow while it is fed."""

GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(48)
"""How ZeroMQ's protocol begins."""


def exchanged(messages: int, random: Random, until: float = float("inf")) -> int:
    """Feed a real broker so many messages; how many went. Raises `Broken`."""
    with short_folder() as state:
        process = BrokerProcess(state)
        process.start()
        try:
            before = psutil.Process(process.pid).memory_info().rss
            count = _fed(state / "bus", messages, random, until)
            asyncio.run(_serves(process.url))
            grown = psutil.Process(process.pid).memory_info().rss - before
            hold(grown < MEMORY, f"the broker grew by {grown >> 20} MB")
        finally:
            code = process.stop()
        hold(code == 0, f"the broker ended with {code}")
    return count


def _fed(folder: Path, messages: int, random: Random, until: float) -> int:
    context = zmq.Context()
    count = 0
    try:
        ends = {b"i": context.socket(zmq.PUB), b"j": context.socket(zmq.DEALER)}
        ends[b"s"] = context.socket(zmq.XSUB)
        names = {b"i": "ingress", b"j": "journal", b"s": "egress"}
        for key, end in ends.items():
            end.linger = 2000
            end.connect(f"ipc://{folder}/{names[key]}.sock")
        seeds = [
            (target.mutate, seed)
            for target in (broker.TARGET, journal.TARGET)
            for seed in target.seeds()
        ]
        time.sleep(0.1)  # a PUB drops what it says before it is connected; nothing relies on it
        while count < messages and time.monotonic() < until:
            mutate, seed = random.choice(seeds)
            for message in mutate(seed, random).split(MESSAGE):
                kind, *parts = message.split(PART)
                end = ends.get(kind)
                if end is not None and parts:
                    with suppress(zmq.Again):
                        end.send_multipart(parts, zmq.DONTWAIT)
                    count += 1
            with suppress(zmq.Again):
                while True:
                    ends[b"j"].recv_multipart(zmq.DONTWAIT)
            if random.random() < 0.05:
                _scribbled(folder / f"{random.choice(list(names.values()))}.sock", random)
    finally:
        context.destroy()
    return count


def _scribbled(path: Path, random: Random) -> None:
    """Bytes that are no ZeroMQ, or begin as if they were."""
    with socket.socket(socket.AF_UNIX) as plain, suppress(OSError):
        plain.settimeout(0.5)
        plain.connect(os.fspath(path))
        greeting = GREETING if random.random() < 0.5 else b""
        plain.sendall(greeting + random.randbytes(random.choice([1, 64, 5000])))


async def _serves(url: str) -> None:
    async with await bus.connect(url, source="/test/after", patience=20.0) as client:
        event = feedback("after", source="/test/after")
        (sequence,) = await client.publish(event)
        hold(sequence, "an event got no number")
        page = await client.read((FeedbackGiven,), after=(sequence or 1) - 1)
        hold(any(one.id == event.id for one in page.events), "the event cannot be read")
