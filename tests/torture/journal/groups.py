"""What became of every event in every group, told by the journal's witness and by the consumers.

The witness knows each turn of each lease; the consumers know what reached them and what they were
told. Each is held against the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.torture.journal.history import Delivered, History, Life, Step, Turn
from tests.torture.journal.verdict import Verdict

__all__ = ["check_groups"]

LEASED = ("fresh", "again")
WAITS = ("lapse", "nack", "back")
ENDS = ("ack", "dead")
CLOCK = 0.001
"""Seconds by which two readings of one clock may differ after rounding."""
ON_ITS_WAY = 0.3
"""Seconds before it was given in which who asked for it may have been lost."""


def check_groups(history: History, verdict: Verdict) -> None:
    """Every lease, every delivery, every answer to a consumer."""
    leases = _check_turns(history, verdict)
    _check_reached(history, verdict)
    _Consumers(history, leases, verdict).check()


def _check_turns(history: History, verdict: Verdict) -> dict[str, tuple[Turn, Turn | None]]:
    """Each event of each group: leased, back any number of times, ended once, never again.

    Returns each lease's first turn, and the one that ended it.
    """
    leases: dict[str, tuple[Turn, Turn | None]] = {}
    place: dict[tuple[str, int], Turn] = {}
    newest: dict[str, int] = {}
    for turn in history.turns:
        at = (turn.group, turn.sequence)
        before = place.get(at)
        was = before.what if before else ""
        about = (
            f"{turn.group} {turn.sequence}: {turn.what} (lease {turn.lease}) after {was or 'none'}"
        )
        if was in ENDS:
            verdict.say("twice", f"{about}: it had ended")
        elif turn.what in LEASED:
            if (turn.what == "fresh") != (not was) or was in LEASED:
                verdict.say("twice", about)
            if turn.what == "fresh":
                if turn.sequence <= newest.get(turn.group, 0):
                    verdict.say("order", f"{about}: {newest[turn.group]} went before it")
                newest[turn.group] = turn.sequence
            if turn.lease is None or turn.lease in leases:
                verdict.say("twice", f"{about}: a lease of that name was there before")
            else:
                leases[turn.lease] = (turn, None)
        elif turn.what in WAITS or turn.what in ENDS:
            if before is None or was not in LEASED or before.lease != turn.lease:
                # Where it ran out for the last time, it is buried out of its lease: as any end.
                verdict.say("answers", f"{about}: it was not leased so")
            elif turn.lease is not None:
                leases[turn.lease] = (before, turn)
            if turn.what == "lapse" and turn.at < turn.until - CLOCK:
                verdict.say("twice", f"{about}: {turn.until - turn.at:.3f} s before its time")
        else:
            verdict.say("lost", about)
        verdict.figures[f"turns: {turn.what}"] += 1
        place[at] = turn
    return leases


def _check_reached(history: History, verdict: Verdict) -> None:
    """Everything journaled was handled by each group that consumes its type, or is dead there."""
    ended = {(t.group, t.sequence): t.what for t in history.turns if t.what in ENDS}
    handled = {
        (life.group, record.sequence)
        for life in history.consumers
        for record in life.records
        if isinstance(record, Delivered)
    }
    for event in history.journal:
        for group, types in history.groups.items():
            if event.type not in types:
                continue
            what = ended.get((group, event.sequence))
            reached = (group, event.sequence) in handled or event.id in history.unreadable
            if what is None or not reached:
                verdict.say("lost", f"{group} never finished number {event.sequence}, {event.id}")


class _Consumers:
    """The consumers' own files against the leases."""

    def __init__(
        self,
        history: History,
        leases: dict[str, tuple[Turn, Turn | None]],
        verdict: Verdict,
    ) -> None:
        self._history = history
        self._leases = leases
        self._verdict = verdict
        self._kept = {event.sequence: event.id for event in history.journal}
        self._tried: dict[str, set[str]] = {}
        """What was tried with each lease."""
        self._told: dict[str, str] = {}
        """What each lease was said to have ended by."""

    def check(self) -> None:
        """All of them, then what they can only show together."""
        first: dict[tuple[str, int], str] = {}
        reached: set[str] = set()
        for life in self._history.consumers:
            newest = 0
            for record in life.records:
                if isinstance(record, Step):
                    self._step(record)
                elif isinstance(record, Delivered):
                    self._delivered(life, record, reached)
                    newest = self._in_turn(life, record, newest)
        for _, lease in sorted((self._leases[lease][0].n, lease) for lease in reached):
            turn = self._leases[lease][0]
            at = (turn.group, turn.sequence)
            if at in first:
                self._again(first[at], turn)
            first[at] = lease
        self._verdict.figures["events delivered, by group"] = len(first)
        self._answers()
        self._lapses()

    def _delivered(self, life: Life, record: Delivered, reached: set[str]) -> None:
        self._verdict.figures["deliveries"] += 1
        if self._kept.get(record.sequence) != record.id:
            self._verdict.say(
                "unexpected",
                f"{life.name} was handed {record.id} as number {record.sequence},"
                f" the journal has {self._kept.get(record.sequence)}",
            )
        turn = self._leases[record.lease][0] if record.lease in self._leases else None
        about = f"{life.name} was handed {record.id} under the lease {record.lease}"
        if turn is None:
            self._verdict.say("unexpected", f"{about}, which the journal never gave")
        elif record.lease in reached:
            self._verdict.say("twice", f"{about}, which was delivered before")
        elif (turn.group, turn.sequence, turn.attempt) != (
            life.group,
            record.sequence,
            record.attempt,
        ):
            self._verdict.say("answers", f"{about}, which the journal gave for {turn}")
        else:
            reached.add(record.lease)

    def _in_turn(self, life: Life, record: Delivered, newest: int) -> int:
        """What is new to the group comes in order to each that consumes."""
        turn = self._leases[record.lease][0] if record.lease in self._leases else None
        if turn is None or turn.what != "fresh":
            return newest
        if record.sequence <= newest:
            self._verdict.say(
                "order", f"{life.name} was handed the new {record.sequence} after {newest}"
            )
        return max(newest, record.sequence)

    def _again(self, lease: str, turn: Turn) -> None:
        """A second delivery: the first lease must have ended, in a way that allows it."""
        end = self._leases[lease][1]
        if end is None or end.n > turn.n or end.what not in WAITS:
            self._verdict.say(
                "twice", f"{turn.group} {turn.sequence} again under {turn.lease}, after {end}"
            )
            return
        names = {"lapse": "the lease ran out", "nack": "refused", "back": "handed back"}
        self._verdict.figures[f"delivered again: {names[end.what]}"] += 1

    def _step(self, step: Step) -> None:
        for lease in step.leases:
            if step.outcome == "try":
                self._tried.setdefault(lease, set()).add(step.how)
            elif step.outcome == "ok":
                self._told[lease] = step.how
        if step.outcome != "try":
            self._verdict.figures[f"{step.how}: {step.outcome}"] += len(step.leases)

    def _answers(self) -> None:
        """What consumers were told is what happened, and nothing happened that nobody asked for."""
        allowed = {"ack": {"ack"}, "nack": {"nack", "dead"}, "defer": {"back"}}
        for lease, how in self._told.items():
            end = self._leases[lease][1] if lease in self._leases else None
            if end is None or end.what not in allowed[how]:
                self._verdict.say("answers", f"{how} of {lease} was confirmed, and is: {end}")
        for lease, (_, end) in self._leases.items():
            if end is None or end.what not in ("ack", "nack"):
                continue
            if end.what not in self._tried.get(lease, ()):
                self._verdict.say("answers", f"nobody asked for this: {end}")

    def _lapses(self) -> None:
        """Why leases ran out: who of those that had to do with it was away meanwhile."""
        away = self._history.away
        holders = {
            record.lease: life.name
            for life in self._history.consumers
            for record in life.records
            if isinstance(record, Delivered)
        }
        members: dict[str, set[str]] = {}
        for life in self._history.consumers:
            members.setdefault(life.group, set()).add(life.name)
        for lease, (start, end) in self._leases.items():
            if end is None or end.what != "lapse":
                continue
            since = start.until - self._history.visibility - ON_ITS_WAY
            holder = holders.get(lease)
            cause = "nobody was away"
            if holder and _overlap(away.get(holder, ()), since, end.at):
                cause = "its consumer died or froze"
            elif _overlap(away.get("broker", ()), since, end.at):
                cause = "the broker died or froze"
            elif not holder and any(
                _overlap(away.get(name, ()), since, end.at) for name in members[start.group]
            ):
                cause = "lost on its way to a consumer that died or froze"
            self._verdict.figures[f"ran out: {cause}"] += 1


def _overlap(times: Sequence[tuple[float, float]], since: float, until: float) -> bool:
    return any(start <= until and since <= stop for start, stop in times)
