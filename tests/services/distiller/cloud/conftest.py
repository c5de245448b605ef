"""Short waits, and one server for all tests."""

from collections.abc import Iterator

import pytest

from tests.services.distiller.cloud import kit


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.distiller.cloud.endpoint.FIRST_WAIT", 0.01)
    # Most of the time of making a client, and nothing here is asked over TLS.
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)


@pytest.fixture(scope="session", autouse=True)
def server() -> Iterator[None]:
    yield
    if kit.running.cache_info().currsize:
        kit.running().__exit__()
