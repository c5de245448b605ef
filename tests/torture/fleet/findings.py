"""What was found, in figures and in sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bus import Bus
from tests.torture.fleet.books import Books, faults_of
from tests.torture.fleet.load import Load
from tests.torture.fleet.truth import LIMIT, Truth

__all__ = ["Report", "audit", "requests"]


@dataclass
class Report:
    """What is found on the way."""

    say: Callable[[str], None]
    figures: dict[str, int | float | str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def breaks(self, *sentences: str) -> None:
        """Note promises that do not hold."""
        for sentence in sentences:
            self.say(f"BROKEN: {sentence}")
            self.broken.append(sentence)


async def audit(bus: Bus, books: Books, load: Load, report: Report) -> None:
    """What the journal says in the end."""
    report.breaks(*faults_of(books, load.acknowledged, load.attempted))
    letters = await bus.dead_letters()
    report.breaks(*(f"a dead letter of {it.group}: {it.reason}" for it in letters))
    if not books.learned:
        report.breaks("nothing was learned")
    report.figures |= {
        "feedback acknowledged": len(load.acknowledged),
        "feedback lost": len(set(load.acknowledged) - {event.id for event in books.given}),
        "judged": len(books.judged),
        "clashes": len(books.clashes),
        "batches": len(books.batches),
        "tasks": len(books.tasks),
        "skills published": len(books.learned),
        "skills installed": len(books.installed),
        "dead letters": len(letters),
    }


def requests(load: Load, truth: Truth, report: Report) -> None:
    """What the clients saw."""
    tally = load.tally
    report.breaks(*tally.broken)
    endings = ", ".join(f"{name} {count}" for name, count in sorted(tally.endings.items()))
    report.figures |= {
        "requests": sum(tally.endings.values()),
        "texts": tally.texts,
        "how requests ended": endings,
        "requests of 60 s, all to be answered": tally.patient,
        "longest request, s": round(tally.longest, 1),
        "latest end after a deadline, s": round(tally.latest, 2),
        "vectors compared": truth.compared,
        f"largest difference (allowed: {LIMIT})": f"{truth.furthest:.1e}",
        "visits, of them in vain": f"{load.visits}, {load.in_vain}",
        "this process's own latest turn, s": round(load.lag.most, 2),
    }
