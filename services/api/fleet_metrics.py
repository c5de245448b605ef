"""What heartbeats tell, as families of figures for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from schemas import FleetHeartbeat
from services.runtime.fleet_view import FleetView
from services.runtime.histogram import Buckets

__all__ = ["FleetCollector"]

Family = Callable[..., CounterMetricFamily | GaugeMetricFamily]


class _Figure(NamedTuple):
    """One counter of a service's heartbeats, under the name that it has here."""

    service: str
    counter: str
    """Its name in the heartbeat; one that ends with `:` stands for all that begin so."""
    name: str
    text: str = ""
    """What it means; told by the first of those that share the name."""
    family: Family = CounterMetricFamily
    label: tuple[str, str] | None = None
    """A label, and its value, of a figure that several counters make; for `counter:` its name."""
    each: bool = False
    """One for each process: there may be several, and what one counts begins anew with it."""


class _Times(NamedTuple):
    """A histogram among a service's counters."""

    service: str
    counter: str
    name: str
    text: str
    scale: float = 1.0
    """What a value is multiplied by: 0.001 makes seconds of milliseconds."""
    each: bool = False


_PREFIX: Final = "consonance_"

_FIGURES: Final = (
    _Figure(
        "router", "answered", "requests", "Requests of all clients that ended, by how.",
        label=("outcome", "answered"),
    ),
    _Figure("router", "failed", "requests", label=("outcome", "failed")),
    _Figure(
        "router", "own", "own_requests", "Requests of the fleet itself that ended: it learns."
    ),
    _Figure("router", "texts", "texts", "Texts of requests that were accepted."),
    _Figure(
        "router", "reassigned", "reassigned_requests",
        "Requests that a worker which went away had in hand.",
    ),
    _Figure("encoder", "tokens", "tokens", "Tokens that went through the model.", each=True),
    _Figure("encoder", "texts", "encoded_texts", "Texts that were encoded.", each=True),
    _Figure("encoder", "batches", "batches", "Batches computed.", each=True),
    _Figure(
        "encoder", "mixed_batches", "mixed_batches",
        "Batches in which rows of different skills met.", each=True,
    ),
    _Figure(
        "encoder", "cache_hits", "cache_hits", "Base vectors that were remembered.", each=True
    ),
    _Figure(
        "encoder", "rows:", "skill_rows",
        "Rows that a skill made; `*`: those of skills beyond the first 64.",
        label=("skill", ""), each=True,
    ),
    _Figure("encoder", "cards", "mapped_cards", "Cards in memory.", GaugeMetricFamily, each=True),
    _Figure(
        "dissonance_monitor", "judged:", "judged_feedback", "Pieces of feedback judged, ever.",
        label=("domain", ""),
    ),
    _Figure(
        "dissonance_monitor", "clashes:", "clashes", "Clashes found, ever.", label=("domain", "")
    ),
    _Figure(
        "dissonance_monitor", "open:", "open_clashes", "Clashes in the open batch.",
        GaugeMetricFamily, ("domain", ""),
    ),
    _Figure(
        "factory", "published", "gate_verdicts", "Candidates that the gate judged, by how.",
        label=("verdict", "published"),
    ),
    _Figure("factory", "rejected", "gate_verdicts", label=("verdict", "rejected")),
    _Figure(
        "factory", "retired", "retired_versions",
        "Versions retired because they proved worse on later feedback.",
    ),
    *(
        _Figure(
            "factory", f"{depth}_running", "trainings", "Trainings under way.",
            GaugeMetricFamily, ("depth", depth),
        )
        for depth in ("head", "body")
    ),
    *(
        _Figure(
            "adapter_manager", state, "skill_versions", "Versions of skills, by state.",
            GaugeMetricFamily, ("state", state),
        )
        for state in ("installed", "kept", "retired", "rejected")
    ),
    _Figure(
        "adapter_manager", "pinned", "pinned_versions", "Versions that encoders are to keep.",
        GaugeMetricFamily,
    ),
    _Figure(
        "encoder", "pins_refused", "refused_pins", "Cards that were to be kept and do not fit.",
        GaugeMetricFamily, each=True,
    ),
    _Figure("federation", "peers", "peers", "Peers that answer.", GaugeMetricFamily),
    _Figure("federation", "offers", "offers", "Cards on offer by peers.", GaugeMetricFamily),
    _Figure("federation", "fetched", "fetched_cards", "Cards fetched from peers."),
    _Figure("broker", "appended", "journaled_events", "Events journaled."),
    _Figure("broker", "refused", "refused_events", "Events refused."),
    _Figure("broker", "journal_bytes", "journal_bytes", "The journal's size.", GaugeMetricFamily),
    _Figure(
        "broker", "journal_backlog_bytes", "journal_backlog_bytes",
        "Events that some service has yet to take; counted where the journal is nearly full.",
        GaugeMetricFamily,
    ),
    _Figure(
        "broker", "journal_evicted", "journal_evicted_events",
        "Events that the byte cap took before a service had taken them.",
    ),
    _Figure(
        "broker", "lag:", "journal_lag_events",
        "Events that a group of consumers has yet to acknowledge.",
        GaugeMetricFamily, ("group", ""),
    ),
)  # fmt: skip

