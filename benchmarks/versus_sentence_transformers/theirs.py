"""The obvious tool, in a process of its own: `python -m …theirs FOLDER` reads and writes there.

A PEFT LoRA by sentence-transformers' trainer and `MultipleNegativesRankingLoss`; both sides are
encoded by the tuned model. Two variants, each with the whole time budget:

    recommended   the PEFT example of its documentation as it stands; steps fill the budget
    chosen        learning rate and number of steps chosen on a fifth of the feedback first
"""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.kit.measure import ranks_of, reciprocal
from benchmarks.versus_sentence_transformers.clock import Clock, of_this

__all__ = ["RESULT", "TASK", "VARIANTS", "Found", "Recipe", "Work", "main"]

TASK: Final = "theirs.json"
RESULT: Final = "theirs-result.json"
VARIANTS: Final = ("recommended", "chosen")

_PILOT = 9
_SKIPPED = 3  # of them: the first steps warm caches up
_MARGIN = 0.95
_FILLED = 0.85  # of the time: what uses less is run again with more steps
_SLOWER = 0.95  # of the time that a step was thought to take: there is no more to gain
_RUNS = 3
_TRIAL_PASSAGES = 300  # enough to choose on, and soon embedded
_STOPS = (0.5, 1.0)
_FEW_EPOCHS = 2
_SHORT = 0.4  # of the time, for all trials together, where it is short
_QUIET: dict[str, Any] = {"batch_size": 64, "show_progress_bar": False}


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the child is told."""

    queries: list[str]
    relevant: list[int]
    """Index of each query's passage."""
    irrelevant: list[list[int]]
    """Indexes of the passages that feedback called wrong, the likeliest first."""
    passages: list[str]
    held_out: list[str]
    held_out_relevant: list[int]
    model: str
    """Folder of the base model."""
    budget_s: float
    """Of each variant, from the first step to the last, choosing included; loading the library and
    the model, the pilot that measures a step, and embedding the passages are beside it."""
    threads: int
    seed: int
    clock: Clock = "wall"
    variants: tuple[str, ...] = VARIANTS


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one variant gave."""

    variant: str
    ranks: list[int]
    """Of the held-out queries' passages among all, from 1."""
    seconds: float
    """Of the budget that was used."""
    steps: int
    epochs: float
    learning_rate: float
    passages_s: float
    """Seconds in which all passages were embedded anew."""
    tried: dict[str, float] = {}
    """MRR@10 on the fifth held out, by learning rate and share of the steps."""


@dataclass(frozen=True)
class Recipe:
    """Settings of the documentation's PEFT example (`training_gooaq_lora.py`)."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.1
    learning_rate: float = 2e-5
    warmup: float = 0.1
    """Share of the steps."""
    batch: int = 32
    """The example's 1,024 are more than there are pieces; each passage is once in a batch, and of
    77 there are hardly more than so many different ones among the next."""
    negatives: int = 0
    """Columns of hard negatives. None of them may be in a batch twice either, so that they pay
    only where passages are many."""


LEARNING_RATES: Final = (5e-4, 1e-4, 2e-5)
"""Of equals the first: after few steps a faster one has more before it."""
MANY_PASSAGES: Final = 500
"""From here on a hard negative stands beside each pair, as the documentation advises."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the work of the folder that is named; 0 with a result."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    work = msgspec.json.decode((Path(folder) / TASK).read_bytes(), type=Work)
    tuning = _Tuning(work, Path(folder))
    found = [tuning.run(variant) for variant in work.variants]
    (Path(folder) / RESULT).write_bytes(msgspec.json.encode(found))
    return 0


