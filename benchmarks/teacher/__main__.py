"""`python -m benchmarks.teacher --data FOLDER`: little feedback, and a teacher behind an API.

As benchmarks.learning, with `distiller.teacher = "openai"`: the fleet asks a server that stands in
for the cloud, whose honest answers are questions of the training half that were not given as
feedback, and never of the test half. The matrix and the head without a gate have no teacher.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from benchmarks.learning.command import SETTINGS, LearningBenchmark, main
from benchmarks.learning.data import DataSet
from benchmarks.learning.run import Plan, Run, Say, one_run
from benchmarks.teacher.cloud import MODEL, standin

__all__ = ["TEACHER", "taught_run"]


async def taught_run(data: DataSet, plan: Plan, size: int, seed: int, say: Say) -> Run:
    """One size and seed, with a server of its own that has not answered anybody before."""
    with standin(data, data.train.sample(size, seed)) as server:
        asked = {**plan.settings["teacher"], "base_url": server.url}
        settings = {**plan.settings, "teacher": asked}
        run = await one_run(data, replace(plan, settings=settings), size, seed, say)
        run.requests = server.counts["/v1/chat/completions"]
    return run


TEACHER = LearningBenchmark(
    name="teacher",
    about=__doc__,
    sizes="64",
    settings={**SETTINGS, "distiller": {"teacher": "openai"}, "teacher": {"model": MODEL}},
    run=taught_run,
)

if __name__ == "__main__":
    sys.exit(main(TEACHER))
