"""The page of `report` in a real browser, opened from the disk: Chromium, driven by Playwright. Skipped without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.face_files.metadata import json_line
from gpu_extract.jobs.report import face_report
from gpu_extract.reports.extraction import Report
from tests.helpers import noise

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

AXE = os.environ.get("AXE_JS")
"""Path of axe-core's axe.min.js, which is not part of this project."""
HOSTILE = "\"><img src=x onerror=document.title='owned'>#?%41\u202e"
COUNT = 1200
PATIENCE_MS = 20_000
MOST_SHIFT = 0.05


def write_faces(folder: Path, count: int) -> None:
    """Small faces, two a frame, and a list in which sizes, sharpness and yaw rise with their numbers."""
    folder.mkdir(parents=True)
    picture = cv2.imencode(".png", noise(16, 16))[1].tobytes()
    (folder / "clip_00001_0.png").write_bytes(picture)
    points = np.stack([np.linspace(2, 14, 68), np.linspace(3, 9, 68)], axis=1).tolist()
    with (folder / "faces.jsonl").open("xb") as rows:
        for number in range(count):
            frame, index = divmod(number, 2)
            name = f"clip_{frame + 1:05d}_{index}.png"
            if number:
                os.link(folder / "clip_00001_0.png", folder / name)
            about = {"frame": f"clip_{frame + 1:05d}.png", "position": frame, "index": index, "landmarks": points}
            more = {"side_px": 40 + number / 10, "sharpness": count - number, "pose": [number % 180 - 90, 0, 0]}
            rows.write(json_line({"file": name, "matrix": [[1, 0, 0], [0, 1, 0]], **about, **more}))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of faces of which one has a hostile name, one is cut off, and one frame failed."""
    folder = tmp_path_factory.mktemp("report") / "fa#ces"
    write_faces(folder, COUNT)
    (folder / f"{HOSTILE}_0.png").write_bytes(cv2.imencode(".png", noise(16, 16))[1].tobytes())
    (folder / os.fsdecode(b"\xff_0.png")).write_bytes(cv2.imencode(".png", noise(16, 16))[1].tobytes())
    (folder / "clip_00003_1.png").unlink()
    (folder / "clip_00003_1.png").write_bytes(cv2.imencode(".png", noise(16, 16))[1].tobytes()[:-9])
    told = Report(faces_folder=str(folder), frames_expected=601, frames_decoded=600)
    told.add_error(HOSTILE, None, f"its frame is {HOSTILE}")
    (folder.parent / "report.json").write_text(told.to_json())
    return face_report(folder).page


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page that was opened, and all that it complained of."""

    def __init__(self, chromium: Any, path: Path, **how: Any) -> None:
        self.complaints: list[str] = []
        self.context = chromium.new_context(**{"viewport": {"width": 1200, "height": 900}, **how})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(path.as_uri())
        self.page.locator("#show option").first.wait_for(state="attached")

    def _request(self, request: Any) -> None:
        if not request.url.startswith(("file:", "blob:")):
            self.complaints.append(f"asks for {request.url}")

    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())

    def counts(self, text: str) -> None:
        playwright.expect(self.page.locator("#count")).to_have_text(text, timeout=PATIENCE_MS)

    def down(self) -> None:
        self.page.evaluate("document.getElementById('faces-title').scrollIntoView()")
        self.page.locator(".tile").first.wait_for(state="attached")

    def first(self) -> str:
        return str(self.page.locator("#tile-0").get_attribute("aria-label"))


@pytest.fixture
def tab(chromium: Any, page: Path) -> Iterator[Tab]:
    opened = Tab(chromium, page)
    yield opened
    assert opened.complaints == []
    assert opened.page.title() == "Faces – gpu-extract"
    opened.context.close()


