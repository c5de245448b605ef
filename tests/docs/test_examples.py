"""The examples do what they say, against a real broker where they speak to one."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus import Bus, connect
from schemas import BaseModelRef, Event, FeedbackGiven, SkillCard, SkillPublished

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
NODE = EXAMPLES / "node"
LIMIT = 30.0

pytestmark = pytest.mark.docs


@contextmanager
def running(words: Sequence[str], *, cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that is ended with the block; its standard output is read as text."""
    process = subprocess.Popen(
        words,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process:
        try:
            yield process
        finally:
            process.terminate()


@pytest.fixture
def url(short_path: Path) -> Iterator[str]:
    url = f"ipc://{short_path / 'bus'}"
    words = [sys.executable, "-m", "bus", "--url", url, "--state", str(short_path / "state")]
    with running(words, cwd=ROOT) as broker:
        assert broker.stdout is not None
        assert "ready" in broker.stdout.readline()
        yield url


def published() -> Event[SkillPublished]:
    card = SkillCard(
        name="banking",
        version=3,
        digest="sha256:" + "ab" * 32,
        bytes=1,
        rank=8,
        alpha=16.0,
        target_modules=("embedding",),
        base_model=BaseModelRef(id="m", sha256="0" * 64),
        applies_to=("query",),
        description="",
        prototypes="",
        threshold=None,
        metrics={"before": 0.41, "after": 0.52},
        created="2026-01-01T00:00:00Z",
        parents=(),
    )
    return Event(data=SkillPublished(card=card, origin="here"), source="/test/1")


async def say_until_heard(bus: Bus, process: "subprocess.Popen[str]") -> str:
    """Publish new cards until the listener, which may still be connecting, prints one."""
    assert process.stdout is not None
    reading = asyncio.create_task(asyncio.to_thread(process.stdout.readline))
    end = time.monotonic() + LIMIT
    while not reading.done() and time.monotonic() < end:
        await bus.publish(published())
        await asyncio.wait([reading], timeout=0.05)
    if not reading.done():
        process.terminate()  # ends the reading, too
    return (await reading).rstrip()


LINE = f"banking@3: MRR@10 0.41 -> 0.52, sha256:{'ab' * 32}"


async def test_the_bare_tool_prints_what_is_published(url: str) -> None:
    words = [sys.executable, "-I", str(EXAMPLES / "bare_pyzmq.py"), url]
    async with await connect(url, source="/test/1") as bus:
        with running(words, cwd=EXAMPLES) as tool:
            assert await say_until_heard(bus, tool) == LINE


def test_the_bare_tool_imports_nothing_of_the_project() -> None:
    source = (EXAMPLES / "bare_pyzmq.py").read_text("utf-8")
    imported = [line.split()[1] for line in source.splitlines() if line.startswith("import ")]
    assert imported == ["json", "sys", "zmq"]
    assert "from " not in source.partition('"""\n\n')[2].partition("socket")[0]


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "zeromq").is_dir(),
    reason="needs Node and `npm install` in docs/examples/node",
)
async def test_the_node_tool_prints_what_is_published(url: str) -> None:
    async with await connect(url, source="/test/1") as bus:
        with running(["node", "subscribe.mjs", url], cwd=NODE) as tool:
            assert await say_until_heard(bus, tool) == LINE


async def test_published_feedback_is_in_the_journal(url: str) -> None:
    piece = {"query": "q", "relevant": ["p"], "irrelevant": ["n"], "domain": "d", "served": []}
    words = [sys.executable, str(EXAMPLES / "publish_feedback.py"), url]

    with running(words, cwd=EXAMPLES) as tool:
        said, _ = tool.communicate(json.dumps(piece) + "\n" + json.dumps({**piece, "query": "r"}))

    async with await connect(url, source="/test/1") as bus:
        page = await bus.read(FeedbackGiven)
    assert [event.data.query for event in page.events] == ["q", "r"]
    assert page.events[0].data.served == ()
    assert [f"journaled as {event.id}" for event in page.events] == said.splitlines()


@pytest.mark.timeout(240)
def test_the_notebook_makes_a_card_that_helps() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "notebook_style.py")],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "beats what is served now" in done.stdout
    assert "'which door do lorries use': the model says 'rim', with the card 'bay'" in done.stdout
