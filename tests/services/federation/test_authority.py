"""Certificates: what is issued convinces peers in real TLS, and nothing else does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.federation.authority import (
    ANY_NODE,
    Credentials,
    create_authority,
    host_name,
    issue,
)
from services.federation.errors import AuthorityError, CredentialsError

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=100)
AWKWARD = ("x" * 64, "under_score", "dots.in..it.", "9-")


@dataclass(frozen=True)
class World:
    """One federation and its neighbour, each with an authority."""

    folder: Path

    def load(self, name: str, node: str, now: datetime = NOW) -> Credentials:
        found = Credentials.load(self.folder / name, node, now=now)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    create_authority(folder / "ca", "Ours", now=LONG_AGO)
    create_authority(folder / "foreign-ca", "Ours", now=LONG_AGO)
    for node in ("a", "b", *AWKWARD):
        issue(folder / "ca", node, folder / node, now=NOW)
    issue(folder / "ca", "a", folder / "expired", days=1, now=LONG_AGO)
    issue(folder / "foreign-ca", "a", folder / "foreign", now=NOW)
    return World(folder)


def spoiled(world: World, tmp_path: Path, **files: Path | bytes) -> Path:
    """A copy of a's credentials with other files in place of some (`crt`, `key`, `authority`)."""
    names = {"crt": "node.crt", "key": "node.key", "authority": "authority.crt"}
    folder = tmp_path / "tls"
    folder.mkdir()
    for short, name in names.items():
        given = files.get(short, world.folder / "a" / name)
        data = given if isinstance(given, bytes) else given.read_bytes()
        (folder / name).write_bytes(data)
        (folder / name).chmod(0o600)
    return folder


def made(world: World, change: Callable[[x509.CertificateBuilder], Any], key: Any) -> bytes:
    """A certificate by our authority for the node a, otherwise as `change` says."""
    root = x509.load_pem_x509_certificate((world.folder / "ca/authority.crt").read_bytes())
    pem = (world.folder / "ca/authority.key").read_bytes()
    issuer = serialization.load_pem_private_key(pem, None)
    assert isinstance(issuer, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")]))
        .issuer_name(root.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(LONG_AGO)
        .not_valid_after(NOW + timedelta(days=9))
    )
    certificate: x509.Certificate = change(builder).sign(issuer, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_of(key: Any) -> bytes:
    private: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private


# ------------------------------------------------------------------ what is written


def test_an_authority_and_what_it_issues_are_in_form(tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "ca", "Our nodes")
    issued = issue(tmp_path / "ca", "node-a", tmp_path / "out" / "a")
    root = x509.load_pem_x509_certificate((tmp_path / "ca/authority.crt").read_bytes())
    leaf = x509.load_pem_x509_certificate((tmp_path / "out/a/node.crt").read_bytes())

    modes = {
        path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777
        for path in tmp_path.rglob("*")
    }
    assert modes == {
        "ca": 0o700,
        "ca/authority.key": 0o600,
        "ca/authority.crt": 0o644,
        "out": 0o700,
        "out/a": 0o700,
        "out/a/node.crt": 0o644,
        "out/a/node.key": 0o600,
        "out/a/authority.crt": 0o644,
    }, "and the authority's key goes nowhere else"
    assert (authority.name, issued.name) == ("Our nodes", "node-a")
    assert issued.fingerprint == leaf.fingerprint(hashes.SHA256()).hex()
    assert issued.expires == leaf.not_valid_after_utc
    for one in (root, leaf):
        assert isinstance(one.public_key(), ec.EllipticCurvePublicKey)
        assert one.public_key().curve.name == "secp256r1"
        assert one.not_valid_before_utc < datetime.now(UTC) - timedelta(minutes=30)
    assert root.serial_number != leaf.serial_number
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["node-a.consonance", ANY_NODE]


def test_what_is_issued_passes_a_strict_verifier(world: World) -> None:
    """RFC 5280 as the verifier of `cryptography` reads it, for servers and clients."""
    ours = world.load("a", "a")
    leaf = x509.load_pem_x509_certificate(ours.certificate)
    store = x509.verification.Store([x509.load_pem_x509_certificate(ours.authority)])
    builder = x509.verification.PolicyBuilder().store(store).time(NOW)

    for host in (host_name("a"), ANY_NODE):
        chain = builder.build_server_verifier(x509.DNSName(host)).verify(leaf, [])
        assert len(chain) == 2
    found = builder.build_client_verifier().verify(leaf, []).subjects
    assert found is not None
    assert x509.DNSName(host_name("a")) in found


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "ca", "Short", days=10)
    issued = issue(tmp_path / "ca", "a", tmp_path / "a", days=365)
    loaded = Credentials.load(tmp_path / "a", "a")

    assert loaded is not None
    assert authority.expires == issued.expires == loaded.expires


def test_nothing_is_overwritten_and_nothing_is_half_written(tmp_path: Path) -> None:
    create_authority(tmp_path / "ca", "One")
    create_authority(tmp_path / "ca2", "Two")
    issue(tmp_path / "ca", "a", tmp_path / "a")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}

    with pytest.raises(AuthorityError, match=r"authority\.key exists already: remove it first"):
        create_authority(tmp_path / "ca", "One")
    with pytest.raises(AuthorityError, match=r"node\.crt exists already: remove it first"):
        issue(tmp_path / "ca", "a", tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "authority.crt").write_bytes((tmp_path / "ca/authority.crt").read_bytes())
    with pytest.raises(AuthorityError, match=r"authority.crt is another authority's"):
        issue(tmp_path / "ca2", "b", tmp_path / "b")
    assert os.listdir(tmp_path / "b") == ["authority.crt"], "what was begun is taken back"
    assert {path: path.read_bytes() for path in before} == before
    # An equal one is no obstacle: the node's certificate is renewed beside it.
    issue(tmp_path / "ca", "b", tmp_path / "b")


