"""What docs/reliability.md says was found, from the results that are kept."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.torture.kit import Outcome

__all__ = ["BEGIN", "END", "PAGE", "RESULTS", "kept", "rewritten", "section", "shown", "write"]

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN = "<!-- what was found: `make torture ARGS=--keep` writes from here -->"
END = "<!-- to here -->"


def kept(folder: Path = RESULTS) -> list[Outcome]:
    """What each part found when it was last kept, by name."""
    return [
        msgspec.json.decode(file.read_bytes(), type=Outcome)
        for file in sorted(folder.glob("*.json"))
    ]


def section(outcome: Outcome) -> str:
    """One part: the command, the figures, and what did not hold."""
    minutes = f"{outcome.seconds / 60:.1f}"
    lines = [
        f"### {outcome.part}",
        "",
        "```console",
        f"$ python -m tests.torture {outcome.part} --seed {outcome.seed}",
        "```",
        "",
        f"| in {minutes} minutes, seed {outcome.seed} | |",
        "| --- | ---: |",
        *(f"| {name} | {shown(value)} |" for name, value in outcome.figures.items()),
        "",
    ]
    if outcome.broken:
        lines += ["Did **not** hold:", "", *(f"- {sentence}" for sentence in outcome.broken)]
    else:
        lines += ["Every promise held."]
    return "\n".join(lines)


def rewritten(page: str, outcomes: list[Outcome]) -> str:
    """The page with these outcomes between its two marks; raises `ValueError` without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page lacks the lines {BEGIN!r} and {END!r}")
    found = "\n\n".join(section(outcome) for outcome in outcomes)
    return f"{before}{BEGIN}\n\n{found}\n\n{END}{after}"


def write(outcomes: list[Outcome]) -> None:
    """Keep what was found, and say it on the page."""
    RESULTS.mkdir(exist_ok=True)
    for outcome in outcomes:
        text = msgspec.json.format(msgspec.json.encode(outcome), indent=2)
        (RESULTS / f"{outcome.part}.json").write_bytes(text + b"\n")
    PAGE.write_text(rewritten(PAGE.read_text("utf-8"), kept()), "utf-8")


def shown(value: float | str) -> str:
    """A figure as people read it."""
    return value if isinstance(value, str) else f"{value:,}"
