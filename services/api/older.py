"""The document for readers that know OpenAPI 3.0 only, such as the Swagger UI of the bundle.

It says the same as far as 3.0 can; what programs should read is the other one.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["OLDER", "downgraded"]

OLDER: Final = "3.0"


def downgraded(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI 3.1 document as 3.0: null by `nullable`, examples one at a time."""
    older: dict[str, Any] = _older(document)
    older["openapi"] = "3.0.3"
    older["info"]["license"].pop("identifier", None)
    return older


def _older(part: Any) -> Any:
    if isinstance(part, list):
        return [_older(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {key: _older(value) for key, value in part.items()}
    choices = found.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        rest = [one for one in choices if one != {"type": "null"}]
        del found["anyOf"]
        # A reference stands alone in 3.0: whatever is beside it is not read.
        alone = len(rest) == 1 and "$ref" not in rest[0]
        found = {**(rest[0] if alone else {"anyOf": rest}), **found, "nullable": True}
        if found.get("default", ...) is None:
            del found["default"]
    examples = found.get("examples")
    if isinstance(examples, list) and examples:
        del found["examples"]
        found["example"] = examples[0]
    if "$ref" in found and len(found) > 1:
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found
