"""Sentence-transformers models of several families: tiny, random, with their own tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

WIDTH = 32
LETTERS = (*ascii_lowercase, "?", ":", "'")
SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.25,  # so wide that attention tells texts apart without any training
}


class Family(NamedTuple):
    """How a model of one architecture is made, and what its attention layers are called."""

    body: Callable[[], Any]
    tokenizer: Callable[[], Any]
    targets: tuple[str, ...]
    pooling: str
    normalised: bool


def _pieces(*special: str) -> dict[str, int]:
    words = [*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    return {word: number for number, word in enumerate(words)}


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=len(_pieces(*"12345")), **SHAPE))


def _bert_tokenizer() -> Any:
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab=_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


def _mpnet() -> Any:
    from transformers import MPNetConfig, MPNetModel

    return MPNetModel(MPNetConfig(vocab_size=len(_pieces(*"12345")), **SHAPE))


def _mpnet_tokenizer() -> Any:
    from transformers import MPNetTokenizerFast

    return MPNetTokenizerFast(vocab=_pieces("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))


def _unigrams() -> list[tuple[str, float]]:
    special = ("<s>", "<pad>", "</s>", "<unk>")
    words = ("▁", *LETTERS, *(f"▁{letter}" for letter in LETTERS))
    return [*((one, 0.0) for one in special), *((one, -3.0) for one in words), ("<mask>", 0.0)]


def _xlm_roberta() -> Any:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(
        XLMRobertaConfig(vocab_size=len(_unigrams()), type_vocab_size=1, **SHAPE)
    )


def _xlm_roberta_tokenizer() -> Any:
    from transformers import XLMRobertaTokenizerFast

    return XLMRobertaTokenizerFast(vocab=_unigrams())


def _modernbert() -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    special = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
    special |= {"bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(
        vocab_size=len(_bytes()),
        global_attn_every_n_layers=2,
        local_attention=8,
        **special,
        **SHAPE,
    )
    return ModernBertModel(config)


def _bytes() -> dict[str, int]:
    from tokenizers.pre_tokenizers import ByteLevel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(ByteLevel.alphabet())]
    return {word: number for number, word in enumerate(words)}


def _modernbert_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(vocab=_bytes(), merges=[], unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad", "unk", "cls", "sep", "mask")
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{name}_token": f"[{name.upper()}]" for name in names}
    )


FAMILIES = {
    "bert": Family(_bert, _bert_tokenizer, ("query", "value"), "mean", True),
    "mpnet": Family(_mpnet, _mpnet_tokenizer, ("q", "v"), "mean", True),
    "xlm-roberta": Family(
        _xlm_roberta, _xlm_roberta_tokenizer, ("query", "value", "dense"), "cls", False
    ),
    "modernbert": Family(_modernbert, _modernbert_tokenizer, ("Wqkv", "Wo", "Wi"), "cls", True),
}


def make(family: Family, folder: Path) -> Path:
    """A model's folder, as sentence-transformers saves it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )

    torch.manual_seed(7)
    family.body().save_pretrained(folder / "body")
    family.tokenizer().save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"), max_seq_length=24)
    modules = [body, Pooling(WIDTH, pooling_mode=family.pooling)]
    if family.normalised:
        modules.append(Normalize())
    prompts = {"query": "ask: ", "document": "doc: "}
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save_pretrained(str(folder / "model"))
    return folder / "model"
