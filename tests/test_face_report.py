"""The page of `report`: what it says of a run, of every face, and of what failed; whatever names and files hold."""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.errors import InputError, OutputError
from gpu_extract.face_files.metadata import json_line
from gpu_extract.geometry import crops
from gpu_extract.geometry.mean_faces import table
from gpu_extract.geometry.pose import POSE_POINTS
from gpu_extract.jobs import report
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.gallery import miniatures
from gpu_extract.jobs.gallery.entries import State
from gpu_extract.jobs.gallery.pages import LANDMARK_STEPS
from gpu_extract.jobs.gallery.summary import shown
from gpu_extract.jobs.migrate import migrate
from gpu_extract.jobs.report import face_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.run.journal import Finished
from gpu_extract.tasks import FaceResult
from tests.helpers import extract_command, noise, read_image, write_photographs

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"'><svg onload=alert(1)>",
    "{data}<!-- summary -->",
    "${1}`);alert(1)//",
    "\u202egpj.exe\u2028\\u003c\\",
    "__proto__",
)


class Page:
    """A page as its files have it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.html = path.read_text("utf-8")
        self.data = next(found.parent for found in path.parent.glob(f"{path.stem}_*/{report.OWN}"))
        self.index = called("begin", self.data / "index.js")[0]
        self.rows: list[list[Any]] = []
        for number, part in enumerate(sorted(self.data.glob("page_*.js")), 1):
            told, rows = called("page", part)
            assert told == number
            assert len(rows) == 500 or number == len(list(self.data.glob("page_*.js")))
            self.rows += rows

    def column(self, name: str) -> list[Any]:
        kind = {"frame": "<u4", "index": "<i4", "state": "u1"}.get(name, "<f4")
        values: list[Any] = np.frombuffer(base64.b64decode(self.index["columns"][name]), kind).tolist()
        assert len(values) == self.index["count"]
        return values

    def frames(self) -> list[str]:
        return [self.index["frames"][at] for at in self.column("frame")]

    def states(self) -> list[State]:
        return [State(value) for value in self.column("state")]

    def files(self) -> dict[int, str]:
        return {at: name for at, name in self.index["files"]}  # noqa: C416 (pairs of a list, not of a tuple)


def called(function: str, path: Path) -> Any:
    """The JSON that a script hands to a function of the page; the script is that call, and nothing else."""
    text = path.read_text("ascii")
    before, after = f'"use strict";gallery.{function}(', ");\n"
    assert text.startswith(before)
    assert text.endswith(after)
    assert "<" not in text
    return json.loads(f"[{text[len(before) : -len(after)]}]")


def made(*words: object) -> int:
    return main(["report", "-q", *map(str, words)])


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Path:
    """`frames`, `a.fsa`, `faces` of a run over both with a list, and its `report.json`."""
    write_photographs(tmp_path, landmarks)
    words = extract_command(tmp_path / "a.fsa", tmp_path / "frames", tmp_path / "faces", "-q", "-sz", 64)
    assert main([*words, "--metadata", "jsonl", "--json", str(tmp_path / "report.json")]) == 0
    return tmp_path


def test_a_run_is_told_from_its_journal_its_report_and_its_list(job: Path) -> None:
    told = face_report(job / "faces")
    assert told.page == job / "faces_report" / "index.html"
    assert told.exit_code == 0
    assert "3 of 3 frames" in told.table()
    page = Page(told.page)
    for words in (
        "3 of 3 frames",
        "3 of 3 read",
        "64 px",
        "Nothing failed.",
        "gpu-extract prune",
        "gpu-extract verify",
    ):
        assert words in page.html
    assert page.frames() == [f"f_{number:06d}.png" for number in range(3)]
    assert page.column("index") == [0, 0, 0]
    assert page.states() == [State.NONE] * 3
    assert page.index["faces"] == "../faces"
    assert page.files() == {}, "names follow from frames"
    rows = [json.loads(line) for line in (job / "faces" / "faces.jsonl").read_text().splitlines()]
    for row, said in zip(rows, page.rows, strict=True):
        assert said[:4] == [row["hash"], (job / "faces" / row["file"]).stat().st_size, [64, 64], row["position"]]
        matrix = np.array(row["matrix"])
        there = np.array(row["landmarks"]) @ matrix[:, :2].T + matrix[:, 2]
        drawn = np.frombuffer(base64.b64decode(said[7]), "<i2").reshape(-1, 2) / LANDMARK_STEPS
        assert np.abs(drawn - there).max() <= 0.5 / LANDMARK_STEPS
    for name, wanted in (("side", "side_px"), ("sharpness", "sharpness")):
        assert page.column(name) == pytest.approx([row[wanted] for row in rows], rel=1e-6)
    assert page.column("yaw") == pytest.approx([row["pose"][0] for row in rows], rel=1e-6)
    assert page.index["columns"].keys() == {"frame", "index", "state", "side", "yaw", "sharpness"}


def test_a_list_tells_what_it_has_and_the_page_shows_no_more(job: Path) -> None:
    path = job / "faces" / "faces.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    more: list[dict[str, Any]] = [
        {"sharpness": 41.5, "side_px": 77.25, "pose": [-12.5, 3.0, 1.0], "hash_state": "equal"},
        {"sharpness": "sharp", "side_px": None, "pose": [1, 2], "hash_state": 3},
        {"sharpness": math.nan, "side_px": True, "pose": {"yaw": 1}, "landmarks": "none", "matrix": [[1]], "index": -1},
    ]
    path.write_bytes(b"".join(json_line(row | extra) for row, extra in zip(rows, more, strict=True)) + b"no json\n")
    page = Page(face_report(job / "faces").page)
    sharpness, side, yaw = (page.column(name) for name in ("sharpness", "side", "yaw"))
    assert sharpness[0] == 41.5
    assert math.isnan(sharpness[1])
    assert math.isnan(sharpness[2])
    assert side[0] == 77.25
    assert yaw[0] == -12.5
    assert page.rows[0][4:7] == [3.0, 1.0, "equal"]
    assert page.rows[1][6] is None
    assert side[1] == pytest.approx(crops.side_px(np.array([rows[1]["matrix"]]), 64)[0])
    assert math.isnan(side[2]), "its matrix is none"


def test_headers_tell_the_same_as_the_list(job: Path) -> None:
    assert main(["migrate", "-q", str(job / "a.fsa"), str(job / "new.fsa"), "--to", "2.4"]) == 0
    words = extract_command(job / "new.fsa", job / "frames", job / "new", "-q", "-sz", 64, "--metadata", "jsonl")
    assert main(words) == 0
    by_list = Page(face_report(job / "new").page)
    (job / "new" / "faces.jsonl").unlink()
    by_header = Page(face_report(job / "new").page)
    assert by_header.frames() == by_list.frames()
    for name in ("side", "yaw"):
        assert by_header.column(name) == pytest.approx(by_list.column(name), rel=1e-5)
    for one, other in zip(by_header.rows, by_list.rows, strict=True):
        drawn = [np.frombuffer(base64.b64decode(row[7]), "<i2").astype(int) for row in (one, other)]
        assert np.abs(drawn[0] - drawn[1]).max() <= 1
    (job / "new" / journal.NAME).unlink()
    alone = Page(face_report(job / "new").page)
    assert alone.frames() == by_list.frames()
    assert "another program may have written it" in alone.html
    assert alone.states() == [State.NONE] * 3, "without a journal nothing is foreign"
    assert alone.column("side") == pytest.approx(by_list.column("side"), rel=1e-5)


def test_an_alignments_file_tells_of_faces_that_say_nothing_themselves(job: Path) -> None:
    by_list = Page(face_report(job / "faces").page)
    (job / "faces" / "faces.jsonl").unlink()
    page = Page(face_report(job / "faces").page)
    assert page.index["columns"].keys() == {"frame", "index", "state"}
    assert page.index["frames"] == ["f_000000", "f_000001", "f_000002"], "as far as names of files tell"
    page = Page(face_report(job / "faces", alignments=job / "a.fsa").page)
    assert page.frames() == by_list.frames()
    assert page.column("side") == pytest.approx(by_list.column("side"), rel=1e-5)
    assert "gpu-extract verify -a" in page.html
    assert "a.fsa" in page.html


def test_failures_stand_on_top_by_reason_and_in_the_list(job: Path) -> None:
    told = Report(frames_expected=9, frames_decoded=7, faces_folder="elsewhere/faces", size=64)
    told.add_error("f_000001.png", 1, "its landmarks are no numbers")
    for number in range(150):
        told.add_error(f"f_1{number:05d}.png", None, "the frame is damaged")
    (job / "report.json").write_text(told.to_json())
    os.rename(job, moved := job.with_name("elsewhere"))  # noqa: PTH104
    page = Page(face_report(moved / "faces").page)
    assert page.html.index("the frame is damaged") < page.html.index("its landmarks are no numbers")
    assert "151 failures" in page.html
    assert "<b>150</b>" in page.html
    assert "… and 50 more" in page.html
    assert "f_000001.png</bdi>, face 1" in page.html
    assert "--resume" in page.html
    assert page.index["count"] == 154
    assert page.frames()[:4] == ["f_000000.png", "f_000001.png", "f_000001.png", "f_000002.png"]
    assert page.column("index")[2:5] == [1, 0, -1]
    assert page.states()[2:5] == [State.FAILED, State.NONE, State.FAILED]
    assert page.rows[2][8] == "its landmarks are no numbers"
    shutil.rmtree(moved, ignore_errors=True)


def test_what_failed_is_known_without_a_report(job: Path) -> None:
    (job / "frames" / "f_000001.png").write_bytes(b"no image")
    words = extract_command(job / "a.fsa", job / "frames", job / "again", "-q", "-sz", 64)
    assert main(words) == 4
    page = Page(face_report(job / "again", alignments=job / "a.fsa").page)
    assert "1 failure" in page.html
    assert "f_000001.png</bdi>" in page.html
    assert sum(bool(state & State.FAILED) for state in page.states()) == 1
    assert (job / "again" / journal.FAILURES).is_file()
    shutil.copy(job / "frames" / "f_000000.png", job / "frames" / "f_000001.png")
    [again] = re.findall(r">gpu-extract (extract [^<]*)<", page.html)
    assert main(shlex.split(html.unescape(again))) == 0
    assert not (job / "again" / journal.FAILURES).exists()
    assert "Nothing failed." in Page(face_report(job / "again").page).html


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({}, None),
        ({"exit_code": 4}, None),
        ({"exit_code": 130}, "Let the run go on: it was ended before it had gone over all frames."),
        ({"exit_code": 4, "stopped": True}, "it does again what failed, and does what it had not come to."),
        ({"exit_code": ["130"], "stopped": "yes"}, None),
    ],
)
def test_a_run_that_ended_early_is_to_go_on(told: dict[str, Any], words: str | None, job: Path) -> None:
    report = Report(faces_folder="faces").to_dict() | told
    if told.get("stopped") is True:
        report["errors"] = [{"frame": "f_000001.png", "index": None, "reason": "the frame is damaged"}]
    (job / "report.json").write_text(json.dumps(report))
    page = Page(face_report(job / "faces", alignments=job / "a.fsa").page)
    assert ("--resume" in page.html) == (words is not None)
    assert words is None or words in page.html
    assert ("Nothing failed of what the run came to before it was ended." in page.html) == (told == {"exit_code": 130})


def test_a_report_of_before_the_last_run_does_not_say_what_failed_in_it(job: Path) -> None:
    good = (job / "frames" / "f_000001.png").read_bytes()
    (job / "frames" / "f_000001.png").write_bytes(b"no image")
    run = extract_command(job / "a.fsa", job / "frames", job / "again", "-q", "-sz", 64)
    assert main([*run, "--json", str(job / "old.json")]) == 4
    assert "1 failure" in Page(face_report(job / "again").page).html
    (job / "frames" / "f_000001.png").write_bytes(good)
    assert main([*run, "--resume"]) == 0
    page = Page(face_report(job / "again").page)
    assert "Nothing failed." in page.html
    assert "frames a second" in page.html, "the rest of what it says is better than nothing"
    assert "1 failure" in Page(face_report(job / "again", run_report=job / "old.json").page).html, (
        "who names it wants it"
    )


def test_failures_of_before_a_prune_or_a_reindex_are_told_as_such(job: Path, landmarks: np.ndarray) -> None:
    faces = [face_record(landmarks), face_record(landmarks + 9), face_record(landmarks * 0.5)]
    faces[1]["landmarks_xy"] = np.full((68, 2), np.nan, np.float32)
    write_alignments(job / "b.fsa", {"f_000000.png": faces, "f_000002.png": [face_record(landmarks)]})
    assert main(extract_command(job / "b.fsa", job / "frames", job / "again", "-q", "-sz", 64)) == 4
    since = "since then, faces have been taken out of the alignments file or put in another order"

    def told(*run_report: Path, alignments: Path | None = None) -> tuple[bool, list[int]]:
        page = Page(face_report(job / "again", alignments=alignments, run_report=next(iter(run_report), None)).page)
        assert "f_000000.png</bdi>, face 1" in page.html
        failed = [i for i, state in enumerate(page.states()) if state & State.FAILED]
        return since in page.html, [page.column("index")[i] for i in failed]

    assert told() == told(alignments=job / "b.fsa") == (False, [1])
    (job / "again" / "f_000000_0.png").unlink()
    prune = ["prune", "-q", "-a", str(job / "b.fsa"), "-fc", str(job / "again")]
    assert main([*prune, "--yes"]) == 0
    assert told() == told(alignments=job / "b.fsa") == (True, [-1])
    assert main([*prune, "--undo"]) == 0
    assert told() == (False, [1])
    run = extract_command(
        job / "b.fsa", job / "frames", job / "again", "-q", "-sz", 64, "--resume", "--json", job / "r.json"
    )
    assert main(run) == 4
    assert told(job / "r.json") == (False, [1])
    assert main(["reindex", "-q", "-a", str(job / "b.fsa"), "-fc", str(job / "again")]) == 0
    assert told(job / "r.json") == (True, [-1])
    Path(job / "again" / journal.FAILURES).unlink()
    assert told(job / "r.json") == (False, [1]), "which nobody can know"


def test_a_list_of_failures_that_is_damaged_says_nothing(job: Path) -> None:
    for text in ("", "{", "{}", '[1, {"frame": 2}]'):
        (job / "faces" / journal.FAILURES).write_text(text)
        assert "Nothing failed." in Page(face_report(job / "faces").page).html


def test_a_report_of_another_folder_is_not_taken_for_this_ones(job: Path) -> None:
    told = Report(faces_folder=str(job / "others" / "faces"))
    told.add_error("f_000001.png", None, "of another run")
    (job / "report.json").write_text(told.to_json())
    (job / "notes.json").write_text('{"frames_expected": 3, "faces_folder": "faces"}')
    html = Page(face_report(job / "faces").page).html
    assert "of another run" not in html
    assert "Nothing failed." in html
    (job / "faces" / journal.NAME).unlink()
    assert "What failed is not recorded" in Page(face_report(job / "faces").page).html
    assert "of another run" in Page(face_report(job / "faces", run_report=job / "report.json").page).html
    with pytest.raises(InputError, match=r"notes\.json is no report of a run; name the file that extract --json wrote"):
        face_report(job / "faces", run_report=job / "notes.json")


def test_a_report_of_odd_values_is_no_trouble(job: Path) -> None:
    told = Report(faces_folder=str(job / "faces")).to_dict()
    odd = {key: {"a": ["<b>"]} for key in told if key != "faces_folder"}
    for errors in (
        {"frame": 3},
        [1, None, {}, {"frame": 1, "reason": 2}, {"frame": "f", "reason": "r", "index": "<i>"}],
    ):
        (job / "report.json").write_text(json.dumps(odd | {"errors": errors, "faces_folder": told["faces_folder"]}))
        assert made(job / "faces", "--run-report", job / "report.json") == 0
        assert "<b>" not in Page(job / "faces_report" / "index.html").html.replace("<b>1</b>", "")


def test_shards_tell_what_failed_in_their_receipts(job: Path) -> None:
    (job / "frames" / "f_000001.png").write_bytes(b"no image")
    for shard in ("0/2", "1/2"):
        words = extract_command(job / "a.fsa", job / "frames", job / "shards", "-q", "-sz", 64, "--shard", shard)
        assert main(words) in (0, 4)
    page = Page(face_report(job / "shards").page)
    assert "1 failure<" in page.html
    assert page.states() == [State.NONE, State.FAILED, State.NONE]


def test_faces_that_are_gone_foreign_or_damaged_are_told_apart(job: Path) -> None:
    faces = job / "faces"
    (faces / "f_000000_0.png").unlink()
    whole = (faces / "f_000001_0.png").read_bytes()
    (faces / "f_000001_0.png").write_bytes(whole[:-20])
    (faces / "sorted").mkdir()
    shutil.copy(faces / "f_000002_0.png", faces / "sorted" / "best.png")
    (faces / "empty_3.jpg").write_bytes(b"")
    os.mkfifo(faces / "pipe_0.png")
    (faces / ".part-x_0.png").write_bytes(whole)
    (faces / "._f_000002_0.png").write_bytes(b"of a file manager")
    told = face_report(faces)
    assert told.exit_code == 4
    page = Page(told.page)
    about = dict(zip(page.frames(), zip(page.states(), page.rows, strict=True), strict=True))
    assert about["f_000000.png"][0] == State.GONE
    assert about["f_000001.png"][0] == State.UNREADABLE
    assert "cut off" in about["f_000001.png"][1][8]
    assert about["f_000002.png"][0] == State.NONE
    assert about["best"][0] == State.EXTRA
    assert about["empty"][0] == about["pipe"][0] == State.EXTRA | State.UNREADABLE
    assert "named pipe" in about["pipe"][1][8]
    assert sorted(page.files().values()) == ["empty_3.jpg", "sorted/best.png"], "others follow from frames"
    assert len(page.rows) == 6
    assert "1 face left the folder since the run" in page.html
    assert "--dry-run" in page.html


@pytest.mark.parametrize("version", ["2.4", "g6"])
@pytest.mark.parametrize("metadata", [None, "jsonl"])
def test_faces_that_were_sorted_or_renamed_are_neither_gone_nor_foreign(
    version: str, metadata: str | None, tmp_path: Path, landmarks: np.ndarray
) -> None:
    write_photographs(tmp_path, landmarks)
    alignments, faces = tmp_path / "a.fsa", tmp_path / "faces"
    if version == "2.4":
        migrate(tmp_path / "a.fsa", alignments := tmp_path / "new.fsa")
    extract(alignments, tmp_path / "frames", faces, size=32, metadata=metadata, progress="none")
    before = Page(face_report(faces).page)
    (faces / "good").mkdir()
    (faces / "f_000002_0.png").rename(faces / "good" / "000 a.png")
    (faces / "f_000000_0.png").rename(faces / "best_7.png")
    shutil.copy(faces / "f_000001_0.png", faces / "copy.png")
    told = face_report(faces)
    assert (told.tally.files, told.tally.frames, told.tally.gone, told.tally.extra) == (4, 4 - (version == "2.4"), 0, 1)
    after = Page(told.page)
    copy = next(at for at, name in after.files().items() if name == "copy.png")
    kept = [at for at in range(4) if at != copy]
    assert sorted(after.files().values()) == ["best_7.png", "copy.png", "good/000 a.png"]
    assert [after.rows[at] for at in kept] == before.rows
    assert [after.frames()[at] for at in kept] == before.frames()
    assert [after.states()[at] for at in kept] == [State.NONE] * 3
    assert after.states()[copy] == State.EXTRA
    assert "left the folder since the run" not in after.html
    (faces / "good" / "000 a.png").unlink()
    assert face_report(faces).tally.gone == 1


def test_frames_are_counted_by_headers_where_names_tell_nothing(tmp_path: Path, landmarks: np.ndarray) -> None:
    write_photographs(tmp_path, landmarks)
    write_alignments(tmp_path / "g6.fsa", {"f_000000.png": [face_record(landmarks), face_record(landmarks + 3)]})
    migrate(tmp_path / "g6.fsa", tmp_path / "new.fsa")
    faces = tmp_path / "faces"
    extract(tmp_path / "new.fsa", tmp_path / "frames", faces, size=32, progress="none")
    (faces / journal.NAME).unlink()
    for index in range(2):
        (faces / f"f_000000_{index}.png").rename(faces / f"bin {index}.png")
    assert face_report(faces).tally.frames == 1


def test_names_are_text_and_nothing_else(tmp_path: Path) -> None:
    faces = tmp_path / "<i>faces & {known}"
    faces.mkdir()
    picture = cv2.imencode(".png", noise(16, 16))[1].tobytes()
    names = [f"{name.replace('/', '∕')}_0.png" for name in HOSTILE]
    for name in names:
        (faces / name).write_bytes(picture)
    (faces / os.fsdecode(b"\xff\xfe_1.png")).write_bytes(picture)
    settings = {"frames": HOSTILE[0], "size": "<u>", "engine": HOSTILE[1], "centering": HOSTILE[2]}
    frames = [Finished(0, [FaceResult(0, 0, names[0], "0" * 40, len(picture))])]
    entries = [journal.first_entry(settings), *map(journal.frame_entry, frames)]
    (faces / journal.NAME).write_bytes(b"".join(map(journal.line, entries)))
    told = Report(faces_folder=str(faces), notes=list(HOSTILE), engine=HOSTILE[0], device=HOSTILE[1])
    for name in HOSTILE:
        told.add_error(name, 0, name)
    (tmp_path / "report.json").write_text(told.to_json())
    page = Page(face_report(faces).page)
    static = Path(report.__file__).parent.parent / "reports" / "page" / "index.html"
    assert page.html.count("<script") == static.read_text("utf-8").count("<script")
    for tag in ("<img", "<svg", "<i>", "<u>"):
        assert tag not in page.html
    assert "onerror=alert(1)&gt;" in page.html
    assert "\u202e" not in page.html
    assert {*names, os.fsdecode(b"\xff\xfe_1.png")} <= {
        page.files().get(at, f"{frame}_{index}.png")
        for at, (frame, index) in enumerate(zip(page.frames(), page.column("index"), strict=True))
    }
    assert page.index["faces"] == "../%3Ci%3Efaces%20%26%20%7Bknown%7D"
    assert "script-src 'self' file:;" in page.html
    assert "unsafe" not in page.html


def test_an_escaped_text_is_short_and_shows_what_cannot_be_seen() -> None:
    assert shown("a<b>&\"'") == "a&lt;b&gt;&amp;&quot;&#x27;"
    assert shown("\udcff\u202e\x00\u200b") == "\ufffd" * 4
    assert len(shown("x" * 10_000)) == 301


def test_a_run_without_faces_and_one_of_failures_only_have_pages_too(job: Path) -> None:
    for path in (job / "faces").glob("f_*"):
        path.unlink()
    told = face_report(job / "faces")
    assert "faces   0 of 0 frames" in told.table()
    assert Page(told.page).states() == [State.GONE] * 3
    empty = job / "empty"
    empty.mkdir()
    (empty / journal.NAME).write_bytes(journal.line(journal.first_entry({"size": 64})))
    assert Page(face_report(empty).page).rows == []
    failed = Report(faces_folder="empty")
    failed.add_error("f_000000.png", None, "the frame is damaged")
    (job / "report.json").write_text(failed.to_json())
    assert Page(face_report(empty).page).states() == [State.FAILED]


def test_what_is_no_folder_of_faces_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made(tmp_path / "none") == 3
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    assert made(tmp_path / "bare") == 3
    assert "holds neither faces nor the journal of a run" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare"], "nothing was made"


def test_archives_have_thumbnails_and_what_their_jsons_say(job: Path) -> None:
    words = extract_command(job / "a.fsa", job / "frames", job / "tars", "-q", "-sz", 64)
    assert main([*words, "--output-layout", "webdataset"]) == 0
    flat, page = Page(face_report(job / "faces").page), Page(face_report(job / "tars").page)
    assert page.states() == [State.SMALL | State.HIDDEN] * 3
    assert page.frames() == flat.frames()
    assert page.column("side") == flat.column("side")
    assert [row[:4] for row in page.rows] == [row[:4] for row in flat.rows]
    assert page.rows[0][9] == "00000.tar"
    small = page.data / "thumbs" / "0001" / "000.jpg"
    assert read_image(small).shape == (64, 64, 3)


@pytest.mark.parametrize(("kind", "count"), [("auto", 2), ("always", 3), ("never", 0)])
def test_thumbnails_are_made_of_what_is_large_or_not_known_to_browsers(tmp_path: Path, kind: str, count: int) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    cv2.imwrite(str(faces / "a_0.png"), noise(256, 256))
    cv2.imwrite(str(faces / "b_0.png"), noise(300, 100))
    cv2.imwrite(str(faces / "c_0.tif"), noise(64, 64))
    page = Page(face_report(faces, thumbs=kind).page)
    pictures = sorted((page.data / "thumbs").rglob("*.jpg"))
    assert len(pictures) == count
    assert all(path.stat().st_size <= miniatures.MOST_BYTES for path in pictures), "of noise, too"
    assert [bool(state & State.SMALL) for state in page.states()].count(True) == count
    assert page.states()[2] & State.HIDDEN


def test_a_report_replaces_its_own_and_nothing_else(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = job / "page"
    assert made(job / "faces", "-o", out) == 0
    first = Page(out / "index.html").data
    others = [out / "index_0123abcd", out / "index_notes", out / f"{first.name}x"]
    for other in others:
        other.mkdir()
        (other / "mine.txt").write_text("a person's")
    assert made(job / "faces", "-o", out) == 0
    assert not first.exists()
    assert all((other / "mine.txt").exists() for other in others)
    assert made(job / "faces", "-o", out / "second.html") == 0
    assert Page(out / "index.html").data != Page(out / "second.html").data
    (job / "mine").mkdir()
    (job / "mine" / "index.html").write_text("<p>a person's")
    before = sorted(path.name for path in (job / "mine").iterdir())
    capsys.readouterr()
    assert made(job / "faces", "-o", job / "mine") == 6
    assert "which is none; remove that first, or give another name" in capsys.readouterr().err
    assert sorted(path.name for path in (job / "mine").iterdir()) == before
    assert (job / "mine" / "index.html").read_text() == "<p>a person's"


@pytest.mark.parametrize("out", ["faces", "faces/page", "faces/page.html", "a.fsa/page"])
def test_a_place_that_is_none_for_a_page_is_refused(job: Path, out: str) -> None:
    before = sorted(path.relative_to(job) for path in job.rglob("*"))
    with pytest.raises(OutputError):
        face_report(job / "faces", job / out)
    assert sorted(path.relative_to(job) for path in job.rglob("*")) == before


def test_a_report_that_is_interrupted_leaves_the_earlier_one(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = face_report(job / "faces").page
    before = sorted(path.relative_to(job) for path in job.rglob("*"))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "summary", interrupted)
    with pytest.raises(KeyboardInterrupt):
        face_report(job / "faces")
    assert sorted(path.relative_to(job) for path in job.rglob("*")) == before
    assert len(Page(page).rows) == 3

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_file", full)
    with pytest.raises(OutputError, match=r"cannot be written to .*: No space left on device"):
        face_report(job / "faces")
    assert sorted(path.relative_to(job) for path in job.rglob("*")) == before


def test_frames_stand_in_the_order_in_which_people_count(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    names = ["a_2_0.png", "a_2_1.png", "a_2_10.png", "a_10_0.png", "a_010_1.png", f"a_{'9' * 200}_0.png", "b_0.png"]
    for name in reversed(names):
        (faces / name).write_bytes(cv2.imencode(".png", noise(8, 8))[1].tobytes())
    page = Page(face_report(faces).page)
    listed = [f"{frame}_{index}.png" for frame, index in zip(page.frames(), page.column("index"), strict=True)]
    assert listed == names


def test_a_page_holds_five_hundred_faces(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    (faces / "x_0.png").write_bytes(cv2.imencode(".png", noise(8, 8))[1].tobytes())
    for number in range(1, 1001):
        os.link(faces / "x_0.png", faces / f"x_{number}.png")
    page = Page(face_report(faces).page)
    assert len(page.rows) == 1001
    assert len(list(page.data.glob("page_*.js"))) == 3


def turned(axis: int, degrees: float) -> np.ndarray:
    """Landmarks [68, 2] of the model's head seen from afar; its axes are those of a picture, its nose looks at us."""
    angle = np.radians(degrees)
    one, other = [(1, 2), (2, 0), (0, 1)][axis]
    rotation = np.eye(3)
    rotation[[one, other], [one, other]] = np.cos(angle)
    rotation[one, other], rotation[other, one] = -np.sin(angle), np.sin(angle)
    head = -table("mean_face_head_3d26").astype(np.float64)
    seen = (head - head.mean(axis=0)) @ rotation.T
    points = np.tile(seen[:, :2].mean(axis=0), (68, 1))
    points[17:] = table("mean_face_head").astype(np.float64) * 12 - 6
    points[POSE_POINTS] = seen[:, :2] / (1 + seen[:, 2:] / 60)
    known = [point for point in POSE_POINTS if point >= 17]
    fitted = crops.umeyama(points[known][None], table("mean_face_head").astype(np.float64)[[p - 17 for p in known]])[0]
    back = np.linalg.inv(fitted[:, :2])
    for point in set(range(17, 68)) - set(POSE_POINTS):
        points[point] = back @ (table("mean_face_head")[point - 17].astype(np.float64) - fitted[:, 2])
    return points * 20 + 300


