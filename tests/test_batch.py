"""`batch`: a night of many videos, as a stranger would spend it; each file as a single run would have made it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.jobs.batch import batch
from gpu_extract.jobs.night.footage import find
from gpu_extract.reports.batch import DONE, REFUSED, BatchReport, Row
from gpu_extract.run import journal
from gpu_extract.run.children import Child
from gpu_extract.run.progress import Counted, Event, Finished, Note
from tests.helpers import (
    STOPS_ITSELF,
    extract_command,
    face_entry,
    files_in,
    image_bytes,
    noise,
    tmpfs_at,
    write_clip,
    write_pickled,
)

FRAMES, SIZE = 4, (76, 90)
NIGHT = 20
BROKEN, ALONE, OF_ANOTHER = "clip 03 né", "clip 07 né", "clip 12 né"


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def one_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, SIZE)


Maker = Callable[[Path], Path]


def filmed(clip: Path, landmarks: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip, path)
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    entries = {f"{path.stem}_{number + 1:06d}.png": [face_entry(small)] for number in range(FRAMES)}
    write_pickled(path.with_name(f"{path.stem}_alignments.fsa"), entries)
    return path


@pytest.fixture
def film(one_clip: Path, landmarks: np.ndarray) -> Maker:
    """`film(path)` puts a video there and its alignments file beside it."""
    return partial(filmed, one_clip, landmarks)


@pytest.fixture
def shots(landmarks: np.ndarray) -> Maker:
    """`shots(path)` makes a folder of two pictures, its alignments file inside."""

    def make(path: Path) -> Path:
        path.mkdir(parents=True)
        names = [f"{path.name}_{number}.png" for number in range(2)]
        for number, name in enumerate(names):
            (path / name).write_bytes(image_bytes(".png", noise(240, 320, seed=number)))
        write_pickled(path / "alignments.fsa", {name: [face_entry(landmarks)] for name in names})
        return path

    return make


def run(*words: object, to: Path | None = None) -> int:
    """A batch in this process, on the CPU, of small faces."""
    given = ["-fc", to] if to is not None else []
    return main(["batch", *map(str, [*words, *given]), "-sz", "48", "--device", "cpu"])


def told(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def states(report: dict[str, Any]) -> dict[str, str]:
    return {Path(row["frames"]).stem: row["state"] for row in report["videos"]}


def stamps(folder: Path) -> dict[str, int]:
    """When each file of a folder was last written."""
    return {os.fspath(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def in_order(run: tuple[Any, list[journal.Finished]] | None) -> tuple[Any, list[journal.Finished]]:
    """What a journal says, its frames by their numbers: they are written as they become finished."""
    assert run is not None
    return run[0], sorted(run[1], key=lambda frame: frame.position)


def without_records(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.endswith(journal.DONE)}


def test_a_night_of_twenty_videos_of_which_three_are_broken(
    film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    footage, faces, report = tmp_path / "my footage", tmp_path / "faces", tmp_path / "report.json"
    names = [f"clip {number:02d} né" for number in range(NIGHT)]
    videos = {name: film(footage / f"{name}.mp4") for name in names}
    whole = videos[BROKEN].read_bytes()
    videos[BROKEN].write_bytes(whole[: len(whole) // 2])
    (footage / f"{ALONE}_alignments.fsa").rename(tmp_path / "kept.fsa")
    (footage / f"{ALONE}_alignments_20261125_101500.fsa").write_bytes(b"a copy")
    shutil.copyfile(footage / "clip 01 né_alignments.fsa", footage / f"{OF_ANOTHER}_alignments.fsa")

    assert run(footage, "--json", report, "--processes", 2, to=faces) == 4
    told_at_night = capsys.readouterr().out
    first = told(report)
    assert list(states(first)) == names
    assert states(first) == dict.fromkeys(names, "done") | {
        BROKEN: "refused",
        ALONE: "no alignments",
        OF_ANOTHER: "refused",
    }
    reasons = {Path(row["frames"]).stem: row["reason"] for row in first["videos"] if row["reason"]}
    assert "cannot be read" in reasons[BROKEN]
    assert f"{ALONE}_alignments.fsa (or .json" in reasons[ALONE]
    assert "clip 01 né_000001.png" in reasons[OF_ANOTHER]
    assert all(reason in told_at_night for reason in reasons.values())
    assert "17 of 20 done (2 refused, 1 without an alignments file), 68 faces" in told_at_night
    assert (first["faces"], first["hashes"], first["processes"]) == (17 * FRAMES, 17 * FRAMES, 2)

    videos[BROKEN].write_bytes(whole)
    before = stamps(tmp_path)
    command = shlex.split(told_at_night.splitlines()[-1].partition(": ")[2])
    assert command[:2] == ["gpu-extract", "batch"]
    started: list[str] = []
    start = Child.start

    def start_and_note(words: list[str], *rest: Any) -> Any:
        started.append(words[words.index("--frames") + 1])
        return start(words, *rest)

    monkeypatch.setattr(Child, "start", start_and_note)
    assert main(command[1:]) == 4
    second = told(report)
    assert states(second) == dict.fromkeys(names, "done before") | {
        BROKEN: "done",
        ALONE: "no alignments",
        OF_ANOTHER: "refused",
    }
    assert started == [os.fspath(videos[name]) for name in (BROKEN, OF_ANOTHER)]
    changed = {path for path, at in stamps(tmp_path).items() if before.get(path) != at}
    assert all(path.startswith((str(faces / BROKEN), str(footage / BROKEN), str(report))) for path in changed)
    assert (second["faces"], second["videos_done"]) == (18 * FRAMES, 18)

    (tmp_path / "kept.fsa").rename(footage / f"{ALONE}_alignments.fsa")
    film(videos[OF_ANOTHER])
    assert main(command[1:]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is done; nothing is left to do"
    assert told(report)["next"] == ""


def test_the_files_are_those_of_single_runs(film: Maker, shots: Maker, tmp_path: Path) -> None:
    both = (tmp_path / "single", tmp_path / "batch")
    for root in both:
        film(root / "in" / "a.b.mp4")
        film(root / "in" / "ü.mkv")
        shots(root / "in" / "shots.1")
    single, several = both
    for name, frames, alignments in (
        ("a.b", "a.b.mp4", "a.b_alignments.fsa"),
        ("ü", "ü.mkv", "ü_alignments.fsa"),
        ("shots.1", "shots.1", "shots.1/alignments.fsa"),
    ):
        at = single / "in"
        words = ("-sz", "48", "--metadata", "jsonl", "--antialias")
        assert main(extract_command(at / alignments, at / frames, single / "faces" / name, *words)) == 0
    assert run(several / "in", "--metadata", "jsonl", "--antialias", "-q", to=several / "faces") == 0
    assert without_records(files_in(several / "faces")) == files_in(single / "faces")
    for path in (single / "faces").rglob(journal.NAME):
        of_batch = journal.read((several / path.relative_to(single)).parent)
        assert in_order(journal.read(path.parent)) == in_order(of_batch)
    for path in (single / "in").rglob("*alignments.fsa"):
        assert path.read_bytes() == (several / path.relative_to(single)).read_bytes()


def test_verify_takes_a_folder_of_a_batch_as_it_is(film: Maker, tmp_path: Path) -> None:
    video = film(tmp_path / "in" / "a.mp4")
    assert run(video, "-q", to=tmp_path / "faces") == 0
    assert (tmp_path / "faces" / "a" / journal.DONE).exists()
    report = tmp_path / "report.json"
    assert main(["verify", "-fr", str(video), "-fc", str(tmp_path / "faces" / "a"), "--json", str(report), "-q"]) == 0
    assert told(report)["notes"] == []


# ---- what is cut


def found(*places: object, faces: Path, **how: Any) -> list[tuple[str, str, str]]:
    """Name of the frames, place of the faces, and of the alignments file or what is wrong, of each piece of footage."""
    footage = find([str(place) for place in places], faces, **how).footage
    return [
        (one.frames.name, os.fspath(one.below), one.fault or (one.alignments.name if one.alignments else ""))
        for one in footage
    ]


def test_a_folder_holds_videos_and_folders_of_images(film: Maker, shots: Maker, tmp_path: Path) -> None:
    root = tmp_path / "in"
    film(root / "b.mp4")
    shots(root / "a")
    film(root / "inner" / "c.mp4")
    film(root / ".hidden.mp4")
    (root / "poster.jpg").write_bytes(b"")
    (root / "stills").mkdir()
    (root / "stills" / "one.png").write_bytes(b"")
    plain = [("a", "a", "alignments.fsa"), ("b.mp4", "b", "b_alignments.fsa")]
    assert found(root, faces=tmp_path / "faces") == [*plain, ("stills", "stills", "")]
    assert found(root, faces=tmp_path / "faces", recursive=True) == [
        *plain,
        ("c.mp4", "inner/c", "c_alignments.fsa"),
        ("stills", "stills", ""),
    ]


def test_nothing_is_cut_twice_nor_faces_again(film: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "in"
    video = film(root / "a.mp4")
    (root / "link").symlink_to(root)
    faces = root / "faces"
    assert run(root, "-q", to=faces) == 0
    (tmp_path / "other").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    once = [("a.mp4", "a", "a_alignments.fsa")]
    for places in ((root, video), (video, root), (video, "in/a.mp4", "in/../in/a.mp4", "other"), ("in/*.mp4", "in")):
        assert found(*places, faces=faces, recursive=True) == once
        assert found(*places, faces=tmp_path / "elsewhere", recursive=True) == once
    monkeypatch.chdir(root)
    assert found(".", faces=faces) == once


def test_patterns_take_videos_and_say_what_they_left_out(film: Maker, tmp_path: Path) -> None:
    for name in ("a 1.mp4", "a[2].mp4", "b.mp4"):
        film(tmp_path / "in" / name)
    taken = find([f"{tmp_path}/in/a*"], tmp_path / "faces")
    assert [one.frames.name for one in taken.footage] == ["a 1.mp4", "a[2].mp4"]
    assert taken.notes == [
        "2 files do not have a video's name and were left out: a 1_alignments.fsa, a[2]_alignments.fsa"
    ]
    assert [row[0] for row in found(tmp_path / "in" / "a[2].mp4", faces=tmp_path / "faces")] == ["a[2].mp4"]
    with pytest.raises(InputError, match=r"there is nothing at .*/in/c\*; pass videos"):
        find([f"{tmp_path}/in/c*"], tmp_path / "faces")


def test_two_of_one_name(film: Maker, shots: Maker, tmp_path: Path) -> None:
    root, faces = tmp_path / "in", tmp_path / "faces"
    film(root / "one" / "a.mp4")
    film(root / "one" / "a.mkv")
    film(root / "two" / "b.mp4")
    film(root / "three" / "b.mp4")
    for row in found(root / "one", faces=faces):
        assert row[2].endswith(
            "would all be cut by " + str(root / "one/a_alignments.fsa") + "; name only the one that it was made from."
        )
    for row in found(root / "two", root / "three", faces=faces):
        assert "would share one folder of faces, b; name the folder that holds them all" in row[2]
    assert [row[1] for row in found(root, faces=faces, recursive=True)][2:] == ["three/b", "two/b"]
    assert found(root / "one" / "a.mkv", faces=faces) == [("a.mkv", "a", "a_alignments.fsa")]
    report = batch([root / "one", root / "two"], faces, size=48, device="cpu", progress="none")
    assert [row.state for row in report.videos] == ["refused", "refused", "done"]
    assert report.exit_code == 4
    frames = shots(root / "two" / "b")
    (frames / "alignments.fsa").unlink()
    assert found(root / "two", faces=faces) == [("b", "b", ""), ("b.mp4", "b", "b_alignments.fsa")]


def test_alignments_files_in_a_folder_of_their_own(film: Maker, tmp_path: Path) -> None:
    root, files, faces = tmp_path / "in", tmp_path / "files", tmp_path / "faces"
    for path in (root / "a.mp4", root / "inner" / "b.mp4", root / "inner" / "c.mp4"):
        film(path)
    files.mkdir()
    (root / "a_alignments.fsa").rename(files / "a_alignments.fsa")
    (root / "inner" / "b_alignments.fsa").rename(files / "b_alignments.fsa")
    rows = found(root, faces=faces, alignments_dir=files, recursive=True)
    assert [row[2] for row in rows] == ["a_alignments.fsa", "b_alignments.fsa", ""]
    (files / "inner").mkdir()
    (root / "inner" / "c_alignments.fsa").rename(files / "inner" / "c_alignments.fsa")
    assert found(root, faces=faces, alignments_dir=files, recursive=True)[2][2] == "c_alignments.fsa"
    one = root / "inner" / "c.mp4"
    assert run(one, "--alignments-dir", files / "inner", "-q", to=faces) == 0
    assert (faces / "c" / journal.DONE).exists()
    with pytest.raises(InputError, match="there is no folder"):
        find([root], faces, alignments_dir=tmp_path / "none")


def test_nothing_to_cut_is_an_error(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    root.mkdir()
    assert run(root, to=tmp_path / "faces") == 3
    assert "there are no videos and no folders of images in" in capsys.readouterr().err
    for name in ("a", "b"):
        film(root / f"{name}.mp4")
        (root / f"{name}_alignments.fsa").unlink()
    assert run(root, to=tmp_path / "faces") == 3
    assert "none of the 2 videos and folders of images in" in capsys.readouterr().err
    assert run(root / "a.mp4", to=tmp_path / "faces") == 3
    assert "there is no a_alignments.fsa (or .json, .p, .pickle, .yml, .yaml) beside a.mp4." in capsys.readouterr().err
    assert run(root / "c.mp4", to=tmp_path / "faces") == 3
    assert not (tmp_path / "faces").exists()


# ---- what is asked for


def test_footage_in_the_folder_of_faces_is_told_from_none(film: Maker, tmp_path: Path) -> None:
    footage = film(tmp_path / "footage" / "one.mp4").parent
    with pytest.raises(InputError, match=f"no videos are looked for in {footage}, for the faces go there"):
        batch([footage], footage, progress="none")
    with pytest.raises(InputError, match="name another --faces"):
        batch([footage], tmp_path, progress="none")


def test_wishes_that_are_refused(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, faces = film(tmp_path / "a.mp4"), tmp_path / "faces"
    for words, sentence in (
        ((), "required: PLACE"),
        ((video,), "required: -fc/--faces"),
        ((video, "-fc", faces, "--shard", "0/2"), "unrecognized arguments: --shard"),
        ((video, "-fc", "s3://bucket/faces"), "batch reads paths of this machine only"),
        (("s3://bucket/a.mp4", "-fc", faces), "batch reads paths of this machine only"),
        ((video, "-fc", faces, "--quality", 9, "--format", "png"), "png is lossless"),
        ((video, "-fc", faces, "--json", tmp_path / "a_alignments.fsa"), "the report would replace"),
    ):
        assert main(["batch", *map(str, words)]) in (2, 6)
        assert sentence in capsys.readouterr().err
    with pytest.raises(UsageError, match="batch has no option shard"):
        batch([video], faces, shard="0/2")
    with pytest.raises(UsageError, match="batch needs at least one"):
        batch([], faces)
    assert not faces.exists()


def test_a_folder_that_holds_something_is_left_alone(film: Maker, tmp_path: Path) -> None:
    for name in "abc":
        film(tmp_path / "in" / f"{name}.mp4")
    faces = tmp_path / "faces"
    assert run(tmp_path / "in" / "b.mp4", "-q", to=faces) == 0
    before = stamps(tmp_path)
    with pytest.raises(OutputError, match="faces/b holds an earlier run; add --resume to do what is left"):
        batch([tmp_path / "in"], faces)
    assert stamps(tmp_path) == before
    assert run(tmp_path / "in" / "a.mp4", "-q", to=faces) == 0, "another one beside it"


def test_flags_of_the_programs_and_a_configuration_file(film: Maker, tmp_path: Path) -> None:
    video, faces, report = film(tmp_path / "in" / "a.mp4"), tmp_path / "faces", tmp_path / "report.json"
    (video.parent / "gpu-extract.toml").write_text("extract-every-n = 2\nprocesses = 2\n")
    words = ["-r", video.parent, "-c", faces, "-z", 32, "--device", "cpu", "-q", "--json", report]
    assert main(["batch", *map(str, words)]) == 0
    settings = journal.begun(faces / "a")
    assert settings is not None
    assert (settings["size"], settings["extract_every_n"]) == (32, 2)


def test_a_dry_run_writes_nothing(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film(tmp_path / "in" / "a.mp4")
    film(tmp_path / "in" / "b.mp4").write_bytes(b"no video")
    before = stamps(tmp_path)
    assert run(tmp_path / "in", "--dry-run", to=tmp_path / "faces") == 4
    assert stamps(tmp_path) == before
    assert not (tmp_path / "faces").exists()
    said = capsys.readouterr().out.splitlines()
    assert re.search(r"1 of 2 planned \(1 refused\), 4 faces, about \d+ MB", said[-3])
    assert said[-2] == "nothing was written"
    again = said[-1].removeprefix("this does it: ")
    assert "--dry-run" not in again
    assert main(shlex.split(again)[1:]) == 4
    assert len(list((tmp_path / "faces").rglob("*.png"))) > 3


def test_names_that_are_no_text(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [os.fsdecode(b"a\xff b.mp4"), "new\nline.mp4", "-sz.mp4"]
    for name in names:
        film(tmp_path / "in" / name)
    film(tmp_path / "in" / names[1]).write_bytes(b"no video")
    report = tmp_path / "report.json"
    assert run(tmp_path / "in", "--json", report, "--progress", "plain", to=tmp_path / "faces") == 4
    assert [row["state"] for row in told(report)["videos"]] == ["done", "done", "refused"]
    said = capsys.readouterr()
    assert f"{tmp_path}/in/new\\nline.mp4: refused: " in said.err
    assert f"{tmp_path}/in/a\\udcff b.mp4" in said.out


def test_some_failures(film: Maker, shots: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film(tmp_path / "in" / "a.mp4")
    frames = shots(tmp_path / "in" / "b")
    picture = (frames / "b_1.png").read_bytes()
    (frames / "b_1.png").write_bytes(b"no picture")
    faces, report = tmp_path / "faces", tmp_path / "report.json"
    assert run(tmp_path / "in", "--json", report, to=faces) == 4
    assert states(told(report)) == {"a": "done", "b": "with failures"}
    row = told(report)["videos"][1]
    assert (row["faces"], row["faces_failed"], row["exit_code"]) == (1, 1, 4)
    assert "1 face failed: b_1.png" in row["reason"]
    assert run(tmp_path / "in", "--resume", "--partial-ok", "-q", to=faces) == 0
    (frames / "b_1.png").write_bytes(picture)
    assert run(tmp_path / "in", "--json", report, "--resume", to=faces) == 0
    assert states(told(report)) == {"a": "done before", "b": "done"}
    capsys.readouterr()
    (tmp_path / "in" / "a.mp4").write_bytes(b"no video")
    assert run(tmp_path / "in" / "a.mp4", "-q", to=tmp_path / "others") == 4
    assert capsys.readouterr().err.startswith(f"gpu-extract: {tmp_path}/in/a.mp4: ")


# ---- what is done already


@pytest.fixture(scope="session")
def cut_once(one_clip: Path, landmarks: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `in/a.mp4` and what a batch made of it in `faces`; to be copied with its times."""
    folder = tmp_path_factory.mktemp("cut")
    filmed(one_clip, landmarks, folder / "in" / "a.mp4")
    batch([folder / "in"], folder / "faces", size=48, device="cpu", progress="none")
    return folder


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("nothing", "done before"),
        ("file manager", "done before"),
        ("face deleted", "done"),
        ("face damaged", "done"),
        ("emptied", "done"),
        ("record torn", "done"),
        ("another size", "refused"),
        ("landmarks edited", "refused"),
        ("another video", "refused"),
    ],
)
def test_only_what_is_proven_is_left_out(
    cut_once: Path, tmp_path: Path, landmarks: np.ndarray, change: str, state: str
) -> None:
    shutil.copytree(cut_once, tmp_path, dirs_exist_ok=True)
    video, faces, report = tmp_path / "in" / "a.mp4", tmp_path / "faces", tmp_path / "report.json"
    alignments = tmp_path / "in" / "a_alignments.fsa"
    made = without_records(files_in(faces))
    face = faces / "a" / "a_000002_0.png"
    match change:
        case "file manager":
            (faces / "a" / ".DS_Store").write_bytes(b"x")
        case "face deleted":
            face.unlink()
        case "face damaged":
            face.write_bytes(face.read_bytes()[:-9])
        case "emptied":
            for path in (faces / "a").glob("*.png"):
                path.unlink()
        case "record torn":
            (faces / "a" / journal.DONE).write_bytes(b'{"done":')
        case "landmarks edited":
            write_pickled(alignments, {"a_000001.png": [face_entry(landmarks)]})
        case "another video":
            video.write_bytes(video.read_bytes() + bytes(9))
    size = ["-sz", 64] if change == "another size" else []
    words = [video, "--resume", "--json", report, "-q", "-fc", faces, "--device", "cpu", "-sz", 48, *size]
    assert main(["batch", *map(str, words)]) == (4 if state == "refused" else 0)
    row = told(report)["videos"][0]
    assert row["state"] == state
    if state == "refused":
        assert "this folder's run had other settings" in row["reason"]
    elif change != "face deleted":
        left = without_records(files_in(faces))
        left.pop("a/.DS_Store", None)
        assert left == made
    else:
        assert not face.exists(), "whoever deleted it meant it"
        assert main(["batch", *map(str, words), "--deleted", "restore"]) == 0
        assert without_records(files_in(faces)) == made


