"""The training child: reads a job, trains and judges a candidate, writes what came of it.

Started again on the folder of a job that was killed, a body goes on from its checkpoints, to the
same bits as without the kill (same machine, same number of threads); a head begins again.
`python -m services.factory.child JOB_FOLDER` prints its progress, one JSON object a line; with
`--wait FD` instead it makes ready for a head and reads the folder's name from there.
Exit 0 whenever a result was written, also where the candidate was refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from services.factory.job import (
    CANDIDATE,
    CHECKPOINTS,
    FOLDS,
    SEEN,
    Job,
    JobError,
    Result,
    read_job,
    write_result,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lora.card import LoRACard
    from lora.training.candidate import Candidate, CandidateRequest
    from lora.training.champion import Champion, Encode

__all__ = ["main", "run"]

_PROGRESS_EVERY_S = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of the folder that is named; 0 with a result, 1 with a sentence on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    waits = len(given) == 2 and given[0] == "--wait" and given[1].isdecimal()
    if len(given) != 1 and not waits:
        print("usage: python -m services.factory.child JOB_FOLDER | --wait FD", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    named = _told(int(given[1])) if waits else given[0]
    if not named:
        return 0  # there was no job
    folder = Path(named)
    try:
        job = read_job(folder)
        _one_thread()
        run(folder, job)
    except JobError as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        from lora.errors import LoRAError

        if isinstance(error, OSError):
            print(f"the job cannot be done here: {error}", file=sys.stderr)
        elif isinstance(error, LoRAError):
            print(error, file=sys.stderr)
        else:
            raise
        return 1
    return 0


def _told(descriptor: int) -> str:
    """The folder that is named there, once everything that a head needs is imported."""
    _one_thread()
    from lora.training import candidate, checkpoint

    _ = candidate, checkpoint, _code()  # read now, kept by the system for later
    with open(descriptor, "rb") as pipe:
        return os.fsdecode(pipe.readline().rstrip(b"\n"))


def run(folder: Path, job: Job) -> Result:
    """Train, judge and write; raises `JobError` or a `LoRAError` where that cannot be done."""
    from lora.training.checkpoint import Checkpoints

    place = folder / CHECKPOINTS if job.phase == "body" else None
    kept = Checkpoints(place, f"{_code()} {job.identity}", every_s=job.checkpoint_every_s)
    request = _request(folder, job)
    progress = _reporter(job.phase)
    if job.phase == "head":
        from lora.training.candidate import head_candidate

        candidate = head_candidate(request, progress, threads=job.threads)
    else:
        from lora.training.body import body_candidate

        candidate = body_candidate(
            request, progress=progress, model=job.model, threads=job.threads, checkpoints=kept
        )
    result = _write(folder, job.phase, request, candidate, kept.elapsed())
    kept.clear()
    return result


def _write(
    folder: Path, phase: str, request: CandidateRequest, candidate: Candidate, seconds: float
) -> Result:
    import numpy as np

    from lora.card import LoRAFormat

    (folder / FOLDS).mkdir(exist_ok=True)
    # Beside the fold models, never in the card: it is nobody's business what was asked here.
    seen, below = request.data.groups, request.champion
    upon = phase == "head" or candidate.chosen.get("continued")
    if upon and below is not None and below.card.body and below.seen is not None:
        # By the body that the head stands upon, or that this one began from.
        seen = np.concatenate([seen, below.seen])
    np.save(folder / FOLDS / SEEN, np.unique(seen))
    for fold, card in candidate.folds.items():
        LoRAFormat.write(card, folder / FOLDS / f"{fold}.lora.arrow")
    if candidate.card is not None:
        LoRAFormat.write(candidate.card, folder / CANDIDATE)
    result = Result(
        accepted=candidate.accepted,
        reason=candidate.reason,
        metrics=dict(candidate.metrics),
        threshold=candidate.card.threshold if candidate.card else None,
        seconds=seconds,
        chosen=dict(candidate.chosen),
        candidate=candidate.card is not None,
    )
    write_result(folder, result)
    return result


def _request(folder: Path, job: Job) -> CandidateRequest:
    import numpy as np

    from lora.card import BaseModel
    from lora.training.candidate import CandidateRequest
    from lora.training.dataset import TrainingSet

    data = TrainingSet.read(_place(folder, job.dataset), job.dataset_digest)
    negatives = [_vectors(_place(folder, job.background), data.dim)]
    if job.negatives is not None:
        negatives.append(_vectors(_place(folder, job.negatives), data.dim))
    vector = job.description_vector
    champion = _champion(folder, job)
    return CandidateRequest(
        data=data,
        skill=job.skill,
        version=job.version,
        base_model=BaseModel(job.base_model.id, job.base_model.sha256),
        data_digest=job.dataset_digest,
        champion=champion,
        parents=_parents(job, champion),
        description=job.description,
        description_vector=_vectors(_place(folder, vector), data.dim)[0] if vector else None,
        negatives=np.concatenate(negatives),
        anchors=TrainingSet.read(_place(folder, job.anchors)) if job.anchors else None,
        neighbours=_neighbours(folder, job),
        attempts=job.attempts + 1,
        seed=job.seed,
        time_budget_s=job.time_budget_s,
        settings=job.settings,
        encode=_encoder(job) if champion and champion.card.body else None,
        memory_budget=job.memory_budget,
        created=job.created,
    )


def _neighbours(folder: Path, job: Job) -> tuple[LoRACard, ...]:
    """The cards of other skills that can be read; one that was deleted meanwhile is none."""
    from lora.card import LoRAFormat
    from lora.errors import LoRAError

    cards = []
    for path in job.neighbours:
        with contextlib.suppress(LoRAError, OSError):
            cards.append(_as_routed(job, LoRAFormat.read(_place(folder, path))))
    return tuple(cards)


def _as_routed(job: Job, card: LoRACard) -> LoRACard:
    """The card with the threshold that the router believes."""
    least = job.claims.get(card.digest or "")
    if least is None or card.threshold is None:
        return card
    return replace(card, threshold=max(card.threshold, least))


def _parents(job: Job, champion: Champion | None) -> tuple[str, ...]:
    """The version before; another author's card only where the candidate has its body.

    A head does, if there is one. A body begins from nothing without the champion's fold models,
    which no other node has.
    """
    if job.champion is not None and job.champion.foreign:
        begins = job.phase == "head" and champion is not None and bool(champion.card.body)
        return job.parents if begins else ()
    return job.parents


def _champion(folder: Path, job: Job) -> Champion | None:
    if job.champion is None:
        return None
    from lora.card import LoRAFormat
    from lora.training.champion import Champion

    card = LoRAFormat.read(_place(folder, job.champion.card), digest=job.champion.digest)
    folds, seen = {}, None
    if job.champion.folds is not None:
        kept = _place(folder, job.champion.folds)
        for fold in range(5):
            if (path := kept / f"{fold}.lora.arrow").exists():
                folds[fold] = LoRAFormat.read(path)
        if (kept / SEEN).exists():
            seen = _groups(kept / SEEN)
    return Champion(_as_routed(job, card), folds, seen)


def _code() -> str:
    """Which code trains: what another release has begun is not gone on with."""
    import lora

    digest = hashlib.sha256()
    for file in sorted(Path(lora.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _groups(path: Path) -> npt.NDArray[np.int64]:
    import numpy as np

    try:
        return np.asarray(np.load(path, allow_pickle=False), np.int64).ravel()
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read the groups {path}: {error}") from error


def _encoder(job: Job) -> Encode:
    """Applies cards with bodies; the model is loaded at the first use, and torch with it."""
    engines: list[Any] = []

    def encode(texts: Sequence[str], card: Any) -> npt.NDArray[np.float32]:
        if not engines:
            from lora.engine import ArrowEngine

            engines.append(ArrowEngine(job.model, threads=job.threads, trainable=False))
        rows: npt.NDArray[np.float32] = engines[0].encode_rows(texts, [[card]] * len(texts))
        return rows

    return encode


def _place(folder: Path, path: str) -> Path:
    """Where a path of the job lies: in its folder, or as it is seen from here."""
    inside = folder / path
    return inside if inside.exists() else Path(path)


def _vectors(path: Path, dim: int) -> npt.NDArray[np.float32]:
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise JobError(f"cannot read the vectors {path}: {error}") from error
    rows = np.atleast_2d(np.asarray(loaded, np.float32))
    if rows.size == 0:
        return np.zeros((0, dim), np.float32)
    if rows.ndim != 2 or rows.shape[1] != dim or not np.isfinite(rows).all():
        raise JobError(f"{path.name} should hold finite vectors of width {dim}, not {rows.shape}")
    return rows


def _reporter(phase: str) -> Callable[[int, int, float], None]:
    last = 0.0

    def report(step: int, steps: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PROGRESS_EVERY_S and step < steps:
            return
        last = now
        line = {"phase": phase, "step": step, "steps": steps, "loss": loss}
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()

    return report


def _one_thread() -> None:
    """One thread for each matrix product; a body runs several fits at once instead.

    On shared cores a second one mostly waits, and makes the first wait too. This must come before
    NumPy is imported: its BLAS reads these once.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


if __name__ == "__main__":
    sys.exit(main())