@pytest.mark.parametrize("node", ["", "A", "a b", "-a", "a" * 65, "a\n", "*", "../a", "federation"])
def test_no_certificate_is_issued_to_an_impossible_name(world: World, node: str) -> None:
    out = world.folder / "refused"
    with pytest.raises(AuthorityError, match="no certificate is issued for"):
        issue(world.folder / "ca", node, out)
    with pytest.raises(CredentialsError, match="no certificate can be for a node named"):
        Credentials.load(world.folder / "a", node)
    assert not out.exists()


def test_an_authority_that_cannot_issue_says_why(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(AuthorityError, match="there is no authority in"):
        issue(tmp_path, "a", out)
    for days in (0, -1, 40_000):
        with pytest.raises(AuthorityError, match="valid for 1 to 36500 days"):
            issue(world.folder / "ca", "a", out, days)
    for name in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(AuthorityError, match="1 to 64 printable"):
            create_authority(tmp_path / "new", name)
    with pytest.raises(AuthorityError, match=r"authority\.crt expired on"):
        issue(world.folder / "ca", "a", out, now=NOW + timedelta(days=9999))
    with pytest.raises(AuthorityError, match=r"authority\.crt is valid only from"):
        issue(world.folder / "ca", "a", out, now=LONG_AGO - timedelta(days=1))
    # A node's certificate makes no authority, nor does another's key.
    ca = tmp_path / "ca"
    ca.mkdir()
    for crt, key, why in (
        ("a/node.crt", "a/node.key", "is no authority's certificate"),
        ("ca/authority.crt", "foreign-ca/authority.key", "is not the key of the certificate"),
        ("ca/authority.key", "ca/authority.key", "holds no ECDSA certificate"),
        ("ca/authority.crt", "ca/authority.crt", "holds no ECDSA private key"),
    ):
        (ca / "authority.crt").write_bytes((world.folder / crt).read_bytes())
        (ca / "authority.key").write_bytes((world.folder / key).read_bytes())
        (ca / "authority.key").chmod(0o600)
        with pytest.raises(AuthorityError, match=why):
            issue(ca, "a", out)
    (ca / "authority.key").chmod(0o644)
    with pytest.raises(AuthorityError, match="others may use it"):
        issue(ca, "a", out)
    with pytest.raises(AuthorityError, match="cannot be written: Not a directory"):
        issue(world.folder / "ca", "a", ca / "authority.crt" / "x")
    assert not out.exists()


# ------------------------------------------------------------------ what is loaded


def test_credentials_are_loaded_as_they_lie(world: World, tmp_path: Path) -> None:
    ours = world.load("a", "a")

    assert ours.certificate == (world.folder / "a/node.crt").read_bytes()
    assert ours.key == (world.folder / "a/node.key").read_bytes()
    assert ours.authority == (world.folder / "ca/authority.crt").read_bytes()
    assert NOW + timedelta(days=364) < ours.expires <= NOW + timedelta(days=365)
    assert "PRIVATE" not in repr(ours)
    assert Credentials.load(tmp_path / "absent", "a") is None
    for node in AWKWARD:
        world.load(node, node)


@pytest.mark.parametrize(
    ("name", "node", "now", "why"),
    [
        ("expired", "a", NOW, "node.crt expired on"),
        ("a", "a", NOW + timedelta(days=365, hours=1), "node.crt expired on"),
        ("a", "a", LONG_AGO, "node.crt is valid only from"),
        ("a", "b", NOW, "node.crt is for the node a, this one is b"),
        ("a", "federatio", NOW, "is for the node a"),
    ],
)
def test_credentials_out_of_time_or_place_are_refused(
    world: World, name: str, node: str, now: datetime, why: str
) -> None:
    with pytest.raises(CredentialsError, match=why):
        Credentials.load(world.folder / name, node, now=now)


def test_credentials_that_do_not_belong_together_are_refused(world: World, tmp_path: Path) -> None:
    b, foreign = world.folder / "b", world.folder / "foreign"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"key": b / "node.key"}, "is not the key of the certificate beside it"),
        ({"authority": foreign / "authority.crt"}, "was not issued by"),
        ({"authority": b / "node.crt"}, "was not issued by"),
        ({"crt": foreign / "node.crt", "key": foreign / "node.key"}, "was not issued by"),
        ({"crt": b""}, "node.crt holds no ECDSA certificate"),
        ({"authority": b"\x00junk"}, "authority.crt holds no ECDSA certificate"),
        ({"key": b"-----BEGIN"}, "node.key holds no ECDSA private key"),
        ({"key": pem_of(ed25519.Ed25519PrivateKey.generate())}, "holds no ECDSA private key"),
    ]
    for number, (files, why) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(CredentialsError, match=why):
            Credentials.load(spoiled(world, tmp_path / str(number), **files), "a")


