"""The real default model, once a session, and a tiny random one made here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_engine():
    from lora import ArrowEngine

    return ArrowEngine(device="cpu")


@pytest.fixture
def engine(shared_engine) -> Iterator:
    """The default model with no card in it, before and after."""
    yield shared_engine
    for card in shared_engine.list_loras():
        shared_engine.remove_lora(card)
    for card in shared_engine.manager.list_cards():
        shared_engine.evict(card)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers and 32 dimensions: mean pooling, no normalisation, prompts."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz:"]
    words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder / "bert")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    body = Transformer(str(folder / "bert"), max_seq_length=24)
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(
        modules=[body, pooling],
        device="cpu",
        prompts={"query": "ask: ", "document": "doc: "},
    )
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture
def tiny(tiny_folder: Path):
    from lora import ArrowEngine

    return ArrowEngine(tiny_folder, device="cpu")
