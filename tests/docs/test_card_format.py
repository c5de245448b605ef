"""`docs/card-format.md` is true: cards are read by following it, with pyarrow alone."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lora import LoRAFormat, card_checks, outline
from lora.adapter import MAX_ALPHA, MAX_RANK
from lora.boundary import BOUNDARY, Boundary
from lora.card import DEFAULT_MAX_BYTES
from lora.errors import CardError
from lora.head import bend
from lora.model import weights_sha256
from services.federation.identity import NodeKey
from services.federation.manifest import sign
from services.runtime.cards import describe
from tests.lora import cards

ROOT = Path(__file__).resolve().parents[2]
READER = ROOT / "docs" / "examples" / "read_card.py"
TEXT = (ROOT / "docs" / "card-format.md").read_text("utf-8")
BODY = "encoder.layer.0.attention.self.query"

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_card", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """A card with everything: a head, a body, prototypes, every dtype."""
    points = np.random.default_rng(3).normal(size=(2, 6)).astype(np.float32)
    made = cards.card(
        version=3,
        modules={
            "embedding": cards.adapter(6, 6, seed=1),
            BODY: cards.adapter(5, 7, rank=3, seed=2, alpha=5.0).astype("bfloat16"),
            "encoder.layer.1.output.dense": cards.adapter(9, 4, seed=3).astype("float16"),
            "encoder.layer.2.output.dense": cards.adapter(5, 3, seed=4).astype("int8"),
        },
        prototypes=points,
        threshold=0.5,
        metrics={"before": 0.4, "after": 0.5, "groups": 64, "route": True, "none": None},
        description="what the bank's customers ask: Überweisung, 口座",
        parents=("sha256:" + "ab" * 32,),
        extra={BOUNDARY: Boundary(np.ones(6, np.float32), 0.25).to_text()},
    )
    return LoRAFormat.write(made, tmp_path / "bank.lora.arrow")


def test_everything_of_a_card_is_read_by_the_specification(
    reader: ModuleType, written: Any, tmp_path: Path
) -> None:
    said, modules, prototypes = reader.read_card(tmp_path / "bank.lora.arrow", written.digest)

    assert (said["name"], said["version"], said["threshold"]) == ("bank", 3, 0.5)
    assert said["base_model"] == {"id": "test/base", "sha256": "ab" * 32}
    assert said["description"] == written.description
    assert said["metrics"] == dict(written.metrics)
    assert said["parents"] == list(written.parents)
    assert set(modules) == set(written.modules)
    for name, (a, b, alpha) in modules.items():
        for read, ours in zip((a, b), written.modules[name].factors, strict=True):
            np.testing.assert_array_equal(read, ours)
        assert alpha == written.modules[name].alpha
    np.testing.assert_array_equal(prototypes, written.prototypes)
    raw = base64.b64decode(said["extra"]["routing.boundary"])
    assert np.frombuffer(raw[:4], "<f4").tolist() == [0.25]
    assert np.frombuffer(raw[4:], "<f2").tolist() == [1.0] * 6


def test_a_vector_is_bent_by_the_formula_as_we_bend_it(
    reader: ModuleType, written: Any, tmp_path: Path
) -> None:
    _, modules, _ = reader.read_card(tmp_path / "bank.lora.arrow")
    vectors = 3 * np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    vectors[3] = 0
    found = np.array([reader.bend(vector, modules["embedding"]) for vector in vectors])
    np.testing.assert_allclose(found, bend(vectors, [written.head]), rtol=1e-5, atol=1e-6)


def test_the_reader_runs_alone_and_imports_nothing_of_the_project(
    written: Any, tmp_path: Path
) -> None:
    words = [sys.executable, "-I", str(READER), "bank.lora.arrow", written.digest]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *rest = done.stdout.splitlines()
    assert first == f"bank@3 for test/base: {written.digest}"
    assert f"{BODY}: 5 -> 7, rank 3, alpha 5" in rest
    assert rest[-1] == "2 prototypes, routed to from a cosine of 0.5"
    imported = re.findall(r"^(?:import|from) (\w+)", READER.read_text("utf-8"), re.MULTILINE)
    assert set(imported) == {"hashlib", "json", "re", "sys", "pathlib", "numpy", "pyarrow"}


def rewritten(path: Path, **change: Any) -> None:
    """The same card as a careless writer would write it."""
    table = pa.ipc.open_file(path.read_bytes())
    schema, batch = table.schema, table.get_batch(0)
    metadata = dict(schema.metadata)
    metadata.update(change.get("metadata", {}))
    metadata[b"pad"] += change.get("pad", b"")
    schema = schema.with_metadata(metadata)
    columns = [batch.column(name) for name in schema.names]
    options = pa.ipc.IpcWriteOptions(compression=change.get("compression"))
    with pa.ipc.new_file(path, schema, options=options) as writer:
        for _ in range(change.get("batches", 1)):
            writer.write_batch(pa.record_batch(columns, schema=schema))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"compression": "zstd"}, "compressed"),
        ({"pad": b" " * 8}, "boundary"),
        ({"metadata": {b"mine": b""}}, "not the metadata"),
        ({"metadata": {b"format_version": b"1"}}, "another version"),
        ({"metadata": {b"format_version": b"3"}}, "another version"),
        ({"metadata": {b"name": b"No Name"}}, "name"),
        ({"batches": 2}, "one record batch"),
    ],
    ids=[
        "compressed",
        "not aligned",
        "a key more",
        "older than it is",
        "another version",
        "no name",
        "two batches",
    ],
)
def test_what_the_specification_forbids_is_refused_by_the_reader_and_by_us(
    reader: ModuleType, written: Any, tmp_path: Path, change: dict[str, Any], refusal: str
) -> None:
    path = tmp_path / "bank.lora.arrow"
    rewritten(path, **change)
    with pytest.raises(ValueError, match=refusal):
        reader.read_card(path)
    with pytest.raises(CardError):
        LoRAFormat.read(path)


def test_another_file_than_the_one_asked_for_is_refused(
    reader: ModuleType, written: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(written.digest)):
        reader.read_card(tmp_path / "bank.lora.arrow", "sha256:" + "0" * 64)


def rows(heading: str) -> dict[str, str]:
    """The first table below a heading: first cell, without backticks, to the others."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))


