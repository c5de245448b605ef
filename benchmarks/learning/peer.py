"""sentence-transformers with a PEFT LoRA, until it is as good: `python -m …peer FOLDER`.

In a process of its own, which reads a task from the folder and writes what it found there. Each
recipe trains from the base model; now and then its clock stands still while the held-out queries
are ranked. Its time is that of the steps so far and, since it tunes both sides, of embedding all
passages anew. Loading the libraries and the model is counted for nobody.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.kit.measure import ranks_of
from benchmarks.versus_sentence_transformers.theirs import Recipe

__all__ = ["RECIPES", "RESULT", "TASK", "Look", "Race", "Tried", "main"]

TASK: Final = "race.json"
RESULT: Final = "race-result.json"

RECIPES: Final = {"chosen": (5e-4, 8), "chosen, longer": (5e-4, 32), "documented": (2e-5, 32)}
"""Learning rate and epochs; all else is as in the documentation's PEFT example. Its rate is for ten
thousands of pairs: of those that `benchmarks.versus_sentence_transformers` chooses from, 5e-4 gets
furthest with so few."""

LOOKS: Final = 12
"""So often at most a recipe is looked at."""

_QUIET: dict[str, Any] = {"batch_size": 64, "show_progress_bar": False}


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """What the peer is told."""

    queries: list[str]
    relevant: list[int]
    """Index of each query's passage."""
    passages: list[str]
    held_out: list[str]
    held_out_relevant: list[int]
    model: str
    goals: list[float]
    """Shares of the held-out queries that are to find their passage first, 0 to 1."""
    limit_s: float
    """After so many counted seconds a recipe is given up."""
    threads: int
    seed: int


class Look(msgspec.Struct, frozen=True):
    """A recipe at one moment."""

    seconds: float
    """Of training so far, and of embedding the passages."""
    recall: float


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one recipe."""

    recipe: str
    looks: list[Look]

    def reached(self, goal: float) -> float | None:
        """Seconds until it was as good; None where it never was."""
        return next((it.seconds for it in self.looks if it.recall >= goal), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the work of the folder that is named; 0 with a result."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    race = msgspec.json.decode((Path(folder) / TASK).read_bytes(), type=Race)
    runner, limit = _Runner(race, Path(folder)), race.limit_s
    found: list[Tried] = []
    for name in RECIPES:
        tried = runner.run(name, limit)
        found.append(tried)
        last = tried.reached(max(race.goals))
        if last is not None:  # who is slower than that wins nothing
            limit = min(limit, last)
    (Path(folder) / RESULT).write_bytes(msgspec.json.encode(found))
    return 0


class _Runner:
    def __init__(self, race: Race, folder: Path) -> None:
        import torch

        talk: Any = import_module("transformers.utils.logging")
        talk.set_verbosity_error()
        talk.disable_progress_bar()
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        torch.set_num_threads(race.threads)
        self.race, self.folder = race, folder
        self._trained(Recipe().learning_rate, 2, _Watch(self, 0.0))  # libraries, caches

    def run(self, name: str, limit: float) -> Tried:
        rate, epochs = RECIPES[name]
        watch = _Watch(self, limit)
        self._trained(rate, max(8, epochs * len(self.race.queries) // Recipe().batch), watch)
        return Tried(recipe=name, looks=watch.looks)

    def look(self, model: Any, trained: float) -> Look:
        race = self.race
        begun = time.monotonic()
        stored = model.encode_document(race.passages, **_QUIET)
        passages_s = time.monotonic() - begun
        asked = model.encode_query(race.held_out, **_QUIET)
        ranks = ranks_of(asked, stored, race.held_out_relevant)
        return Look(trained + passages_s, float((ranks == 1).mean()))

    def _trained(self, rate: float, steps: int, watch: _Watch) -> None:
        # Typed or not, installed or not: they are the peer's.
        tools: Any = import_module("sentence_transformers")
        losses: Any = import_module("sentence_transformers.losses")
        training: Any = import_module("sentence_transformers.training_args")
        peft: Any = import_module("peft")
        datasets: Any = import_module("datasets")
        recipe, race = Recipe(), self.race
        model = tools.SentenceTransformer(race.model, device="cpu")
        model.add_adapter(
            peft.LoraConfig(
                task_type=peft.TaskType.FEATURE_EXTRACTION,
                inference_mode=False,
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=recipe.dropout,
            )
        )
        pairs = datasets.Dataset.from_dict(
            {"anchor": race.queries, "positive": [race.passages[at] for at in race.relevant]}
        )
        arguments = tools.SentenceTransformerTrainingArguments(
            output_dir=str(self.folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=rate,
            warmup_steps=recipe.warmup,
            batch_sampler=training.BatchSamplers.NO_DUPLICATES,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=race.seed,
        )
        trainer = tools.SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=pairs,
            loss=losses.MultipleNegativesRankingLoss(model),
        )
        trainer.add_callback(watch.callback(model, steps))
        trainer.train()


class _Watch:
    """The clock of a training, which stands still while it is looked at."""

    def __init__(self, runner: _Runner, limit: float) -> None:
        self.runner, self.limit = runner, limit
        self.looks: list[Look] = []

    def callback(self, model: Any, steps: int) -> Any:
        from transformers import TrainerCallback

        every = max(1, steps // LOOKS)
        outside = self

        class Ticks(TrainerCallback):
            def __init__(self) -> None:
                self.begun = self.aside = 0.0

            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.begun = time.monotonic()

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                now = time.monotonic()
                trained = now - self.begun - self.aside
                if not outside.limit or (state.global_step % every and state.global_step < steps):
                    return
                model.eval()
                look = outside.runner.look(model, trained)
                model.train()
                outside.looks.append(look)
                goals = outside.runner.race.goals
                if look.recall >= max(goals) or look.seconds >= outside.limit:
                    control.should_training_stop = True
                self.aside += time.monotonic() - now

        return Ticks()


if __name__ == "__main__":
    sys.exit(main())
