"""deploy/kubernetes: what the published schemas allow, whole in itself, no wider than needed."""

from __future__ import annotations

import copy
import functools
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.fleet.plan import SERVICES
from tests.containers.cluster import (
    DEPLOY,
    FLEET,
    OVERLAYS,
    named,
    of_kind,
    secrets,
    variables,
    workloads,
)
from tests.containers.kustomize import Resource

OLDEST = "1.29"
"""The first version in which a volume can be one pod's alone (ReadWriteOncePod)."""

each_overlay = pytest.mark.parametrize("found", OVERLAYS.values(), ids=OVERLAYS)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_resource_is_what_the_published_schema_allows(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would read a megabyte of definitions for each.
    read = functools.cache(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read)
    examples = yaml.safe_load_all((DEPLOY / "secrets.example.yaml").read_text("utf-8"))
    for one in (*OVERLAYS["overlays/in-cluster-nats"], *examples):
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("spec", "replica"), 2),
        (("spec", "replicas"), "two"),
        (("spec", "template", "spec", "containers", 0, "resource"), {}),
        (("spec", "template", "spec", "containers", 0, "livenessProbe", "exec"), "true"),
    ],
    ids=["unknown", "type", "deep", "form"],
)
def test_what_a_schema_does_not_allow_is_found(way: tuple[Any, ...], value: Any) -> None:
    wrong = at = copy.deepcopy(FLEET["encoder"].raw)
    for word in way[:-1]:
        at = at[word]
    at[way[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_there_is_a_workload_for_every_service_of_the_fleet_and_the_bus_is_elsewhere() -> None:
    assert set(FLEET) == {role.service for role in SERVICES}


@each_overlay
def test_whatever_is_referred_to_is_there(found: list[Resource]) -> None:
    maps = {one["metadata"]["name"] for one in of_kind(found, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of_kind(found, "ServiceAccount")}
    for workload in workloads(found).values():
        assert workload.pod["serviceAccountName"] in accounts
        for volume in workload.volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets()
        mountable = {*workload.volumes, *workload.claims}
        for one in workload.containers:
            assert {mount["name"] for mount in one["volumeMounts"]} <= mountable
        for one in workload.main.get("env", ()):
            if "secretKeyRef" in one.get("valueFrom", {}):
                key = one["valueFrom"]["secretKeyRef"]
                assert key["key"] in secrets()[key["name"]]
        assert set(variables(workload, found))
        if workload.raw["kind"] == "StatefulSet":
            service = named(found, "Service", workload.raw["spec"]["serviceName"])["spec"]
            assert service["clusterIP"] == "None"
            assert workload.selected(service["selector"])
    for scaler in of_kind(found, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in named(found, target["kind"], target["name"])["spec"]


@each_overlay
def test_whatever_selects_pods_selects_some_and_the_ports_are_theirs(
    found: list[Resource],
) -> None:
    made = workloads(found).values()
    for workload in made:
        assert workload.selected(workload.raw["spec"]["selector"]["matchLabels"])
        for one in workload.pod.get("topologySpreadConstraints", ()):
            assert workload.selected(one["labelSelector"]["matchLabels"])
    for one in of_kind(found, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = one["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        meant = [who for who in made if who.selected(selector.get("matchLabels", selector))]
        assert meant, one["metadata"]["name"]
        ports = {port["name"] for who in meant for port in who.main.get("ports", ())}
        asked = {port["targetPort"] for port in spec.get("ports", ())}
        rules = [rule for rule in spec.get("ingress", ())]
        asked |= {port["port"] for rule in rules for port in rule["ports"]}
        assert asked <= ports, one["metadata"]["name"]


def test_only_those_of_whom_there_are_several_have_a_budget_which_lets_one_go() -> None:
    budgets = of_kind(OVERLAYS["overlays/in-cluster-nats"], "PodDisruptionBudget")
    assert {one["metadata"]["name"] for one in budgets} == {"encoder", "router", "api", "nats"}
    assert all(one["spec"]["maxUnavailable"] == 1 for one in budgets)


@each_overlay
def test_nothing_has_rights_that_it_does_not_need(found: list[Resource]) -> None:
    for workload in workloads(found).values():
        pod = workload.pod
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("hostPath" not in volume for volume in workload.volumes.values())
        for one in workload.containers:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    image = (DEPLOY.parents[1] / "Dockerfile").read_text("utf-8")
    for workload in FLEET.values():
        who = workload.pod["securityContext"]
        assert f"USER {who['runAsUser']}:{who['runAsGroup']}\n" in image
        assert who["fsGroup"] == who["runAsGroup"], "or it could not write to its volume"


@each_overlay
def test_an_image_s_tag_stands_in_one_place(found: list[Resource]) -> None:
    used = {one["image"] for who in workloads(found).values() for one in who.containers}
    texts = [path.read_text("utf-8") for path in DEPLOY.rglob("*.yaml")]
    assert {image.partition(":")[0] for image in used} <= {"consonance", "nats"}
    for image in used:
        name, _, tag = image.partition(":")
        assert sum(f"- name: {name}\n    newTag: {tag}\n" in text for text in texts) == 1


def test_no_kustomization_has_a_secret_and_the_example_has_none_that_opens_a_door() -> None:
    for found in OVERLAYS.values():
        assert not of_kind(found, "Secret")
    values = {value for data in secrets().values() for value in data.values()}
    assert values == {"REPLACE", "consonance", "routes", '{"keys": []}'}
