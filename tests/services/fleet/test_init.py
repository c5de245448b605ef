"""What is made before the first process of a fleet that nobody supervises."""

import asyncio
import os
import stat
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bus import NotPermitted, connect
from bus.broker import Broker
from bus.security import read_public
from schemas import SkillPublished
from services.fleet.init import initialise, main
from tests.bus.kit import free_port

ROOT = Path(__file__).resolve().parents[3]
BUS = "tcp://broker:5550"


async def health(service: str, environment: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit code and words of the check that runs in a container."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.fleet.health", "--service", service),
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_doing_it_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    words = ["--state", str(state), "--bus", BUS]

    assert main(words) == 0
    said, made = capsys.readouterr().out, contents(state)
    assert main(words) == 0

    assert capsys.readouterr().out == said
    assert contents(state) == made
    assert said.splitlines() == [
        f"CONSONANCE_BUS={BUS}",
        f"CONSONANCE_KEY={state}/keys",
        f"CONSONANCE_SERVER_KEY={state}/keys/broker.key",
    ]
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    for name in ("broker", "router", "encoder", "api", "fleet", "consonance"):
        assert stat.S_IMODE((state / "keys" / f"{name}.key_secret").stat().st_mode) == 0o600


def test_several_that_do_it_at_once_get_the_same_keys(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: initialise(tmp_path / "state", BUS), range(8)))
    assert all(one == made[0] for one in made)


async def test_a_start_that_was_cut_off_between_pair_and_admission_or_knew_no_roles_is_mended(
    short_path: Path,
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    initialise(short_path, url)
    (short_path / "keys" / "clients" / "router.key").unlink()
    (short_path / "keys" / "clients" / "encoder.key").write_bytes(
        b'curve\n    public-key = "%s"\n' % read_public(short_path / "keys" / "encoder.key_secret")
    )  # as a version that knew no roles wrote it

    made = initialise(short_path, url)

    async with Broker(url, short_path):
        keys = {"key": made["CONSONANCE_KEY"], "server_key": made["CONSONANCE_SERVER_KEY"]}
        for source in ("/router/1", "/encoder/7"):
            async with await connect(url, source=source, **keys) as bus:
                assert await bus.heads() == {}
                async with bus.consume("a-group", SkillPublished):
                    pass


async def test_processes_join_with_what_it_prints_and_nobody_without(
    short_path: Path,
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    made = initialise(short_path / "state", url)
    other = initialise(short_path / "other", url)

    async with Broker(url, short_path / "state"):
        with pytest.raises(NotPermitted):
            await connect(
                url,
                source="/router/1",
                patience=20,
                key=other["CONSONANCE_KEY"],
                server_key=made["CONSONANCE_SERVER_KEY"],
            )
        assert await health("broker", made) == (0, "")


def test_for_a_bus_in_a_folder_no_keys_are_made(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(short_path)]) == 0
    assert capsys.readouterr().out == f"CONSONANCE_BUS=ipc://{short_path}/bus\n"
    assert stat.S_IMODE((short_path / "bus").stat().st_mode) == 0o700
    assert not (short_path / "keys").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--bus", "udp://broker:1"],
            "init: The bus udp://broker:1 must be ipc:///FOLDER, tcp://HOST:PORT or nats",
        ),
        (["--bus", BUS, "--config", "gone.toml"], "init: gone.toml cannot be read: No such file"),
        (["--bus", BUS, "--state", "/proc/none"], "init: The state folder /proc/none cannot be us"),
    ],
    ids=["bus", "settings", "state"],
)
def test_a_refusal_is_one_sentence(
    tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--state", str(tmp_path / "state"), *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(sentence)
    assert said.count("\n") == 1
    assert not (tmp_path / "state").exists()


def test_a_model_that_is_not_there_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('[fleet]\nmodel = "/gone"\n')
    assert main(["--state", str(tmp_path / "state"), "--config", str(settings)]) == 2
    assert capsys.readouterr().err == "init: The model folder /gone does not exist.\n"
    assert not (tmp_path / "state").exists()
