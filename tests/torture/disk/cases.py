"""One case: a journal is filled and damaged; then all of it is there, or a broker refuses it."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import schemas
from bus.errors import BusError, Damaged
from bus.journal import Journal
from bus.journal.repair import Repaired, repair
from tests.torture.disk.damage import DAMAGES, damage, places, touched
from tests.torture.disk.filling import GROUPS, KINDS, History, fill

__all__ = ["Case", "play"]

_ENDS = ("", "-wal", "-tally")


@dataclass
class Case:
    """What became of it."""

    damages: str
    events: int
    refused: bool = False
    kept: int = 0
    words: str = ""
    """What the refusal said."""


class Broken(Exception):
    """A promise was not kept; says which."""


def play(seed: str, most: int = 200) -> Case:
    """Everything random comes from `seed`; some `most` events. Raises `Broken`."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="disk") as folder:
        state = Path(folder) / "state"
        history = fill(state, chance, most)
        before = {end: _bytes(state, end) for end in _ENDS}
        where = places(state)
        if set(where) != set(history.raws):
            raise Broken(f"{len(history.raws)} events were written, {len(where)} lie in the files")
        names = _damaged(state, chance)
        case = Case(" and ".join(names), len(history.raws))
        try:
            journal = Journal(state / "journal.sqlite")
        except Damaged as e:
            case.refused, case.words = True, str(e)
        except BusError as e:  # another program's file, or a newer version's
            case.refused, case.words = True, str(e)
            if (state / "journal.sqlite-tally").exists() and "version" not in str(e):
                raise Broken(f"{case.damages}: refused as {e}") from e
            return case
        if not case.refused:
            try:
                _all_there(journal, history)
            finally:
                journal.close()
            case.kept = len(history.raws)
            return case
        untouched = {n for n, pages in where.items() if not touched(state, before, pages)}
        damaged = {end for end in _ENDS if (state / f"journal.sqlite{end}").exists()}
        try:
            report = repair(state)
        except BusError as e:
            if "another journal" in str(e) and "another journal in its place" in names:
                return case
            raise Broken(f"{case.damages}: {case.words}; a repair says: {e}") from e
        if report is None:
            raise Broken(f"{case.damages}: refused ({case.words}), and nothing to repair")
        case.kept = report.kept
        _repaired(state, report, history, untouched, damaged)
        return case


def _bytes(state: Path, end: str) -> bytes:
    file = state / f"journal.sqlite{end}"
    return file.read_bytes() if file.exists() else b""


def _damaged(state: Path, chance: random.Random) -> list[str]:
    """One damage, or two; never the tally and another: then nothing tells what is missing."""
    done: list[str] = []
    wanted = 2 if chance.random() < 0.2 else 1
    while len(done) < wanted:
        name = chance.choice(list(DAMAGES))
        if done and ("tally" in name or "tally" in done[0]):
            break
        if damage(state, name, chance):
            done.append(name)
    return done


def _all_there(journal: Journal, history: History) -> None:
    """Every event as it was acknowledged, and for each group what it has yet to end."""
    _same(journal, history, set(history.raws))
    placed = _resend(journal, history)
    if not all(known for _, known in placed):
        raise Broken("an event that was sent again was taken for a new one")
    for group in GROUPS:
        owed = _deliverable(journal, group)
        if owed != history.owed[group]:
            raise Broken(f"{group} is owed {len(history.owed[group])}, and would get {len(owed)}")
    dead = _dead(journal)
    if dead != history.dead:
        raise Broken(f"{len(history.dead)} dead letters were written, {len(dead)} are there")


def _repaired(
    state: Path, report: Repaired, history: History, untouched: set[int], damaged: set[str]
) -> None:
    journal = Journal(state / "journal.sqlite")
    try:
        kept = {n for n in history.raws if journal.event(n) is not None}
        _same(journal, history, kept)
        if gone := untouched - kept:
            raise Broken(f"{len(gone)} events on sound pages were not kept: {sorted(gone)[:5]}")
        lost = set(history.raws) - kept
        if report.lost is not None and report.lost != len(lost):
            raise Broken(f"{len(lost)} events were lost, and it says {report.lost}")
        told = {n for first, last in report.missing for n in range(first, last + 1)}
        if len(report.missing) < 100 and lost - told:
            raise Broken(f"it does not say that {sorted(lost - told)[:5]} are lost: {report}")
        if report.kept != len(kept):
            raise Broken(f"it says {report.kept} kept, and there are {len(kept)}")
        for group in GROUPS:
            if hidden := (history.owed[group] & kept) - _deliverable(journal, group):
                raise Broken(f"{group} would never get {sorted(hidden)[:5]}: {report}")
        if not _dead(journal) <= history.dead:
            raise Broken("there are dead letters that never were")
        if lost:
            journal.begin()
            placed = journal.append([history.entries[min(lost) - 1]])
            journal.commit()
            (sequence, known) = placed[0]
            if not known and sequence <= max(history.raws) and report.last:
                raise Broken(f"number {sequence} was given a second time: {report}")
    finally:
        journal.close()
    for end in _ENDS[:2]:
        now = state / f"journal.sqlite{end}"
        if end in damaged and not (state / f"{report.damaged}{end}").exists():
            raise Broken(f"the damaged {now.name} is gone")


def _same(journal: Journal, history: History, expected: set[int]) -> None:
    found: dict[int, bytes] = {}
    after = 0
    while page := journal.read(None, after, 1000)[0]:
        for raw in page:
            after = schemas.header(raw).sequence or 0
            found[after] = raw
    if missing := expected - set(found):
        raise Broken(f"{len(missing)} acknowledged events are gone: {sorted(missing)[:5]}")
    for number, raw in found.items():
        if raw != history.raws.get(number):
            raise Broken(f"event {number} is not what was acknowledged")


def _resend(journal: Journal, history: History) -> list[tuple[int, bool]]:
    journal.begin()
    placed = journal.append(history.entries)
    journal.rollback()
    return placed


def _deliverable(journal: Journal, group: str) -> set[int]:
    """What a group would get from now on, once every lease has run out."""
    now = journal.clock()
    found: set[int] = set()
    journal.begin()
    try:
        journal.clock = lambda: now + 1000
        while taken := journal.leases.lease(group, KINDS, 10_000, 10_000.0, "earliest"):
            found |= {schemas.header(leased.raw).sequence or 0 for leased in taken}
    finally:
        journal.clock = lambda: now
        journal.rollback()
    return found


def _dead(journal: Journal) -> set[tuple[str, int]]:
    return {
        (letter.group, schemas.header(letter.raw).sequence or 0)
        for letter in journal.leases.dead("list", None, None)
    }
