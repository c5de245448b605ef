"""Bodies in and out: JSON by msgspec, errors in OpenAI's shape."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from services.api.errors import ApiError, InvalidRequest
from services.api.operation import JSON

__all__ = ["answer", "body_of", "refusal"]

_T = TypeVar("_T")

_encoder = msgspec.json.Encoder()


def answer(data: Any, *, status: int = 200) -> Response:
    """A Struct, or anything that msgspec encodes, as JSON."""
    return Response(_encoder.encode(data), status, media_type=JSON)


def refusal(error: ApiError) -> Response:
    """The answer to a request that is refused."""
    return Response(_encoder.encode(error.body()), error.status, error.headers(), media_type=JSON)


async def body_of(request: Request, kind: type[_T]) -> _T:
    """The JSON body as a Struct; raises `InvalidRequest` with the field at fault."""
    raw = await request.body()
    if not raw.strip():
        raise InvalidRequest("the body is empty: it must be a JSON object")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _explained(str(error), kind) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from error


_NOUNS: Final = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_FIELD: Final = re.compile(r"Object (missing required|contains unknown) field `(\w+)`")
_EXPECTED: Final = re.compile(r"Expected `([\w| ]+)`(.*?)(?:, got `(\w+)`)?")
_CHOICE: Final = re.compile(r"Invalid enum value (.+)", re.DOTALL)


def _explained(message: str, kind: Any) -> InvalidRequest:
    """msgspec's words, such as "Expected `str`, got `int` - at `$.input[3]`", in plain ones."""
    what, _, place = message.partition(" - at `$")
    param = place.rstrip("`").lstrip(".") or None
    if field := _FIELD.fullmatch(what):
        param = field[2] if param is None else f"{param}.{field[2]}"
        is_what = "is missing" if field[1].startswith("missing") else "is no field of this request"
    elif choice := _CHOICE.fullmatch(what):
        is_what = f"is {choice[1]}, but must be {_choices(kind, param)}"
    elif expected := _EXPECTED.fullmatch(what):
        nouns = " or ".join(_NOUNS.get(one, one) for one in expected[1].split(" | "))
        is_what = f"must be {nouns}{expected[2].replace(' matching regex', ' like')}"
        if expected[3]:
            is_what += f", not {_NOUNS.get(expected[3], expected[3])}"
    else:
        return InvalidRequest(what if param is None else f"{param}: {what}", param=param)
    return InvalidRequest(f"{param or 'the body'} {is_what}", param=param)


def _choices(kind: Any, param: str | None) -> str:
    """What a `Literal` field may be."""
    found = next(
        (field.type for field in msgspec.structs.fields(kind) if field.name == param), None
    )
    while get_origin(found) is Annotated:
        found = get_args(found)[0]
    values = get_args(found) if get_origin(found) is Literal else ()
    return " or ".join(f"'{value}'" for value in values) or "another"
