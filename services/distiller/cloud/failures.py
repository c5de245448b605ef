"""What a failed request means: in a sentence, and whether to ask again, and when."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import openai

from services.distiller.cloud.errors import (
    CloudError,
    NotOfferedError,
    RefusedError,
    RejectedError,
    TruncatedError,
    UnavailableError,
)
from services.distiller.cloud.key import Secret

__all__ = ["Failure", "failure_of", "retry_after"]

QUOTA_WAIT = 3600.0
"""Seconds after which an account without credit is asked again."""

QUOTED = 160
"""Characters of a server's own words that stand in a reason."""

_NEVER_SENT = ("ConnectError", "ConnectTimeout")
"""Causes, by class name (the HTTP library behind openai has two names), of a request that did
not reach the server and so cost nothing."""


@dataclass(frozen=True)
class Failure:
    """What a failed attempt comes to."""

    error: CloudError
    """What to raise where it is not tried again."""
    passing: bool = False
    """Trying again soon may help."""
    wait: float | None = None
    """Seconds that the server asks to be left alone."""
    reached: bool = True
    """The server has seen the request."""
    answered: bool = True
    """The server has answered, with an error: no tokens were spent. False: who knows."""
    said: str = ""
    """The server's own words about a request that it refused."""


def failure_of(error: Exception, model: str, timeout: float, secret: Secret) -> Failure:
    """Read an error of the client library, or `TimeoutError`."""
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        reached = type(error.__cause__).__name__ not in _NEVER_SENT
        late = UnavailableError(f"the teacher did not answer within {timeout:g} s")
        return Failure(late, passing=True, reached=reached, answered=False)
    if isinstance(error, openai.APIConnectionError):
        reached = type(error.__cause__).__name__ not in _NEVER_SENT
        what = "broke the connection off" if reached else "cannot be reached"
        return Failure(
            UnavailableError(f"the teacher {what}"), passing=True, reached=reached, answered=False
        )
    if isinstance(error, openai.APIStatusError):
        return _status(error, model, secret)
    return Failure(UnavailableError(f"the teacher's client failed: {type(error).__name__}"))


def _status(error: openai.APIStatusError, model: str, secret: Secret) -> Failure:
    code, quote = error.status_code, _quote(error, secret)
    if code in (401, 403):  # the answer may quote the key, so nothing of it is repeated
        return Failure(UnavailableError(f"the teacher refused the API key ({code})"))
    if code in (404, 405, 501):
        return Failure(NotOfferedError(f"the teacher knows no model {model!r} ({code}): {quote}"))
    if code == 429:
        if error.code == "insufficient_quota":
            broke = UnavailableError("the teacher's account has no credit left (429)")
            return Failure(broke, wait=QUOTA_WAIT)
        busy = UnavailableError("the teacher's rate limit is reached (429)")
        return Failure(busy, passing=True, wait=retry_after(error.response.headers))
    if code >= 500 or code in (408, 409, 425):
        down = UnavailableError(f"the teacher failed ({code}): {quote}")
        return Failure(down, passing=True, wait=retry_after(error.response.headers))
    said = f"{error.code} {error.param} {error.message}".lower()
    if code == 413 or "context_length" in said or "context length" in said:
        return Failure(TruncatedError(f"the request is too long for the model: {quote}"))
    if "content_filter" in said or "content_policy" in said:
        return Failure(RefusedError("a filter of the teacher's refused the request"))
    return Failure(RejectedError(f"the teacher rejected the request ({code}): {quote}"), said=said)


def _quote(error: openai.APIStatusError, secret: Secret) -> str:
    body = error.body
    said = body.get("message") if isinstance(body, Mapping) else None
    text = " ".join(secret.hide(str(said or error.message)).split())
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be kept
    return text if len(text) <= QUOTED else text[: QUOTED - 1] + "…"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds by `Retry-After-Ms` or `Retry-After` (seconds or a date), where it makes sense."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            found = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(found) and found >= 0:
            return found
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, date.timestamp() - time.time())
