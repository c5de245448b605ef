"""Where a body is adapted, and how much: the default layout, the probe's, and which of them stays.

A layout is the rank of each adapted module. The probe's takes at most the parameters of the default
one, in the same uppermost layers, so that a step costs about the same: what lies below stays frozen
and is run once. It is kept only where the gate's own bootstrap says that it beats the default on
queries that neither has seen, each trained in one half of the time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lora.errors import NoMatchingModuleError
from lora.matching import match_keys, select_targets
from lora.probing import ProbeReport
from lora.ranks import parameters, share_ranks
from lora.training.checkpoint import Arrays, Checkpoints, Kept
from lora.training.dataset import TrainingSet
from lora.training.errors import ConfigError, NothingToLearn
from lora.training.gate import Arena, judge
from lora.training.progress import Progress

if TYPE_CHECKING:
    from lora.training.body_fit import BodyConfig
    from lora.training.body_settings import TrainedBody

__all__ = [
    "Compared",
    "calibration_texts",
    "compare_layouts",
    "default_layout",
    "probe_layout",
    "upper_layers",
]

CALIBRATION: Final = 256
"""Texts that a probe is run on at most."""

_NUMBER = re.compile(r"^(?P<stack>.+?)\.(?P<layer>\d+)\.")


def upper_layers(modules: Iterable[str], layers: int) -> list[str]:
    """Those of the modules that lie in the uppermost `layers` of the encoder; all where it is 0.

    The encoder is the numbered list that holds most modules. Where nothing is numbered, all count.
    """
    names = list(modules)
    stacks: dict[str, list[tuple[str, int]]] = {}
    for name in names:
        found = _NUMBER.match(name)
        if found is not None:
            stacks.setdefault(found["stack"], []).append((name, int(found["layer"])))
    if not layers or not stacks:
        return names
    encoder = max(stacks.values(), key=len)
    first = max(number for _, number in encoder) + 1 - layers
    return [name for name, number in encoder if number >= first]


def default_layout(report: ProbeReport, config: BodyConfig) -> dict[str, int]:
    """Rank by module that a body gets by its configuration alone.

    Raises:
        NoMatchingModuleError: a target means none of the report's modules.
        ConfigError: no target lies in the uppermost layers.
    """
    names = [module.name for module in report.modules]
    if config.ranks:
        found = match_keys(config.ranks, names)
        layout: dict[str, int] = {}
        for key, rank in config.ranks.items():
            # A suffix may mean several; a looser name, one.
            several = [name for name in names if name.endswith("." + key)]
            meant = [found.pairs[key]] if key in found.pairs else several
            if not meant:
                raise NoMatchingModuleError(f"the model has no {key}")
            layout = dict.fromkeys(meant, rank) | layout
        return layout
    chosen = set(select_targets(config.targets, names))
    layout = {name: config.rank for name in upper_layers(names, config.layers) if name in chosen}
    if not layout:
        raise ConfigError(f"no target lies in the uppermost {config.layers} layers")
    return layout


def probe_layout(report: ProbeReport, config: BodyConfig) -> dict[str, int]:
    """Rank by module as the probe suggests, with at most the parameters of the default layout.

    The layers are those that the default layout runs: from its lowest one up. No module gets a
    rank above four times the default's largest.

    Raises:
        NoMatchingModuleError: a target means none of the report's modules.
        ConfigError: no target lies in the uppermost layers, or no module there scores above 0.
    """
    default = default_layout(report, config)
    names = [module.name for module in report.modules]
    numbers = [int(m["layer"]) for name in default if (m := _NUMBER.match(name)) is not None]
    inside = names
    if len(numbers) == len(default):
        every = [int(m["layer"]) for name in names if (m := _NUMBER.match(name)) is not None]
        inside = upper_layers(names, max(every) + 1 - min(numbers))
    scores = {name: report.scores[name] for name in inside}
    budget = parameters(default, report.shapes)
    return share_ranks(scores, report.shapes, budget, max_rank=4 * max(default.values()))


def calibration_texts(data: TrainingSet, most: int = CALIBRATION) -> list[str]:
    """Texts of a dataset for the probe: its passages, spread evenly.

    Passages are candidates in every fold. Queries are left out, so that no fold model rests on
    those that it is judged by.
    """
    count = min(most, len(data.passages))
    return [data.passages[i * len(data.passages) // count] for i in range(count)]


Train = Callable[[Mapping[str, int], float | None, Checkpoints, Progress | None], "TrainedBody"]


@dataclass(frozen=True, eq=False)
class Compared:
    """What came of training with both layouts."""

    trained: TrainedBody
    """The one that is kept."""
    layout: Mapping[str, int]
    """Its ranks; empty where the default layout is kept."""
    metrics: Mapping[str, Any]
    """Which layout it is, and what the probe's gained over the default, MRR@10 with its bounds."""


