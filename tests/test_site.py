"""The documents as a site: built without a warning, read without a network, and within the width of a telephone."""

from __future__ import annotations

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = os.environ.get("AXE_JS")
"""Path of axe-core's axe.min.js, which is not part of this project."""
LOOKED_AT = (
    "index.html",
    "docs/start.html",
    "docs/from-faceswap.html",
    "docs/when-it-goes-wrong.html",
    "docs/scale.html",
)
WIDER_THAN_THE_PAGE = """
() => {
    const width = document.documentElement.clientWidth;
    const inside = [...document.querySelectorAll(".md-content :is(table, img, p, li, h1, h2, h3)")];
    const wide = inside.filter((one) => one.getBoundingClientRect().right > width + 1);
    return [document.documentElement.scrollWidth > width, ...wide.map((one) => one.outerHTML.slice(0, 100))];
}
"""
BROKEN_NAMES = """
() => [...document.querySelectorAll(".md-content td:first-child code")]
    .filter((one) => /^\\w+$/.test(one.textContent) && one.getClientRects().length > 1)
    .map((one) => one.textContent)
"""
pages = importlib.import_module("docs.pages")


class _Loader(yaml.SafeLoader):
    """Of a file with functions in it, which are left alone."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def navigation() -> Any:
    return yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), _Loader)["nav"]


def test_the_pages_are_the_documents_and_all_that_they_link_to() -> None:
    found = {path.relative_to(ROOT).as_posix() for path in pages.collected()}
    assert {"README.md", "docs/start.md", "docs/cli.md", "kernels/README.md", "docs/images/sheet.jpg"} <= found
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= found
    assert all((ROOT / name).is_file() for name in found)


def test_the_navigation_names_pages_that_there_are_each_once() -> None:
    named = pages.named(navigation())
    assert len(named) > 20
    assert all((ROOT / name).is_file() for name in named)
    assert pages.named(["a.md", {"B": ["b.md", {"C": "c.md"}]}]) == {"a.md", "b.md", "c.md"}


def test_a_page_that_nobody_named_comes_at_the_end() -> None:
    nav = [{"A": "a.md"}, {"B": ["b.md"]}]
    assert pages.complete(nav, ["a.md", "b.md", "picture.png"]) == nav
    assert pages.complete(nav, ["a.md", "c.md", "b.md", "d.md"]) == [*nav, {"More": ["c.md", "d.md"]}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-f", str(ROOT / "mkdocs.yml")]
    run = subprocess.run(
        [*build, "-d", str(folder)],
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return folder


def test_built_without_a_warning_it_has_every_page(site: Path) -> None:
    for path in pages.collected():
        name = path.relative_to(ROOT).with_suffix(".html" if path.suffix == ".md" else path.suffix)
        assert (site / (name.with_name("index.html") if name.stem == "README" else name)).is_file(), name


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text("utf-8")
        assert not re.search(r'<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)="?(?:https?:)?//', text), path
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", text), path


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_fit_and_ask_nobody_else(address: str, browser: Any, scheme: str, width: int) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    faults: list[str] = []

    def requested(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(request.url)

    page.on("request", requested)
    page.on("pageerror", lambda error: faults.append(str(error)))
    for name in LOOKED_AT:
        page.goto(f"{address}/{name}")
        assert page.evaluate(WIDER_THAN_THE_PAGE) == [False], name
        assert page.evaluate(BROKEN_NAMES) == [], name
        if AXE is not None:
            page.evaluate(Path(AXE).read_text("utf-8"))
            found = page.evaluate("axe.run().then((all) => all.violations.map((one) => [one.impact, one.id]))")
            assert not [one for one in found if one[0] in ("serious", "critical")], name
    context.close()
    assert faults == []


def test_the_search_finds_a_sentence_by_its_words(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{address}/index.html")
    page.fill(".md-search__input", "neither a journal nor a readable image")
    page.wait_for_selector(".md-search-result__item")
    found = page.inner_text(".md-search-result__list")
    page.close()
    assert "When it goes wrong" in found or "The folder had another run" in found
