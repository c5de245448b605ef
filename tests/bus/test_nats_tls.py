"""TLS on NATS: who the server is, who we are, and that nothing goes in plain text."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import bus
from tests.bus.kit import feedback
from tests.bus.nats_server import NatsServer, nats_binary

CA, CERT, KEY = "CONSONANCE_NATS_CA", "CONSONANCE_NATS_CERT", "CONSONANCE_NATS_KEY"


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.crt"
        made = self._certificate(self._name, self._key.public_key(), authority=True)
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """The files of a certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(subject, key.public_key(), authority=False)
        files = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files


class World(NamedTuple):
    """A server that wants certificates, and two authorities of which it knows the first."""

    server: NatsServer
    ours: Authority
    foreign: Authority


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    nats_binary()
    folder = tmp_path_factory.mktemp("tls")
    ours, foreign = Authority(folder, "ours"), Authority(folder, "foreign")
    certificate, key = ours.issue("server")
    config = (
        f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ours.file}",'
        " verify: true }"
    )
    server = NatsServer(folder, config=config)
    server.start()
    yield World(server, ours, foreign)
    server.stop()


@pytest.fixture
def ours(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """All that the server wants stands in the environment."""
    certificate, key = world.ours.issue("client")
    for name, file in ((CA, world.ours.file), (CERT, certificate), (KEY, key)):
        monkeypatch.setenv(name, str(file))
    return world


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_who_is_known_by_a_certificate_is_let_in(ours: World, scheme: str) -> None:
    url = ours.server.url.replace("nats://", f"{scheme}://")
    async with await bus.connect(url, source="/a/1", patience=10) as one:
        (sequence,) = await one.publish(feedback(scheme))
        (kept,) = (await one.read(after=(sequence or 0) - 1)).events
        assert kept.id == feedback(scheme).id


@pytest.mark.parametrize("known", [True, False], ids=["another authority", "the system's"])
async def test_a_server_that_is_not_known_is_refused_at_once(
    ours: World, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known:
        monkeypatch.setenv(CA, str(ours.foreign.file))
    else:
        monkeypatch.delenv(CA)
    with pytest.raises(bus.InvalidKey, match=r"not known by its certificate.*CONSONANCE_NATS_CA"):
        await bus.connect(ours.server.url, source="/a/1", patience=60)


@pytest.mark.parametrize("which", ["none", "foreign"])
async def test_whom_the_server_does_not_know_it_does_not_let_in(
    ours: World, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which == "none":
        monkeypatch.delenv(CERT)
    else:
        certificate, key = ours.foreign.issue("client-of-theirs")
        monkeypatch.setenv(CERT, str(certificate))
        monkeypatch.setenv(KEY, str(key))
    with pytest.raises(bus.Unreachable):
        await bus.connect(ours.server.url, source="/a/1", patience=1)


async def test_whom_it_does_not_know_gives_up_in_time_at_whatever_moment(
    ours: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = ours.foreign.issue("client-of-theirs")
    monkeypatch.setenv(CERT, str(certificate))
    monkeypatch.setenv(KEY, str(key))
    # The library loses a cancellation now and then, and would go on trying for ever.
    attempts = [
        asyncio.create_task(bus.connect(ours.server.url, source="/a/1", patience=0.1 + n / 50))
        for n in range(25)
    ]
    over, still = await asyncio.wait(attempts, timeout=30)
    assert not still
    assert all(isinstance(attempt.exception(), bus.Unreachable) for attempt in over)


@pytest.mark.parametrize("by", ["url", "authority"])
async def test_where_tls_is_asked_for_no_word_goes_in_plain_text(
    world: World, nats_server: NatsServer, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = nats_server.url
    if by == "url":
        url = url.replace("nats://", "tls://me:secret@")
    else:
        monkeypatch.setenv(CA, str(world.ours.file))
    with pytest.raises(bus.InvalidKey, match="does not offer TLS") as told:
        await bus.connect(url, source="/a/1", patience=60)
    assert "secret" not in str(told.value)


async def test_a_certificate_without_its_key_is_told(
    ours: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY)
    with pytest.raises(bus.InvalidKey, match="cannot be used"):
        await bus.connect(ours.server.url, source="/a/1", patience=1)
