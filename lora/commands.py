"""The command line of the probe and the extractor: from words to a table, a card, an exit code."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from lora.card import EXTENSION, LoRAFormat
from lora.card_checks import NAME
from lora.errors import InstrumentError, LoRAError

__all__ = ["extract", "main", "probe"]

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

_CODES = """
A model is a folder (sentence-transformers or plain transformers), a hub id, or the word `default`.

Exit codes: 0 done, 1 the disk or the machine failed, 2 the input was refused, 130 interrupted.
"""

_EXAMPLES = f"""
Examples:

    python -m lora probe default --texts questions.txt
        which layers of the default model these questions excite most

    python -m lora probe ./base ./tuned --rank 4
        where training changed a model, and ranks at the price of rank 4 on query and value

    python -m lora extract ./base ./tuned --out bank.lora.arrow --energy 0.9
        what training added, as a card for the base model

    python -m lora extract ./model --direct --use remove --rank 4 --out less.lora.arrow
        a card that takes the four strongest directions out of every layer
{_CODES}"""

_WIDE = 160  # columns where nobody's terminal sets a limit

_FLAG = Parameter(negative="", show_default=False)

app = App(
    name="python -m lora",
    help="Instruments for skill cards: what to adapt, and cards from weights that are there.",
    help_epilogue=_EXAMPLES,
    help_format="plaintext",
    version_flags=[],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says a word and exits
)


@app.command(help_epilogue=_CODES)
def probe(
    model: str = "default",
    tuned: str | None = None,
    *,
    texts: Path | None = None,
    limit: int = 1000,
    role: Literal["query", "document"] = "query",
    top: int | None = None,
    rank: int = 8,
    budget: int | None = None,
    json: Annotated[bool, _FLAG] = False,
) -> int:
    """Rank the Linear layers of a model for adaptation, by texts or by what training changed.

    Parameters
    ----------
    model
        The model, or the one before training
    tuned
        The one after training, instead of texts
    texts
        File of texts, one a line, as the model will be asked
    limit
        Texts run at most, spread evenly over the file
    role
        What the texts are
    top
        Show so many layers, and suggest ranks for these only. Default: all
    rank
        The budget is what this rank on query and value would take
    budget
        The budget in parameters, instead of `rank`
    json
        Write the report as JSON
    """
    if (texts is None) == (tuned is None):
        raise InstrumentError("give a file of --texts to run, or a second model to compare with")
    _above_zero(limit=limit, rank=rank, top=top, budget=budget)
    lines = _lines(texts, limit) if texts is not None else []
    from lora.probe import WeightMapProbe  # below: a refusal need not wait for torch

    with _progress() as tell:
        if tuned is not None:
            report = WeightMapProbe.delta(_model(model), _model(tuned) or _default(), progress=tell)
        else:
            report = WeightMapProbe(_model(model)).texts(lines, role=role, progress=tell)
    ranks = report.ranks(budget if budget is not None else report.budget(rank), top=top)
    if json:
        _print_json({**report.as_dict(), "ranks": ranks})
    else:
        _print(report.table(top, ranks))
    return DONE


@app.command(help_epilogue=_CODES)
def extract(
    model: str,
    tuned: str | None = None,
    *,
    out: Path,
    rank: int | None = None,
    energy: float | None = None,
    alpha: float | None = None,
    targets: Annotated[
        tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)
    ] = (),
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32",
    name: str | None = None,
    description: str | None = None,
    applies_to: Annotated[
        tuple[Literal["query", "document"], ...],
        Parameter(consume_multiple=True, negative="", show_default=False),
    ] = ("query",),
    direct: Annotated[bool, _FLAG] = False,
    use: Literal["amplify", "remove"] = "amplify",
    strength: float = 1.0,
    texts: Path | None = None,
    force: Annotated[bool, _FLAG] = False,
    json: Annotated[bool, _FLAG] = False,
) -> int:
    """Make a card of what training added to a model, or of a part of one model's own weights.

    Parameters
    ----------
    model
        The model that the card will be for
    tuned
        The same model after training
    out
        File of the card, NAME.lora.arrow
    rank
        Largest rank of a layer. Default: no bound but the energy
    energy
        Per layer, the smallest rank that holds this share of Σσ². Default: 0.9 where no rank is
        given
    alpha
        Alpha of every layer, which changes nothing that the card does. Default: its rank
    targets
        Layers by name or suffix, such as query value. Default: all
    dtype
        How the card's numbers are stored
    name
        Name of the card. Default: that of the file
    description
        What the card is for, in a sentence
    applies_to
        What the card bends; with `document` stored vectors must be made anew. Default: query
    direct
        Take the leading part of the model's own weights instead of a difference
    use
        With --direct: add the part once more, or take it away
    strength
        With --direct: how much of it, above 0
    texts
        File of texts on which the card is compared with the tuned model
    force
        Replace the file where it exists
    json
        Write the report as JSON
    """
    name = _checked_out(out, name, force=force)
    if direct == (tuned is not None):
        raise InstrumentError("give a second model to compare with, or --direct, and not both")
    if texts is not None and tuned is None:
        raise InstrumentError("--texts compares with a tuned model, and --direct has none")
    lines = _lines(texts, 1000) if texts is not None else []
    from lora.extractor import LoRAExtractor

    about: dict[str, Any] = {"applies_to": applies_to}
    if description is not None:
        about["description"] = description
    extractor = LoRAExtractor(rank=rank, energy=energy, alpha=alpha, targets=targets, dtype=dtype)
    with _progress() as tell:
        if tuned is None:
            made = extractor.direct(
                _model(model), name=name, use=use, strength=strength, progress=tell, **about
            )
        else:
            after = _model(tuned) or _default()
            made = extractor.delta(_model(model), after, name=name, progress=tell, **about)
    card = LoRAFormat.write(made.card, out)
    written = {"card": str(out), "name": name, "digest": card.digest, "bytes": card.bytes}
    cosines = _cosines(_model(model), tuned, card, lines) if lines else {}
    if json:
        _print_json({**made.report.as_dict(), **written, **cosines})
        return DONE
    _print(*made.report.tables(), *made.report.notes)
    if cosines:
        _print(
            f"Cosine to the tuned model on {len(lines)} texts: {cosines['cosine_card']:.5f} with "
            f"the card (least {cosines['cosine_card_least']:.5f}), "
            f"{cosines['cosine_base']:.5f} without."
        )
    _print(f"{out}: {name}@{card.version}, {(card.bytes or 0) / 1e6:.2f} MB, {card.digest}")
    return DONE


def main(words: Iterable[str] | None = None) -> None:
    """Run the command line and exit; every refusal is one sentence on standard error."""
    try:
        code = app(
            list(sys.argv[1:] if words is None else words), exit_on_error=False, print_error=False
        )
    except (CycloptsError, LoRAError) as error:
        code = _tell(error, REFUSED)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        code = _tell(f"cannot go on: {error.strerror or error}{where}", FAILED)
    except MemoryError:
        code = _tell("cannot go on: out of memory", FAILED)
    except KeyboardInterrupt:
        code = _tell("interrupted", INTERRUPTED)
    sys.exit(code or DONE)


def _cosines(base: str | None, tuned: str | None, card: Any, texts: list[str]) -> dict[str, float]:
    """Mean and least cosine to the tuned model's vectors, of the base with the card and without."""
    from lora.engine import ArrowEngine
    from lora.head import normalize

    role = card.applies_to[0]
    wanted = normalize(ArrowEngine(tuned).encode(texts, role=role))
    engine = ArrowEngine(base)
    plain = (normalize(engine.encode(texts, role=role)) * wanted).sum(axis=1)
    bent = engine.encode_rows(texts, [[card]] * len(texts), role=role)
    found = (normalize(bent) * wanted).sum(axis=1)
    return {
        "cosine_card": float(found.mean()),
        "cosine_card_least": float(found.min()),
        "cosine_base": float(plain.mean()),
    }


