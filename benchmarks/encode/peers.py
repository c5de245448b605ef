"""Who encodes in one process, without a bus: sentence-transformers, ONNX Runtime, our engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["PEERS", "Engine", "Onnx", "Peer", "SentenceTransformers", "Setting"]

Floats = npt.NDArray[np.float32]
BATCHES = (8, 16, 32, 64)
SAMPLE = 256  # texts on which the size is chosen
LONGEST = 512  # tokens


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all have in common."""

    folder: Path
    """The model's."""
    aside: Path
    """Where files may be written."""
    device: str = "cpu"
    dtype: str = "float32"


class Peer(Protocol):
    """A model in this process."""

    def warm(self, texts: list[str]) -> str | None:
        """Get ready; may say how it decided to work."""
        ...

    def encode(self, texts: list[str]) -> Floats:
        """(n, dim), in the order of the texts."""
        ...


class SentenceTransformers:
    """`SentenceTransformer.encode` with its own defaults."""

    def __init__(self, setting: Setting) -> None:
        self._model = _sentence_transformer(setting)
        self._narrow = setting.dtype != "float32"

    def warm(self, texts: list[str]) -> str | None:
        self.encode(texts)
        return None

    def encode(self, texts: list[str]) -> Floats:
        # NumPy has no bfloat16: there the vectors come as tensors.
        if not self._narrow:
            found: Floats = self._model.encode(texts, show_progress_bar=False)
            return found
        tensor = self._model.encode(texts, show_progress_bar=False, convert_to_tensor=True)
        widened: Floats = tensor.float().cpu().numpy()
        return widened


class Onnx:
    """The same modules, pooling and normalisation too, exported once by torch; sorted batches."""

    def __init__(self, setting: Setting) -> None:
        import onnxruntime  # type: ignore[import-untyped, unused-ignore]
        import onnxscript  # noqa: F401  (the exporter needs it, and would say so much later)
        from transformers import AutoTokenizer

        if setting.dtype != "float32":
            raise ImportError("ONNX Runtime is measured with float32 alone")
        provider = "CUDAExecutionProvider" if setting.device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise ImportError(f"this onnxruntime has no {provider}")
        file = _exported(setting)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        self._session = onnxruntime.InferenceSession(file, options, providers=[provider])
        self._tokenizer = AutoTokenizer.from_pretrained(setting.folder)
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._batch = BATCHES[0]

    def warm(self, texts: list[str]) -> str | None:
        """Choose the size of batches that is fastest here."""
        sample = texts[:SAMPLE]
        self._batch = fastest(BATCHES, lambda size: self._run(sample, size))
        return f"batches of {self._batch}, {os.cpu_count()} threads"

    def encode(self, texts: list[str]) -> Floats:
        return self._run(texts, self._batch)

    def _run(self, texts: list[str], batch: int) -> Floats:
        rows = self._tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        found: list[Any] = [None] * len(rows)
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            ids, mask = padded([rows[place] for place in places])
            given = dict(zip(self._inputs, (ids, mask), strict=False))
            for place, vector in zip(places, self._session.run(None, given)[0], strict=True):
                found[place] = vector
        return np.stack(found)


class Engine:
    """Our own engine without the bus: what the fleet's way costs is the difference."""

    def __init__(self, setting: Setting) -> None:
        from lora.engine import ArrowEngine

        self._engine = ArrowEngine(setting.folder, device=setting.device)

    def warm(self, texts: list[str]) -> str | None:
        self.encode(texts)
        return None

    def encode(self, texts: list[str]) -> Floats:
        return self._engine.encode(texts)


PEERS: dict[str, Callable[[Setting], Peer]] = {
    "sentence-transformers": SentenceTransformers,
    "onnxruntime": Onnx,
    "engine": Engine,
}


def fastest(choices: Sequence[int], run: Callable[[int], object], *, times: int = 1) -> int:
    """The choice whose quickest of some runs is quickest; each ran once before."""
    took: dict[int, list[float]] = {choice: [] for choice in choices}
    for turn in range(times + 1):
        for choice in choices:
            start = time.perf_counter()
            run(choice)
            if turn:
                took[choice].append(time.perf_counter() - start)
    return min(choices, key=lambda choice: min(took[choice]))


def padded(rows: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(n, longest) token ids, 0 behind each row, and the mask that is 1 where a token is."""
    longest = max(len(row) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask


def _sentence_transformer(setting: Setting) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    words: dict[str, Any] = {}
    if setting.dtype != "float32":  # with its best attention; on a CPU all is left as it comes
        words = {"dtype": getattr(torch, setting.dtype), "attn_implementation": "sdpa"}
    return SentenceTransformer(str(setting.folder), device=setting.device, model_kwargs=words)


def _exported(setting: Setting) -> Path:
    import torch

    model = _sentence_transformer(
        Setting(folder=setting.folder, aside=setting.aside, device="cpu")
    ).eval()

    class Whole(torch.nn.Module):
        """Token ids to sentence embeddings."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            features = {"input_ids": input_ids, "attention_mask": attention_mask}
            for part in self.parts:
                features = part(features)
            return features["sentence_embedding"]

    file = setting.aside / "model.onnx"
    rows = torch.export.Dim("rows", min=1, max=4096)
    tokens = torch.export.Dim("tokens", min=2, max=LONGEST)
    ids = torch.randint(1000, 2000, (3, 17))
    names = ("input_ids", "attention_mask")
    torch.onnx.export(
        Whole().eval(),
        (ids, torch.ones_like(ids)),
        file,
        input_names=names,
        output_names=("sentence",),  # no part of the model is called so
        dynamic_shapes={name: {0: rows, 1: tokens} for name in names},
        dynamo=True,
        verbose=False,
    )
    return file
