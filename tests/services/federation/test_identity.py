"""A node's key: one, private, and checked by others without trusting what they are sent."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from services.federation import identity
from services.federation.errors import FederationError, KeyFileError
from services.federation.identity import (
    NodeKey,
    default_node_name,
    fingerprint_of,
    is_public,
    verify,
)
from services.runtime.settings_federation import NODE

ROOT = Path(__file__).resolve().parents[3]
P = 2**255 - 19


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def test_a_key_is_made_once_and_then_read(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node.key"

    made, read = NodeKey.load_or_create(path), NodeKey.load_or_create(path)

    assert made.public == read.public
    assert made.sign(b"x") == read.sign(b"x"), "ed25519 is deterministic"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(path.parent) == ["node.key"], "nothing is left beside it"


def test_the_file_and_the_texts_are_what_others_expect(tmp_path: Path) -> None:
    key = NodeKey.load_or_create(tmp_path / "node.key")
    pem = (tmp_path / "node.key").read_bytes()
    private = serialization.load_pem_private_key(pem, None)
    assert isinstance(private, Ed25519PrivateKey)
    raw = private.public_key().public_bytes_raw()

    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----\n"), "PKCS8"
    assert key.public == "ed25519:" + text_of(raw)
    assert key.fingerprint == hashlib.sha256(raw).hexdigest()[:32] == fingerprint_of(key.public)
    assert key.sign(b"data") == text_of(private.sign(b"data"))


def test_processes_that_make_a_key_at_the_same_time_have_the_same_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from services.federation.identity import NodeKey\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(NodeKey.load_or_create(Path(sys.argv[1])).public)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "node.key")],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    keys = {child.communicate(timeout=30)[0].strip() for child in children}

    assert keys == {NodeKey.load_or_create(tmp_path / "node.key").public}
    assert os.listdir(tmp_path) == ["node.key"]


def test_who_is_second_takes_the_key_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself: another process's key appears between the look and the link."""
    path, first = tmp_path / "node.key", tmp_path / "first" / "node.key"
    theirs = NodeKey.load_or_create(first)
    link = os.link

    def late(source: Path, target: Path) -> None:
        if not path.exists():
            link(first, path)
        link(source, target)

    monkeypatch.setattr(os, "link", late)

    assert NodeKey.load_or_create(path).public == theirs.public
    assert sorted(os.listdir(tmp_path)) == ["first", "node.key"]


def pem_of(private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no private key in PEM"),
        (b"\x00\xff" * 40, "is no private key in PEM"),
        (pem_of(Ed25519PrivateKey.generate())[:-40], "is no private key in PEM"),
        (pem_of(ec.generate_private_key(ec.SECP256R1())), "is of another kind than ed25519"),
        (pem_of(Ed25519PrivateKey.generate(), b"secret"), "is locked by a password"),
        (b"x" * (2 << 20), "more than 1048576"),
    ],
    ids=range(6),  # a new key in a name would be another test in each process
)
def test_a_file_that_is_no_key_is_refused_and_kept(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(data)
    path.chmod(0o600)

    with pytest.raises(KeyFileError, match=why) as refused:
        NodeKey.load_or_create(path)

    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == data


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    NodeKey.load_or_create(path)
    path.chmod(mode)

    with pytest.raises(KeyFileError, match=f"mode {mode:04o}, others may use it: chmod 600"):
        NodeKey.load_or_create(path)


def test_a_path_that_cannot_hold_a_key_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)

    for name, why in {
        "file/node.key": "Not a directory",
        "pipe": "no regular file",
        "folder": "no regular file",
    }.items():
        with pytest.raises(KeyFileError, match=why):
            NodeKey.load_or_create(tmp_path / name)
    with pytest.raises(KeyFileError, match="cannot be written"):
        NodeKey.load_or_create(Path("/proc/node.key"))


