"""Bodies in and out: JSON by msgspec, errors in OpenAI's shape."""

from __future__ import annotations

from typing import Any, TypeVar

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
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.input[3]`"
        what, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".") or None
        where = f"{param}: " if param else ""
        raise InvalidRequest(f"{where}{what}", param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from error
