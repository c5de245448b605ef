"""The broker process: what it refuses to start on, and what survives its death."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import bus
from bus.__main__ import DESCRIPTORS
from bus.broker import Broker
from bus.urls import endpoints
from schemas import FeedbackGiven, LearningBatchRejected, SkillListed, TrainingProgressed
from tests.bus.kit import (
    ROOT,
    BrokerProcess,
    feedback,
    free_port,
    progress,
    question,
    short_folder,
)


@pytest.fixture
def state() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture
def process(state: Path) -> Iterator[BrokerProcess]:
    made = BrokerProcess(state)
    made.start()
    yield made
    made.stop()


async def test_kill_9_loses_nothing_acknowledged(process: BrokerProcess) -> None:
    writer = await bus.connect(process.url, source="/writer/1")
    reader = await bus.connect(process.url, source="/reader/1")
    acknowledged: list[str] = []
    derived: list[str] = []
    watched: list[int] = []

    async def write(part: int) -> None:
        for n in range(60):
            event = feedback(f"{part}-{n}")
            await writer.publish(event)
            acknowledged.append(event.id)

    async def work() -> None:
        async with reader.consume("g", FeedbackGiven, max_leases=4, visibility=5) as deliveries:
            while len(derived) < 240:
                delivery = await deliveries.get()
                answer = delivery.event.derive(
                    LearningBatchRejected(batch_id=delivery.event.id, reason="r"),
                    source="/reader/1",
                )
                try:
                    await delivery.ack(publish=[answer])
                except bus.StaleLease:
                    continue
                derived.append(delivery.event.id)

    async def watch() -> None:
        async with reader.watch(LearningBatchRejected) as events:
            while len(watched) < 240:
                watched.append((await events.get()).sequence or 0)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.2)
    tasks = [asyncio.create_task(write(part)) for part in range(4)] + [asyncio.create_task(work())]
    for _ in range(3):
        await asyncio.sleep(0.25)
        await asyncio.to_thread(process.stop, kill=True)
        await asyncio.to_thread(process.start)
    async with asyncio.timeout(40):
        await asyncio.gather(*tasks, watching)
    kept = [event.id for event in (await reader.read(FeedbackGiven)).events]
    assert sorted(kept) == sorted(acknowledged)
    answers = (await reader.read(LearningBatchRejected)).events
    assert sorted(e.causation_id or "" for e in answers) == sorted(acknowledged)  # once each
    assert watched == [e.sequence for e in answers]
    assert reader.statistics().reconnects >= 1
    await writer.aclose()
    await reader.aclose()


async def test_publishing_waits_for_a_broker_that_is_away(process: BrokerProcess) -> None:
    async with await bus.connect(process.url, source="/a/1", patience=15) as one:
        await asyncio.to_thread(process.stop, kill=True)
        publishing = asyncio.create_task(one.publish(feedback(1)))
        assert await one.publish(progress(1)) == (None,)  # live: lost, told in the statistics
        await asyncio.to_thread(process.start)
        assert await publishing == (1,)
        async with one.watch(FeedbackGiven) as events:
            await one.publish(feedback(2))
            assert (await events.get(5)).id == "f2"


@pytest.mark.skipif(sys.platform != "linux", reason="psutil tells a process's limits there alone")
def test_it_takes_the_descriptors_that_it_may_have(state: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = BrokerProcess(state)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        process.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = hard if 0 <= hard < DESCRIPTORS else DESCRIPTORS
    assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == (most, hard)
    process.stop()


async def test_without_a_broker_connecting_says_so(state: Path) -> None:
    with pytest.raises(bus.Unreachable, match="is it running"):
        await bus.connect(f"ipc://{state}/bus", source="/a/1", patience=0.2)


async def test_a_second_broker_is_refused(process: BrokerProcess, state: Path) -> None:
    with pytest.raises(bus.InUse, match="another broker"):
        async with Broker(process.url, state):
            pass
    with pytest.raises(bus.InUse, match="another broker"):
        async with Broker(process.url, state / "elsewhere"):
            pass
    async with await bus.connect(process.url, source="/a/1") as one:
        assert await one.publish(feedback(1)) == (1,)


async def test_a_port_in_use_is_refused(state: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    async with Broker(url, state / "a"):
        with pytest.raises(bus.InUse, match="in use"):
            async with Broker(url, state / "b"):
                pass


async def test_a_folder_open_to_others_is_refused(state: Path) -> None:
    folder = state / "open"
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(bus.InsecureFolder, match="0755"):
        async with Broker(f"ipc://{folder}", state):
            pass
    with pytest.raises(bus.InsecureFolder):
        await bus.connect(f"ipc://{folder}", source="/a/1", patience=1)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ipc:///" + "x" * 100, "107"),
        ("ipc://relative", "absolute"),
        ("tcp://host", "port"),
        ("tcp://host:65534", "65535"),
        ("tcp://host:banana", "port"),
        ("http://host", "no bus"),
    ],
)
async def test_urls_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(bus.InvalidUrl, match=says):
        await bus.connect(url, source="/a/1", patience=1)
    with pytest.raises(bus.InvalidUrl):
        endpoints(url)


def test_an_orderly_stop_and_one_sentence_for_a_failure(state: Path) -> None:
    process = BrokerProcess(state)
    process.start()
    assert process.stop() == 0
    command = [sys.executable, "-m", "bus", "--state", str(state)]
    (state / "bad.toml").write_text("[bus]\nretention_days = 'long'\n")
    done = subprocess.run(
        [*command, "--config", str(state / "bad.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert "retention_days" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


async def test_an_idle_broker_and_client_sleep(process: BrokerProcess) -> None:
    one = await bus.connect(process.url, source="/a/1")
    async with one.watch(FeedbackGiven), one.consume("g", FeedbackGiven) as work:
        waiting = asyncio.create_task(work.get())
        processes = (psutil.Process(process.pid), psutil.Process(os.getpid()))
        before = [sum(p.cpu_times()[:2]) for p in processes]
        await asyncio.sleep(3)
        after = [sum(p.cpu_times()[:2]) for p in processes]
        # 5 % of a core, on a machine that others use, too
        assert max(b - a for a, b in zip(before, after, strict=True)) < 0.15
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await one.aclose()


async def test_a_frozen_broker_is_waited_for(process: BrokerProcess) -> None:
    async with await bus.connect(process.url, source="/a/1", patience=15) as one:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            publishing = asyncio.create_task(one.publish(feedback(1)))
            await asyncio.sleep(0.2)
            assert not publishing.done()
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert await publishing == (1,)


@pytest.mark.parametrize("patience", [0.2, 60.0], ids=["less patient", "more patient"])
async def test_a_request_has_its_own_deadline_while_the_broker_is_frozen(
    process: BrokerProcess, patience: float
) -> None:
    async with await bus.connect(process.url, source="/asker/1") as asker:
        asker.patience = patience  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(bus.RequestTimeout, match=r"within 0\.5 s"):
                await asker.request(question(asker.address), SkillListed, timeout=0.5)
        finally:
            os.kill(process.pid, signal.SIGCONT)


async def test_a_live_event_is_published_or_dropped_however_full_the_queue_is(
    process: BrokerProcess,
) -> None:
    hearer = await bus.connect(process.url, source="/hearer/1")
    async with hearer, hearer.watch(TrainingProgressed, buffer=50_000) as heard:
        async with await bus.connect(process.url, source="/speaker/1") as speaker:
            sent = 0
            os.kill(process.pid, signal.SIGSTOP)
            try:
                while not speaker.statistics().dropped:
                    await speaker.publish(progress(sent))
                    sent += 1
            finally:
                os.kill(process.pid, signal.SIGCONT)
            told = speaker.statistics()
            assert (told.published, told.dropped) == (sent - 1, 1)
            steps = [(await heard.get(10)).data.step for _ in range(told.published)]
            assert steps == [*range(sent - 1)]
            await speaker.publish(progress(sent))  # and closes at once
        assert (await heard.get(10)).data.step == sent


async def test_a_broker_that_is_stopped_takes_its_sockets_with_it(process: BrokerProcess) -> None:
    folder = process.state / "bus"
    assert len(list(folder.glob("*.sock"))) == 3
    process.stop()
    assert not list(folder.glob("*.sock"))