def test_the_private_half_is_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "node.key"
    key = NodeKey.load_or_create(path)
    secret = path.read_text().splitlines()[1]
    raw = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(raw, Ed25519PrivateKey)
    secrets = {secret, raw.private_bytes_raw().hex(), text_of(raw.private_bytes_raw())}
    path.write_text(path.read_text().replace("-----END PRIVATE KEY-----", ""))
    with pytest.raises(KeyFileError) as refused:
        NodeKey.load_or_create(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(identity, "Ed25519PrivateKey", SimpleNamespace(generate=lambda: raw))
    with pytest.raises(KeyFileError, match="No space left on device") as unwritten:
        NodeKey.load_or_create(tmp_path / "other.key")

    said = [repr(key), str(key)]
    for error in (refused.value, unwritten.value):
        assert error.__traceback__ is not None
        ours = error.__traceback__.tb_next  # the test's own frame knows the secret
        told = traceback.TracebackException(type(error), error, ours, capture_locals=True)
        said.append("".join(told.format()))
    for text in said:
        assert not any(one in text for one in secrets), text
    assert repr(key) == f"NodeKey({key.public})"


def test_a_signature_holds_for_its_key_and_its_data_alone() -> None:
    key, other = NodeKey.generate(), NodeKey.generate()
    signature = key.sign(b"data")

    assert verify(key.public, signature, b"data")
    assert not verify(key.public, signature, b"Data")
    assert not verify(other.public, signature, b"data")


def test_there_is_one_way_to_write_a_key_and_a_signature() -> None:
    key = NodeKey.generate()
    signature = key.sign(b"data")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def twins(text: str) -> list[str]:
        """Texts that a lax decoder reads as the same bytes."""
        last = alphabet.index(text[-1])
        spare = [text[:-1] + alphabet[last ^ bits] for bits in (1, 2, 3)]
        return [
            *spare,
            text + "=",
            text + "==",
            text + "\n",
            " " + text,
            text[:9] + "\n" + text[9:],
        ]

    body = key.public.removeprefix("ed25519:")
    keys = [*twins(body), body + "A", body[:-1], body.replace(body[3], "é", 1)]
    for wrong in [*("ed25519:" + one for one in keys), body, "ED25519:" + body, "rsa:" + body]:
        assert not is_public(wrong), wrong
        assert not verify(wrong, signature, b"data"), wrong
    for wrong in [*twins(signature), signature + "A", signature[:-1], signature[:-2]]:
        assert not verify(key.public, wrong, b"data"), wrong
    assert is_public(key.public)


@given(
    st.one_of(st.none(), st.text(), st.binary(max_size=90).map(text_of), st.integers()),
    st.one_of(st.none(), st.text(), st.binary(min_size=64, max_size=64).map(text_of)),
    st.binary(max_size=40),
)
def test_nonsense_is_false_and_raises_nothing(public: str, signature: str, data: bytes) -> None:
    key = NodeKey.generate()
    assert not verify(public, signature, data)
    assert not verify(key.public, signature, data)
    raw = "ed25519:" + str(public)
    assert not verify(raw, signature, data)


def weak_points() -> list[bytes]:
    """The encodings of the eight points of small order, and their non-canonical twins."""
    d = -121665 * pow(121666, -1, P) % P

    def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        product = d * a[0] * b[0] * a[1] * b[1] % P
        x = (a[0] * b[1] + b[0] * a[1]) * pow(1 + product, -1, P)
        y = (a[1] * b[1] + a[0] * b[0]) * pow(1 - product, -1, P)
        return x % P, y % P

    def root(square: int) -> int | None:
        for twist in (1, pow(2, (P - 1) // 4, P)):
            found = pow(square, (P + 3) // 8, P) * twist % P
            if found * found % P == square:
                return found
        return None

    order = 2**252 + 27742317777372353535851937790883648493
    points: set[tuple[int, int]] = set()
    y = 2
    while len(points) < 8:  # the multiple by the prime order leaves the part of small order
        y += 1
        x = root((y * y - 1) * pow(d * y * y + 1, -1, P) % P)
        if x is None:
            continue
        rest, power = (0, 1), (x, y)
        for bit in reversed(bin(order)[2:]):
            rest, power = (add(rest, power) if bit == "1" else rest), add(power, power)
        points.add(rest)
    assert all(add(add(add(p, p), add(p, p)), add(add(p, p), add(p, p))) == (0, 1) for p in points)
    encoded = {(y | (sign << 255)) for _, y in points for sign in (0, 1)}
    encoded |= {(y + P) | (sign << 255) for y in (0, 1) for sign in (0, 1)}
    return [one.to_bytes(32, "little") for one in sorted(encoded)]


def test_no_signature_fits_many_messages() -> None:
    """With a key of small order the arithmetic accepts (identity, 0) for one message in eight."""
    forged = (1).to_bytes(32, "little") + bytes(32)
    messages = [str(number).encode() for number in range(64)]
    accepted = 0
    for raw in weak_points():
        public = "ed25519:" + text_of(raw)
        assert not is_public(public)
        assert not any(verify(public, text_of(forged), message) for message in messages)
        for message in messages:
            try:
                Ed25519PublicKey.from_public_bytes(raw).verify(forged, message)
            except InvalidSignature:
                continue
            accepted += 1

    assert accepted, "the forgery is one: arithmetic alone accepts it"


def test_a_fingerprint_is_of_a_key_alone() -> None:
    for text in ("", "ed25519:", "ed25519:" + "A" * 43, "ed25519:abc"):
        with pytest.raises(FederationError, match="that is no public key"):
            fingerprint_of(text)


@pytest.mark.parametrize(
    ("host", "begins"),
    [
        ("Anna-Laptop.example.org", "anna-laptop-"),
        ("-x_y--", "x_y-"),
        ("Büro PC", "b-ro-pc-"),
        ("...", "node-"),
        ("日本", "node-"),
        ("a" * 200, "a" * 59 + "-"),
    ],
)
def test_a_node_without_a_name_is_called_after_its_host(
    monkeypatch: pytest.MonkeyPatch, host: str, begins: str
) -> None:
    key = NodeKey.generate()
    monkeypatch.setattr("socket.gethostname", lambda: host)

    name = default_node_name(key)

    assert name == begins + key.fingerprint[:4]
    assert re.fullmatch(NODE, name)
