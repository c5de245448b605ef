"""The addresses of this machine, and which of those that others tell are worth a try."""

from __future__ import annotations

import ipaddress
import socket

import psutil
import pytest

from services.federation import addresses
from services.federation.addresses import Interface, interfaces, ordered, reachable, usable

LOOPBACK = interfaces(loopback=True)


def test_the_loopback_interface_is_told_in_loopback_mode_alone() -> None:
    inside = reachable(LOOPBACK)
    outside = reachable(interfaces())

    assert "127.0.0.1" in inside
    assert all(ipaddress.ip_address(address).is_loopback for address in inside)
    assert not any(ipaddress.ip_address(address).is_loopback for address in outside)


def test_every_address_that_is_told_can_be_bound() -> None:
    for address in (*reachable(interfaces()), *reachable(LOOPBACK)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            where = socket.getaddrinfo(address, 0, family, socket.SOCK_STREAM)[0][4]
            listener.bind(where)


class _Entry:
    def __init__(self, family: socket.AddressFamily, address: str) -> None:
        self.family = family
        self.address = address


class _State:
    def __init__(self, up: bool, flags: str) -> None:
        self.isup = up
        self.flags = flags


def test_what_is_down_or_not_yet_this_machines_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: addresses.Path
) -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    entries = {
        "eth0": [
            _Entry(four, "192.0.2.7"),
            _Entry(six, "fe80::1%eth0"),
            _Entry(six, "2001:db8::1"),
            _Entry(six, "2001:db8::bad"),  # tentative
            _Entry(six, "2001:db8::ff"),  # temporary
            _Entry(socket.AF_PACKET, "02:00:00:00:00:01"),
        ],
        "eth1": [_Entry(four, "198.51.100.1")],
        "lo": [_Entry(four, "127.0.0.1")],
        "tun0": [_Entry(four, "10.9.0.2")],
    }
    states = {
        "eth0": _State(True, "up,broadcast,running,multicast"),
        "eth1": _State(False, "broadcast,multicast"),
        "lo": _State(True, "up,loopback,running"),
        "tun0": _State(True, "up,pointopoint,running"),
    }
    flags = tmp_path / "if_inet6"
    flags.write_text(
        "20010db8000000000000000000000bad 02 40 00 40 eth0\n"
        "20010db80000000000000000000000ff 02 40 00 01 eth0\n"
        "20010db8000000000000000000000001 02 40 00 80 eth0\n"
    )
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: list(entries).index(name) + 1)
    monkeypatch.setattr(addresses, "_FLAGS", flags)

    found = interfaces()

    assert found == (
        Interface("eth0", 1, ("192.0.2.7",), ("2001:db8::1", "fe80::1%eth0"), True),
        Interface("tun0", 4, ("10.9.0.2",), (), False),
    )
    assert reachable(found) == ("10.9.0.2", "192.0.2.7", "2001:db8::1", "fe80::1%eth0")


def test_global_addresses_come_before_those_of_the_link() -> None:
    given = ["fe80::2%lo", "169.254.3.4", "fd00::1", "192.0.2.10", "192.0.2.9"]

    wanted = ("192.0.2.9", "192.0.2.10", "fd00::1", "169.254.3.4", "fe80::2%lo")
    assert ordered(given) == ordered(reversed(given)) == wanted


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host.example",
        "127.0.0.1",
        "::1",
        "0.0.0.0",  # noqa: S104 (nothing is bound to it)
        "0.1.2.3",
        "224.0.0.251",
        "ff02::fb",
        "255.255.255.255",
        "240.0.0.1",
        "::",
        "::192.0.2.1",
        "::ffff:127.0.0.1",
        "::ffff:192.0.2.1",
        "2002:7f00:1::1",
        "fe80::1",
        "fe80::1%99999",
        "fe80::1%no-such-interface",
        "fe80::1%99999999999999999999",
        "2001:db8::1%lo",
    ],
)
def test_addresses_that_lead_nowhere_are_of_no_use(address: str) -> None:
    assert usable(address, loopback=False) is None


def test_addresses_of_use_come_back_in_one_way_to_write_them() -> None:
    lo = LOOPBACK[0]

    assert usable("192.0.2.1", loopback=False) == "192.0.2.1"
    assert usable("2001:DB8:0::1", loopback=False) == "2001:db8::1"
    assert usable(f"fe80::1%{lo.index}", loopback=False) == f"fe80::1%{lo.name}"
    assert usable(f"fe80::1%{lo.name}", loopback=False) == f"fe80::1%{lo.name}"
    assert usable("127.0.0.1", loopback=True) == "127.0.0.1"
    assert usable("::1", loopback=True) == "::1"
    assert usable("192.0.2.1", loopback=True) is None
