"""What was found sound is not hashed again, and whatever changes it is noticed."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from lora import LoRACard, LoRAFormat, layout
from lora.errors import CardDigestError, CardError
from lora.verified import Identity, Verified
from tests.lora.cards import card


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what is hashed from here on; files count as settled at once."""
    monkeypatch.setattr("lora.verified.SETTLED_S", -10.0)
    seen: list[int] = []
    digest_of_bytes = layout.digest_of_bytes

    def counted(data: bytes) -> str:
        seen.append(len(data))
        return digest_of_bytes(data)

    monkeypatch.setattr(layout, "digest_of_bytes", counted)
    return seen


def test_a_sound_file_is_hashed_once(tmp_path: Path, hashed: list[int]) -> None:
    path = tmp_path / "a.lora.arrow"
    written = LoRAFormat.write(card(name="a"), path)
    hashed.clear()
    first = LoRAFormat.read(path, digest=written.digest)
    again = LoRAFormat.read(path)
    assert len(hashed) == 1
    assert first.key == again.key == written.key
    with pytest.raises(CardDigestError):
        LoRAFormat.read(path, digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("how", ["in place", "in place, times set back", "another file"])
def test_a_change_is_noticed(how: str, tmp_path: Path, hashed: list[int]) -> None:
    path = tmp_path / "a.lora.arrow"
    written = LoRAFormat.write(card(name="a"), path)
    LoRAFormat.read(path, digest=written.digest)
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "another file":
        (tmp_path / "b").write_bytes(data)
        (tmp_path / "b").replace(path)
    else:
        with path.open("r+b") as file:
            file.write(data)
    if how != "in place":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(CardDigestError):
        LoRAFormat.read(path, digest=written.digest)


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora.verified.SETTLED_S", 3600.0)
    path = tmp_path / "a.lora.arrow"
    LoRAFormat.write(card(name="a"), path)
    hashed.clear()
    LoRAFormat.read(path)
    LoRAFormat.read(path)
    assert len(hashed) == 2


def test_what_is_not_sound_is_never_remembered(tmp_path: Path, hashed: list[int]) -> None:
    path = tmp_path / "a.lora.arrow"
    LoRAFormat.write(card(name="a"), path)
    path.write_bytes(path.read_bytes()[:-7])
    for _ in range(2):
        with pytest.raises(CardError):
            LoRAFormat.read(path)


def test_what_a_sound_file_says_is_read_once(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.lora.arrow"
    LoRAFormat.write(card(name="a", extra={"b": "c"}, prototypes=np.eye(2, 6, dtype="f4")), path)
    first = LoRAFormat.read(path)
    monkeypatch.setattr("lora.card.outline", None)  # not to be called
    again = LoRAFormat.read(path)
    for name in (each.name for each in fields(LoRACard)):
        one, other = getattr(first, name), getattr(again, name)
        if name == "modules":
            assert list(one) == list(other)
            for mine, theirs in zip(one.values(), other.values(), strict=True):
                assert (mine.rank, mine.alpha) == (theirs.rank, theirs.alpha)
                assert mine.matrices.keys() == theirs.matrices.keys()
                for role, matrix in mine.matrices.items():
                    np.testing.assert_array_equal(matrix, theirs.matrices[role], strict=True)
                    assert not theirs.matrices[role].flags.writeable
        elif name == "prototypes":
            np.testing.assert_array_equal(one, other, strict=True)
        else:
            assert one == other
    assert LoRAFormat.encode(again) == path.read_bytes()


def test_only_the_latest_are_remembered() -> None:
    known = Verified[str](most=2)
    states = [Identity(0, number, 0, 0, 0) for number in range(3)]
    for state in states[:2]:
        known.learn(state, "old")
    assert known.get(states[0]) == "old"
    known.learn(states[2], "new")
    assert [known.get(state) for state in states] == ["old", None, "new"]
