"""The weights of a model folder, read tensor by tensor, under the names that cards use.

The model is never built: its modules are laid out without memory (torch's `meta` device), which
says what is a Linear layer and what it is called; the numbers are read from the files when asked
for.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lora.adapter import FloatArray
from lora.card import BaseModel
from lora.errors import ModelError, ModelNotFoundError
from lora.model import find_model
from lora.sources import weight_files

__all__ = ["Checkpoint", "family"]

_ROWS: Final = 8192
_OLD_NAMES: Final = (
    (re.compile(r"\.gamma$"), ".weight"),
    (re.compile(r"\.beta$"), ".bias"),
)


class Checkpoint:
    """A sentence-transformers folder, a plain transformers folder, a hub id, or the default."""

    def __init__(self, model: str | Path | None = None) -> None:
        """Look at names and shapes; no weight is read but for the digest.

        Raises:
            ModelNotFoundError: there is no such model, or it is none of transformers.
            ModelError: its files cannot be read, or hold no Linear layer of the model.
        """
        found = find_model(model)
        self.folder: Path = found.folder
        self.base_model: BaseModel = found.base_model
        """The name, and the SHA-256 of the weights as cards state it."""
        self._parts = _parts(found.folder)
        self.encoder: Path = found.folder / _encoder_path(self._parts)
        self.config: Any = _config(self.encoder)
        skeleton = _skeleton(self.config, self.folder)
        known = set(skeleton.state_dict(keep_vars=True))
        self._where = dict(self._names(known, str(skeleton.base_model_prefix)))
        linears = {
            name: (module.out_features, module.in_features)
            for name, module in skeleton.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in self._where
        }
        self.linears: Mapping[str, tuple[int, int]] = linears
        """Shape (out, in) of each Linear layer whose weight is here, in the model's order."""
        if not linears:
            raise ModelError(
                f"the files of {self.base_model.id} hold no weight of a Linear layer under the "
                "names that transformers gives it"
            )
        weights = {f"{name}.weight" for name in linears}
        self.others: tuple[str, ...] = tuple(n for n in self._where if n not in weights)
        """Every other tensor: embeddings, norms, biases, dense layers behind the pooling."""

    @property
    def architecture(self) -> tuple[str, int | None, int | None]:
        """Model type, hidden size and number of layers, as far as the configuration says."""
        config = self.config
        return (
            str(config.model_type),
            getattr(config, "hidden_size", None),
            getattr(config, "num_hidden_layers", None),
        )

    @property
    def dim(self) -> int:
        """Width of the pooled embedding: what the last module says that changes it."""
        width = 0
        for part in self._parts:
            words = _read_json(self.folder / str(part.get("path", "")) / "config.json")
            for key in ("word_embedding_dimension", "embedding_dimension", "out_features"):
                width = int(words.get(key) or width)
        width = width or int(getattr(self.config, "hidden_size", 0) or 0)
        if not width:
            raise ModelError(f"{self.base_model.id} does not say how wide its embeddings are")
        return width

    @property
    def pooling(self) -> list[dict[str, Any]]:
        """What follows the encoder, as the folder declares it; empty for a plain folder."""
        following = self._parts[1:]
        return [
            {
                "kind": str(part.get("type", "")).rpartition(".")[2],
                **{
                    key: value
                    for key, value in _read_json(
                        self.folder / str(part.get("path", "")) / "config.json"
                    ).items()
                    if key.startswith("pooling_mode") and value
                },
            }
            for part in following
        ]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; () where there is none of this name."""
        if name not in self._where:
            return ()
        reader, key = self._where[name]
        return reader.shape(key)

    def is_float(self, name: str) -> bool:
        """Whether the tensor is stored as floating-point numbers."""
        reader, key = self._where[name]
        return reader.dtype(key).is_floating_point

    def roundoff(self, name: str) -> float:
        """Unit roundoff of the dtype that the tensor is stored in."""
        reader, key = self._where[name]
        return float(torch.finfo(reader.dtype(key)).eps) / 2

    def weight(self, module: str) -> FloatArray:
        """(out, in) float32 weight of a Linear layer."""
        reader, key = self._where[f"{module}.weight"]
        values: FloatArray = _numbers(reader.rows(key, 0, None))
        return values

    def rows(self, name: str) -> Iterator[FloatArray]:
        """A tensor as float32, a bounded number of rows at a time."""
        reader, key = self._where[name]
        shape = reader.shape(key)
        for start in range(0, shape[0] if shape else 1, _ROWS):
            yield _numbers(reader.rows(key, start, start + _ROWS))

    def _names(self, known: set[str], prefix: str) -> Iterator[tuple[str, tuple[_File, str]]]:
        """Card-side name of each tensor, and where it lies."""
        for file in weight_files(self.folder):
            reader = _File(file)
            inside = file.parent == self.encoder
            folder = "" if inside else file.parent.relative_to(self.folder).as_posix() + "/"
            for key in reader.keys:
                yield (_plain(key, known, prefix) if inside else folder + key), (reader, key)


def family(name: str) -> str:
    """What kind of tensor a name that is no Linear layer's weight stands for, in a word."""
    if "/" in name:
        return "layers behind the pooling"
    if re.search(r"norm|ln_", name, re.IGNORECASE):
        return "norms"
    if "embed" in name or re.search(r"(^|\.)(wte|wpe)\.", name):
        return "embeddings"
    return "biases" if name.endswith("bias") else "other tensors"


