"""`consonance evaluate`: a BEIR-style folder, with skills and without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from services.command.errors import DONE, InputRefused
from services.command.kit import FLAG, MANY, UNSAID, group, note, print_json, run, show
from services.command.place import HERE, Place

if TYPE_CHECKING:
    from services.command.evaluation.folder import Collection
    from services.command.evaluation.run import Evaluation

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

    consonance evaluate ./support --split train --feedback given.jsonl
    consonance feedback given.jsonl
        lets the fleet learn from the judgements of another split

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
    feedback: Annotated[Path | None, UNSAID] = None,
    domain: Annotated[str | None, UNSAID] = None,
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
    feedback
        Also write the judgements as feedback that `consonance feedback` takes: relevant is what was
        judged so, irrelevant what base ranks among its first ten all the same
    domain
        Of that feedback. Default: the folder's name
    limit
        Only the first so many queries, as queries.jsonl has them
    cache
        Where the documents' vectors are kept. Default: evaluation in the state folder
    """
    from services.command.evaluation.asking import evaluated
    from services.command.evaluation.feedback import write_feedback
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
    domain = _checked_domain(feedback, domain, collection.folder)
    if out is not None and out == feedback:
        raise InputRefused("--out and --feedback are one file: each needs its own")
    found = run(evaluated(collection, models, at, k=k, cache=cache))
    _write_runs(out, collection, found)
    if feedback is not None:
        count = write_feedback(feedback, collection, found.ranked["base"], domain)
        note(
            f"{feedback} holds {count:,} pieces of feedback of the domain {domain}; what was "
            f"learned from them says nothing on the split {split}: measure it on another"
        )
    print_json(found.report) if json else show(told(found.report))
    return DONE


def _check_out(out: Path | None, collection: Collection) -> None:
    """What the rankings need is found wanting before anything is asked."""
    if out is None:
        return
    _check_file(out, collection.folder)
    ids = (*(query.id for query in collection.queries), *collection.ids)
    spaced = next((id for id in ids if len(id.split()) != 1), None)
    if spaced is not None:
        raise InputRefused(f"--out cannot be met: the id {spaced!r} has a space in it")


def _checked_domain(feedback: Path | None, domain: str | None, folder: Path) -> str:
    from services.command.evaluation.feedback import DOMAIN, domain_of

    if feedback is None and domain is not None:
        raise InputRefused("--domain goes with --feedback")
    if feedback is not None:
        _check_file(feedback, folder)
    if domain is not None and not DOMAIN.fullmatch(domain):
        raise InputRefused(f"a domain is named [a-z0-9][a-z0-9._-]*, up to 64 long, not {domain!r}")
    return domain or domain_of(folder)


def _check_file(file: Path, folder: Path) -> None:
    """What would fail, or overwrite what is measured, is found before anything is asked."""
    if not file.parent.is_dir():
        raise InputRefused(f"the folder {file.parent} does not exist")
    if file.is_dir():
        raise InputRefused(f"{file} is a folder: name a file")
    qrels = (folder / "qrels.tsv", *(folder / "qrels").glob("*.tsv"))
    for own in (folder / "corpus.jsonl", folder / "queries.jsonl", *qrels):
        if file.exists() and own.exists() and file.samefile(own):
            raise InputRefused(f"{file} is a part of what is measured: name another file")


def _write_runs(out: Path | None, collection: Collection, found: Evaluation) -> None:
    from services.command.evaluation.words import trec_file, write_trec

    if out is None:
        return
    for model, ranked in found.ranked.items():
        path = trec_file(out, model, len(found.ranked))
        write_trec(path, model, collection, ranked)
        note(f"{path} holds the ranking by {model}")
