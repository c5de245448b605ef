"""The AsyncAPI 3 document of the wire, generated from the types."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from schemas.base import catalogue

__all__ = ["document", "render"]

_REF = "#/components/schemas/{name}"

_ENVELOPE = {
    "type": "object",
    "description": "CloudEvents 1.0, JSON structured mode.",
    "required": ["specversion", "id", "source", "type", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "description": "Unique within its source."},
        "source": {"type": "string", "description": "Stable across restarts: /encoder/2."},
        "type": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"const": "application/json"},
        "correlationid": {"type": "string"},
        "causationid": {"type": "string"},
        "traceparent": {"type": "string"},
        "sequence": {"type": "integer", "description": "The journal's number (durable)."},
        "previous": {"type": "integer", "description": "The one before of this type; a gap shows."},
        "data": {},
    },
}


def document() -> dict[str, Any]:
    """The document as a dictionary: a channel, a message and an operation for every type."""
    kinds = catalogue()
    schemas, components = msgspec.json.schema_components(kinds.values(), ref_template=_REF)
    channels: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for (name, kind), schema in zip(kinds.items(), schemas, strict=True):
        key = name.replace(".", "_")
        channel: dict[str, Any] = {
            "address": f"{name}@{{recipient}}" if kind.addressed else name,
            "messages": {key: {"$ref": f"#/components/messages/{key}"}},
        }
        if kind.addressed:
            channel["parameters"] = {"recipient": {"description": "The name it is addressed to."}}
        channels[key] = channel
        messages[key] = {
            "name": name,
            "summary": (kind.__doc__ or "").strip().splitlines()[0],
            "contentType": "application/cloudevents+json",
            "x-lane": kind.lane.value,
            "payload": {
                "allOf": [
                    {"$ref": "#/components/schemas/CloudEvent"},
                    {"properties": {"type": {"const": name}, "data": schema}},
                ]
            },
        }
        operations[f"on_{key}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{key}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Consonance",
            "version": "1.0.0",
            "description": "Typed events of a text-embedding service that improves itself.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"CloudEvent": _ENVELOPE, **dict(sorted(components.items()))},
        },
    }


def render() -> str:
    """The document as it lies in `schemas/asyncapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"
