"""What an extraction kept and what it had to leave out, as a report; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lora.card import LoRACard

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ExtractedModule", "Extraction", "ExtractionReport", "LeftOut"]


@dataclass(frozen=True)
class ExtractedModule:
    """One Linear layer of the card."""

    name: str
    inputs: int
    outputs: int
    rank: int
    alpha: float
    change: float
    """‖Δ‖ / ‖W‖ by Frobenius norms; 1 in a direct extraction."""
    energy: float
    """Σσ² = ‖Δ‖² of the whole change."""
    explained: float
    """Share of that energy which the adapter holds, 0 to 1."""


@dataclass(frozen=True)
class LeftOut:
    """A tensor that differs and that the card does not hold."""

    name: str
    kind: str
    """Linear layers, norms, embeddings, biases, layers behind the pooling, or other tensors."""
    reason: str
    energy: float | None
    """‖Δ‖²; None where no difference can be formed."""


@dataclass(frozen=True)
class ExtractionReport:
    """Where a card came from, and how much of the change it holds."""

    mode: Literal["delta", "direct"]
    base: str
    tuned: str
    """The tuned model; in a direct extraction what is done with the piece."""
    modules: tuple[ExtractedModule, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    """Differences that no weight shows, one sentence each."""
    seconds: float

    @property
    def explained(self) -> float:
        """Share of the energy of the card's own layers that it holds, 0 to 1."""
        total = sum(module.energy for module in self.modules)
        return _kept(self.modules) / total if total else 1.0

    @property
    def captured(self) -> float:
        """Share of the whole measured change that the card holds, 0 to 1."""
        total = sum(module.energy for module in self.modules)
        total += sum(one.energy or 0.0 for one in self.left_out)
        return _kept(self.modules) / total if total else 1.0

    @property
    def parameters(self) -> int:
        """Numbers in the card's matrices."""
        return sum(m.rank * (m.inputs + m.outputs) for m in self.modules)

    def lost(self) -> dict[tuple[str, str], tuple[int, float | None]]:
        """What is left out, by kind and reason: how many tensors, and their share of the change."""
        total = sum(m.energy for m in self.modules) + sum(o.energy or 0.0 for o in self.left_out)
        groups: dict[tuple[str, str], list[LeftOut]] = {}
        for one in self.left_out:
            groups.setdefault((one.kind, one.reason), []).append(one)
        return {
            key: (
                len(found),
                None
                if any(one.energy is None for one in found)
                else sum(one.energy or 0.0 for one in found) / (total or 1.0),
            )
            for key, found in groups.items()
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self),
            "explained": self.explained,
            "captured": self.captured,
            "parameters": self.parameters,
        }

    def tables(self) -> Sequence[Table]:
        """For a terminal: the card's layers, and what is left out where something is."""
        from rich.table import Table

        title = f"{self.base} → {self.tuned}" if self.mode == "delta" else self.base
        held = Table(title=title, caption=_summary(self))
        held.add_column("layer", overflow="fold")  # a name cut short names nothing
        for heading in ("rank", "alpha", "change", "explained"):
            held.add_column(heading, justify="right")
        for m in self.modules:
            held.add_row(
                m.name, str(m.rank), f"{m.alpha:g}", f"{m.change:.2%}", f"{m.explained:.1%}"
            )
        if not self.left_out:
            return [held]
        rest = Table(title="What the card does not hold")
        rest.add_column("what")
        rest.add_column("why")
        rest.add_column("tensors", justify="right")
        rest.add_column("share of the change", justify="right")
        for (kind, reason), (count, share) in self.lost().items():
            rest.add_row(kind, reason, str(count), "not known" if share is None else f"{share:.2%}")
        return [held, rest]


@dataclass(frozen=True, eq=False)
class Extraction:
    """A card that was extracted, not yet written, and what is known of it."""

    card: LoRACard
    report: ExtractionReport


def _kept(modules: Sequence[ExtractedModule]) -> float:
    return sum(module.energy * module.explained for module in modules)


def _summary(report: ExtractionReport) -> str:
    held = f"{len(report.modules)} layers, {report.parameters:,} numbers, {report.seconds:.1f} s"
    if report.mode == "direct":
        return f"{held}: {report.explained:.1%} of these layers' energy"
    return (
        f"{held}: {report.explained:.1%} of the change of these layers, "
        f"{report.captured:.1%} of all that changed"
    )
