"""A training child that decides what it was told to: `python fake_child.py PLAN JOB_FOLDER`.

PLAN is a JSON file: phases by name, each with `accepted`, a `wait` file until which it stays, and
`hogs`: bytes that it holds for good where its memory budget is above `tight`.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from lora.card import Adapter, BaseModel, LoRACard, LoRAFormat
from services.factory.job import CANDIDATE, CHECKPOINTS, FOLDS, Result, read_job, write_result


def main(plan_file: Path, folder: Path) -> int:
    job = read_job(folder)
    champion = None if job.champion is None else job.champion.version
    entry = {"phase": job.phase, "task": job.task_id, "champion": champion}
    entry |= {"version": job.version, "attempts": job.attempts, "negatives": job.negatives}
    entry |= {"memory": job.memory_budget, "goes_on": (folder / CHECKPOINTS).is_dir()}
    entry |= {"settings": job.settings}
    dataset = folder / job.dataset
    entry |= {"dataset": dataset.read_text("latin-1") if dataset.exists() else None}
    entry |= {"neighbours": job.neighbours, "claims": job.claims}
    entry |= {"foreign": job.champion is not None and job.champion.foreign}
    entry |= {"folds": None if job.champion is None else job.champion.folds}
    with plan_file.with_suffix(".log").open("a") as log:
        log.write(json.dumps(entry) + "\n")
    (folder / CHECKPOINTS).mkdir(exist_ok=True)
    plan = json.loads(plan_file.read_text())[job.phase]
    print(json.dumps({"phase": job.phase, "step": 1, "steps": 2, "loss": 0.5}), flush=True)
    if plan.get("hogs") and (job.memory_budget or 0) > plan["tight"]:
        held = np.ones(plan["hogs"], np.uint8)
        while held.all():
            time.sleep(0.01)
    while plan.get("wait") and not Path(plan["wait"]).exists():
        time.sleep(0.01)
    if plan.get("fails"):
        print("the child was told to fail", file=sys.stderr)
        return 1
    dim = np.load(job.background).shape[1]
    seed = sum(map(ord, job.task_id + job.phase))
    factor = np.random.default_rng(seed).standard_normal((dim, 2)).astype(np.float32)
    card = LoRACard(
        name=job.skill,
        version=job.version,
        rank=2,
        alpha=2.0,
        base_model=BaseModel(job.base_model.id, job.base_model.sha256),
        dim=dim,
        modules={"embedding": Adapter(a=factor, b=factor.T.copy(), rank=2, alpha=2.0)},
        parents=job.parents,
        metrics={"gain": 0.1},
    )
    LoRAFormat.write(card, folder / CANDIDATE)
    (folder / FOLDS).mkdir()
    LoRAFormat.write(card, folder / FOLDS / "0.lora.arrow")
    accepted = bool(plan["accepted"])
    reason = "better" if accepted else "not better"
    metrics = {"before": 0.5, "after": 0.6, "low": None, "routed": "a text"}
    write_result(
        folder,
        Result(accepted=accepted, reason=reason, metrics=metrics, threshold=None, seconds=0.1),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
