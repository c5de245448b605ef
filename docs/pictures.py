"""Takes the pictures of the live page, from a real fleet that learns: `python docs/pictures.py`.

It starts a fleet, lets it learn the standard library of this Python over HTTP, as any client could,
and writes `pictures/page-{learning,after}-{light,dark,narrow}.png`. Needs Chromium (`CHROMIUM`
names one that is not on the path) and some ten minutes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
from playwright.async_api import Browser, async_playwright

from benchmarks.kit.fleet import fresh_state, running_fleet, settings_file
from demo.domain import Pair, pairs, split

__all__ = ["main"]

FOLDER = Path(__file__).with_suffix("")
DOMAIN = "python-stdlib"
PIECES = 480
"""Feedback given at once; what comes after it fills the next batch notch by notch."""
OPEN = 11
"""Clashes of the open batch in the picture."""
SETTINGS = {
    "factory": {"quiet_period": 15.0},  # a person waits: not until the night
    "federation": {"enabled": False},
}
SHAPES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "narrow": {
        "viewport": {"width": 360, "height": 800},
        "color_scheme": "light",
        "device_scale_factor": 2,
    },
}


class Fleet:
    """What this script asks of the API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, timeout=120)

    async def embed(self, texts: Sequence[str], role: str, model: str = "base") -> Any:
        """Unit vectors (n, dim)."""
        parts = []
        for start in range(0, len(texts), 256):
            asked = {"model": model, "input": texts[start : start + 256], "role": role}
            answer = await self._http.post("/v1/embeddings", json=asked)
            answer.raise_for_status()
            parts += [row["embedding"] for row in answer.json()["data"]]
        vectors = np.asarray(parts, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    async def give(self, query: str, right: str, wrong: Sequence[str]) -> None:
        """One piece of feedback."""
        piece = {"query": query, "relevant": [right], "irrelevant": wrong, "domain": DOMAIN}
        (await self._http.post("/v1/feedback", json=piece)).raise_for_status()

    async def until(self, holds: Callable[[Any], Any], limit: float = 1200) -> Any:
        """The domain's status, as soon as it is as wanted."""
        async with asyncio.timeout(limit):
            while True:
                status = (await self._http.get("/v1/status")).json()
                domains = {it["domain"]: it for it in status["loop"]["domains"]}
                if DOMAIN in domains and holds(domains[DOMAIN]):
                    return domains[DOMAIN]
                await asyncio.sleep(0.5)

    @asynccontextmanager
    async def busy(self, queries: Sequence[str]) -> AsyncIterator[None]:
        """Single requests meanwhile, as people would send them."""

        async def ask() -> None:
            for turn in range(1_000_000):
                asked = {"model": "auto", "input": queries[turn % len(queries)]}
                await self._http.post("/v1/embeddings", json=asked)
                await asyncio.sleep(0.15 + 0.1 * np.sin(turn / 40))

        asking = asyncio.create_task(ask())
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


async def story(fleet: Fleet, browser: Browser) -> None:
    """Learn, and be looked at."""
    domain = split(pairs())
    asked, rest, held_out = (
        domain.feedback[:PIECES],
        domain.feedback[PIECES:],
        domain.held_out[:400],
    )
    known = [*asked, *rest, *held_out]
    print(f"embedding {len(known)} signatures")
    stored = await fleet.embed([pair.passage for pair in known], "document")
    texts = [pair.passage for pair in known]

    async def give(pair: Pair) -> None:
        near = (stored @ (await fleet.embed([pair.query], "query"))[0]).argsort()[::-1][:10]
        await fleet.give(
            pair.query, pair.passage, [texts[n] for n in near if texts[n] != pair.passage]
        )

    async with fleet.busy([pair.query for pair in held_out]):
        print(f"giving {PIECES} pieces of feedback")
        for start in range(0, PIECES, 8):
            await asyncio.gather(*(give(pair) for pair in asked[start : start + 8]))
        await fleet.until(lambda it: it["training"] and it["training"]["phase"] == "body")
        print("the body is being trained")
        for given, pair in enumerate(rest, PIECES + 1):
            await give(pair)
            now = await fleet.until(lambda it, given=given: it["feedback"] >= given)
            if now["open"] >= OPEN:
                break
        example = await best_example(fleet, held_out, stored[-len(held_out) :])
        await shoot(browser, fleet.url, "learning", example)
        print("waiting for its verdict")
        await fleet.until(
            lambda it: (
                it["training"] is None
                and any(verdict["depth"] == "body" for verdict in it["verdicts"])
            )
        )
        example = await best_example(fleet, held_out, stored[-len(held_out) :])
        await shoot(browser, fleet.url, "after", example)


async def best_example(
    fleet: Fleet, held_out: Sequence[Pair], stored: Any
) -> tuple[str, list[str]]:
    """A query whose own passage, among the six that the base model ranks first, rises most."""
    queries = [pair.query for pair in held_out]
    base = await fleet.embed(queries, "query") @ stored.T
    bent = await fleet.embed(queries, "query", "auto") @ stored.T
    best: tuple[int, str, list[str]] = (-1, "", [])
    for own, pair in enumerate(held_out):
        first = [int(n) for n in base[own].argsort()[::-1][:6]]
        passages = [held_out[n].passage for n in first]
        if own not in first or max(map(len, [*passages, pair.query])) > 72:
            continue
        after = sorted(first, key=lambda n: -bent[own][n])
        best = max(best, (first.index(own) - after.index(own), pair.query, passages))
    return best[1], best[2]


async def shoot(browser: Browser, url: str, name: str, example: tuple[str, Sequence[str]]) -> None:
    """The whole page in the light, and down to the end of the loop in the other shapes."""
    query, passages = example
    for shape, how in SHAPES.items():
        context = await browser.new_context(**how)
        page = await context.new_page()
        await page.goto(url)
        await page.wait_for_selector("#link[data-state=live]")
        await page.get_by_label("Query").fill(query)
        await page.get_by_label("Passages, one a line").fill("\n".join(passages))
        await page.get_by_role("button", name="Rank").click()
        await page.wait_for_selector(".sides")
        await page.locator(".brand").click()
        await page.wait_for_timeout(2_500)  # milliseconds; one more look, and transitions end
        path = FOLDER / f"page-{name}-{shape}.png"
        whole = await page.locator("html" if shape == "light" else ".loop").bounding_box()
        assert whole is not None  # noqa: S101 (both are always there)
        end = {**how["viewport"], "x": 0, "y": 0, "height": whole["y"] + whole["height"]}
        await page.screenshot(path=path, full_page=True, clip=end)
        await context.close()
        print(path)


async def main() -> None:
    """Takes all of them."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is missing: apt-get install chromium, or name one by CHROMIUM")
    FOLDER.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with fresh_state() as state:
        config = settings_file(state, {**SETTINGS, "api": {"enabled": True, "port": port}})
        async with async_playwright() as playwright, running_fleet(state, config=config):
            sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = await playwright.chromium.launch(executable_path=chromium, args=sandbox)
            await story(Fleet(f"http://127.0.0.1:{port}"), browser)
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
