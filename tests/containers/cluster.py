"""deploy/kubernetes as its tests look at it: resources by kind and name, and what a pod is of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.containers.kustomize import Resource, resources

__all__ = [
    "DEPLOY",
    "FLEET",
    "OVERLAYS",
    "Workload",
    "named",
    "of_kind",
    "quantity",
    "secrets",
    "variables",
    "workloads",
]

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS = {name: resources(DEPLOY / name) for name in ("base", "overlays/in-cluster-nats")}
"""What each kustomization makes."""

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Workload:
    """A Deployment or a StatefulSet."""

    raw: Resource

    @property
    def name(self) -> str:
        """Its own."""
        return str(self.raw["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        """Those of its pods."""
        return dict(self.raw["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> dict[str, Any]:
        """What a pod is made of."""
        return dict(self.raw["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Of a pod, those included that run before the others."""
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def main(self) -> dict[str, Any]:
        """The one container that stays."""
        (only,) = self.pod["containers"]
        return dict(only)

    @property
    def claims(self) -> dict[str, dict[str, Any]]:
        """What each pod has of disks of its own, by name."""
        made = self.raw["spec"].get("volumeClaimTemplates", ())
        return {one["metadata"]["name"]: one["spec"] for one in made}

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        """What a pod can mount besides, by name."""
        return {one["name"]: one for one in self.pod.get("volumes", ())}

    def selected(self, selector: dict[str, str]) -> bool:
        """Whether these labels mean its pods."""
        return selector.items() <= self.labels.items()


def of_kind(found: list[Resource], *kinds: str) -> list[Resource]:
    """The resources of these kinds."""
    return [one for one in found if one["kind"] in kinds]


def named(found: list[Resource], kind: str, name: str) -> Resource:
    """The one resource of that kind and name."""
    (only,) = [one for one in of_kind(found, kind) if one["metadata"]["name"] == name]
    return only


def workloads(found: list[Resource]) -> dict[str, Workload]:
    """Deployments and StatefulSets by name."""
    made = [Workload(one) for one in of_kind(found, "Deployment", "StatefulSet")]
    return {one.name: one for one in made}


def secrets() -> dict[str, dict[str, str]]:
    """What the example has in each Secret."""
    text = (DEPLOY / "secrets.example.yaml").read_text("utf-8")
    return {one["metadata"]["name"]: one["stringData"] for one in yaml.safe_load_all(text)}


def quantity(text: str) -> float:
    """Bytes, or processors, that Kubernetes writes so."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)


def variables(workload: Workload, found: list[Resource]) -> Iterator[str]:
    """The names that the environment of its main container has."""
    for one in workload.main.get("env", ()):
        yield one["name"]
    for source in workload.main.get("envFrom", ()):
        if "configMapRef" in source:
            yield from named(found, "ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            yield from secrets()[source["secretRef"]["name"]]


FLEET = {name.replace("-", "_"): one for name, one in workloads(OVERLAYS["base"]).items()}
"""The workloads of the base by the service that they run."""
