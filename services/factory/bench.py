"""The workbench: one folder per job, laid out for the training child and cleared after it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from lora.card import LoRACard
from lora.errors import CardNotFoundError
from lora.neighbours import MOST_NEIGHBOURS
from lora.training.checkpoint import Checkpoints
from lora.training.dataset import MAX_BYTES
from schemas import SkillCard
from services.factory.errors import FactoryError
from services.factory.feedback import FeedbackStore
from services.factory.job import (
    CHECKPOINTS,
    JOB,
    RESULT,
    BaseModelRef,
    ChampionRef,
    Job,
    JobError,
    Result,
    read_job,
    read_result,
    write_job,
)
from services.factory.material import anchors, embed, save
from services.factory.process import Progress, attend, start_child
from services.factory.spare import Spare
from services.factory.tasks import Owed, Phase
from services.factory.versions import VersionStore
from services.runtime.client import FleetClient
from services.runtime.settings import Settings
from services.runtime.shared import card_store, shared_datasets
from services.runtime.skill_index import claims
from services.runtime.state import StateFolder

__all__ = ["Bench", "Done"]

GRACE = 120.0
"""Seconds beyond four times its budget after which a child is ended: it hangs."""

_MAX_NEGATIVES = 20_000


@dataclass(frozen=True)
class Done:
    """A finished job."""

    result: Result
    folder: Path
    champion: str | None
    """Digest of the card that the candidate was judged against; None: the base model."""


class Bench:
    """Makes jobs of owed phases; a finished job that was not concluded is found again."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        state: StateFolder,
        versions: VersionStore,
        feedback: FeedbackStore,
        child: Sequence[str],
        spare: Spare | None = None,
    ) -> None:
        """`child` starts a training child; where there is a `spare` one, it trains heads."""
        self._folder = folder
        self._settings = settings
        self._state = state
        self._store = card_store(settings.store, state)
        self._shared = shared_datasets(settings.store)
        self._versions = versions
        self._feedback = feedback
        self._child = tuple(child)
        self._spare = spare

    async def train(
        self,
        owed: Owed,
        client: FleetClient,
        background: Path,
        attempts: int,
        heard: Callable[[Progress], Awaitable[None]],
    ) -> Done:
        """Do the job, unless its result is there already.

        One that was interrupted goes on from its checkpoints; the child itself begins again where
        they are of another job (data, champion or settings have changed).

        Raises `FactoryError`, and `EncodeFailedError` or `bus.RequestTimeout` where the fleet
        cannot embed what the job needs, `lora.errors.StoreError` where an object store cannot give
        what is in it alone.
        """
        folder = self._folder / owed.key
        found = self._finished(folder, owed)
        if found is not None:
            return found
        before = _emptied(folder)
        held = await self._fetched(owed.task.skill)
        job = await self._job(owed, client, background, attempts, folder)
        spent = 0.0
        if before is not None and before[0] == job.identity:
            job = structs.replace(job, created=before[1])
            spent = Checkpoints.spent(folder / CHECKPOINTS)
        write_job(folder, job)
        child = None
        if self._spare is not None and job.phase == "head":
            child = await self._spare.take(folder)
        if child is None:
            child = await start_child((*self._child, str(folder)), threads=job.threads)
        await attend(
            child,
            limit=max(0.0, 4 * job.time_budget_s - spent) + GRACE,
            memory=self._settings.factory.memory_bytes,
            heard=heard,
        )
        held.clear()
        try:
            result = read_result(folder)
        except JobError as error:
            raise FactoryError(str(error)) from error
        return Done(result, folder, None if job.champion is None else job.champion.digest)

    def _finished(self, folder: Path, owed: Owed) -> Done | None:
        """The result of a job that an interruption kept from being concluded, if it still holds."""
        if not (folder / RESULT).exists():
            return None
        try:
            job, result = read_job(folder), read_result(folder)
        except JobError:
            return None
        done = Done(result, folder, None if job.champion is None else job.champion.digest)
        return None if self.outdated(owed, done) else done

    def outdated(self, owed: Owed, done: Done) -> bool:
        """Another card is in service now than the one that the candidate was judged against."""
        present = self._versions.newest(owed.task.skill)
        return (None if present is None else present.card.digest) != done.champion

    def clear(self, owed: Owed) -> None:
        """Delete the job's folder."""
        shutil.rmtree(self._folder / owed.key, ignore_errors=True)

    def tidy(self, owed: Collection[str]) -> None:
        """Delete the folders of all jobs but those of these keys."""
        for folder in self._folder.glob("*"):
            if folder.name not in owed:
                shutil.rmtree(folder, ignore_errors=True)

    async def _job(
        self, owed: Owed, client: FleetClient, background: Path, attempts: int, folder: Path
    ) -> Job:
        task, settings = owed.task, self._settings.factory
        digest = task.dataset.digest
        champion = self._champion(task.skill)
        description = f"Learned from feedback on {task.domain}."
        vector = folder / "description.npy"
        described = (await embed(client, [description]))[0]
        save(vector, described)
        neighbours = self._neighbours(task.skill)
        negatives = self._feedback.others(task.domain, _MAX_NEGATIVES, settings.seed)
        if negatives is not None:
            save(folder / "negatives.npy", negatives)
        trusted = None
        if settings.anchors is not None:
            made = await anchors(
                client, Path(settings.anchors), self._folder.parent, task.base_model.sha256
            )
            trusted = str(made.absolute())
        return Job(
            phase=owed.phase,
            task_id=task.task_id,
            skill=task.skill,
            domain=task.domain,
            version=self._versions.next_number(task.skill),
            dataset=str(await self._dataset(digest, folder)),
            dataset_digest=digest,
            base_model=BaseModelRef(task.base_model.id, task.base_model.sha256),
            background=str(background),
            model=self._settings.fleet.model,
            champion=champion,
            parents=() if champion is None else (champion.digest,),
            description=description,
            description_vector=vector.name,
            seed=settings.seed,
            attempts=attempts,
            time_budget_s=(
                settings.head_time_budget if owed.phase == "head" else settings.body_time_budget
            ),
            threads=settings.thread_count,
            memory_budget=settings.memory_bytes >> owed.shrunk,
            negatives=None if negatives is None else "negatives.npy",
            anchors=trusted,
            neighbours=tuple(str(self._store.path(it.digest)) for it in neighbours),
            claims=await self._claims(champion, neighbours, len(described)),
            settings=self._options(owed.phase),
            created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        )

    async def _dataset(self, digest: str, folder: Path) -> Path:
        """The dataset's file; one that was made on another machine comes into the job's folder."""
        path = self._state.datasets / f"{digest.removeprefix('sha256:')}.parquet"
        if self._shared is None or path.exists():
            return path
        fetched = folder / "dataset.parquet"
        await asyncio.to_thread(self._shared.fetch, digest, fetched, MAX_BYTES)
        return fetched

    async def _fetched(self, skill: str) -> list[LoRACard]:
        """The cards of the job that are in an object store, each open: so its file stays here."""
        held: list[LoRACard] = []
        if not self._store.fetches:
            return held
        present = self._versions.newest(skill)
        wanted = [] if present is None else [present.card.digest]
        for digest in (*wanted, *(card.digest for card in self._candidates(skill))):
            with contextlib.suppress(CardNotFoundError):
                held.append(await asyncio.to_thread(self._store.open, digest))
        return held

    def _options(self, phase: Phase) -> dict[str, Any]:
        """What the training of this phase is told beside its budgets."""
        settings = self._settings.factory
        options: dict[str, Any] = {"temperature": settings.temperature}
        if settings.probe and phase == "body":  # only a body has layers to choose from
            options["probe"] = True
        return options

    def _neighbours(self, skill: str) -> list[SkillCard]:
        """Those of the candidates whose files are here."""
        return [it for it in self._candidates(skill) if self._store.path(it.digest).exists()]

    def _candidates(self, skill: str) -> list[SkillCard]:
        """The cards that its queries may be taken for; this node's own before those of others, the
        newest skills first."""
        others = (self._versions.newest(name) for name in self._versions.skills() if name != skill)
        routed = [it for it in others if it is not None and it.card.threshold is not None]
        routed.sort(key=lambda it: (it.card.signer is not None, -it.since, it.card.digest))
        return [it.card for it in routed[:MOST_NEIGHBOURS]]

    async def _claims(
        self, champion: ChampionRef | None, neighbours: Sequence[SkillCard], dim: int
    ) -> dict[str, float]:
        """What the router believes of other authors' cards in the job."""
        foreign = {card.digest for card in neighbours if card.signer is not None}
        if champion is not None and champion.foreign:
            foreign.add(champion.digest)
        if not foreign:
            return {}
        cards = [version.card for version in self._versions.in_service()]
        floor = self._settings.router.description_threshold
        found = await asyncio.to_thread(claims, cards, dim, floor)
        return {digest: least for digest, least in found.items() if digest in foreign}

    def _champion(self, skill: str) -> ChampionRef | None:
        present = self._versions.newest(skill)
        if present is None:
            return None
        card = present.card
        path = self._store.path(card.digest)
        if not path.exists():
            raise FactoryError(f"version {card.version} of {skill} is not in the card store")
        folds = self._versions.folds(card.digest)
        return ChampionRef(
            card=str(path),
            digest=card.digest,
            version=card.version,
            folds=str(folds) if folds.is_dir() else None,
            foreign=card.signer is not None,
        )


def _emptied(folder: Path) -> tuple[str, str | None] | None:
    """Make the folder, or clear it of all but unfinished work; identity and time of its job."""
    before: tuple[str, str | None] | None = None
    if (folder / CHECKPOINTS).is_dir():
        with contextlib.suppress(JobError):
            job = read_job(folder)
            before = job.identity, job.created
    # The old job stays until the new one takes its place: checkpoints without one are nobody's.
    kept = {CHECKPOINTS, JOB} if before is not None else set()
    for entry in folder.glob("*"):
        if entry.name in kept:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return before
