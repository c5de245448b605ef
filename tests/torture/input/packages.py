"""What is instrumented for the fuzzer of each target; nothing of it is imported here."""

from __future__ import annotations

from typing import Final

__all__ = ["PACKAGES"]

_LORA: Final = (
    *("lora.card", "lora.card_checks", "lora.outline", "lora.layout", "lora.arrowfile"),
    *("lora.adapter", "lora.boundary"),
)

PACKAGES: Final = {
    "events": ("schemas",),
    "broker": ("bus", "schemas"),
    "journal": ("bus", "schemas"),
    "cards": _LORA,
    "importers": ("lora.interop", "lora.tensors", "lora.patterns", *_LORA),
    "config": ("services.runtime", "bus.settings"),
    "peers": ("services.federation", "services.runtime", "lora.router", "lora.shelf", "schemas"),
}
"""Modules and packages of ours, by the name of the target; the order in which they are run."""
