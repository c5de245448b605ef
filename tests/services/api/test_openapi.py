"""The document: valid, whole, and what the answers are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from services.api.app import OPERATIONS
from services.api.fields import structs
from services.api.older import downgraded
from services.api.openapi import document
from tests.services.api.kit import Door, card

DOCUMENT = json.loads(json.dumps(document(OPERATIONS)))

module_loop = pytest.mark.asyncio(loop_scope="module")


def references(part: Any) -> set[str]:
    """Every `$ref` below a part of the document."""
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    return own.union(*map(references, part.values()))


def resolved(schema: Any) -> Any:
    """A schema that stands alone: with the components that it refers to."""
    return {**schema, "components": DOCUMENT["components"]}


def test_every_operation_is_in_it_once() -> None:
    names = [one.name for one in OPERATIONS]
    assert len(set(names)) == len(names)
    told = {
        (method.upper(), path): body["operationId"]
        for path, methods in DOCUMENT["paths"].items()
        for method, body in methods.items()
    }
    assert told == {(one.method, one.template): one.name for one in OPERATIONS}
    assert DOCUMENT["openapi"] == "3.1.0"


@pytest.mark.parametrize("version", ["3.1", "3.0"])
def test_every_reference_leads_somewhere(version: str) -> None:
    found = DOCUMENT if version == "3.1" else downgraded(DOCUMENT)
    for reference in references(found):
        part: Any = found
        for step in reference.removeprefix("#/").split("/"):
            part = part[step]
        assert part, reference


def test_every_schema_is_one() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_path_names_its_parameters() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for body in methods.values():
            given = [one["name"] for one in body.get("parameters", []) if one["in"] == "path"]
            assert given == re.findall(r"\{(\w+)\}", path)


def test_every_operation_says_how_it_fails_and_whether_it_wants_a_key() -> None:
    for one in OPERATIONS:
        body = DOCUMENT["paths"][one.template][one.method.lower()]
        statuses = set(body["responses"])
        assert {str(one.status), "500"} <= statuses
        assert bool(body["security"]) is (one.scope is not None)
        assert ({"401", "403"} <= statuses) is (one.scope is not None)
        assert ({"400", "413", "415"} <= statuses) is (one.takes is not None)
        assert all(response["description"] for response in body["responses"].values())
        assert one.tag in [tag["name"] for tag in DOCUMENT["tags"]]


def test_what_stands_under_a_field_is_told() -> None:
    skill = DOCUMENT["components"]["schemas"]["Skill"]["properties"]
    assert skill["routed"]["description"].startswith("Whether `auto` may choose it")
    model = DOCUMENT["components"]["schemas"]["EmbeddingRequest"]["properties"]["model"]
    assert model["description"].startswith("`auto` (the fleet chooses")


def test_types_of_one_name_would_take_each_others_place() -> None:
    kinds = [kind for one in OPERATIONS for kind in (one.takes, one.gives) if kind is not None]
    found = structs(kinds)
    assert len({kind.__name__ for kind in found}) == len(found)


def test_the_older_one_has_nothing_that_is_new() -> None:
    text = json.dumps(downgraded(DOCUMENT))
    assert '"openapi": "3.0.3"' in text
    assert '{"type": "null"}' not in text
    assert '"examples"' not in text
    assert '"identifier"' not in text
    assert '"nullable": true' in text


@module_loop
async def test_answers_are_what_it_says(door: Door) -> None:
    door.player.cards = [card("banking", 2)]
    feedback = {"query": "q", "relevant": ["p"]}
    answers = {
        ("/v1/embeddings", "post"): await door.embed("a", "banking"),
        ("/v1/models", "get"): await door.client.get("/v1/models"),
        ("/v1/models/{model}", "get"): await door.client.get("/v1/models/banking"),
        ("/v1/skills", "get"): await door.client.get("/v1/skills"),
        ("/v1/skills/{name}", "get"): await door.client.get("/v1/skills/banking"),
        ("/v1/skills/{name}/history", "get"): await door.client.get("/v1/skills/banking/history"),
        ("/v1/feedback", "post"): await door.client.post("/v1/feedback", json=feedback),
        ("/v1/status", "get"): await door.client.get("/v1/status"),
        ("/healthz", "get"): await door.client.get("/healthz"),
        ("/readyz", "get"): await door.client.get("/readyz"),
    }
    for (path, method), answer in answers.items():
        response = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
        schema = response["content"]["application/json"]["schema"]
        Draft202012Validator(resolved(schema)).validate(answer.json())

    error = await door.embed("", "base")
    schema = DOCUMENT["paths"]["/v1/embeddings"]["post"]["responses"]["400"]
    Draft202012Validator(resolved(schema["content"]["application/json"]["schema"])).validate(
        error.json()
    )


@module_loop
async def test_it_is_served_and_browsed_without_a_foreign_host(door: Door) -> None:
    assert (await door.client.get("/openapi.json")).json() == DOCUMENT
    older = await door.client.get("/openapi.json", params={"version": "3.0"})
    assert older.json()["openapi"] == "3.0.3"

    page = await door.client.get("/docs")

    assert page.headers["content-type"].startswith("text/html")
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert found
    for link in found:
        assert not re.match(r"\w+:|//", link), link
        answer = await door.client.get(f"/{link}")
        assert answer.status_code == 200, link
    assert "<script>" not in page.text, "the browser is told to run no inline script"


@module_loop
async def test_files_are_not_sent_again_where_nothing_changed(door: Door) -> None:
    for path in ("/", "/page/page.css", "/docs/swagger-ui.css"):
        first = await door.client.get(path)
        again = await door.client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert first.headers["cache-control"] in ("no-cache", "public, max-age=86400")
        assert again.status_code == 304, path
