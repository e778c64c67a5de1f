"""The page in a real browser: Chromium, driven by Playwright. Skipped where either is missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.demo.clip import face_record, write_alignments
from tests.helpers import photograph, write_clip

httpx = pytest.importorskip("httpx")
playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

AXE = os.environ.get("AXE_JS")
"""Path of axe-core's axe.min.js, which is not part of this project."""
PAGE = Path(__file__).parent.parent / "gpu_extract" / "service" / "page"
HOSTILE = "<img src=x onerror=document.title='owned'>‮4pm"
PATIENCE_MS = 20_000
HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
FRAMES = 40
FACES_A_FRAME = 40
"""Of the run that is to be seen while it runs."""


def landmarks() -> np.ndarray:
    angles = np.linspace(0, 6, 68)
    return np.stack([160 + 50 * np.cos(angles), 120 + 60 * np.sin(angles)], axis=1).astype(np.float32)


@dataclass
class Service:
    """A `gpu-extract serve` of its own, with a root `root`."""

    folder: Path
    port: int = 0
    words: tuple[str, ...] = ("--no-auth",)
    process: subprocess.Popen[str] | None = None
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def start(self) -> None:
        words = ["serve", "--data", str(self.folder / "data"), "--root", f"root={self.root}", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gpu_extract", *words, "--devices", "cpu", "--reserve-mb", "0", *self.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(PAGE.parent.parent.parent)},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"http://[^\s:]+:(\d+)/(\S*)", line):
                self.port = int(found[1])
                return
        raise AssertionError("".join(self.said))

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = HTTP.get(f"{self.url}/v1/jobs").json()["jobs"]
        return found

    def put(self, job: str, alignments: str, frames: str, **options: Any) -> None:
        inputs = {"alignments": {"root": "root", "path": alignments}, "frames": {"root": "root", "path": frames}}
        answer = HTTP.put(f"{self.url}/v1/jobs/{job}", json={**inputs, "options": options})
        assert answer.status_code in (200, 201), answer.text

    def ended(self, job: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            found: dict[str, Any] = HTTP.get(f"{self.url}/v1/jobs/{job}").json()
            if found["ended"] is not None:
                return found
            time.sleep(0.1)
        raise AssertionError(found)


def fill(root: Path) -> None:
    """A clip, one with many faces, and a folder of which one image is damaged, each with its alignments file."""
    (root / "images").mkdir(parents=True)
    write_clip(root / "clip.mp4", FRAMES, (240, 320))
    face = face_record(landmarks())
    write_alignments(root / "clip.fsa", {f"clip_{number + 1:06d}.png": [face] for number in range(FRAMES)})
    shutil.copy(root / "clip.mp4", root / "long.mp4")
    faces = [face] * FACES_A_FRAME
    write_alignments(root / "long.fsa", {f"long_{number + 1:06d}.png": faces for number in range(FRAMES)})
    names = [f"still_{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        cv2.imwrite(str(root / "images" / name), photograph(240, 320, number))
    (root / "images" / names[2]).write_bytes((root / "images" / names[2]).read_bytes()[:500])
    write_alignments(root / "images.fsa", {name: [face] for name in names})
    (root / "broken.fsa").write_bytes(b"this is none")
    shutil.copy(root / "clip.mp4", root / f"{HOSTILE}.mp4")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"))
    fill(made.root)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own: no request goes elsewhere, nothing is refused by its policy, no script fails."""
    context = browser.new_context(accept_downloads=True, **options)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    origin = "/".join(url.split("/")[:3])
    faults: list[str] = []

    def requested(request: Any) -> None:
        if not request.url.startswith(("blob:", f"{origin}/")):
            faults.append(request.url)

    def said(message: Any) -> None:
        if "Content Security Policy" in message.text:
            faults.append(message.text)

    page.on("request", requested)
    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    try:
        yield page
        assert not faults
    finally:
        context.close()


@pytest.fixture
def page(browser: Any, service: Service) -> Iterator[Any]:
    with opened(browser, service.url) as ready:
        ready.wait_for_selector("#draft:not([hidden])")
        yield ready


def slot(page: Any, name: str) -> Any:
    return page.get_by_role("group", name=name)


def choose(page: Any, name: str, file: str) -> None:
    """A file of the root, by its picker."""
    slot(page, name).get_by_role("button", name="On the server").click()
    page.locator("#picker").get_by_role("button", name=file).first.click()


def job_of(page: Any, name: str) -> Any:
    return page.locator("article").filter(has=page.get_by_role("heading", name=name)).first


def files(*paths: Path) -> list[dict[str, Any]]:
    return [{"name": path.name, "mimeType": "application/octet-stream", "buffer": path.read_bytes()} for path in paths]


def drop(page: Any, *paths: Path) -> None:
    """Let files fall on the page's body."""
    contents = [[path.name, list(path.read_bytes())] for path in paths]
    page.evaluate(
        """(contents) => {
          const data = new DataTransfer();
          for (const [name, bytes] of contents) {
            data.items.add(new File([new Uint8Array(bytes)], name, { lastModified: 1700000000000 }));
          }
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        contents,
    )


def drop_folder(page: Any, name: str, *paths: Path) -> None:
    """The same with a folder that has them; a script cannot make one, so this is what a page sees of it."""
    contents = [[path.name, list(path.read_bytes())] for path in paths]
    page.evaluate(
        """([name, contents]) => {
          const files = contents.map(([name, bytes]) => ({
            isFile: true, isDirectory: false, name,
            file: (take) => take(new File([new Uint8Array(bytes)], name, { lastModified: 1700000000000 })),
          }));
          const createReader = () => ({ readEntries: (take) => take(files.splice(0, 2)) });
          const folder = { isFile: false, isDirectory: true, name, createReader };
          const drop = new Event("drop", { bubbles: true, cancelable: true });
          drop.dataTransfer = { types: ["Files"], files: [], items: [{ webkitGetAsEntry: () => folder }] };
          document.body.dispatchEvent(drop);
        }""",
        [name, contents],
    )


def forget_uploads(service: Service) -> None:
    for one in HTTP.get(f"{service.url}/v1/uploads").json():
        HTTP.delete(f"{service.url}/v1/uploads/{one['id']}", headers={"Tus-Resumable": "1.0.0"})


def wait_until(condition: Any, seconds: float = PATIENCE_MS / 1000) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_dropped_files_become_faces_that_can_be_downloaded(page: Any, service: Service) -> None:
    assert page.get_by_role("heading", name="Drop an alignments file and its video here").is_visible()
    drop(page, service.root / "clip.fsa", service.root / "clip.mp4")
    for name in ("Alignments file", "Frames"):
        slot(page, name).get_by_text("on the server").wait_for()
    page.locator("#option-size").fill("64")

    page.get_by_role("button", name="Check").click()
    said = page.locator(".plan").inner_text()
    assert f"{FRAMES} faces from {FRAMES} frames, about" in said
    wait_until(lambda: not service.jobs())  # the check's job is gone when it was shown

    page.get_by_role("button", name="Start").click()
    job = job_of(page, "clip.mp4")
    job.get_by_text("Done").wait_for()
    assert f"{FRAMES} faces" in job.inner_text()
    wait_until(lambda: page.locator(".face img").count() == FRAMES)
    with page.expect_download() as download:
        job.get_by_role("link", name="Download faces").click()
    assert Path(download.value.path()).stat().st_size > FRAMES * 1000
    with page.expect_download() as download:
        job.get_by_role("link", name="Alignments file").click()
    assert download.value.suggested_filename == "clip.fsa"

    job.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    job.wait_for(state="detached")
    assert service.jobs() == []


@pytest.mark.slow
def test_faces_come_while_it_runs_and_another_tab_shows_the_same(page: Any, browser: Any, service: Service) -> None:
    choose(page, "Alignments file", "long.fsa")
    choose(page, "Frames", "long.mp4")
    page.locator("#option-size").fill("512")
    page.get_by_role("button", name="Start").click()
    page.locator(".face img").first.wait_for()
    job = job_of(page, "long.mp4")
    assert "Running" in job.inner_text()
    assert float(job.locator("progress").get_attribute("value")) < 1

    page.reload()
    page.locator(".face img").first.wait_for()
    with opened(browser, page.url) as other:
        other.locator(".face img").first.wait_for()

    job = job_of(page, "long.mp4")
    job.get_by_role("button", name="Cancel").click()
    job.get_by_text("Cancelled").wait_for()
    wait_until(lambda: page.locator(".face").count() == 200)
    job.get_by_role("button", name="Resume").click()
    job.get_by_text(re.compile("Queued|Running")).wait_for()
    assert service.ended(service.jobs()[0]["id"])["state"] == "succeeded"
    job.get_by_text("Done").wait_for()
    assert f"{FRAMES * FACES_A_FRAME:,} faces" in job.inner_text()
    page.go_back()
    wait_until(lambda: page.locator(".panel:not([hidden])").count() == 0)
    HTTP.delete(f"{service.url}/v1/jobs/{service.jobs()[0]['id']}")


def test_why_a_job_failed_is_said_in_a_sentence_and_frame_by_frame(page: Any, service: Service) -> None:
    service.put("none", "broken.fsa", "clip.mp4")
    service.put("some", "images.fsa", "images", size=64)
    assert (service.ended("none")["state"], service.ended("some")["state"]) == ("failed", "partial")
    page.reload()
    failed = job_of(page, "clip.mp4")
    assert "broken.fsa is damaged" in failed.inner_text()
    partial = job_of(page, "images")
    partial.get_by_role("button", name="Why?").click()
    failures = partial.locator(".failures")
    failures.get_by_text("still_2.png").wait_for()
    assert "cut off" in failures.inner_text()
    partial.get_by_role("button", name="Try the failed frames again").wait_for()
    for job in ("none", "some"):
        HTTP.delete(f"{service.url}/v1/jobs/{job}")
    failed.wait_for(state="detached")  # by somebody else
    partial.wait_for(state="detached")


def test_a_wrong_option_is_told_in_the_servers_words(page: Any) -> None:
    choose(page, "Alignments file", "clip.fsa")
    choose(page, "Frames", "clip.mp4")
    page.get_by_text("All options").click()
    page.get_by_label("Match keys").fill("nonsense")
    page.get_by_role("button", name="Start").click()
    page.locator("#draft .fault").get_by_text("nonsense").wait_for()


def test_without_files_start_says_what_is_missing(page: Any, service: Service) -> None:
    page.get_by_role("button", name="Start").click()
    page.locator("#draft").get_by_text("Alignments file: nothing is chosen yet.").wait_for()
    assert service.jobs() == []


def test_hostile_names_are_text(page: Any, service: Service) -> None:
    service.put("hostile", "clip.fsa", f"{HOSTILE}.mp4")
    service.ended("hostile")
    page.reload()
    job = job_of(page, "<img src=x")
    job.get_by_role("button", name="Why?").click()
    choose(page, "Frames", "<img src=x")
    text = page.locator("body").inner_text()
    assert "<img src=x onerror=document.title='owned'>�4pm" in text
    assert "\u202e" not in text
    assert page.title() == "gpu-extract"
    assert page.locator("img[src='x']").count() == 0
    HTTP.delete(f"{service.url}/v1/jobs/hostile")


def test_an_upload_goes_on_after_the_page_was_loaded_again(page: Any, service: Service, tmp_path: Path) -> None:
    big = tmp_path / "big.mp4"
    big.write_bytes(os.urandom(40 << 20))
    sent: list[int] = []

    def asked(request: Any) -> None:
        if request.method == "PATCH":
            sent.append(int(request.headers["upload-offset"]))

    def let_begin(route: Any) -> None:
        if int(route.request.headers.get("upload-offset", 0)):
            route.abort()
        else:
            route.continue_()

    page.on("request", asked)
    page.route("**/v1/uploads/*", let_begin)
    slot(page, "Frames").locator("input").set_input_files(big)
    slot(page, "Frames").get_by_text("connection was lost").wait_for()
    page.unroute_all(behavior="ignoreErrors")
    slot(page, "Frames").get_by_role("button", name="Pause").click()
    slot(page, "Frames").get_by_text("paused").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    slot(page, "Frames").get_by_text("33.6 MB of 41.9 MB are on the server").wait_for()
    slot(page, "Frames").locator("input").set_input_files(big)
    slot(page, "Frames").get_by_text("on the server", exact=False).filter(has_not_text="Choose").wait_for()
    assert set(sent) == {0, 32 << 20}
    uploads = HTTP.get(f"{service.url}/v1/uploads").json()
    assert [(one["name"], one["offset"]) for one in uploads if one["name"] == "big.mp4"] == [("big.mp4", 40 << 20)]
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    wait_until(lambda: "big.mp4" not in HTTP.get(f"{service.url}/v1/uploads").text)


def test_many_images_are_one_input(page: Any, service: Service) -> None:
    drop(page, service.root / "images.fsa", *sorted((service.root / "images").iterdir()))
    slot(page, "Frames").get_by_text("6 images").wait_for()
    slot(page, "Frames").get_by_text("on the server").wait_for()
    slot(page, "Alignments file").get_by_text("on the server").wait_for()
    names = [one["name"] for one in HTTP.get(f"{service.url}/v1/uploads").json()]
    assert names.count("frames.tar") == 1
    assert not any(name.endswith(".png") for name in names)
    page.get_by_role("button", name="Start").click()
    job_of(page, "frames").get_by_text("Done in part").wait_for()
    job = service.jobs()[0]["id"]
    there = service.folder / "data" / "jobs" / job / "in" / "frames"
    for path in (service.root / "images").iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    HTTP.delete(f"{service.url}/v1/jobs/{job}")
    forget_uploads(service)


def test_of_a_folder_the_images_are_the_frames_and_others_are_left_out(
    page: Any, service: Service, tmp_path: Path
) -> None:
    others = [tmp_path / name for name in ("Thumbs.db", ".DS_Store", "readme.txt", "making-of.mp4")]
    for path in others:
        path.write_bytes(b"no image")
    images = sorted((service.root / "images").iterdir())
    drop_folder(page, "holiday", others[0], *images, *others[1:], service.root / "images.fsa")
    slot(page, "Frames").get_by_text(f"{len(images)} images").wait_for()
    slot(page, "Alignments file").get_by_text("images.fsa").wait_for()
    page.locator("#draft .note").get_by_text("Left out: Thumbs.db and 2 more.").wait_for()
    slot(page, "Frames").get_by_text("on the server").wait_for()
    assert "holiday.tar" in HTTP.get(f"{service.url}/v1/uploads").text
    for name in ("Frames", "Alignments file"):
        slot(page, name).get_by_role("button", name="Remove").click()
    drop_folder(page, "clips", others[0], service.root / "clip.mp4", others[2])
    slot(page, "Frames").get_by_text("clip.mp4").wait_for()
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    drop_folder(page, "papers", others[2])
    page.locator("#draft .note").get_by_text("Left out: readme.txt.").wait_for()
    assert slot(page, "Frames").get_by_text("A video, or images").is_visible()
    wait_until(lambda: HTTP.get(f"{service.url}/v1/uploads").json() == [])


def test_what_is_removed_while_it_is_sent_is_removed_there_too(page: Any, service: Service) -> None:
    refusals: list[str] = []

    def busy(route: Any) -> None:
        if route.request.method == "DELETE" and len(refusals) < 2:
            refusals.append(route.request.url)
            route.fulfill(status=423, content_type="application/problem+json", body='{"detail": "It is written to."}')
        else:
            route.continue_()

    page.route("**/v1/uploads/*", busy)
    drop(page, service.root / "clip.mp4")
    slot(page, "Frames").get_by_text("on the server").wait_for()
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    # Asked by the page: while this process only waits, nobody answers for the route.
    wait_until(lambda: page.evaluate("fetch('/v1/uploads').then((answer) => answer.json())") == [])
    assert len(refusals) == 2


def test_two_tabs_have_one_draft(page: Any, service: Service) -> None:
    other = page.context.new_page()
    other.goto(service.url)
    other.wait_for_selector("#draft:not([hidden])")
    drop(other, service.root / "clip.mp4")
    choose(other, "Alignments file", "clip.fsa")
    other.locator("#option-size").fill("64")
    slot(page, "Frames").get_by_text("on the server").wait_for()
    slot(page, "Alignments file").get_by_text("root:clip.fsa").wait_for()
    assert page.locator("#option-size").input_value() == "64"

    slot(page, "Alignments file").get_by_role("button", name="Remove").click()
    slot(other, "Alignments file").get_by_text("Drop it here").wait_for()
    choose(page, "Alignments file", "clip.fsa")
    slot(other, "Alignments file").get_by_text("root:clip.fsa").wait_for()
    third = page.context.new_page()
    third.goto(service.url)
    slot(third, "Frames").get_by_text("on the server").wait_for()
    assert "clip.mp4" in slot(page, "Frames").inner_text()
    other.get_by_role("button", name="Start").click()
    for tab in (page, third):
        slot(tab, "Frames").get_by_text("A video, or images").wait_for()
    job = service.jobs()[0]["id"]
    assert service.ended(job)["options"] == {"size": 64}
    HTTP.delete(f"{service.url}/v1/jobs/{job}")
    forget_uploads(service)


def test_a_tab_takes_over_what_another_sends_no_more(page: Any, service: Service, tmp_path: Path) -> None:
    big = tmp_path / "big.mp4"
    big.write_bytes(os.urandom(40 << 20))
    other = page.context.new_page()
    other.goto(service.url)
    other.wait_for_selector("#draft:not([hidden])")
    other.route("**/v1/uploads/*", lambda route: route.abort())
    slot(other, "Frames").locator("input").set_input_files(big)
    slot(page, "Frames").get_by_text("Another tab sends it").wait_for()
    wait_until(lambda: "big.mp4" in (page.evaluate("localStorage.getItem('gpu-extract.uploads')") or ""))
    other.close()
    slot(page, "Frames").locator("input").set_input_files(big)
    slot(page, "Frames").get_by_text("41.9 MB · on the server").wait_for()
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    wait_until(lambda: HTTP.get(f"{service.url}/v1/uploads").json() == [])


def test_a_job_can_be_had_again_with_other_options(page: Any, service: Service) -> None:
    drop(page, service.root / "clip.mp4")
    choose(page, "Alignments file", "clip.fsa")
    page.locator("#option-size").fill("64")
    slot(page, "Frames").get_by_text("on the server").wait_for()
    page.get_by_role("button", name="Start").click()
    job = job_of(page, "clip.mp4")
    job.get_by_text("Done").wait_for()
    choose(page, "Frames", "long.mp4")
    job.get_by_role("button", name="Again, with other options").click()
    page.get_by_role("dialog").get_by_role("button", name="Leave it").click()
    assert "long.mp4" in slot(page, "Frames").inner_text()
    job.get_by_role("button", name="Again, with other options").click()
    page.get_by_role("dialog").get_by_role("button", name="Take them").click()
    slot(page, "Frames").get_by_text("clip.mp4").wait_for()
    assert "root:clip.fsa" in slot(page, "Alignments file").inner_text()
    wait_until(lambda: page.evaluate("document.activeElement.id") == "option-size")
    assert page.locator("#option-size").input_value() == "64"
    page.locator("#option-size").fill("48")
    page.reload()
    slot(page, "Frames").get_by_text("on the server").wait_for()
    page.get_by_role("button", name="Start").click()
    wait_until(lambda: len(service.jobs()) == 2)
    again, first = (one["id"] for one in service.jobs())
    assert service.ended(again)["options"] == {"size": 48}
    assert service.ended(again)["faces"] == FRAMES
    for one in (again, first):
        HTTP.delete(f"{service.url}/v1/jobs/{one}")
    forget_uploads(service)


def test_what_is_gone_since_a_job_is_asked_for(page: Any, service: Service) -> None:
    drop(page, service.root / "clip.mp4")
    choose(page, "Alignments file", "clip.fsa")
    slot(page, "Frames").get_by_text("on the server").wait_for()
    page.get_by_role("button", name="Start").click()
    job = job_of(page, "clip.mp4")
    job.get_by_text("Done").wait_for()
    forget_uploads(service)
    job.get_by_role("button", name="Again, with other options").click()
    page.locator("#draft .note").get_by_text("The server does not keep the frames any more; choose again.").wait_for()
    assert "root:clip.fsa" in slot(page, "Alignments file").inner_text()
    HTTP.delete(f"{service.url}/v1/jobs/{service.jobs()[0]['id']}")


def test_pictures_that_did_not_come_are_asked_for_again(page: Any, service: Service) -> None:
    tries: dict[str, int] = {}

    def lose(route: Any) -> None:
        tries[route.request.url] = tries.get(route.request.url, 0) + 1
        if tries[route.request.url] < 3:
            route.abort()
        else:
            route.continue_()

    page.route("**/faces/*.png", lose)
    service.put("lost", "images.fsa", "images", size=64)
    service.ended("lost")
    page.reload()
    job_of(page, "images").get_by_role("button", name="Why?").click()
    there = "() => [...document.querySelectorAll('.face img')].filter((one) => one.naturalWidth === 64).length"
    wait_until(lambda: page.evaluate(there) == 5)
    assert page.locator(".face img.gone").count() == 0
    assert set(tries.values()) == {3}
    HTTP.delete(f"{service.url}/v1/jobs/lost")


def test_images_that_are_chosen_one_after_another_join(page: Any, service: Service, tmp_path: Path) -> None:
    first, *more = (tmp_path / f"small_{number}.png" for number in range(6))
    for path in (first, *more):
        path.write_bytes(path.name.encode())
    drop(page, first)
    slot(page, "Frames").get_by_text("1 image", exact=True).wait_for()
    drop(page, *more, first)
    slot(page, "Frames").get_by_text("6 images").wait_for()
    slot(page, "Frames").get_by_text("on the server").wait_for()
    drop(page, *more)
    slot(page, "Frames").get_by_text("6 images").wait_for()
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    wait_until(lambda: "frames.tar" not in HTTP.get(f"{service.url}/v1/uploads").text)


def test_images_of_one_name_and_one_that_changes_are_told(page: Any, service: Service, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "still.png").write_bytes(b"any")
    drop(page, tmp_path / "still.png", tmp_path / "other" / "still.png")
    page.locator("#draft .fault").get_by_text("Two images are named still.png; choose those of one folder.").wait_for()

    def later(route: Any) -> None:
        time.sleep(1)
        route.continue_()

    page.route("**/v1/uploads", later)
    slot(page, "Frames").locator("input").set_input_files(tmp_path / "still.png")
    (tmp_path / "still.png").write_bytes(b"another")
    slot(page, "Frames").get_by_text("An image was changed or moved while they were sent").wait_for()
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    wait_until(lambda: "frames.tar" not in HTTP.get(f"{service.url}/v1/uploads").text)


def test_images_go_on_after_the_page_was_loaded_again(page: Any, service: Service, tmp_path: Path) -> None:
    long = "ä" * 60 + ".png"
    pictures = {f"p_{number}.png": os.urandom((9 << 20) + number) for number in range(4)} | {long: os.urandom(1000)}
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in pictures]

    def let_begin(route: Any) -> None:
        if int(route.request.headers.get("upload-offset", 0)):
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/uploads/*", let_begin)
    slot(page, "Frames").locator("input").set_input_files(paths)
    slot(page, "Frames").get_by_text("connection was lost").wait_for()
    page.unroute_all(behavior="ignoreErrors")
    slot(page, "Frames").get_by_role("button", name="Pause").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    slot(page, "Frames").get_by_text("33.6 MB of 37.8 MB are on the server").wait_for()
    slot(page, "Frames").locator("input").set_input_files(paths[::-1])
    slot(page, "Frames").get_by_text("on the server", exact=False).filter(has_not_text="Choose").wait_for()
    (upload,) = [one for one in HTTP.get(f"{service.url}/v1/uploads").json() if one["name"] == "frames.tar"]
    with tarfile.open(service.folder / "data" / "uploads" / upload["id"]) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    assert found == pictures
    slot(page, "Frames").get_by_role("button", name="Remove").click()
    wait_until(lambda: "frames.tar" not in HTTP.get(f"{service.url}/v1/uploads").text)


def test_the_keyboard_is_enough(page: Any, service: Service) -> None:
    service.put("keys", "clip.fsa", "clip.mp4", size=64)
    service.ended("keys")
    page.reload()
    job_of(page, "clip.mp4").wait_for()
    page.locator("#option-size").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "toggle":
            break
    page.keyboard.press("Enter")
    page.locator(".face").first.wait_for()
    for _ in range(4):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "face":
            break
    page.keyboard.press("ArrowRight")
    assert "SHA-1" in page.locator(".caption").inner_text()
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == second
    page.keyboard.press("ArrowRight")
    assert dialog.get_by_role("heading").inner_text() != second
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second
    page.keyboard.press("Enter")
    page.go_back()
    dialog.wait_for(state="hidden")
    HTTP.delete(f"{service.url}/v1/jobs/keys")


def test_earlier_jobs_are_a_button_away(page: Any, service: Service) -> None:
    for number in range(3):
        service.put(f"many-{number}", "broken.fsa", "clip.mp4")

    def cut(route: Any) -> None:
        route.continue_(url=route.request.url.replace("limit=50", "limit=2"))

    page.route("**/v1/jobs?limit=*", cut)
    page.reload()
    wait_until(lambda: page.locator("article").count() == 2)
    page.get_by_role("button", name="Show earlier jobs").click()
    wait_until(lambda: page.locator("article").count() == 3)
    assert page.get_by_role("button", name="Show earlier jobs").is_hidden()
    for number in range(3):
        service.ended(f"many-{number}")
        HTTP.delete(f"{service.url}/v1/jobs/many-{number}")


def test_a_token_in_the_address_is_taken_and_not_kept_there(browser: Any, tmp_path: Path) -> None:
    from gpu_extract.service.access import Tokens

    (tmp_path / "root").mkdir()
    (tmp_path / "data").mkdir()
    secret = Tokens.make(tmp_path / "data" / "tokens.toml", "anna", ["read", "submit"])
    reader = Tokens.make(tmp_path / "data" / "tokens.toml", "ben", ["read"])
    service = Service(tmp_path, words=())
    service.start()
    try:
        with opened(browser, f"{service.url}/#token={secret}") as page:
            page.wait_for_selector("#draft:not([hidden])")
            assert page.locator("#who").inner_text() == "anna"
            assert "token" not in page.url
            page.reload()
            page.wait_for_selector("#draft:not([hidden])")
        with opened(browser, service.url) as page:
            page.get_by_role("textbox", name="Token").fill("wrong")
            page.get_by_role("button", name="Come in").click()
            page.get_by_text("not a token of this server").wait_for()
            page.get_by_role("textbox", name="Token").fill(reader)
            page.get_by_role("button", name="Come in").click()
            page.get_by_text("No jobs yet.").wait_for()
            assert page.locator("#draft").is_hidden()  # who may only read begins nothing
    finally:
        service.stop()


@pytest.mark.slow
def test_a_server_that_is_gone_is_told_and_found_again(browser: Any, tmp_path: Path) -> None:
    service = Service(tmp_path)
    fill(service.root)
    service.start()
    try:
        with opened(browser, service.url) as page:
            page.wait_for_selector("#draft:not([hidden])")
            choose(page, "Alignments file", "long.fsa")
            choose(page, "Frames", "long.mp4")
            page.locator("#option-size").fill("512")
            page.get_by_role("button", name="Start").click()
            page.locator(".face").first.wait_for()
            choose(page, "Frames", "clip.mp4")
            service.stop(signal.SIGKILL)
            page.locator("#silence").get_by_text("does not answer").wait_for()
            page.get_by_role("button", name="Check").click()
            page.locator("#draft").get_by_text("Alignments file: nothing is chosen").wait_for()
            service.start()
            page.locator("#silence").wait_for(state="hidden")
            assert "clip.mp4" in slot(page, "Frames").inner_text()
            assert service.ended(service.jobs()[0]["id"])["state"] == "succeeded"
            job_of(page, "long.mp4").get_by_text("Done").wait_for()
    finally:
        service.stop()


def test_streams_that_are_opened_at_once_are_counted(page: Any, service: Service) -> None:
    service.put("streams", "long.fsa", "long.mp4", size=1024)
    page.evaluate(
        """() => {
          window.streams = [1, 2, 3, 4, 5, 6].map(() => new EventSource("/v1/jobs/streams/events?newest=9"));
        }"""
    )
    wait_until(lambda: page.evaluate("() => window.streams.map((one) => one.readyState)").count(2) == 2)
    page.reload()
    HTTP.post(f"{service.url}/v1/jobs/streams/cancel")
    service.ended("streams")
    wait_until(lambda: "sse_clients 0.0" in HTTP.get(f"{service.url}/metrics").text)
    HTTP.delete(f"{service.url}/v1/jobs/streams")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that asks for a token."""
    from gpu_extract.service.access import Tokens

    made = Service(tmp_path_factory.mktemp("guarded"), words=())
    made.root.mkdir()
    (made.folder / "data").mkdir()
    Tokens.make(made.folder / "data" / "tokens.toml", "anna", ["read", "submit"])
    made.start()
    yield made
    made.stop()


def assert_fine(page: Any, width: int) -> None:
    """Nothing is wider than the page, and axe has no serious finding."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if AXE is None:
        return
    page.evaluate(Path(AXE).read_text())
    found = page.evaluate("axe.run()")
    serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert not serious, json.dumps([(one["id"], one["nodes"][0]["html"]) for one in serious], indent=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_axe_finds_nothing_serious(
    browser: Any, service: Service, guarded: Service, scheme: str, width: int
) -> None:
    job = "fits"
    service.put(job, "images.fsa", "images", size=64)
    service.ended(job)
    sizes = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    with opened(browser, f"{service.url}/#{job}", **sizes) as page:
        page.locator(".face img").first.wait_for()
        page.get_by_text("All options").click()
        assert_fine(page, width)
        page.locator(".face").first.click()
        assert_fine(page, width)
        page.keyboard.press("Escape")
        slot(page, "Frames").get_by_role("button", name="On the server").click()
        page.locator("#picker").get_by_role("button", name="images/").wait_for()
        assert_fine(page, width)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Remove…").click()
        page.get_by_role("dialog").get_by_text("Remove images?").wait_for()
        assert_fine(page, width)
    with opened(browser, guarded.url, **sizes) as page:
        page.get_by_role("textbox", name="Token").fill("wrong")
        page.get_by_role("button", name="Come in").click()
        page.get_by_text("not a token of this server").wait_for()
        assert_fine(page, width)


def test_the_page_is_its_own_files_without_inline_scripts_or_styles() -> None:
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", html)
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|\.style\b", text), path.name
