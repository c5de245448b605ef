"""Settings of those who learn: distiller, teacher, factory."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from services.runtime.settings_base import Section, doc

__all__ = ["DistillerSettings", "FactorySettings"]


class DistillerSettings(Section, frozen=True, kw_only=True):
    """The distiller: from batches to datasets."""

    teacher: Annotated[
        Literal["none", "openai", "mock"],
        doc("Who adds to the feedback; `none`: feedback alone, `openai`: see [teacher]."),
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


class FactorySettings(Section, frozen=True, kw_only=True):
    """The factory: training, the gate, versions."""

    body_schedule: Annotated[
        Literal["quiet", "off"],
        doc("When bodies are trained; `quiet`: once no training was asked for `quiet_period`."),
    ] = "quiet"
    quiet_period: Annotated[float, doc("See `body_schedule`.", "s", ge=0)] = 300.0
    head_time_budget: Annotated[
        float, doc("Time for choosing and training a head, its gate included.", "s", gt=0)
    ] = 15.0
    body_time_budget: Annotated[
        float, doc("Time for choosing and training a body, its gate included.", "s", gt=0)
    ] = 400.0
    threads: Annotated[
        Annotated[int, doc("", "threads", ge=1, le=1024)] | None,
        doc(
            "Fits that a body runs at once, a thread each; not set: one a core, with low priority."
        ),
    ] = None
    temperature: Annotated[
        float, doc("Temperature of the softmax over the passages in training.", gt=0)
    ] = 0.05
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

    @property
    def thread_count(self) -> int:
        """`threads`, or the default that fits this machine."""
        return self.threads or (os.cpu_count() or 1)
