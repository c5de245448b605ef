"""The child process: heard, bounded, and gone when it is not wanted any more."""

import asyncio
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.factory.errors import ChildError
from services.factory.process import NICENESS, Progress, run_child


def words(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_progress_is_heard_and_other_lines_are_not() -> None:
    heard: list[Progress] = []

    async def hear(progress: Progress) -> None:
        heard.append(progress)

    line = '{"phase": "head", "step": 1, "steps": 2, "loss": 0.5}'
    code = f"import os; print('hello'); print('{line}'); print('x' * 200_000); print('{line}')"
    await run_child(words(code), threads=1, limit=30, heard=hear)

    assert heard == [Progress("head", 1, 2, 0.5)] * 2


async def test_it_is_polite_and_knows_its_threads() -> None:
    code = (
        "import os, sys, time; time.sleep(0.3);"
        f"sys.exit(0 if os.nice(0) == {NICENESS} and os.environ['OMP_NUM_THREADS'] == '3' else 1)"
    )
    await run_child(words(code), threads=3, limit=30, heard=_ignore)


async def test_a_failure_quotes_what_was_said_last() -> None:
    code = "import sys; print('no such dataset', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ChildError, match="status 3 and said no such dataset"):
        await run_child(words(code), threads=1, limit=30, heard=_ignore)


async def test_a_child_that_hangs_is_ended() -> None:
    with pytest.raises(ChildError, match="more than 1 s"):
        await run_child(words("import time; time.sleep(60)"), threads=1, limit=0.6, heard=_ignore)


async def test_cancelling_kills_it_at_once(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import os, time; open({str(file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    task = asyncio.create_task(run_child(words(code), threads=1, limit=60, heard=_ignore))
    deadline = time.monotonic() + 20
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert not psutil.pid_exists(int(file.read_text()))


async def _ignore(progress: Progress) -> None:
    """Nobody listens."""
