"""The command as a whole: its help, its exit codes, and how soon it is there."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from services.command import main
from services.command.app import app
from services.command.errors import CODES
from services.errors import GaveUpError, RefusedError
from tests.services.command.conftest import ROOT, Run
from tests.services.command.fake_fleet import FakeFleet

FOREIGN = {"torch", "transformers", "zmq", "numpy", "pyarrow", "bus", "lora"}


def leaves(group: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command that there is, those that only hold others too."""
    yield words
    for name in group:
        if not name.startswith("-"):
            yield from leaves(group[name], (*words, name))


COMMANDS = [words for words in leaves(app) if words[:1] not in (("demo",), ("bench",))]
ON_A_FLEET = [
    "status",
    "status --watch --json",
    "encode q.txt",
    "feedback --query q --relevant a",
    "feedback f.jsonl",
    "watch",
    "skills list",
    "skills show bank",
    "skills history bank",
    "skills retire bank",
    "skills pin bank",
    "skills unpin bank",
    "skills forget bank --yes",
    "card export bank --out bank.lora.arrow",
    "journal tail",
    "journal replay",
    "journal heads",
    "journal erase --types feedback.given --where domain=bank --yes",
    "journal dead list",
    "journal dead retry --all",
    "journal dead drop 1 --yes",
    "peers",
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "consonance")
def test_every_help_page_tells_examples_and_exit_codes(run: Run, words: tuple[str, ...]) -> None:
    found = run(*words, "--help")

    assert (found.code, found.err) == (0, "")
    assert "Examples:" in found.out
    assert CODES in found.out
    examples = [line for line in found.out.splitlines() if line.startswith("    consonance ")]
    assert examples
    assert all(len(line) <= 80 for line in found.out.splitlines())


def test_the_examples_of_the_help_pages_are_commands() -> None:
    pages = {app.help_epilogue}
    for words in COMMANDS:
        group = app
        for word in words:
            group = group[word]
        pages.add(group.help_epilogue)
    for page in pages:
        text = re.sub(r"\\\n\s+", "", page)
        for line in re.findall(r"^    (?:.*\| )?consonance (.*)$", text, re.MULTILINE):
            given = shlex.split(re.split(r"[>|]", line)[0])
            app.parse_args(given, exit_on_error=False, print_error=False)


