"""A fleet without a model, and folders to evaluate it on.

Its vectors are bags of words; the skill `jargon` knows what some words mean, and is routed to where
a query has one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np

from bus import Bus, connect
from schemas import (
    AppliedSkill,
    BaseModelRef,
    CompletedRow,
    EncodeFailed,
    EncodeRequested,
    Event,
    ListedCard,
    SkillListed,
    SkillListRequested,
)
from tests.services.encoded import encoded

DIM = 256
MEANS = {"flumox": "refund money back", "bravik": "password reset", "trundel": "parcel tracking"}
DIGEST = "sha256:" + "ab" * 32


class FakeFleet:
    """Answers every encode request; remembers what it was asked."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.model = "bag-of-words"
        self.other = False
        """Makes another model of the same name."""
        self.skills = True
        self.applies_to: tuple[str, ...] = ("query",)
        self.requests: list[EncodeRequested] = []
        self._places: dict[str, int] = {}
        self.silent_after: int | None = None
        """So many document requests are answered, the others are not."""
        self.fail_after: int | None = None
        """So many document requests are answered, the others fail."""

    @property
    def documents(self) -> int:
        """Documents embedded so far."""
        return sum(len(it.texts) for it in self.requests if it.role == "document")

    def vector(self, text: str) -> np.ndarray:
        found = np.full(DIM, 1e-3, np.float32)
        for word in text.lower().split():
            place = self._places.setdefault(word, len(self._places)) % DIM
            found[-place if self.other else place] += 1
        return found

    def row(self, data: EncodeRequested, text: str) -> tuple[np.ndarray, CompletedRow]:
        if data.role == "document":
            return self.vector(text), CompletedRow(reason="document")
        known = [word for word in text.lower().split() if word in MEANS]
        if data.route == "base" or not self.skills:
            reason = "base_requested" if data.route == "base" else "no_skills"
            return self.vector(text), CompletedRow(reason=reason)
        if data.route == "auto" and not known:
            return self.vector(text), CompletedRow(reason="below_threshold")
        meant = " ".join([MEANS.get(word, word) for word in text.lower().split()])
        skill = AppliedSkill(name="jargon", version=2, digest=DIGEST, score=0.9)
        return self.vector(meant), CompletedRow(skills=(skill,))

    async def answer(self, event: Event[EncodeRequested]) -> None:
        data = event.data
        self.requests.append(data)
        document = data.role == "document"
        answered = sum(it.role == "document" for it in self.requests)
        if document and self.fail_after is not None and answered > self.fail_after:
            await self.fail(event, "internal", "the encoder is on fire")
            return
        if document and self.silent_after is not None and answered > self.silent_after:
            return
        unknown = [name for name in data.skills if name not in {"jargon", "jargon@2"}]
        if unknown:
            await self.fail(event, "unknown_skill", f"skill {unknown[0]!r} is not installed")
            return
        made = [self.row(data, text) for text in data.texts]
        vectors, rows = zip(*made, strict=True)
        completed, stream = encoded(event.id, vectors, rows, self.model)
        reply = event.derive(
            completed, source=self.bus.source, to=data.reply_to, attachments=(stream,)
        )
        await self.bus.publish(msgspec.structs.replace(reply, correlation_id=event.id))

    async def fail(self, event: Event[EncodeRequested], code: str, message: str) -> None:
        failed = EncodeFailed(request_id=event.id, code=code, message=message)  # type: ignore[arg-type]
        reply = event.derive(failed, source=self.bus.source, to=event.data.reply_to)
        await self.bus.publish(msgspec.structs.replace(reply, correlation_id=event.id))

    async def list(self, event: Event[SkillListRequested]) -> None:
        card = ListedCard(
            name="jargon",
            version=2,
            digest=DIGEST,
            bytes=1,
            rank=1,
            alpha=1.0,
            target_modules=("embedding",),
            base_model=BaseModelRef(id=self.model, sha256="0" * 64),
            applies_to=self.applies_to,
            description="",
            prototypes="",
            threshold=None,
            metrics={},
            created="2026-01-01T00:00:00Z",
            parents=(),
            state="installed",
        )
        listed = SkillListed(cards=(card,))
        reply = event.derive(listed, source=self.bus.source, to=event.data.reply_to)
        await self.bus.publish(msgspec.structs.replace(reply, correlation_id=event.id))

    async def serve(self, live: asyncio.Event) -> None:
        async with self.bus.watch((EncodeRequested, SkillListRequested)) as events:
            live.set()
            async for event in events:
                if isinstance(event.data, EncodeRequested):
                    await self.answer(event)
                else:
                    await self.list(event)


@asynccontextmanager
async def fake_fleet(url: str) -> AsyncIterator[FakeFleet]:
    """A fake fleet on this bus, until the block ends."""
    async with await connect(url, source="/fake/1") as bus:
        fleet, live = FakeFleet(bus), asyncio.Event()
        task = asyncio.create_task(fleet.serve(live))
        await live.wait()
        try:
            yield fleet
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def write_folder(
    folder: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    judged: Sequence[tuple[str, str, int]],
    split: str = "test",
) -> Path:
    """A BEIR-style folder."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": id, "text": text}) for id, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


DOCUMENTS = {
    "refunds": "how you get a refund and your money back",
    "passwords": "a new password when you forget yours",
    "parcels": "where a parcel is and tracking it",
    "hours": "when our shops are open",
    "offers": "vouchers for students",
}


def shop(folder: Path) -> Path:
    """30 queries: ten about each of three documents, of which nine say it by a code word."""
    queries, judged = {}, []
    about = {"refunds": "flumox", "passwords": "bravik", "parcels": "trundel"}
    for document, code in about.items():
        for number in range(10):
            id = f"{document}-{number}"
            word = code if number else DOCUMENTS[document].split()[-1]
            queries[id] = f"{'please ' * number}help {word}"
            judged.append((id, document, 1))
    return write_folder(folder, DOCUMENTS, queries, judged)