def compare_layouts(
    train: Train,
    layout: Mapping[str, int],
    data: TrainingSet,
    arena: Arena,
    *,
    time_budget_s: float | None,
    checkpoints: Checkpoints,
    seed: int = 0,
    progress: Progress | None = None,
) -> Compared:
    """Train with the default layout and with this one; keep this one only if it is better.

    Args:
        train: trains with these ranks (empty: the default layout) until the checkpoints' clock
            shows so many seconds, keeps its work in these checkpoints, and tells its progress.
        time_budget_s: for both together; each may take half of it.

    Raises what `train` raises.
    """
    begun = _moment(checkpoints, "begun")
    left = None if time_budget_s is None else (time_budget_s - begun) / 2
    until = None if left is None else begun + left
    default = train({}, until, _Part(checkpoints, "default"), _half(progress, 0))
    at = _moment(checkpoints, "middle")
    until = None if left is None else at + left
    probed = train(layout, until, _Part(checkpoints, "probe"), _half(progress, 1))
    both = default.judged & probed.judged
    metrics: dict[str, Any] = {"layout": "default"}
    if not both.any():
        return Compared(default, {}, metrics)
    shared = Arena(data, arena.rows[both])
    try:
        verdict = judge(
            shared.ranks(default.vectors[both]),
            shared.ranks(probed.vectors[both]),
            shared.groups,
            seed=seed,
        )
    except NothingToLearn:
        return Compared(default, {}, metrics)
    metrics |= {
        "layout": "probe" if verdict.accepted else "default",
        "layout_gain": verdict.gain,
        "layout_low": verdict.low,
        "layout_high": verdict.high,
    }
    if verdict.accepted:
        return Compared(probed, dict(layout), metrics)
    return Compared(default, {}, metrics)


def _half(progress: Progress | None, half: int) -> Progress | None:
    """The progress of one of two trainings as a part of both."""
    if progress is None:
        return None
    whole = progress
    return lambda step, steps, loss: whole(half * steps + step, 2 * steps, loss)


def _moment(checkpoints: Checkpoints, name: str) -> float:
    """What the clock showed when this was first asked, also after a kill: no time is won by one."""
    found = checkpoints.get(name)
    if found is not None:
        return float(found.state["at"])
    at = checkpoints.elapsed()
    checkpoints.put(name, {}, {"at": at})
    return at


class _Part(Checkpoints):
    """Checkpoints of one of several trainings in a folder, under names of its own."""

    def __init__(self, whole: Checkpoints, name: str) -> None:
        super().__init__(every_s=whole.every_s)
        self._whole, self._name = whole, name

    @property
    def kept(self) -> bool:
        return self._whole.kept

    def elapsed(self) -> float:
        return self._whole.elapsed()

    def get(self, name: str) -> Kept | None:
        return self._whole.get(f"{self._name}-{name}")

    def put(self, name: str, arrays: Arrays, state: Mapping[str, Any]) -> None:
        self._whole.put(f"{self._name}-{name}", arrays, state)

    def drop(self, name: str) -> None:
        self._whole.drop(f"{self._name}-{name}")

    def clear(self) -> None:
        self._whole.clear()
