"""Ranks the Linear layers of a model for adaptation, without a gradient.

From a calibration set of texts: a layer scores by how much its output rows give for inputs of the
size that they really get. With W (out, in) and tokens x at the layer's input,

    activation = mean over tokens of ‖x‖₂ / √in          row norm r_o = ‖W_o‖₂
    score_o    = activation · r_o                        score = mean over rows o

which is what row o gives, in root mean square, for an input of that norm in a random direction. The
product of input norm and weight magnitude, compared row by row, is that of Wanda (arXiv
2306.11695), summed per layer. From two models: the same with the change Δ for W and activation 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lora.batching import DEFAULT_BATCH_TOKENS, pack
from lora.checkpoint import Checkpoint
from lora.comparison import check_architectures, check_finite, incomparable, sum_of_squares
from lora.engine import ArrowEngine
from lora.errors import InstrumentError, SameModelsError
from lora.layer import LoRALinear
from lora.probing import ModuleScore, ProbeReport
from lora.ranks import gini

__all__ = ["ModuleScore", "ProbeReport", "WeightMapProbe"]

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is in all, and what comes next."""

_IN_STACK = re.compile(r"\.\d+\.")


class WeightMapProbe:
    """Measures one model; the engine's cards take no part in it.

    report = WeightMapProbe().texts(["how do I reset my card?", "where is my refund?"])
    report.ranks(report.budget(rank=8))
    """

    def __init__(
        self, model: str | Path | None = None, *, engine: ArrowEngine | None = None
    ) -> None:
        """`engine` is used where one is at hand, else `model` is loaded, None the default."""
        self._engine = engine or ArrowEngine(model)

    def texts(
        self, texts: Sequence[str], *, role: str = "query", progress: Progress | None = None
    ) -> ProbeReport:
        """Run the texts once and rank the layers.

        A layer on which no embedding depends (a pooler that the model's pooling passes by) is
        marked idle and scores 0.

        Raises:
            InstrumentError: there is no text.
        """
        if not texts:
            raise InstrumentError("a probe needs at least one text to run")
        engine = self._engine
        lengths = engine.token_counts(texts, role=role)
        batches = list(
            pack(lengths, [()] * len(texts), {}, batch_tokens=DEFAULT_BATCH_TOKENS, card_bytes=0)
        )
        with engine.exclusive(), torch.inference_mode(), engine.manager.rows(()):
            linears = dict(_linears(engine))
            meters = {name: _Meter() for name in linears}
            with _hooked(linears, meters) as mask:
                for number, batch in enumerate(batches):
                    if progress is not None:
                        progress(number, len(batches), "calibration texts")
                    features = engine.prepare([texts[i] for i in batch.rows], role=role)
                    mask[:] = [features["attention_mask"].bool()]
                    engine.forward(features, role=role)
            idle = set(_idle(engine, linears, texts[0], role))
            scores = [
                _from_weight(name, linear, meters[name], name in idle)
                for name, linear in linears.items()
            ]
        if progress is not None:
            progress(len(batches), len(batches), "")
        return _report("activations", engine.base_model.id, "", len(texts), sum(lengths), scores)

    @staticmethod
    def delta(
        base: str | Path | None, tuned: str | Path, *, progress: Progress | None = None
    ) -> ProbeReport:
        """Rank the layers by how much they differ between two models of one architecture.

        Raises:
            ModelError: one of them cannot be found or read.
            DifferentModelsError: they are not of one architecture.
            SameModelsError: no Linear layer differs.
        """
        before, after = Checkpoint(base), Checkpoint(tuned)
        check_architectures(before, after)
        scores: list[ModuleScore] = []
        for number, (name, (outputs, inputs)) in enumerate(before.linears.items()):
            if progress is not None:
                progress(number, len(before.linears), name)
            if incomparable(before, after, name) is not None:
                continue
            weight = before.weight(name)
            change = after.weight(name) - weight
            check_finite(change, name)
            rows = np.linalg.norm(change, axis=1)
            size = sum_of_squares(weight)
            share = float(np.sqrt(sum_of_squares(change) / size)) if size else 0.0
            mean = float(rows.mean(dtype=np.float64))
            scores.append(
                ModuleScore(name, inputs, outputs, mean, mean, None, share, gini(rows.tolist()))
            )
        if progress is not None:
            progress(len(before.linears), len(before.linears), "")
        if not any(one.score for one in scores):
            raise SameModelsError(
                f"no Linear layer differs between {before.base_model.id} and {after.base_model.id}"
            )
        return _report("delta", before.base_model.id, after.base_model.id, 0, 0, scores)


class _Meter:
    """Sum of the norms of the tokens seen at a layer's input, and their number."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def see(self, x: Tensor, mask: Tensor | None) -> None:
        # A layer may see padded rows, or pooled ones, or tokens laid end to end.
        kept = x[mask] if mask is not None and x.shape[:2] == mask.shape else x
        norms = torch.linalg.vector_norm(kept.reshape(-1, x.shape[-1]).float(), dim=-1)
        self.total += float(norms.sum(dtype=torch.float64))
        self.count += norms.numel()

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


def _linears(engine: ArrowEngine) -> Iterator[tuple[str, nn.Linear]]:
    for name in engine.manager.linears:
        module = engine.manager.model.get_submodule(name)
        linear = module.base if isinstance(module, LoRALinear) else module
        if isinstance(linear, nn.Linear):
            yield name, linear


@contextmanager
def _hooked(linears: dict[str, nn.Linear], meters: dict[str, _Meter]) -> Iterator[list[Tensor]]:
    """Within the block meters see what enters their layers; the list yielded holds the mask."""
    mask: list[Tensor] = []

    def look(meter: _Meter) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            meter.see(inputs[0], mask[0] if mask else None)

        return hook

    with ExitStack() as stack:
        for name, linear in linears.items():
            handle = linear.register_forward_pre_hook(look(meters[name]))
            stack.callback(handle.remove)
        yield mask


def _idle(
    engine: ArrowEngine, linears: dict[str, nn.Linear], text: str, role: str
) -> Iterator[str]:
    """Layers outside the encoder's stack whose output can be zero without any effect."""
    features = engine.prepare([text], role=role)
    expected = engine.forward(dict(features), role=role)
    for name, linear in linears.items():
        if _IN_STACK.search(f".{name}."):
            continue
        with ExitStack() as stack:
            handle = linear.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
            stack.callback(handle.remove)
            if torch.equal(engine.forward(dict(features), role=role), expected):
                yield name


def _from_weight(name: str, linear: nn.Linear, meter: _Meter, idle: bool) -> ModuleScore:
    rows: npt.NDArray[np.float32] = (
        torch.linalg.vector_norm(linear.weight.float(), dim=1).cpu().numpy()
    )
    activation = meter.mean / float(np.sqrt(linear.in_features))
    weight = float(rows.mean(dtype=np.float64))
    return ModuleScore(
        name,
        linear.in_features,
        linear.out_features,
        0.0 if idle else activation * weight,
        weight,
        activation,
        None,
        gini(rows.tolist()),
        idle,
    )


def _report(
    mode: Any, model: str, tuned: str, texts: int, tokens: int, scores: list[ModuleScore]
) -> ProbeReport:
    ordered = sorted(scores, key=lambda one: -one.score)
    return ProbeReport(mode, model, tuned, texts, tokens, tuple(ordered))
