"""The benchmark of memory: what the kernel says is read rightly, cards are there at the start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.memory.__main__ import Books, options_of
from benchmarks.memory.cards import active_cards, register, registered_cards
from benchmarks.memory.processes import Taken, _service, parsed, taken_by
from lora.store import CardStore
from services.adapter_manager.ledger import Ledger

ROLLUP = """\
5581e9a1c000-7ffd3a9f9000 ---p 00000000 00:00 0                          [rollup]
Rss:              600000 kB
Pss:              450000 kB
Pss_Anon:         300000 kB
Shared_Clean:     200000 kB
Private_Clean:     50000 kB
Private_Dirty:    350000 kB
"""


def test_what_the_kernel_says_is_bytes() -> None:
    assert parsed(ROLLUP) == Taken(600_000 << 10, 450_000 << 10, 400_000 << 10)


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not say it"
)
def test_this_process_takes_something() -> None:
    (taken,) = taken_by(os.getpid())["supervisor"]
    assert taken.resident >= taken.proportional >= taken.private > 1 << 20


def test_processes_are_known_by_their_module() -> None:
    words = ["python", "-P", "/x/services/runtime/lifeline.py", "17"]
    assert _service([*words, "services.encoder", "--instance", "2"]) == "encoder"
    assert _service([*words, "bus"]) == "broker"
    assert _service(["tracker"]) == "tracker"


def test_several_encoders_are_told_by_their_mean_and_the_fleet_by_its_sum() -> None:
    books = Books()
    one, two = Taken(4_000_000, 3_000_000, 2_000_000), Taken(6_000_000, 5_000_000, 4_000_000)
    books.fleet("2 encoders", {"encoder": [one, two], "router": [one]})
    found = {(it.what, it.who): it.median for it in books.figures()}
    assert found["2 encoders: private", "encoder"] == 3.0
    assert found["2 encoders: private", "router"] == 2.0
    assert found["2 encoders: the whole fleet (PSS)", "consonance"] == 11.0


def test_cards_are_installed_before_the_fleet_starts(tiny_folder: Path, tmp_path: Path) -> None:
    model = str(tiny_folder)
    made = [*registered_cards(model, 3), *active_cards(model, 2, "int8")]
    register(tmp_path, made)
    store = CardStore(tmp_path / "cards")
    ledger = Ledger(tmp_path / "adapter_manager" / "cards.sqlite")
    records = ledger.serving()
    ledger.close()
    assert [record.name for record in records] == [card.name for card in made]
    assert {record.digest for record in records} == set(store.digests())
    bodies = [store.open(record.digest).body for record in records[3:]]
    assert {one.dtype for body in bodies for one in body.values()} == {"int8"}


@pytest.mark.parametrize("words", ["--workers 0", "--workers one", "--active 0"], ids=str)
def test_options_out_of_range_are_refused(words: str) -> None:
    with pytest.raises(SystemExit):
        options_of(words.split())
