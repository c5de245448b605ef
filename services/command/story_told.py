"""A story as its moments: what happened when, how long after the moment before, and by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import msgspec

from schemas import (
    Event,
    LearningBatchQueued,
    LearningBatchRejected,
    SkillFetched,
    SkillInstalled,
    SkillPublished,
    SkillRejected,
    SkillRetire,
    SkillRetired,
    TrainingRejected,
    TrainingRequested,
)
from services.command.story_chain import Chain
from services.command.story_feedback import Piece
from services.command.story_lines import FIRST_ANSWER, Line

__all__ = ["Moment", "Story", "told"]

TOLD_BY_EVENTS: Final = frozenset(
    {
        *("batch queued", "batch rejected", "dataset made", "judged"),
        *("skill installed", "skill rejected", "skill retired"),
    }
)
"""Lines that say what an event says better."""


class Moment(msgspec.Struct, kw_only=True):
    """One thing that happened."""

    time: datetime
    type: str
    """The event's type; `log` for a line of a log."""
    text: str
    """A sentence for people."""
    source: str | None = None
    id: str | None = None
    sequence: int | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    level: str | None = None
    """Of a line of a log."""
    after_s: float | None = None
    """Seconds since the moment before; null for the first."""


class Story(msgspec.Struct, kw_only=True):
    """All of it; the JSON of `consonance story`."""

    title: str
    domain: str | None
    batches: list[str]
    tasks: list[str]
    skills: list[dict[str, Any]]
    feedback: list[Piece]
    seconds: float | None
    """From the first moment to the first answer with a card that it led to, else to the first
    version in service; null where it came to neither."""
    moments: list[Moment]


def told(chain: Chain | None, pieces: Sequence[Piece], lines: Sequence[Line]) -> Story:
    """The story; without a chain that of feedback which has led to nothing yet."""
    events = [] if chain is None else chain.events
    installed = [e.time for e in events if isinstance(e.data, SkillInstalled)]
    moments = [*_of_pieces(pieces), *map(_of_event, events), *_of_lines(lines, installed)]
    moments.sort(key=lambda one: one.time)
    for before, one in pairwise(moments):
        one.after_s = round((one.time - before.time).total_seconds(), 3)
    used = [one.time for one in moments if one.type == "log" and one.text.startswith(FIRST_ANSWER)]
    end = min(used or installed, default=None)
    seconds = None if end is None else round((end - moments[0].time).total_seconds(), 3)
    return Story(
        title=_title(chain, pieces, events, seconds),
        domain=_domain(pieces, events),
        batches=[] if chain is None else list(chain.batches),
        tasks=[] if chain is None else list(chain.tasks),
        skills=list(_skills(events)),
        feedback=list(pieces),
        seconds=seconds,
        moments=moments,
    )


def _of_pieces(pieces: Sequence[Piece]) -> Iterator[Moment]:
    """Many pieces are three moments: the first was given, the last was, the last was judged."""
    given = sorted(piece.given for piece in pieces if piece.given is not None)
    judged = [piece.judged for piece in pieces if piece.judged is not None]
    clashes = [piece for piece in pieces if piece.clash is not None]
    if given:
        only = len(given) == 1
        text = "feedback given" if only else f"first of {len(given)} pieces of feedback given"
        yield Moment(time=given[0], type="feedback.given", text=text, id=_only(pieces))
        if not only:
            yield Moment(time=given[-1], type="feedback.given", text="last of them given")
    if judged:
        rules = Counter(piece.clash for piece in clashes).most_common()
        what = ", ".join(f"{count} {rule}" for rule, count in rules)
        text = f"{len(judged)} judged: "
        text += f"{len(clashes)} clash ({what})" if clashes else "no clash"
        yield Moment(time=max(judged), type="feedback.judged", text=text, id=_only(pieces))


def _only(pieces: Sequence[Piece]) -> str | None:
    return pieces[0].id if len(pieces) == 1 else None


def _of_event(event: Event[Any]) -> Moment:
    return Moment(
        time=event.time,
        type=event.type,
        text=_sentence(event.data),
        source=event.source,
        id=event.id,
        sequence=event.sequence,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
    )


def _of_lines(lines: Iterable[Line], installed: Sequence[datetime]) -> Iterator[Moment]:
    """Of answers with a card only the first: encoders say it each."""
    answered: set[str] = set()
    for line in lines:
        if line.text in TOLD_BY_EVENTS:
            continue
        fields = dict(line.fields)
        correlation = fields.pop("correlationid", None)
        if line.text == FIRST_ANSWER:
            digest = str(fields.get("digest"))
            if digest in answered or (installed and line.time < min(installed)):
                continue
            answered.add(digest)
        yield Moment(
            time=line.time,
            type="log",
            text=_words(line.text, fields),
            source=line.source,
            correlation_id=correlation,
            level=line.level,
        )


