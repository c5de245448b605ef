"""Layouts: never dearer than the default one, and kept only where they are better."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora.adapter import HEAD
from lora.errors import NoMatchingModuleError
from lora.probe import WeightMapProbe
from lora.probing import ModuleScore, ProbeReport
from lora.ranks import parameters
from lora.training.body import body_candidate
from lora.training.body_fit import BodyConfig
from lora.training.body_layout import (
    calibration_texts,
    compare_layouts,
    default_layout,
    probe_layout,
    upper_layers,
)
from lora.training.candidate import CandidateRequest
from lora.training.checkpoint import Checkpoints
from lora.training.errors import ConfigError
from lora.training.gate import Arena
from tests.lora.training.encoded import encoded, louder

KINDS = {
    "attention.self.query": (384, 384),
    "attention.self.key": (384, 384),
    "attention.self.value": (384, 384),
    "intermediate.dense": (384, 1536),
    "output.dense": (1536, 384),
}


def report(scores, layers: int = 6) -> ProbeReport:
    names = [f"encoder.layer.{i}.{kind}" for i in range(layers) for kind in KINDS]
    modules = [
        ModuleScore(name, *KINDS[name.split(".", 3)[3]], score, 1.0, 1.0, None, 0.0)
        for name, score in zip(names, scores, strict=True)
    ]
    pooler = ModuleScore("pooler.dense", 384, 384, 0.0, 1.0, 1.0, None, 0.0, idle=True)
    ordered = sorted([*modules, pooler], key=lambda one: -one.score)
    return ProbeReport("activations", "m", "", 1, 1, tuple(ordered))


def test_the_default_layout_is_what_the_configuration_says() -> None:
    found = report(np.linspace(1, 2, 30))
    layout = default_layout(found, BodyConfig())
    assert set(layout) == {
        f"encoder.layer.{i}.attention.self.{kind}" for i in (4, 5) for kind in ("query", "value")
    }
    assert set(layout.values()) == {8}
    assert len(default_layout(found, BodyConfig(layers=0, targets=("dense",), rank=2))) == 13
    named = BodyConfig(ranks={"0.auto_model.encoder.layer.3.attention.self.key": 5})
    assert default_layout(found, named) == {"encoder.layer.3.attention.self.key": 5}
    suffix = BodyConfig(ranks={"key": 5, "layer.2.attention.self.key": 3})
    layout = default_layout(found, suffix)
    assert len(layout) == 6
    with pytest.raises(NoMatchingModuleError, match="has no colour"):
        default_layout(found, BodyConfig(ranks={"colour": 5}))


@given(
    st.lists(st.floats(0.001, 100), min_size=30, max_size=30),
    st.integers(1, 32),
    st.integers(0, 6),
)
def test_the_probes_layout_takes_no_more_parameters_and_no_deeper_layers(scores, rank, layers):
    config = BodyConfig(rank=rank, layers=layers)
    found = report(scores)
    default, layout = default_layout(found, config), probe_layout(found, config)
    assert 0 < parameters(layout, found.shapes) <= parameters(default, found.shapes)
    assert set(layout) <= set(upper_layers(found.scores, layers))
    assert max(layout.values()) <= 4 * rank
    assert "pooler.dense" not in layout


def test_a_layout_begins_at_the_lowest_layer_that_is_adapted_anyway() -> None:
    config = BodyConfig(ranks={"encoder.layer.3.attention.self.key": 8})
    layout = probe_layout(report([9.0] * 5 + [1.0] * 25), config)
    assert {name.split(".")[2] for name in layout} <= {"3", "4", "5"}


def test_upper_layers_of_a_model_without_numbers_are_all_its_modules() -> None:
    assert upper_layers(["a.b", "c"], 2) == ["a.b", "c"]
    with pytest.raises(ConfigError, match="no target lies"):
        default_layout(report([1.0] * 30), BodyConfig(targets=("pooler.dense",)))


@pytest.fixture
def loud(tiny):
    return louder(tiny)


def test_calibration_looks_at_no_query(loud) -> None:
    data = encoded(loud)
    assert set(calibration_texts(data)) == set(data.passages)
    assert len(calibration_texts(data, 4)) == 4
    assert not set(calibration_texts(data)) & set(data.queries)


def made(vectors, judged=None):
    """Something trained, as far as the comparison looks at it."""
    judged = np.ones(len(vectors), bool) if judged is None else judged
    return SimpleNamespace(vectors=vectors, judged=judged)


@pytest.mark.parametrize("better", [True, False])
def test_a_layout_is_kept_only_where_it_beats_the_default(loud, better: bool) -> None:
    # Given vectors that find every passage, and vectors that find them no better than chance
    data = encoded(loud)
    arena = Arena(data)
    right = data.passage_vectors[data.label_passage]
    poor = np.roll(right, 10, axis=0)
    seen: list[tuple[dict[str, int], float]] = []

    def train(ranks, until, part, tell):
        seen.append((dict(ranks), until))
        tell(3, 3, 0.5)
        return made(right if bool(ranks) == better else poor)

    told: list[tuple[int, int]] = []
    found = compare_layouts(
        train,
        {"x": 2},
        data,
        arena,
        time_budget_s=60.0,
        checkpoints=Checkpoints(clock=lambda: 7.0),
        progress=lambda step, steps, _: told.append((step, steps)),
    )
    # Then the better one stays, and each had half of the time
    assert found.layout == ({"x": 2} if better else {})
    assert found.metrics["layout"] == ("probe" if better else "default")
    assert (found.metrics["layout_low"] > 0) == better
    assert seen == [({}, 30.0), ({"x": 2}, 30.0)]
    assert told == [(3, 6), (6, 6)]


def test_layouts_that_judge_no_query_in_common_cannot_be_compared(loud) -> None:
    data = encoded(loud)
    some = np.arange(len(data.queries)) < 20

    def train(ranks, until, part, tell):
        return made(data.query_vectors, some if ranks else ~some)

    found = compare_layouts(
        train, {"x": 2}, data, Arena(data), time_budget_s=None, checkpoints=Checkpoints()
    )
    assert (found.layout, found.metrics) == ({}, {"layout": "default"})


def test_after_a_kill_each_training_finds_its_own_work_and_no_more_time(loud, tmp_path) -> None:
    data = encoded(loud)
    now = [0.0]
    limits: list[float] = []

    def train(ranks, until, part, tell):
        limits.append(until)
        if part.get("fit") is None:
            now[0] += 10.0
            part.put("fit", {"a": np.full(1, len(ranks), np.float32)}, {})
            if ranks and len(limits) < 3:
                raise KeyboardInterrupt
        found = part.get("fit")
        assert found is not None
        assert found.arrays["a"][0] == len(ranks)
        return made(data.query_vectors)

    def start():
        kept = Checkpoints(tmp_path / "work", "x", clock=lambda: now[0])
        compare_layouts(train, {"x": 2}, data, Arena(data), time_budget_s=100.0, checkpoints=kept)

    with pytest.raises(KeyboardInterrupt):
        start()
    start()
    assert limits[1] == limits[3] == 60.0


def test_a_body_is_trained_with_both_layouts_where_the_setting_says_so(loud) -> None:
    data = encoded(loud)
    settings = {"probe": True, "layers": 1, "epochs": 3, "learning_rate": 2e-2, "head_steps": 10}
    request = CandidateRequest(
        data=data,
        skill="x",
        version=1,
        base_model=loud.base_model,
        data_digest="",
        time_budget_s=600.0,
        settings={**settings, "bodies": [1.0], "heads": [1.0], "alone": []},
    )
    found = body_candidate(request, engine=loud)
    assert found.chosen["layout"] in ("default", "probe")
    assert -1 <= found.chosen["layout_low"] <= found.chosen["layout_gain"] <= 1
    plain = body_candidate(
        replace(request, settings={**request.settings, "probe": False}), engine=loud
    )
    assert "layout" not in plain.chosen
    assert (found.metrics["attempts"], plain.metrics["attempts"]) == (2, 1)
    if found.chosen["layout"] == "default" and found.card and plain.card:
        assert set(found.card.modules) == set(plain.card.modules)
    shape = WeightMapProbe(engine=loud).texts(list(data.passages))
    for card in found.folds.values():
        body = {name.split("model.", 1)[-1]: a for name, a in card.modules.items() if name != HEAD}
        budget = parameters(default_layout(shape, BodyConfig(layers=1)), shape.shapes)
        assert sum(a.rank * (a.inputs + a.outputs) for a in body.values()) <= budget
