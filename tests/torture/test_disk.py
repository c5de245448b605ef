"""Disks that fail, in short: `python -m tests.torture disk` does it for minutes."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.torture import disk
from tests.torture.disk.running import FAULTS


def test_a_damaged_journal_has_all_or_is_refused_and_repaired() -> None:
    figures: Counter[str] = Counter()
    broken: list[str] = []
    disk.damaged(time.monotonic() + 60, 3, print, figures, broken, count=12, most=60)
    assert not broken
    assert figures["refused in words"] >= 3
    assert figures["opened with all events"] >= 3


@pytest.mark.parametrize(
    "fault", ["the disk is read-only", "the log is cut", "the file is removed"]
)
def test_a_disk_that_fails_under_a_broker_costs_nothing_that_it_still_has(fault: str) -> None:
    assert fault in FAULTS
    figures: Counter[str] = Counter()
    broken: list[str] = []
    disk.failing(time.monotonic() + 60, 3, print, figures, broken, faults=(fault,))
    assert not broken
    assert figures["refused while disks failed"]
