"""Cards on their way over a bad network: each comes whole, or fails and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.kit.namespaces import Network
from benchmarks.nodes.children import Child
from lora.card import Adapter, BaseModel, LoRACard
from lora.store import CardStore
from services.federation.authority import create_authority, issue
from services.federation.identity import NodeKey

__all__ = ["Cut", "Ends", "Transfer", "Transfers", "cut_in_transfer", "faults", "transfers"]

SENDER, RECEIVER = "sender", "receiver"
LONGEST: Final = 400.0
"""Seconds for one transfer, far beyond any limit of the client's."""

RATE: Final = 400_000
"""Bytes a second of a transfer that is cut: there is time to cut it."""

CUT_BYTES: Final = 2 << 20
"""Of the card that is cut: some frames."""

AGAIN: Final = 0.5
"""Part of a card that may travel once more where a transfer was resumed."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Transfer:
    """One card, fetched once."""

    bytes: int
    seconds: float
    error: str | None
    """Why it did not come."""
    wire: int
    """Bytes that reached the receiver's node meanwhile, all layers counted."""
    whole: tuple[str, ...]
    """Cards in the cache afterwards whose bytes have their digest."""
    left: tuple[str, ...]
    """Files afterwards that should not be there: parts, and what is not what it is called."""

    @property
    def fault(self) -> str | None:
        """What should not have happened; a failure that is told is none."""
        if self.left:
            return f"it left {', '.join(self.left)} behind"
        if self.error is None and len(self.whole) != 1:
            return "it is said to be there and is not"
        if self.error is not None and self.whole:
            return f"it is said to have failed and is there: {self.error}"
        if self.error is not None and not self.error.partition(": ")[2].strip():
            return "it failed and did not say why"
        return None


@dataclass(frozen=True)
class Cut:
    """A transfer whose cable was pulled in the middle."""

    seconds: float
    """For how long."""
    transfer: Transfer
    again: Transfer | None
    """The same card, asked for once more after a failure."""

    @property
    def resumed(self) -> bool:
        """Whether it went on from where it was."""
        one = self.transfer
        return one.error is None and one.wire < (1 + AGAIN) * one.bytes


@dataclass
class Transfers:
    """All of them."""

    means: str = ""
    """What lost and delayed."""
    loss: float = 0.0
    delay_ms: float = 0.0
    each: list[Transfer] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)


def faults(found: Transfers) -> list[str]:
    """What was wanted and missed."""
    every = [*found.each, *(cut.transfer for cut in found.cuts)]
    every += [cut.again for cut in found.cuts if cut.again is not None]
    missed = [
        f"a transfer of {one.bytes:,} bytes: {one.fault}" for one in every if one.fault is not None
    ]
    if found.each and all(one.error is not None for one in found.each):
        missed.append("no transfer at all came through loss and delay")
    for cut in found.cuts:
        if cut.again is not None and cut.again.error is not None:
            missed.append(f"after a cut of {cut.seconds:g} s: {cut.again.error}")
        if cut.transfer.error is None and not cut.resumed:
            one = cut.transfer
            missed.append(
                f"a cut of {cut.seconds:g} s: {one.wire:,} bytes travelled for {one.bytes:,}"
            )
    if found.cuts and not any(cut.resumed for cut in found.cuts):
        missed.append("no transfer was resumed after its cable was pulled")
    return missed


