"""Cards in other people's layouts: PEFT folders and plain safetensors; torch-free.

PEFT keeps `lora_A.weight` as (rank, in) and `lora_B.weight` as (out, rank), a card's A and B
transposed. It has no place for a head, which travels beside the body as `head.safetensors`. Neither
layout has scales: matrices of int8 go out as float32.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from lora.adapter import HEAD, Adapter
from lora.card import BaseModel, LoRACard
from lora.card_checks import MAX_MODULES
from lora.errors import InteropError
from lora.layout import write_atomically
from lora.patterns import Pattern
from lora.tensors import Array, read_tensors, write_tensors

__all__ = [
    "export_peft",
    "export_safetensors",
    "import_peft",
    "import_safetensors",
    "load_adapters",
    "save_adapters",
]

_CONFIG: Final = "adapter_config.json"
_BODY: Final = "adapter_model.safetensors"
_PICKLED: Final = "adapter_model.bin"
_HEAD: Final = "head.safetensors"
MAX_PATTERNS: Final = 32
_KEY: Final = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")

# What changes the mathematics of a PEFT adapter in a way that a card cannot say.
_FOREIGN: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)


def export_peft(card: LoRACard, folder: str | Path) -> None:
    """Write a card as a PEFT adapter folder, the head beside the body.

    A card that is only a head gives `head.safetensors` alone, which PEFT itself cannot load.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    body = card.body
    if body:
        tensors: dict[str, Array] = {}
        for name, adapter in body.items():
            a, b = _floats(adapter)
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.T
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.T
        write_tensors(folder / _BODY, tensors, {"format": "pt"})
        config = json.dumps(_peft_config(card), indent=2, sort_keys=True) + "\n"
        write_atomically(folder / _CONFIG, config.encode())
    if card.head is not None:
        save_adapters({HEAD: card.head}, folder / _HEAD)


def import_peft(folder: str | Path, *, name: str, base_model: BaseModel, **about: Any) -> LoRACard:
    """A card from a PEFT adapter folder, with `head.safetensors` where it lies beside.

    Args:
        base_model: the model it was trained on; PEFT keeps no digest of the weights, so this is the
            caller's word.
        about: further fields of `LoRACard`; `dim` is needed unless there is a head.

    Raises:
        InteropError: the folder is no LoRA adapter, or uses what a card cannot express.
        CardInvalidError: what it says breaks a limit of cards.
    """
    folder = Path(folder)
    modules: dict[str, Adapter] = {}
    config: dict[str, Any] = {}
    if (folder / _CONFIG).exists() or not (folder / _HEAD).exists():
        config = _read_config(folder / _CONFIG)
        if (folder / _PICKLED).exists() and not (folder / _BODY).exists():
            raise InteropError(
                f"{folder / _PICKLED} is a pickle, which runs what it likes where it is read: "
                f"have it saved as {_BODY}"
            )
        tensors, _ = read_tensors(folder / _BODY)
        modules = _peft_modules(tensors, config)
        targets = config.get("target_modules")
        named = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
        about.setdefault("target_modules", tuple(targets) if named and targets else ())
    if (folder / _HEAD).exists():
        modules |= load_adapters(folder / _HEAD)
    return _card(modules, name, base_model, about)


def export_safetensors(card: LoRACard, file: str | Path) -> None:
    """Write a card's matrices as `<module>.lora_a` (in, rank) and `<module>.lora_b` (rank, out)."""
    save_adapters(card.modules, file, {"name": card.name, "version": str(card.version)})


def import_safetensors(
    file: str | Path, *, name: str, base_model: BaseModel, alpha: float | None = None, **about: Any
) -> LoRACard:
    """A card from plain safetensors; `alpha` is for files that do not say theirs."""
    return _card(load_adapters(file, alpha=alpha), name, base_model, about)


