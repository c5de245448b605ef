"""Where the API listens, and whether others reach it there."""

from __future__ import annotations

import os
import re
import socket

import pytest

from services.errors import SettingsError
from services.runtime import api_address
from services.runtime.api_address import SOCKET, bound, handed, is_loopback, listening, url_of
from services.runtime.settings_api import ApiSettings


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST.", "::1%lo"]
)
def test_these_are_this_machines_alone(host: str) -> None:
    assert is_loopback(host)


EVERYWHERE = "0.0.0.0"  # noqa: S104 (nothing is bound there)


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "::", "192.168.1.2", "10.0.0.1", "no-such-host.invalid", "fe80::1%eth0"]
)
def test_these_are_not(host: str) -> None:
    assert not is_loopback(host)


def test_a_name_is_as_far_as_the_farthest_address_it_means(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def both(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(0, 0, 0, "", (host, 0)) for host in ("127.0.0.1", "192.168.1.2")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert not is_loopback("myself")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8321"),
        ("localhost", "http://localhost:8321"),
        ("::1", "http://[::1]:8321"),
        ("[::1]", "http://[::1]:8321"),
        (EVERYWHERE, "http://127.0.0.1:8321"),
        ("::", "http://[::1]:8321"),
        ("192.168.1.2", "http://192.168.1.2:8321"),
    ],
)
def test_a_url_is_one_that_can_be_opened_here(host: str, url: str) -> None:
    assert url_of(host, 8321) == url


def test_of_two_that_start_at_once_each_has_a_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bind the same port, as long as neither listens."""
    with bound(ApiSettings()) as quicker, bound(ApiSettings(host="127.0.0.5")) as free:
        port = quicker.getsockname()[1]
        monkeypatch.setattr(api_address, "PORT", port)
        answers = [free, bound(ApiSettings(port=port))]
        quicker.listen()
        monkeypatch.setattr(api_address, "bound", lambda _: answers.pop())
        with listening(ApiSettings()) as door:
            assert door is free


def test_a_door_that_was_handed_over_is_the_same_one() -> None:
    with listening(ApiSettings()) as door, socket.socket(fileno=os.dup(door.fileno())) as copy:
        taken = handed({SOCKET: str(copy.detach())})
        assert taken is not None
        with taken:
            assert taken.getsockname() == door.getsockname()
    assert handed({}) is None


def test_the_port_where_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with bound(ApiSettings(port=None)) as first:
        first.listen()
        usual = first.getsockname()[1]
        monkeypatch.setattr(api_address, "PORT", usual)
        with bound(ApiSettings()) as second:
            assert second.getsockname()[1] != usual, "any free one where it is taken"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("203.0.113.9", "cannot bind port 8321 of 203.0.113.9: Cannot assign requested address"),
        ("no-such-host.invalid", "'no-such-host.invalid' is no address of this machine"),
    ],
)
def test_an_address_that_is_not_ours_is_told(host: str, words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        bound(ApiSettings(host=host, port=8321))


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="dimensions must be whole numbers from 1 on"):
        ApiSettings(dimensions=(256, 0))
