"""The training child, killed in mid-training and started again on its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lora.engine import ArrowEngine
from services.factory.job import (
    CANDIDATE,
    CHECKPOINTS,
    FOLDS,
    BaseModelRef,
    Job,
    read_result,
    write_job,
)
from tests.lora.training.encoded import encoded

LIMIT = 100.0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    """A folder with a dataset and what else a job names, and the job: a quick body."""
    folder = tmp_path_factory.mktemp("bench")
    engine = ArrowEngine(device="cpu")
    data = encoded(engine, per_passage=3)
    digest = data.write(folder)
    np.save(folder / "background.npy", np.random.default_rng(0).normal(size=(400, engine.dim)))
    job = Job(
        phase="body",
        task_id="t",
        skill="clues",
        domain="clues",
        version=1,
        dataset=str(folder / f"{digest.removeprefix('sha256:')}.parquet"),
        dataset_digest=digest,
        base_model=BaseModelRef(engine.base_model.id, engine.base_model.sha256),
        background=str(folder / "background.npy"),
        time_budget_s=600.0,
        threads=1,
        settings={
            "layers": 1,
            "epochs": 2,
            "batch": 4,
            "head_steps": 5,
            "learning_rate": 1e-2,
            "bodies": [1.0],
            "heads": [1.0],
            "alone": [],
        },
        created="2026-01-01T00:00:00Z",
        checkpoint_every_s=0.02,
    )
    return folder, job


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "services.factory.child", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path) -> None:
    child = start(folder)
    _, said = child.communicate(timeout=LIMIT)
    assert child.returncode == 0, said


def kill_once(folder: Path, there: Callable[[], bool]) -> None:
    """Start the child, and kill it as soon as this is so."""
    child = start(folder)
    deadline = time.monotonic() + LIMIT
    while not there():
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()


def made(folder: Path) -> dict[str, bytes]:
    files = [folder / CANDIDATE, *sorted((folder / FOLDS).glob("*.lora.arrow"))]
    return {file.name: file.read_bytes() for file in files if file.exists()}


@pytest.mark.timeout(300)
def test_a_child_that_was_killed_goes_on_to_the_same_card(
    bench: tuple[Path, Job], tmp_path: Path
) -> None:
    """Inside an inner fit, and inside a fold's: same bytes as two runs that nobody killed."""
    _, job = bench
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_job(folder, job)
    finish(whole)
    kept = killed / CHECKPOINTS

    kill_once(killed, lambda: bool(list(kept.glob("fit-?-?.safetensors"))))
    begun = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.safetensors")}
    assert "plan.safetensors" in begun
    # A body's own fits come after the choice among shares; without one there are no such files.
    kill_once(killed, lambda: bool(list(kept.glob("outer*"))) or bool(list(kept.glob("fit-?.*"))))
    after = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.safetensors")}
    assert after["plan.safetensors"] == begun["plan.safetensors"]
    assert list(kept.glob("inner-*"))
    finish(killed)

    assert made(killed) == made(whole)
    assert CANDIDATE in made(whole) or not read_result(whole).candidate
    assert not kept.exists()
    assert read_result(killed).metrics == read_result(whole).metrics


def test_jobs_that_differ_in_what_training_depends_on_do_not_share_their_work(
    bench: tuple[Path, Job],
) -> None:
    _, job = bench
    other = {
        "dataset_digest": "sha256:" + "0" * 64,
        "seed": 1,
        "settings": {},
        "threads": 2,
        "memory_budget": 1 << 30,
        "time_budget_s": 5.0,
        "phase": "head",
    }
    for name, value in other.items():
        assert msgspec.structs.replace(job, **{name: value}).identity != job.identity
    same = msgspec.structs.replace(job, version=7, attempts=3, task_id="u", created=None)
    assert same.identity == job.identity
