"""The probe: which layers the texts excite, or training changed; nothing of the model changes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lora.errors import ConfigError, DifferentModelsError, InstrumentError, SameModelsError
from lora.probe import WeightMapProbe
from tests.lora.cards import model_card
from tests.lora.models import changed, is_linear, low_rank

TEXTS = ["how do i reset my card", "my phone", "x", "why was i charged twice for one thing"]


def by_name(report):
    return {module.name: module for module in report.modules}


def test_the_score_is_that_of_its_formula(tiny) -> None:
    # Given what enters one layer for each text alone, where nothing is padded
    name = "encoder.layer.1.output.dense"
    layer = tiny.manager.model.get_submodule(name)
    norms = []
    handle = layer.register_forward_pre_hook(
        lambda _, x: norms.extend(x[0][0].detach().norm(dim=-1))
    )
    for text in TEXTS:
        tiny.forward(tiny.prepare([text]))
    handle.remove()
    # When all texts are probed in one padded batch
    report = WeightMapProbe(engine=tiny).texts(TEXTS)
    # Then padding has no part in it, and the score is activation · mean row norm
    found = by_name(report)[name]
    assert report.tokens == len(norms)
    assert found.activation == pytest.approx(float(np.mean(norms)) / 64**0.5, rel=1e-5)
    rows = layer.weight.detach().norm(dim=1).numpy()
    assert found.weight == pytest.approx(float(rows.mean()), rel=1e-5)
    assert found.score == pytest.approx(found.activation * found.weight)
    pairs = np.abs(rows[:, None] - rows[None]).mean() / (2 * rows.mean())
    assert found.gini == pytest.approx(float(pairs), rel=1e-4)


def test_a_layer_on_which_nothing_depends_is_idle(tiny) -> None:
    report = WeightMapProbe(engine=tiny).texts(TEXTS)
    assert [module.name for module in report.modules if module.idle] == ["pooler.dense"]
    assert by_name(report)["pooler.dense"].score == 0
    assert "pooler.dense" not in report.ranks(10**6)
    assert len(report.modules) == len(tiny.manager.linears)


def test_scores_fall_and_follow_the_weights(tiny) -> None:
    before = WeightMapProbe(engine=tiny).texts(TEXTS)
    assert [m.score for m in before.modules] == sorted(before.scores.values(), reverse=True)
    assert before.top(3) == before.modules[:3]
    worst = [module for module in before.modules if not module.idle][-1].name
    with torch.no_grad():
        tiny.manager.model.get_submodule(worst).weight.mul_(100)
    after = WeightMapProbe(engine=tiny).texts(TEXTS)
    assert after.modules[0].name == worst
    assert after.gini > before.gini
    assert after.top_tenth > before.top_tenth


def test_probing_leaves_no_trace_and_sees_no_card(tiny, tmp_path) -> None:
    bare = WeightMapProbe(engine=tiny).texts(TEXTS)
    vectors = tiny.encode(TEXTS)
    card = tiny.load_lora(model_card(tiny, tmp_path, 1))
    bent = tiny.encode_with_lora(TEXTS, cards=[card])
    assert WeightMapProbe(engine=tiny).texts(TEXTS) == bare
    np.testing.assert_array_equal(tiny.encode(TEXTS), vectors)
    np.testing.assert_array_equal(tiny.encode_with_lora(TEXTS, cards=[card]), bent)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny.module.modules())


def test_a_delta_finds_where_training_was(tiny_folder, tmp_path) -> None:
    def change(name, array):
        if name == "encoder.layer.0.attention.self.key.weight":
            array = array.copy()
            array[3] += 1
        return array * np.float32(1.01) if name.endswith("value.weight") else array

    tuned = changed(tiny_folder, tmp_path / "tuned", change)
    seen = []
    report = WeightMapProbe.delta(
        tiny_folder, tuned, progress=lambda done, total, _: seen.append((done, total))
    )
    first = report.modules[0]
    assert first.name == "encoder.layer.0.attention.self.key"
    assert first.score == pytest.approx(32**0.5 / 32)
    assert first.gini == pytest.approx(31 / 32)
    assert first.activation is None
    assert {m.name for m in report.modules if m.score} == {
        first.name,
        "encoder.layer.0.attention.self.value",
        "encoder.layer.1.attention.self.value",
    }
    changes = [m.change for m in report.modules if m.name.endswith("value")]
    assert changes == pytest.approx([0.01, 0.01], rel=1e-3)
    assert seen[-1] == (13, 13)


def test_suggested_ranks_keep_the_budget_of_a_plain_adapter(tiny_folder, tmp_path) -> None:
    tuned = changed(tiny_folder, tmp_path / "tuned", low_rank(2))
    report = WeightMapProbe.delta(tiny_folder, tuned)
    budget = report.budget(rank=4, targets=("query", "value"))
    assert budget == 4 * 4 * 64
    for top in (None, 2):
        ranks = report.ranks(budget, top=top, max_rank=6)
        assert 0 < sum(r * sum(report.shapes[name]) for name, r in ranks.items()) <= budget
        assert max(ranks.values()) <= 6
        assert top is None or set(ranks) <= {module.name for module in report.top(top)}
    with pytest.raises(ConfigError, match="top"):
        report.ranks(budget, top=0)


def test_the_report_is_a_table_and_plain_values(tiny) -> None:
    report = WeightMapProbe(engine=tiny).texts(TEXTS)
    ranks = report.ranks(2000)
    table = report.table(5, ranks)
    assert table.row_count == 5
    assert [column.header for column in table.columns][-1] == "rank"
    assert report.table().row_count == len(report.modules)
    assert json.loads(json.dumps(report.as_dict()))["gini"] == report.gini
    with pytest.raises(AttributeError):
        report.texts = 3


def test_what_cannot_be_measured_is_refused(tiny, tiny_folder, tmp_path) -> None:
    with pytest.raises(InstrumentError, match="at least one text"):
        WeightMapProbe(engine=tiny).texts([])
    norms = changed(
        tiny_folder, tmp_path / "norms", lambda n, a: a if is_linear(n) else a + a.dtype.type(1)
    )
    with pytest.raises(SameModelsError, match="no Linear layer differs"):
        WeightMapProbe.delta(tiny_folder, norms)
    with pytest.raises(DifferentModelsError):
        WeightMapProbe.delta(None, tiny_folder)
