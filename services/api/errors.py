"""What the API answers with an error: OpenAI's shape, a status, one sentence.

ServiceError
└── ApiError
    ├── InvalidRequest       400  the request makes no sense; `param` names the field
    ├── Unauthenticated      401  no key, or one that is not known
    ├── Forbidden            403  the key does not reach so far, or the page is a foreign one
    ├── NotFound             404  no such path, skill or version
    ├── MethodNotAllowed     405  the path is there, the method is not
    ├── TooSlow              408  the body did not come within a reasonable time
    ├── BodyTooLarge         413  more bytes, or a larger event, than is taken
    ├── WrongMediaType       415  a body that is not JSON
    ├── Overloaded           429  too much at a time; `retry_after` says when to come again
    ├── InternalFailure      500  a fault of ours
    ├── FleetAway            503  the bus, the journal or a process does not answer
    ├── DeadlineExceeded     504  no answer within the request's deadline
    └── KeysError            503  the file of keys cannot be used: nobody gets in
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from services.errors import ServiceError

__all__ = [
    "ApiError",
    "BodyTooLarge",
    "DeadlineExceeded",
    "FleetAway",
    "Forbidden",
    "InternalFailure",
    "InvalidRequest",
    "KeysError",
    "MethodNotAllowed",
    "NotFound",
    "Overloaded",
    "TooSlow",
    "Unauthenticated",
    "WrongMediaType",
]


class ApiError(ServiceError):
    """A request that is answered with an error; its text is one clear sentence.

    `kind` and `code` are the words that OpenAI's clients know; `param` is the field at fault.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after  # seconds

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {
            "error": {
                "message": str(self),
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """The headers that belong to the answer, beside its type and length."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


class InvalidRequest(ApiError):
    """The request makes no sense."""

    status = 400
    kind = "invalid_request_error"


class Unauthenticated(ApiError):
    """No key was given, or one that is not known."""

    status = 401
    kind = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {**super().headers(), "WWW-Authenticate": 'Bearer realm="consonance"'}


class Forbidden(ApiError):
    """The key does not reach so far, or a page of somebody else's asks."""

    status = 403
    kind = "permission_error"
    code = "insufficient_permissions"


class NotFound(ApiError):
    """There is no such path, skill or version."""

    status = 404
    kind = "invalid_request_error"
    code = "not_found"


class MethodNotAllowed(ApiError):
    """The path is there, but not with this method."""

    status = 405
    kind = "invalid_request_error"
    code = "method_not_allowed"


class TooSlow(ApiError):
    """The body did not come within a reasonable time."""

    status = 408
    kind = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(ApiError):
    """More bytes than are taken."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"


class WrongMediaType(ApiError):
    """A body that is not JSON, or does not say that it is."""

    status = 415
    kind = "invalid_request_error"
    code = "unsupported_media_type"


class Overloaded(ApiError):
    """Too much at a time."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)


class InternalFailure(ApiError):
    """A fault of ours; the log has it."""

    code = "internal_error"


class FleetAway(ApiError):
    """The bus, the journal or a process that this needs does not answer."""

    status = 503
    code = "fleet_unavailable"

    def __init__(self, message: str, *, retry_after: float = 2.0) -> None:
        super().__init__(message, retry_after=retry_after)


class DeadlineExceeded(ApiError):
    """No answer within the request's deadline."""

    status = 504
    code = "deadline_exceeded"


class KeysError(ApiError):
    """The file of keys cannot be used, or a change of it makes no sense; says why."""

    status = 503
    code = "keys_unusable"
