"""The fleet of compose.yaml from its first start to its stop, and what is asked of it meanwhile."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from containers.check.compose import Service, services, waves
from containers.check.fleet import Fleet
from containers.check.image import IMAGE
from containers.check.tools import ROOT, Buildah, CheckError, lift_loopback, step

__all__ = ["rehearse"]

ENCODERS = 2
"""As by `--scale encoder=2`."""

TEXTS = ["a fleet in containers", "answers"]
STATE = "/var/lib/consonance"
API = "http://127.0.0.1:8321"
CLIENT = Path(__file__).with_name("client.py")
CLIENT_NAME = "check"
"""The client's source begins with it, and so its key is found."""


def rehearse(work: Path) -> None:
    """Start everything, ask, stop; raises `CheckError`."""
    lift_loopback()
    every = services(ROOT / "compose.yaml")
    # NATS is another's image; what runs is the fleet on its own broker.
    found = {name: one for name, one in every.items() if one.raw["image"].startswith("consonance:")}
    configs = {"settings": ROOT / "containers" / "settings.toml"}
    with step("a container of the image"):
        fleet = Fleet(Buildah(work), IMAGE, work, configs)
    try:
        for group in waves(found):
            with step(", ".join(one.name for one in group)):
                _start(fleet, group)
        with step(f"vectors over the bus, from one of {ENCODERS} encoders"):
            _admit(fleet, found["broker"])
            _ask_bus(fleet, found["router"])
        with step("vectors over HTTP, with the key that init made"):
            _ask_api(fleet.volume("state", STATE))
        with step("an orderly stop"):
            codes = fleet.stop()
        if bad := {host: code for host, code in codes.items() if code}:
            raise CheckError(f"these did not stop in order, their exit codes: {bad}")
        if written := fleet.written(STATE):
            raise CheckError(f"written where compose.yaml lets nobody write: {written[:5]}")
    finally:
        fleet.kill()


def _start(fleet: Fleet, group: tuple[Service, ...]) -> None:
    for one in group:
        if one.health is None:
            fleet.finish(one)
            continue
        for number in range(1, 1 + (ENCODERS if one.name == "encoder" else 1)):
            fleet.start(one, f"{one.name.replace('_', '-')}-{number}")
    fleet.await_health()


def _admit(fleet: Fleet, broker: Service) -> None:
    """Make the client a key, as the how-to page does for any client."""
    make = ("python", "-m", "bus", "keys", "client", CLIENT_NAME, "--state", ".")
    code, said = fleet.execute(broker, "keys", make, "")
    if code:
        raise CheckError(f"no key was made for a client of the bus:\n{said}")


def _ask_bus(fleet: Fleet, beside: Service) -> None:
    asked = json.dumps({"texts": TEXTS, "encoders": ENCODERS})
    code, said = fleet.execute(beside, "client", ("python", "-c", CLIENT.read_text("utf-8")), asked)
    if code:
        raise CheckError(f"the fleet did not answer over the bus:\n{said}")
    answer = json.loads(said)
    if answer["shape"][0] != len(TEXTS) or len(set(answer["encoders"])) != ENCODERS:
        raise CheckError(f"the fleet's answer over the bus is wrong: {answer}")


def _ask_api(state: Path) -> None:
    token = (state / "keys" / "api.token").read_text("ascii").strip()
    if (refused := _post(None)[0]) != 401:
        raise CheckError(f"a request without a key was answered with {refused}, not with 401")
    status, answer = _post(token)
    if status != 200 or len(answer.get("data", ())) != len(TEXTS):
        raise CheckError(f"the API answered with {status}: {answer}")


def _post(token: str | None) -> tuple[int, dict[str, Any]]:
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body = json.dumps({"model": "auto", "input": TEXTS}).encode()
    request = urllib.request.Request(f"{API}/v1/embeddings", body, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, {}
