"""Logs: one line an event, with who said it and for which request."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from services.runtime import logs


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_spoke_when_and_for_which_request() -> None:
    stream = io.StringIO()
    logs.configure("encoder", "2", stream=stream)
    log = structlog.get_logger()

    with logs.correlated("request-7"):
        log.info("encoded", texts=3, odd=object)
    log.warning("idle")

    first, second = lines(stream)
    assert (first["service"], first["instance"], first["event"]) == ("encoder", "2", "encoded")
    assert (first["texts"], first["level"]) == (3, "info")
    assert first["odd"] == "<class 'object'>"
    assert first["correlationid"] == "request-7"
    assert str(first["timestamp"]).endswith("Z")
    assert "correlationid" not in second


def test_less_than_the_level_is_not_said() -> None:
    stream = io.StringIO()
    logs.configure("encoder", "1", "warning", stream=stream)

    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")

    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_an_error_carries_its_traceback_in_one_line() -> None:
    stream = io.StringIO()
    logs.configure("encoder", "1", stream=stream)

    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("failed")

    (line,) = lines(stream)
    assert "ValueError: boom" in str(line["exception"])


def test_other_libraries_speak_the_same_way_and_only_when_it_matters() -> None:
    stream = io.StringIO()
    logs.configure("encoder", "1", stream=stream)

    logging.getLogger("chatty").info("chat")
    logging.getLogger("chatty").warning("trouble with %s", "x")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    trouble, old = lines(stream)
    assert (trouble["event"], trouble["logger"]) == ("trouble with x", "chatty")
    assert trouble["service"] == "encoder"
    assert "DeprecationWarning: old" in str(old["event"])


@pytest.mark.parametrize("json", [True, False], ids=["machines", "people"])
def test_no_variable_of_a_frame_is_shown(json: bool) -> None:
    stream = io.StringIO()
    logs.configure("encoder", "1", json=json, stream=stream)

    def fail(text: str) -> None:
        raise ValueError("boom")

    try:
        fail(" ".join(("what", "a", "user", "asked")))  # a traceback quotes this line
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed, too")

    assert stream.getvalue().count("ValueError: boom") == 2
    assert "a user asked" not in stream.getvalue()


def test_people_get_words_instead_of_json() -> None:
    stream = io.StringIO()
    logs.configure("encoder", "1", json=False, stream=stream)

    structlog.get_logger().info("encoded", texts=3)

    assert "encoded" in stream.getvalue()
    assert "texts=3" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
