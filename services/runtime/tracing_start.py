"""Whether a process traces, and the sentence for those who want it to and lack something."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog

from services.errors import SettingsError

__all__ = ["start_tracing", "wanted"]

Wish = Literal["auto", "on", "off"]

NAMES: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)
"""Of these one is set where somebody wants traces."""

INSTALL: Final = "OpenTelemetry is not installed: pip install 'consonance[traces]'"


def wanted(wish: Wish, environment: Mapping[str, str]) -> bool:
    """Whether traces are asked for, by `fleet.traces` or by OpenTelemetry's own variables."""
    if wish == "off" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "").lower() == "none":
        return False
    return wish == "on" or any(environment.get(name) for name in NAMES)


def start_tracing(service: str, instance: str, wish: Wish) -> Callable[[], None]:
    """Trace this process where that is asked for; call what it returns at the end.

    Raises `SettingsError` where `fleet.traces` is on and something is missing; where only the
    environment asks for it, as it may for other programs, a warning says so.
    """
    if not wanted(wish, os.environ):
        return _nothing
    lacking = _foreign(os.environ)
    if lacking is None:
        try:
            from services.runtime import tracing_otel

            return tracing_otel.start(service, instance)
        except ImportError:
            lacking = INSTALL
    if wish == "on":
        raise SettingsError(f"fleet.traces is on, but {lacking}")
    structlog.get_logger().warning("not traced", why=lacking)
    return _nothing


def _foreign(environment: Mapping[str, str]) -> str | None:
    """What the environment asks for that is not here."""
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter.lower() != "otlp":
        return f"OTEL_TRACES_EXPORTER is {exporter!r}, and traces leave by otlp alone"
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environment.get(name)
        if protocol:
            known = protocol == "http/protobuf"
            return None if known else f"{name} is {protocol!r}, and http/protobuf is what is spoken"
    return None


def _nothing() -> None:
    """There is nothing to end."""
