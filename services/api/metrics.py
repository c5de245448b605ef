"""`GET /metrics`: figures for Prometheus, of this process and, from heartbeats, of the fleet.

Every label has a bounded number of values: services and instances are the fleet's own, skills and
domains those that heartbeats tell, models the first hundred that were asked for and known.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from services.api.context import Answered, context_of
from services.api.errors import FleetAway
from services.api.fleet_metrics import FleetCollector
from services.api.operation import Operation
from services.runtime.fleet_view import FleetView

__all__ = ["OPERATIONS", "ApiMetrics"]

MODELS: Final = 100
"""Values of the label `model`; all further ones count as `other`."""

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class ApiMetrics:
    """A registry of its own for each application; `observe` hears of every answer."""

    def __init__(self, view: FleetView) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(FleetCollector(view))
        self._models: set[str] = set()
        self._requests = Counter(
            "consonance_http_requests",
            "Requests that this API answered.",
            ("operation", "status"),
            registry=self.registry,
        )
        self._embeddings = Counter(
            "consonance_http_embeddings",
            "Embedding requests by what was asked for; `other` where it is not known.",
            ("model", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "consonance_http_request_seconds",
            "From the request's last header to the last byte of the answer; streams left out.",
            ("operation",),
            buckets=SECONDS,
            registry=self.registry,
        )

    def observe(self, answered: Answered) -> None:
        """A request was answered."""
        operation, status = answered.operation, str(answered.status)
        name = "none" if operation is None else operation.name
        self._requests.labels(name, status).inc()
        if operation is None or operation.lasting:
            return
        self._seconds.labels(name).observe(answered.seconds)
        if operation.path == "/v1/embeddings":
            self._embeddings.labels(self._model(answered.model), status).inc()

    def _model(self, model: str | None) -> str:
        if model is None:
            return "other"
        if model not in self._models:
            if len(self._models) >= MODELS:
                return "other"
            self._models.add(model)
        return model

    def text(self, accept: str) -> tuple[bytes, str]:
        """All figures in the format that suits, and its media type."""
        encode: Any
        try:
            encode, media = choose_encoder(accept)
        except (TypeError, ValueError):  # a version of the format that is none
            encode, media = choose_encoder("")
        found: bytes = encode(self.registry)
        return found, media


async def get_metrics(request: Request) -> Response:
    """In Prometheus' text format, or OpenMetrics where it is asked for."""
    metrics = context_of(request).metrics
    if metrics is None:
        raise FleetAway("nothing is counted here")
    body, media = metrics.text(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": media})


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET",
        "/metrics",
        get_metrics,
        "read",
        "Figures for Prometheus",
        "Of this process: requests by operation, model and status, and how long they took. Of the "
        "fleet, by its heartbeats: requests, queue and compute times, batch sizes, tokens, rows by "
        "skill, verdicts of the gate, open batches, the journal, processes and their memory.",
        media="text/plain",
        tag="fleet",
        costly=False,
    ),
)
