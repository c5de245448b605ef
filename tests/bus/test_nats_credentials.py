"""Who is let in by a .creds file: a server that trusts an operator, and tokens made here."""

from __future__ import annotations

import base64
import json
from binascii import crc_hqx
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import bus
from tests.bus.kit import feedback
from tests.bus.nats_server import NatsServer, nats_binary

OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3
PLAIN = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
STREAMS = ("mem_storage", "disk_storage", "streams", "consumer")


def _coded(raw: bytes) -> str:
    return base64.b32encode(raw + crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


class Key(NamedTuple):
    """A key as NATS writes them: what it is, and itself."""

    kind: int
    own: Ed25519PrivateKey

    @classmethod
    def make(cls, kind: int) -> Key:
        return cls(kind, Ed25519PrivateKey.generate())

    @property
    def public(self) -> str:
        return _coded(bytes([self.kind]) + self.own.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        first = bytes([SEED | self.kind >> 5, (self.kind & 31) << 3])
        return _coded(first + self.own.private_bytes_raw())

    def signed(self, subject: Key, kind: str, **claims: Any) -> str:
        """A token about somebody."""

        def part(value: Any) -> str:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            return base64.urlsafe_b64encode(raw).decode().rstrip("=")

        body = {
            "iat": 1_700_000_000,
            "iss": self.public,
            "sub": subject.public,
            "name": kind,
            "nats": {"type": kind, "version": 2, **claims},
        }
        body["jti"] = base64.b32encode(sha256(json.dumps(body).encode()).digest()).decode()
        text = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(body)}"
        return f"{text}.{part(self.own.sign(text.encode()))}"


class Trust(NamedTuple):
    """A server, and who may let users in."""

    server: NatsServer
    account: Key


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trust]:
    """A server that knows users by what their account signed."""
    nats_binary()
    operator, account, system = Key.make(OPERATOR), Key.make(ACCOUNT), Key.make(ACCOUNT)
    some: dict[str, Any] = dict.fromkeys(PLAIN, -1) | {"wildcards": True}
    limits = {account: some | dict.fromkeys(STREAMS, -1), system: some}
    known = "".join(
        f"  {each.public}: {operator.signed(each, 'account', limits=limits[each])}\n"
        for each in (account, system)
    )
    config = (
        f"operator: {operator.signed(operator, 'operator')}\n"
        f"system_account: {system.public}\n"
        f"resolver: MEMORY\nresolver_preload: {{\n{known}}}\n"
    )
    server = NatsServer(tmp_path_factory.mktemp("nats"), config=config)
    server.start()
    yield Trust(server, account)
    server.stop()


def creds(path: Path, issuer: Key) -> Path:
    """What `nsc` writes for a user."""
    user = Key.make(USER)
    token = issuer.signed(user, "user", subs=-1, data=-1, payload=-1)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    return path


async def test_who_was_signed_by_the_account_is_let_in(
    trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = creds(tmp_path / "user.creds", trust.account)
    monkeypatch.setenv("CONSONANCE_NATS_CREDS", str(file))
    async with await bus.connect(trust.server.url, source="/a/1", patience=10) as one:
        assert await one.publish(feedback(1)) == (1,)


async def test_who_was_signed_by_somebody_else_is_not(
    trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = creds(tmp_path / "user.creds", Key.make(ACCOUNT))
    monkeypatch.setenv("CONSONANCE_NATS_CREDS", str(file))
    with pytest.raises(bus.NotPermitted):
        await bus.connect(trust.server.url, source="/a/1", patience=10)


@pytest.mark.parametrize(
    ("change", "said"),
    [(("SEED", "SAD"), "needs a user's JWT and seed"), (("\nSU", "\nSV"), "is broken")],
    ids=["no seed", "another seed"],
)
async def test_a_broken_creds_file_is_told(
    change: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = creds(tmp_path / "user.creds", Key.make(ACCOUNT))
    file.write_text(file.read_text().replace(*change))
    monkeypatch.setenv("CONSONANCE_NATS_CREDS", str(file))
    with pytest.raises(bus.InvalidKey, match=said):
        await bus.connect("nats://127.0.0.1:4222", source="/a/1", patience=1)
