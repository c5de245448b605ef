"""A trusted author's peer whose cards are not what they should be, beside live traffic."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from lora.card import LoRAFormat
from lora.store import CardStore
from schemas import BaseModelRef, SkillCard, SkillInstalled, SkillRejected
from services.federation import manifest, trust
from services.federation.catalogue import Catalogue
from services.federation.identity import NodeKey
from services.federation.server import LoRAFlightServer
from services.runtime.cards import describe
from services.runtime.client import FleetClient
from tests.fleet import harness
from tests.fleet.cards import head

AUTHOR, STRANGER = NodeKey.generate(), NodeKey.generate()

CONFIG = """
[fleet]
workers = 1
[encoder]
threads = 1
[federation]
node = "taker"
discovery = false
prefetch = "all"
sync_interval = 0.5
repeat = 1.0
max_card_bytes = 1048576
peers = ["giver@127.0.0.1:{port}"]
"""


def whole(name: str, seed: int) -> bytes:
    return LoRAFormat.encode(head(name, seed))


def with_nan(data: bytes) -> bytes:
    """The last of its numbers is none."""
    spoiled = bytearray(data)
    wanted = np.frombuffer(data, np.uint8)
    matrices = head("nan", 3).modules["embedding"].b.tobytes()
    start = bytes(wanted).rindex(matrices[:64])
    spoiled[start : start + 4] = np.float32(np.nan).tobytes()
    return bytes(spoiled)


def compressed(data: bytes) -> bytes:
    """The same table in buffers that would inflate."""
    table = pa.ipc.open_file(data).read_all()
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def another_table() -> bytes:
    sink = io.BytesIO()
    table = pa.table({"name": ["../../etc/passwd"], "value": [1]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def flipped(data: bytes) -> bytes:
    spoiled = bytearray(data)
    for place in random.Random(4).sample(range(len(data)), 64):
        spoiled[place] ^= 0xFF
    return bytes(spoiled)


class Offers:
    """Cards with what is wrong about each, in a catalogue."""

    def __init__(self, folder: Path) -> None:
        self.catalogue = Catalogue(AUTHOR.public)
        self.reasons: dict[str, str] = {}
        self._folder = folder

    def add(
        self, name: str, data: bytes, reason: str, *, key: NodeKey = AUTHOR, **claims: object
    ) -> SkillCard:
        """Offer a file under the description of a sound card, signed; `claims` come before that."""
        path = self._folder / name
        path.write_bytes(data)
        sound = describe(CardStore(self._folder / "sound").put(head(name, 3)))
        words = {"digest": LoRAFormat.digest_of(path), "bytes": len(data)} | claims
        card = manifest.sign(msgspec.structs.replace(sound, **words), key)
        self.offer(card, path, reason)
        return card

    def offer(self, card: SkillCard, path: Path, reason: str) -> None:
        """Offer a card as it is."""
        self.catalogue.put(card, path)
        self.reasons[card.digest] = reason


@contextmanager
def poisoned(folder: Path) -> Iterator[tuple[Offers, SkillCard, int]]:
    """A peer with all that can be wrong, and one good card among it."""
    folder.mkdir()
    offers = Offers(folder)
    good = offers.add("good", whole("good", 3), "")
    offers.add("nan", with_nan(whole("nan", 3)), "NaN")
    offers.add("truncated", whole("truncated", 3)[:-3000], "Arrow")
    offers.add("compressed", compressed(whole("compressed", 3)), "compress")
    offers.add("schema", another_table(), "card")
    offers.add("garbage", random.Random(5).randbytes(20_000), "Arrow")
    offers.add("renamed", whole("somebody", 3), "name 'renamed'")
    offers.add("huge", whole("huge", 3), "1048576", bytes=64 << 20)
    offers.add("foreign", whole("foreign", 4), "model", base_model=_other_model())
    offers.add("stranger", whole("stranger", 5), "trust", key=STRANGER)
    altered = offers.add("altered", whole("altered", 6), "not those of its digest")
    (folder / "altered").write_bytes(flipped(whole("altered", 6)))
    forged = msgspec.structs.replace(altered, signature=good.signature, version=7)
    digest = "sha256:" + "5" * 64
    offers.offer(msgspec.structs.replace(forged, digest=digest), folder / "good", "signature")
    server = LoRAFlightServer(offers.catalogue, node="giver", key=AUTHOR.public)
    server.start()
    try:
        yield offers, good, server.port
    finally:
        server.stop()


def _other_model() -> BaseModelRef:
    return BaseModelRef(id="another/model", sha256="0" * 64)


@pytest.mark.timeout(120)
async def test_whatever_a_peer_sends_is_refused_with_a_reason_while_requests_are_answered(
    tmp_path: Path,
) -> None:
    with poisoned(tmp_path / "giver") as (offers, good, port):
        trust.add(tmp_path / "state" / "keys" / "trusted", AUTHOR.public, "giver")
        with harness.running(tmp_path, config=CONFIG.format(port=port), learns=False) as fleet:
            async with fleet.bus() as bus:
                answered: list[int] = []
                traffic = asyncio.create_task(_traffic(FleetClient(bus), answered))
                reasons: dict[str, str] = {}
                installed: set[str] = set()
                async with (
                    asyncio.timeout(60),
                    bus.watch((SkillRejected, SkillInstalled), after=0) as events,
                ):
                    while len(reasons) + len(installed) < len(offers.reasons):
                        data = (await events.get()).data
                        if isinstance(data, SkillInstalled):
                            installed.add(data.card.digest)
                        else:
                            reasons[data.digest] = data.reason
                await harness.until(
                    lambda: _some(answered), seconds=30, what="requests are answered all the while"
                )
                assert not traffic.done()
                traffic.cancel()

                assert installed == {good.digest}
                for digest, expected in offers.reasons.items():
                    assert digest == good.digest or expected in reasons[digest], reasons[digest]
                by_name = await FleetClient(bus).encode(["a"], skills=["giver/good"])
                assert by_name.rows[0].skills[0].digest == good.digest
            left = {path.name for path in (fleet.state / "cards").iterdir()}
            assert left == {good.digest.removeprefix("sha256:") + ".lora.arrow"}
            assert not list((fleet.state / "federation" / "incoming").iterdir())
            log = fleet.log()
            assert all(reason.split(":")[-1].strip()[:40] in log for reason in reasons.values())


async def _traffic(client: FleetClient, answered: list[int]) -> None:
    """Requests one after another; the first that fails ends it."""
    while True:
        encoded = await client.encode([f"question {len(answered)}"])
        answered.append(len(encoded.vectors))


async def _some(answered: list[int]) -> bool:
    return len(answered) > 10