# ---- what ends a child, the batch, or both


@pytest.fixture
def hurt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Have the run of `b.mp4` do something first; `times(n)` tells whether it is one of its first n."""

    def make(body: str) -> None:
        (tmp_path / "hurt").mkdir()
        (tmp_path / "hurt" / "sitecustomize.py").write_text(
            "import os, signal, sys, time\n"
            "def times(n):\n"
            f"    for i in range(n):\n"
            f"        try: os.close(os.open({str(tmp_path / 'hurt')!r} + f'/{{i}}', os.O_CREAT | os.O_EXCL))\n"
            "        except FileExistsError: continue\n"
            "        return True\n"
            "    return False\n"
            "with open('/proc/self/cmdline') as file:\n"
            "    words = file.read().split('\\0')\n"
            "if any(word.endswith('b.mp4') for word in words) and 'extract' in words:\n" + body
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hurt"), prepend=os.pathsep)

    return make


def three(film: Maker, root: Path) -> Path:
    for name in "abc":
        film(root / f"{name}.mp4")
    return root


def test_a_child_that_is_killed_once_is_started_again(
    film: Maker, hurt: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, report = three(film, tmp_path / "in"), tmp_path / "report.json"
    hurt("    if times(1): os.kill(os.getpid(), signal.SIGKILL)\n")
    assert run(root, "--json", report, "--progress", "plain", to=tmp_path / "faces") == 0
    assert states(told(report)) == dict.fromkeys("abc", "done")
    assert f"{root}/b.mp4: its process was ended by signal 9; it is started again." in capsys.readouterr().err


def test_a_child_that_always_crashes_ends_no_other(film: Maker, hurt: Callable[[str], None], tmp_path: Path) -> None:
    root, report = three(film, tmp_path / "in"), tmp_path / "report.json"
    hurt("    os.kill(os.getpid(), signal.SIGSEGV)\n")
    assert run(root, "--json", report, "-q", to=tmp_path / "faces") == 4
    assert states(told(report)) == {"a": "done", "b": "refused", "c": "done"}
    row = told(report)["videos"][1]
    assert (row["reason"], row["exit_code"]) == ("its process was ended by signal 11, 2 times.", -signal.SIGSEGV)


def test_a_full_disk_ends_the_night(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, report = three(film, tmp_path / "in"), tmp_path / "report.json"
    with tmpfs_at(tmp_path / "small", 12) as disk:
        assert run(root, "--json", report, to=disk.folder / "faces") == 6
        assert states(told(report)) == {"a": "refused", "b": "not begun", "c": "not begun"}
        assert (
            "takes no more files (no space left on device). When that is solved, this goes on: "
            in (capsys.readouterr().out.splitlines()[-1])
        )
        disk.grow(4096)
        assert run(root, "--json", report, "--resume", "-q", to=disk.folder / "faces") == 0
        assert states(told(report)) == dict.fromkeys("abc", "done")


def test_one_folder_that_cannot_be_written_ends_no_other(film: Maker, tmp_path: Path) -> None:
    root, report = three(film, tmp_path / "in"), tmp_path / "report.json"
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a").write_bytes(b"a file")
    assert run(root, "--json", report, "-q", to=tmp_path / "faces") == 4
    assert states(told(report)) == {"a": "refused", "b": "done", "c": "done"}


SLOW = """\
    if times(1):
        def linger(frame, event, _):
            if event == 'call' and frame.f_code.co_name == 'settle' and frame.f_code.co_filename.endswith('opened.py'):
                sys.setprofile(None)
                times(2)
                time.sleep(2)
        sys.setprofile(linger)
