"""The key is found where it should be, and found nowhere else."""

import copy
import io
import logging
import pickle
import traceback
from pathlib import Path

import pytest
import structlog

from services.distiller.cloud import CloudDistiller
from services.distiller.cloud.errors import TeacherSettingsError
from services.distiller.cloud.key import Secret, is_loopback, secret_of
from services.runtime.logs import configure
from services.runtime.settings import TeacherSettings
from tests.services.distiller.cloud.kit import KEY, MATERIAL, serving, settings, teaching
from tests.standin import faults

CLOUD = "https://api.example.org/v1"


def file(folder: Path, text: str = KEY + "\n", mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return str(path)


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    cloud = TeacherSettings(base_url=CLOUD, key_env="MY_KEY", key_file=file(tmp_path))

    assert secret_of(cloud, {"MY_KEY": "sk-other"}).reveal() == "sk-other"
    assert secret_of(cloud, {"OPENAI_API_KEY": "sk-other"}).reveal() == KEY


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://api.openai.com.example.org/v1", False),
        ("https://notopenai.com/v1", False),
        ("http://localhost:8000/v1", False),
    ],
)
def test_openai_s_own_key_goes_to_openai_alone_unless_it_is_named(url: str, sent: bool) -> None:
    environ = {"OPENAI_API_KEY": KEY}
    named = TeacherSettings(base_url=url, key_env="OPENAI_API_KEY")

    assert secret_of(named, environ).reveal() == KEY
    if sent:
        assert secret_of(TeacherSettings(base_url=url), environ).reveal() == KEY
    elif is_loopback(url):
        assert secret_of(TeacherSettings(base_url=url), environ).reveal() is None
    else:
        with pytest.raises(TeacherSettingsError, match=r"teacher\.key_env"):
            secret_of(TeacherSettings(base_url=url), environ)


@pytest.mark.parametrize("url", [CLOUD, "http://localhost:8000/v1"])
def test_a_variable_that_is_named_and_not_set_is_refused(url: str) -> None:
    """Also on this machine: whoever names a key has a server that wants one."""
    with pytest.raises(TeacherSettingsError, match=r"variable .* is not set: MY_KEY"):
        secret_of(TeacherSettings(base_url=url, key_env="MY_KEY"), {"MY_KEY": " "})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    cloud = TeacherSettings(base_url=CLOUD, key_file=file(tmp_path, mode=mode))

    with pytest.raises(TeacherSettingsError, match="can be read by others") as refused:
        secret_of(cloud, {})
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("text", ["", " \n", "two words", "sk-ü", "sk-\x07"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(TeacherSettingsError):
        secret_of(TeacherSettings(base_url=CLOUD, key_file=file(tmp_path, text)), {})


@pytest.mark.parametrize("given", ["key_env", "key_file"])
@pytest.mark.parametrize("key", ["sk-planted-1", "gsk_planted2", "planted.key3"])
def test_a_key_put_where_its_name_belongs_is_not_shown(given: str, key: str) -> None:
    with pytest.raises(TeacherSettingsError) as refused:
        secret_of(TeacherSettings(base_url=CLOUD, **{given: key}), {})
    trace = "".join(traceback.format_exception(refused.value))
    assert f"teacher.{given}" in str(refused.value)
    assert key not in trace


@pytest.mark.parametrize("url", ["https://sk-planted@host/v1", "https://host/v1?key=sk-planted"])
def test_an_address_with_a_key_in_it_is_refused_unshown(tmp_path: Path, url: str) -> None:
    with pytest.raises(TeacherSettingsError, match="without a name") as refused:
        CloudDistiller(TeacherSettings(base_url=url, model="m"), tmp_path, environ={})
    assert "planted" not in str(refused.value)


def test_a_missing_key_is_asked_for_by_name(tmp_path: Path) -> None:
    with pytest.raises(TeacherSettingsError, match=r"api\.openai\.com .* OPENAI_API_KEY"):
        secret_of(TeacherSettings(), {})
    with pytest.raises(TeacherSettingsError, match="cannot be read"):
        secret_of(TeacherSettings(base_url=CLOUD, key_file=str(tmp_path / "none")), {})


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost:11434/v1", True),
        ("http://localhost.example.org/v1", False),
        ("http://192.168.0.7/v1", False),
    ],
)
def test_a_server_on_this_machine_needs_no_key(url: str, own: bool) -> None:
    assert is_loopback(url) == own
    if own:
        assert secret_of(TeacherSettings(base_url=url), {}).reveal() is None


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(KEY)

    assert KEY not in f"{secret} {secret!r} {[secret]}"
    assert secret.hide(f"provided: {KEY}.") == "provided: [key]."
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(secret)


async def test_the_key_is_sent_and_stands_nowhere_else(tmp_path: Path) -> None:
    """Not in logs at any level, whatever a server quotes; not in reasons, repr or the store."""
    heard = io.StringIO()
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    configure("distiller", "1", "debug", json=True, stream=heard)
    try:
        with serving(key=KEY) as server:
            server.script(
                faults.status(500, f"what is {KEY}?"),
                faults.status(400, f"what is {KEY}?"),
                faults.garbage,
            )
            async with teaching(
                server, tmp_path, key=KEY, embedding_model="embedder", concurrency=1
            ) as teacher:
                first = await teacher.teach(MATERIAL)
                shown = f"{teacher} {teacher!r} {first}"
            async with teaching(server, tmp_path, key="sk-wrong-9876543210") as teacher:
                wrong = await teacher.teach(MATERIAL)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()

    assert first.pairs
    assert "[key]" in (first.reason or "")
    assert "refused the API key" in (wrong.reason or "")
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert stored
    assert "distiller" in heard.getvalue()
    for key in (KEY, "sk-wrong-9876543210"):
        for text in (heard.getvalue(), shown, str(wrong), stored.decode("latin-1")):
            assert key not in text


async def test_nothing_else_of_the_user_s_account_goes_to_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
    for name in names:
        monkeypatch.setenv(name, f"private-{name}")
    with serving() as server:
        teacher = CloudDistiller(settings(server), tmp_path)
        try:
            found = await teacher.teach(MATERIAL)
        finally:
            await teacher.aclose()

    assert found.pairs
    assert server.headers
    assert "private" not in str(server.headers)


async def test_without_a_key_the_process_does_not_begin(tmp_path: Path) -> None:
    cloud = TeacherSettings(base_url=CLOUD, model="m")
    with pytest.raises(TeacherSettingsError, match="needs an API key"):
        CloudDistiller(cloud, tmp_path, environ={})
    assert not list(tmp_path.iterdir())
