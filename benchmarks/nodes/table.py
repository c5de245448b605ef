"""What was found, for people; what was wanted and missed; and all of it as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.nodes.flapping import Flapping
from benchmarks.nodes.lesson import First, Pupil
from benchmarks.nodes.orphans import Orphan
from benchmarks.nodes.run import Federation
from benchmarks.nodes.transfers import Cut, Transfers

__all__ = ["as_json", "missed", "show_federation", "show_flapping", "show_transfers"]


def missed(found: Federation) -> list[str]:
    """What a federation should have done and did not, a sentence each."""
    told = [f"the learner restarted {', '.join(found.restarted)}"] if found.restarted else []
    for one in found.pupils:
        if one.offered_s is None:
            told.append(f"{one.name} never heard of the skill")
        told += _not_by(found, one.name, "its first question", [one.first])
        if one.restarted:
            told.append(f"{one.name} restarted {', '.join(one.restarted)}")
        if one.named is not None and one.named <= one.before:
            told.append(f"{one.name} is no better with the skill: {one.named:.3f}")
    for orphan in found.orphans:
        told += _not_by(found, orphan.name, "as the learner died", orphan.at_once)
        told += _not_by(found, orphan.name, "without the learner", orphan.later)
        told += _not_by(found, orphan.name, "its router restarted", orphan.restarted)
        if orphan.left_s is None:
            told.append(f"{orphan.name} did not notice that the learner is gone")
        if any(it.code != "unknown_skill" for it in orphan.newer):
            told.append(f"{orphan.name} did not refuse a version that nobody has")
        if any(it.seconds > 1.0 for it in orphan.newer):
            told.append(f"{orphan.name} waited for a version that nobody has")
    return [f"{found.nodes} nodes: {text}" for text in told]


def _not_by(found: Federation, node: str, when: str, every: Sequence[First | None]) -> list[str]:
    wrong = [one for one in every if one is None or one.skill != found.digest]
    if not wrong:
        return []
    why = "it was not asked" if wrong[0] is None else wrong[0].reason or "another skill answered"
    return [f"{node}, {when}: {len(wrong)} of {len(every)} not answered with the skill ({why})"]


def as_json(
    federations: Sequence[Federation], transfers: Transfers | None, flapping: Flapping | None
) -> dict[str, Any]:
    """Plain dictionaries, lists, texts and numbers."""
    found: dict[str, Any] = {"federations": [_plain(one) for one in federations]}
    found["transfers"] = None if transfers is None else asdict(transfers)
    found["flapping"] = None if flapping is None else asdict(flapping)
    return found


def _plain(found: Federation) -> dict[str, Any]:
    for one in found.pupils:
        one.processes = dict(one.processes)
    plain = asdict(found)
    for pupil in plain["pupils"]:
        del pupil["stored"]
    return plain


def show_federation(found: Federation, console: Console) -> None:
    """A column for each node that was taught nothing."""
    table = Table(title=_title(found), title_justify="left")
    table.add_column("")
    for one in found.pupils:
        table.add_column(one.name, justify="right")
    rows: list[tuple[str, Iterable[str]]] = [
        ("recall@1 before, route auto", (f"{it.before:.3f}" for it in found.pupils)),
        ("offered after, seconds", (_number(it.offered_s) for it in found.pupils)),
        ("its first question that needs the skill", (_by(found, it) for it in found.pupils)),
        ("… took, milliseconds", (_ms([it.first]) for it in found.pupils)),
        ("the next one, milliseconds", (_ms([it.second]) for it in found.pupils)),
        ("recall@1 after, route auto", (_number(it.after, 3) for it in found.pupils)),
        ("share of queries that it answers", (_number(it.routed, 3) for it in found.pupils)),
        ("recall@1, learner/… named", (_number(it.named, 3) for it in found.pupils)),
        ("processes restarted", (", ".join(it.restarted) or "none" for it in found.pupils)),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    table.add_section()
    for name, cells in _orphaned(found):
        table.add_row(name, *cells)
    console.print(table)


def _orphaned(found: Federation) -> list[tuple[str, list[str]]]:
    orphans = found.orphans

    def shares(of: str) -> list[str]:
        return [_share(found, getattr(one, of)) for one in orphans]

    return [
        ("learner killed: answered with the skill at once", shares("at_once")),
        ("… slowest of these, milliseconds", [_ms(one.at_once) for one in orphans]),
        ("… known to be gone after, seconds", [_number(one.left_s) for one in orphans]),
        ("then, by meaning and by name", shares("later")),
        ("router restarted, by meaning and by name", shares("restarted")),
        ("a newer version, by name", [_refused(one) for one in orphans]),
        ("recall@1 in the end, route auto", [_number(one.recall, 3) for one in orphans]),
        ("share of queries that the skill answers", [_number(one.routed, 3) for one in orphans]),
    ]


def _title(found: Federation) -> str:
    return (
        f"{found.nodes} nodes, ready after {found.ready_s:.0f} s; the learner made {found.card} "
        f"({found.card_bytes:,} bytes) in {found.learned_s:.0f} s and has recall@1 "
        f"{found.learner:.3f}, {found.routed:.0%} of its queries answered with it; there are "
        f"{found.matching} for which a claim is heeded"
    )


def _by(found: Federation, one: Pupil) -> str:
    if one.first is None:
        return "not asked"
    return "with it" if one.first.skill == found.digest else f"without: {one.first.reason}"


def _share(found: Federation, every: Sequence[First]) -> str:
    return f"{sum(one.skill == found.digest for one in every)} of {len(every)}"


def _ms(every: Sequence[First | None]) -> str:
    times = [one.seconds for one in every if one is not None]
    return f"{1e3 * max(times):.0f}" if times else ""


def _refused(one: Orphan) -> str:
    return ", ".join(f"{it.code or 'answered'} in {1e3 * it.seconds:.0f} ms" for it in one.newer)


def _number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def show_transfers(found: Transfers, console: Console) -> None:
    """A row for each size, and one for each cut."""
    title = (
        f"cards between two nodes, {found.loss:g} % loss and {found.delay_ms:g} ms each way, "
        f"by {found.means}"
    )
    table = Table("bytes", "came", "seconds", "failed with", "left behind", title=title)
    for size in sorted({one.bytes for one in found.each}):
        every = [one for one in found.each if one.bytes == size]
        came = [one.seconds for one in every if one.error is None]
        table.add_row(
            f"{size:,}",
            f"{len(came)} of {len(every)}",
            f"{min(came):.1f} to {max(came):.1f}" if came else "",
            "; ".join(sorted({one.error for one in every if one.error is not None})),
            ", ".join(name for one in every for name in one.left) or "nothing",
        )
    console.print(table)
    for cut in found.cuts:
        console.print(_cut(cut), markup=False, highlight=False)


def _cut(cut: Cut) -> str:
    one = cut.transfer
    head = f"cable pulled for {cut.seconds:g} s in mid-transfer of {one.bytes:,} bytes: "
    if one.error is None:
        how = "resumed" if cut.resumed else "began anew"
        return f"{head}whole after {one.seconds:.1f} s, {how} ({one.wire:,} bytes travelled)"
    text = f"{head}failed after {one.seconds:.1f} s ({one.error})"
    if cut.again is None:
        return text
    again = cut.again
    then = "whole" if again.error is None else f"failed ({again.error})"
    return f"{text}; asked for again: {then} after {again.seconds:.1f} s"


def show_flapping(found: Flapping, console: Console) -> None:
    """What was held before, meanwhile and after."""
    settled = "never" if found.settled_s is None else f"{found.settled_s:.0f} s later"
    title = (
        f"a gateway whose peers flap for {found.seconds:g} s: a link {found.links} times, a "
        f"process {found.processes} times; as before {settled}"
    )
    table = Table("held", "before", "most", "after", title=title)
    for kind, before in found.before.items():
        table.add_row(kind, f"{before:,}", f"{found.most.get(kind, 0):,}", f"{found.after[kind]:,}")
    console.print(table)
