"""What programs read: reports keep to the schemas that are published, and end with a command that can be typed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import make_clip
from gpu_extract.errors import counted
from gpu_extract.jobs.check import CheckReport
from gpu_extract.jobs.runs.extraction import note_faces_outside
from gpu_extract.jobs.runs.prepare import Prepared
from gpu_extract.options import typed
from gpu_extract.reports.extraction import Report
from gpu_extract.reports.pruning import PruneReport
from gpu_extract.run.plan import Plan

SCHEMAS = Path(__file__).parent.parent / "docs" / "schemas"
TYPES: dict[str, type[Any] | tuple[type[Any], ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "array": list,
    "object": dict,
}


def faults(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """What of a value does not keep to a schema, as far as the schemas of reports go."""
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where} is {value!r}"]
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", [])
    if kinds and not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
    ):
        return [f"{where} is {value!r}, not {kinds}"]
    if isinstance(value, list):
        return [fault for one in value for fault in faults(one, schema.get("items", {}), f"{where}[]")]
    if not isinstance(value, dict):
        return []
    found = [f"{where}.{key} is missing" for key in schema.get("required", []) if key not in value]
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key, item in value.items():
        if key not in known and "properties" in schema:
            found.append(f"{where}.{key} is not published")
        found += faults(item, known.get(key, others), f"{where}.{key}")
    return found


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """The report of a command on standard output, which keeps to its schema."""
    capsys.readouterr()
    assert main([*words, "--json", "-"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    name, version = found["schema"].split("/")
    schema = json.loads((SCHEMAS / f"{name}-{version}.json").read_text("utf-8"))
    assert faults(found, schema) == []
    assert next(iter(found)) == "schema"
    return found


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    Path("in put").mkdir()
    clip = make_clip(Path("in put"), frames=4)
    return ["-a", str(clip.alignments), "-fr", str(clip.video)]


def test_every_kind_of_report_keeps_to_its_schema(job: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run = [*job, "-fc", "faces", "-sz", "48", "--device", "cpu", "--metadata", "jsonl"]
    kinds = {told(capsys, command, *run)["schema"] for command in ("extract", "verify")}
    kinds.add(told(capsys, "check", *job)["schema"])
    kinds.add(told(capsys, "prune", *job[:2], "-fc", "faces")["schema"])
    kinds.add(told(capsys, "rename", "faces", *job[:2])["schema"])
    kinds.add(told(capsys, "rebuild", "faces", "again.fsa", "--dry-run")["schema"])
    kinds.add(told(capsys, "reindex", *job[:2], "--by", "size")["schema"])
    kinds.add(told(capsys, "masks", *job[:2], "--list")["schema"])
    kinds.add(told(capsys, "doctor")["schema"])
    kinds.add(told(capsys, "config", *job)["schema"])
    kinds.add(told(capsys, "batch", "in put", "-fc", "many", "-sz", "48", "--device", "cpu")["schema"])
    assert told(capsys, "extract", *job, "-fc", "other", "--shard", "0/2")["schema"] == "extract/1"
    assert told(capsys, "merge", *job, "-fc", "other", code=4)["schema"] == "extract/1"
    told(capsys, "extract", *job, "-fc", "other", "--dry-run", "--resume", "--shard", "1/2")
    assert kinds == {f"{path.stem.replace('-', '/')}" for path in SCHEMAS.iterdir()}


def test_the_last_line_is_a_command_that_goes_on(job: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def again(said: dict[str, Any]) -> list[str]:
        words: list[str] = shlex.split(said["next"])
        assert words[0] == "gpu-extract"
        return words[1:]

    options = ["-fc", "my faces", "-sz", "48", "--device", "cpu"]
    planned = again(told(capsys, "extract", *job, *options, "--dry-run"))
    assert not Path("my faces").exists()
    done = told(capsys, *planned)
    assert done["faces_written"] == 6
    assert done["size"] == 48
    assert main(again(done)) == 0
    assert Path("my faces_report/index.html").is_file()

    parts = [told(capsys, "extract", *job, "-fc", "parts", "-sz", "48", "--shard", f"{part}/2") for part in range(2)]
    merged = told(capsys, *again(parts[1]))
    assert merged["faces_written"] == 6


def test_what_failed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = Path("frames")
    shutil.copytree(vectors / "frames", frames)
    spared = (frames / "f_000002.png").read_bytes()
    (frames / "f_000002.png").write_bytes(b"")
    shutil.copy(vectors / "alignments" / "g6_2019-12.fsa", "a.fsa")
    first = told(capsys, "extract", "-a", "a.fsa", "-fr", "frames", "-fc", "faces", "-sz", "32", code=4)
    assert first["next"] == "gpu-extract extract --alignments a.fsa --frames frames --faces faces --size 32 --resume"
    (frames / "f_000002.png").write_bytes(spared)
    second = told(capsys, *shlex.split(first["next"])[1:], code=4)
    assert [error["frame"] for error in first["errors"]] == ["f_000002.png", "f_000099.png"]
    assert [error["frame"] for error in second["errors"]] == ["f_000099.png"]  # which is not there


@pytest.mark.parametrize(
    ("options", "why", "other"),
    [
        (["--on-error", "stop"], "stopped at the first error", "without --on-error stop"),
        (["--max-errors", "1"], "stopped by too many errors", "with a larger --max-errors"),
    ],
)
def test_a_run_that_errors_have_ended_says_what_to_do_about_them(
    options: list[str],
    why: str,
    other: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vectors: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(vectors / "alignments" / "g6_2019-12.fsa", "a.fsa")  # with an entry of which there is no frame
    run = ["extract", "-a", "a.fsa", "-fr", str(vectors / "frames"), "-fc", "faces", "-sz", "32", *options]
    assert main([*run, "--progress", "none"]) == 4
    lines = capsys.readouterr().out.splitlines()
    note = next(line for line in lines if line.startswith("note    stopped"))
    assert note.startswith(f"note    {why} after 0 of ")
    assert note.endswith(f"when that is mended, or {other}, run the same command with --resume to continue.")
    again = f"when that is mended, this goes on: gpu-extract extract --alignments a.fsa --frames {vectors / 'frames'}"
    assert lines[-1].startswith(f"next    {again}")
    assert not any("the limit was" in line for line in lines), "nothing was done that could have been one"
    assert main([*run, "-q", "--resume"]) == 4
    failed, ended = capsys.readouterr().err.splitlines()
    assert failed.endswith(" failed: f_000099.png: the source has no such frame.")
    assert ended == f"gpu-extract: {note.removeprefix('note    ')}"
    skipping = [word for word in shlex.split(lines[-1].partition(": gpu-extract ")[2]) if word not in options]
    assert main([*skipping, "-q"]) == 4
    assert capsys.readouterr().err.splitlines() == [failed]
    assert len(list(Path("faces").glob("*.png"))) > 5


@pytest.mark.parametrize(
    "name", ["-faces", "my 'faces'", 'new\nline\t"\\$HOME`', os.fsdecode(b"m\xe9l \xff'1"), "é…\u202e"]
)
def test_a_command_is_one_line_that_a_shell_takes_for_what_it_says(name: str, tmp_path: Path) -> None:
    line = typed("sheet", Path(name), "--where", "size < 3", "-fc", Path(name), tmp_path / name)
    assert line.isprintable()
    told = subprocess.run(
        ["bash", "-c", f"gpu-extract() {{ printf '%s\\0' \"$@\"; }}; {line}"], capture_output=True, check=True
    )
    place = f"./{name}" if name.startswith("-") else name
    assert told.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1] == [
        *("sheet", place, "--where", "size < 3", "-fc", place),
        str(tmp_path / name),
    ]
    assert typed("sheet", "\ud800\0").isprintable(), "which no name can hold, but a journal can"


def test_the_last_lines_name_places_that_look_like_options(job: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    done = told(capsys, "extract", *job, "-fc=-faces", "-sz", "48", "--metadata", "jsonl")
    assert done["next"] == "gpu-extract report ./-faces"
    Path("-a.fsa").write_bytes(Path(job[1]).read_bytes())
    next(Path("-faces").glob("*_0.png")).unlink()
    gone = told(capsys, "prune", "-a=-a.fsa", "-fc=-faces")
    assert gone["undo"] == "gpu-extract prune -a ./-a.fsa -fc ./-faces --undo"
    assert main(shlex.split(gone["undo"])[1:]) == 0
    next(Path("-faces").glob("*_1.png")).rename("-faces/nose.png")
    assert told(capsys, "rename", "./-faces")["undo"] == "gpu-extract rename ./-faces --undo"
    assert told(capsys, "rebuild", "./-faces", "./-b.fsa")["next"].endswith(" -a ./-b.fsa -fr FRAMES -fc ./-faces")


@pytest.mark.parametrize(
    ("number", "face", "its"),
    [(0, "faces", "their"), (1, "face", "its"), (2, "faces", "their"), (2000, "faces", "their")],
)
def test_words_agree_with_their_number(number: int, face: str, its: str) -> None:
    said = f"{number:,} {face}"
    assert counted(number, "face") == said
    assert counted(number, "face lies", "faces lie") == f"{said} {'lies' if number == 1 else 'lie'}"
    undone = PruneReport(alignments="a.fsa", undone=True, faces_after=number)
    assert undone.table() == f"undone  a.fsa holds {said} again"
    checked = CheckReport(entries=number, frames=number, faces=number, alignments_version=2.4).table().splitlines()
    frames = said.replace("face", "frame")
    assert checked[0] == f"file    {frames} with {said}, version 2.4"
    assert checked[1] == f"source  {frames}"
    failed = Report(faces_failed=number)
    failed.add_error("f.png", None, "it is damaged.")
    assert failed.first_errors() == f"{said} failed: f.png: it is damaged."
    planned = Report(faces_planned=number, frames_expected=number, size=64, dry_run=True)
    assert f"plan    {said} of {frames}, 64 px" in planned.table()
    if number:
        outside = Report(faces_outside=number)
        resolved = SimpleNamespace(numbering=SimpleNamespace(rotate=False))
        plan, made = SimpleNamespace(face_count=number), SimpleNamespace(resolved=resolved)
        note_faces_outside(cast("Plan", plan), cast("Prepared", made), outside)
        assert outside.notes[0].startswith(f"{said} {'lies' if number == 1 else 'lie'} outside {its} picture")


@pytest.mark.parametrize("layout", ["by-frame", "webdataset"])
def test_faces_that_no_sheet_shows_are_shown_on_a_page(
    layout: str, job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-fc", "faces", "-sz", "48", "--device", "cpu", "--output-layout", layout]
    assert main(["extract", *job, *options, "--dry-run"]) == 0
    done = told(capsys, "extract", *job, *options)
    assert done["next"] == "gpu-extract report faces"
    assert main(shlex.split(done["next"])[1:]) == 0
    assert "6 of 4 frames" in capsys.readouterr().out


def test_what_merges_shards_changes_a_file_no_more_than_they_were_asked_to(
    job: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-fc", "faces", "-sz", "48", "--device", "cpu", "--no-update"]
    before = Path(job[1]).read_bytes()
    part = told(capsys, "extract", *job, *options, "--shard", "0/1")
    assert shlex.split(part["next"])[1:] == [
        "merge",
        "--alignments",
        job[1],
        "--frames",
        job[3],
        "--faces",
        "faces",
        "--no-update",
    ]
    assert main(shlex.split(part["next"])[1:]) == 0
    assert Path(job[1]).read_bytes() == before


def test_a_bucket_s_faces_are_for_nothing_that_looks_at_faces(
    job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("obstore")
    place = f"file://{tmp_path}/bucket"
    options = ["-fc", place, "-sz", "48", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    part = told(capsys, "extract", *job, *options, "--shard", "0/2")
    assert part["next"].startswith("gpu-extract merge --alignments ")
    told(capsys, "extract", *job, *options, "--shard", "1/2")
    assert told(capsys, *shlex.split(part["next"])[1:])["next"] == ""
    for words in (["sheet", place, "sheet.png"], ["report", place]):
        assert main(words) == 2
        assert f"paths of this machine only; copy {place} here first" in capsys.readouterr().err
