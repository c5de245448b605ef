"""The training child as the factory meets it: a process, a folder, and lines of progress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lora.card import LoRAFormat
from lora.training.dataset import TrainingSet
from services.factory import child
from services.factory.job import (
    CANDIDATE,
    FOLDS,
    SEEN,
    BaseModelRef,
    ChampionRef,
    Job,
    JobError,
    read_job,
    read_result,
    write_job,
)
from tests.lora.training.encoded import encoded
from tests.lora.training.synthetic import DIM, away, world

ROOT = Path(__file__).resolve().parents[2]


def prepare(folder: Path, data: TrainingSet, **more: object) -> Job:
    """A job's folder as the factory lays it out."""
    folder.mkdir(exist_ok=True)
    digest = data.write(folder)
    np.save(folder / "background.npy", away(700))
    given: dict[str, object] = {
        "phase": "head",
        "task_id": "task",
        "skill": "banking",
        "domain": "banking",
        "version": 1,
        "dataset": f"{digest.removeprefix('sha256:')}.parquet",
        "dataset_digest": digest,
        "base_model": BaseModelRef("model", "0" * 64),
        "background": "background.npy",
        "settings": {"grid": [{}], "checkpoints": [10, 30], "scales": [0.5, 1.0]},
    }
    job = Job(**{**given, **more})  # type: ignore[arg-type]
    write_job(folder, job)
    return job


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *options, "-m", "services.factory.child", str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_head_from_folder_to_card(tmp_path: Path) -> None:
    """Files, metrics and progress of a process of its own; the next version meets the first."""
    prepare(tmp_path / "one", world(queries=150, noise=0.2), attempts=4)
    process = start(tmp_path / "one")
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines
    assert set(lines[0]) == {"phase", "step", "steps", "loss"}
    result = read_result(tmp_path / "one")
    assert result.accepted
    assert result.candidate
    assert result.metrics["attempts"] == 5
    assert result.seconds > 0
    card = LoRAFormat.read(tmp_path / "one" / CANDIDATE)
    assert card.threshold == result.threshold
    assert card.metrics["gain"] == result.metrics["gain"]
    folds = sorted(path.name for path in (tmp_path / "one" / FOLDS).iterdir())
    assert folds == [*(f"{fold}.lora.arrow" for fold in range(5)), SEEN]

    assert card.digest is not None
    reference = ChampionRef(
        card=str(tmp_path / "one" / CANDIDATE),
        digest=card.digest,
        version=1,
        folds=str(tmp_path / "one" / FOLDS),
    )
    np.save(tmp_path / "others.npy", away(100, seed=9))
    np.save(tmp_path / "words.npy", np.ones(DIM, np.float32))
    job = prepare(
        tmp_path / "two",
        world(queries=150, noise=0.2),
        champion=reference,
        version=2,
        negatives=str(tmp_path / "others.npy"),
        description_vector=str(tmp_path / "words.npy"),
    )
    again = child.run(tmp_path / "two", job)
    assert not again.accepted
    assert again.metrics["negatives"] == 800
    assert again.metrics["before"] == pytest.approx(result.metrics["after"], abs=0.05)


def test_a_refusal_is_a_result(tmp_path: Path) -> None:
    """A negative verdict ends well: exit 0, a reason, and the data are not the child's to drop."""
    prepare(tmp_path, world(queries=80, turned=False, noise=0.1))
    assert child.main([str(tmp_path)]) == 0
    result = read_result(tmp_path)
    assert not result.accepted
    assert not result.candidate
    assert "no change" in result.reason
    assert not (tmp_path / CANDIDATE).exists()


def test_a_head_imports_no_torch(tmp_path: Path) -> None:
    """The head starts in well under a second because nothing heavy is loaded for it."""
    prepare(tmp_path, world(queries=60))
    process = start(tmp_path, "-X", "importtime")
    _, err = process.communicate(timeout=50)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in err.splitlines() if "|" in line}
    assert process.returncode == 0
    assert "numpy" in loaded
    assert not {"torch", "transformers", "sentence_transformers"} & loaded


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "job.json").unlink(), "cannot read"),
        (lambda folder: (folder / "job.json").write_text("{}"), "not a valid job"),
        (lambda folder: (folder / "background.npy").write_bytes(b"?"), "cannot read the vectors"),
        (lambda folder: np.save(folder / "background.npy", np.ones((3, 2))), "width 24"),
        (lambda folder: next(folder.glob("*.parquet")).write_bytes(b"?"), "should have digest"),
    ],
)
def test_a_bad_job_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: object,
    sentence: str,
) -> None:
    """Status 1, one line that says what was wrong, and no result."""
    prepare(tmp_path, world(queries=30))
    spoil(tmp_path)  # type: ignore[operator]
    assert child.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.splitlines()) == 1
    with pytest.raises(JobError):
        read_result(tmp_path)


def test_wrong_usage_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert child.main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_terminating_it_ends_it_at_once(tmp_path: Path) -> None:
    """SIGTERM in the middle of a long sweep: gone, and nothing half-written."""
    grid = [{"weight_decay": float(n)} for n in range(100)]
    prepare(tmp_path, world(queries=400), settings={"grid": grid}, time_budget_s=600.0)
    process = start(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline()
    begun = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    assert not (tmp_path / "result.json").exists()


def test_a_job_reads_back_as_it_was_written(tmp_path: Path) -> None:
    job = prepare(tmp_path, world(queries=10), parents=("sha256:" + "1" * 64,), anchors=None)
    assert read_job(tmp_path) == job


@pytest.mark.timeout(240)
def test_a_body_and_a_head_upon_it_from_folder_to_card(tmp_path: Path) -> None:
    """A head after a body keeps it: the child encodes with the champion's body, fold by fold."""
    from lora.engine import ArrowEngine

    engine = ArrowEngine(device="cpu", trainable=False)
    data = encoded(engine)
    model = BaseModelRef(engine.base_model.id, engine.base_model.sha256)
    given: dict[str, object] = {"base_model": model, "threads": 2, "time_budget_s": 60.0}
    deep = tmp_path / "deep"
    body = prepare(deep, data, phase="body", settings={"epochs": 2}, **given)
    np.save(deep / "background.npy", away(700, dim=engine.dim))
    process = start(deep)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    made = read_result(deep)
    assert made.candidate
    card = LoRAFormat.read(deep / CANDIDATE)
    assert card.body
    assert card.digest is not None
    assert body.phase == "body"

    upon = tmp_path / "upon"
    reference = ChampionRef(
        card=str(deep / CANDIDATE), digest=card.digest, version=1, folds=str(deep / FOLDS)
    )
    prepare(upon, data, champion=reference, version=2, parents=(card.digest,), **given)
    np.save(upon / "background.npy", away(700, dim=engine.dim))
    process = start(upon)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    result = read_result(upon)
    assert result.metrics["before"] == pytest.approx(made.metrics["after"], abs=0.02)
    for fold in range(5):
        kept = LoRAFormat.read(upon / FOLDS / f"{fold}.lora.arrow")
        below = LoRAFormat.read(deep / FOLDS / f"{fold}.lora.arrow")
        for name, adapter in below.body.items():
            np.testing.assert_array_equal(kept.body[name].a, adapter.a)
            np.testing.assert_array_equal(kept.body[name].b, adapter.b)