def test_faces_are_filtered_and_sorted(tab: Tab) -> None:
    tab.counts("1,202 faces of 1,203")
    tab.down()
    tab.page.fill("#text", "clip_0000")
    tab.counts("18 faces of 1,203")
    tab.page.fill("#index", "1")
    tab.counts("9 faces of 1,203")
    assert tab.first() == "clip_00001.png, face 1"
    tab.page.click("#clear")
    tab.counts("1,202 faces of 1,203")
    tab.page.fill("#side-from", "100")
    tab.page.fill("#side-to", "110")
    tab.counts("100 faces of 1,203")
    tab.page.click("#clear")
    tab.page.select_option("#sort", "sharpness+")
    playwright.expect(tab.page.locator("#tile-0")).to_have_attribute("aria-label", "clip_00600.png, face 1")
    tab.page.select_option("#show", "failed")
    tab.counts("1 face of 1,203")
    tab.page.select_option("#show", "unreadable")
    playwright.expect(tab.page.locator("#tile-0")).to_have_attribute(
        "aria-label", "clip_00003.png, face 1, cannot be read"
    )
    tab.page.fill("#text", "nobody")
    playwright.expect(tab.page.locator("#empty")).to_have_text("No face passes these filters.")


def test_a_bar_of_a_histogram_is_a_filter(tab: Tab) -> None:
    bars = tab.page.locator("#chart-yaw .bar-of")
    assert bars.count() == 12
    words = str(bars.nth(6).get_attribute("aria-label"))
    bars.nth(6).click()
    tab.counts(f"{words.rpartition(': ')[2]} of 1,203")
    assert tab.page.input_value("#yaw-from") == "0"
    assert tab.page.input_value("#yaw-to") == "15"
    assert bars.nth(6).get_attribute("aria-pressed") == "true"
    bars.nth(6).press("ArrowRight")
    tab.page.keyboard.press("Shift+Enter")
    assert tab.page.input_value("#yaw-to") == "30"
    bars.nth(7).press("Enter")
    bars.nth(7).press("Enter")
    tab.counts("1,202 faces of 1,203")


def test_everything_goes_by_the_keyboard(tab: Tab) -> None:
    tab.page.locator("#grid").focus()
    columns = tab.page.evaluate("Math.round(document.getElementById('grid').clientWidth / 104)")
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "Space", "Shift+ArrowRight"):
        tab.page.keyboard.press(key)
    playwright.expect(tab.page.locator("#news")).to_have_text("2 faces selected.")
    at = int(str(tab.page.locator("#grid").get_attribute("aria-activedescendant")).removeprefix("tile-"))
    assert abs(at - (columns + 2)) <= 1
    tab.page.keyboard.press("End")
    assert tab.page.locator("#grid").get_attribute("aria-activedescendant") == "tile-1201"
    tab.page.keyboard.press("Home")
    tab.page.keyboard.press("Enter")
    title = tab.page.locator("#viewer-title")
    before = title.inner_text()
    tab.page.keyboard.press("ArrowRight")
    playwright.expect(title).not_to_have_text(before)
    tab.page.keyboard.press("l")
    tab.page.keyboard.press("s")
    playwright.expect(tab.page.locator("#news")).to_have_text("3 faces selected.")
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#viewer").is_visible()
    assert tab.page.evaluate("document.activeElement.id") == "grid"


def test_a_face_is_seen_large_with_its_landmarks(tab: Tab) -> None:
    tab.page.fill("#text", "clip_00002")
    tab.counts("2 faces of 1,203")
    tab.down()
    tab.page.locator("#tile-0 .face").click()
    playwright.expect(tab.page.locator("#viewer-title")).to_have_text("clip_00002.png, face 0")
    playwright.expect(tab.page.locator(".stage img")).to_have_js_property("naturalWidth", 16)
    assert tab.page.locator(".overlay").count() == 0
    tab.page.get_by_role("button", name="Landmarks").click()
    playwright.expect(tab.page.locator(".overlay circle")).to_have_count(68)
    facts = tab.page.locator("#viewer .facts-list").inner_text()
    assert "clip_00002_0.png" in facts
    assert "number 2 of the source" in facts
    assert "40.2 px" in facts


