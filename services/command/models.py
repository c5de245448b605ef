"""What `--model` means, as in the HTTP API."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from services.command.errors import InputRefused

__all__ = ["MOST", "Model", "model_of"]

MOST: Final = 3
"""Skills that may stack."""


class Model(NamedTuple):
    """How a request is routed."""

    route: Literal["auto", "named", "base"]
    skills: tuple[str, ...] = ()


def model_of(text: str) -> Model:
    """`auto`, `base`, or up to three skills joined by `+`; raises `InputRefused`.

    Whether a skill of that name is there is for the fleet to say.
    """
    if text == "auto":
        return Model("auto")
    if text == "base":
        return Model("base")
    names = tuple(name.strip() for name in text.split("+"))
    if not all(names):
        raise InputRefused(f"--model is auto, base, or skills joined by +, not {text!r}")
    if len(names) > MOST:
        raise InputRefused(f"--model names {len(names)} skills: at most {MOST} may stack")
    return Model("named", names)