def save_adapters(
    modules: Mapping[str, Adapter], file: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write adapters by module name as plain safetensors, each alpha in the metadata."""
    tensors: dict[str, Array] = {}
    for name, adapter in modules.items():
        tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"] = _floats(adapter)
    alphas = json.dumps({name: adapter.alpha for name, adapter in modules.items()}, sort_keys=True)
    write_tensors(file, tensors, {**(metadata or {}), "format": "pt", "alphas": alphas})


def load_adapters(file: str | Path, *, alpha: float | None = None) -> dict[str, Adapter]:
    """Adapters from plain safetensors; a bare `lora_a` and `lora_b` are a head.

    The alpha of each is taken from the metadata (`alphas` by module, else `alpha`), else from the
    argument.

    Raises:
        InteropError: keys that are no pair, matrices that do not fit, or no alpha anywhere.
    """
    tensors, metadata = read_tensors(file)
    try:
        alphas: dict[str, float] = json.loads(metadata.get("alphas", "{}"))
        common = float(metadata["alpha"]) if "alpha" in metadata else alpha
        alphas = {str(name): float(value) for name, value in alphas.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise InteropError(f"the alphas of {file} are no numbers: {e}") from e
    pairs: dict[str, dict[str, Array]] = {}
    for key, matrix in tensors.items():
        module, _, role = key.rpartition(".")
        if role not in ("lora_a", "lora_b"):
            raise InteropError(f"{file} holds {key!r}; expected <module>.lora_a and .lora_b")
        pairs.setdefault(module or HEAD, {})[role[-1]] = matrix
    return {name: _adapter(name, pair, alphas.get(name, common)) for name, pair in pairs.items()}


def _floats(adapter: Adapter) -> tuple[Array, Array]:
    """The matrices as stored, int8 as float32."""
    return adapter.factors if adapter.dtype == "int8" else (adapter.a, adapter.b)


def _card(
    modules: dict[str, Adapter], name: str, base_model: BaseModel, about: dict[str, Any]
) -> LoRACard:
    if not modules:
        raise InteropError("there is no adapter to import")
    head = modules.get(HEAD)
    if "dim" not in about:
        if head is None:
            raise InteropError("an adapter without a head needs dim, the width of the embeddings")
        about["dim"] = head.inputs
    first = next(iter(modules.values()))
    about.setdefault("rank", Counter(a.rank for a in modules.values()).most_common(1)[0][0])
    about.setdefault("alpha", first.alpha)
    if not set(about.get("target_modules", ())):
        about["target_modules"] = tuple(modules)
    elif head is not None and HEAD not in about["target_modules"]:
        about["target_modules"] = (*about["target_modules"], HEAD)
    return LoRACard(name=name, base_model=base_model, modules=modules, **about)


def _adapter(name: str, pair: dict[str, Array], alpha: float | None) -> Adapter:
    if set(pair) != {"a", "b"}:
        raise InteropError(f"{name!r} has only one of its two matrices")
    if alpha is None:
        raise InteropError(f"no alpha is stated for {name!r}; give one")
    a, b = np.ascontiguousarray(pair["a"]), np.ascontiguousarray(pair["b"])
    try:
        return Adapter(a, b, int(a.shape[1]) if a.ndim == 2 else 0, float(alpha))
    except (TypeError, ValueError, OverflowError) as e:  # what `Adapter` raises is a ValueError
        raise InteropError(f"{name!r} is no adapter: {e}") from e


def _peft_config(card: LoRACard) -> dict[str, Any]:
    body = card.body
    rank = Counter(a.rank for a in body.values()).most_common(1)[0][0]
    alpha = Counter(a.alpha for a in body.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": card.base_model.id,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": list(body),
        "rank_pattern": {n: a.rank for n, a in body.items() if a.rank != rank},
        "alpha_pattern": {n: a.alpha for n, a in body.items() if a.alpha != alpha},
    }


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InteropError(f"{file} cannot be read as JSON: {e}") from e
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InteropError(f"{file} is not the configuration of a LoRA adapter")
    used = [key for key in _FOREIGN if config.get(key)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise InteropError(f"{file} uses {', '.join(used)}, which a card cannot express")
    return config


def _peft_modules(tensors: dict[str, Array], config: dict[str, Any]) -> dict[str, Adapter]:
    pairs: dict[str, dict[str, Array]] = {}
    for key, matrix in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or matrix.ndim != 2:
            raise InteropError(f"tensor {key!r} is no matrix of a LoRA on a Linear layer")
        pairs.setdefault(match[1], {})[match[2].lower()] = matrix.T
    if len(pairs) > MAX_MODULES:
        raise InteropError(f"it adapts {len(pairs)} modules, at most {MAX_MODULES} are taken")
    alphas, ranks = _patterns(config, "alpha_pattern"), _patterns(config, "rank_pattern")
    modules: dict[str, Adapter] = {}
    for name, pair in pairs.items():
        alpha = _chosen(alphas, name, config.get("lora_alpha"))
        if config.get("use_rslora") and isinstance(alpha, float) and "a" in pair:
            # Its scale is alpha / √rank.
            alpha = alpha * math.sqrt(pair["a"].shape[1])
        modules[name] = _adapter(name, pair, alpha)
        rank = _chosen(ranks, name, config.get("r"))
        if rank != modules[name].rank:
            raise InteropError(f"{name!r} has rank {modules[name].rank}, its configuration {rank}")
    return modules


def _patterns(config: dict[str, Any], key: str) -> list[tuple[Pattern, Any]]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise InteropError(f"{key} is no object of patterns")
    patterns = [(Pattern(text), value) for text, value in found.items()]
    if sum(not pattern.plain for pattern, _ in patterns) > MAX_PATTERNS:
        raise InteropError(f"{key} holds more than {MAX_PATTERNS} patterns that are no plain names")
    return patterns


def _chosen(patterns: list[tuple[Pattern, Any]], name: str, default: Any) -> float | None:
    """PEFT's rule: the first pattern that ends the module's name; raises `InteropError`."""
    value = next((value for pattern, value in patterns if pattern.ends(name)), default)
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise InteropError(f"the alpha or the rank of {name!r} is no number") from e
