"""The training child, killed in mid-training and started again on its folder."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Job]:
    """A folder with a dataset and what else a job names, and the job: a quick body."""
    folder = tmp_path_factory.mktemp("bench")
    engine = ArrowEngine(device="cpu", trainable=False)
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


class Nursery:
    """Children that are forked from one process, which has imported all that they need."""

    def __init__(self, log: Path) -> None:
        # What measures coverage has no part in processes that are killed, and would slow them.
        environment = {name: v for name, v in os.environ.items() if not name.startswith("COV")}
        self._log = log
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.services.factory.nursery"],
                bufsize=0,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )

    def start(self, folder: Path) -> int:
        """The process id of a child that works on the folder."""
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(folder) + b"\n")
        return self._line()

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether the child ends within this time."""
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def finish(self, folder: Path) -> None:
        """Have a child work on the folder to its end."""
        self.start(folder)
        assert self.ended(LIMIT)
        assert self._line() == 0, self._log.read_text()

    def kill_once(self, folder: Path, there: Callable[[], bool]) -> None:
        """Start a child, and kill it as soon as this is so."""
        pid = self.start(folder)
        deadline = time.monotonic() + LIMIT
        while not there():
            assert not self.ended(), f"it ended before it could be killed: {self._log.read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert self._line() == -signal.SIGKILL

    def close(self) -> None:
        """At the end of its input the nursery ends."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()

    def _line(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(tmp_path / "said")
    yield made
    made.close()


def alone(folder: Path) -> None:
    """Have a child work on the folder to its end, in a process that nothing was forked from."""
    command = [sys.executable, "-m", "services.factory.child", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr


def made(folder: Path) -> dict[str, bytes]:
    files = [folder / CANDIDATE, *sorted((folder / FOLDS).glob("*.lora.arrow"))]
    return {file.name: file.read_bytes() for file in files if file.exists()}


@pytest.mark.timeout(300)
def test_a_child_that_was_killed_goes_on_to_the_same_card(
    bench: tuple[Path, Job], tmp_path: Path, nursery: Nursery
) -> None:
    """Inside an inner fit, and inside a fold's: same bytes as two runs that nobody killed."""
    _, job = bench
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_job(folder, job)
    alone(whole)
    kept = killed / CHECKPOINTS

    nursery.kill_once(killed, lambda: any(kept.glob("fit-?-?.safetensors")))
    begun = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.safetensors")}
    assert "plan.safetensors" in begun
    # A body's own fits come after the choice among shares; without one there are no such files.
    nursery.kill_once(
        killed, lambda: bool(list(kept.glob("outer*"))) or bool(list(kept.glob("fit-?.*")))
    )
    after = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.safetensors")}
    assert after["plan.safetensors"] == begun["plan.safetensors"]
    assert list(kept.glob("inner-*"))
    nursery.finish(killed)

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
