"""The engine on the real model: base vectors, cards, mixtures, budgets, refusals."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch

from lora import ArrowEngine, BaseModel, LoRAFormat, LoRALinear, bend
from lora.errors import (
    BaseModelMismatchError,
    CardBudgetError,
    CardNotFoundError,
    CardRoleError,
    ConfigError,
    DeviceError,
    EngineError,
    ModuleShapeError,
    NoMatchingModuleError,
    TooManyCardsError,
    UnknownCardError,
)
from lora.model import DEFAULT_ID, DEFAULT_SHA256
from lora.neighbours import beside_key, stacks_key
from tests.lora.cards import adapter, card, cosines, model_card

TEXTS = [
    "how do I reset my card?",
    "",
    "The quick brown fox jumps over the lazy dog. " * 3,
    "naïve café — 東京",
    "why was I charged twice for one payment, and who do I ask?",
    "x",
    "my phone was stolen",
    "word " * 400,
]


@pytest.fixture
def cards(engine, tmp_path):
    return [
        model_card(engine, tmp_path, 1, head=True),
        model_card(engine, tmp_path, 2),
        model_card(engine, tmp_path, 3, targets=("query", "key", "value", "dense")),
        model_card(engine, tmp_path, 4, body=False, head=True),
    ]


def test_it_knows_the_default_model(engine) -> None:
    assert engine.base_model == BaseModel(DEFAULT_ID, DEFAULT_SHA256)
    assert (engine.dim, engine.max_tokens, engine.device.type) == (384, 256, "cpu")
    assert engine.token_counts(["hello world", "word " * 400, ""]) == [4, 256, 2]
    assert engine.token_counts([]) == []


def test_with_no_card_it_is_sentence_transformers_own_encode(engine) -> None:
    found = engine.encode(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 384), np.float32)
    own = engine.module.encode(TEXTS, show_progress_bar=False)
    assert cosines(found, own).min() > 0.99999
    documents = engine.module.encode_document(TEXTS, show_progress_bar=False)
    assert cosines(engine.encode(TEXTS, role="document"), documents).min() > 0.99999
    assert engine.encode([]).shape == (0, 384)


def test_with_no_card_active_a_batch_is_bit_for_bit_the_bases(engine, cards) -> None:
    features = engine.prepare(TEXTS)
    with torch.inference_mode():
        before = engine.forward(features)
        for one in cards:
            engine.load_lora(one)
        wrapped = [m for m in engine.module.modules() if isinstance(m, LoRALinear)]
        assert len(wrapped) == 36
        assert torch.equal(engine.forward(features), before)
        for one in cards:
            engine.remove_lora(one)
        assert not any(isinstance(m, LoRALinear) for m in engine.module.modules())
        assert torch.equal(engine.forward(features), before)


def test_a_mixed_batch_equals_each_alone(engine, cards) -> None:
    one, two, three, head = cards
    rows = [[one], [], [two, three], [head], [one, two, three], [three], [head, two], [one]]
    before = engine.statistics()
    mixed = engine.encode_rows(TEXTS, rows)
    after = engine.statistics()
    assert after.mixed_batches > before.mixed_batches
    alone = np.concatenate(
        [engine.encode_rows([text], [row]) for text, row in zip(TEXTS, rows, strict=True)]
    )
    assert cosines(mixed, alone).min() > 0.99999
    base = engine.encode(TEXTS)
    turned = cosines(mixed, base)
    assert turned[1] > 0.99999
    assert max(turned[i] for i in (0, 2, 3, 4, 5, 6, 7)) < 0.9999


def test_three_cards_stack_as_the_sum_of_their_products(engine, tmp_path) -> None:
    linear = next(n for n in engine.manager.linears if n.endswith("layer.5.attention.self.value"))
    ones = [
        card(
            f"s{i}",
            base_model=engine.base_model,
            dim=384,
            modules={linear: adapter(384, 384, rank=4, seed=i)},
        )
        for i in range(3)
    ]
    total = type(ones[0].modules[linear])(
        np.concatenate([c.modules[linear].a for c in ones], axis=1),
        np.concatenate([c.modules[linear].b for c in ones], axis=0),
        12,
        24.0,
    )
    joined = card("joined", base_model=engine.base_model, dim=384, modules={linear: total})
    stacked = engine.encode_with_lora(TEXTS, cards=ones)
    assert cosines(stacked, engine.encode_with_lora(TEXTS, cards=[joined])).min() > 0.99999
    for order in (ones[::-1], [ones[1], ones[2], ones[0]]):
        assert cosines(stacked, engine.encode_with_lora(TEXTS, cards=order)).min() > 0.99999


def test_heads_on_known_base_vectors_need_no_pass(engine, cards) -> None:
    head = cards[3]
    base = engine.encode(TEXTS)
    before = engine.statistics()
    found = engine.encode_rows(TEXTS, [[head]] * len(TEXTS), base=base)
    again = engine.encode_rows(TEXTS, [[]] * len(TEXTS), base=base)
    after = engine.statistics()
    assert after.rows == before.rows
    assert after.bent == before.bent + len(TEXTS)
    np.testing.assert_array_equal(found, bend(base, [head.head]))
    np.testing.assert_array_equal(again, base)
    assert cosines(found, engine.encode_rows(TEXTS, [[head]] * len(TEXTS))).min() > 0.99999


def test_only_rows_without_a_known_base_vector_are_run(engine, cards) -> None:
    one, _, _, head = cards
    base = engine.encode(TEXTS)
    partly = base.copy()
    partly[2] = np.nan
    before = engine.statistics().rows
    found = engine.encode_rows(TEXTS, [[one], *[[head]] * (len(TEXTS) - 1)], base=partly)
    assert engine.statistics().rows == before + 2
    assert np.isfinite(found).all()
    assert cosines(found[1:], bend(base[1:], [head.head])).min() > 0.99999


def test_three_lines_are_enough(engine, cards, tmp_path) -> None:
    path = tmp_path / "bank.lora.arrow"
    LoRAFormat.write(cards[0], path)
    found = engine.encode_with_lora(["how do I reset my card?"], cards=[str(path)])
    np.testing.assert_allclose(
        found, engine.encode_rows(["how do I reset my card?"], [[cards[0]]]), atol=1e-6
    )


def test_cards_are_named_by_name_version_digest_or_path(engine, cards, tmp_path) -> None:
    one = engine.load_lora(cards[0])
    expected = engine.encode_rows(TEXTS[:1], [[one]])
    for ref in ("skill-1", "skill-1@1", one.key, one.key[:19], one):
        np.testing.assert_allclose(
            engine.encode_with_lora(TEXTS[:1], cards=[ref]), expected, atol=1e-6
        )
    assert engine.list_loras() == [one]
    for bad in ("skill-9", "skill-1@2", "sha256:" + "0" * 64):
        with pytest.raises(UnknownCardError, match="loaded"):
            engine.encode_with_lora(TEXTS[:1], cards=[bad])
    with pytest.raises(CardNotFoundError):
        engine.encode_with_lora(TEXTS[:1], cards=[tmp_path / "none.lora.arrow"])
    engine.remove_lora("skill-1")
    engine.remove_lora("skill-1")
    assert (engine.list_loras(), len(engine.router)) == ([], 0)


def test_an_intent_selects_the_skill_and_abstains_when_none_is_near(engine, tmp_path) -> None:
    questions = ["how do I reset my card?", "my card was blocked"]
    bank = model_card(
        engine,
        tmp_path,
        1,
        body=False,
        head=True,
        prototypes=engine.encode(questions),
        threshold=0.6,
    )
    engine.load_lora(bank)
    assert [m.name for m in engine.select("how can I reset my card")] == ["skill-1"]
    found = engine.encode_with_lora(TEXTS[:2], intent_query="how can I reset my card")
    np.testing.assert_allclose(found, bend(engine.encode(TEXTS[:2]), [bank.head]), atol=1e-5)
    other = engine.encode_with_lora(TEXTS[:2], intent_query="a recipe for apple pie")
    np.testing.assert_allclose(other, engine.encode(TEXTS[:2]), atol=1e-5)
    for wrong in ({}, {"cards": [], "intent_query": "x"}):
        with pytest.raises(EngineError, match="either"):
            engine.encode_with_lora(TEXTS, **wrong)


@pytest.mark.parametrize("evidence", [False, True])
def test_an_intent_stacks_skills_only_with_evidence(engine, tmp_path, evidence: bool) -> None:
    """The second one lies a little further off, and both were told from each other."""
    (point,) = engine.encode(["how do I reset my card?"])
    (aside,) = engine.encode(["a card"])
    skill = {"body": False, "head": True, "threshold": 0.6}
    further = (point + 0.2 * aside)[None]
    upon = model_card(engine, tmp_path, 2, **skill, prototypes=further)
    said = {beside_key("skill-2"): 1.0} | ({stacks_key(upon.key): 0.1} if evidence else {})
    nearest = model_card(engine, tmp_path, 1, **skill, prototypes=point[None], metrics=said)
    for it in (upon, nearest):
        engine.load_lora(it)

    found = engine.encode_with_lora(TEXTS[:2], intent_query="how do I reset my card?", top_k=2)

    heads = [nearest.head, upon.head] if evidence else [nearest.head]
    np.testing.assert_allclose(found, bend(engine.encode(TEXTS[:2]), heads), atol=1e-5)
    assert len(engine.select("how do I reset my card?", 2)) == 2


def test_an_imported_card_is_found_by_its_description(engine, tmp_path) -> None:
    imported = model_card(
        engine, tmp_path, 1, body=False, head=True, description="bank cards", threshold=0.3
    )
    engine.load_lora(imported)
    assert [m.name for m in engine.select("bank card")] == ["skill-1"]


def test_a_card_that_does_not_belong_is_refused(engine, cards) -> None:
    other = card(base_model=BaseModel("other", "0" * 64), dim=384, modules=dict(cards[0].modules))
    lost = card(base_model=engine.base_model, dim=384, modules={"decoder.x": adapter(384, 384)})
    small = card(base_model=engine.base_model, dim=6)
    for bad, error in (
        (other, BaseModelMismatchError),
        (lost, NoMatchingModuleError),
        (small, ModuleShapeError),
    ):
        with pytest.raises(error):
            engine.load_lora(bad)
        with pytest.raises(error):
            engine.encode_rows(["x"], [[bad]])
    assert (engine.list_loras(), engine.resident()) == ([], ())
    with pytest.raises(CardRoleError, match="applies to query, not to a document"):
        engine.encode_rows(["x"], [[cards[0]]], role="document")
    with pytest.raises(TooManyCardsError, match="at most 3"):
        engine.encode_rows(["x"], [[cards[0]] * 4])
    with pytest.raises(EngineError, match="as many rows"):
        engine.encode_rows(["x"], [])
    with pytest.raises(EngineError, match="role"):
        engine.encode(["x"], role="poem")
    with pytest.raises(ModuleShapeError, match="base vectors"):
        engine.encode_rows(["x"], [[]], base=np.zeros((1, 3), np.float32))


def test_cards_leave_when_the_budget_is_spent_and_come_back_when_needed(
    tiny_folder, tmp_path
) -> None:
    probe = ArrowEngine(tiny_folder, device="cpu")
    made = [model_card(probe, tmp_path, i) for i in range(4)]
    size = made[0].nbytes
    tiny = ArrowEngine(tiny_folder, device="cpu", card_budget_bytes=2 * size + 1)
    expected = [probe.encode_rows(["abc"], [[one]]) for one in made]
    tiny.pin(made[0])
    for i in (0, 1, 2, 3, 1):
        found = tiny.encode_rows(["abc"], [[made[i]]])
        np.testing.assert_allclose(found, expected[i], rtol=1e-5, atol=1e-6)
        assert len(tiny.manager.list_cards()) <= 2
        assert made[0].key in tiny.resident()
    stats = tiny.statistics()
    assert (stats.evicted, stats.resident_bytes) == (3, 2 * size)
    mixed = tiny.encode_rows(["abc"] * 4, [[one] for one in made])
    np.testing.assert_allclose(mixed, np.concatenate(expected), rtol=1e-5, atol=1e-6)
    with pytest.raises(CardBudgetError):
        tiny.encode_rows(["abc"], [[made[1], made[2]]])
    tiny.unpin(made[0])
    tiny.encode_rows(["abc"], [[made[1], made[2]]])
    for one in made:
        tiny.evict(one)
    assert not any(isinstance(m, LoRALinear) for m in tiny.module.modules())


def test_a_model_runs_as_its_files_declare(tiny) -> None:
    texts = ["abc def", "q" * 60, "x"]
    assert (tiny.dim, tiny.max_tokens) == (32, 24)
    own = tiny.module.encode_query(texts, show_progress_bar=False)
    found = tiny.encode(texts)
    np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-5)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() > 0.1  # it does not normalise
    documents = tiny.module.encode_document(texts, show_progress_bar=False)
    np.testing.assert_allclose(tiny.encode(texts, role="document"), documents, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, documents, atol=1e-3)
    counts = tiny.token_counts(texts)
    assert counts[1] == 24
    assert counts == [int(m.sum()) for m in tiny.prepare(texts)["attention_mask"]]


def test_a_head_keeps_the_length_of_an_unnormalised_embedding(tiny, tmp_path) -> None:
    head = model_card(tiny, tmp_path, 1, body=False, head=True)
    base = tiny.encode(["abc", "def"])
    bent = tiny.encode_rows(["abc", "def"], [[head], [head]])
    np.testing.assert_allclose(
        np.linalg.norm(bent, axis=1), np.linalg.norm(base, axis=1), rtol=1e-5
    )
    assert cosines(base, bent).max() < 0.9999


def test_threads_may_call_it_at_once(tiny, tmp_path) -> None:
    made = [model_card(tiny, tmp_path, i, head=i % 2 == 0) for i in range(4)]
    texts = ["abc", "the cat sat", "x y z"]
    expected = [tiny.encode_rows(texts, [[one]] * 3) for one in made]
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(5):
                found = tiny.encode_rows(texts, [[made[i]]] * 3)
                np.testing.assert_allclose(found, expected[i], rtol=1e-4, atol=1e-5)
                assert tiny.token_counts(texts)[0] > 0
                tiny.load_lora(made[i])
                tiny.remove_lora(made[i])
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_gradients_reach_an_adapter_in_training(tiny) -> None:
    from lora import LoRAConfig

    with tiny.exclusive():
        parameters = tiny.manager.attach_trainable(LoRAConfig(rank=2, target_modules=("query",)))
        tiny.forward(tiny.prepare(["abc", "d"])).square().sum().backward()
        assert all(p.grad is not None for p in parameters.values())
        assert set(tiny.manager.detach()) == {
            f"encoder.layer.{i}.attention.self.query" for i in range(2)
        }


def test_settings_and_devices_that_are_not_there_are_refused(tiny_folder, caplog) -> None:
    with pytest.raises(ConfigError, match="threads"):
        ArrowEngine(tiny_folder, threads=0)
    with pytest.raises(ConfigError, match="budget"):
        ArrowEngine(tiny_folder, device="cpu", card_budget_bytes=0)
    for device in ("warp", "cuda:99"):
        with pytest.raises(DeviceError, match="not available"):
            ArrowEngine(tiny_folder, device=device)
    caplog.set_level(logging.WARNING, "lora")
    for _ in range(2):
        ArrowEngine(tiny_folder)
    assert sum("CPU" in record.getMessage() for record in caplog.records) <= 1
