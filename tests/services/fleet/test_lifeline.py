"""No process of a fleet outlives the supervisor, however that one dies."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from services.fleet.child import Child
from services.fleet.plan import Part
from services.runtime import lifeline
from tests.services.fleet.harness import alive, until

ROOT = Path(__file__).resolve().parents[3]
DUMMY = "tests.services.fleet.dummy"

PARENT = f"""
import asyncio
from services.fleet.child import Child
from services.fleet.plan import Part
from services.runtime import lifeline

async def main():
    part = Part("one", "1", lifeline.command({DUMMY!r}, "nests"))
    await Child.start(part, lambda _, line: print(line, flush=True))
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_children_die_when_the_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    lines = [(await parent.stdout.readline()).split() for _ in range(2)]
    nested, child = (int(line[1]) for line in lines)
    assert alive(child)

    parent.kill()

    try:
        await asyncio.wait_for(parent.wait(), 20)
        await until(lambda: not alive(child))
    finally:
        # The kernel may have killed the child before it could kill what it had started.
        with suppress(ProcessLookupError):
            os.kill(nested, signal.SIGKILL)


async def test_the_end_of_the_pipe_ends_the_whole_group() -> None:
    """What holds where no kernel tells a child that its parent died."""
    words = lifeline.command(DUMMY, "nests")
    its_input, pipe = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdin=its_input, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    os.close(its_input)
    assert process.stdout is not None
    lines = [(await process.stdout.readline()).decode() for _ in range(2)]
    nested = int(lines[0].split()[1])

    os.close(pipe)

    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL
    await until(lambda: not alive(nested))


async def test_a_process_whose_parent_is_gone_already_does_not_start() -> None:
    words = list(lifeline.command(DUMMY, "good"))
    words[words.index(str(os.getpid()))] = str(os.getpid() + 1)
    process = await asyncio.create_subprocess_exec(
        *words, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    assert await asyncio.wait_for(process.wait(), 20) == -signal.SIGKILL


async def test_the_module_sees_its_own_arguments_and_an_empty_standard_input() -> None:
    lines: list[str] = []
    part = Part("one", "1", lifeline.command("tests.services.fleet.echo", "a", "--b"))

    child = await Child.start(part, lambda _, line: lines.append(line))

    assert await asyncio.wait_for(child.wait(), 20) == 0
    assert lines == ["['a', '--b'] True"]


async def test_lines_arrive_whole_and_endless_ones_are_broken() -> None:
    lines: list[str] = []
    code = "import sys; sys.stdout.write('a' * 200_000 + '\\nb\\xe4\\nlast')"
    part = Part("one", "1", (sys.executable, "-X", "utf8", "-c", code))

    child = await Child.start(part, lambda _, line: lines.append(line))
    await asyncio.wait_for(child.wait(), 20)

    assert "".join(lines[:-2]) == "a" * 200_000
    assert lines[-2:] == ["bä", "last"]
    assert max(map(len, lines)) <= 2 * 64 * 1024
    assert list(child.last_lines)[-1] == "last"


async def test_our_code_runs_wherever_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name in the working directory must not be taken for ours."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("raise RuntimeError('not ours')")
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    part = Part("one", "1", lifeline.command("tests.services.fleet.echo", "x"))

    child = await Child.start(part, lambda _, line: lines.append(line))

    assert await asyncio.wait_for(child.wait(), 20) == 0
    assert lines == ["['x'] True"]
