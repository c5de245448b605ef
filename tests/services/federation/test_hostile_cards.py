"""Card files by a trusted author who is careless or worse: fetched, refused, gone; others come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pytest

from lora.card import LoRAFormat
from lora.model import DEFAULT_SHA256
from schemas import BaseModelRef, SkillCard, SkillDiscovered, SkillInstalled, SkillRejected
from services.adapter_manager.service import AdapterManagerService
from services.federation import manifest, peers, trust
from services.federation import service as module
from services.federation.service import FederationService
from services.runtime.cards import describe
from tests.services.adapter_manager.test_service import Encoder
from tests.services.encoder.processes import Processes, settings, skill, until
from tests.services.federation.nodes import AUTHOR, Stage, signed, staged

SOUND = LoRAFormat.encode(skill("banking", description="x" * 50))
BOMB = 256 << 20
"""Bytes that a compressed file claims to have."""


def poisoned(value: float) -> bytes:
    """A sound card whose first matrix begins with another value."""
    batch = pa.ipc.open_file(pa.py_buffer(SOUND)).get_batch(0)
    matrix = batch.column(6)[0].as_buffer()
    at = SOUND.index(matrix.to_pybytes()[:64])
    return SOUND[:at] + np.float32(value).tobytes() + SOUND[at + 4 :]


def rewritten(
    change: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda batch: batch, **options: Any
) -> bytes:
    batch = change(pa.ipc.open_file(pa.py_buffer(SOUND)).get_batch(0))
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def inflated(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The matrices are zeros, very many of them."""
    size = BOMB // batch.num_rows
    ends = np.arange(batch.num_rows + 1, dtype=np.int64) * size
    zeros = pa.py_buffer(np.zeros(size * batch.num_rows, np.uint8))
    data = pa.Array.from_buffers(
        pa.large_binary(), batch.num_rows, [None, pa.py_buffer(ends.tobytes()), zeros]
    )
    return pa.record_batch([*batch.columns[:6], data], schema=batch.schema)


def without_a_column(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.drop_columns(["alpha"])


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "NaN": (lambda: poisoned(float("nan")), "NaN or infinity"),
    "infinity": (lambda: poisoned(float("inf")), "NaN or infinity"),
    "a compressed bomb": (lambda: rewritten(inflated, compression="zstd"), "compressed"),
    "another schema": (lambda: rewritten(without_a_column), "not those of a card"),
    "half": (lambda: SOUND[: len(SOUND) // 2], "not a whole Arrow IPC file"),
    "no Arrow": (lambda: b"#!/bin/sh\nrm -rf /\n" * 50, "does not begin as an Arrow IPC file"),
    "a header, then zeros": (lambda: SOUND[:200] + bytes(5000), "not a whole Arrow IPC file"),
}


class World:
    def __init__(self, root: Path, stage: Stage) -> None:
        self.processes = Processes(root)
        self.stage = stage
        trust.add(self.processes.state.keys / "trusted", AUTHOR.public)

    async def start(self) -> None:
        options = {
            "node": "here",
            "discovery": False,
            "peers": (f"127.0.0.1:{self.stage.port}",),
            "sync_interval": 0.05,
            "repeat": 0.1,
            "prefetch": "all",
        }
        self.ear = await self.processes.ear(SkillRejected, SkillInstalled, SkillDiscovered)
        await self.processes.start(AdapterManagerService)
        await Encoder(self.processes).start()
        await self.processes.start(FederationService, settings=settings(federation=options))

    def offer(self, data: bytes, **fields: Any) -> SkillCard:
        model = BaseModelRef(id="minilm", sha256=DEFAULT_SHA256)
        return self.stage.offer(signed(data, **{"base_model": model} | fields), data)

    def offer_sound(self) -> SkillCard:
        """A card that is what it says."""
        data = LoRAFormat.encode(skill("sound", seed=9))
        path = self.processes.state.root / "sound"
        path.write_bytes(data)
        return self.stage.offer(manifest.sign(describe(LoRAFormat.read(path)), AUTHOR), data)


@pytest.fixture(scope="module")
def server() -> Iterator[Stage]:
    with staged() as stage:
        yield stage


@pytest.fixture
async def world(
    server: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(module, "CALM", 0.01)
    monkeypatch.setattr(peers, "CALM", 0.01)
    server.reset()
    world = World(tmp_path, server)
    yield world
    await world.processes.aclose()


async def test_what_is_no_sound_card_is_rejected_once_and_takes_no_room(world: World) -> None:
    made = {what: make() for what, (make, _) in FILES.items()}
    before = psutil.Process().memory_info().rss
    offered = {
        what: world.offer(data, name=f"bad-{number}")
        for number, (what, data) in enumerate(made.items())
    }
    sound = world.offer_sound()
    await world.start()
    await world.ear.first(SkillRejected, len(FILES))
    installed = await world.ear.first(SkillInstalled)
    assert (installed.data.card, installed.data.peer) == (sound, "stage")
    reasons = {event.data.digest: event.data.reason for event in world.ear.of(SkillRejected)}
    for what, (_, reason) in FILES.items():
        assert reason in reasons[offered[what].digest], what
    assert psutil.Process().memory_info().rss - before < BOMB // 2, "nothing was inflated"

    def alone() -> bool:
        return world.processes.store.digests() == [sound.digest]

    await until(alone, "their files are gone")
    told = len(world.ear.of(SkillDiscovered))
    await until(lambda: len(world.ear.of(SkillDiscovered)) > told + 24, "offers are repeated")
    assert len(world.ear.of(SkillRejected)) == len(FILES)
    assert len(world.stage.asked) == len(FILES) + 1, "nothing was fetched twice"


async def test_words_that_the_file_does_not_bear_out_are_rejected(world: World) -> None:
    """What the author signed and what the author's file says must be one."""
    named = world.offer(SOUND, name="another-name")
    await world.start()
    rejected = await world.ear.first(SkillRejected)
    assert rejected.data.digest == named.digest
    assert "the event says name 'another-name', the file 'banking'" in rejected.data.reason


async def test_words_that_a_peer_has_changed_are_not_installed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """The signature covers which card it is; the rest comes from the card's own file."""
    sound = world.offer_sound()
    changed = msgspec.structs.replace(
        sound,
        description="\x1b[2J\x1b[31mERROR\r\nroot: all is lost\u202e",
        prototypes="!" * 1000,
        threshold=-1.0,
        target_modules=("../../etc",),
        metrics={"\n\x1b[0m": 1.0},
        parents=("sha256:" + "0" * 64,) * 50,
    )
    world.stage.offer(changed, world.stage.cards[sound.digest][1])
    await world.start()
    installed = await world.ear.first(SkillInstalled)
    assert installed.data.card == sound
    output = "".join(capsys.readouterr())
    assert "\x1b[2J" not in output
    assert "all is lost" not in output
