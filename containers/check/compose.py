"""compose.yaml as this check needs it: who runs, with what, and after whom."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Service", "interpolated", "services", "waves"]

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<rule>:?-)(?P<default>[^}]*))?\}|(?P<bare>\w+))"
)


@dataclass(frozen=True)
class Service:
    """One service of the file, its anchors, merges and variables resolved."""

    name: str
    raw: Mapping[str, Any]

    @property
    def command(self) -> tuple[str, ...]:
        """The words that it runs."""
        return tuple(self.raw["command"])

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that it sets itself."""
        given = self.raw.get("environment", {})
        return {name: str(value) for name, value in given.items() if value is not None}

    @property
    def health(self) -> tuple[str, ...] | None:
        """The words of its health check."""
        test = self.raw.get("healthcheck", {}).get("test")
        if test is None:
            return None
        kind, *words = test
        return ("sh", "-c", *words) if kind == "CMD-SHELL" else tuple(words)

    @property
    def after(self) -> Mapping[str, str]:
        """Whom it cannot do without, and until when it waits for them."""
        asked = self.raw.get("depends_on", {})
        return {name: how["condition"] for name, how in asked.items() if how.get("required", True)}

    @property
    def mounts(self) -> tuple[tuple[str, str], ...]:
        """Named volumes and where they lie in the container."""
        return tuple(
            (source, target)
            for source, _, target in (text.partition(":") for text in self.raw.get("volumes", ()))
        )

    @property
    def configs(self) -> tuple[tuple[str, str], ...]:
        """Configs and where they lie in the container."""
        return tuple((one["source"], one["target"]) for one in self.raw.get("configs", ()))

    @property
    def tmpfs(self) -> tuple[str, ...]:
        """Folders in memory."""
        return tuple(self.raw.get("tmpfs", ()))


def services(file: Path, variables: Mapping[str, str] | None = None) -> dict[str, Service]:
    """The services by name, in the order of the file."""
    document = interpolated(yaml.safe_load(file.read_text("utf-8")), variables or {})
    return {name: Service(name, raw) for name, raw in document["services"].items()}


def waves(found: Mapping[str, Service]) -> tuple[tuple[Service, ...], ...]:
    """The services in groups, each group after those that it waits for; raises `ValueError`."""
    waiting, done, groups = dict(found), set[str](), []
    while waiting:
        free = tuple(one for one in waiting.values() if set(one.after) <= done)
        if not free:
            raise ValueError(f"these wait for each other: {', '.join(sorted(waiting))}")
        groups.append(free)
        done |= {one.name for one in free}
        waiting = {name: one for name, one in waiting.items() if name not in done}
    return tuple(groups)


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """The document with `${NAME:-default}` and the like replaced in every text."""
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    return _VARIABLE.sub(lambda m: _of(m, variables), value) if isinstance(value, str) else value


def _of(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    name = match["name"] or match["bare"]
    given = variables.get(name)
    if given is None or (match["rule"] == ":-" and not given):
        return match["default"] or ""
    return given
