"""Settings of those who learn: distiller, teacher, factory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from services.runtime.cron import check
from services.runtime.settings_base import Section, doc

__all__ = ["DistillerSettings", "FactorySettings", "TeacherSettings"]

_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class DistillerSettings(Section, frozen=True, kw_only=True):
    """The distiller: from batches to datasets."""

    teacher: Annotated[
        Literal["none", "openai", "mock"],
        doc(
            "Who adds to the feedback; `none`: feedback alone, `openai`: see [teacher], `mock`: "
            "plain rules, to try things out."
        ),
    ] = "none"
    hard_negatives: Annotated[
        int, doc("Mined hard negatives for each query.", "passages", ge=0, le=1000)
    ] = 8
    replay_groups: Annotated[
        int, doc("Earlier query groups of the domain that join a batch.", "groups", ge=0)
    ] = 8192
    near_duplicate: Annotated[
        float, doc("Queries at least this similar (cosine) share a group.", gt=0, le=1)
    ] = 0.95
    round_trip: Annotated[
        int,
        doc("A teacher's query must find its passage among so many first.", "passages", ge=1),
    ] = 20
    soft_labels: Annotated[
        int,
        doc("Passages nearest to a query by a teacher's vectors, labelled.", "passages", ge=0),
    ] = 8
    soft_temperature: Annotated[
        float, doc("Temperature of the softmax that makes labels of a teacher's vectors.", gt=0)
    ] = 0.05
    longest: Annotated[
        int, doc("Texts of a teacher that are longer are dropped.", "characters", ge=1)
    ] = 4000
    teachers_at_once: Annotated[
        int, doc("Domains whose orders are with a teacher at once.", "domains", ge=1, le=64)
    ] = 4


class TeacherSettings(Section, frozen=True, kw_only=True):
    """The teacher `openai`: any server that speaks the OpenAI API, and what it may cost."""

    base_url: Annotated[str, doc("Where the API is, up to and including its version.")] = (
        "https://api.openai.com/v1"
    )
    key_env: Annotated[
        Annotated[str, doc("", min_length=1)] | None,
        doc(
            "Environment variable with the API key, goes before `key_file`; not set: OPENAI_API_KEY"
            " where the server is OpenAI's own, so that no other is sent that key by accident."
        ),
    ] = None
    key_file: Annotated[
        str | None,
        doc("File with the API key, readable by its owner alone (mode 0600)."),
    ] = None
    model: Annotated[
        str | None, doc("The model that is asked; needed where `distiller.teacher` is `openai`.")
    ] = None
    embedding_model: Annotated[
        str | None,
        doc("A stronger embedding model, whose vectors check and grade pairs; not set: none."),
    ] = None
    questions_per_passage: Annotated[
        int, doc("New questions to each passage.", "questions", ge=0, le=64)
    ] = 8
    paraphrases_per_query: Annotated[
        int, doc("Other wordings of each query of a batch.", "queries", ge=0, le=64)
    ] = 2
    hard_negatives: Annotated[
        int, doc("Passages written to be mistaken for a relevant one, for each query.", ge=0, le=16)
    ] = 0
    grade_candidates: Annotated[
        int, doc("Passages near each query that are graded for it.", "passages", ge=0, le=50)
    ] = 8
    answers: Annotated[
        bool, doc("Whether novel prompts without a relevant passage are answered with one.")
    ] = True
    passages_per_order: Annotated[
        int, doc("Passages that one order may ask about; more are left to the next.", ge=1)
    ] = 256
    queries_per_order: Annotated[
        int, doc("Queries that one order may ask about; more are left to the next.", ge=1)
    ] = 256
    output_tokens: Annotated[
        int,
        doc("The most tokens of one answer, a model's thinking included.", "tokens", ge=256),
    ] = 4096
    concurrency: Annotated[int, doc("Requests under way at once.", "requests", ge=1, le=256)] = 4
    timeout: Annotated[float, doc("How long one request may take.", "s", gt=0)] = 120.0
    retries: Annotated[
        int, doc("Further attempts of a request that failed for a passing reason.", ge=0, le=20)
    ] = 4
    requests_per_day: Annotated[
        int, doc("Requests of one day (UTC), failed ones too.", "requests", ge=1)
    ] = 500
    tokens_per_day: Annotated[
        int, doc("Tokens of one day (UTC), sent and received.", "tokens", ge=1)
    ] = 2_000_000
    money_per_day: Annotated[
        float, doc("Money of one day (UTC), in the currency of the prices.", "money", gt=0)
    ] = 1.0
    input_price: Annotated[
        float, doc("Price of a million tokens sent; 0: costs nothing.", "money", ge=0)
    ] = 0.0
    output_price: Annotated[
        float, doc("Price of a million tokens received; 0: costs nothing.", "money", ge=0)
    ] = 0.0
    unavailable: Annotated[
        Literal["fallback", "wait"],
        doc(
            "What a batch does while the teacher cannot be asked; `fallback`: goes on with feedback"
            " alone, `wait`: waits, at most `max_wait`."
        ),
    ] = "fallback"
    max_wait: Annotated[float, doc("See `unavailable`.", "s", ge=0)] = 21_600.0
    batch_api: Annotated[
        bool,
        doc(
            "Ask through the Batch API, which is cheaper and takes up to a day; best with "
            "`unavailable` at `wait` and `max_wait` at 90_000."
        ),
    ] = False


class FactorySettings(Section, frozen=True, kw_only=True):
    """The factory: training, the gate, versions."""

    body_schedule: Annotated[
        Literal["at_once", "quiet", "cron", "off"],
        doc(
            "When bodies are trained; `at_once`: after each head, `quiet`: once no training of the "
            "skill was asked for `quiet_period`, `cron`: when `cron` says so, `off`: never."
        ),
    ] = "quiet"
    quiet_period: Annotated[float, doc("See `body_schedule`.", "s", ge=0)] = 300.0
    quiet_limit: Annotated[
        float,
        doc(
            "With `quiet`, a body waits at most so long in all: where feedback never pauses there "
            "are four bodies a day, and a working day's feedback is in one by its end.",
            "s",
            ge=0,
        ),
    ] = 6 * 3600.0
    cron: Annotated[
        str,
        doc(
            "With `cron`: minute, hour, day, month and weekday. What was missed because the fleet "
            "was down is made up for at its next start."
        ),
    ] = "0 3 * * *"
    time_zone: Annotated[
        str | None, doc("IANA name of the zone that `cron` speaks of; not set: the machine's.")
    ] = None
    head_time_budget: Annotated[
        float, doc("Time for choosing and training a head, its gate included.", "s", gt=0)
    ] = 15.0
    body_time_budget: Annotated[
        float, doc("Time for choosing and training a body, its gate included.", "s", gt=0)
    ] = 400.0
    memory_budget: Annotated[
        Annotated[int, doc("", "bytes", ge=1 << 20)] | None,
        doc(
            "Resident memory beyond which a training is ended, and tried once more with half of "
            "it; not set: half of the machine's."
        ),
    ] = None
    threads: Annotated[
        Annotated[int, doc("", "threads", ge=1, le=1024)] | None,
        doc(
            "Fits that a body runs at once, a thread each; not set: one a core, with low priority."
        ),
    ] = None
    temperature: Annotated[
        float, doc("Temperature of the softmax over the passages in training.", gt=0)
    ] = 0.05
    probe: Annotated[
        bool,
        doc(
            "Whether a body is trained a second time, in half of its time each, on the layers and "
            "ranks that the probe suggests; kept only where it is clearly better."
        ),
    ] = False
    shadow_min: Annotated[
        int, doc("Later feedback needed before a version may be found worse than the last.", ge=1)
    ] = 50
    keep_versions: Annotated[
        int, doc("Versions of a skill whose fold models are kept.", ge=1, le=100)
    ] = 3
    anchors: Annotated[
        str | None,
        doc("Parquet file of trusted pairs on which no version may lose; not set: none."),
    ] = None
    seed: Annotated[int, doc("Seed of everything random in training.", ge=0)] = 0

    def __post_init__(self) -> None:
        check(self.cron, self.time_zone)

    @property
    def thread_count(self) -> int:
        """`threads`, or the default that fits this machine."""
        return self.threads or (os.cpu_count() or 1)

    @property
    def memory_bytes(self) -> int:
        """`memory_budget`, or the default that fits this machine, or the container it is."""
        return self.memory_budget or _machine_memory() // 2


def _machine_memory() -> int:
    """Bytes of memory that the machine has, or that its control group may use."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(whole, int(_GROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such limit is set, or the system knows none
        return whole
