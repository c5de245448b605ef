"""deploy/kubernetes: each pod is its service, as the fleet starts, watches and measured it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from schemas import FleetHeartbeat
from services.api.app import OPERATIONS
from services.api.fleet_metrics import FleetCollector
from services.runtime import alive
from services.runtime.settings import load_settings
from tests.containers.cluster import (
    DEPLOY,
    FLEET,
    OVERLAYS,
    Workload,
    named,
    quantity,
    variables,
)

ROOT = DEPLOY.parents[1]
SETTINGS = load_settings(DEPLOY / "base" / "settings.toml")
BASE = OVERLAYS["base"]
SEVERAL = {"encoder", "router", "factory", "api"}
"""Services of which a fleet may have more than one process."""

each_of_the_fleet = pytest.mark.parametrize("name", FLEET)


@each_of_the_fleet
def test_a_pod_runs_its_own_service_with_the_fleets_settings(name: str) -> None:
    workload = FLEET[name]
    words = workload.main["command"]
    assert words[:3] == ["python", "-m", f"services.{name}"]
    mounts = {one["name"]: one["mountPath"] for one in workload.main["volumeMounts"]}
    assert words[words.index("--config") + 1] == f"{mounts['settings']}/settings.toml"
    assert mounts["state"] == SETTINGS.fleet.state
    assert alive_file(workload).parent == Path(mounts["tmp"])
    known = set(variables(workload, BASE))
    assert set(re.findall(r"\$\((\w+)\)", " ".join(words))) <= known
    assert "CONSONANCE_BUS" in known


def alive_file(workload: Workload) -> Path:
    data = named(BASE, "ConfigMap", workload.main["envFrom"][0]["configMapRef"]["name"])["data"]
    return Path(data[alive.VARIABLE])


@each_of_the_fleet
def test_who_may_be_several_goes_by_its_pods_name_and_who_owns_a_store_is_one(name: str) -> None:
    workload = FLEET[name]
    kind, spec = workload.raw["kind"], workload.raw["spec"]
    assert ("$(POD_NAME)" in workload.main["command"]) == (name in SEVERAL)
    text = (ROOT / "services" / name / "service.py").read_text("utf-8")
    assert ("single: ClassVar[bool] = True" in text) == (name not in SEVERAL)
    if kind == "Deployment":
        assert name in SEVERAL
        assert "emptyDir" in workload.volumes["state"]
    else:
        assert spec["replicas"] == (0 if name == "federation" else 1)
        assert workload.claims["state"]["accessModes"] == ["ReadWriteOncePod"]
    space = (
        workload.volumes["state"]["emptyDir"]["sizeLimit"]
        if kind == "Deployment"
        else workload.claims["state"]["resources"]["requests"]["storage"]
    )
    kept = SETTINGS.federation.disk_budget if name == "federation" else 0
    assert quantity(space) > SETTINGS.store.cache_bytes + kept


@each_of_the_fleet
def test_whether_a_process_lives_is_asked_without_the_bus(name: str) -> None:
    main = FLEET[name].main
    start, ready, live = (main[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    probe = ["python", "-m", alive.__name__]
    assert start["exec"]["command"] == [*probe, "--ready"]
    assert start["periodSeconds"] * start["failureThreshold"] > SETTINGS.fleet.start_timeout
    if name == "api":
        assert ready["httpGet"] == {"path": "/readyz", "port": main["ports"][0]["name"]}
        assert live["httpGet"] == {"path": "/healthz", "port": main["ports"][0]["name"]}
        open_paths = {one.path for one in OPERATIONS if one.scope is None}
        assert {"/readyz", "/healthz"} <= open_paths
    else:
        assert ready["exec"]["command"] == [*probe, "--ready"]
        assert live["exec"]["command"] == probe


def test_an_order_to_stop_is_waited_for() -> None:
    for workload in FLEET.values():
        assert workload.pod["terminationGracePeriodSeconds"] > SETTINGS.fleet.stop_grace + 5


@each_of_the_fleet
def test_what_a_process_was_measured_to_need_is_reserved(name: str) -> None:
    text = (ROOT / "benchmarks" / "results" / "memory.json").read_text("utf-8")
    measured = {
        figure["who"]: figure["median"] * 1e6
        for figure in json.loads(text)["figures"]
        if figure["what"] == "1 encoder: resident"
    }
    asked = FLEET[name].main["resources"]
    least = quantity(asked["requests"]["memory"])
    assert least > measured.get(name, 84e6), "the API has 84 MB (README.md)"
    assert quantity(asked["limits"]["memory"]) > 1.3 * least
    assert quantity(asked["requests"]["cpu"]) > 0


def test_threads_are_as_many_as_processors() -> None:
    for name, threads in (
        ("encoder", SETTINGS.encoder.threads),
        ("factory", SETTINGS.factory.threads),
    ):
        assert quantity(FLEET[name].main["resources"]["limits"]["cpu"]) == threads


def test_the_settings_fit_a_cluster() -> None:
    assert SETTINGS.fleet.bus is None, "environment.env says it"
    assert (SETTINGS.store.url or "").startswith("s3://")
    ports = {"api": SETTINGS.api.port, "federation": SETTINGS.federation.port}
    for name, port in ports.items():
        assert [one["containerPort"] for one in FLEET[name].main["ports"]] == [port]


def test_encoders_grow_by_a_figure_that_the_api_tells_and_prometheus_is_told_of() -> None:
    """From the router's heartbeat to the scaler, each name is the one that the next looks for."""
    rules = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text("utf-8"))
    (rule,) = rules["externalRules"]
    (metric,) = named(BASE, "HorizontalPodAutoscaler", "encoder")["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]
    assert metric["external"]["target"]["type"] == "AverageValue"

    told = generate_latest(told_of_a_router(queue=7)).decode()
    assert 'consonance_queue{instance="router-a",service="router"} 7.0' in told
    assert rule["seriesQuery"] == 'consonance_queue{service="router"}'
    assert "max by (exported_instance)" in rule["metricsQuery"], "each API pod tells it"

    (job,) = rules["scrape_configs"]
    kept = job["relabel_configs"][0]
    assert FLEET[kept["regex"]].labels["app.kubernetes.io/component"] == kept["regex"]
    assert ("GET", "/metrics") in {(one.method, one.path) for one in OPERATIONS}
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [
        FLEET["api"].raw["metadata"]["namespace"]
    ]


def told_of_a_router(queue: int) -> CollectorRegistry:
    beat = FleetHeartbeat(
        service="router",
        instance="router-a",
        pid=1,
        state="ready",
        queue=queue,
        rss_bytes=1,
        counters={},
    )

    class View:
        def beats(self) -> list[FleetHeartbeat]:
            return [beat]

        def heads(self) -> dict[str, int]:
            return {}

    registry = CollectorRegistry()
    registry.register(FleetCollector(View()))  # type: ignore[arg-type]
    return registry