def test_help_is_there_at_once() -> None:
    """Neither torch nor ZeroMQ nor anything else that is slow to import."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "services.command", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in said.stderr.splitlines()}
    assert "cyclopts" in loaded
    assert not loaded & FOREIGN
    assert "Run a Consonance fleet" in said.stdout


def test_help_of_the_commands_loads_no_torch_and_no_sockets() -> None:
    code = (
        "import sys\n"
        "from services.command import main\n"
        "for word in sys.argv[1:]:\n"
        "    try:\n"
        "        main([word, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "print(sorted({'torch', 'zmq'} & set(sys.modules)))\n"
    )
    words = ["status", "encode", "feedback", "watch", "skills", "card", "journal", "evaluate", "up"]
    command = [sys.executable, "-c", code, *words]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


def test_the_script_is_this_command(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"consonance": "services.command:main"}
    assert run("--version").out.strip() == project["version"]


@pytest.mark.parametrize("words", ON_A_FLEET)
def test_without_a_fleet_it_is_one_sentence_and_exit_code_3(
    run: Run, tmp_path: Path, words: str
) -> None:
    (tmp_path / "q.txt").write_text("a\n")
    (tmp_path / "f.jsonl").write_text('{"query": "a", "relevant": ["b"]}\n')
    before = time.monotonic()

    code, out, err = run(*words.split(), "--state", tmp_path / "nobody")

    assert (code, out) == (3, "")
    assert re.fullmatch(r"consonance: no fleet runs at ipc:///.*\n", err)
    assert "`consonance up` starts one" in err
    assert time.monotonic() - before < 3
    assert not (tmp_path / "nobody").exists()
    assert not (tmp_path / "bank.lora.arrow").exists()


def test_a_broker_that_is_frozen_is_no_fleet(run: Run, short_path: Path) -> None:
    """It accepts connections and says nothing: the wait is bounded."""
    (short_path / "bus").mkdir(mode=0o700)
    sockets = []
    for name in ("ingress", "egress", "journal"):
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(short_path / "bus" / f"{name}.sock"))
        sockets[-1].listen()
    before = time.monotonic()

    code, _, err = run("journal", "heads", "--state", short_path)

    assert code == 3
    assert "nothing answers within 3 s" in err
    assert 2.5 < time.monotonic() - before < 6
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("bogus", "Unknown command"),
        ("status --bogus", "Unknown option"),
        ("status --every 0", "--every is from 0.2 to 3600 seconds"),
        ("watch --bus http://x", "expected ipc:///folder, tcp://host:port"),
        ("watch --bus ipc://relative", "needs an absolute folder"),
        ("watch --count 0", "--count is at least 1"),
        ("watch --after -1", "--after is a sequence"),
        ("journal tail -n 0", "--number is at least 1"),
        ("journal replay --after -1", "--after is a sequence"),
        ("skills forget Bank --yes", "no domain's name"),
        (
            "bench nothing",
            "there is no benchmark 'nothing'; known are bus, cards, encode, federation, gate",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(run: Run, words: str, why: str) -> None:
    code, out, err = run(*words.split())

    assert (code, out) == (2, "")
    assert err.startswith("consonance: ")
    assert err.count("\n") == 1
    assert why in err


def test_over_tcp_without_a_key_the_key_is_asked_for(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code, _, err = run("watch", "--bus", f"tcp://127.0.0.1:{port}")
    assert code == 2
    assert "CONSONANCE_KEY" in err


def test_the_bus_of_the_environment_goes_before_the_default_folder(
    run: Run, fleet: FakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSONANCE_BUS", fleet.url)
    assert run("skills", "list").code == 0
    assert run("skills", "list", "--state", "nobody").code == 3
    assert run("skills", "list", "--bus", f"{fleet.url}x").code == 3


def test_the_settings_in_force_tell_the_bus(run: Run, fleet: FakeFleet, tmp_path: Path) -> None:
    (tmp_path / "s/fleet").mkdir(parents=True)
    (tmp_path / "s/fleet/settings.toml").write_text(f'[fleet]\nbus = "{fleet.url}"\n')
    assert run("skills", "list", "--state", "s").code == 0
    (tmp_path / "s/fleet/settings.toml").write_text("[nonsense]\n")
    code, _, err = run("skills", "list", "--state", "s")
    assert code == 2
    assert "nonsense is no section" in err


def test_up_is_run_all(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("up", "--print-config", "--workers", "3")
    assert code == 0
    assert "workers = 3" in out
    code, _, err = run("up", "--model", "./nowhere")
    assert code == 2
    assert err == "consonance: The model folder ./nowhere does not exist.\n"
    assert not (tmp_path / ".consonance").exists()


@pytest.mark.parametrize(("refused", "code"), [(False, 1), (True, 2)], ids=["failed", "refused"])
def test_a_fleet_that_gives_up_shows_why(
    run: Run, monkeypatch: pytest.MonkeyPatch, refused: bool, code: int
) -> None:
    def fail(*_: object, **__: object) -> int:
        kind = RefusedError if refused else GaveUpError
        raise kind("router-1 failed 5 times.", ('{"event": "it burns", "level": "error"}',))

    monkeypatch.setattr("services.fleet.cli._serve", fail)
    found = run("up")
    assert (found.code, found.out) == (code, "")
    last, why = found.err.splitlines()
    assert "it burns" in last
    assert why == "consonance: router-1 failed 5 times."


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise RuntimeError("nobody thought of that")

    monkeypatch.setattr("services.fleet.cli._serve", fail)
    with pytest.raises(RuntimeError, match="nobody thought of that"):
        main(["up"])


def test_demo_and_bench_are_those_of_the_checkout(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("demo.__main__", "benchmarks.gate.__main__"):  # other tests may have imported them
        monkeypatch.delitem(sys.modules, name, raising=False)
    code, out, _ = run("demo", "--help")
    assert code == 0
    assert "--feedback" in out
    code, out, _ = run("bench")
    assert code == 0
    assert "learning" in out.split()
    code, out, _ = run("bench", "gate", "--help")
    assert code == 0
    assert "benchmarks.gate" in out
    code, _, err = run("demo", "--feedback", "1")
    assert code == 2
    assert "should be at least 32" in err


def test_where_there_is_no_checkout_they_say_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("services.command.checkout.ROOT", tmp_path)
    for words in (["demo"], ["demo", "--help"], ["bench"], ["bench", "gate"]):
        code, out, err = run(*words)
        assert (code, out) == (2, "")
        assert "run this in a checkout of Consonance" in err


def test_completion_is_written_for_a_shell(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("--install-completion", "--shell", "fish").code == 0
    written = "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert "encode" in written
    assert "--role" in written
