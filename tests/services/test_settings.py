"""Settings: defaults, files, overrides, and a sentence for everything that is wrong."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.settings import BrokerSettings
from services.errors import SettingsError
from services.runtime.settings import (
    BusSettings,
    EncoderSettings,
    FactorySettings,
    FleetSettings,
    MonitorSettings,
    Settings,
    load_settings,
)
from services.runtime.settings_fields import fields_of
from services.runtime.settings_text import markdown, to_toml

ROOT = Path(__file__).resolve().parents[2]
Write = Callable[[str], Path]
SECTIONS = {info.name: info.type for info in msgspec.structs.fields(Settings)}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "settings.toml"
        path.write_text(text, "utf-8")
        return path

    return write


def test_without_a_file_everything_has_its_default() -> None:
    assert load_settings() == Settings()


def test_a_file_changes_what_it_names_and_overrides_go_before_it(write: Write) -> None:
    path = write("[monitor]\nbatch_size = 8\ntau = 1\n[fleet]\nworkers = 3\n")

    settings = load_settings(path, {"fleet.workers": 5, "fleet.model": None})

    assert settings.monitor == MonitorSettings(batch_size=8, tau=1.0)
    assert settings.fleet == FleetSettings(workers=5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[monitr]\n", "monitr is no section; did you mean monitor?"),
        ("[monitor]\nbatchsize = 3", "batchsize is no key of [monitor]; did you mean batch_size?"),
        ("[bus]\nzzz = 3", "known are free_lapses, heartbeat_seconds, maintenance_seconds,"),
        (
            "[monitor]\nbatch_size = 'many'",
            "monitor.batch_size must be a whole number from 1 to 4_096, not 'many'.",
        ),
        (
            "[monitor]\ntau = 0",
            "monitor.tau must be a number above 0, not 0.",
        ),
        ("[fleet]\nworkers = true", "fleet.workers must be a whole number from 1 to 256"),
        ("[fleet]\nlog_level = 'loud'", '"debug", "info", "warning" or "error", not \'loud\'.'),
        ("[fleet]\nstate = ''", "fleet.state must be a text that is not empty, not ''."),
        ("monitor = 3", "monitor must be a section, written [monitor]."),
        ("[monitor\n", "is not valid TOML"),
        ("[monitor]\nbatch_min = 20", "in [monitor], batch_min must not be above batch_size."),
        ("[fleet]\nbackoff_max = 0.1", "in [fleet], backoff_max must not be below backoff_first."),
    ],
)
def test_whatever_is_wrong_is_said_in_one_sentence(write: Write, text: str, sentence: str) -> None:
    path = write(text)

    with pytest.raises(SettingsError, match=re.escape(sentence)) as caught:
        load_settings(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml cannot be read: No such file"):
        load_settings(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"binary\.toml is not valid TOML"):
        load_settings(tmp_path / "binary.toml")


def test_an_override_is_checked_like_a_file() -> None:
    with pytest.raises(SettingsError, match=r"fleet\.workers must be a whole number"):
        load_settings(None, {"fleet.workers": 0})
    with pytest.raises(SettingsError, match="flet is no section; did you mean fleet"):
        load_settings(None, {"flet.workers": 1})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_explained_and_its_default_is_allowed(section: str) -> None:
    for field in fields_of(SECTIONS[section]):
        assert field.text.endswith((".", "...")), field.name
        assert msgspec.convert(field.default, field.kind) == field.default


@given(
    workers=st.none() | st.integers(1, 256),
    tau=st.floats(1e-6, 1e6),
    state=st.text(st.characters(codec="utf-8"), min_size=1),
    retention=st.integers(2 << 20, 1 << 60),
)
def test_settings_written_out_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    workers: int | None,
    tau: float,
    state: str,
    retention: int,
) -> None:
    settings = load_settings(
        None,
        {
            "fleet.workers": workers,
            "monitor.tau": tau,
            "fleet.state": state,
            "bus.retention_bytes": retention,
        },
    )
    path = tmp_path_factory.getbasetemp() / "again.toml"
    for explain in (True, False):
        path.write_text(to_toml(settings, explain=explain), "utf-8")
        assert load_settings(path) == settings


@pytest.mark.docs
def test_the_page_of_settings_is_true() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert page == markdown(), "renew it: python -m services.runtime.settings_text docs/settings.md"


def test_defaults_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers, threads in ((1, 1, 1), (2, 2, 1), (16, 2, 8)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert FleetSettings().worker_count == workers
        assert EncoderSettings().threads_for(workers) == threads
        assert FactorySettings().thread_count == cores
    assert EncoderSettings(threads=3).threads_for(8) == 3


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_read_by_somebody(section: str) -> None:
    """A setting that nothing reads is a promise that nothing keeps."""
    code = "\n".join(
        path.read_text("utf-8")
        for path in [*(ROOT / "services").rglob("*.py"), *(ROOT / "bus").rglob("*.py")]
        if not path.name.startswith("settings")
    )
    properties = {"workers": "worker_count", "threads": "(threads_for|thread_count)"}
    unread = [
        field.name
        for field in fields_of(SECTIONS[section])
        if not re.search(rf"\.{properties.get(field.name, field.name)}\b", code)
    ]
    assert not unread


def test_the_broker_reads_the_same_table() -> None:
    """It must not import the services, so it declares its keys itself."""
    ours, its = BusSettings(), BrokerSettings()
    assert msgspec.structs.asdict(ours) == msgspec.structs.asdict(its)
