"""A child that waits for its job: there when it is wanted, gone when it is not."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil

from services.factory.process import Progress, attend
from services.factory.spare import Spare

CHILD = """
import os, sys
assert sys.argv[1] == "--wait"
with open(int(sys.argv[2])) as pipe:
    folder = pipe.readline().strip()
if folder:
    open(os.path.join(folder, "done"), "w").write(str(os.getpid()))
"""
WORDS = (sys.executable, "-c", CHILD)


async def _ignore(progress: Progress) -> None:
    """Nobody listens."""


async def test_it_begins_the_job_that_it_is_told(tmp_path: Path) -> None:
    spare = Spare(WORDS, threads=1)
    assert await spare.take(tmp_path) is None, "none waits that nobody expected"
    spare.expect()
    spare.expect()
    child = await spare.take(tmp_path)
    assert child is not None
    await attend(child, limit=30, heard=_ignore)
    assert (tmp_path / "done").read_text() == str(child.pid)
    await spare.aclose()


async def test_after_one_is_taken_another_waits(tmp_path: Path) -> None:
    spare = Spare(WORDS, threads=1)
    spare.expect()
    children = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        child = await spare.take(tmp_path / name)
        assert child is not None
        await attend(child, limit=30, heard=_ignore)
        children.append((tmp_path / name / "done").read_text())
    assert len(set(children)) == 2
    await spare.aclose()


async def test_one_that_gets_no_job_is_ended(tmp_path: Path) -> None:
    spare = Spare(WORDS, threads=1, idle=0.05)
    before = set(psutil.Process().children())
    spare.expect()
    while not (mine := set(psutil.Process().children()) - before):
        await asyncio.sleep(0.01)
    while any(it.is_running() and it.status() != psutil.STATUS_ZOMBIE for it in mine):
        await asyncio.sleep(0.01)
    assert await spare.take(tmp_path) is None
    await spare.aclose()


async def test_one_that_died_is_not_relied_upon(tmp_path: Path) -> None:
    spare = Spare((sys.executable, "-c", "raise SystemExit(3)"), threads=1)
    before = set(psutil.Process().children())
    spare.expect()
    while not (mine := set(psutil.Process().children()) - before):
        await asyncio.sleep(0.01)
    while any(it.is_running() and it.status() != psutil.STATUS_ZOMBIE for it in mine):
        await asyncio.sleep(0.01)
    assert await spare.take(tmp_path) is None
    await spare.aclose()


async def test_closing_ends_it() -> None:
    spare = Spare(WORDS, threads=1)
    before = set(psutil.Process().children())
    spare.expect()
    while not (mine := set(psutil.Process().children()) - before):
        await asyncio.sleep(0.01)
    await spare.aclose()
    assert not any(it.is_running() for it in mine)
    spare.expect()
    assert set(psutil.Process().children()) - before == set(), "and none is begun any more"