class _Tuning:
    def __init__(self, work: Work, folder: Path) -> None:
        import torch
        from transformers.utils import logging as talk

        talk.set_verbosity_error()
        talk.disable_progress_bar()
        logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
        torch.set_num_threads(work.threads)
        self.work, self.folder = work, folder
        self.clock = of_this(work.clock)
        many = len(work.passages) >= MANY_PASSAGES
        self.recipe = Recipe(negatives=1 if many else 0)
        self.everyone = list(range(len(work.queries)))
        self.step_s = self._pilot()

    def run(self, variant: str) -> Found:
        """Train by one variant and rank the held-out queries.

        Where the time was not filled because a step took less than the pilot had shown, the whole
        variant is run again with as many steps as fit.
        """
        for _ in range(_RUNS):
            found, step_s = self._once(variant)
            if found.seconds >= _FILLED * self.work.budget_s or step_s >= _SLOWER * self.step_s:
                break
            self.step_s = step_s
        return found

    def _once(self, variant: str) -> tuple[Found, float]:
        """What one training by a variant gave, and the seconds of its steps."""
        step_s = self.step_s
        started = self.clock()
        deadline = started + self.work.budget_s
        left, rate = self.work.budget_s * _MARGIN, self.recipe.learning_rate
        tried: dict[str, float] = {}
        steps, share = self._steps(left, step_s), 1.0
        if variant == "chosen":
            left -= self._evaluation_s()
            # All trials and the last training run for as many steps, so that what was chosen holds.
            steps = self._steps(left / (len(LEARNING_RATES) + 1), step_s)
            if steps * self.recipe.batch < _FEW_EPOCHS * len(self.everyone):
                # There is no time for that: short trials, and all the rest for the last training.
                short = self._steps(left * _SHORT / len(LEARNING_RATES), step_s)
                steps = self._steps(left * (1 - _SHORT), step_s)
                rate, _, tried = self._choose(short, deadline)
            else:
                rate, share, tried = self._choose(steps, deadline)
        model, ticks = self._train(self.everyone, rate, steps, deadline, stop=share)
        seconds = self.clock() - started
        begun = self.clock()
        stored = model.encode_document(self.work.passages, **_QUIET)
        passages_s = self.clock() - begun
        asked = model.encode_query(self.work.held_out, **_QUIET)
        found = Found(
            variant=variant,
            ranks=ranks_of(asked, stored, self.work.held_out_relevant).tolist(),
            seconds=seconds,
            steps=len(ticks.times),
            epochs=ticks.epochs,
            learning_rate=rate,
            passages_s=passages_s,
            tried=tried,
        )
        return found, _step_time(ticks.times) if len(ticks.times) > 1 else step_s

    def _steps(self, seconds: float, step_s: float) -> int:
        return max(2, int(seconds / step_s))

    def _pilot(self) -> float:
        """Seconds of one step."""
        _, ticks = self._train(self.everyone, self.recipe.learning_rate, _PILOT, None)
        return _step_time(ticks.times)

    def _evaluation_s(self) -> float:
        """About what looking at the fifth takes in all trials, from the time of a step."""
        texts = len(self.everyone) // 5 + min(_TRIAL_PASSAGES, len(self.work.passages))
        per_text = self.step_s / (3 * self.recipe.batch * (2 + self.recipe.negatives))
        return len(LEARNING_RATES) * len(_STOPS) * texts * per_text

    def _choose(self, steps: int, deadline: float) -> tuple[float, float, dict[str, float]]:
        """Learning rate and share of the steps, the best on a fifth of the feedback."""
        order = self.everyone.copy()
        random.Random(self.work.seed).shuffle(order)
        held, kept = order[: len(order) // 5], order[len(order) // 5 :]
        named = self._trial_passages(held)
        place = {index: row for row, index in enumerate(named)}
        own = [place[self.work.relevant[row]] for row in held]
        scores: dict[tuple[float, float], float] = {}
        for rate in LEARNING_RATES:

            def look(model: Any, share: float, rate: float = rate) -> None:
                stored = model.encode_document([self.work.passages[i] for i in named], **_QUIET)
                asked = model.encode_query([self.work.queries[row] for row in held], **_QUIET)
                ranks = ranks_of(asked, stored, own)
                scores[rate, share] = float(reciprocal(ranks).mean())

            self._train(kept, rate, steps, deadline, look=look)
        best = max(scores, key=lambda setting: scores[setting])
        tried = {f"{rate:g} at {share:g}": score for (rate, share), score in scores.items()}
        return *best, tried

    def _trial_passages(self, held: list[int]) -> list[int]:
        """Relevant and wrong passages of the fifth, others of the feedback after them."""
        work = self.work
        first = dict.fromkeys(work.relevant[row] for row in held)
        first |= dict.fromkeys(index for row in held for index in work.irrelevant[row])
        first |= dict.fromkeys(work.relevant)
        return list(first)[: max(_TRIAL_PASSAGES, len(held))]

    def _train(
        self,
        rows: list[int],
        rate: float,
        steps: int,
        deadline: float | None,
        *,
        stop: float = 1.0,
        look: Any = None,
    ) -> tuple[Any, Any]:
        """A fresh model with a LoRA, trained on these pieces; and what its steps took."""
        from datasets import Dataset
        from peft import LoraConfig, TaskType
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
        from sentence_transformers.losses import MultipleNegativesRankingLoss
        from sentence_transformers.training_args import BatchSamplers

        recipe, work = self.recipe, self.work
        model = SentenceTransformer(work.model, device="cpu")
        model.add_adapter(
            LoraConfig(
                task_type=TaskType.FEATURE_EXTRACTION,
                inference_mode=False,
                r=recipe.rank,
                lora_alpha=recipe.alpha,
                lora_dropout=recipe.dropout,
            )
        )
        columns: dict[str, list[str]] = {
            "anchor": [work.queries[row] for row in rows],
            "positive": [work.passages[work.relevant[row]] for row in rows],
        }
        for number in range(recipe.negatives):
            columns[f"negative_{number}"] = [
                work.passages[work.irrelevant[row][number]] for row in rows
            ]
        prompts = {
            name: model.prompts.get("query" if name == "anchor" else "document") or ""
            for name in columns
        }
        arguments = SentenceTransformerTrainingArguments(
            prompts=prompts if any(prompts.values()) else None,
            output_dir=str(self.folder / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=rate,
            warmup_steps=recipe.warmup,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=work.seed,
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            loss=MultipleNegativesRankingLoss(model),
        )
        ticks = _ticks(model, steps, self.clock, deadline, stop, look)
        trainer.add_callback(ticks)
        trainer.train()
        model.eval()
        return model, ticks


def _step_time(times: Sequence[float]) -> float:
    """Seconds of one step: the mean, the first few left out where there are more."""
    counted = times[min(_SKIPPED, len(times) - 2) :]
    return max(1e-4, (counted[-1] - counted[0]) / (len(counted) - 1))


def _ticks(
    model: Any,
    steps: int,
    clock: Callable[[], float],
    deadline: float | None,
    stop: float,
    look: Any,
) -> Any:
    """A callback that notes the time of each step, looks at some, and ends where it must."""
    from transformers import TrainerCallback

    class Ticks(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []
            self.epochs = 0.0
            self.stops = {max(1, int(share * steps)): share for share in _STOPS}

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.times.append(clock())
            self.epochs = float(state.epoch or 0.0)
            late = deadline is not None and self.times[-1] >= deadline
            if state.global_step >= stop * steps or late:
                control.should_training_stop = True
            if look is not None and (state.global_step in self.stops or late):
                model.eval()
                look(model, self.stops.get(state.global_step, state.global_step / steps))
                model.train()

    return Ticks()


if __name__ == "__main__":
    sys.exit(main())
