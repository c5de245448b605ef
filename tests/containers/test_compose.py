"""compose.yaml: what the specification allows, and the fleet's own list of services, no more, no
less."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bus.urls import endpoints
from containers.check.compose import Service, interpolated, services, waves
from services.fleet.plan import SERVICES
from services.runtime.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "compose.yaml"
SCHEMA = Path(__file__).with_name("compose-spec.json")
SETTINGS = ROOT / "containers" / "settings.toml"

DOCUMENT: Mapping[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
FOUND = services(FILE)
OURS = {name: one for name, one in FOUND.items() if name != "nats"}
FLEET = {name: one for name, one in OURS.items() if name != "init"}
PARTS = {name: one for name, one in FLEET.items() if name != "broker"}

each_of_the_fleet = pytest.mark.parametrize("service", FLEET.values(), ids=FLEET)
each_part = pytest.mark.parametrize("service", PARTS.values(), ids=PARTS)


def words_of(service: Service) -> list[str]:
    """The command's words, those of a shell's too."""
    return [word.strip("\"'") for text in service.command for word in text.split()]


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_the_file_is_what_the_compose_specification_allows() -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert not [error.message for error in validator.iter_errors(DOCUMENT)]

    wrong = json.loads(json.dumps(DOCUMENT))
    wrong["services"]["router"]["restarts"] = "always"
    assert [error.message for error in validator.iter_errors(wrong)]


def test_there_is_a_container_for_every_service_of_the_fleet() -> None:
    assert set(FOUND) == {"init", "broker", "nats", *(role.service for role in SERVICES)}


@each_part
def test_a_container_runs_its_own_service_with_the_fleets_settings(service: Service) -> None:
    words = words_of(service)
    module = after(words, "-m")
    assert module == f"services.{service.name}"
    assert importlib.util.find_spec(f"{module}.__main__")
    assert after(words, "--config") == service.configs[0][1]


@each_of_the_fleet
def test_a_containers_health_is_its_own_services_word(service: Service) -> None:
    assert service.health is not None
    words = " ".join(service.health).split()
    assert after(words, "-m") == "services.fleet.health"
    assert after(words, "--service") == service.name


@each_of_the_fleet
def test_containers_come_back_and_have_time_to_stop(service: Service) -> None:
    assert service.raw["restart"] == "unless-stopped"
    grace = float(service.raw["stop_grace_period"].removesuffix("s"))
    assert grace > load_settings(SETTINGS).fleet.stop_grace


@each_of_the_fleet
def test_containers_have_no_rights_that_they_do_not_need(service: Service) -> None:
    assert service.raw["cap_drop"] == ["ALL"]
    assert service.raw["security_opt"] == ["no-new-privileges:true"]
    assert service.raw["read_only"] is True
    assert service.tmpfs == ("/tmp",)  # noqa: S108  (in memory, in its own container)
    assert not {"user", "privileged", "cap_add", "network_mode", "pid"} & set(service.raw)


@each_part
def test_everybody_waits_for_the_broker_and_the_broker_for_its_keys(service: Service) -> None:
    assert service.after == {"broker": "service_healthy"}
    assert service.raw["depends_on"]["nats"] == {"condition": "service_healthy", "required": False}
    assert FOUND["broker"].after == {"init": "service_completed_successfully"}
    assert FOUND["init"].after == {}
    assert FOUND["init"].raw["restart"] == "no"


def test_encoders_can_be_scaled_since_each_goes_by_its_containers_name() -> None:
    encoder = FOUND["encoder"]
    assert encoder.command[:2] == ("sh", "-c")
    assert encoder.command[2].startswith("exec ")  # the signal to stop reaches the encoder itself
    assert after(words_of(encoder), "--instance") == "$(hostname)"
    assert '--instance "$(hostname)"' in " ".join(encoder.health or ())
    assert not {"container_name", "hostname", "ports"} & set(encoder.raw)


def test_the_broker_listens_where_the_others_look_for_it() -> None:
    bound = endpoints(after(words_of(FOUND["broker"]), "--url"))
    assert load_settings(SETTINGS).fleet.bus is None, "the environment says it"
    for service in OURS.values():
        told = endpoints(service.environment["CONSONANCE_BUS"])
        assert bound.ports == told.ports
        assert told.ingress == f"tcp://broker:{(told.ports or (0,))[0]}"


def test_the_state_lies_in_the_volume() -> None:
    state = load_settings(SETTINGS).fleet.state
    for service in OURS.values():
        assert service.mounts == (("state", state),)
    assert set(DOCUMENT["volumes"]) == {"state", "nats"}
    assert after(words_of(FOUND["broker"]), "--state") == state


def test_the_settings_are_the_files_and_come_into_every_container() -> None:
    tables = tomllib.loads(SETTINGS.read_text("utf-8"))
    assert load_settings(SETTINGS).api.host == "0.0.0.0"  # noqa: S104
    assert set(tables) == {"fleet", "encoder", "api", "federation"}
    file = interpolated(DOCUMENT["configs"]["settings"]["file"], {})
    assert (ROOT / file).resolve() == SETTINGS
    assert all(service.configs for service in FOUND.values())


def test_nothing_but_the_two_doors_is_open_to_the_outside() -> None:
    settings = load_settings(SETTINGS)
    published = {
        name: service.raw["ports"] for name, service in FOUND.items() if "ports" in service.raw
    }
    assert published == {
        "api": [f"127.0.0.1:8321:{settings.api.port}"],
        "federation": [f"5690:{settings.federation.port}"],
    }


def test_the_gateway_and_nats_run_only_where_they_are_asked_for() -> None:
    profiles = {name: one.raw["profiles"] for name, one in FOUND.items() if "profiles" in one.raw}
    assert profiles == {"federation": ["federation"], "nats": ["nats"]}


def test_one_image_is_built_once_and_used_by_all() -> None:
    assert {service.raw["image"] for service in OURS.values()} == {"consonance:local"}
    assert [name for name, service in FOUND.items() if "build" in service.raw] == ["init"]


def test_the_build_passes_every_argument_of_the_dockerfile_at_its_default() -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    arguments = dict(re.findall(r"^ARG (\w+)=(\S.*)$", text, re.M))
    assert "--require-hashes" in arguments.pop("LOCKED"), "nobody is asked whether to verify"
    assert FOUND["init"].raw["build"]["args"] == arguments


@pytest.mark.parametrize(
    ("text", "variables", "result"),
    [
        ("${A:-b}", {}, "b"),
        ("${A:-b}", {"A": ""}, "b"),
        ("${A-b}", {"A": ""}, ""),
        ("${A-b}:$A", {"A": "c"}, "c:c"),
        ("$$(hostname)", {}, "$(hostname)"),
        ("${A}", {}, ""),
    ],
)
def test_variables_are_replaced_as_compose_does(
    text: str, variables: dict[str, str], result: str
) -> None:
    assert interpolated({"key": [text]}, variables) == {"key": [result]}


def test_services_are_started_after_those_that_they_wait_for() -> None:
    groups = [{one.name for one in group} for group in waves(OURS)]
    assert groups == [{"init"}, {"broker"}, set(PARTS)]

    circle = {
        name: Service(name, {"depends_on": {other: {"condition": "service_started"}}})
        for name, other in (("a", "b"), ("b", "a"))
    }
    with pytest.raises(ValueError, match="a, b"):
        waves(circle)
