"""Models of known families by notes, without the libraries that the notes were taken with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from lora.core.contract import InferenceCore
from lora.core.facts import CARRIED, Facts, facts_key, read_facts, write_facts
from lora.core.families import shape_of, stack_of
from lora.core.light import WEIGHTS, LightModel, prefix_in
from lora.core.padded import PaddedCore
from lora.core.pooling import Plain, plain_tail, tail_of
from lora.core.products import DEFAULT_PACKED
from lora.core.proof import ROLES, agrees, probes_for
from lora.core.ragged import RaggedCore
from lora.encoder import SentenceModel
from lora.manager import LoRAManager
from lora.text import TextModel, unpadded

__all__ = ["Loaded", "Notes", "facts_of"]

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """A model that can encode, and nothing else."""

    model: LightModel
    manager: LoRAManager
    core: InferenceCore


class Notes:
    """What is noted on one model, in a folder of the caller's and in what the package carries."""

    def __init__(
        self, folder: Path, weights_sha256: str, kept: Path | None, dtype: torch.dtype | None
    ) -> None:
        """`folder`: the model's; `kept`: where notes lie, None for none beside those carried."""
        self._folder = folder
        self._kept = kept
        self._dtype = dtype
        numbers = "as it is" if dtype is None else str(dtype)
        self._key = facts_key(folder, weights_sha256, numbers)

    def load(self, device: torch.device, packed_bytes: int = DEFAULT_PACKED) -> Loaded | None:
        """The model by its notes; None where there are none, or they do not hold any more."""
        places = (CARRIED,) if self._kept is None else (self._kept, CARRIED)
        facts = read_facts(places, self._key)
        if facts is None:
            return None
        try:
            return self._load(facts, device, packed_bytes)
        except Exception as e:  # tokenizers raises nothing narrower
            log.warning("the notes on the model do not fit its files: %s", e)
            return None

    def _load(self, facts: Facts, device: torch.device, packed_bytes: int) -> Loaded | None:
        model = LightModel(self._folder, facts, device, self._dtype)
        stack = stack_of(model.root, facts.shape)
        if stack is None:
            return None
        manager = LoRAManager(model.root, dim=model.dim)
        tail = plain_tail(Plain(facts.pooling, facts.normalised))
        ragged = RaggedCore(model, manager, stack, tail, packed_bytes)
        for role in ROLES:
            noted = np.frombuffer(facts.vectors[role], "<f4").reshape(-1, facts.dim)
            wanted = torch.tensor(noted, device=device)
            if not agrees(ragged, facts.probes, role, wanted):
                log.warning("the pass without padding does not give the vectors that were noted")
                return None
        return Loaded(model, manager, ragged)

    def take(self, model: SentenceModel, core: InferenceCore) -> None:
        """Note what a whole model is like, where notes can say all of it."""
        if self._kept is None or core.padded:
            return
        facts = facts_of(model, self._folder)
        if facts is not None:
            write_facts(self._kept, self._key, facts)


def facts_of(model: SentenceModel, folder: Path) -> Facts | None:
    """The notes on a model that runs without padding; None where they would not say all."""
    shape, tail = shape_of(model.root), tail_of(model.model)
    plain = None if tail is None else tail.plain
    prefix = prefix_in(folder / WEIGHTS, model.root)
    tokenizer = model.tokenizer_json
    if shape is None or plain is None or prefix is None or tokenizer is None:
        return None
    own = PaddedCore(model, LoRAManager(model.root, dim=model.dim))
    probes = probes_for(model)
    vectors = {
        role: own.forward(probes, model.token_ids(probes, role), role, ()).cpu().numpy()
        for role in ROLES
    }
    return Facts(
        shape=shape,
        prefix=prefix,
        pooling=plain.pooling,
        normalised=plain.normalised,
        dim=model.dim,
        max_tokens=model.max_tokens,
        prompts=model.prompts,
        pad_token=model.pad_token,
        probes=probes,
        vectors={role: found.astype("<f4").tobytes() for role, found in vectors.items()},
        tokenizer=None if _makes(folder / "tokenizer.json", tokenizer, model) else tokenizer,
    )


def _makes(file: Path, tokenizer: str, model: TextModel) -> bool:
    """Whether the folder's file makes this very tokenizer."""
    if not file.is_file():
        return False
    found = unpadded(Tokenizer.from_file(str(file)), model.max_tokens)
    return bool(found.to_str() == tokenizer)
