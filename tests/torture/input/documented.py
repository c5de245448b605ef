"""The HTTP API is asked what its own document allows, and what it does not.

Apart from the rest since schemathesis takes seconds to import.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode

from services.api.app import OPERATIONS
from services.api.openapi import document
from tests.torture.input.http import PATIENCE
from tests.torture.input.target import Broken, hold

__all__ = ["asked"]

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


def asked(
    url: str,
    examples: int,
    seed: int | None,
    until: float = float("inf"),
    only: Collection[str] = (),
) -> tuple[int, list[str]]:
    """Ask every operation so many times what its document allows, and what it does not.

    How often it was asked, and what schemathesis found. Without a seed always the same. Ends early
    at `until` (of `time.monotonic`). `only` some operations where any are named.
    """
    schema = schemathesis.openapi.from_dict(document(OPERATIONS))
    lasting = {one.name for one in OPERATIONS if one.lasting}  # they have no end to wait for
    count, broken = 0, []
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            name = operation.definition.raw["operationId"]
            if name in lasting or (only and name not in only):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                calls, words = _asked(operation, mode, session, url, examples, seed, until)
                count += calls
                broken += [f"{operation.label}, {mode.value}: {words}"] if words else []
    return count, broken


def _asked(
    operation: Any,
    mode: GenerationMode,
    session: requests.Session,
    url: str,
    examples: int,
    seed: int | None,
    until: float,
) -> tuple[int, str]:
    count = 0

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal count
        if time.monotonic() > until:
            return
        count += 1
        response = case.call(base_url=url, session=session, timeout=PATIENCE)
        hold(response.status_code != 500, f"500: {case.as_curl_command()}"[:800])
        case.validate_response(response, checks=CHECKS)

    try:
        (ask if seed is None else hypothesis.seed(seed)(ask))()
    except (hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
        return count, ""  # nothing of that kind can be made for it
    except FailureGroup as group:  # what schemathesis found, and a command that shows it
        return count, " ".join(f"{group} {group.exceptions[0]}".split())[:1000]
    except Broken as error:
        return count, str(error)
    except requests.RequestException as error:
        return count, f"no answer: {error}"
    return count, ""
