"""The versions of each skill that the factory knows of, with their fold models.

Several authors may have a skill of one name: each numbers their own versions, and only those of
one author follow one another.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lora.authors import Edition, foremost
from schemas import Event, SkillCard
from services.runtime.cards import edition_of
from services.runtime.store import add_columns

__all__ = ["SCHEMA", "Version", "VersionStore"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    skill TEXT NOT NULL, version INTEGER NOT NULL, digest TEXT NOT NULL,
    card BLOB NOT NULL, since REAL NOT NULL, gone INTEGER NOT NULL DEFAULT 0,
    ours INTEGER NOT NULL, next_look INTEGER NOT NULL DEFAULT 0,
    looks INTEGER NOT NULL DEFAULT 0,
    signer TEXT, cause TEXT, correlation TEXT,
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
    cause: str | None = None
    """The event that brought it here; None where only a list told of it."""
    correlation: str | None = None
    """What that event belongs to: the batch that the version was learned from."""

    @property
    def edition(self) -> Edition:
        """Whose it is, and what decides between it and others of its name."""
        return edition_of(self.card)


class VersionStore:
    """Numbers count up for ever: that of a retired version of this node's own is not used again."""

    def __init__(self, store: sqlite3.Connection, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._model: str | None = None
        later = {"looks": "INTEGER NOT NULL DEFAULT 0"}
        later |= dict.fromkeys(("signer", "cause", "correlation"), "TEXT")
        add_columns(store, "versions", later)

    def serves(self, sha256: str) -> None:
        """Only versions made for the model with these weights are in service."""
        self._model = sha256

    def learn(
        self,
        card: SkillCard,
        since: float,
        *,
        ours: bool = False,
        next_look: int = 0,
        cause: Event[Any] | None = None,
    ) -> None:
        """A version is in service; one that came back is so again, as it is described now."""
        self._store.execute(
            "INSERT INTO versions (skill, version, digest, card, since, ours, next_look, signer,"
            " cause, correlation) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (skill, digest) DO UPDATE SET"
            " gone = 0, card = excluded.card, signer = excluded.signer,"
            " cause = COALESCE(excluded.cause, cause),"
            " correlation = COALESCE(excluded.correlation, correlation)",
            (
                card.name,
                card.version,
                card.digest,
                msgspec.json.encode(card),
                since,
                int(ours),
                next_look,
                card.signer,
                None if cause is None else cause.id,
                None if cause is None else cause.correlation_id or cause.id,
            ),
        )

    def note(self, event: Event[Any], since: float) -> None:
        """`skill.published`: a factory of this node has made a version, in service once installed.

        Were two factories at the same task, the journal tells of one version: the other, where it
        is this one's, is none.
        """
        card = event.data.card
        self._store.execute(
            "UPDATE versions SET gone = 1 WHERE cause = ? AND digest != ?", (event.id, card.digest)
        )
        self._store.execute(
            "INSERT INTO versions (skill, version, digest, card, since, gone, ours, cause,"
            " correlation) VALUES (?, ?, ?, ?, ?, 1, 1, ?, ?)"
            " ON CONFLICT (skill, digest) DO UPDATE SET ours = 1",
            (
                card.name,
                card.version,
                card.digest,
                msgspec.json.encode(card),
                since,
                event.id,
                event.correlation_id or event.id,
            ),
        )

    def forget(self, name: str, digest: str) -> None:
        """A version was retired or rejected: it is champion no more."""
        self._store.execute(
            "UPDATE versions SET gone = 1 WHERE skill = ? AND digest = ?", (name, digest)
        )

    def newest(self, skill: str, *, without: str | None = None) -> Version | None:
        """The version that the skill's name means, or would `without` the card of this digest.

        This node's own newest, else the one of all authors' newest that was made last: what serves.
        """
        found = (it for it in self._of(skill) if it.card.digest != without)
        return foremost(found, lambda it: it.edition)

    def chain(self, skill: str) -> list[Version]:
        """The version in service and those of its author that would come back after it, the oldest
        first."""
        versions = self._of(skill)
        serves = foremost(versions, lambda it: it.edition)
        return [
            it for it in versions if serves is not None and it.card.signer == serves.card.signer
        ]

    def below(self, version: Version) -> Version | None:
        """The newest version of the same author that has a smaller number."""
        card = version.card
        older = [
            it
            for it in self._of(card.name)
            if it.card.signer == card.signer and it.card.version < card.version
        ]
        return older[-1] if older else None

    def in_service(self) -> list[Version]:
        """All versions of all skills that are, the one that was heard of first before others."""
        rows = self._store.execute("SELECT * FROM versions WHERE NOT gone ORDER BY since, digest")
        return self._fitting(rows.fetchall())

    def _of(self, skill: str) -> list[Version]:
        """A skill's versions in service, the smaller number first."""
        rows = self._store.execute(
            "SELECT * FROM versions WHERE skill = ? AND NOT gone ORDER BY version, digest",
            (skill,),
        )
        return self._fitting(rows.fetchall())

    def _fitting(self, rows: Iterable[sqlite3.Row]) -> list[Version]:
        found = []
        for row in rows:
            card = msgspec.json.decode(row["card"], type=SkillCard)
            if self._model in (None, card.base_model.sha256):
                found.append(
                    Version(
                        card,
                        row["since"],
                        bool(row["ours"]),
                        row["next_look"],
                        row["looks"],
                        row["cause"],
                        row["correlation"],
                    )
                )
        return found

    def next_number(self, skill: str) -> int:
        """One above every version of this node's own that there ever was."""
        row = self._store.execute(
            "SELECT MAX(version) AS top FROM versions WHERE skill = ? AND signer IS NULL", (skill,)
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

    def look_anew(self, skill: str, digest: str) -> None:
        """What its author numbered above this card stands upon another version now: look as soon
        as one may."""
        row = self._store.execute(
            "SELECT version, signer FROM versions WHERE skill = ? AND digest = ?", (skill, digest)
        ).fetchone()
        if row is not None:
            self._store.execute(
                "UPDATE versions SET next_look = 0 WHERE skill = ? AND signer IS ? AND version > ?",
                (skill, row["signer"], row["version"]),
            )

    def look_from_the_start(self, skill: str) -> None:
        """Its feedback was erased: versions are compared as soon as enough of it came again."""
        self._store.execute("UPDATE versions SET next_look = 0 WHERE skill = ?", (skill,))

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

        Retired ones do not count: the one before them is champion again. Nor do other authors'.
        """
        rows = self._store.execute(
            "SELECT digest FROM versions WHERE skill = ? AND digest NOT IN (SELECT digest FROM"
            " versions WHERE skill = ? AND signer IS NULL AND NOT gone"
            " ORDER BY version DESC LIMIT ?)",
            (skill, skill, keep),
        ).fetchall()
        for row in rows:
            shutil.rmtree(self.folds(row["digest"]), ignore_errors=True)
