"""The trainer: deterministic, resumable, and nothing but the adapter moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from lora import LoRAConfig, LoRATrainer
from lora.adapter import HEAD
from lora.card import LoRACard
from lora.training.errors import ConfigError, NothingToLearn, TrainingError
from tests.lora.training.encoded import encoded, louder

CONFIG = LoRAConfig(rank=4, alpha=8.0, target_modules=("query", "value", HEAD), dim=32)


@dataclass(frozen=True)
class Event:
    prompt: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()


@pytest.fixture
def tiny(tiny):
    return louder(tiny)


@pytest.fixture
def data(tiny):
    return encoded(tiny, per_passage=5)


def _trainer(engine, config: LoRAConfig = CONFIG, **settings) -> LoRATrainer:
    return LoRATrainer(engine, config, **{"epochs": 4, "learning_rate": 1e-2} | settings)


def test_a_fresh_adapter_changes_nothing_and_counts_its_numbers(tiny, data):
    trainer = _trainer(tiny)
    assert np.abs(trainer.vectors(data.queries) - data.query_vectors).max() < 1e-5
    assert trainer.num_params == 4 * (32 * 4 + 4 * 32) + 2 * 32 * 4
    assert trainer.training_count == 0


def test_the_loss_falls_and_the_engine_stays_as_it_was(tiny, data):
    before = {name: p.detach().clone() for name, p in tiny.module.named_parameters()}
    told = []
    trainer = _trainer(tiny)
    report = trainer.train(data, progress=lambda *step: told.append(step))
    assert report.losses[-1] < report.losses[0]
    assert report.epochs == 4
    assert told[-1][:2] == (report.steps, report.steps)
    assert all(torch.equal(p, before[name]) for name, p in tiny.module.named_parameters())
    assert {p.grad is not None for p in trainer.parameters.values()} == {True}


def test_one_seed_one_adapter_with_dropout_too(tiny, data):
    def made(seed: int) -> dict:
        trainer = _trainer(tiny, replace(CONFIG, seed=seed, dropout=0.2))
        torch.rand(3)  # whoever else draws numbers changes nothing
        trainer.train(data)
        return trainer.adapters()

    first, again, other = made(1), made(1), made(2)
    assert all(np.array_equal(first[name].b, again[name].b) for name in first)
    assert not all(np.array_equal(first[name].b, other[name].b) for name in first)


def test_a_killed_training_goes_on_to_the_same_result(tiny, data, tmp_path):
    whole = _trainer(tiny, replace(CONFIG, dropout=0.1))
    expected = whole.train(data)

    class KilledError(Exception):
        pass

    def kill(step: int, steps: int, _: float) -> None:
        if step == steps // 2 + 1:
            raise KilledError

    first = _trainer(tiny, replace(CONFIG, dropout=0.1))
    with pytest.raises(KilledError):
        first.train(data, checkpoint=tmp_path, progress=kill)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    second = _trainer(tiny, replace(CONFIG, dropout=0.1))
    steps = []
    report = second.train(data, checkpoint=tmp_path, progress=lambda *s: steps.append(s[0]))
    assert steps[0] > 1
    assert report == expected
    ours, theirs = second.adapters(), whole.adapters()
    for name in theirs:
        assert np.array_equal(ours[name].a, theirs[name].a)
        assert np.array_equal(ours[name].b, theirs[name].b)


def test_a_checkpoint_of_another_training_is_refused(tiny, data, tmp_path):
    _trainer(tiny).train(data, checkpoint=tmp_path)
    with pytest.raises(TrainingError, match="another training"):
        _trainer(tiny, replace(CONFIG, seed=5)).train(data, checkpoint=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not one")
    with pytest.raises(TrainingError, match="cannot be read"):
        _trainer(tiny).train(data, checkpoint=tmp_path)


def test_saved_and_loaded_it_gives_the_same_vectors_here_and_as_a_card(tiny, data, tmp_path):
    trainer = _trainer(tiny)
    trainer.train(data)
    trainer.save_adapter(tmp_path / "a.safetensors")
    other = _trainer(tiny)
    other.load_adapter(tmp_path / "a.safetensors")
    expected = trainer.vectors(data.queries)
    assert np.array_equal(other.vectors(data.queries), expected)
    card = LoRACard(name="x", base_model=tiny.base_model, dim=32, modules=trainer.adapters())
    served = tiny.encode_rows(data.queries, [[card]] * len(data.queries))
    assert np.abs(expected - data.query_vectors).max() > 1e-3
    cosines = (served * expected).sum(1)
    cosines /= np.linalg.norm(served, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99999
    headless = _trainer(tiny, replace(CONFIG, target_modules=("query", "value")))
    with pytest.raises(ConfigError, match="modules expected: embedding"):
        headless.load_adapter(tmp_path / "a.safetensors")


def test_events_teach_one_by_one(tiny):
    trainer = _trainer(tiny, learning_rate=5e-3)
    events = [
        Event("quince now", ("apple pie",), ("blue whale",)),
        Event("ocean soon", ("blue whale",), ("apple pie", "castle gate")),
    ]
    losses = [trainer.process_learning_event(event) for _ in range(15) for event in events]
    assert trainer.training_count == 30
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    with pytest.raises(NothingToLearn, match="at least one positive"):
        trainer.process_learning_event(Event("x", ()))
    assert trainer.training_count == 30


def test_a_head_alone_needs_no_layer(tiny, data):
    trainer = _trainer(tiny, replace(CONFIG, target_modules=(HEAD,)))
    report = trainer.train(data)
    assert set(trainer.adapters()) == {HEAD}
    assert report.losses[-1] < report.losses[0]


def test_a_configuration_of_another_width_is_refused(tiny):
    with pytest.raises(ConfigError, match="384 dimensions"):
        LoRATrainer(tiny, LoRAConfig(dim=384))
