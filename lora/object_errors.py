"""What a provider's answer means: Arrow hands on its words, and nothing that tells them apart."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from lora.errors import StoreAwayError, StoreError, StoreRefusedError

__all__ = ["judged", "keyless"]

_S3: Final = re.compile(r"AWS Error ([A-Z_]+)(?: \(HTTP status (\d+)\))?")
_GS: Final = re.compile(
    r"google::cloud::Status\(([A-Z_]+): (?:.*? with a last message of )?(.*?)(?: error_info=|\)*$)"
)
_KEYLESS: Final = "access token to authenticate"
_BENEATH: Final = "The underlying error message was: "
_NO_HOST: Final = "CURL error [6]"
_NO_TRUST: Final = "CURL error [60]"
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
}
_GS_REFUSED: Final = {
    "PERMISSION_DENIED": "the credentials do not allow it",
    "UNAUTHENTICATED": "the credentials are missing, or not valid",
    "FAILED_PRECONDITION": "the request is not allowed there",
    **dict.fromkeys(
        ("INVALID_ARGUMENT", "OUT_OF_RANGE", "UNIMPLEMENTED", "UNKNOWN"),
        "the request is not understood there",
    ),
}
_GS_PASSING: Final = frozenset({"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"})
_PASSING: Final = (408, 429)
"""Statuses below 500 that a later attempt may not meet."""


def judged(error: Exception, where: str, what: str) -> StoreError:
    """The error that says what is the matter: `StoreRefusedError` where no try again will help,
    `StoreAwayError` where one may."""
    said = _NOISE.sub("", " ".join(str(error).split()))
    if (google := _GS.search(said)) is not None:
        return _google(google[1], google[2], where, what)
    said = said[:_LONGEST]
    if isinstance(error, PermissionError):
        return StoreRefusedError(f"the object store {where} does not allow {what}: {said}")
    found = _S3.search(said)
    code = found[1] if found else ""
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


def keyless(error: Exception) -> bool:
    """Whether it failed before the store was asked: there was nothing to ask it with."""
    return _KEYLESS in str(error)


def _google(code: str, said: str, where: str, what: str) -> StoreError:
    refused = f"the object store {where} does not allow {what}"
    token = _KEYLESS in said
    said = said.rpartition(_BENEATH)[2].removeprefix("PerformWork() - ")[:_LONGEST]
    if token and (code not in _GS_PASSING or (_NO_HOST in said and not _has_google_key())):
        return StoreRefusedError(
            f"{refused}: the credentials are missing, or cannot be used; "
            f"GOOGLE_APPLICATION_CREDENTIALS names a file with a key ({said})"
        )
    if token:
        return StoreAwayError(
            f"the object store {where} is not to be had for {what}: the credentials cannot be "
            f"had ({said})"
        )
    if code == "NOT_FOUND":
        return StoreRefusedError(f"the object store {where} has no such bucket")
    if _NO_TRUST in said:
        return StoreRefusedError(
            f"{refused}: its certificate is not of an authority that this machine trusts ({said})"
        )
    if code in _GS_REFUSED:
        return StoreRefusedError(f"{refused}: {_GS_REFUSED[code]} ({said})")
    return StoreAwayError(f"the object store {where} is not to be had for {what}: {said}")


def _has_google_key() -> bool:
    """Whether a file is to say who we are; else the machine itself is asked, if it is Google's."""
    if "GOOGLE_APPLICATION_CREDENTIALS" in os.environ:
        return True
    home = os.environ.get("HOME", "")
    return (Path(home) / ".config/gcloud/application_default_credentials.json").exists()
