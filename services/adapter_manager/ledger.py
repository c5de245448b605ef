"""The manager's own table: every card it has judged, and how."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from schemas import SkillCard
from services.adapter_manager.versions import State, Version
from services.runtime.store import add_columns, open_store, transaction

__all__ = ["Ledger", "Record"]

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS cards (
    digest TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    cause TEXT NOT NULL DEFAULT '',
    card BLOB,
    signer TEXT,
    peer TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS pins (digest TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS cards_by_name ON cards (name, version);
CREATE INDEX IF NOT EXISTS cards_by_cause ON cards (cause);
CREATE INDEX IF NOT EXISTS cards_by_state ON cards (state);
"""


_LATER: Final = {"signer": "TEXT", "peer": "TEXT"}
"""Columns that an older table lacks."""

EACH: Final = 50
"""Cards of one author's skill that are out of service and still listed, the newest versions."""

MOST: Final = 1000
"""Cards out of service that are still listed in all, this node's own before those of peers."""

_LISTED: Final = """
SELECT * FROM (
    SELECT *, rowid AS place,
        row_number() OVER (PARTITION BY name, signer ORDER BY version DESC, rowid DESC) AS nth
    FROM cards WHERE state IN ('retired', 'rejected')
) WHERE nth <= ? ORDER BY signer IS NOT NULL, place DESC LIMIT ?
"""

_IN_SERVICE: Final = """
SELECT digest, length(card) FROM cards
WHERE state NOT IN ('retired', 'rejected') AND card IS NOT NULL
ORDER BY CASE state WHEN 'installed' THEN 0 WHEN 'kept' THEN 1 ELSE 2 END, rowid
"""

_FORGET_REJECTED: Final = (
    "DELETE FROM cards WHERE state = 'rejected' AND digest NOT IN"  # noqa: S608  (a constant)
    f" (SELECT digest FROM ({_LISTED})) RETURNING digest"
)


class Record(NamedTuple):
    """One card."""

    digest: str
    name: str
    version: int
    state: State
    reason: str
    """Why it is retired or rejected."""
    cause: str
    """The event that put it into this state: told again if that event is delivered again."""
    card: SkillCard | None
    """None of a card that was retired before it was ever seen."""
    peer: str | None = None
    """From which peer it was fetched; None where it was published here."""

    @property
    def signer(self) -> str | None:
        """Its author; None: this node itself."""
        return None if self.card is None else self.card.signer

    @property
    def among(self) -> Version:
        """What the rules of versions need."""
        return Version(self.digest, self.version, self.state)


