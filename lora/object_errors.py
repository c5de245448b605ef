"""What a provider's answer means: Arrow hands on its words, and nothing that tells them apart."""

from __future__ import annotations

import re
from typing import Final

from lora.errors import StoreAwayError, StoreError, StoreRefusedError

__all__ = ["judged"]

_S3: Final = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_GS: Final = re.compile(
    r"\b(PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT|FAILED_PRECONDITION)\b"
)
_NOISE: Final = re.compile(r"\s*\(Request ID: [^)]*\)")
_LONGEST: Final = 300

_NO_BUCKET: Final = frozenset({"NO_SUCH_BUCKET", "NOT_FOUND"})
_REFUSED: Final = {
    "ACCESS_DENIED": "the credentials are missing, or do not allow it",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there",
    "INVALID_CLIENT_TOKEN_ID": "the access key is not known there",
    "MISSING_AUTHENTICATION_TOKEN": "there are no credentials",
    "REQUEST_EXPIRED": "the credentials have expired",
    "REQUEST_TIME_TOO_SKEWED": "this machine's clock is wrong",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key is not the access key's",
    "UNRECOGNIZED_CLIENT": "the access key is not known there",
    "PERMISSION_DENIED": "the credentials do not allow it",
    "UNAUTHENTICATED": "the credentials are missing, or not valid",
    "INVALID_ARGUMENT": "the request is not understood there",
    "FAILED_PRECONDITION": "the request is not allowed there",
}
_PASSING: Final = (408, 429)
"""Statuses below 500 that a later attempt may not meet."""


def judged(error: OSError, where: str, what: str) -> StoreError:
    """The error that says what is the matter: `StoreRefusedError` where no try again will help,
    `StoreAwayError` where one may."""
    said = _NOISE.sub("", " ".join(str(error).split()))[:_LONGEST]
    if isinstance(error, PermissionError):
        return StoreRefusedError(f"the object store {where} does not allow {what}: {said}")
    found = _S3.search(said)
    code = found[1] if found else next(iter(_GS.findall(said)), "")
    status = int(found[2]) if found and found[2] else 0
    if code in _NO_BUCKET or ("Bucket" in said and "not found" in said):
        return StoreRefusedError(f"the object store {where} has no such bucket")
    if code in _REFUSED:
        return StoreRefusedError(
            f"the object store {where} does not allow {what}: {_REFUSED[code]} ({said})"
        )
    if 300 <= status < 500 and status not in _PASSING:
        why = "the bucket is in another region" if status < 400 else "it refuses the request"
        return StoreRefusedError(
            f"the object store {where} does not allow {what}: {why} (HTTP status {status}; {said})"
        )
    return StoreAwayError(f"the object store {where} is not to be had for {what}: {said}")