def test_certificates_that_peers_would_not_take_are_refused(world: World, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    both = [x509.DNSName("a.consonance"), x509.DNSName(ANY_NODE)]
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    bare = made(world, lambda builder: builder, key)
    one_way = made(
        world,
        lambda builder: builder.add_extension(server, False).add_extension(
            x509.SubjectAlternativeName(both), False
        ),
        key,
    )
    ed = ed25519.Ed25519PrivateKey.generate()
    for number, (crt, private, why) in enumerate(
        [
            (bare, pem_of(key), "was not made by `authority issue`"),
            (one_way, pem_of(key), "both server's and client's"),
            (made(world, lambda b: b, ed), pem_of(ed), "holds no ECDSA certificate"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        folder = spoiled(world, tmp_path / str(number), crt=crt, key=private)
        with pytest.raises(CredentialsError, match=why):
            Credentials.load(folder, "a")


def test_what_is_missing_or_open_to_others_is_named(world: World, tmp_path: Path) -> None:
    folder = spoiled(world, tmp_path)
    (folder / "node.key").chmod(0o644)
    with pytest.raises(CredentialsError, match=r"node\.key has mode 0644, others may use it"):
        Credentials.load(folder, "a")
    (folder / "node.key").unlink()
    (folder / "authority.crt").unlink()
    with pytest.raises(CredentialsError, match=r"has no node\.key and no authority\.crt"):
        Credentials.load(folder, "a")
    with pytest.raises(CredentialsError, match="cannot be read"):
        Credentials.load(folder / "node.crt", "a")


def test_one_authority_may_follow_another(world: World, tmp_path: Path) -> None:
    old, new = (world.folder / ca / "authority.crt" for ca in ("foreign-ca", "ca"))
    folder = spoiled(world, tmp_path, authority=old.read_bytes() + new.read_bytes())

    assert Credentials.load(folder, "a") is not None


# ------------------------------------------------------------------ in real TLS


class Server(flight.FlightServerBase):  # type: ignore[misc]
    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        return iter(())


@pytest.fixture(scope="module")
def servers(world: World) -> Iterator[Callable[[str], int]]:
    """Starts servers with the credentials of a folder, each once; answers with their ports."""
    running: dict[str, Server] = {}

    def port(name: str) -> int:
        if name not in running:
            folder = world.folder / name
            running[name] = Server(
                "grpc+tls://127.0.0.1:0",
                tls_certificates=[
                    ((folder / "node.crt").read_bytes(), (folder / "node.key").read_bytes())
                ],
                verify_client=True,
                root_certificates=(folder / "authority.crt").read_bytes(),
            )
        return int(running[name].port)

    yield port
    for server in running.values():
        server.shutdown()


def ask(world: World, port: int, name: str | None, host: str = "a.consonance") -> None:
    """One call with the credentials of a folder; believes our authority alone."""
    options: dict[str, Any] = {
        "tls_root_certs": (world.folder / "ca/authority.crt").read_bytes(),
        "override_hostname": host,
    }
    if name is not None:
        options["cert_chain"] = (world.folder / name / "node.crt").read_bytes()
        options["private_key"] = (world.folder / name / "node.key").read_bytes()
    with flight.FlightClient(f"grpc+tls://127.0.0.1:{port}", **options) as client:
        assert list(client.list_flights(options=flight.FlightCallOptions(timeout=20))) == []


@pytest.mark.parametrize("host", ["a.consonance", ANY_NODE])
def test_two_nodes_of_one_authority_talk(
    world: World, servers: Callable[[str], int], host: str
) -> None:
    ask(world, servers("a"), "b", host)


@pytest.mark.parametrize("node", AWKWARD)
def test_every_name_that_a_node_may_have_works_in_tls(
    world: World, servers: Callable[[str], int], node: str
) -> None:
    ask(world, servers(node), node, host_name(node))


@pytest.mark.parametrize("client", ["expired", "foreign", None])
def test_a_server_refuses_clients_without_good_certificates(
    world: World, servers: Callable[[str], int], client: str | None
) -> None:
    with pytest.raises(flight.FlightUnavailableError):
        ask(world, servers("a"), client)
    ask(world, servers("a"), "b")


@pytest.mark.parametrize(
    ("server", "host"),
    [
        ("foreign", "a.consonance"),
        ("expired", "a.consonance"),
        ("a", "b.consonance"),
        ("a", "x.consonance"),
        ("a", "consonance"),
        ("a", "127.0.0.1"),
    ],
)
def test_a_client_refuses_servers_without_good_certificates(
    world: World, servers: Callable[[str], int], server: str, host: str
) -> None:
    why = "(?i)certificate.verify.failed|peer name .* is not in peer certificate"
    with pytest.raises(flight.FlightUnavailableError, match=why):
        ask(world, servers(server), "b", host)
