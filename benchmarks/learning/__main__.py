"""`python -m benchmarks.learning --data FOLDER`: learning curves of the whole loop.

For each size and seed a fresh fleet learns from so many pieces of feedback, over the bus; then
the whole test set is ranked against the passages, which are never embedded again.

With `--against sentence-transformers` the loop's time to a card is raced instead, with options of
its own: see `--against sentence-transformers --help`. That needs no data.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.learning import against
from benchmarks.learning.command import SETTINGS, LearningBenchmark, main

LEARNING = LearningBenchmark(name="learning", about=__doc__, sizes="64,256,1024", settings=SETTINGS)


def run(argv: Sequence[str]) -> int:
    """The race where there is somebody to race against, else the curves."""
    if any(word.partition("=")[0] == "--against" for word in argv):
        return against.main(argv)
    return main(LEARNING, argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