@pytest.mark.parametrize(
    ("axis", "degrees", "wanted"), [(1, -30, (30, 0, 0)), (0, -20, (0, 20, 0)), (2, 25, (0, 0, 25))]
)
def test_poses_are_what_a_person_sees(axis: int, degrees: float, wanted: tuple[float, ...]) -> None:
    """Looks to the right of the picture, up, and turned clockwise are positive."""
    points = turned(axis, degrees)[None]
    assert crops.head_pose(points)[0].tolist() == pytest.approx(wanted, abs=6)
    assert np.isnan(crops.head_pose(np.zeros((1, 68, 2)))).all()


def test_faces_outside_their_picture_are_told(tmp_path: Path, landmarks: np.ndarray) -> None:
    write_photographs(tmp_path, landmarks)
    away = landmarks + np.array([320, 0], np.float32)
    write_alignments(tmp_path / "a.fsa", {"f_000000.png": [face_record(landmarks), face_record(away)]})
    assert main(["migrate", "-q", str(tmp_path / "a.fsa"), str(tmp_path / "b.fsa"), "--to", "2.4"]) == 0
    assert main(extract_command(tmp_path / "b.fsa", tmp_path / "frames", tmp_path / "faces", "-q", "-sz", 64)) == 0
    told = face_report(tmp_path / "faces")
    assert Page(told.page).states() == [State.NONE, State.OUTSIDE]
    assert "1 outside the picture" in told.table()


def test_the_command_that_lets_a_run_go_on_says_what_it_was_asked_for(
    tmp_path: Path, vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(vectors / "frames", "frames")
    shutil.copy(vectors / "alignments" / "v2_3.fsa", "a.fsa")
    words = (
        "-sz",
        64,
        "-ae",
        "--centering",
        "face",
        "--format",
        "jpg",
        "--output-layout",
        "by-frame",
        "--json",
        "r.json",
    )
    command = extract_command(Path("a.fsa"), Path("frames"), Path("-faces"), *words)
    command[command.index("-fc") : command.index("-fc") + 2] = ["-fc=-faces"]
    assert main(command) == 4
    made = face_report(Path("-faces"), "page", alignments="a.fsa")
    lines = [html.unescape(line) for line in re.findall(r"<code[^>]*>(gpu-extract [^<]*)</code>", Page(made.page).html)]
    goes_on, prunes, verifies = (shlex.split(line)[1:] for line in lines)
    assert goes_on[0] == "extract"
    assert main([*goes_on, "-q"]) == 4, "the frame that is not there"
    assert main([*prunes, "-q"]) == 0
    assert main([*verifies, "-q"]) == 4
