"""What a signature covers, and that it covers nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import BaseModelRef, SkillCard
from services.federation.errors import BadSignature, CardRefused, Untrusted
from services.federation.identity import NodeKey, verify
from services.federation.manifest import check, manifest, sign


def described(**fields: Any) -> SkillCard:
    words: dict[str, Any] = {
        "name": "banking",
        "version": 3,
        "digest": "sha256:" + "0a" * 32,
        "bytes": 123_456,
        "rank": 8,
        "alpha": 16.0,
        "target_modules": ("query",),
        "base_model": BaseModelRef(id="some/model", sha256="be" * 32),
        "applies_to": ("query",),
        "description": "Questions of bank customers.",
        "prototypes": "",
        "threshold": 0.5,
        "metrics": {},
        "created": "2026-01-02T03:04:05Z",
        "parents": (),
    }
    return SkillCard(**words | fields)


AUTHOR = NodeKey.generate()


def everybody(_: str) -> bool:
    return True


def test_the_manifest_is_seven_lines_of_utf_8() -> None:
    assert manifest(described()) == (
        b"consonance skill card 1\nsha256:" + b"0a" * 32 + b"\nbanking\n3\n" + b"be" * 32 + b"\n"
        b"123456\n2026-01-02T03:04:05Z"
    )


def test_a_signed_card_is_believed_and_signed_again_the_same() -> None:
    card = sign(described(), AUTHOR)

    check(card, lambda public: public == AUTHOR.public)

    assert card.signer == AUTHOR.public
    assert card.signature == AUTHOR.sign(manifest(described()))
    assert sign(card, AUTHOR) == card == sign(described(), AUTHOR)
    travelled = msgspec.json.decode(msgspec.json.encode(card), type=SkillCard)
    check(travelled, lambda public: public == AUTHOR.public)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:" + "0b" * 32},
        {"name": "banking2"},
        {"version": 4},
        {"base_model": BaseModelRef(id="some/model", sha256="bf" * 32)},
        {"bytes": 123_457},
        {"created": "2026-01-02T03:04:06Z"},
    ],
)
def test_a_signature_is_of_no_use_on_another_card(change: dict[str, Any]) -> None:
    card = msgspec.structs.replace(sign(described(), AUTHOR), **change)

    with pytest.raises(BadSignature, match="over what it says"):
        check(card, everybody)


def test_nobody_takes_anothers_place() -> None:
    card, other = sign(described(), AUTHOR), NodeKey.generate()

    with pytest.raises(CardRefused, match="nobody signs"):
        sign(card, other)
    with pytest.raises(BadSignature, match=other.fingerprint):
        check(msgspec.structs.replace(card, signer=other.public), everybody)


def test_trust_is_asked_before_anything_is_computed() -> None:
    other = NodeKey.generate()
    card = msgspec.structs.replace(sign(described(), other), signature="nonsense", created="x\n")

    with pytest.raises(Untrusted, match=f"signer {other.fingerprint} is not on the trust list"):
        check(card, lambda _: False)
    with pytest.raises(BadSignature):
        check(card, everybody)


@pytest.mark.parametrize(
    "signer",
    [None, "", "x", "ed25519:" + "A" * 43, AUTHOR.public + "\n", "\x1b[2J" * 99, "ed25519:\ud800"],
    ids=range(7),  # a new key in a name would be another test in each process
)
def test_without_a_signer_there_is_no_trust(signer: str | None) -> None:
    card = msgspec.structs.replace(sign(described(), AUTHOR), signer=signer)

    with pytest.raises(Untrusted, match=r"^(nobody signed it|its signer is no public key)$"):
        check(card, everybody)


@pytest.mark.parametrize(
    "signature", ["", "x", "A" * 86, AUTHOR.sign(b"x") + "\n", "é" * 86], ids=range(5)
)
def test_a_signature_that_is_none_is_bad(signature: str) -> None:
    card = msgspec.structs.replace(described(), signer=AUTHOR.public, signature=signature)

    with pytest.raises(BadSignature):
        check(card, everybody)
    with pytest.raises(BadSignature, match="no signature"):
        check(msgspec.structs.replace(card, signature=None), everybody)


HOSTILE = {
    "digest": ["sha256:" + "0A" * 32, "sha256:" + "0a" * 32 + "\n", "0a" * 32, ""],
    "name": ["banking\n4", "banking\n", "Banking", "\u0441ard", "../x", "a" * 65, "bank\u2028ing"],
    "version": [0, -1, 10**20, "3\n4", 3.5],
    "bytes": [0, -5, "1\n2"],
    "created": [
        "",
        "2026-01-02",
        "2026-01-02T03:04:05Z\n",
        "2026-01-02T03:04:05Z\nconsonance skill card 2",
        "2026-01-02T03:04:05\r\nZ",
        "٢٠٢٦-01-02T03:04:05Z",
        "2026-01-02T03:04:05\u2028Z",
        "\ud800",
    ],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in HOSTILE.items() for value in values]
)
def test_a_field_that_could_pass_for_several_lines_is_refused(field: str, value: object) -> None:
    card = msgspec.structs.replace(sign(described(), AUTHOR), **{field: value})

    with pytest.raises(BadSignature, match="malformed"):
        manifest(card)
    with pytest.raises(BadSignature, match="malformed"):
        sign(msgspec.structs.replace(card, signer=None), AUTHOR)
    with pytest.raises(BadSignature, match="malformed"):
        check(card, everybody)


@pytest.mark.parametrize("sha256", ["", "be" * 31, "be" * 32 + "\n", "BE" * 32, "é" * 64])
def test_so_is_the_hash_of_the_base_model(sha256: str) -> None:
    card = described(base_model=BaseModelRef(id="some/model", sha256=sha256))

    with pytest.raises(BadSignature, match="base model is malformed"):
        manifest(card)


def test_lines_cannot_be_shifted_from_one_field_to_the_next() -> None:
    """A version and a hash pushed into the name would give a card whose lines are the same."""
    honest = manifest(described())
    shifted = described(name="banking\n3", version=1, created="x")

    with pytest.raises(BadSignature):
        manifest(shifted)
    assert honest.count(b"\n") == 6


def test_a_signature_over_a_manifest_means_nothing_but_a_card() -> None:
    signature = AUTHOR.sign(manifest(described()).removeprefix(b"consonance skill card 1\n"))
    card = msgspec.structs.replace(described(), signer=AUTHOR.public, signature=signature)

    assert verify(AUTHOR.public, signature, manifest(described()).split(b"\n", 1)[1])
    with pytest.raises(BadSignature):
        check(card, everybody)
