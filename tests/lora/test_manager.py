"""Cards go into a model and come out again without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora import LoRAConfig, LoRAFormat, LoRALinear, LoRAManager
from lora.errors import (
    BaseModelMismatchError,
    CardDigestError,
    ConfigError,
    ModuleShapeError,
    NoMatchingModuleError,
    UnknownCardError,
)
from lora.layer import Segment
from tests.lora.cards import BASE, adapter, card


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(6, 6)
        self.value = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(torch.tanh(self.query(x)))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([block(x) for block in self.layer], dim=-1)


@pytest.fixture
def model() -> Encoder:
    torch.manual_seed(0)
    return Encoder().eval()


@pytest.fixture
def manager(model) -> LoRAManager:
    return LoRAManager(model, base_model=BASE, dim=6)


def body(name: str = "bank", seed: int = 0, **fields):
    modules = {
        "layer.0.query": adapter(6, 6, seed=seed),
        "layer.1.value": adapter(6, 4, seed=seed + 1),
    }
    return card(name, **{"modules": modules, **fields})


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | LoRALinear)}


def test_after_the_last_removal_every_layer_is_the_same_object(model, manager) -> None:
    before = linears(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = body("one"), body("two", seed=5)
    done = manager.apply_card(one)
    assert done.modules == ("layer.0.query", "layer.1.value")
    assert (done.name, done.digest, done.missing) == ("one", one.key, ())
    assert isinstance(model.layer[0].query, LoRALinear)
    assert isinstance(model.layer[0].value, nn.Linear)
    manager.apply_card(two)
    stats = manager.statistics()
    assert (stats.cards, stats.wrapped, stats.linears) == (2, 2, 4)
    assert stats.parameters == 2 * sum(a.a.size + a.b.size for a in one.modules.values())
    manager.remove_card(one)
    assert [held.name for held in manager.list_cards()] == ["two"]
    assert isinstance(model.layer[0].query, LoRALinear)
    manager.remove_card("two")
    manager.remove_card("two")
    after = linears(model)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_cards_act_on_their_rows_only_within_the_block(model, manager) -> None:
    x = torch.randn(4, 6)
    with torch.no_grad():
        plain = model(x)
        one = body()
        manager.apply_card(one)
        assert torch.equal(model(x), plain)
        with manager.rows([Segment(1, 3, one.key)]):
            bent = model(x)
        assert torch.equal(model(x), plain)
    assert torch.equal(bent[0], plain[0])
    assert torch.equal(bent[3], plain[3])
    assert not torch.allclose(bent[1:3], plain[1:3], atol=1e-4)
    with pytest.raises(UnknownCardError), manager.rows([Segment(0, 1, "sha256:no")]):
        pass


def test_an_active_card_is_a_warning_and_nothing_else(manager, caplog) -> None:
    first = manager.apply_card(body())
    assert manager.apply_card(body()) == first
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "already active" in caplog.text
    assert manager.statistics().cards == 1


def test_a_partial_match_is_applied_and_the_missing_are_named(manager, caplog) -> None:
    modules = {"layer.0.query": adapter(6, 6), "layer.7.query": adapter(6, 6)}
    done = manager.apply_card(card(modules=modules))
    assert (done.modules, done.missing) == (("layer.0.query",), ("layer.7.query",))
    assert "layer.7.query" in caplog.text


def test_a_card_that_does_not_fit_changes_nothing(model, manager) -> None:
    before = linears(model)
    cases = [
        (body(base_model=type(BASE)("other", "cd" * 32)), BaseModelMismatchError, "was trained on"),
        (card(modules={"decoder.x": adapter(6, 6)}), NoMatchingModuleError, "none of which"),
        (
            card(modules={"layer.0.query": adapter(6, 6), "layer.1.value": adapter(6, 5)}),
            ModuleShapeError,
            "layer.1.value goes from 6 to 5",
        ),
        (card(dim=3, modules={"layer.0.query": adapter(6, 6)}), ModuleShapeError, "3 dimensions"),
    ]
    for bad, error, message in cases:
        with pytest.raises(error, match=message):
            manager.apply_card(bad)
    assert linears(model) == before
    assert manager.list_cards() == []


def test_a_head_only_card_touches_no_layer(model, manager) -> None:
    before = linears(model)
    assert manager.apply_card(card()).modules == ()
    assert linears(model) == before


def test_looser_names_are_applied(model, manager) -> None:
    done = manager.apply_card(card(modules={"base_model.model.layers.0.query": adapter(6, 6)}))
    assert done.modules == ("layer.0.query",)


def test_a_card_is_loaded_only_for_its_model(manager, tmp_path) -> None:
    written = LoRAFormat.write(body(), tmp_path / "a")
    assert manager.load_card(tmp_path / "a", digest=written.digest).name == "bank"
    with pytest.raises(CardDigestError):
        manager.load_card(tmp_path / "a", digest="sha256:" + "0" * 64)
    LoRAFormat.write(body(base_model=type(BASE)("other", "cd" * 32)), tmp_path / "b")
    with pytest.raises(BaseModelMismatchError):
        manager.load_card(tmp_path / "b")


def test_merging_acts_on_every_row_and_is_undone_exactly(model, manager) -> None:
    x = torch.randn(3, 6)
    one = body()
    manager.apply_card(one)
    with torch.no_grad():
        plain = model(x)
        with manager.rows([Segment(0, 3, one.key)]):
            bent = model(x)
        manager.merge(one)
        torch.testing.assert_close(model(x), bent)
        manager.unmerge(one)
        assert torch.equal(model(x), plain)
        manager.merge("bank")
        manager.remove_card(one)
        assert torch.equal(model(x), plain)
    with pytest.raises(UnknownCardError):
        manager.merge(one)


def test_training_gets_only_its_own_parameters_and_leaves_no_trace(model, manager) -> None:
    before = linears(model)
    x = torch.randn(5, 6)
    plain = model(x).detach()
    config = LoRAConfig(rank=2, alpha=4, target_modules=("query", "embedding"), seed=3)
    parameters = manager.attach_trainable(config)
    assert list(parameters) == [
        f"layer.{i}.query.{role}" for i in range(2) for role in ("lora_a", "lora_b")
    ]
    torch.testing.assert_close(model(x).detach(), plain, rtol=0, atol=0)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in parameters.values()}
    with pytest.raises(ConfigError, match="already"):
        manager.attach_trainable(config)
    optimiser = torch.optim.SGD(parameters.values(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(x).square().sum().backward()
        optimiser.step()
    trained_output = model(x).detach()
    assert not torch.allclose(trained_output, plain)
    trained = manager.detach()
    assert linears(model) == before
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model(x).detach(), plain, rtol=0, atol=0)
    made = card(modules=trained)
    manager.apply_card(made)
    with torch.no_grad(), manager.rows([Segment(0, 5, made.key)]):
        torch.testing.assert_close(model(x), trained_output)


def test_the_same_seed_starts_the_same_and_an_initial_adapter_is_taken(manager) -> None:
    config = LoRAConfig(rank=2, target_modules=("query",), seed=3)
    runs = []
    for _ in range(2):
        manager.attach_trainable(config)
        runs.append(manager.detach())
    assert runs[0]["layer.0.query"].a.tobytes() == runs[1]["layer.0.query"].a.tobytes()
    start = adapter(6, 6, rank=3)
    manager.attach_trainable(config, initial={"layer.1.query": start})
    found = manager.detach()
    assert (found["layer.0.query"].rank, found["layer.1.query"].rank) == (2, 3)
    assert found["layer.1.query"].b.tobytes() == start.b.tobytes()


def test_targets_that_are_not_there_are_refused(manager) -> None:
    for targets in (("key",), ("embedding",)):
        with pytest.raises(NoMatchingModuleError):
            manager.attach_trainable(LoRAConfig(target_modules=targets))
    assert manager.detach() == {}
