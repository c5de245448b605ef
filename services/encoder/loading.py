"""The model of an encoder, from its files to its first batch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.encoder.batcher import LEAST
from services.encoder.pace import Pace
from services.runtime.priority import stand_back
from services.runtime.settings import Settings

if TYPE_CHECKING:
    from lora.engine import ArrowEngine

__all__ = ["load_engine"]

WARM: Final = range(1, 65, 8)
"""Words of the texts that are encoded before the first request comes."""

PACED: Final = 14
"""Words of those by which it is measured how fast they are encoded."""


def load_engine(settings: Settings, notes: Path, pace: Pace) -> ArrowEngine:
    """The engine, in the thread that will compute, which from now on stands back for others.

    `notes`: the folder of what is noted on models; `pace` is told how fast it is. Raises what
    `ArrowEngine` raises.
    """
    own = settings.encoder
    stand_back(own.niceness)
    from lora.engine import ArrowEngine  # the only place where the fleet serves with torch

    engine = ArrowEngine(
        settings.fleet.model,
        device=own.device,
        dtype=None if own.dtype == "auto" else own.dtype,
        card_budget_bytes=own.card_budget_bytes,
        batch_tokens=own.batch_tokens,
        packed_bytes=own.packed_bytes,
        threads=own.threads_for(settings.fleet.worker_count),
        trainable=False,
        notes=notes,
    )
    # The first pass of each size is slow: not at the cost of the first requests.
    for words in WARM:
        engine.encode(["warm " * words])
    # What the router goes by until a batch of requests tells better.
    texts = [f"{number} " + "warm " * PACED for number in range(own.batch_tokens // LEAST // PACED)]
    started = time.monotonic()
    engine.encode(texts)
    pace.computed(len(texts) * PACED, time.monotonic() - started)
    return engine
