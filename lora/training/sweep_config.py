"""What the sweep of a head tries, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from lora.training.errors import ConfigError
from lora.training.head import MAX_PASSAGES, MAX_QUERIES, HeadConfig

__all__ = ["GRID", "SMALL", "SweepConfig"]

SMALL = 1 << 22
"""Queries times passages up to which several fits are held at once: 36 bytes a pair and fit."""

GRID = (
    HeadConfig(),
    HeadConfig(weight_decay=10.0),
    HeadConfig(taught_weight=0.2),  # where no teacher took part there is nothing to doubt
    HeadConfig(temperature=0.03, weight_decay=10.0),
    HeadConfig(rank=32),
    HeadConfig(learning_rate=3e-3, weight_decay=5.0),
)


@dataclass(frozen=True)
class SweepConfig:
    """What is tried, and for how long."""

    grid: tuple[HeadConfig, ...] = GRID
    """Settings, the most trusted first: the later ones are tried while time is left."""
    checkpoints: tuple[int, ...] = (5, 10, 15, 20, 30, 45)
    """Steps at which stopping is tried."""
    scales: tuple[float, ...] = (0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2)
    """Shares of the change that are tried."""
    time_budget_s: float = 15.0
    """Seconds for everything, kept by trying fewer settings, pairs of folds and steps."""
    max_passages: int = 1536
    """Passages that a softmax runs over where there are many."""
    max_rank: int = 128
    """Largest rank of a head."""
    max_queries: int = MAX_QUERIES
    """Queries trained on at most, those that people gave before any other."""
    passage_cap: int = MAX_PASSAGES
    """Passages that a softmax runs over at most, however many are relevant."""
    soft_temperature: float = 1.0
    """Of the target distributions; 1 takes a teacher's grades as they are."""
    threads: int = 1
    """Fits at once where they are small; what they come to does not depend on it."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.grid or not self.checkpoints or not self.scales:
            raise ConfigError("a sweep needs at least one setting, one checkpoint and one scale")
        if min(self.checkpoints) < 1 or min(self.scales) <= 0:
            raise ConfigError("checkpoints and scales should be above 0")
