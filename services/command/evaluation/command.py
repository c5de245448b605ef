"""`consonance evaluate`: a BEIR-style folder, with skills and without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, MANY, UNSAID, group, note, print_json, run, show
from services.command.place import HERE, Place, connected

if TYPE_CHECKING:
    from services.command.evaluation.folder import Collection
    from services.command.evaluation.run import Evaluation, Progress

__all__ = ["app"]

_EXAMPLES = """
Examples:

    consonance evaluate --example ./stdlib
        writes a folder to try it on, with feedback for a fleet to learn from

    consonance evaluate ./support
        the base model, and what the fleet makes of each query by itself

    consonance evaluate ./support --model auto support@3 support+slang
        skills by name, too; several that stack are joined by +

    consonance evaluate ./support --split dev --limit 200 --json > before.json
    consonance evaluate ./support --out run.trec
        run.base.trec and run.auto.trec, as trec_eval reads them

A folder holds corpus.jsonl (_id, text and perhaps title), queries.jsonl
(_id, text) and qrels/SPLIT.tsv (query-id, corpus-id, score), or qrels.tsv.
The documents are embedded once, with the base model, and their vectors kept:
after learning only the queries are asked again. What is interrupted goes on
where it was. nDCG is that of trec_eval's ndcg_cut: a document gains its
relevance itself, not 2^relevance - 1.
"""

app = group("evaluate", "Measure ranking on a folder in BEIR's form.", _EXAMPLES)
app.command(
    "services.command.evaluation.example:app",
    name="--example",
    help="Write a folder to try this on.",
)


@app.default
def evaluate(
    folder: Path,
    /,
    *,
    split: str = "test",
    model: Annotated[tuple[str, ...], MANY] = (),
    k: int = 10,
    json: Annotated[bool, FLAG] = False,
    out: Annotated[Path | None, UNSAID] = None,
    limit: Annotated[int | None, UNSAID] = None,
    cache: Annotated[Path | None, UNSAID] = None,
    at: Place = HERE,
) -> int:
    """Measure how well the fleet ranks a folder's documents, with its skills and without.

    Parameters
    ----------
    folder
        corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv
    split
        Which judgements: qrels/SPLIT.tsv
    model
        auto, base, or skills by name; base is always asked, to compare with. Default: auto
    k
        Cutoff of nDCG, MRR and recall, at most 1,000; recall@100 is told besides
    json
        Write the report as JSON
    out
        Also write the rankings for trec_eval, to FILE.MODEL.trec for FILE.trec
    limit
        Only the first so many queries
    cache
        Where the documents' vectors are kept. Default: evaluation in the state folder
    """
    from services.command.evaluation.folder import read_folder
    from services.command.evaluation.run import models_of
    from services.command.evaluation.words import told

    models = models_of(model)
    if not 1 <= k <= 1000:
        raise InputRefused(f"--k is from 1 to 1,000, not {k}")
    if limit is not None and limit < 1:
        raise InputRefused(f"--limit is at least 1, not {limit}")
    collection = read_folder(folder.expanduser(), split, limit)
    _check_out(out, collection)
    found = run(_evaluated(collection, models, k, cache or at.folder / "evaluation", at))
    _write_runs(out, collection, found)
    print_json(found.report) if json else show(told(found.report))
    return DONE


async def _evaluated(
    collection: Collection, models: tuple[str, ...], k: int, cache: Path, at: Place
) -> Evaluation:
    from services.command.evaluation.run import evaluate as measured
    from services.runtime.client import FleetClient

    async with connected(at) as bus:
        client = FleetClient(bus, deadline_ms=120_000)
        with _bars() as progress:
            return await measured(
                client, collection, models, cache, k=k, weights=_weights(at), progress=progress
            )


def _weights(at: Place) -> str | None:
    """SHA-256 of the fleet's model, where the fleet's settings lie on this machine."""
    if at.bus is not None or not (at.folder / "fleet" / "settings.toml").is_file():
        return None
    from lora.errors import LoRAError
    from lora.model import find_model

    try:
        return find_model(at.settings.fleet.model).base_model.sha256
    except LoRAError:  # the fleet found it, or it would not run: it runs elsewhere
        return None


def _check_out(out: Path | None, collection: Collection) -> None:
    """What the rankings need is found wanting before anything is asked."""
    if out is None:
        return
    if not out.parent.is_dir():
        raise InputRefused(f"the folder {out.parent} does not exist")
    ids = (*(query.id for query in collection.queries), *collection.ids)
    spaced = next((id for id in ids if len(id.split()) != 1), None)
    if spaced is not None:
        raise InputRefused(f"--out cannot be met: the id {spaced!r} has a space in it")


def _write_runs(out: Path | None, collection: Collection, found: Evaluation) -> None:
    from services.command.evaluation.words import trec_file, write_trec

    if out is None:
        return
    for model, ranked in found.ranked.items():
        path = trec_file(out, model, len(found.ranked))
        write_trec(path, model, collection, ranked)
        note(f"{path} holds the ranking by {model}")


@contextmanager
def _bars() -> Iterator[Progress]:
    """A bar for each step, with rate and time left, where somebody looks at standard error."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:,.0f}/s")

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int, found: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            # What was found took no time, and would promise a rate that is none.
            bars.update(tasks[what], total=total - found, completed=done - found)

        yield tell