_TIMES: Final = (
    _Times(
        "router", "latency_ms", "request_seconds",
        "From a request's arrival at the router to the end of its encoding.", 0.001,
    ),
    _Times(
        "encoder", "queue_ms", "queue_seconds",
        "How long requests waited for their first batch.", 0.001, each=True,
    ),
    _Times(
        "encoder", "compute_ms", "compute_seconds",
        "How long the batches took that a request had rows in.", 0.001, each=True,
    ),
    _Times("encoder", "batch_rows", "batch_rows", "Texts in a batch.", each=True),
)  # fmt: skip


class FleetCollector(Collector):
    """Asked at each scrape; holds nothing."""

    def __init__(self, view: FleetView) -> None:
        self._view = view

    def collect(self) -> Iterable[Metric]:
        """Every family that a living process has figures for."""
        beats = self._view.beats()
        yield from _processes(beats)
        families: dict[str, Metric] = {}
        for figure in _FIGURES:
            for beat in beats:
                if beat.service == figure.service:
                    _add(families, figure, beat)
        yield from families.values()
        for times in _TIMES:
            yield _histogram(times, beats)
        heads = self._view.heads()
        family = GaugeMetricFamily("consonance_journal_sequence", "The journal's last number.")
        family.add_metric((), max(heads.values(), default=0))
        yield family


def _processes(beats: list[FleetHeartbeat]) -> Iterable[Metric]:
    labels = ("service", "instance")
    up = GaugeMetricFamily("consonance_up", "1 of a process that says it is ready.", labels=labels)
    rss = GaugeMetricFamily("consonance_resident_bytes", "Memory of a process.", labels=labels)
    queue = GaugeMetricFamily("consonance_queue", "What waits at a process.", labels=labels)
    for beat in beats:
        values = (beat.service, beat.instance)
        up.add_metric(values, int(beat.state in ("ready", "degraded")))
        rss.add_metric(values, beat.rss_bytes)
        queue.add_metric(values, beat.queue)
    return up, rss, queue


def _add(families: dict[str, Metric], figure: _Figure, beat: FleetHeartbeat) -> None:
    found = _values(figure, beat.counters)
    if not found:
        return
    label = () if figure.label is None else (figure.label[0],)
    family = families.get(figure.name)
    if family is None:
        labels = (*label, *(("instance",) if figure.each else ()))
        family = figure.family(_PREFIX + figure.name, figure.text, labels=labels)
        families[figure.name] = family
    for value, number in found:
        shown = (*((value,) if label else ()), *((beat.instance,) if figure.each else ()))
        family.add_metric(shown, number)  # type: ignore[attr-defined]


def _values(figure: _Figure, counters: Mapping[str, int | float]) -> list[tuple[str, float]]:
    if figure.counter.endswith(":"):
        return [
            (name.removeprefix(figure.counter), number)
            for name, number in counters.items()
            if name.startswith(figure.counter)
        ]
    if figure.counter not in counters:
        return []
    return [("" if figure.label is None else figure.label[1], counters[figure.counter])]


def _histogram(times: _Times, beats: list[FleetHeartbeat]) -> Metric:
    labels = ("instance",) if times.each else ()
    family = HistogramMetricFamily(_PREFIX + times.name, times.text, labels=labels)
    for beat in beats:
        found = Buckets.of(beat.counters, times.counter) if beat.service == times.service else None
        if found is None:
            continue
        below = zip(found.bounds, found.below, strict=True)
        buckets = [(str(round(bound * times.scale, 6)), count) for bound, count in below]
        family.add_metric(
            (beat.instance,) if times.each else (),
            buckets=[*buckets, ("+Inf", found.total)],
            sum_value=found.summed * times.scale,
        )
    return family
