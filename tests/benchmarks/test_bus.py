"""The benchmark of the bus: events of one size, equal work, and what is missing is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import schemas
from benchmarks.bus import __main__ as command
from benchmarks.bus import durable, live_ends, material, nats_server
from benchmarks.kit.children import BenchError
from benchmarks.kit.nats import NatsFailed, nats_version
from schemas import Event, Payload


@pytest.mark.parametrize("make", [material.requests, material.feedback], ids=["live", "durable"])
def test_every_event_has_the_size_that_is_said(make: Callable[..., list[Payload]]) -> None:
    made = make(material.texts(50))
    assert {len(schemas.encode(material.whole(data))) for data in made} == {material.SIZE}
    assert len({schemas.encode(material.whole(data)) for data in made}) > 40
    assert make(material.texts(50)) == made


def test_what_is_under_way_fits_every_queue() -> None:
    order = live_ends.Order(10 * live_ends.STEP)
    assert order.window % order.step == 0
    assert order.step < order.window < live_ends.QUEUE
    alone = live_ends.Order(5, pause=0.001)
    assert (alone.window, alone.step) == (1, 1)


class Publisher:
    """Answers like a child."""

    pid = 1

    def __init__(self, count: int, last: int) -> None:
        self._found = {"count": count, "last": last, "done": 1e12, "waits": [0.001] * count}

    def tell(self, **order: float) -> None:
        """It has done so already."""

    def heard(self) -> dict[str, object]:
        return self._found


def test_what_was_not_kept_once_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "cpu_seconds", lambda *pids: 0.0)
    assert durable.Writers("ours", [Publisher(3, 3)], 1).rate(1) > 0  # type: ignore[list-item]
    with pytest.raises(BenchError, match="acknowledged 4 events, kept 3"):
        durable.Writers("ours", [Publisher(2, 3), Publisher(2, 1)], 1).rate(1)  # type: ignore[list-item]


def test_an_older_nats_server_writes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if nats_version() is None:
        pytest.skip("nats-server or nats-py is not installed")
    try:
        with nats_server.nats_server(tmp_path) as server:
            assert server.how in ("sync_interval: always", "store folder with chattr +S")
            if "chattr" in server.how:
                said = subprocess.run(
                    ["lsattr", "-d", str(tmp_path / "store")],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert not said.stdout or "S" in said.stdout.split()[0]
    except NatsFailed as e:
        pytest.skip(str(e))  # a file system that cannot be told to


def test_a_tiny_run_without_the_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(durable, "nats_version", lambda: None)
    out = tmp_path / "bus.json"
    options = ["--rounds", "1", "--events", "512", "--lone", "2", "--seconds", "0.1"]
    assert command.main([*options, "--publishers", "1", "--out", str(out), "--json"]) == 0
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert {row["wanted"] for row in found["comparisons"]} >= {0.4, 1.0}
    assert all("met" in row for row in found["comparisons"])
    assert any("not installed: left out" in note for note in found["notes"])
    assert {row["who"] for row in found["figures"]} == {
        "consonance",
        "our broker, bare pyzmq ends",
        "bare pyzmq proxy",
        durable.LISTS,
    }


@pytest.mark.parametrize("options", [["--rounds", "0"], ["--seconds", "0"], ["--lane", "both"]])
def test_options_that_make_no_sense_are_refused(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(options)
    assert ended.value.code == 2


def test_an_event_of_the_benchmark_is_one_of_the_catalogue() -> None:
    (data,) = material.requests(material.texts(1))
    event = Event(data=data, source=material.SOURCE)
    assert schemas.from_frames(schemas.frames(event)) == event
