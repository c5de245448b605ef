"""What a probe found, as a report; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from lora.adapter import MAX_RANK
from lora.errors import ConfigError
from lora.matching import select_targets
from lora.ranks import gini, parameters, share_ranks, top_tenth

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ModuleScore", "ProbeReport"]


@dataclass(frozen=True)
class ModuleScore:
    """One Linear layer."""

    name: str
    inputs: int
    outputs: int
    score: float
    """Mean over output rows of what the probe measures; 0 where the layer cannot act."""
    weight: float
    """Mean norm of the rows measured: of the weight, or of its change."""
    activation: float | None
    """Mean norm of a token at the layer's input over √in; None where no texts were run."""
    change: float | None
    """‖Δ‖ / ‖W‖ between two models; None where there is one."""
    gini: float
    """Concentration over the layer's output rows, 0 (all alike) to near 1 (one has all)."""
    idle: bool = False
    """Whether the embedding does not depend on the layer at all."""


@dataclass(frozen=True)
class ProbeReport:
    """The Linear layers of a model, the most promising for an adapter first."""

    mode: Literal["activations", "delta"]
    model: str
    tuned: str
    """The second model of a delta, else empty."""
    texts: int
    tokens: int
    modules: tuple[ModuleScore, ...]
    """By falling score; of equals in the model's order."""

    def top(self, k: int) -> tuple[ModuleScore, ...]:
        """The k best."""
        return self.modules[:k]

    @cached_property
    def scores(self) -> dict[str, float]:
        """Score by module name."""
        return {module.name: module.score for module in self.modules}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Width of input and output by module name."""
        return {module.name: (module.inputs, module.outputs) for module in self.modules}

    @property
    def gini(self) -> float:
        """Concentration of the scores over layers, 0 to near 1."""
        return gini(self.scores)

    @property
    def top_tenth(self) -> float:
        """Share of all scores that the best tenth of the layers holds, 0 to 1."""
        return top_tenth(self.scores)

    def budget(self, rank: int = 8, targets: Sequence[str] = ("query", "value")) -> int:
        """Parameters of adapters of one rank on the layers meant by these names or suffixes."""
        chosen = select_targets(targets, [module.name for module in self.modules])
        return parameters(dict.fromkeys(chosen, rank), self.shapes)

    def ranks(
        self, budget: int, *, top: int | None = None, max_rank: int = MAX_RANK
    ) -> dict[str, int]:
        """Suggested rank by module, with at most `budget` parameters (`lora.ranks.share_ranks`).

        `top` leaves all but so many of the best layers out.
        """
        if top is not None and top < 1:
            raise ConfigError(f"top must be at least 1, not {top}")
        scores = {module.name: module.score for module in self.modules[:top]}
        return share_ranks(scores, self.shapes, budget, max_rank=max_rank)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "gini": self.gini, "top_tenth": self.top_tenth}

    def table(self, k: int | None = None, ranks: dict[str, int] | None = None) -> Table:
        """For a terminal: the k best layers, and the ranks suggested for them where given."""
        from rich.table import Table

        two = f"{self.model} → {self.tuned}"
        shown = self.modules[:k]
        table = Table(
            title=self.model if self.mode == "activations" else two,
            caption=f"{len(shown)} of {len(self.modules)} layers; Gini {self.gini:.2f}, "
            f"the best tenth holds {self.top_tenth:.0%} of all scores",
        )
        table.add_column("layer", overflow="fold")  # a name cut short names nothing
        measured = "activation" if self.mode == "activations" else "change"
        headings = ["score", measured, "row norm", "Gini of rows", *(["rank"] if ranks else [])]
        for heading in headings:
            table.add_column(heading, justify="right")
        for m in shown:
            middle = "" if m.activation is None else f"{m.activation:.4g}"
            middle = f"{m.change:.2%}" if m.change is not None else middle
            cells = [f"{m.score:.4g}", middle, f"{m.weight:.4g}", f"{m.gini:.2f}"]
            name = f"{m.name} (idle)" if m.idle else m.name
            table.add_row(name, *cells, *([str(ranks.get(m.name, "-"))] if ranks else []))
        return table