class Ends:
    """Two nodes of a network, 0 the sender's and 1 the receiver's, with cards of some sizes."""

    def __init__(self, network: Network, folder: Path, sizes: Sequence[int]) -> None:
        """`sizes` in bytes, nearly. Makes the cards and, of a new authority, the certificates."""
        self.network = network
        self._folder = folder
        key = NodeKey.load_or_create(folder / SENDER / "node.key")
        self._key = key.public
        create_authority(folder / "authority", "benchmark")
        for node in (SENDER, RECEIVER):
            issue(folder / "authority", node, folder / node / "tls")
        store = CardStore(folder / SENDER / "cards")
        self.cards: list[tuple[str, int]] = []
        """Digest and true size of each."""
        for number, size in enumerate(sizes):
            card = store.put(_card(f"size-{number}", size))
            self.cards.append((card.key, card.bytes or 0))

    @contextlib.asynccontextmanager
    async def open(self, rate: int = 0) -> AsyncIterator[Child]:
        """Both processes, sending at most so many bytes a second; the receiver's."""
        host = self.network.four(0)
        sender = self._child(0, SENDER, SENDER, host, "0", str(rate))
        async with sender:
            port = str(sender.told["port"])
            async with self._child(1, RECEIVER, RECEIVER, self._key, SENDER, host, port) as child:
                yield child

    async def fetch(self, receiver: Child, digest: str, size: int) -> Transfer:
        """Fetch a card once."""
        before = _heard(receiver)
        found = await receiver.ask(LONGEST, fetch=digest)
        return _transfer(found, size, _heard(receiver) - before)

    def _child(self, node: int, name: str, *words: str) -> Child:
        return Child(self.network, node, f"benchmarks.nodes.{name}", self._folder / name, *words)


async def transfers(
    sizes: Sequence[int],
    repeats: int,
    loss: float,
    delay_ms: float,
    cuts: Sequence[float],
    say: Say,
) -> Transfers:
    """Each size so often over a network that loses and delays at both ends; then the cuts, in
    seconds, on a network that does neither."""
    found = Transfers(loss=loss, delay_ms=delay_ms)
    with tempfile.TemporaryDirectory(prefix="consonance-") as folder, Network(2) as network:
        ends = Ends(network, Path(folder), [*sizes, CUT_BYTES])
        for node in network.nodes:
            found.means = network.netem(node, loss=loss, delay_ms=delay_ms)
        async with ends.open() as receiver:
            for digest, size in ends.cards[:-1]:
                for number in range(repeats):
                    say(f"{size:,} bytes over {loss:g} % loss, {delay_ms:g} ms: {number + 1}")
                    found.each.append(await ends.fetch(receiver, digest, size))
        for node in network.nodes:
            network.clear(node)
        for seconds in cuts:
            say(f"the cable pulled for {seconds:g} s in mid-transfer")
            async with ends.open(RATE) as receiver:
                found.cuts.append(await cut_in_transfer(ends, receiver, *ends.cards[-1], seconds))
    return found


async def cut_in_transfer(
    ends: Ends, receiver: Child, digest: str, size: int, seconds: float
) -> Cut:
    """Pull the sender's cable when about a third of the card is there."""
    before = _heard(receiver)
    task = asyncio.create_task(ends.fetch(receiver, digest, size))
    try:
        third = before + size / 3
        while _heard(receiver) < third and not task.done():  # noqa: ASYNC110  (the kernel counts)
            await asyncio.sleep(0.02)
        ends.network.cut(0)
        await asyncio.sleep(seconds)
        ends.network.mend(0)
        transfer = await task
    finally:
        task.cancel()
    again = None
    if transfer.error is not None:
        again = await ends.fetch(receiver, digest, size)
    return Cut(seconds, transfer, again)


def _transfer(found: dict[str, Any], size: int, wire: int) -> Transfer:
    left = (*found["broken"], *found["incoming"])
    return Transfer(size, found["seconds"], found["error"], wire, tuple(found["whole"]), left)


def _card(name: str, size: int) -> LoRACard:
    """A card of about so many bytes, of random values."""
    width = 384
    rank = max(1, size // (2 * 4 * width))
    random = np.random.default_rng(rank)
    a = random.normal(size=(width, rank)).astype(np.float32)
    adapter = Adapter(a=a, b=a.T.copy(), rank=rank, alpha=float(rank))
    model = BaseModel("made for a benchmark", "0" * 64)
    return LoRACard(
        name=name, base_model=model, dim=width, modules={"embedding": adapter}, rank=rank
    )


def _heard(child: Child) -> int:
    """Bytes that came into the child's node by its cable, as the kernel counts them there."""
    for line in Path(f"/proc/{child.pid}/net/dev").read_text("ascii").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "eth0":
            return int(counts.split()[0])
    return 0