def test_names_of_what_is_selected_are_saved_a_line_each(tab: Tab) -> None:
    tab.page.fill("#text", "clip_00001")
    tab.counts("2 faces of 1,203")
    tab.page.click("#select-all")
    with tab.page.expect_download() as download:
        tab.page.click("#save")
    assert Path(download.value.path()).read_text() == "clip_00001_0.png\nclip_00001_1.png\n"
    tab.page.click("#select-none")
    assert tab.page.locator("#copy").is_disabled()


def test_hostile_names_are_shown_and_their_files_found(tab: Tab) -> None:
    assert tab.page.locator("header img").count() == 0
    tab.page.click("#show-failed")
    tab.counts("1 face of 1,203")
    tab.page.select_option("#show", "there")
    for text in ("owned", "\ufffd"):
        tab.page.fill("#text", "owned" if text == "owned" else "")
        if text != "owned":
            tab.page.select_option("#sort", "frame-")
        tab.down()
        tile = tab.page.locator("#tile-0 img")
        playwright.expect(tile).to_have_js_property("naturalWidth", 16)
    tab.page.fill("#text", "owned")
    tab.counts("1 face of 1,203")
    tab.page.locator("#tile-0 .face").click()
    playwright.expect(tab.page.locator(".stage img")).to_have_js_property("naturalWidth", 16)
    assert HOSTILE.replace("\u202e", "\ufffd") in tab.page.locator("#viewer-title").inner_text()


def test_nothing_that_a_script_could_do_wrong_makes_markup(chromium: Any, page: Path) -> None:
    """The page's policy, not its care: text that would become markup or code is refused."""
    opened = Tab(chromium, page)
    attempts = (
        "document.body.innerHTML = '<b>'",
        "document.createElement('p').setAttribute('onclick', 'document.title = 1')",
        "document.createElement('script').src = 'page_0001.js'",
        "document.createElement('script').text = 'document.title = 1'",
    )
    for attempt in attempts:
        words = f"() => {{ try {{ {attempt}; return 'done'; }} catch (error) {{ return error.name; }} }}"
        assert opened.page.evaluate(words) == "TypeError", attempt
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200, 1600])
def test_it_fits_any_window_without_moving(chromium: Any, page: Path, width: int, scheme: str) -> None:
    opened = Tab(chromium, page, viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    shift = """() => new Promise((resolve) => {
      let sum = 0;
      new PerformanceObserver((list) => list.getEntries().forEach((entry) => (sum += entry.value)))
        .observe({ type: "layout-shift", buffered: true });
      setTimeout(() => resolve(sum), 200);
    })"""
    assert opened.page.evaluate(shift) < MOST_SHIFT
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.down()
    if AXE:
        opened.page.evaluate(Path(AXE).read_text())
        for shown in ("list", "viewer"):
            if shown == "viewer":
                opened.page.locator("#tile-0 .face").click()
            found = opened.page.evaluate("axe.run({ preload: false }).then((told) => told.violations)")
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == [], shown
    assert opened.complaints == []
    opened.context.close()


@pytest.mark.slow
def test_a_hundred_thousand_faces_scroll(chromium: Any, tmp_path: Path) -> None:
    """Few elements, however many faces; each place of the list shows its faces."""
    write_faces(tmp_path / "faces", 100_000)
    opened = Tab(chromium, face_report(tmp_path / "faces").page)
    opened.counts("100,000 faces")
    opened.page.select_option("#sort", "frame-")
    for part in range(21):
        opened.page.evaluate(f"scrollTo(0, document.documentElement.scrollHeight * {part / 20})")
        opened.page.wait_for_timeout(150)
        assert opened.page.locator(".tile").count() < 300
    opened.page.locator("#grid").focus()
    opened.page.keyboard.press("End")
    last = opened.page.locator("#tile-99999")
    playwright.expect(last).to_have_attribute("aria-label", "clip_00001.png, face 0")
    playwright.expect(last.locator("img")).to_have_js_property("naturalWidth", 16)
    assert opened.complaints == []
    opened.context.close()
