"""Which processes make a fleet, in the order in which they start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.fleet.preflight import brought
from services.runtime import lifeline
from services.runtime.api_address import SOCKET
from services.runtime.settings import Named, Settings

__all__ = ["SERVICES", "Part", "Role", "carries", "plan"]


def _one(_settings: Settings) -> int:
    return 1


@dataclass(frozen=True)
class Role:
    """A service and how many processes of it a fleet has."""

    service: Named
    copies: Callable[[Settings], int] = _one


SERVICES: tuple[Role, ...] = (
    Role("adapter_manager"),
    Role("router", lambda settings: settings.fleet.routers),
    Role("encoder", lambda settings: settings.fleet.worker_count),
    Role("dissonance_monitor"),
    Role("distiller"),
    Role("factory"),
    Role("federation", lambda settings: int(settings.federation.enabled)),
    Role("api", lambda settings: int(settings.api.enabled)),
)
"""All but the broker, which stands under them; stopped in reverse order, the broker last."""


@dataclass(frozen=True)
class Part:
    """One process of the fleet."""

    service: str
    instance: str
    command: tuple[str, ...]
    """The words that start it; see `services.runtime.lifeline`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets beside the supervisor's own."""
    descriptors: tuple[int, ...] = ()
    """Open files of the supervisor that it gets, too, each time that it starts."""

    @property
    def name(self) -> str:
        """For people and for log files: `encoder-2`."""
        return f"{self.service}-{self.instance}"


def carries(settings: Settings, bus: str) -> bool:
    """Whether this machine's fleet starts the broker."""
    return settings.fleet.runs("broker") and not brought(bus)


def plan(
    settings: Settings,
    *,
    state: Path,
    bus: str,
    config: Path,
    environment: Mapping[str, str] | None = None,
    door: int | None = None,
) -> tuple[Part, ...]:
    """The broker first, then every service; `config` holds the settings in force.

    On a bus that is there already there is no broker, nor what other machines run.

    `door` is the socket on which the API is to answer: it stays open while the API starts anew.
    """
    shared = environment or {}
    broker = lifeline.command(
        "bus",
        *("--url", bus, "--state", str(state)),
        *("--config", str(config), "--log-level", settings.fleet.log_level),
    )
    parts = [Part("broker", "1", broker, shared)] if carries(settings, bus) else []
    for role in SERVICES:
        copies = role.copies(settings) if settings.fleet.runs(role.service) else 0
        for instance in map(settings.fleet.instance, range(1, copies + 1)):
            command = lifeline.command(
                f"services.{role.service}",
                *("--state", str(state), "--bus", bus),
                *("--instance", instance, "--config", str(config)),
            )
            own: dict[str, str] = {}
            descriptors: tuple[int, ...] = ()
            if role.service == "api" and door is not None:
                own, descriptors = {SOCKET: str(door)}, (door,)
            part = Part(role.service, instance, command, {**shared, **own}, descriptors)
            parts.append(part)
    return tuple(parts)
