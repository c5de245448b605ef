"""What a fleet is doing, once or again and again."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import msgspec
import pytest
from msgspec import structs
from rich.console import Console

from schemas import FeedbackJudged
from services.command.picture import picture
from services.runtime.fleet_view_status import Status
from tests.services.command.conftest import Run, Start
from tests.services.command.fake_fleet import FakeFleet


def judge(fleet: FakeFleet) -> None:
    fleet.say(
        FeedbackJudged(
            feedback_id="1",
            query="q",
            relevant=("a",),
            irrelevant=(),
            domain="bank",
            served=(),
            rouge_score=0.5,
            entropy_delta=0.0,
        )
    )


def test_for_people_and_for_programs(on: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = on("status")
    assert (code, err) == (0, "")
    for words in ("router/1", "encoder/2", "ready", "Requests of the last minute", "bank@1"):
        assert words in out
    assert "+0.100 (+0.050 to +0.150)" in out

    code, out, _ = on("status", "--json")
    found = json.loads(out)
    assert {one["service"] for one in found["processes"]} == {"broker", "router", "encoder"}
    assert [one["name"] for one in found["skills"]] == ["bank", "slang", "slang"]
    assert {"time", "since", "model", "requests", "loop", "peers", "journal"} <= set(found)

    # What troubles a process stands below them, in its own words.
    status = msgspec.json.decode(out, type=Status)
    broker = structs.replace(status.processes[0], state="degraded", trouble="the disk is full")
    console = Console(width=160)
    with console.capture() as shown:
        console.print(picture(structs.replace(status, processes=(broker,)), "ipc:///here"))
    assert f"{broker.service}/{broker.instance}: the disk is full" in shown.get()


def test_it_goes_on_until_it_is_interrupted(start: Start, fleet: FakeFleet) -> None:
    words = ("--watch", "--every", 0.2, "--json", "--state", fleet.state)
    process = start("status", *words)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    judge(fleet)
    while not (after := json.loads(process.stdout.readline()))["loop"]["domains"]:
        assert process.poll() is None
    assert after["time"] > first["time"]
    assert after["loop"]["domains"][0]["domain"] == "bank"

    process.terminate()

    assert process.wait(20) == 130


def test_at_a_terminal_it_is_a_picture_that_goes_away(start: Start, fleet: FakeFleet) -> None:
    ours, theirs = os.openpty()
    process = start("status", "--watch", "--state", fleet.state, stdin=theirs, stdout=theirs)
    os.close(theirs)
    seen = b""
    while b"Requests" not in seen:
        seen += os.read(ours, 10_000)
    assert b"router/1" in seen

    process.send_signal(signal.SIGINT)

    with contextlib.suppress(OSError):  # the other end is closed: that is all of it
        while more := os.read(ours, 10_000):
            seen += more
    os.close(ours)
    assert process.wait(20) == 130
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1  # the screen is as it was
