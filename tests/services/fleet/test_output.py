"""What people and programs read of a fleet."""

import io
import json
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest

from services.fleet.output import LogFile, Output, in_words
from services.fleet.plan import Part, plan
from services.fleet.supervisor import Supervisor
from services.runtime.settings import ApiSettings, FederationSettings, FleetSettings, Settings

PART = Part("encoder", "2", ())
LINE = json.dumps(
    {
        "service": "encoder",
        "instance": "2",
        "card": "banking",
        "event": "loaded",
        "level": "warning",
        "timestamp": "2026-01-02T03:04:05.678901Z",
    }
)


def test_a_structured_line_is_put_in_words() -> None:
    assert in_words(LINE) == ("warning", "03:04:05 warning loaded  card=banking")


def test_a_traceback_keeps_its_lines() -> None:
    line = json.dumps({"event": "broke", "level": "error", "exception": "Traceback\n  boom"})
    assert in_words(line) == ("error", "error   broke\nTraceback\n  boom")


def test_a_line_that_is_no_json_is_what_it_is() -> None:
    for line in ("hello", "{broken", '{"no": "event"}', ""):
        assert in_words(line) == ("info", line)


def test_lines_bear_the_name_of_their_process(tmp_path: Path) -> None:
    stream = io.StringIO()
    output = Output(tmp_path, stream=stream)

    output.line(PART, LINE)
    output.line(PART, "[plain] text")
    output.say("Starting.")
    output.close()

    shown = [line.split(maxsplit=1) for line in stream.getvalue().splitlines()]
    assert shown == [
        ["encoder-2", "03:04:05 warning loaded  card=banking"],
        ["encoder-2", "[plain] text"],
        ["fleet", "Starting."],
    ]
    assert (tmp_path / "encoder-2.log").read_text() == f"{LINE}\n[plain] text\n"
    assert (tmp_path / "fleet.log").read_text() == "Starting.\n"


def test_programs_get_json_whatever_a_process_wrote(tmp_path: Path) -> None:
    stream = io.StringIO()
    output = Output(tmp_path, "json", stream)

    output.line(PART, LINE)
    output.line(PART, "plain")
    output.say("Careful.", "warning")
    output.close()

    first, second, third = map(json.loads, stream.getvalue().splitlines())
    assert first["card"] == "banking"
    assert (second["service"], second["instance"], second["event"]) == ("encoder", "2", "plain")
    assert (third["service"], third["level"]) == ("fleet", "warning")


def test_a_log_file_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "one.log"
    file = LogFile(path, limit=100)
    for number in range(50):
        file.write(f"line {number:04}")
    file.close()

    kept = (tmp_path / "one.log.1").read_text() + path.read_text()
    assert kept.endswith("line 0049\n")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one.log", "one.log.1"]
    assert path.stat().st_size <= 120


def test_the_plan_begins_with_the_broker_and_numbers_the_encoders(tmp_path: Path) -> None:
    settings = Settings(fleet=FleetSettings(workers=3))

    parts = plan(settings, state=tmp_path, bus="ipc:///b", config=tmp_path / "s.toml")

    assert parts[0].service == "broker"
    names = [part.name for part in parts]
    assert [name for name in names if name.startswith("enc")] == [f"encoder-{i}" for i in (1, 2, 3)]
    assert len(set(names)) == len(names)
    for part in parts[1:]:
        words = part.command[part.command.index(f"services.{part.service}") :]
        assert words[1:] == (
            *("--state", str(tmp_path), "--bus", "ipc:///b"),
            *("--instance", part.instance, "--config", str(tmp_path / "s.toml")),
        )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_that_goes_away_stops_nothing(
    tmp_path: Path, form: Literal["text", "json"]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8", closefd=True) as stream:
        output = Output(tmp_path, form, stream)
        for number in range(3):
            output.line(PART, f"line {number}")
        output.say("Still here.")
        output.close()
        os.dup2(devnull := os.open(os.devnull, os.O_WRONLY), write)  # what is left goes there
        os.close(devnull)

    assert (tmp_path / "encoder-2.log").read_text() == "line 0\nline 1\nline 2\n"


def test_the_table_shows_every_process(tmp_path: Path) -> None:
    stream = io.StringIO()
    output = Output(tmp_path, stream=stream)
    parts = plan(Settings(fleet=FleetSettings(workers=2)), state=tmp_path, bus="b", config=tmp_path)
    fleet = Supervisor(parts, FleetSettings(), listen=nullcontext, reporter=output)

    output.status(fleet.keepers, "ipc:///b", tmp_path, "http://127.0.0.1:8321")
    output.close()

    assert stream.getvalue().count("encoder") == 2
    assert "ipc:///b" in stream.getvalue()
    assert stream.getvalue().endswith("Its page is at http://127.0.0.1:8321/\n")


def test_a_fleet_without_the_api_tells_of_no_page(tmp_path: Path) -> None:
    stream = io.StringIO()
    output = Output(tmp_path, "json", stream)

    output.status((), "ipc:///b", tmp_path, None)
    output.status((), "ipc:///b", tmp_path, "http://[::1]:9")
    output.close()

    without, with_it = (json.loads(line)["event"] for line in stream.getvalue().splitlines())
    assert without == "The fleet is ready on ipc:///b."
    assert with_it == "The fleet is ready on ipc:///b. Its page is at http://[::1]:9/"


@pytest.mark.parametrize(
    ("service", "off"),
    [
        ("federation", Settings(federation=FederationSettings(enabled=False))),
        ("api", Settings(api=ApiSettings(enabled=False))),
    ],
)
def test_a_door_that_is_shut_has_no_process(tmp_path: Path, service: str, off: Settings) -> None:
    def services(settings: Settings) -> set[str]:
        return {part.service for part in plan(settings, state=tmp_path, bus="b", config=tmp_path)}

    assert services(Settings()) - services(off) == {service}


def test_the_api_is_stopped_first(tmp_path: Path) -> None:
    """What is being answered needs all the others."""
    assert plan(Settings(), state=tmp_path, bus="b", config=tmp_path)[-1].service == "api"
