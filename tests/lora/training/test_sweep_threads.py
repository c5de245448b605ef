"""Fits of a sweep that run at once come to the same as one after another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lora.training.gate import Arena
from lora.training.sweep import SweepConfig, train_head
from tests.lora.training.synthetic import world


def test_the_number_of_threads_changes_no_bit() -> None:
    data = world(queries=120)
    arena = Arena(data)
    config = SweepConfig(checkpoints=(5, 10), scales=(0.5, 1.0), time_budget_s=600.0)
    told: list[tuple[int, int]] = []
    one = train_head(data, arena, config)
    three = train_head(
        data,
        arena,
        replace(config, threads=3),
        progress=lambda step, steps, loss: told.append((step, steps)),
    )
    assert one.choice == three.choice
    assert (one.tried, one.pairs, one.loss) == (three.tried, three.pairs, three.loss)
    assert np.array_equal(one.vectors, three.vectors)
    assert one.adapter is not None
    assert three.adapter is not None
    assert np.array_equal(one.adapter.a, three.adapter.a)
    assert [step for step, _ in told] == list(range(1, len(told) + 1))
