"""Cards as files: looked at, verified, brought in and taken out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora.card import LoRACard, LoRAFormat
from lora.interop import export_peft, export_safetensors, import_peft, load_adapters
from lora.store import CardStore
from services.federation.identity import NodeKey
from services.federation.trust import add
from tests.services.command.conftest import Run
from tests.services.command.fake_fleet import FakeFleet
from tests.services.encoder.processes import skill


@pytest.fixture
def bank(tmp_path: Path) -> LoRACard:
    """A card in the folder where the command runs: bank.lora.arrow."""
    card = skill("bank", description="about a bank", metrics={"gain": 0.25}, body=True)
    return LoRAFormat.write(card, tmp_path / "bank.lora.arrow")


def bytes_of(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def same(left: LoRACard, right: LoRACard) -> bool:
    return left.modules.keys() == right.modules.keys() and all(
        np.array_equal(adapter.a, right.modules[name].a)
        and np.array_equal(adapter.b, right.modules[name].b)
        and adapter.alpha == right.modules[name].alpha
        for name, adapter in left.modules.items()
    )


# Looking


def test_a_card_tells_of_itself(run: Run, bank: LoRACard) -> None:
    code, out, err = run("card", "inspect", "bank.lora.arrow")
    assert (code, err) == (0, "")
    assert str(bank.digest) in out
    assert "encoder.layer.0.attention.self.query" in out
    facts = json.loads(run("card", "inspect", "bank.lora.arrow", "--json").out)
    assert facts["metrics"] == {"gain": 0.25}
    assert [one["module"] for one in facts["modules"]] == list(bank.modules)


def test_a_card_of_the_store_is_found_by_its_digits(
    run: Run, bank: LoRACard, tmp_path: Path
) -> None:
    CardStore(tmp_path / "s/cards").put(bank)
    for what in (bank.digest, str(bank.digest)[7:19]):
        assert run("card", "inspect", what, "--state", "s").code == 0
    code, _, err = run("card", "inspect", "bank", "--state", "s")
    assert code == 3  # by name only a fleet knows it
    assert "no fleet runs" in err


def test_a_sound_card_verifies(run: Run, bank: LoRACard) -> None:
    code, out, err = run("card", "verify", "bank.lora.arrow", "--digest", bank.digest)
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "sound; nobody signed it"
    code, out, _ = run("card", "verify", "bank.lora.arrow", "--trusted", "--json")
    assert code == 1
    assert json.loads(out)["author"] == "unsigned"


@pytest.mark.parametrize(
    ("harm", "words", "code", "why"),
    [
        ("flip", "", 1, "not sound"),
        ("cut", "", 1, "not sound"),
        ("none", "--digest sha256:" + "0" * 64, 1, "not sha256:000"),
        ("gone", "", 2, "there is no card file bank.lora.arrow"),
    ],
)
def test_one_that_is_not_sound_is_refused(
    run: Run, bank: LoRACard, tmp_path: Path, harm: str, words: str, code: int, why: str
) -> None:
    file = tmp_path / "bank.lora.arrow"
    raw = bytearray(file.read_bytes())
    if harm == "flip":
        raw[200] ^= 0xFF
    file.write_bytes(raw[: len(raw) // 2] if harm == "cut" else raw)
    if harm == "gone":
        file.unlink()
    found = run("card", "verify", "bank.lora.arrow", *words.split())
    assert (found.code, found.out) == (code, "")
    assert why in found.err
    assert found.err.count("\n") == 1


# Signatures


def test_a_skill_is_signed_on_its_way_out_and_believed_by_the_trust_list(
    on: Run, run: Run, fleet: FakeFleet, bank: LoRACard, tmp_path: Path
) -> None:
    assert on("card", "import", "bank.lora.arrow", "--publish").code == 0
    code, out, _ = on("card", "export", "bank", "--out", "out.lora.arrow")
    assert (code, out) == (0, "out.lora.arrow\nout.lora.arrow.sig\n")

    # At home it is the node's own
    assert "signed by this node" in on("card", "verify", "out.lora.arrow", "--trusted").out
    # Elsewhere nobody's, until its author is trusted
    code, out, _ = run("card", "verify", "out.lora.arrow", "--state", "b")
    assert code == 0
    assert "is not on the trust list" in out
    assert run("card", "verify", "out.lora.arrow", "--state", "b", "--trusted").code == 1
    key = NodeKey.load_or_create(fleet.state / "keys/node.key")
    add(tmp_path / "b/keys/trusted", key.public, "home")
    code, out, _ = run("card", "verify", "out.lora.arrow", "--state", "b", "--trusted")
    assert code == 0
    assert key.fingerprint in out
    # What was changed afterwards, or belongs to another card, is believed by nobody
    note = tmp_path / "out.lora.arrow.sig"
    words = json.loads(note.read_text())
    forged = NodeKey.generate().sign(b"something else")
    note.write_text(json.dumps(words | {"signature": forged}))
    assert run("card", "verify", "out.lora.arrow", "--state", "b").code == 1
    assert "its signature is not" in run("card", "verify", "out.lora.arrow", "--state", "b").out
    note.write_text(json.dumps(words | {"digest": "sha256:" + "0" * 64}))
    assert "of another card" in run("card", "verify", "out.lora.arrow").err
    note.write_text("nonsense")
    assert "is no signature" in run("card", "verify", "out.lora.arrow").err


def test_a_foreign_card_stays_its_authors(
    on: Run, fleet: FakeFleet, bank: LoRACard, tmp_path: Path
) -> None:
    from services.command.authorship import beside
    from services.federation.manifest import sign
    from services.runtime.cards import describe

    author = NodeKey.generate()
    note = beside(sign(describe(bank), author))
    assert note is not None
    (tmp_path / "bank.lora.arrow.sig").write_bytes(note)

    code, _, err = on("card", "import", "bank.lora.arrow", "--publish")
    assert code == 2
    assert "is not on the trust list" in err
    add(fleet.state / "keys/trusted", author.public, "anna")
    assert on("card", "import", "bank.lora.arrow", "--publish").code == 0

    card = fleet.cards[0]
    assert (card.digest, card.version, card.signer) == (bank.digest, 1, author.public)
    assert card.signature is not None


# In


def test_a_peft_folder_becomes_a_card(run: Run, bank: LoRACard, tmp_path: Path) -> None:
    export_peft(bank, tmp_path / "peft")
    words = ("--name", "from-peft", "--out", "in.lora.arrow", "--description", "All.")
    code, out, _ = run("card", "import", "peft", *words, "--json")

    made = LoRAFormat.read(tmp_path / "in.lora.arrow")
    assert code == 0
    assert json.loads(out) == {
        "name": "from-peft",
        "version": 1,
        "digest": made.digest,
        "installed": False,
        "out": "in.lora.arrow",
    }
    assert same(made, bank)
    assert (made.description, made.applies_to) == ("All.", ("query",))
    assert made.base_model.sha256 == bank.base_model.sha256


def test_safetensors_become_a_skill_under_the_next_number(
    on: Run, fleet: FakeFleet, bank: LoRACard, tmp_path: Path
) -> None:
    export_safetensors(bank, tmp_path / "slang.safetensors")

    code, out, _ = on("card", "import", "slang.safetensors", "--publish")

    assert code == 0
    assert out.startswith("slang@3 sha256:")
    published = fleet.journal()[0].data.card
    assert (published.name, published.version) == ("slang", 3)
    stored = CardStore(fleet.state / "cards").open(published.digest)
    assert same(stored, bank)
    # A card whose number is free keeps number and digest, and twice is once
    other = LoRAFormat.write(skill("fresh", 7), tmp_path / "fresh.lora.arrow")
    for _ in range(2):
        out = on("card", "import", "fresh.lora.arrow", "--publish").out
        assert out == f"fresh@7 {other.digest}: installed\n"
    published = [event for event in fleet.journal() if event.type == "skill.published"]
    assert len(published) == 2


def test_a_card_that_the_fleet_rejects(on: Run, fleet: FakeFleet, tmp_path: Path) -> None:
    LoRAFormat.write(skill("bad"), tmp_path / "bad.lora.arrow")
    code, _, err = on("card", "import", "bad.lora.arrow", "--publish")
    assert code == 1
    assert "the fleet rejects bad@1: no encoder takes it" in err


def test_a_number_that_is_given_away_meanwhile_is_looked_for_again(
    on: Run, fleet: FakeFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemas import SkillPublished, SkillRejected
    from tests.services.command.fake_fleet import listed

    LoRAFormat.write(skill("bank"), tmp_path / "bank.lora.arrow")
    judged = fleet._judged

    def rival(data: SkillPublished) -> object:
        if data.card.version == 2:
            fleet.cards.append(listed("bank", 2))
            reason = "version 2 is another card already: sha256:…"
            return SkillRejected(name="bank", digest=data.card.digest, reason=reason)
        return judged(data)

    monkeypatch.setattr(fleet, "_judged", rival)
    assert on("card", "import", "bank.lora.arrow", "--publish").out.startswith("bank@3 ")


# Out


def test_out_as_peft_as_safetensors_and_as_it_is(run: Run, bank: LoRACard, tmp_path: Path) -> None:
    assert run("card", "export", "bank.lora.arrow", "--out", "peft").out == "peft\n"
    again = import_peft(tmp_path / "peft", name="bank", base_model=bank.base_model)
    assert same(again, bank)
    words = ("--out", "bank.safetensors", "--json")
    assert json.loads(run("card", "export", "bank.lora.arrow", *words).out) == {
        "files": ["bank.safetensors"]
    }
    assert load_adapters(tmp_path / "bank.safetensors").keys() == bank.modules.keys()
    assert run("card", "export", "bank.lora.arrow", "--out", "copy.lora.arrow").code == 0
    assert bytes_of(tmp_path, "copy.lora.arrow") == bytes_of(tmp_path, "bank.lora.arrow")
    assert not (tmp_path / "copy.lora.arrow.sig").exists()


def test_out_in_another_dtype_is_another_card_of_its_parent(
    run: Run, bank: LoRACard, tmp_path: Path
) -> None:
    words = ("--out", "small.lora.arrow", "--dtype", "int8")
    assert run("card", "export", "bank.lora.arrow", *words).out == "small.lora.arrow\n"
    small = LoRAFormat.read(tmp_path / "small.lora.arrow")
    assert {adapter.dtype for adapter in small.modules.values()} == {"int8"}
    assert (small.name, small.version, small.parents) == ("bank", 1, (bank.digest,))
    assert small.bytes is not None
    assert bank.bytes is not None
    assert small.bytes < bank.bytes
    words = ("--out", "again.lora.arrow", "--dtype", "int8")
    assert run("card", "export", "small.lora.arrow", *words).code == 0
    assert bytes_of(tmp_path, "again.lora.arrow") == bytes_of(tmp_path, "small.lora.arrow")
    assert run("card", "export", "small.lora.arrow", "--out", "peft").code == 0
    back = import_peft(tmp_path / "peft", name="bank", base_model=bank.base_model)
    assert same(back, small.astype("float32"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("export bank.lora.arrow --out old.safetensors", "--force replaces a file"),
        ("export bank.lora.arrow --out full", "must be new or empty"),
        ("export bank.lora.arrow --out no/peft", "the folder no does not exist"),
        ("export bank.lora.arrow --out x.gguf", "the form of x.gguf is unknown"),
        ("export bank.lora.arrow", "--out"),
        ("import bank.lora.arrow", "say what becomes of it"),
        ("import bank.lora.arrow --out x.arrow", "is called NAME.lora.arrow"),
        ("import nowhere --out x.lora.arrow", "there is no nowhere"),
        ("import full --name full --out x.lora.arrow", "full is no PEFT folder"),
        ("import old.safetensors --out x.lora.arrow", "old.safetensors"),
        ("import notes.txt --out x.lora.arrow", "is no NAME.lora.arrow, no PEFT folder"),
        ("import Big.safetensors --out x.lora.arrow", "'Big' is no card's name: say --name"),
        ("import bank.lora.arrow --name B --out x.lora.arrow", "card's name must match"),
        ("import bank.lora.arrow --publish --state s", "holds no cards"),
        ("inspect nowhere.lora.arrow", "there is no card file"),
        ("inspect notes.txt", "notes.txt"),
        ("inspect ./full", "full is not a regular file"),
        ("extract ./no ./tuned --out x.arrow", "is called NAME.lora.arrow"),
        ("probe default", "give a file of --texts"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    run: Run, bank: LoRACard, tmp_path: Path, words: str, why: str
) -> None:
    (tmp_path / "full").mkdir()
    for name in ("old.safetensors", "full/file", "notes.txt"):
        (tmp_path / name).write_text("old")
    export_safetensors(bank, tmp_path / "Big.safetensors")
    before = sorted(tmp_path.rglob("*"))

    code, out, err = run("card", *words.split())

    assert (code, out) == (2, "")
    assert why in err
    assert err.startswith("consonance: ")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(
    run: Run, bank: LoRACard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    code, _, err = run("card", "export", "bank.lora.arrow", "--out", "copy.lora.arrow")
    assert code == 1
    assert err == "consonance: cannot go on: No space left on device\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bank.lora.arrow"]
