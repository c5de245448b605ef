"""What a new adapter should look like."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

from lora.adapter import MAX_ALPHA, MAX_RANK
from lora.errors import ConfigError

__all__ = ["LoRAConfig"]

_T = TypeVar("_T", int, float)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Rank, strength and place of a fresh adapter; contradictions are refused at construction."""

    rank: int = 8
    """Width of the bottleneck, 1 to 4096."""

    alpha: float = 16.0
    """Strength: what the adapter adds is scaled by alpha / rank. Above 0."""

    target_modules: tuple[str, ...] = ("query", "value")
    """Linear layers by exact name or by suffix; `embedding` is the head behind the pooling."""

    dropout: float = 0.0
    """Share of the adapter's input dropped in training, 0 to below 1."""

    dim: int = 384
    """Width of the pooled embedding."""

    seed: int = 0
    """Seed of the initial weights, 0 or above."""

    rank_pattern: dict[str, int] = field(default_factory=dict)
    """Ranks of single modules, by exact name or by suffix, before the common one."""

    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """Alphas of single modules, by exact name or by suffix, before the common one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        for name, rank in {"rank": self.rank, **self.rank_pattern}.items():
            if type(rank) is not int or not 1 <= rank <= MAX_RANK:
                raise ConfigError(f"{name}: a rank must be from 1 to {MAX_RANK}, not {rank!r}")
        for name, alpha in {"alpha": self.alpha, **self.alpha_pattern}.items():
            if not (math.isfinite(alpha) and 0 < alpha <= MAX_ALPHA):
                raise ConfigError(f"{name}: an alpha must be above 0 and finite, not {alpha!r}")
        if not self.target_modules or not all(self.target_modules):
            raise ConfigError("target_modules must name at least one module, none of them empty")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be from 0 to below 1, not {self.dropout!r}")
        if self.dim < 1:
            raise ConfigError(f"dim must be positive, not {self.dim!r}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or above, not {self.seed!r}")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank

    def rank_of(self, module: str) -> int:
        """The rank for the module of this full name."""
        return _matching(self.rank_pattern, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """The alpha for the module of this full name."""
        return _matching(self.alpha_pattern, module, self.alpha)


def _matching(patterns: dict[str, _T], module: str, default: _T) -> _T:
    for name, value in patterns.items():
        if module == name or module.endswith("." + name):
            return value
    return default
