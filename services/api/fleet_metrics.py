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
    text: str
    family: Family = CounterMetricFamily
    label: tuple[str, str] | None = None
    """A label, and its value, of a figure that several counters make; for `counter:` its name."""
    instance: bool = False
    """One for each process: its counters begin anew with it."""


class _Times(NamedTuple):
    """A histogram among a service's counters."""

    service: str
    counter: str
    name: str
    text: str
    scale: float = 1.0
    """What a value is multiplied by: 0.001 makes seconds of milliseconds."""
    instance: bool = False


_GAUGE: Final = GaugeMetricFamily

_FIGURES: Final = (
    _Figure(
        "router",
        "answered",
        "consonance_requests",
        "Requests of all clients that ended, by how.",
        label=("outcome", "answered"),
    ),
    _Figure(
        "router",
        "failed",
        "consonance_requests",
        "",
        label=("outcome", "failed"),
    ),
    _Figure("router", "texts", "consonance_texts", "Texts of requests that were accepted."),
    _Figure(
        "router",
        "reassigned",
        "consonance_reassigned_requests",
        "Requests that a worker which went away had in hand.",
    ),
    _Figure(
        "encoder",
        "tokens",
        "consonance_tokens",
        "Tokens that went through the model.",
        instance=True,
    ),
    _Figure(
        "encoder", "texts", "consonance_encoded_texts", "Texts that were encoded.", instance=True
    ),
    _Figure("encoder", "batches", "consonance_batches", "Batches computed.", instance=True),
    _Figure(
        "encoder",
        "mixed_batches",
        "consonance_mixed_batches",
        "Batches in which rows of different skills met.",
        instance=True,
    ),
    _Figure(
        "encoder",
        "cache_hits",
        "consonance_cache_hits",
        "Base vectors that were remembered.",
        instance=True,
    ),
    _Figure(
        "encoder",
        "rows:",
        "consonance_skill_rows",
        "Rows that a skill made; `*`: those of skills beyond the first 64.",
        label=("skill", ""),
        instance=True,
    ),
    _Figure(
        "encoder", "cards", "consonance_mapped_cards", "Cards in memory.", _GAUGE, instance=True
    ),
    _Figure(
        "dissonance_monitor",
        "judged:",
        "consonance_judged_feedback",
        "Pieces of feedback judged, ever.",
        label=("domain", ""),
    ),
    _Figure(
        "dissonance_monitor",
        "clashes:",
        "consonance_clashes",
        "Clashes found, ever.",
        label=("domain", ""),
    ),
    _Figure(
        "dissonance_monitor",
        "open:",
        "consonance_open_clashes",
        "Clashes in the open batch.",
        _GAUGE,
        label=("domain", ""),
    ),
    _Figure(
        "factory",
        "published",
        "consonance_gate_verdicts",
        "Candidates that the gate judged, by how.",
        label=("verdict", "published"),
    ),
    _Figure(
        "factory",
        "rejected",
        "consonance_gate_verdicts",
        "",
        label=("verdict", "rejected"),
    ),
    _Figure(
        "factory",
        "retired",
        "consonance_retired_versions",
        "Versions retired because they proved worse on later feedback.",
    ),
    _Figure(
        "factory",
        "head_running",
        "consonance_trainings",
        "Trainings under way.",
        _GAUGE,
        label=("depth", "head"),
    ),
    _Figure("factory", "body_running", "consonance_trainings", "", _GAUGE, ("depth", "body")),
    _Figure(
        "adapter_manager",
        "installed",
        "consonance_skill_versions",
        "Versions of skills, by state.",
        _GAUGE,
        label=("state", "installed"),
    ),
    *(
        _Figure(
            "adapter_manager",
            state,
            "consonance_skill_versions",
            "",
            _GAUGE,
            label=("state", state),
        )
        for state in ("kept", "retired", "rejected")
    ),
    _Figure("federation", "peers", "consonance_peers", "Peers that answer.", _GAUGE),
    _Figure("federation", "offers", "consonance_offers", "Cards on offer by peers.", _GAUGE),
    _Figure("federation", "fetched", "consonance_fetched_cards", "Cards fetched from peers."),
    _Figure("broker", "appended", "consonance_journaled_events", "Events journaled."),
    _Figure("broker", "refused", "consonance_refused_events", "Events refused."),
    _Figure("broker", "journal_bytes", "consonance_journal_bytes", "Size of the journal.", _GAUGE),
    _Figure(
        "broker",
        "journal_backlog_bytes",
        "consonance_journal_backlog_bytes",
        "Events that some service has yet to take; counted where the journal is nearly full.",
        _GAUGE,
    ),
    _Figure(
        "broker",
        "journal_evicted",
        "consonance_journal_evicted_events",
        "Events that the byte cap took before a service had taken them.",
    ),
)

_TIMES: Final = (
    _Times(
        "router",
        "latency_ms",
        "consonance_request_seconds",
        "From a request's arrival at the router to the end of its encoding.",
        0.001,
    ),
    _Times(
        "encoder",
        "queue_ms",
        "consonance_queue_seconds",
        "How long requests waited for their first batch.",
        0.001,
        instance=True,
    ),
    _Times(
        "encoder",
        "compute_ms",
        "consonance_compute_seconds",
        "How long the batches took that a request had rows in.",
        0.001,
        instance=True,
    ),
    _Times("encoder", "batch_rows", "consonance_batch_rows", "Texts in a batch.", instance=True),
)


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
        labels = (*label, *(("instance",) if figure.instance else ()))
        family = figure.family(figure.name, figure.text, labels=labels)
        families[figure.name] = family
    for value, number in found:
        shown = (*((value,) if label else ()), *((beat.instance,) if figure.instance else ()))
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
    labels = ("instance",) if times.instance else ()
    family = HistogramMetricFamily(times.name, times.text, labels=labels)
    for beat in beats:
        found = Buckets.of(beat.counters, times.counter) if beat.service == times.service else None
        if found is None:
            continue
        below = zip(found.bounds, found.below, strict=True)
        buckets = [(f"{bound * times.scale:g}", count) for bound, count in below]
        family.add_metric(
            (beat.instance,) if times.instance else (),
            buckets=[*buckets, ("+Inf", found.total)],
            sum_value=found.summed * times.scale,
        )
    return family
