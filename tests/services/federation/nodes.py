"""Peers for the tests of federation: honest servers, servers that do as a test says, cards."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import flight

from schemas import BaseModelRef, SkillCard
from services.federation import manifest, protocol
from services.federation.catalogue import Catalogue
from services.federation.client import LoRAFlightClient
from services.federation.download import Pace
from services.federation.identity import NodeKey
from services.federation.protocol import EMPTY, NOTHING, Endpoint, Health, Ticket
from services.federation.server import LoRAFlightServer

AUTHOR = NodeKey.generate()
MODEL = "be" * 32
PACE = Pace(seconds=20.0, least_rate=1000, stall=5.0)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that no two cards have alike."""
    return np.random.default_rng(seed).bytes(size)


def described(data: bytes, name: str = "banking", version: int = 1, **fields: Any) -> SkillCard:
    """A card whose file are these bytes, without an author."""
    words: dict[str, Any] = {
        "name": name,
        "version": version,
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "rank": 8,
        "alpha": 16.0,
        "target_modules": ("query",),
        "base_model": BaseModelRef(id="some/model", sha256=MODEL),
        "applies_to": ("query",),
        "description": "Questions of bank customers.",
        "prototypes": "",
        "threshold": 0.5,
        "metrics": {},
        "created": "2026-01-02T03:04:05Z",
        "parents": (),
    }
    return SkillCard(**words | fields)


def signed(data: bytes, *args: Any, key: NodeKey = AUTHOR, **fields: Any) -> SkillCard:
    """The same, by the author."""
    return manifest.sign(described(data, *args, **fields), key)


def honest(folder: Path, *files: tuple[SkillCard, bytes], **options: Any) -> LoRAFlightServer:
    """A server that offers these files, as a node of `AUTHOR`'s does; stop it."""
    catalogue = Catalogue(AUTHOR.public)
    for card, data in files:
        path = folder / card.digest[-16:]
        path.write_bytes(data)
        catalogue.put(card, path)
    server = LoRAFlightServer(
        catalogue, **{"node": "honest", "key": AUTHOR.public, "port": 0} | options
    )
    server.start()
    return server


def client_of(folder: Path, **options: Any) -> LoRAFlightClient:
    """A client that believes `AUTHOR`."""
    given = {"trusted": lambda key: key == AUTHOR.public, "model": MODEL, "pace": PACE}
    return LoRAFlightClient(folder / "cache", **given | options)


def left_over(client: LoRAFlightClient) -> list[str]:
    """The files in the client's folders."""
    return sorted(path.name for path in client.cache.rglob("*") if path.is_file())


def frames(parts: Iterable[bytes]) -> Any:
    """The answer in which these are the frames."""
    return flight.GeneratorStream(EMPTY, ((NOTHING, pa.py_buffer(part)) for part in parts))


def pieces(data: bytes, size: int = 100_000) -> Iterator[bytes]:
    """Frames of so many bytes."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Stage(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """A peer whose every answer a test may choose; it obeys no limit and checks nothing."""

    def __init__(self, node: str = "stage", key: str = AUTHOR.public, **options: Any) -> None:
        self.node = node
        self.key = key
        self.reset()
        tls = "tls_certificates" in options
        super().__init__(f"grpc{'+tls' if tls else ''}://127.0.0.1:0", **options)
        self.endpoint = Endpoint("127.0.0.1", self.port, tls)

    def reset(self) -> None:
        """An honest peer without cards."""
        self.cards: dict[str, tuple[SkillCard, bytes]] = {}
        self.asked: list[tuple[str, int]] = []
        """Which cards were asked for, from which byte on."""
        self.questions = 0
        """How often it told how it is."""
        self.listings = 0
        self.health: Callable[[], Any] = lambda: frames([self.says()])
        self.skills: Callable[[], Any] = lambda: frames(
            msgspec.json.encode(card) for card, _ in tuple(self.cards.values())
        )
        self.file: Callable[[bytes, int], Any] = lambda data, start: frames(pieces(data[start:]))

    def offer(self, card: SkillCard, data: bytes) -> SkillCard:
        """Offer a card, whatever its file is."""
        self.cards[card.digest] = (card, data)
        return card

    def says(self, **fields: Any) -> bytes:
        """How it is, honestly but for `fields`."""
        words = {"node": self.node, "key": self.key, "version": protocol.VERSION}
        words |= {"cards": len(self.cards), "revision": str(hash(tuple(self.cards)))}
        return msgspec.json.encode(Health(**words | fields))

    def do_get(self, context: Any, ticket: Any) -> Any:
        text = bytes(ticket.ticket)
        if text == protocol.HEALTH.encode():
            self.questions += 1
            return self.health()
        if text == protocol.SKILLS.encode():
            self.listings += 1
            return self.skills()
        wanted = Ticket.parse(text)
        assert wanted is not None
        self.asked.append((wanted.digest, wanted.offset))
        return self.file(self.cards[wanted.digest][1], wanted.offset)

    def stop(self) -> None:
        """Without waiting for who reads."""
        closing = threading.Thread(target=self.shutdown, daemon=True)
        closing.start()
        closing.join(1.0)


@contextlib.contextmanager
def staged(**options: Any) -> Iterator[Stage]:
    stage = Stage(**options)
    try:
        yield stage
    finally:
        stage.stop()


def wait(holds: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
    """Until a condition holds; fails with `what` after the deadline."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)


def threads(*names: str) -> list[str]:
    """The threads that are at work whose names begin so."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]