class _File:
    """One weight file, whatever its kind, opened when it is first read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _open(self) -> Any:
        try:
            if self._path.suffix == ".safetensors":
                handle: Any = safe_open  # it carries no annotations
                return handle(str(self._path), framework="pt")
            # What very old versions of torch saved cannot be mapped.
            mapped = zipfile.is_zipfile(self._path)
            loaded = torch.load(self._path, map_location="cpu", weights_only=True, mmap=mapped)
        except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as e:
            raise ModelError(f"{self._path} is no readable weight file: {_line(e)}") from e
        except Exception as e:  # unpickling refuses in its own ways
            raise ModelError(f"{self._path} is no plain weight file: {_line(e)}") from e
        if not isinstance(loaded, dict):
            raise ModelError(f"{self._path} holds no tensors by name")
        return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}

    @property
    def keys(self) -> list[str]:
        return list(self._open.keys())

    def shape(self, key: str) -> tuple[int, ...]:
        if isinstance(self._open, dict):
            return tuple(self._open[key].shape)
        return tuple(self._open.get_slice(key).get_shape())

    def dtype(self, key: str) -> torch.dtype:
        return self.rows(key, 0, 1).dtype

    def rows(self, key: str, start: int, stop: int | None) -> Tensor:
        scalar = not self.shape(key)
        if isinstance(self._open, dict):
            found: Tensor = self._open[key] if scalar else self._open[key][start:stop]
            return found
        whole = scalar or (start == 0 and stop is None)
        read: Tensor = (
            self._open.get_tensor(key) if whole else self._open.get_slice(key)[start:stop]
        )
        return read


def _numbers(tensor: Tensor) -> Any:
    return np.asarray(tensor.detach().float().numpy(), np.float32)


def _plain(key: str, known: set[str], prefix: str) -> str:
    """The name within the encoder of a tensor that a file may keep under a wrapper's name."""
    for pattern, modern in _OLD_NAMES:
        key = pattern.sub(modern, key)
    for wrapper in ("", f"{prefix}.", "model.", "auto_model.", "0.auto_model."):
        if key.startswith(wrapper) and key[len(wrapper) :] in known:
            return key[len(wrapper) :]
    return key


def _parts(folder: Path) -> list[dict[str, Any]]:
    """What modules.json lists, in order; nothing for a plain transformers folder."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        parts = json.loads(file.read_text("utf-8"))
        return sorted((dict(part) for part in parts), key=lambda part: int(part.get("idx", 0)))
    except (OSError, ValueError, TypeError) as e:
        raise ModelNotFoundError(f"{file} does not list the modules of a model: {_line(e)}") from e


def _encoder_path(parts: list[dict[str, Any]]) -> str:
    if not parts:
        return ""
    kind = str(parts[0].get("type", ""))
    if not kind.endswith("Transformer"):
        raise ModelNotFoundError(f"the model begins with {kind}, not with a transformer")
    return str(parts[0].get("path", ""))


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"the folder {folder} holds no config.json, so it is no model")
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ModelNotFoundError(f"{folder / 'config.json'} describes no model: {_line(e)}") from e


def _skeleton(config: Any, folder: Path) -> Any:
    """The modules of the model, without memory for their weights."""
    from transformers import AutoModel

    automatic: Any = AutoModel  # it carries no annotations
    try:
        with torch.device("meta"):
            return automatic.from_config(config)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as e:
        raise ModelNotFoundError(f"the model in {folder} cannot be laid out: {_line(e)}") from e


def _read_json(file: Path) -> dict[str, Any]:
    try:
        words = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return words if isinstance(words, dict) else {}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
