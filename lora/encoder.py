"""The sentence-transformers model behind the engine, run as its own files declare."""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from lora.errors import DeviceError, ModelError, ModelNotFoundError
from lora.text import TextModel, unpadded

__all__ = ["SentenceModel", "pick_device"]

log = logging.getLogger(__name__)

# The prompts that sentence-transformers takes for each role, the first that a model has.
_PROMPTS: Final = {"query": ("query",), "document": ("document", "passage", "corpus")}

_MOST_TOKENS: Final = 1_000_000
_USUAL_TOKENS: Final = 512
"""Where a model declares no limit of its own."""

_warned: set[str] = set()


def pick_device(device: str) -> torch.device:
    """The torch device of this name; `auto` is CUDA, else the CPU with one warning a process.

    Raises:
        DeviceError: there is no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if "cpu" not in _warned:
            _warned.add("cpu")
            log.warning("no CUDA device is available; the model runs on the CPU")
        return torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError, ValueError) as e:
        raise DeviceError(
            f"the device {device!r} is not available: {str(e).splitlines()[0]}"
        ) from e


class SentenceModel(TextModel):
    """One loaded model: tokens in, pooled (and, where declared, normalised) embeddings out."""

    def __init__(
        self, folder: Path, device: torch.device, dtype: torch.dtype | None = None
    ) -> None:
        """Load from a folder; nothing is fetched and no code of the model's own is run.

        `dtype` None leaves the weights as the files have them: then they stay mapped, and processes
        of one machine share them.

        Raises:
            ModelNotFoundError: the folder holds no model that sentence-transformers can load.
        """
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        try:
            with _quiet():
                self.model = SentenceTransformer(
                    str(folder), device=str(device), local_files_only=True
                )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise ModelNotFoundError(f"no model could be loaded from {folder}: {reason}") from e
        if dtype is not None:
            self.model.to(dtype)
        self.model.eval()
        _check_tokenizer(folder, self.model.tokenizer)
        self.device = device
        width = self.model.get_embedding_dimension()
        if width is None:
            raise ModelError(f"the model in {folder} does not declare the width of its embeddings")
        self.dim = int(width)
        if (self.model.max_seq_length or 0) > _MOST_TOKENS:  # transformers' way to say "no limit"
            self.model.max_seq_length = _USUAL_TOKENS
        self.max_tokens = int(self.model.max_seq_length or _USUAL_TOKENS)
        # A tokenizer of its own, since one that truncates here and pads there cannot be shared.
        self._tokenizer = copy.deepcopy(self.model.tokenizer)
        self._tokenizing = threading.Lock()
        longest = int(self.model.max_seq_length or _USUAL_TOKENS)
        super().__init__(
            _fast(self._tokenizer, longest),
            longest,
            {role: self._prompt(names) or "" for role, names in _PROMPTS.items()},
            str(getattr(self._tokenizer, "pad_token", None) or ""),
        )

    @property
    def root(self) -> nn.Module:
        """The transformers model within, whose Linear layers cards name; else the whole model."""
        inner = getattr(self.model[0], "auto_model", None)
        return inner if isinstance(inner, nn.Module) else self.model

    def cut_to(self, positions: int) -> None:
        """Read no more tokens than the model has positions for, whatever its files say."""
        if positions < self.max_tokens:
            self.max_tokens = self.model.max_seq_length = positions
            self._fast = _fast(self._tokenizer, positions)

    @property
    def tokenizer_json(self) -> str | None:
        """The fast tokenizer as it is set now; None where there is none."""
        return None if self._fast is None else str(self._fast.to_str())

    @property
    def plain_text(self) -> bool:
        """Whether a text's tokens, as `token_ids` gives them, are all that the transformer gets."""
        first: Any = self.model[0]
        unusual = ("query_expansion", "query_length", "document_length", "do_lower_case")
        return (
            type(first).__name__ == "Transformer"
            and not any(getattr(first, name, None) for name in unusual)
            and not getattr(first, "processing_kwargs", None)
            and not (self._fast is not None and any(self._fast.encode("a b").type_ids))
        )

    def _slowly(self, texts: list[str]) -> list[Sequence[int]]:
        with self._tokenizing:
            encoded = self._tokenizer(texts, truncation=True, max_length=self.max_tokens)
        return list(encoded["input_ids"])

    def features(self, texts: Sequence[str], role: str) -> dict[str, Any]:
        """The padded input of one batch, on the model's device."""
        features = self.model.preprocess(list(texts), prompt=self.prompts[role] or None, task=role)
        return {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }

    def forward(self, features: dict[str, Any], role: str) -> Tensor:
        """(n, dim) embeddings, through the model's own modules."""
        embeddings: Tensor = self.model(dict(features), task=role)["sentence_embedding"]
        return embeddings

    def _prompt(self, names: Sequence[str]) -> str | None:
        prompts = self.model.prompts
        for name in (*names, self.model.default_prompt_name):
            if name is not None and name in prompts:
                return str(prompts[name]) or None
        return None


def _fast(tokenizer: Any, longest: int) -> Any:
    """The tokenizer in Rust behind one of transformers, cutting and not padding; None without."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast"):
        return None
    return unpadded(backend, longest)


def _check_tokenizer(folder: Path, tokenizer: object) -> None:
    """Refuse a tokenizer without vocabulary files, for which every word is the unknown one.

    Raises:
        ModelNotFoundError: transformers made one up, because the folder holds none.
    """
    names = set(getattr(tokenizer, "vocab_files_names", {}).values())
    others = {".model", ".tiktoken"}  # from which transformers may convert
    there = (path.name in names or path.suffix in others for path in folder.rglob("*"))
    if names and not any(there):
        files = " or ".join(sorted(names))
        raise ModelNotFoundError(
            f"no model could be loaded from {folder}: it holds no tokenizer ({files})"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar while weights are loaded."""
    progress: Any = import_module("transformers.utils.logging")  # has no annotations
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            progress.enable_progress_bar()