def test_the_tables_name_every_column_and_every_key(written: Any, tmp_path: Path) -> None:
    schema = pa.ipc.open_file((tmp_path / "bank.lora.arrow").read_bytes()).schema
    kinds = {"utf8": "string"}
    said = {name: cells.split(" | ")[0] for name, cells in rows("The table").items()}
    found = {field.name: str(field.type).replace("double", "float64") for field in schema}
    assert {name: kinds.get(kind, kind) for name, kind in said.items()} == found
    assert list(said) == schema.names
    assert set(rows("The metadata")) == {key.decode() for key in schema.metadata}


def test_the_limits_are_those_of_the_code() -> None:
    for limit in (
        f"1 to {outline.MAX_SIDE:,}",
        f"1 to {card_checks.MAX_MODULES:,} modules, rank 1 to {MAX_RANK:,}",
        f"at most {MAX_ALPHA:,.0f}.",
        f"1 to {card_checks.MAX_PROTOTYPES} rows",
        f"width of the embedding, 1 to {card_checks.MAX_DIM:,}",
        f"at most {card_checks.MAX_TEXT:,} characters",
        f"at most {card_checks.MAX_PARENTS} digests",
        f"at most {card_checks.MAX_ENTRIES} texts by key",
        f"`{card_checks.NAME.pattern}`",
        f"ours is {DEFAULT_MAX_BYTES >> 20} MiB",
    ):
        assert limit in " ".join(TEXT.split()), limit
    assert card_checks.MAX_VERSION == 2**31 - 1


def test_a_model_is_known_by_what_the_page_says(tmp_path: Path) -> None:
    """Several files, one of them in a folder of its own, and one that does not count."""
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "other").mkdir()
    names = ["2_Dense/model.safetensors", "model-1.safetensors", "model-2.safetensors"]
    for name in (*names, "pytorch_model.bin", "other/model.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    lines = "".join(f"{hashlib.sha256(n.encode()).hexdigest()}  {n}\n" for n in names)
    assert weights_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()
    for name in names[:2]:
        (tmp_path / name).unlink()
    alone = hashlib.sha256(b"model-2.safetensors").hexdigest()
    assert weights_sha256(tmp_path) == alone


def test_a_signature_is_checked_by_the_seven_lines(written: Any) -> None:
    (block,) = re.findall(r"^```text\n(consonance skill card .*?)^```", TEXT, re.M | re.S)
    values = {
        "sha256:<digest of the file>": written.digest,
        "<name>": written.name,
        "<version>": "3",
        "<base_model.sha256>": written.base_model.sha256,
        "<size of the file in bytes>": str(written.bytes),
        "<created>": written.created,
    }
    manifest = "\n".join(values.get(line, line) for line in block.splitlines())
    signed = sign(describe(written), NodeKey.generate())
    assert signed.signer is not None
    assert signed.signature is not None

    def raw(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    key = Ed25519PublicKey.from_public_bytes(raw(signed.signer.removeprefix("ed25519:")))
    key.verify(raw(signed.signature), manifest.encode())  # raises where it is another's