def _words(text: str, fields: dict[str, Any]) -> str:
    skill = fields.pop("skill", None)
    version = fields.pop("version", None)
    for known in ("digest", "task", "batch", "traceid"):
        fields.pop(known, None)
    named = "" if skill is None else f" {skill}" + ("" if version is None else f"@{version}")
    rest = "".join(f", {key} {value}" for key, value in fields.items() if value is not None)
    return f"{text}{':' if named else ''}{named}{rest}"


def _sentence(data: Any) -> str:
    match data:
        case LearningBatchQueued():
            return f"batch queued: {len(data.events)} clashes of {data.domain}"
        case LearningBatchRejected():
            return f"batch rejected: {data.reason}"
        case TrainingRequested():
            sources = ", ".join(f"{rows} {name}" for name, rows in data.sources.items())
            others = len(data.batch_ids) - 1
            beside = f", with {others} other batch{'es' if others > 1 else ''}" if others else ""
            rows = f"{data.dataset.rows} rows" + (f" ({sources})" if sources else "")
            return f"training of {data.skill} requested{beside}: {rows}"
        case TrainingRejected():
            return f"refused{_took(data)}: {data.reason}{_figures(data.metrics)}"
        case SkillPublished():
            depth = f"{data.depth} passed the gate, " if data.depth else ""
            card = data.card
            figures = _figures(card.metrics)
            return f"{depth}{card.name}@{card.version} published{_took(data)}{figures}"
        case SkillFetched():
            return f"{data.card.name}@{data.card.version} fetched from {data.peer}"
        case SkillInstalled():
            return f"{data.card.name}@{data.card.version} installed: requests may use it"
        case SkillRejected():
            return f"{data.name} rejected by the manager: {data.reason}"
        case SkillRetire():
            return f"{data.name}@{data.version} to be retired: {data.reason}"
        case SkillRetired():
            return f"{data.name}@{data.version} retired: {data.reason}"
        case _:
            return str(data.type)


def _took(data: TrainingRejected | SkillPublished) -> str:
    return "" if data.seconds is None else f" after {data.seconds:.1f} s of training and gate"


def _figures(metrics: dict[str, float | int | None]) -> str:
    gain, low, high = (metrics.get(name) for name in ("gain", "low", "high"))
    if gain is None:
        return ""
    return f", gain {gain:+.3f}" + (
        "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    )


def _domain(pieces: Sequence[Piece], events: Sequence[Event[Any]]) -> str | None:
    for event in events:
        found = getattr(event.data, "domain", None)
        if found:
            return str(found)
    return next((piece.domain for piece in pieces if piece.domain), None)


def _skills(events: Sequence[Event[Any]]) -> Iterator[dict[str, Any]]:
    """Each version that it led to, with what became of it."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        data = event.data
        if isinstance(data, SkillPublished | SkillFetched):
            card = data.card
            told = {"name": card.name, "version": card.version, "digest": card.digest}
            found.setdefault(card.digest, {**told, "state": "published"})
        elif isinstance(data, SkillInstalled):
            card = data.card
            told = {"name": card.name, "version": card.version, "digest": card.digest}
            found.setdefault(card.digest, told)["state"] = "installed"
        elif isinstance(data, SkillRejected | SkillRetired) and data.digest in found:
            retired = isinstance(data, SkillRetired)
            found[data.digest]["state"] = "retired" if retired else "rejected"
    yield from found.values()


def _title(
    chain: Chain | None,
    pieces: Sequence[Piece],
    events: Sequence[Event[Any]],
    seconds: float | None,
) -> str:
    if chain is None:
        if any(piece.clash for piece in pieces):
            return "a clash, which waits in the open batch of its domain"
        judged = any(piece.judged for piece in pieces)
        return "feedback that clashes with nothing" if judged else "feedback, not judged yet"
    skills = list(_skills(events))
    if skills:
        what = ", ".join(f"{it['name']}@{it['version']} {it['state']}" for it in skills)
        return what if seconds is None else f"{what}; in use {seconds:.1f} s after the beginning"
    refused = [e.data for e in events if isinstance(e.data, TrainingRejected)]
    if refused:
        return f"refused: {refused[-1].reason}"
    if any(isinstance(event.data, LearningBatchRejected) for event in events):
        return "nothing was learned from it"
    return "in training, or waiting for it" if chain.tasks else "waits for its dataset"
