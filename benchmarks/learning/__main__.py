"""`python -m benchmarks.learning --data FOLDER`: learning curves of the whole loop.

For each size and seed a fresh fleet learns from so many pieces of feedback, over the bus; then
the whole test set is ranked against the passages, which are never embedded again.
"""

from __future__ import annotations

import sys

from benchmarks.learning.command import SETTINGS, LearningBenchmark, main

LEARNING = LearningBenchmark(name="learning", about=__doc__, sizes="64,256,1024", settings=SETTINGS)

if __name__ == "__main__":
    sys.exit(main(LEARNING))
