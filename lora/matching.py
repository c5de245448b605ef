"""Finds the modules that a card or a configuration means, by their names alone."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from lora.errors import NoMatchingModuleError

__all__ = ["Matching", "match_keys", "normal_name", "select_targets"]

log = logging.getLogger(__name__)

_PREFIX: Final = re.compile(
    r"^(?:base_model|model|module|auto_model|transformer|bert|roberta|xlm_roberta|distilbert|0)\."
)
_SUFFIX: Final = re.compile(r"\.(?:lora_[ab]|weight|base_layer|default|base)$", re.IGNORECASE)


@dataclass(frozen=True)
class Matching:
    """Which module each key of a card means."""

    pairs: dict[str, str]
    """The card's key to the model's module."""

    missing: tuple[str, ...]
    """Keys that mean no module here, or more than one."""

    loose: tuple[tuple[str, str, str], ...]
    """(key, module, how) where the match was not exact."""


def normal_name(name: str) -> str:
    """A module's name without wrappers' prefixes and suffixes, with `layer` for `layers`."""
    while (shorter := _SUFFIX.sub("", _PREFIX.sub("", name))) != name:
        name = shorter
    return re.sub(r"(^|\.)layers\.", r"\1layer.", name)


def match_keys(keys: Iterable[str], modules: Iterable[str]) -> Matching:
    """Match a card's keys to module names: exactly, then by suffix, then by normalised name.

    A looser match counts only where it is the only one and its module is not taken; each is logged.
    """
    available = list(modules)
    keys, named = list(keys), set(available)
    pairs = {key: key for key in keys if key in named}
    taken = set(pairs.values())
    loose: list[tuple[str, str, str]] = []

    def suffix(key: str, module: str) -> bool:
        return module.endswith("." + key) or key.endswith("." + module)

    def normalised(key: str, module: str) -> bool:
        short, other = normal_name(key), normal_name(module)
        return short == other or suffix(short, other)

    for how, same in (("suffix", suffix), ("normalised name", normalised)):
        for key in keys:
            if key in pairs:
                continue
            found = [module for module in available if same(key, module)]
            if len(found) == 1 and found[0] not in taken:
                pairs[key] = found[0]
                taken.add(found[0])
                loose.append((key, found[0], how))
                log.info("card key %r matched module %r by %s", key, found[0], how)
    missing = tuple(key for key in keys if key not in pairs)
    return Matching(pairs, missing, tuple(loose))


def select_targets(names: Iterable[str], modules: Iterable[str]) -> list[str]:
    """The modules meant by `names`, each an exact name or a suffix; in the model's order.

    Raises:
        NoMatchingModuleError: a name means no module.
    """
    available = list(modules)
    chosen: set[str] = set()
    for name in names:
        found = {name} & set(available) or {m for m in available if m.endswith("." + name)}
        if not found:
            raise NoMatchingModuleError(
                f"no Linear layer of the model is named {name!r} or ends in {'.' + name!r}"
            )
        chosen |= found
    return [module for module in available if module in chosen]