"""
"""A run that lingers when its frames are cut and nothing is saved yet."""


def elsewhere(*words: object) -> subprocess.Popen[str]:
    """A batch in a process of its own."""
    command = [sys.executable, "-m", "gpu_extract", "batch", *map(str, words), "-sz", "48", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children_of(faces: Path) -> list[int]:
    """Processes, of whoever, that name something in this folder on their command line as theirs."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdecimal() and int(path.name) != os.getpid():
            try:
                words = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(faces) + b"/" in words and b"\0extract\0" in words:
                found.append(int(path.name))
    return found


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def test_a_batch_that_is_killed_leaves_nobody_behind_and_is_resumed(
    film: Maker, hurt: Callable[[str], None], tmp_path: Path
) -> None:
    root, faces, report = three(film, tmp_path / "in"), tmp_path / "faces", tmp_path / "report.json"
    hurt(SLOW)
    process = elsewhere(root, "-fc", faces)
    wait_for(lambda: (faces / "a" / journal.DONE).exists() and (tmp_path / "hurt" / "1").exists())
    before = stamps(faces / "a")
    assert children_of(faces)
    process.kill()
    process.communicate()
    wait_for(lambda: not children_of(faces))
    assert run(root, "--resume", "--json", report, "-q", to=faces) == 0
    assert states(told(report)) == {"a": "done before", "b": "done", "c": "done"}
    assert stamps(faces / "a") == before


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_in_good_order(
    film: Maker, hurt: Callable[[str], None], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    root, faces, report = three(film, tmp_path / "in"), tmp_path / "faces", tmp_path / "report.json"
    hurt(SLOW)
    process = elsewhere(root, "-fc", faces, "--json", report)
    wait_for(lambda: (faces / "a" / journal.DONE).exists() and (tmp_path / "hurt" / "1").exists())
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code
    assert not children_of(faces)
    assert states(told(report)) == {"a": "done", "b": "interrupted", "c": "not begun"}
    assert out.splitlines()[-1].startswith("interrupted; this goes on: gpu-extract batch ")
    assert run(root, "--resume", "--json", report, "-q", to=faces) == 0
    assert states(told(report)) == {"a": "done before", "b": "done", "c": "done"}


def test_a_run_that_is_cut_in_the_middle_goes_on_there(film: Maker, tmp_path: Path) -> None:
    """By whatever: its journal is that of any run."""
    root, faces = three(film, tmp_path / "in"), tmp_path / "faces"
    command = extract_command(root / "b_alignments.fsa", root / "b.mp4", faces / "b", "-sz", "48")
    environment = os.environ | {"STOP_AFTER": "2", "STOP_BY": "SIGKILL"}
    subprocess.run([sys.executable, "-c", STOPS_ITSELF, *command], env=environment, check=False)
    before = stamps(faces / "b")
    assert run(root, "--resume", "-q", to=faces) == 0
    assert len(list((faces / "b").glob("*.png"))) == FRAMES
    kept = [path for path, at in stamps(faces / "b").items() if path.endswith(".png") and before.get(path) == at]
    assert len(kept) == 2


def test_a_host_program_hears_counts_and_may_cancel(film: Maker, tmp_path: Path) -> None:
    root, events, cancel = three(film, tmp_path / "in"), [], threading.Event()

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, Counted) and event.videos == 1:
            cancel.set()

    report = batch([root], tmp_path / "faces", size=48, device="cpu", progress=listen, cancel=cancel)
    assert report.exit_code == 130
    assert report.videos[0].state == "done"
    assert report.videos[2].state == "not begun"
    assert isinstance(events[-1], Finished)
    cancel.clear()
    events.clear()
    report = batch([root], tmp_path / "faces", size=48, device="cpu", resume=True, progress=listen)
    assert (report.exit_code, report.videos_done, report.faces) == (0, 3, 3 * FRAMES)
    last = [event for event in events if isinstance(event, Counted)][-1]
    assert (last.videos, last.of_videos) == (3, 3)
    assert last.frames == last.of_frames
    assert not any(isinstance(event, Note) for event in events)


