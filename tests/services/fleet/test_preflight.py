"""Whatever can be known to be wrong is one sentence, before anything starts."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.errors import FleetRunningError, PreflightError
from services.fleet import preflight
from services.runtime import api_address
from services.runtime.settings import ApiSettings

ROOT = Path(__file__).resolve().parents[3]


def run_all(*words: object, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_all.py"), *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        timeout=50,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def three_ports() -> Iterator[int]:
    """The first of three free ports in a row, the middle one of which is taken."""
    for first in range(20_000, 60_000, 7):
        with socket.socket() as taken:
            try:
                preflight.check_free(f"tcp://127.0.0.1:{first}", patience=0)
                taken.bind(("127.0.0.1", first + 1))
            except (OSError, PreflightError):
                continue
            taken.listen()
            yield first
            return
    pytest.fail("no three free ports")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "fleet.workers must be a whole number from 1 to 256"),
        (["--workers", "many"], "Invalid value for --workers"),
        (["--worker", "2"], "Unknown option: --worker"),
        (["--model", "/no/such/model"], "The model folder /no/such/model does not exist."),
        (["--model", "nobody/nothing"], "neither a folder nor in the cache"),
        (["--config", "/no/such.toml"], "/no/such.toml cannot be read: No such file"),
        (["--model", "name with spaces"], "neither a folder nor in the cache"),
        (["--model", str(ROOT / "tests")], "holds no model: neither modules.json nor config.json"),
        (["--bus", "amqp://here"], "must be ipc:///FOLDER, tcp://HOST:PORT or nats"),
        (["--bus", "nats://me:secret@here"], "must not have a password"),
        (["--bus", "nats://127.0.0.1:no"], "has no usable port"),
    ],
)
def test_a_wrong_start_is_one_sentence_and_leaves_nothing(
    short_path: Path, words: list[str], sentence: str
) -> None:
    state = short_path / "state"

    code, out, err = run_all("--state", state, *words)

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err
    assert not state.exists()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    state = tmp_path / ("x" * 100)

    code, _, err = run_all("--state", state)

    assert code == 2
    assert err.count("\n") == 1
    assert "the system allows" in err
    assert not state.exists()


def test_the_longest_path_that_fits_is_taken(short_path: Path) -> None:
    room = preflight.LONGEST_SOCKET_PATH - len(os.fsencode(short_path)) - len("//ingress.sock")
    fits, too_long = short_path / ("x" * room), short_path / ("x" * (room + 1))

    assert preflight.bus_url(f"ipc://{fits}", short_path) == f"ipc://{fits}"
    with pytest.raises(PreflightError, match=rf"{preflight.LONGEST_SOCKET_PATH + 1} bytes"):
        preflight.bus_url(f"ipc://{too_long}", short_path)


def test_two_fleets_do_not_share_a_state_folder(short_path: Path) -> None:
    with preflight.locked(preflight.state_folder(short_path)):
        code, _, err = run_all("--state", short_path)

        assert code == 2
        assert f"A fleet (process {os.getpid()}) runs on {short_path} already" in err
        assert err.count("\n") == 1
    with preflight.locked(short_path):
        pass  # free again


def test_the_lock_names_who_holds_it(short_path: Path) -> None:
    with (
        preflight.locked(short_path),
        pytest.raises(FleetRunningError, match=f"process {os.getpid()}"),
        preflight.locked(short_path),
    ):
        pass


def test_a_port_in_use_is_named_and_leaves_nothing(short_path: Path, three_ports: int) -> None:
    state = short_path / "deep" / "state"

    code, _, err = run_all("--state", state, "--bus", f"tcp://127.0.0.1:{three_ports}")

    assert code == 2
    assert f"cannot bind port {three_ports + 1} of 127.0.0.1" in err
    assert "Address already in use" in err
    assert err.count("\n") == 1
    assert list(short_path.iterdir()) == []


def test_a_refused_start_leaves_a_folder_that_was_there_as_it_was(
    short_path: Path, three_ports: int
) -> None:
    (short_path / "keys").mkdir()

    code, _, _ = run_all("--state", short_path, "--bus", f"tcp://127.0.0.1:{three_ports}")

    assert code == 2
    assert [each.name for each in short_path.iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("blocked", "sentence"),
    [("fleet.lock/", "Is a directory"), ("logs", "File exists"), ("fleet", "File exists")],
)
def test_a_state_folder_that_cannot_be_written_is_one_sentence(
    short_path: Path, blocked: str, sentence: str
) -> None:
    place = short_path / blocked
    place.mkdir() if blocked.endswith("/") else place.touch()

    code, out, err = run_all("--state", short_path)

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert f"The state folder {short_path} cannot be written: {sentence}" in err


def test_a_start_that_fails_for_want_of_room_takes_away_what_it_has_made(short_path: Path) -> None:
    state = short_path / "deep" / "state"

    def fill() -> None:
        with preflight.claimed(state):
            (state / "fleet").mkdir()
            (state / "fleet" / "settings.toml").touch()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PreflightError, match="cannot be written: No space left on device"):
        fill()

    assert list(short_path.iterdir()) == []


def test_what_runs_already_is_never_taken_away(short_path: Path) -> None:
    state = short_path / "state"

    def run() -> None:
        with preflight.claimed(state) as keep:
            (state / "journal.sqlite").touch()
            keep()
            raise PreflightError("much later")

    with pytest.raises(PreflightError, match="much later"):
        run()

    assert (state / "journal.sqlite").exists()


def test_a_home_folder_that_nobody_has_is_one_sentence() -> None:
    code, _, err = run_all("--state", "~nobody-at-all/state")

    assert (code, err.count("\n")) == (2, 1)
    assert "There is no home folder for ~nobody-at-all/state." in err


@pytest.mark.parametrize("url", ["tcp://", "tcp://host", "tcp://host:x", "tcp://:5550", "ipc://a"])
def test_an_address_must_be_whole(url: str, tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="must name"):
        preflight.bus_url(url, tmp_path)


def test_a_broker_that_answers_on_the_same_sockets_is_noticed(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(short_path / "egress.sock"))
        preflight.check_free(f"ipc://{short_path}", patience=0)  # left over, nobody listens
        other.listen()

        with pytest.raises(PreflightError, match=r"Another broker answers on .*egress\.sock"):
            preflight.check_free(f"ipc://{short_path}", patience=0)


def test_the_state_folder_is_for_its_owner_alone(short_path: Path) -> None:
    made = preflight.state_folder(short_path / "deep" / "state")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700

    made.chmod(0o755)
    preflight.state_folder(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700, "empty: it can only be meant for us"


def test_a_folder_of_other_things_is_not_taken_over(short_path: Path) -> None:
    (short_path / "letter.txt").touch()
    short_path.chmod(0o755)

    with pytest.raises(PreflightError, match="must belong to you alone"):
        preflight.state_folder(short_path)

    assert stat.S_IMODE(short_path.stat().st_mode) == 0o755


def test_a_state_folder_that_is_a_file_is_refused(short_path: Path) -> None:
    (short_path / "state").touch()
    with pytest.raises(PreflightError, match="cannot be used: File exists"):
        preflight.state_folder(short_path / "state")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="holds no model"):
        preflight.check_model(str(tmp_path))

    (tmp_path / "config.json").touch()
    with pytest.raises(PreflightError, match="holds no model weights"):
        preflight.check_model(str(tmp_path))

    (tmp_path / "model.safetensors").touch()
    preflight.check_model(str(tmp_path))
    preflight.check_model(None)


def test_a_hub_id_must_lie_whole_in_the_cache_when_there_is_no_network(tmp_path: Path) -> None:
    for name in ("small", "broken"):
        cached = tmp_path / f"models--sentence-transformers--{name}"
        snapshot = cached / "snapshots" / ("a" * 40)
        (cached / "refs").mkdir(parents=True)
        snapshot.mkdir(parents=True)
        (cached / "refs" / "main").write_text("a" * 40)
        (snapshot / "config.json").touch()
        if name == "small":
            (snapshot / "model.safetensors").touch()
    (tmp_path / "models--sentence-transformers--empty").mkdir()
    script = """