def _checked_out(out: Path, name: str | None, *, force: bool) -> str:
    """The card's name, once it is sure that the card can lie there."""
    if not out.name.endswith(EXTENSION):
        raise InstrumentError(f"a card's file is called NAME{EXTENSION}, not {out.name}")
    if not out.parent.is_dir():
        raise InstrumentError(f"the folder {out.parent} does not exist")
    if out.exists() and not (force and out.is_file()):
        raise InstrumentError(f"{out} exists; --force replaces a file")
    name = out.name.removesuffix(EXTENSION) if name is None else name
    if NAME.fullmatch(name) is None:
        raise InstrumentError(f"{name!r} is no card's name, which must match {NAME.pattern}")
    return name


def _lines(file: Path | None, limit: int) -> list[str]:
    """Up to `limit` lines of a file that are not blank, spread evenly."""
    try:
        text = Path(str(file)).read_text("utf-8")
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
        raise InstrumentError(f"the texts in {file} cannot be read: {reason}") from e
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InstrumentError(f"{file} holds no text")
    count = min(limit, len(lines))
    return [lines[i * len(lines) // count] for i in range(count)]


def _model(words: str) -> str | None:
    return None if words == "default" else words


def _default() -> Path:
    from lora.model import find_model

    return find_model(None).folder


def _above_zero(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise InstrumentError(f"--{name} must be at least 1, not {value}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on standard error where somebody looks at it."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as shown:
        task = shown.add_task("loading", total=None)
        yield lambda done, total, what: shown.update(
            task, completed=done, total=total, description=what
        )


def _print(*what: Any) -> None:
    wide = None if sys.stdout.isatty() else _WIDE
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False, width=wide)
    for one in what:
        console.print(one)


def _print_json(words: dict[str, Any]) -> None:
    print(json_module.dumps(words, indent=2))


def _tell(error: Exception | str, code: int) -> int:
    print(f"python -m lora: {' '.join(str(error).split())}", file=sys.stderr)
    return code
