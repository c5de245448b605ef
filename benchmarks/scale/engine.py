"""One encoder's forward pass, on one thread: batches of real texts, and how long each took.

`python -m benchmarks.scale.engine SEED` loads the model, and says the tokens of the texts that
requests are drawn from. Each line of standard input `{"each": N}` has it encode N batches of each
size, and say tokens and CPU seconds of every one.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from typing import Any, Final

import msgspec

from benchmarks.encode.texts import Texts, model_tokens, standard_library
from benchmarks.kit.children import Child, answer, orders
from benchmarks.scale.costs import Encoding

__all__ = ["Order", "measure"]

SIZES: Final = (1, 2, 4, 8, 16, 32)
"""Texts of a batch."""
POOL: Final = 4000
"""Texts that requests are drawn from."""


class Order(msgspec.Struct, frozen=True):
    """Batches of each size."""

    each: int


def measure(each: int, seed: int) -> Encoding:
    """Alone, then two at once; what an encoder does beside the pass is not in it (0)."""
    module = "benchmarks.scale.engine"
    with Child(module, str(seed)) as first:
        tokens = first.heard()["tokens"]
        first.tell(each=each)
        alone = first.heard()["batches"]
        with Child(module, str(seed + 1)) as second:
            second.heard()
            for child in (first, second):
                child.tell(each=each)
            both = [batch for child in (first, second) for batch in child.heard()["batches"]]
    return Encoding(
        batches=tuple((int(count), float(seconds)) for count, seconds in alone),
        tokens=tuple(tokens),
        together=min(_speed(both) / _speed(alone), 1.0),
        request_us=0.0,
    )


def _speed(batches: list[tuple[int, float]]) -> float:
    """Tokens a second: of each size of batch the median counts, so that no disturbance does."""
    by_size: dict[int, list[float]] = {}
    for number, (tokens, seconds) in enumerate(batches):
        by_size.setdefault(number % len(SIZES), []).append(tokens / seconds)
    return statistics.fmean(statistics.median(speeds) for speeds in by_size.values())


def main(seed: int) -> None:
    """The child."""
    from lora.engine import ArrowEngine
    from lora.model import find_model
    from services.runtime.settings import EncoderSettings

    own = EncoderSettings()
    engine = ArrowEngine(
        device="cpu",
        batch_tokens=own.batch_tokens,
        packed_bytes=own.packed_bytes,
        threads=1,
        trainable=False,
    )
    pool = standard_library(model_tokens(find_model().folder))
    texts = Texts(pool, seed).draw(POOL)
    lengths = engine.token_counts(texts)
    chance = random.Random(seed)
    for size in SIZES:
        engine.encode(texts[:size])

    def obey(line: str) -> dict[str, Any]:
        batches = []
        for _ in range(msgspec.json.decode(line, type=Order).each):
            for size in SIZES:
                some = chance.sample(range(POOL), size)
                begun = time.process_time()  # of one thread: what others compute is not in it
                engine.encode([texts[place] for place in some])
                batches.append((sum(lengths[i] for i in some), time.process_time() - begun))
        return {"batches": batches}

    answer({"tokens": lengths})
    orders(obey)


if __name__ == "__main__":
    main(int(sys.argv[1]))
