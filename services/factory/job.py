"""What the factory and its training child tell each other, as files in the job's folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from services.errors import ServiceError

__all__ = [
    "CANDIDATE",
    "CHECKPOINTS",
    "FOLDS",
    "JOB",
    "RESULT",
    "SEEN",
    "BaseModelRef",
    "ChampionRef",
    "Job",
    "JobError",
    "Result",
    "read_job",
    "read_result",
    "write_job",
    "write_result",
]

JOB: Final = "job.json"
RESULT: Final = "result.json"
CANDIDATE: Final = "candidate.lora.arrow"
FOLDS: Final = "folds"
CHECKPOINTS: Final = "checkpoints"
"""Folder in which an unfinished training is kept."""
SEEN: Final = "seen.npy"
"""In the folder of fold models: ids of all query groups that the version was trained on."""

Metric = float | int | str | bool | None
T = TypeVar("T")


class JobError(ServiceError):
    """A job's folder does not hold what it should."""


class BaseModelRef(msgspec.Struct, frozen=True):
    """The model that vectors of the job come from."""

    id: str
    sha256: str


class ChampionRef(msgspec.Struct, frozen=True):
    """The present version of the skill."""

    card: str
    """Path of its file."""
    digest: str
    version: int
    folds: str | None = None
    """Folder of its fold models, `0.lora.arrow` to `4.lora.arrow`; some may be missing."""
    foreign: bool = False
    """Another author's: served where this node has no version of its own."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One training; paths are absolute, or relative to the job's folder or the working folder."""

    phase: Literal["head", "body"]
    task_id: str
    skill: str
    domain: str
    version: int
    """Version that the candidate would bear."""
    dataset: str
    dataset_digest: str
    base_model: BaseModelRef
    background: str
    """`.npy`, (n, dim) float32 base vectors of the background questions."""
    model: str | None = None
    """Folder or hub id; null: the default model."""
    champion: ChampionRef | None = None
    parents: tuple[str, ...] = ()
    """Digests that the card names, of those it is trained from; see `ChampionRef.foreign`."""
    description: str = ""
    description_vector: str | None = None
    """`.npy`, (dim,) base vector of the description."""
    seed: int = 0
    attempts: int = 0
    """Candidates judged before this one since the present version was published."""
    time_budget_s: float = 15.0
    threads: int = 1
    memory_budget: int | None = None
    """Bytes that the plan should keep to; the child is ended where it holds much more."""
    negatives: str | None = None
    """`.npy`, (z, dim) base vectors of other domains' queries."""
    anchors: str | None = None
    """A dataset of trusted pairs."""
    neighbours: tuple[str, ...] = ()
    """Files of the cards that the names of other skills mean."""
    claims: dict[str, float] = {}
    """Of other authors' cards among champion and neighbours, by digest, the cosine from which on
    queries are routed to them; what their files say is a claim."""
    settings: dict[str, Any] = {}
    created: str | None = None
    """RFC 3339 time that the cards bear; null: when they are made."""
    checkpoint_every_s: float = 5.0
    """Seconds between checkpoints inside one fit; what a kill costs at most."""

    @property
    def identity(self) -> str:
        """Everything that training depends on: jobs that share it can go on from one another."""
        champion = None if self.champion is None else self.champion.digest
        parts = (
            *(self.phase, self.dataset_digest, self.base_model, self.model, champion),
            *(self.seed, self.time_budget_s, self.threads, self.memory_budget, self.settings),
        )
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a candidate."""

    accepted: bool
    reason: str
    """One sentence."""
    metrics: dict[str, Metric]
    threshold: float | None
    """Null: named use only."""
    seconds: float
    chosen: dict[str, Metric] = {}
    candidate: bool = True
    """Whether `candidate.lora.arrow` was written."""


def read_job(folder: Path) -> Job:
    """The job of a folder; raises `JobError` where it is missing or malformed."""
    return _read(folder / JOB, Job)


def write_job(folder: Path, job: Job) -> None:
    """Write `job.json`."""
    _write(folder / JOB, job)


def read_result(folder: Path) -> Result:
    """The result of a folder; raises `JobError` where it is missing or malformed."""
    return _read(folder / RESULT, Result)


def write_result(folder: Path, result: Result) -> None:
    """Write `result.json`; it appears whole or not at all."""
    _write(folder / RESULT, result)


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise JobError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise JobError(f"{path.name} is not a valid {kind.__name__.lower()}: {error}") from error


def _write(path: Path, value: msgspec.Struct) -> None:
    beside = path.with_suffix(".writing")
    beside.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2))
    beside.replace(path)
