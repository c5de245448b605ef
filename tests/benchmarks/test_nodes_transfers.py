"""Two nodes in network namespaces: a card comes whole, also when the cable is pulled meanwhile."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.kit.namespaces import Network, unavailable
from benchmarks.nodes.children import Child, ChildFailed
from benchmarks.nodes.transfers import Cut, Ends, Transfer, Transfers, cut_in_transfer, faults

MEBIBYTE = 1 << 20


async def test_a_card_comes_whole_although_its_cable_is_pulled_meanwhile(tmp_path: Path) -> None:
    why = unavailable()
    if why is not None:
        pytest.skip(why)
    with Network(2) as network:
        ends = Ends(network, tmp_path, [64 << 10, MEBIBYTE])
        async with ends.open(rate=MEBIBYTE) as receiver:
            small = await ends.fetch(receiver, *ends.cards[0])
            cut = await cut_in_transfer(ends, receiver, *ends.cards[1], 0.5)
            absent = await ends.fetch(receiver, "sha256:" + "0" * 64, 1)

    _holds(small, cut, absent)
    assert network.name(0) not in os.listdir("/run/netns")


def _holds(small: Transfer, cut: Cut, absent: Transfer) -> None:
    assert small.error is None
    assert cut.transfer.error is None
    assert cut.transfer.bytes > MEBIBYTE
    assert cut.resumed
    assert str(absent.error).startswith("NotOffered: ")
    assert faults(Transfers(each=[small, absent], cuts=[cut])) == []


async def test_a_child_that_ends_says_why(tmp_path: Path) -> None:
    child = Child(_Here(), 0, "benchmarks.nodes.sender", tmp_path, "sender", "192.0.2.1", "0", "0")

    with pytest.raises(ChildFailed, match="without certificates only a loopback address is bound"):
        async with child:
            pass


class _Here(Network):
    """No network at all: what is run is run here."""

    def command(self, node: int, words: Sequence[str]) -> tuple[str, ...]:
        return tuple(words)
