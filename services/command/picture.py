"""A fleet's status as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.runtime.fleet_view_status import (
    DomainStatus,
    PeerStatus,
    ProcessStatus,
    SkillStatus,
    Status,
    TrainingStatus,
    VerdictStatus,
)

__all__ = ["picture"]

_COLOURS = {
    "ready": "green",
    "installed": "green",
    "kept": "green",
    "starting": "yellow",
    "draining": "yellow",
    "degraded": "yellow",
    "pending": "yellow",
}
_SHOWN_SKILLS = 12


def picture(status: Status, url: str) -> RenderableType:
    """All of it, one table below the other; what is empty is said in a few words."""
    parts = [
        _head(status, url),
        _processes(status.processes),
        _requests(status),
        _loop(status),
        _skills(status.skills),
        *([_peers(status.peers)] if status.peers else []),
    ]
    return Group(*(line for part in parts for line in (part, "")))


def _head(status: Status, url: str) -> Text:
    model = status.model
    told = "no model told yet" if model is None else f"{model.id}"
    if model is not None and model.dim:
        told += f", {model.dim} dimensions"
    return Text.assemble(
        ("Consonance", "bold"),
        f" on {url}\n{told}; journal at {status.journal.sequence:,}; "
        f"{status.time.astimezone():%H:%M:%S}",
    )


def _processes(processes: Sequence[ProcessStatus]) -> RenderableType:
    if not processes:
        return Text("no process has said that it is alive", "yellow")
    made = _table("process", "state", ">queue", ">MiB", ">pid")
    for one in processes:
        made.add_row(
            f"{one.service}/{one.instance}",
            _state(one.state),
            f"{one.queue:,}",
            f"{one.rss_bytes / (1 << 20):,.0f}",
            str(one.pid),
        )
    words = [
        Text(f"{one.service}/{one.instance}: {one.trouble}", "yellow")
        for one in processes
        if one.trouble
    ]
    return Group(made, *words) if words else made


def _requests(status: Status) -> Text:
    minute = status.requests.minute
    failed = f", {minute.failed:,} failed" if minute.failed else ""
    times = (
        ""
        if minute.p50_ms is None or minute.p95_ms is None
        else f"; half within {minute.p50_ms:.0f} ms, 95 % within {minute.p95_ms:.0f} ms"
    )
    return Text.assemble(
        ("Requests", "bold"),
        f" of the last minute: {minute.requests:,} ({minute.texts:,} texts){failed}{times}",
    )


def _loop(status: Status) -> RenderableType:
    domains = status.loop.domains
    if not domains:
        return Text.assemble(("Learning", "bold"), ": no feedback yet")
    made = _table("domain", ">open batch", ">clashes", ">feedback", "training", "last verdict")
    for one in domains:
        made.add_row(
            one.domain,
            f"{one.open}/{status.loop.batch_size}",
            f"{one.clashes:,}",
            f"{one.feedback:,}",
            _training(one.training),
            _verdict(one),
        )
    return made


def _training(training: TrainingStatus | None) -> str:
    if training is None:
        return ""
    depth = f"{training.depth} " if training.depth else ""
    steps = f" {training.step}/{training.steps}" if training.steps else ""
    return f"{depth}{training.phase}{steps}"


def _verdict(domain: DomainStatus) -> Text:
    if not domain.verdicts:
        return Text("")
    last: VerdictStatus = domain.verdicts[0]
    if not last.published:
        return Text(f"{last.depth or ''} refused: {last.reason}".strip(), "yellow")
    number = "" if last.version is None else f"@{last.version}"
    return Text(f"{last.skill}{number} {_gain(last)}".strip(), "green")


def _skills(skills: Sequence[SkillStatus]) -> RenderableType:
    if not skills:
        return Text.assemble(("Skills", "bold"), ": none yet")
    made = _table("skill", "state", ">rank", "gain", "held by", "from")
    for one in skills[:_SHOWN_SKILLS]:
        pinned = " pinned" if one.pinned else ""
        made.add_row(
            f"{one.name}@{one.version}",
            _state(one.state) + Text(pinned),
            str(one.rank),
            _gain(one),
            ", ".join(one.workers),
            one.peer or "here",
        )
    if len(skills) > _SHOWN_SKILLS:
        made.caption = f"and {len(skills) - _SHOWN_SKILLS} more: consonance skills list --all"
    return made


def _peers(peers: Sequence[PeerStatus]) -> Table:
    made = _table("peer", "at", "offers")
    for one in peers:
        offers = ", ".join(f"{skill.name}@{skill.version}" for skill in one.skills)
        made.add_row(one.peer, one.endpoint or "", offers)
    return made


def _gain(one: VerdictStatus | SkillStatus) -> str:
    if one.gain is None:
        return ""
    if one.low is None or one.high is None:
        return f"{one.gain:+.3f}"
    return f"{one.gain:+.3f} ({one.low:+.3f} to {one.high:+.3f})"


def _state(state: str) -> Text:
    return Text(state, _COLOURS.get(state, "red"))


def _table(*headings: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption_justify="left")
    for heading in headings:
        right: Any = "right" if heading.startswith(">") else "left"
        made.add_column(heading.removeprefix(">"), justify=right)
    return made
