"""Who may come in: keys and scopes, pages of others, limits of size and of number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.api import body, guard
from tests.services.api.kit import Door, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEEDBACK = {"query": "q", "relevant": ["p"]}


@pytest.fixture(autouse=True)
def no_keys(shared: Door) -> Iterator[None]:
    """What a test makes, the next one does not find."""
    yield
    shared.keys.path.unlink(missing_ok=True)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_without_a_key_everybody_on_the_machine_may(door: Door) -> None:
    assert (await door.embed()).status_code == 200
    answer = await door.client.post("/v1/feedback", json=FEEDBACK, headers=bearer("anything"))
    assert answer.status_code == 202, "OpenAI's client always sends a key"


async def test_with_a_key_everybody_needs_one_at_once(door: Door) -> None:
    assert (await door.client.get("/v1/models")).status_code == 200
    token = door.keys.create("reader", {"read"})

    without = await door.client.get("/v1/models")
    wrong = await door.client.get("/v1/models", headers=bearer("csn_wrong"))
    basic = await door.client.get("/v1/models", headers={"Authorization": f"Basic {token}"})
    right = await door.client.get("/v1/models", headers=bearer(token))

    for answer in (without, wrong, basic):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert right.status_code == 200


async def test_scopes_are_kept(door: Door) -> None:
    reader = bearer(door.keys.create("reader", {"read"}))
    giver = bearer(door.keys.create("giver", {"feedback"}))

    refused = await door.client.post("/v1/feedback", json=FEEDBACK, headers=reader)
    given = await door.client.post("/v1/feedback", json=FEEDBACK, headers=giver)

    assert refused.status_code == 403
    assert "'reader' has the scope read, this needs feedback" in refused.json()["error"]["message"]
    assert given.status_code == 202
    assert (await door.client.get("/v1/models", headers=giver)).status_code == 200


async def test_health_and_the_page_ask_nobody(door: Door) -> None:
    door.keys.create("key", {"read"})
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert (await door.client.get(path)).status_code == 200, path


async def test_a_key_counts_until_it_is_revoked(door: Door) -> None:
    token = bearer(door.keys.create("one", {"read"}))
    door.keys.create("two", {"read"})
    assert (await door.client.get("/v1/models", headers=token)).status_code == 200

    door.keys.revoke("one")

    assert (await door.client.get("/v1/models", headers=token)).status_code == 401


async def test_a_stream_ends_with_its_key(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LOOK", 0.02)
    token = bearer(door.keys.create("one", {"read"}))
    door.keys.create("two", {"read"})

    async with door.client.stream("GET", "/v1/events", headers=token) as stream:
        assert stream.status_code == 200
        door.keys.revoke("one")
        async with asyncio.timeout(5):
            async for _ in stream.aiter_bytes():
                pass


async def test_a_broken_key_file_lets_nobody_in(door: Door) -> None:
    token = bearer(door.keys.create("one", {"admin"}))
    door.keys.path.write_text("{")

    answer = await door.client.get("/v1/models", headers=token)

    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "keys_unusable"
    assert str(door.keys.path) not in answer.text, "whoever knocks needs no path of ours"
    assert (await door.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.0.9", "[::2]:80"],
)
async def test_a_foreign_name_for_this_machine_is_refused(door: Door, host: str) -> None:
    """DNS rebinding: a page's own name may be made to mean 127.0.0.1."""
    answer = await door.client.get("/v1/models", headers={"Host": host})

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8321", "127.0.0.1:1", "[::1]:8321", "fleet.localhost"]
)
async def test_this_machines_own_names_are_answered(door: Door, host: str) -> None:
    assert (await door.client.get("/v1/models", headers={"Host": host})).status_code == 200


