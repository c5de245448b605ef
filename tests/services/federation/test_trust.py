"""Whose cards are accepted: what the file says now, and nothing that it does not say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.federation.errors import TrustFileError
from services.federation.identity import NodeKey
from services.federation.trust import Trusted, TrustList, add, remove

ROOT = Path(__file__).resolve().parents[3]
OWN, ANNA, BEN, CARL = (NodeKey.generate().public for _ in range(4))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "trusted"


def settled(path: Path) -> None:
    """As if the file had been written long ago."""
    os.utime(path, (1_700_000_000, 1_700_000_000))


def test_without_a_file_only_the_own_key_is_trusted(path: Path) -> None:
    said: list[str] = []
    trust = TrustList(path, OWN, report=said.append)

    assert trust.accepts(OWN)
    assert not trust.accepts(ANNA)
    assert not trust.accepts(None)
    assert trust.entries() == ()
    assert said == [], "an absent file is an empty one"
    assert not TrustList(path, None).accepts(OWN)


def test_a_file_as_people_write_it(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(
        b"\xef\xbb\xbf# who we trust\r\n\r\n"
        + f"{ANNA}   Anna's  laptop \r\n\t{BEN}\n  # {CARL}\n#{CARL}\n{ANNA} again".encode()
    )
    said: list[str] = []
    trust = TrustList(path, OWN, report=said.append)

    assert trust.entries() == (Trusted(ANNA, "Anna's laptop"), Trusted(BEN, ""))
    assert trust.accepts(ANNA)
    assert trust.accepts(BEN)
    assert not trust.accepts(CARL), "a comment trusts nobody"
    assert said == []


def test_a_malformed_line_is_skipped_and_told_once(path: Path) -> None:
    path.parent.mkdir()
    secret = b"-----BEGIN PRIVATE KEY-----"
    path.write_bytes(
        b"\n".join(
            [
                ANNA[:-1].encode(),
                ANNA.encode() + b"= padded",
                secret,
                BEN.encode() + b" \xff",
                b"\x00\xff\xfe",
                ("x" + CARL).encode(),
                CARL.encode() + b" C\x1b[2Jarl",
            ]
        )
    )
    said: list[str] = []
    trust = TrustList(path, OWN, report=said.append)

    for _ in range(3):
        assert trust.entries() == (Trusted(CARL, "C?[2Jarl"),)
    assert [line.split(": ")[0] for line in said] == [
        f"{path}, line {number}, is skipped" for number in (1, 2, 3, 4, 5, 6)
    ]
    assert not any("PRIVATE" in line for line in said), "what was pasted there stays there"
    # What is mended and comes back is told again.
    path.write_text(f"{ANNA}\n")
    assert trust.accepts(ANNA)
    path.write_text("nonsense\n")
    assert not trust.accepts(ANNA)
    assert len(said) == 7


def test_a_file_of_another_kind_trusts_nobody_and_floods_nobody(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"junk\n" * 20_000)
    said: list[str] = []
    trust = TrustList(path, OWN, report=said.append)

    assert not trust.accepts(ANNA)
    assert len(said) == 21
    assert said[-1].endswith("19980 more lines are skipped")


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def to_huge(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(2 << 20)


@pytest.mark.parametrize("spoil", [to_folder, to_pipe, to_loop, to_huge])
def test_of_a_file_that_cannot_be_read_nobody_is_trusted_and_that_is_said(
    path: Path, spoil: Callable[[Path], None]
) -> None:
    add(path, ANNA)
    said: list[str] = []
    trust = TrustList(path, OWN, report=said.append)
    assert trust.accepts(ANNA)

    spoil(path)

    assert not trust.accepts(ANNA)
    assert not trust.accepts(ANNA)
    assert trust.accepts(OWN)
    assert len(said) == 1
    assert said[0].endswith("nobody in it is trusted")


def test_every_kind_of_change_counts_at_once(path: Path) -> None:
    add(path, ANNA)
    add(path, BEN)
    settled(path)
    trust = TrustList(path, OWN)
    assert trust.accepts(ANNA)

    # In place, with the same size and the same time of change
    path.write_text(path.read_text().replace(ANNA, CARL))
    settled(path)
    assert not trust.accepts(ANNA)
    assert trust.accepts(CARL)
    # Another file in its place
    beside = path.with_name("new")
    beside.write_text(path.read_text().replace(CARL, ANNA))
    settled(beside)
    beside.replace(path)
    assert trust.accepts(ANNA)
    # Removed, and made again
    path.unlink()
    assert not trust.accepts(ANNA)
    add(path, ANNA)
    assert trust.accepts(ANNA)


def test_a_change_within_one_tick_of_the_clock_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems count whole seconds: two edits may leave the same stamp."""
    add(path, ANNA)
    frozen = os.stat(path)
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda p, *a, **k: frozen if p == path else real(p, *a, **k))
    trust = TrustList(path, OWN)
    assert trust.accepts(ANNA)

    path.write_text(f"{BEN}\n")

    assert trust.accepts(BEN)
    assert not trust.accepts(ANNA)


