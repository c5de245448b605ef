"""The versions of each skill that the factory knows of, with their fold models."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from schemas import SkillCard
from services.runtime.store import add_columns

__all__ = ["SCHEMA", "Version", "VersionStore"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    skill TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL,
    card BLOB NOT NULL, since REAL NOT NULL, gone INTEGER NOT NULL DEFAULT 0,
    ours INTEGER NOT NULL, next_look INTEGER NOT NULL DEFAULT 0,
    looks INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (skill, digest)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Version:
    """One version of a skill."""

    card: SkillCard
    since: float
    """When it was published, or first heard of; seconds since the epoch."""
    ours: bool
    """This factory made it."""
    next_look: int
    """Pieces of later feedback at which it is next compared with the one before."""
    looks: int
    """So often it was compared."""


class VersionStore:
    """Numbers count up for ever: a retired version's number is not used again."""

    def __init__(self, store: sqlite3.Connection, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._model: str | None = None
        add_columns(store, "versions", {"looks": "INTEGER NOT NULL DEFAULT 0"})

    def serves(self, sha256: str) -> None:
        """Only versions made for the model with these weights are in service."""
        self._model = sha256

    def learn(
        self, card: SkillCard, since: float, *, ours: bool = False, next_look: int = 0
    ) -> None:
        """A version is in service; one that came back is so again."""
        self._store.execute(
            "INSERT INTO versions (skill, version, digest, card, since, ours, next_look)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (skill, digest) DO UPDATE SET gone = 0",
            (
                card.name,
                card.version,
                card.digest,
                msgspec.json.encode(card),
                since,
                int(ours),
                next_look,
            ),
        )

    def forget(self, name: str, digest: str) -> None:
        """A version was retired or rejected: it is champion no more."""
        self._store.execute(
            "UPDATE versions SET gone = 1 WHERE skill = ? AND digest = ?", (name, digest)
        )

    def newest(self, skill: str, below: int | None = None) -> Version | None:
        """The version in service, or the newest one numbered below `below`."""
        return next(self._newest_first(skill, below), None)

    def chain(self, skill: str) -> list[Version]:
        """The version in service and those that would come back after it, the oldest first."""
        return list(self._newest_first(skill))[::-1]

    def _newest_first(self, skill: str, below: int | None = None) -> Iterator[Version]:
        rows = self._store.execute(
            "SELECT * FROM versions WHERE skill = ? AND NOT gone AND (? IS NULL OR version < ?)"
            " ORDER BY version DESC, digest",
            (skill, below, below),
        ).fetchall()
        for row in rows:
            card = msgspec.json.decode(row["card"], type=SkillCard)
            if self._model in (None, card.base_model.sha256):
                ours, looks = bool(row["ours"]), row["looks"]
                yield Version(card, row["since"], ours, row["next_look"], looks)

    def next_number(self, skill: str) -> int:
        """One above every version that there ever was."""
        row = self._store.execute(
            "SELECT MAX(version) AS top FROM versions WHERE skill = ?", (skill,)
        ).fetchone()
        return int(row["top"] or 0) + 1

    def skills(self) -> list[str]:
        """Names of the skills with a version in service."""
        rows = self._store.execute("SELECT DISTINCT skill FROM versions WHERE NOT gone")
        return sorted(row["skill"] for row in rows)

    def look_again_at(self, version: Version, pieces: int, *, looked: bool = True) -> None:
        """Compare it next when there are so many pieces of later feedback."""
        self._store.execute(
            "UPDATE versions SET next_look = ?, looks = looks + ? WHERE skill = ? AND digest = ?",
            (pieces, int(looked), version.card.name, version.card.digest),
        )

    def look_anew(self, skill: str, above: int) -> None:
        """Those numbered above `above` stand upon another version now: look as soon as one may."""
        self._store.execute(
            "UPDATE versions SET next_look = 0 WHERE skill = ? AND version > ?", (skill, above)
        )

    # -- fold models

    def folds(self, digest: str) -> Path:
        """The folder of a version's fold models; there may be none."""
        return self._folder / digest.removeprefix("sha256:")

    def keep_folds(self, digest: str, source: Path) -> None:
        """Copy fold models beside the version they belong to; doing it twice is doing it once."""
        target = self.folds(digest)
        if target.exists() or not source.is_dir():
            return
        beside = target.with_name(target.name + ".writing")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(source, beside)
        beside.rename(target)

    def tidy(self) -> None:
        """Delete the fold models of cards that never became versions."""
        rows = self._store.execute("SELECT digest FROM versions")
        known = {self.folds(row["digest"]).name for row in rows}
        for folder in self._folder.glob("*"):
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def prune_folds(self, skill: str, keep: int) -> None:
        """Delete the fold models of all but the newest `keep` versions of a skill in service.

        Retired ones do not count: the one before them is champion again.
        """
        rows = self._store.execute(
            "SELECT digest FROM versions WHERE skill = ? AND digest NOT IN (SELECT digest FROM"
            " versions WHERE skill = ? AND NOT gone ORDER BY version DESC LIMIT ?)",
            (skill, skill, keep),
        ).fetchall()
        for row in rows:
            shutil.rmtree(self.folds(row["digest"]), ignore_errors=True)
