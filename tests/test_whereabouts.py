"""The alignments file that nobody names: under its usual name beside the frames, and no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_extract.cli import main
from gpu_extract.cli.parser import build_parser, parsers
from gpu_extract.jobs.config import config
from gpu_extract.jobs.whereabouts import EXTENSIONS, alignments_of
from gpu_extract.options import options
from tests.helpers import CLIP, Job, copied, files_in, frames_of, write_photographs, write_pickled


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_newest_container_goes_first(tmp_path: Path) -> None:
    video = touched(tmp_path / "a b.mp4")
    assert alignments_of(video) is None
    for extension in reversed(EXTENSIONS):
        newer = touched(tmp_path / f"a b_alignments{extension}")
        assert alignments_of(video) == newer


def test_copies_and_files_of_others_are_not_taken(tmp_path: Path) -> None:
    video = touched(tmp_path / "clip.mp4")
    for name in (
        *("clip_alignments_20261125_101500.fsa", "clip_alignments_bk_2026-11-25_10.15.00.fsa", "clip.fsa"),
        *("clip_2_alignments.fsa", "alignments.fsa", "clip_alignments.fsa.lock", "clip.mp4_alignments.fsa"),
    ):
        touched(tmp_path / name)
    (tmp_path / "clip_alignments.json").mkdir()
    assert alignments_of(video) is None


def test_the_short_name_of_a_video_with_a_dot_comes_last(tmp_path: Path) -> None:
    video = touched(tmp_path / "my.clip.mp4")
    short = touched(tmp_path / "my.fsa")
    assert alignments_of(video) == short
    whole = touched(tmp_path / "my.clip_alignments.yml")
    assert alignments_of(video) == whole


def test_a_folder_has_its_file_inside_or_else_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = tmp_path / "shot.1"
    touched(frames / "a.png")
    touched(tmp_path / "alignments.fsa")
    assert alignments_of(frames) is None
    beside = touched(tmp_path / "shot.1_alignments.fsa")
    assert alignments_of(frames) == beside
    inside = touched(frames / "alignments.p")
    assert alignments_of(frames) == inside
    monkeypatch.chdir(frames)
    assert alignments_of(Path()) == Path("alignments.p")


def test_another_folder(tmp_path: Path) -> None:
    video, frames = touched(tmp_path / "in" / "clip.mp4"), tmp_path / "in" / "shots"
    frames.mkdir()
    touched(tmp_path / "in" / "clip_alignments.fsa")
    assert alignments_of(video, tmp_path / "al") is None
    of_video = touched(tmp_path / "al" / "clip_alignments.json")
    assert alignments_of(video, tmp_path / "al") == of_video
    of_frames = touched(tmp_path / "al" / "shots" / "alignments.fsa")
    assert alignments_of(frames, tmp_path / "al") == of_frames


@pytest.fixture
def shots(tmp_path: Path, landmarks: object) -> Job:
    """A folder of three pictures, with its alignments file inside."""
    write_photographs(tmp_path, landmarks)  # type: ignore[arg-type]
    inside = (tmp_path / "a.fsa").rename(tmp_path / "frames" / "alignments.fsa")
    return Job(inside, tmp_path / "frames")


def test_extract_finds_the_file_and_says_which(shots: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faces = tmp_path / "faces"
    words = ["-fr", str(shots.frames), "-fc", str(faces), "--device", "cpu"]
    assert main(["extract", *words, "--progress", "plain"]) == 0
    assert f"the alignments file is {shots.alignments}, found beside the frames." in capsys.readouterr().err
    assert len(files_in(faces)) == 3
    assert all(face["hash"] for faces in frames_of(shots.alignments).values() for face in faces)
    assert main(["verify", *words, "-q"]) == 0
    assert main(["check", "-fr", str(shots.frames), "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_what_programs_read_stays_json(shots: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-fr", str(shots.frames), "-fc", str(tmp_path / "faces"), "--device", "cpu", "--progress", "jsonl"]
    assert main(["extract", *words]) == 0
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert told[0] == {"note": f"the alignments file is {shots.alignments}, found beside the frames."}


def test_a_file_that_is_named_goes_before(shots: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_pickled(tmp_path / "other.fsa", {})
    assert config({"frames": str(shots.frames)}).values["alignments"] == {
        "value": str(shots.alignments),
        "from": "beside the frames",
    }
    monkeypatch.setenv("GPU_EXTRACT_ALIGNMENTS", str(other))
    found = config({"frames": str(shots.frames)}).values["alignments"]
    assert found == {"value": str(other), "from": "GPU_EXTRACT_ALIGNMENTS"}


def test_the_configuration_file_beside_the_file_that_was_found_counts(shots: Job) -> None:
    (shots.frames / "gpu-extract.toml").write_text("size = 100\n")
    found = config({"frames": str(shots.frames)})
    assert found.file == str(shots.frames / "gpu-extract.toml")
    assert found.values["size"]["value"] == 100


def test_no_file_at_all_costs_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = copied(CLIP, tmp_path / "alone")
    assert main(["extract", "-fr", str(video), "-fc", str(tmp_path / "faces")]) == 2
    assert capsys.readouterr().err == (
        "gpu-extract: the following arguments are required: -a/--alignments; there is no "
        "clip_alignments.fsa (or .json, .p, .pickle, .yml, .yaml) beside clip.mp4.\n"
    )
    assert main(["extract", "-fr", "s3://bucket/clip.mp4", "-fc", str(tmp_path / "faces")]) == 2
    assert "required: -a/--alignments; see gpu-extract extract --help" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["-p -r -c -z -N", "-p -i -o -z -N"])
def test_flags_of_the_programs_mean_the_same(shots: Job, tmp_path: Path, flags: str) -> None:
    assert shots.run("-sz", "48", "-een", "2") == 0
    alignments, frames, faces, size, every = flags.split()
    there = tmp_path / "there"
    words = [alignments, shots.alignments, frames, shots.frames, faces, there, size, 48, every, 2]
    assert main(["extract", *map(str, words), "--device", "cpu", "-q"]) == 0
    assert files_in(there) == shots.files()


@pytest.mark.parametrize("words", ["masks", "reindex", "rebuild d new", "migrate old new", "export f"])
def test_flags_of_the_programs_are_those_of_every_command(words: str) -> None:
    command = words.split()

    def of(flag: str) -> dict[str, Any]:
        return vars(build_parser().parse_args([*command, flag, "there"]))

    known = {flag for action in parsers(build_parser())[command[0]]._actions for flag in action.option_strings}
    for row in options("extract"):
        if row.name in ("frames", "faces", "alignments") and row.flags[-1] in known:
            for flag in row.aliases:
                assert of(flag) == of(row.flags[-1]), flag


def test_flags_of_the_programs_are_checked_like_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "-p", "a.fsa", "-i", "clip.mp4", "-o", "faces", "-z", "8"]) == 2
    assert "size must be 16 to 4096 pixels, got 8." in capsys.readouterr().err
    assert main(["extract", "-p", "a.fsa", "-i", "clip.mp4", "-o", "faces", "-z", "many"]) == 2