class Ledger:
    """Records in SQLite; used from one thread. Every change is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._store = open_store(path, SCHEMA)
        add_columns(self._store, "cards", _LATER)
        self._card = msgspec.json.Decoder(SkillCard)

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Changes within the block become true together, or not at all."""
        with transaction(self._store):
            yield

    def get(self, digest: str) -> Record | None:
        """The record of a card."""
        row = self._store.execute("SELECT * FROM cards WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else self._record(row)

    def of(self, name: str, signer: str | None = None) -> list[Record]:
        """The records of one author's skill, the oldest version first."""
        query = "SELECT * FROM cards WHERE name = ? AND signer IS ? ORDER BY version, digest"
        return [self._record(row) for row in self._store.execute(query, (name, signer))]

    def caused_by(self, cause: str) -> list[Record]:
        """The records that this event put into their state."""
        query = "SELECT * FROM cards WHERE cause = ? ORDER BY name, version, digest"
        return [self._record(row) for row in self._store.execute(query, (cause,))]

    def states(self) -> list[tuple[str, State]]:
        """Digest and state of every card; their descriptions are not read."""
        query = "SELECT digest, state FROM cards ORDER BY name, version DESC, digest"
        return [(digest, state) for digest, state in self._store.execute(query)]

    def installed(self) -> Iterator[Record]:
        """The newest versions, this node's own before those of peers, then as they came.

        Read one by one: whoever needs a few need not wait for thousands.
        """
        query = (
            "SELECT digest FROM cards WHERE state = 'installed' ORDER BY signer IS NOT NULL, rowid"
        )
        for (digest,) in self._store.execute(query).fetchall():
            record = self.get(digest)
            if record is not None and record.state == "installed":
                yield record

    def serving(self) -> list[Record]:
        """Every record but the retired and the rejected ones, the first that came first."""
        query = "SELECT * FROM cards WHERE state NOT IN ('retired', 'rejected') ORDER BY rowid"
        return [self._record(row) for row in self._store.execute(query)]

    def listed(self, each: int = EACH, most: int = MOST) -> list[tuple[str, int]]:
        """Digest of every card that is told of, and the bytes of its description.

        The installed ones first, then the kept, then those out of service, as `gone` has them.
        """
        serving = [(digest, size) for digest, size in self._store.execute(_IN_SERVICE)]
        gone = self._store.execute(_LISTED, (each, most))
        return serving + [(row["digest"], len(row["card"])) for row in gone if row["card"]]

    def gone(self, each: int = EACH, most: int = MOST) -> list[Record]:
        """Retired and rejected cards, the newest `each` of an author's skill and `most` in all."""
        return [self._record(row) for row in self._store.execute(_LISTED, (each, most))]

    def forget_rejected(self, each: int = EACH, most: int = MOST) -> list[str]:
        """Delete the records of rejected cards that are listed no more; their digests.

        A card that comes again is judged again. What was retired is never forgotten.
        """
        forgotten = self._store.execute(_FORGET_REJECTED, (each, most))
        return [digest for (digest,) in forgotten.fetchall()]

    def put(
        self,
        card: SkillCard,
        state: State,
        *,
        reason: str = "",
        cause: str = "",
        peer: str | None = None,
    ) -> None:
        """Write what is known of a card, in place of what was; without prototypes if rejected."""
        if state == "rejected":
            card = _slim(card)
        self._store.execute(
            "INSERT OR REPLACE INTO cards"
            " (digest, name, version, state, reason, cause, card, signer, peer)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                card.digest,
                card.name,
                card.version,
                state,
                reason,
                cause,
                msgspec.json.encode(card),
                card.signer,
                peer,
            ),
        )

    def retire(self, digest: str, name: str, version: int, *, reason: str, cause: str) -> None:
        """Take a card out of service for good, whether it was ever here or not."""
        known = self.get(digest)
        if known is not None and known.card is not None:
            slim = msgspec.json.encode(_slim(known.card))
            self._store.execute("UPDATE cards SET card = ? WHERE digest = ?", (slim, digest))
        self._store.execute(
            "INSERT INTO cards (digest, name, version, state, reason, cause)"
            " VALUES (?, ?, ?, 'retired', ?, ?) ON CONFLICT (digest) DO UPDATE SET"
            " state = 'retired', reason = excluded.reason, cause = excluded.cause",
            (digest, name, version, reason, cause),
        )
        self._store.execute("DELETE FROM pins WHERE digest = ?", (digest,))

    def pin(self, digest: str, pinned: bool) -> bool:
        """Remember that encoders keep a card, or need not; whether that is another state now.

        Only a card that serves is pinned, and only as long as it does.
        """
        if not pinned:
            gone = self._store.execute("DELETE FROM pins WHERE digest = ?", (digest,))
            return gone.rowcount > 0
        cursor = self._store.execute(
            "INSERT OR IGNORE INTO pins SELECT digest FROM cards"
            " WHERE digest = ? AND state IN ('installed', 'kept')",
            (digest,),
        )
        return cursor.rowcount > 0

    def pinned(self) -> list[str]:
        """Digests of the cards that encoders are to keep, in the order in which they came."""
        query = "SELECT digest FROM pins CROSS JOIN cards USING (digest) ORDER BY cards.rowid"
        return [row["digest"] for row in self._store.execute(query)]

    def rank(self, states: dict[str, State]) -> None:
        """Set the states of serving cards; their cause stays."""
        self._store.executemany(
            "UPDATE cards SET state = ? WHERE digest = ? AND state != ?",
            [(state, digest, state) for digest, state in states.items()],
        )

    def counts(self) -> dict[str, int]:
        """How many cards are in each state."""
        query = "SELECT state, count(*) FROM cards GROUP BY state"
        return {state: count for state, count in self._store.execute(query)}

    def _record(self, row: sqlite3.Row) -> Record:
        card = None if row["card"] is None else self._card.decode(row["card"])
        return Record(
            row["digest"],
            row["name"],
            row["version"],
            row["state"],
            row["reason"],
            row["cause"],
            card,
            row["peer"],
        )


def _slim(card: SkillCard) -> SkillCard:
    """Without prototypes and boundary, most of its bytes: it is out of service, not routed to."""
    return msgspec.structs.replace(card, prototypes="", boundary="")