def test_programs_hear_counts_as_json(film: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(film(tmp_path / "in" / "a.mp4"), "--progress", "jsonl", to=tmp_path / "faces") == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[-1] == {
        "frames": FRAMES,
        "of": FRAMES,
        "faces": FRAMES,
        "left": 0.0,
        "videos": 1,
        "of_videos": 1,
    }


def test_the_command_at_the_end_says_what_was_asked(
    film: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "-a b.mp4").write_bytes(b"no video")
    film(tmp_path / "c.mp4")
    report = batch(["-a b.mp4", "c.mp4"], "my faces", size=48, device="cpu", align_eyes=True, progress="none")
    assert report.next == (
        "gpu-extract batch --faces 'my faces' --size 48 --align-eyes --device cpu --resume --progress none -- "
        "'-a b.mp4' c.mp4"
    )
    assert main(shlex.split(report.next)[1:]) == 4
    many = batch(["c.mp4", "-a b.mp4"] * 10, "my faces", size=48, device="cpu", align_eyes=True, resume=True)
    assert many.next == "the same command with --resume"
    planned = batch(["c.mp4", "-a b.mp4"] * 10, "my faces", size=48, device="cpu", align_eyes=True, dry_run=True)
    assert planned.next == "the same command without --dry-run"
    assert [row.state for row in many.videos] == ["done before", "refused"]


def test_a_report_of_another_kind_is_replaced_and_a_letter_is_not(cut_once: Path, tmp_path: Path) -> None:
    shutil.copytree(cut_once, tmp_path, dirs_exist_ok=True)
    video, report = tmp_path / "in" / "a.mp4", tmp_path / "report.json"
    assert main(["check", "-fr", str(video), "--json", str(report), "-q"]) == 0
    assert run(video, "--resume", "--json", report, "-q", to=tmp_path / "faces") == 0
    assert states(told(report)) == {"a": "done before"}
    report.write_text("a letter")
    assert run(video, "--resume", "--json", report, "-q", to=tmp_path / "faces") == 6
    assert report.read_text() == "a letter"


def test_columns_stand_below_each_other_whatever_letters_names_have() -> None:
    names = ["plain.mp4", "東京.mp4", "e\u0301te\u0301.mp4", "two\nlines.mp4"]
    report = BatchReport([Row(name, None, "faces", state=DONE, faces=7) for name in names])
    lines = report.table().splitlines()[1:5]
    assert [line[: line.index("done")].rstrip() for line in lines] == [
        *("plain.mp4", "東京.mp4", "e\u0301te\u0301.mp4", "two\\nlines.mp4")
    ]
    shown = [line.replace("\u0301", "").replace("東", "..").replace("京", "..") for line in lines]
    assert len({line.index("done") for line in shown}) == 1
    assert len({len(line) for line in shown}) == 1


def test_what_is_to_be_said_of_several_videos_alike_is_said_once() -> None:
    rows = [Row(f"{i}.mp4", None, "faces", state=DONE, faces=7, notes=["numbered so"]) for i in range(3)]
    rows[1].notes += ["a second track"]
    rows[2].state, rows[2].reason = REFUSED, "it is no video."
    lines = BatchReport(rows, notes=["left out"]).table().splitlines()
    assert [line.strip() for line in lines if "mp4" not in line][1:-2] == [
        "a second track",
        "it is no video.",
        "note    left out",
        "note    of 3 videos: numbered so",
    ]


def test_a_quiet_batch_names_the_first_that_went_wrong_and_counts_the_others() -> None:
    rows = [Row(f"{i}.mp4", None, "faces", state=REFUSED, reason="it is no video.") for i in range(3)]
    assert BatchReport(rows[:1]).first_failure() == "0.mp4: it is no video."
    assert BatchReport(rows[:2]).first_failure() == "0.mp4: it is no video. 1 more video went wrong, too."
    assert BatchReport(rows).first_failure() == "0.mp4: it is no video. 2 more videos went wrong, too."
