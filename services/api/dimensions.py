"""To which sizes the model's vectors may be cut: a Matryoshka's are, any other's are not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from services.api.errors import InvalidRequest

__all__ = ["Dimensions", "trained_sizes"]


class Dimensions:
    """The sizes that requests may ask for."""

    def __init__(self, sizes: Iterable[int] = ()) -> None:
        self._sizes = frozenset(sizes)
        self._whole: int | None = None

    def learn(self, size: int) -> None:
        """The model's vectors have so many values."""
        self._whole = size

    def check(self, size: int | None) -> None:
        """Raise `InvalidRequest` for a size that cannot be had.

        Until `learn` was called nothing is refused: the model's own size is allowed, too.
        """
        whole = self._whole
        if size is None or whole is None or size == whole:
            return
        if size in self._sizes and size < whole:
            return
        allowed = sorted({*(one for one in self._sizes if one < whole), whole})
        told = " or ".join(map(str, allowed))
        why = (
            "this model was not trained to be cut (Matryoshka)"
            if len(allowed) == 1
            else "this model was trained for no other"
        )
        raise InvalidRequest(f"dimensions is {size}, but must be {told}: {why}", param="dimensions")


def trained_sizes(folder: Path) -> tuple[int, ...]:
    """`matryoshka_dimensions` of the config.json of the model in a folder, where it names any."""
    try:
        config: Any = msgspec.json.decode((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return ()
    found = config.get("matryoshka_dimensions") if isinstance(config, dict) else None
    sizes = found if isinstance(found, list) else []
    return tuple(size for size in sizes if type(size) is int and size > 0)
