"""Who computes stands back for who answers, however the system divides its processors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.runtime.priority import stand_back

GROUPS = Path("/proc/self/autogroup")

CHILD = """
import os, sys
from pathlib import Path
from services.runtime.priority import stand_back
before = os.nice(0)
stand_back(int(sys.argv[1]))
group = Path("/proc/self/autogroup")
print(os.nice(0) - before, group.read_text() if group.exists() else "none")
"""


def nicer_by(niceness: int, *, leads: bool) -> tuple[int, str]:
    """How much nicer a process made itself, and what its session says."""
    told = subprocess.run(
        [sys.executable, "-c", CHILD, str(niceness)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=leads,
    ).stdout
    nicer, _, session = told.partition(" ")
    return int(nicer), session.strip()


needs_groups = pytest.mark.skipif(
    not GROUPS.exists() or not GROUPS.read_text().strip(), reason="needs Linux's groups by session"
)


def test_a_process_makes_itself_nicer() -> None:
    assert nicer_by(3, leads=True)[0] == 3
    assert nicer_by(0, leads=True)[0] == 0


@needs_groups
def test_the_whole_session_stands_back() -> None:
    nicer, session = nicer_by(4, leads=True)
    assert session.endswith(f"nice {os.nice(0) + nicer}")


@needs_groups
def test_a_session_that_others_lead_stays_as_it_is() -> None:
    before = GROUPS.read_text().strip()
    assert nicer_by(4, leads=False) == (4, before)


def test_another_process_is_made_nicer_and_one_that_is_gone_is_none() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        stand_back(2, child.pid)
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.nice(0) + 2
    finally:
        child.kill()
        child.communicate()
    stand_back(2, child.pid)
