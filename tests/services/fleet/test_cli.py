"""The command line from outside: what it prints, how it stops, what it exits with."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.runtime.settings import load_settings
from tests.services.fleet.harness import alive

ROOT = Path(__file__).resolve().parents[3]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(short_path: Path) -> Iterator[Start]:
    """Starts `run_all.py` over dummies of the given modes, in a state folder below a short path."""
    started: list[subprocess.Popen[str]] = []

    def start(modes: str, *words: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.services.fleet.dummy_fleet", modes]
        process = subprocess.Popen(
            [*command, "--state", str(short_path / "state"), *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_when_ready_programs_get_one_line(start: Start, short_path: Path) -> None:
    process = start("good,good", "--json")

    ready = json.loads(first_line(process))
    process.send_signal(signal.SIGTERM)
    rest, err = process.communicate(timeout=20)

    state = short_path / "state"
    assert ready["bus"] == f"ipc://{state}/bus"
    assert ready["state"] == str(state)
    assert ready["pid"] == process.pid
    settings = load_settings(state / "fleet" / "settings.toml")
    assert ready["api"] == f"http://127.0.0.1:{settings.api.port}"
    assert [(one["service"], one["instance"]) for one in ready["services"]] == [
        ("part-0", "1"),
        ("part-1", "1"),
    ]
    assert rest == ""
    assert process.returncode == 0
    assert "Consonance is ready on ipc://" in err
    assert not any(alive(one["pid"]) for one in ready["services"])


def test_people_get_nothing_on_standard_output(start: Start) -> None:
    process = start("good")
    assert process.stderr is not None
    seen = ""
    while "state in" not in seen:
        seen += process.stderr.readline()

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert out == ""
    assert process.returncode == 0
    assert "stopping" in err, "the process was asked, not killed"
    assert err.splitlines()[-1].split(maxsplit=1) == ["fleet", "The fleet has stopped."]


def test_a_second_signal_kills_at_once(start: Start) -> None:
    process = start("stubborn", "--json")
    first_line(process)

    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "once more" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=5)

    assert process.returncode == 130


def test_a_fleet_that_cannot_start_shows_why(start: Start, short_path: Path) -> None:
    process = start("good,crashes", "--json")

    out, err = process.communicate(timeout=30)

    assert process.returncode == 1
    assert out == ""
    assert err.splitlines()[-2:] == [
        "  | about to crash",
        "run_all.py: part-1-1 failed 2 times; at last it ended with exit code 1.",
    ]
    log = short_path / "state" / "logs" / "part-1-1.log"
    assert log.read_text() == "about to crash\n" * 2


def test_settings_that_only_a_process_can_refuse_are_refused_all_the_same(start: Start) -> None:
    process = start("good,refuses", "--json")

    out, err = process.communicate(timeout=30)

    assert process.returncode == 2
    assert out == ""
    assert err.splitlines()[-1] == "run_all.py: part-1-1 refused to start: my settings are wrong"


def test_every_process_gets_the_settings_in_force(start: Start, short_path: Path) -> None:
    config = short_path / "mine.toml"
    config.write_text("[monitor]\nbatch_size = 9\n[fleet]\nworkers = 2\nlog_format = 'json'\n")
    process = start("good", "--json", "--config", str(config), "--workers", "3")
    first_line(process)
    process.terminate()
    _, err = process.communicate(timeout=20)

    state = short_path / "state"
    settings = load_settings(state / "fleet" / "settings.toml")
    assert settings.monitor.batch_size == 9
    assert settings.fleet.workers == 3
    assert settings.fleet.state == str(state)
    assert settings.fleet.bus == f"ipc://{state}/bus"
    assert all(json.loads(line)["event"] for line in err.splitlines())


def test_the_state_can_be_used_again_after_a_kill(start: Start) -> None:
    killed = start("good", "--json")
    first_line(killed)
    killed.kill()
    killed.communicate()

    again = start("good", "--json")

    assert json.loads(first_line(again))["pid"] == again.pid
    again.terminate()
    again.communicate(timeout=20)
    assert again.returncode == 0