import sys
from services.errors import PreflightError
from services.fleet.preflight import check_model
for name in sys.argv[1:]:
    try:
        check_model(name)
        print("taken")
    except PreflightError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, "small", "broken", "empty", "large"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        timeout=50,
    )

    assert done.stderr == ""
    small, *others = done.stdout.splitlines()
    assert small == "taken"
    assert [line for line in others if "nor in the cache" in line or "no model" in line] == others
    assert len(others) == 3


def test_the_apis_port_is_chosen_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with preflight.api_door(ApiSettings(enabled=False)) as none:
        assert none is None
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(api_address, "PORT", port)

        with preflight.api_door(ApiSettings()) as other:
            assert other is not None
            assert other.getsockname()[1] != port
        with (
            pytest.raises(PreflightError, match=rf"port {port} of 127\.0\.0\.1: it is in use"),
            preflight.api_door(ApiSettings(port=port)),
        ):
            pass

    with preflight.api_door(ApiSettings()) as usual:
        assert usual is not None
        assert usual.getsockname()[1] == port, "where it is free"


def test_a_port_of_the_api_that_is_taken_is_refused(short_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = short_path / "settings.toml"
        config.write_text(f"[api]\nport = {port}\n")
        code, out, err = run_all("--state", short_path / "state", "--config", config)

    assert (code, out) == (2, "")
    assert err == (
        f"run_all.py: The API cannot bind port {port} of 127.0.0.1: it is in use; set api.port.\n"
    )
    assert not (short_path / "state").exists(), "what was refused leaves nothing"


def test_help_teaches_by_examples() -> None:
    code, out, _ = run_all("--help")

    assert code == 0
    assert "python run_all.py --workers 4" in out
    assert "Exit codes" in out


def test_the_settings_in_force_can_be_printed_and_read_again(tmp_path: Path) -> None:
    code, out, _ = run_all("--print-config", "--workers", "3")
    assert code == 0
    path = tmp_path / "settings.toml"
    path.write_text(out)

    code, again, _ = run_all("--print-config", "--config", path)

    assert code == 0
    assert again == out
    assert "\nworkers = 3\n" in out
    assert json.dumps(".consonance") in out
