"""The site is built without a warning, and nothing on it comes from a foreign host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser loads by itself; a link that a person may follow is another thing."""

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: links and anchors that lead nowhere are errors."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes the browser load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "link" and said.get("rel") in ("canonical", "prev", "next"):
            return
        if tag in FETCHED:
            self.found.append(said.get(FETCHED[tag]) or "")


def test_every_page_is_in_the_navigation_and_says_what_it_is(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages = {page for page in pages if "node_modules" not in page.parts}
    home = (site / "index.html").read_text("utf-8")
    for page in pages:
        there = page.with_suffix(".html")
        assert (site / there).is_file()
        assert f'href="{there}"' in home or there.name == "index.html"


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert pages
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text("utf-8"))
        assert not [url for url in loads.found if re.match(r"(https?:)?//", url)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?(https?:)?//", sheet.read_text("utf-8")), sheet


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_what_stands_outside_of_the_site_links_to_what_is_there(name: str) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_scripts_that_write_pages_stay_here_and_the_examples_go_along(site: Path) -> None:
    assert not list(site.glob("*.py"))
    assert (site / "examples" / "read_card.py").is_file()
    assert not list(site.rglob("node_modules"))
