"""What `kubectl kustomize` makes of our kustomizations, as far as they use it.

Whatever else a kustomization asks for is an error here, so that nothing goes by unread. Names of
generated ConfigMaps keep no digest: what refers to them refers to the name.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Resource", "resources"]

Resource = dict[str, Any]

_KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "images", "configMapGenerator"),
    *("patches", "replicas"),
}
_EVERYWHERE = {"Namespace"}
"""Kinds that lie in no namespace."""


def resources(folder: Path) -> list[Resource]:
    """The resources of a folder with a `kustomization.yaml`; raises `ValueError`."""
    asked = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := set(asked) - _KNOWN:
        raise ValueError(f"{folder}: not understood: {', '.join(sorted(unknown))}")
    found = [one for name in asked["resources"] for one in _read(folder / name)]
    for generator in asked.get("configMapGenerator", ()):
        _generate(found, folder, generator)
    for patch in asked.get("patches", ()):
        operations = yaml.safe_load((folder / patch["path"]).read_text("utf-8"))
        targets = [one for one in found if _is_target(one, patch["target"])]
        if not targets:
            raise ValueError(f"{folder}: {patch['path']} patches nothing")
        for one in targets:
            _patch(one, copy.deepcopy(operations))
    for count in asked.get("replicas", ()):
        for one in found:
            if one["metadata"]["name"] == count["name"] and "replicas" in one.get("spec", ()):
                one["spec"]["replicas"] = count["count"]
    for image in asked.get("images", ()):
        _name_image(found, image)
    for one in found:
        if one["kind"] not in _EVERYWHERE:
            one["metadata"]["namespace"] = asked["namespace"]
    _refuse_doubles(found)
    return found


def _read(path: Path) -> list[Resource]:
    if path.is_dir():
        return resources(path)
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def _generate(found: list[Resource], folder: Path, generator: Mapping[str, Any]) -> None:
    if unknown := set(generator) - {"name", "behavior", "files", "envs", "literals"}:
        raise ValueError(f"{folder}: not understood: {', '.join(sorted(unknown))}")
    data = {
        Path(name).name: (folder / name).read_text("utf-8") for name in generator.get("files", ())
    }
    lines = [
        line
        for name in generator.get("envs", ())
        for line in (folder / name).read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    for line in (*lines, *generator.get("literals", ())):
        name, equals, value = line.partition("=")
        if not equals:
            raise ValueError(f"{folder}: {line!r} is no NAME=value")
        data[name] = value
    there = [
        one
        for one in found
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == generator["name"]
    ]
    behavior = generator.get("behavior", "create")
    if (behavior == "create") == bool(there):
        raise ValueError(f"{folder}: cannot {behavior} the ConfigMap {generator['name']}")
    if behavior == "create":
        head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}}
        found.append({**head, "data": data})
    elif behavior == "merge":
        there[0]["data"].update(data)
    else:
        there[0]["data"] = data


def _is_target(one: Resource, target: Mapping[str, str]) -> bool:
    labels = one["metadata"].get("labels", {})
    selector = target.get("labelSelector", "")
    wanted = dict(pair.split("=") for pair in selector.split(",") if pair)
    return (
        re.fullmatch(target.get("kind", ".*"), one["kind"]) is not None
        and re.fullmatch(target.get("name", ".*"), one["metadata"]["name"]) is not None
        and wanted.items() <= labels.items()
    )


def _patch(one: Resource, operations: list[dict[str, Any]]) -> None:
    """JSON 6902: what is added takes the place of what is there, in a list it is put in."""
    for operation in operations:
        *way, last = [
            word.replace("~1", "/").replace("~0", "~") for word in operation["path"].split("/")[1:]
        ]
        at: Any = one
        for word in way:
            at = at[int(word)] if isinstance(at, list) else at[word]
        match operation["op"], at:
            case "add", list():
                at.insert(len(at) if last == "-" else int(last), operation["value"])
            case "add", dict():
                at[last] = operation["value"]
            case "replace", dict() if last in at:
                at[last] = operation["value"]
            case "remove", dict() if last in at:
                del at[last]
            case _:
                raise ValueError(f"cannot {operation['op']} {operation['path']}")


def _name_image(found: list[Resource], image: Mapping[str, str]) -> None:
    meant = re.compile(rf"({re.escape(image['name'])})(?::(.*))?")
    used = [one for one in _containers(found) if meant.fullmatch(one["image"])]
    if not used:
        raise ValueError(f"nothing uses the image {image['name']}")
    for one in used:
        name, tag = meant.fullmatch(one["image"]).groups()  # type: ignore[union-attr]
        one["image"] = f"{image.get('newName', name)}:{image.get('newTag', tag)}"


def _containers(found: list[Resource]) -> Iterator[dict[str, Any]]:
    for one in found:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        yield from (*pod.get("initContainers", ()), *pod.get("containers", ()))


def _refuse_doubles(found: list[Resource]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    if doubles := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"twice: {sorted(doubles)}")