def test_an_unchanged_file_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(path, ANNA)
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    trust = TrustList(path, OWN)
    assert trust.accepts(ANNA)
    monkeypatch.setattr(os, "open", None)

    assert trust.accepts(ANNA)
    assert not trust.accepts(BEN)


def test_comments_order_and_mode_outlive_changes(path: Path) -> None:
    path.parent.mkdir()
    text = f"# ours\n\n{ANNA} anna\nnonsense\n# Ben\xe9\n{BEN} ben # yes\n{ANNA} twice"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o640)

    assert add(path, CARL, "  carl   c ")
    assert path.read_bytes() == (text + f"\n{CARL} carl c\n").encode("latin-1")
    assert remove(path, "anna") == (Trusted(ANNA, "anna"),)
    assert path.read_bytes() == (
        f"# ours\n\nnonsense\n# Ben\xe9\n{BEN} ben # yes\n{CARL} carl c\n".encode("latin-1")
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == ["trusted"]


def test_a_new_file_is_its_owners_alone_and_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    add(path, ANNA)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    link = tmp_path / "link"
    link.symlink_to(path)

    add(link, BEN)

    assert link.is_symlink()
    assert TrustList(path, OWN).accepts(BEN)


def test_adding_and_removing_twice_is_as_once(path: Path) -> None:
    assert add(path, ANNA, "anna")
    once = path.read_bytes()
    assert not add(path, ANNA, "anna")
    assert not add(path, ANNA), "no name is no new name"
    assert path.read_bytes() == once
    assert add(path, ANNA, "anna b"), "another name is one"
    assert TrustList(path, OWN).entries() == (Trusted(ANNA, "anna b"),)

    assert remove(path, ANNA)
    assert remove(path, ANNA) == ()
    assert remove(path, Trusted(ANNA).fingerprint) == ()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("way", ["key", "fingerprint", "name"])
def test_somebody_is_removed_by_key_fingerprint_or_name(path: Path, way: str) -> None:
    add(path, ANNA, "anna")
    add(path, BEN, "ben")
    who = {"key": BEN, "fingerprint": Trusted(BEN).fingerprint, "name": " ben"}[way]

    assert remove(path, who) == (Trusted(BEN, "ben"),)
    assert TrustList(path, OWN).entries() == (Trusted(ANNA, "anna"),)


def test_what_is_not_clear_changes_nothing(path: Path) -> None:
    add(path, ANNA, "anna")
    with path.open("a") as file:
        file.write(f"{BEN} twin\n{CARL} twin\n")
    before = path.read_bytes()
    other = NodeKey.generate().public

    for public in ("", "anna", ANNA + "\n", ANNA + " " + BEN, "ed25519:" + "A" * 43):
        with pytest.raises(TrustFileError, match="that is no public key"):
            add(path, public)
    for name in ("a\nb", f"x\n{BEN}", "\x1b[2J", "\u2028", "\ud800"):
        with pytest.raises(TrustFileError, match="one line"):
            add(path, other, name)
    for name in ("x" * 101, Trusted(BEN).fingerprint, BEN):
        with pytest.raises(TrustFileError, match="a name "):
            add(path, other, name)
    with pytest.raises(TrustFileError, match=f"'anna' is that of {Trusted(ANNA).fingerprint}"):
        add(path, other, "anna")
    with pytest.raises(TrustFileError, match=f"say which of {Trusted(BEN).fingerprint}, "):
        remove(path, "twin")
    for nobody in ("ana", "", ANNA[:-1], Trusted(ANNA).fingerprint[:-1]):
        with pytest.raises(TrustFileError, match="nobody in"):
            remove(path, nobody)
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_changed_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrustFileError, match="cannot be read: Not a directory"):
        add(tmp_path / "file" / "trusted", ANNA)
    with pytest.raises(TrustFileError, match="cannot be changed: No such file"):
        remove(tmp_path / "absent" / "trusted", ANNA)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "trusted").mkdir()
    with pytest.raises(TrustFileError, match="no regular file"):
        add(tmp_path / "trusted", ANNA)


def test_of_several_who_add_at_the_same_time_nobody_is_lost(path: Path) -> None:
    keys = [NodeKey.generate().public for _ in range(24)]
    code = (
        "import sys; from pathlib import Path\n"
        "from services.federation.trust import add\n"
        "for public in sys.argv[2:]: add(Path(sys.argv[1]), public)\n"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(path), *keys[i::3]], cwd=ROOT)
        for i in range(3)
    ]
    assert [child.wait(timeout=30) for child in children] == [0, 0, 0]

    assert {one.public for one in TrustList(path, OWN).entries()} == set(keys)