async def test_with_a_key_any_name_is_answered(door: Door) -> None:
    token = door.keys.create("one", {"read"})
    headers = {"Host": "embeddings.example", **bearer(token)}
    assert (await door.client.get("/v1/models", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_a_page_of_another_origin_gives_no_feedback(
    door: Door, headers: dict[str, str]
) -> None:
    answer = await door.client.post("/v1/feedback", json=FEEDBACK, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"


async def test_our_own_page_does(door: Door) -> None:
    headers = {"Origin": door.url, "Sec-Fetch-Site": "same-origin"}
    answer = await door.client.post("/v1/feedback", json=FEEDBACK, headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
async def test_a_form_is_no_request(door: Door, kind: str) -> None:
    """What a foreign page can send without asking the browser's leave is not taken."""
    headers = {"Content-Type": kind} if kind else {}
    answer = await door.client.post(
        "/v1/feedback", content=json.dumps(FEEDBACK).encode(), headers=headers
    )
    assert answer.status_code == 415


async def test_a_compressed_body_is_refused(door: Door) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await door.client.post("/v1/feedback", content=b"x", headers=headers)
    assert answer.status_code == 415
    assert "compressed" in answer.json()["error"]["message"]


async def pieces(total: int) -> Any:
    """A body of unknown length: a JSON text of `total` bytes."""
    yield b'{"input":"'
    for _ in range(total // 1000):
        yield b"x" * 1000
    yield b'"}'


@pytest.mark.parametrize("streamed", [False, True], ids=["told", "streamed"])
async def test_a_body_has_a_limit_whether_it_says_its_length_or_not(
    tmp_path: Path, streamed: bool
) -> None:
    async with opened(tmp_path, max_body_bytes=20_000) as door:
        headers = {"Content-Type": "application/json"}
        content: Any = pieces(60_000) if streamed else b"x" * 60_000
        answer = await door.client.post("/v1/embeddings", content=content, headers=headers)
        fits = await door.embed("x" * 19_000)

    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert "20000 bytes" in answer.json()["error"]["message"]
    assert fits.status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "READ_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(door.url).port)
    writer.write(
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
        b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"input":'
    )
    async with asyncio.timeout(5):
        status = await reader.readline()
    writer.close()

    assert status.startswith(b"HTTP/1.1 408")


async def test_beyond_the_limit_requests_are_told_to_come_again(tmp_path: Path) -> None:
    async with opened(tmp_path, max_concurrent=2) as door:
        slow = [asyncio.create_task(door.embed("slow")) for _ in range(2)]
        while len(door.player.asked) < 2:
            await asyncio.sleep(0.005)

        refused = await door.embed("quick")
        health = await door.client.get("/healthz")
        door.player.release.set()
        answers = await asyncio.gather(*slow)
        again = await door.embed("quick")

    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert health.status_code == 200
    assert [answer.status_code for answer in (*answers, again)] == [200] * 3


async def test_who_goes_away_frees_the_place(tmp_path: Path) -> None:
    async with opened(tmp_path, max_concurrent=1) as door:
        with pytest.raises(httpx.ReadTimeout):
            await door.client.post(
                "/v1/embeddings", json={"input": "slow", "model": "base"}, timeout=0.2
            )
        async with asyncio.timeout(5):
            while (await door.embed("quick")).status_code == 429:
                await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/embeddings", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/embeddings", 405, "method_not_allowed"),
        ("GET", "/nothing/here", 404, "not_found"),
        ("GET", "/page/nothing.js", 404, "not_found"),
        ("GET", "/page/%2e%2e/keys.py", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_told_in_the_same_shape(
    door: Door, method: str, path: str, status: int, code: str
) -> None:
    answer = await door.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


async def test_a_stream_has_no_head(door: Door) -> None:
    assert (await door.client.head("/v1/models")).status_code == 200
    assert (await door.client.head("/v1/events")).status_code == 405


async def test_every_answer_bears_an_id_and_the_browsers_orders(door: Door) -> None:
    answers = [await door.client.get("/v1/models"), await door.client.get("/nothing")]

    assert len({answer.headers["x-request-id"] for answer in answers}) == 2
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/embeddings/", "/v1/status/", "/page", "//evil.example/"])
async def test_nobody_is_sent_to_another_address(door: Door, path: str) -> None:
    """It could be http where a proxy speaks TLS, and a key would follow."""
    answer = await door.client.post(f"{door.url}{path}", json={"input": "a", "model": "base"})
    assert answer.status_code == 404


async def test_a_slash_too_many_leads_to_the_document(door: Door) -> None:
    answer = await door.client.get("/docs/")
    assert (answer.status_code, answer.headers["location"]) == (307, "../docs")
