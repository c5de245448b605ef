"""Encodes texts with a sentence-transformers model that cards bend, each row its own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from lora.adapter import Adapter, FloatArray
from lora.batching import DEFAULT_BATCH_TOKENS, Batch, pack
from lora.card import BaseModel, LoRACard, LoRAFormat
from lora.card_checks import ROLES
from lora.core import DEFAULT_PACKED, InferenceCore, Notes, TokenIds, core_for
from lora.encoder import SentenceModel, pick_device
from lora.errors import (
    CardRoleError,
    ConfigError,
    EngineError,
    ModuleShapeError,
    TooManyCardsError,
    UnknownCardError,
)
from lora.head import bend
from lora.layer import Segment
from lora.manager import LoRAManager, Prepared, check_base
from lora.model import find_model
from lora.residency import Residency
from lora.router import LoRARouter, Match
from lora.text import TextModel

__all__ = ["DEFAULT_CARD_BUDGET", "MAX_STACKED", "ArrowEngine", "EngineStatistics"]

log = logging.getLogger(__name__)

DEFAULT_CARD_BUDGET: Final = 256 * 1024 * 1024
"""Bytes that the cards in the model may take."""

MAX_STACKED: Final = 3
"""Cards that may act on one text."""

DTYPES: Final = ("float32", "float16", "bfloat16")
"""What the model may compute in."""

CardRef = LoRACard | str | Path
Rows = Sequence[Sequence[LoRACard]]


@dataclass(frozen=True)
class EngineStatistics:
    """What the engine has done since it was made."""

    rows: int
    """Texts that went through the model."""

    tokens: int
    """Tokens that went through the model; with padding, where there was any."""

    batches: int
    mixed_batches: int
    """Batches whose rows did not all have the same cards."""

    bent: int
    """Rows that a head turned."""

    loaded: int
    """Cards put into the model; evicted and loaded again counts twice."""

    evicted: int
    resident: int
    """Cards in the model now."""

    resident_bytes: int


class ArrowEngine:
    """A model, the cards mapped into it, and the batches that run through both.

    Several threads may call it; one forward pass runs at a time.

        engine = ArrowEngine()
        vectors = engine.encode_with_lora(["how do I reset my card?"], cards=["bank.lora.arrow"])
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str | None = None,
        card_budget_bytes: int = DEFAULT_CARD_BUDGET,
        batch_tokens: int = DEFAULT_BATCH_TOKENS,
        packed_bytes: int = DEFAULT_PACKED,
        threads: int | None = None,
        trainable: bool = True,
        notes: Path | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: a folder, a hub id, or None for the default all-MiniLM-L6-v2.
            device: `auto` (CUDA, else CPU with one warning in the log), or a torch device.
            dtype: `float32`, `float16` or `bfloat16`; None: as the model's files have it.
            card_budget_bytes: what the cards in the model may take; the least recently used leave.
            batch_tokens: tokens of one batch (padding counted, where the model's architecture
                needs it); a longer text goes alone.
            packed_bytes: weights of Linear layers up to this size in all are kept once more, in the
                order that the processor multiplies fastest in; 0 shares the mapped file alone.
            threads: torch's threads within an operation, for the whole process; None leaves them.
            trainable: have the model's own modules, which `module`, `prepare` and `forward` give.
                Without them a model of the BERT family on which there are notes starts in half the
                time, with 300 MB less. The default model's notes come with the package.
            notes: a folder for notes on other models: taken at the first start.

        Raises:
            ModelError: the model or the device is not there, or is not what it should be.
        """
        if threads is not None:
            if threads < 1:
                raise ConfigError(f"threads must be at least 1, not {threads}")
            torch.set_num_threads(threads)
        if dtype is not None and dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        found = find_model(model)
        self._base_model = found.base_model
        self._model: TextModel
        self._folder = found.folder
        numbers = None if dtype is None else getattr(torch, dtype)
        self._whole: SentenceModel | None = None
        noted = Notes(found.folder, self._base_model.sha256, notes, numbers)
        light = None if trainable else noted.load(pick_device(device), packed_bytes)
        if light is not None:
            self._model, self._manager, self._core = light
        else:
            self._model = self._whole = SentenceModel(found.folder, pick_device(device), numbers)
            self._manager = LoRAManager(self._model.root, dim=self._model.dim)
            self._core = core_for(self._whole, self._manager, packed_bytes)
            noted.take(self._whole, self._core)
        self._manager.base_model = self._base_model
        self._batch_tokens = batch_tokens
        self._residency = Residency(card_budget_bytes)
        self._router = LoRARouter(self._model.dim)
        self._loaded: dict[str, LoRACard] = {}
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self._counts = dict.fromkeys(
            ("rows", "tokens", "batches", "mixed_batches", "bent", "loaded", "evicted"), 0
        )

    @property
    def base_model(self) -> BaseModel:
        """The model's name and the SHA-256 of its weights: what a card must have been made for."""
        return self._base_model

    @property
    def model_folder(self) -> Path:
        """Where the model's files lie."""
        return self._folder

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self._model.dim

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that the model reads; what is longer is cut."""
        return self._model.max_tokens

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._model.device

    @property
    def manager(self) -> LoRAManager:
        """The adapters in the model; whoever uses it holds `exclusive()`."""
        return self._manager

    @property
    def router(self) -> LoRARouter:
        """The index over the cards that were loaded by `load_lora`."""
        return self._router

    @property
    def module(self) -> nn.Module:
        """The sentence-transformers model itself; raises `EngineError` without `trainable`."""
        return self._own().model

    @property
    def core(self) -> InferenceCore:
        """What runs the forward pass."""
        return self._core

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[ArrowEngine]:
        """No other thread runs the model within the block."""
        with self._lock:
            yield self

    def tokenize(self, texts: Sequence[str], *, role: str = "query") -> list[TokenIds]:
        """Tokens of each text with its prompt and special tokens, cut to `max_tokens`.

        Does not wait for a forward pass of another thread.
        """
        return self._core.tokenize(texts, _checked_role(role))

    def token_counts(self, texts: Sequence[str], *, role: str = "query") -> list[int]:
        """How many tokens `tokenize` gives for each text."""
        return [len(ids) for ids in self.tokenize(texts, role=role)]

    def encode(self, texts: Sequence[str], *, role: str = "query") -> FloatArray:
        """(n, dim) float32 vectors of the base model, in the order of `texts`.

        Prompt, pooling, normalisation and greatest length are the model's own, as its files
        declare them for this role.
        """
        return self.encode_rows(texts, [()] * len(texts), role=role)

    def encode_rows(
        self,
        texts: Sequence[str],
        rows: Rows,
        *,
        base: FloatArray | None = None,
        tokens: Sequence[TokenIds] | None = None,
        role: str = "query",
    ) -> FloatArray:
        """(n, dim) float32 vectors, text `i` bent by the cards `rows[i]` (up to 3, stacked).

        Args:
            base: (n, dim) vectors of the base model where they are known, rows of NaN where not. A
                known row that no card's body acts on does not go through the model.
            tokens: what `tokenize` gave for `texts`, if it was asked before.

        Raises:
            CardMismatchError: a card is not for this model or role.
            TooManyCardsError: more than 3 cards on one row.
            CardBudgetError: the cards of one row exceed the budget.
        """
        texts = list(texts)
        self._check(texts, rows, base, _checked_role(role))
        out = np.full((len(texts), self.dim), np.nan, np.float32)
        if base is not None:
            out[:] = base
        known = [not np.isnan(vector).any() for vector in out]
        running = [
            i for i, cards in enumerate(rows) if not known[i] or any(card.body for card in cards)
        ]
        if running:
            chosen = [texts[i] for i in running]
            ids = (
                self.tokenize(chosen, role=role) if tokens is None else [tokens[i] for i in running]
            )
            out[running] = self._run(chosen, ids, [rows[i] for i in running], role)
        self._bend(out, rows)
        return out

    def encode_with_lora(
        self,
        texts: Sequence[str],
        cards: Sequence[CardRef] | None = None,
        *,
        intent_query: str | None = None,
        top_k: int = 1,
        role: str = "query",
    ) -> FloatArray:
        """(n, dim) float32 vectors of all `texts`, bent by the cards named, or by those it selects.

        Args:
            cards: cards, paths of card files, or what was loaded: name, `name@version`, digest.
            intent_query: instead of `cards`, what the texts are about; the loaded skill that its
                base vector calls for is applied, and where none does, or it is anybody's guess
                (`LoRARouter.decide`), the base model is.
            top_k: how many skills may be stacked, at most 3; only where the nearest one has
                evidence that it helps.

        Raises:
            UnknownCardError: a name that is not loaded; never a silent base vector.
        """
        if (cards is None) == (intent_query is None):
            raise EngineError("give either cards or an intent_query")
        if intent_query is not None:
            (decided,) = self._router.decide(self.encode([intent_query]), top_k)
            chosen = [self._loaded[m.digest] for m in decided.matches if m.digest in self._loaded]
            if not chosen:
                log.info("the base model answers: the intent is %s", decided.reason)
        else:
            chosen = [self._resolve(ref) for ref in cards or ()]
        return self.encode_rows(texts, [chosen] * len(texts), role=role)

    def select(self, intent_query: str, top_k: int = 1) -> list[Match]:
        """The loaded skills that this text selects, the best first; not all of them may stack."""
        return self._router.select(self.encode([intent_query])[0], top_k=top_k)

    def load_lora(self, path: str | Path | LoRACard, *, pin: bool = False) -> LoRACard:
        """Read a card, put it into the model and index it; `pin` keeps it there.

        Raises:
            CardError, CardMismatchError, CardBudgetError: nothing was loaded.
        """
        card = path if isinstance(path, LoRACard) else LoRAFormat.read(path)
        prepared = self._prepared([card])
        with self._lock:
            self._admit({card.key: card}, prepared)
            if pin:
                self._residency.pin(card.key)
            self._loaded[card.key] = card
            described = None
            if card.prototypes is None and card.threshold is not None and card.description:
                described = self.encode([card.description])[0]
            self._router.register_card(card, description_vector=described)
        return card

    def remove_lora(self, ref: CardRef) -> None:
        """Take a card out of the model and the index; one that is absent is no error."""
        with self._lock:
            for card in self._matching(ref):
                del self._loaded[card.key]
                self._router.remove_card(card.key)
                self._manager.remove_card(card)
                self._residency.forget(card.key)

    def list_loras(self) -> list[LoRACard]:
        """The cards loaded by `load_lora`, the first loaded first."""
        return list(self._loaded.values())

    def pin(self, card: LoRACard) -> None:
        """Put a card into the model and keep it there."""
        prepared = self._prepared([card])
        with self._lock:
            self._admit({card.key: card}, prepared)
            self._residency.pin(card.key)

    def unpin(self, card: LoRACard) -> None:
        """Let a pinned card be evicted again."""
        with self._lock:
            self._residency.unpin(card.key)

    def evict(self, card: LoRACard) -> None:
        """Take a card out of the model now; it comes back by itself when a row needs it."""
        with self._lock:
            self._manager.remove_card(card)
            self._residency.forget(card.key)

    def resident(self) -> tuple[str, ...]:
        """Digests of the cards in the model, the least recently used first."""
        return self._residency.keys()

    def statistics(self) -> EngineStatistics:
        """What was done so far."""
        return EngineStatistics(
            **dict(self._counts),
            resident=len(self._residency.keys()),
            resident_bytes=self._residency.used,
        )

    def prepare(self, texts: Sequence[str], *, role: str = "query") -> dict[str, Any]:
        """The model's input for one batch of texts, on its device; for training loops."""
        return self._own().features(texts, _checked_role(role))

    def forward(self, features: dict[str, Any], *, role: str = "query") -> Tensor:
        """(n, dim) embeddings of a prepared batch, with gradients where they are on."""
        return self._own().forward(features, _checked_role(role))

    def _own(self) -> SentenceModel:
        if self._whole is None:
            raise EngineError("this engine was made to encode alone: make one with trainable=True")
        return self._whole

    def _check(self, texts: list[str], rows: Rows, base: FloatArray | None, role: str) -> None:
        if len(rows) != len(texts):
            raise EngineError(f"{len(texts)} texts need as many rows of cards, not {len(rows)}")
        if base is not None and base.shape != (len(texts), self.dim):
            raise ModuleShapeError(
                f"base vectors must be ({len(texts)}, {self.dim}), not {base.shape}"
            )
        checked: set[int] = set()
        for cards in rows:
            if len(cards) > MAX_STACKED:
                raise TooManyCardsError(f"at most {MAX_STACKED} cards stack, not {len(cards)}")
            for card in cards:
                if id(card) not in checked:
                    check_base(card, self.base_model, self.dim)
                    checked.add(id(card))
                if role not in card.applies_to:
                    raise CardRoleError(
                        f"card {card.name}@{card.version} applies to "
                        f"{' and '.join(card.applies_to)}, not to a {role}"
                    )

    def _run(self, texts: list[str], ids: Sequence[TokenIds], rows: Rows, role: str) -> FloatArray:
        bodies = [tuple(dict.fromkeys(c.key for c in cards if c.body)) for cards in rows]
        cards = {card.key: card for row in rows for card in row if card.body}
        out = np.empty((len(texts), self.dim), np.float32)
        batches = pack(
            [len(row) for row in ids],
            bodies,
            {key: card.nbytes for key, card in cards.items()},
            batch_tokens=self._batch_tokens,
            card_bytes=self._residency.room(),
            padded=self._core.padded,
        )
        for batch in batches:
            prepared = self._prepared(cards[key] for key in batch.keys)
            with self._lock:  # a batch at a time, so that a long request lets others in between
                self._admit({key: cards[key] for key in batch.keys}, prepared)
                segments = [Segment(span.start, span.end, span.key) for span in batch.spans]
                vectors = self._core.forward(
                    [texts[i] for i in batch.rows], [ids[i] for i in batch.rows], role, segments
                )
                self._count(batch, bodies)
            out[list(batch.rows)] = vectors.cpu().numpy()
        return out

    def _prepared(self, cards: Iterable[LoRACard]) -> dict[str, Prepared]:
        """What those need that are not in the model yet; made without holding up a pass."""
        fresh = [card for card in cards if card.key not in self._residency]
        return {card.key: self._manager.prepare(card) for card in fresh}

    def _admit(self, cards: dict[str, LoRACard], prepared: Mapping[str, Prepared]) -> None:
        """Have these cards in the model, evicting what was used least recently."""
        fresh = [card for key, card in cards.items() if key not in self._residency]
        # Prepared before anything leaves: a card that is not for this model changes nothing.
        ready = [prepared.get(card.key) or self._manager.prepare(card) for card in fresh]
        for key in self._residency.admit({key: card.nbytes for key, card in cards.items()}):
            self._manager.remove_card(key)
            self._counts["evicted"] += 1
        for each in ready:
            self._manager.apply_card(each.card, each)
            self._counts["loaded"] += 1

    def _bend(self, out: FloatArray, rows: Rows) -> None:
        groups: dict[tuple[str, ...], tuple[list[int], list[Adapter]]] = {}
        for i, cards in enumerate(rows):
            heads = {card.key: card.head for card in cards if card.head is not None}
            if heads:
                group = groups.setdefault(tuple(heads), ([], list(heads.values())))
                group[0].append(i)
        for indices, adapters in groups.values():
            out[indices] = bend(out[indices], adapters)
            with self._counting:
                self._counts["bent"] += len(indices)

    def _count(self, batch: Batch, bodies: list[tuple[str, ...]]) -> None:
        self._counts["rows"] += len(batch.rows)
        self._counts["tokens"] += batch.tokens
        self._counts["batches"] += 1
        self._counts["mixed_batches"] += len({bodies[i] for i in batch.rows}) > 1

    def _resolve(self, ref: CardRef) -> LoRACard:
        if isinstance(ref, LoRACard):
            return ref
        found = self._matching(ref)
        if found:
            return max(found, key=lambda card: (card.version, card.key))
        if isinstance(ref, Path) or ref.endswith(".arrow"):
            return self.load_lora(ref)
        raise UnknownCardError(f"no card {ref!r} is loaded, and it is not a path of a card")

    def _matching(self, ref: CardRef) -> list[LoRACard]:
        if isinstance(ref, LoRACard):
            return [card for card in list(self._loaded.values()) if card.key == ref.key]
        name, _, version = str(ref).partition("@")
        digits = name.removeprefix("sha256:")
        return [
            card
            for card in list(self._loaded.values())
            if (card.name == name and version in ("", str(card.version)))
            or (len(digits) >= 12 and card.key.removeprefix("sha256:").startswith(digits))
        ]


def _checked_role(role: str) -> str:
    if role not in ROLES:
        raise EngineError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
    return role
