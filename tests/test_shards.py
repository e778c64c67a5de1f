"""A run in shards, merged, is the run undivided: to the byte, in any order, after any death."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.face_files.layouts import by_frame, webdataset
from gpu_extract.frames import open_frames
from gpu_extract.frames.sources import video as sources_video
from gpu_extract.run import journal
from gpu_extract.run.journal import Journal
from gpu_extract.run.plan import PlanOptions, make_plan
from gpu_extract.run.shard import Shard
from gpu_extract.run.shards import cuts, part_of
from tests.helpers import (
    STOPS_ITSELF,
    Job,
    face_entry,
    files_in,
    image_bytes,
    noise,
    picture,
    write_clip,
    write_frames,
    write_pickled,
)

COUNTS = (1, 2, 3, 7, 64)
FRAMES = 45
SIZE = (76, 90)
OPEN = {"g": "10", "bf": "3", "x264_params": "open-gop=1:keyint=10:min-keyint=4:scenecut=0:b-adapt=0"}


def video(folder: Path, kind: str) -> Path:
    match kind:
        case "constant":
            return write_clip(folder / "clip.mp4", FRAMES, SIZE, options={"g": "9", "bf": "0"})
        case "b-frames":
            return write_clip(folder / "clip.mkv", FRAMES, SIZE, options={"g": "12", "bf": "3", "b_pyramid": "2"})
        case "open":
            return write_clip(folder / "clip.mp4", FRAMES, SIZE, options=OPEN)
        case "one group":
            return write_clip(folder / "clip.mp4", FRAMES, SIZE, options={"g": "1000"})
        case "transport":
            return write_clip(folder / "clip.ts", FRAMES, SIZE, options={"g": "9"})
        case "no index":
            return write_clip(folder / "clip.avi", FRAMES, SIZE, codec="mpeg4", options={"g": "9"})
        case "variable":
            times = np.cumsum(np.random.default_rng(3).integers(5, 110, FRAMES))
            frames = ((picture(number, *SIZE), int(time)) for number, time in enumerate(times))
            return write_frames(folder / "clip.mkv", frames, options={"g": "8"}, fine_times=True)
        case _:
            path = write_clip(folder / "clip.mkv", FRAMES, SIZE, options={"g": "6", "bf": "2"})
            data = bytearray(path.read_bytes())
            where = len(data) * 2 // 5
            data[where : where + 300] = random.Random(kind).randbytes(300)
            path.write_bytes(data)
            return path


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    """A job over a clip of some kind, or a folder of images; one or two faces a frame, of every frame but a few."""
    small = (landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)

    def make(kind: str, *options: str, generation: str = "old") -> Job:
        if kind == "folder":
            frames = tmp_path / "frames"
            frames.mkdir()
            for number in range(FRAMES):
                (frames / f"clip_{number + 1:06d}.png").write_bytes(image_bytes(".png", noise(*SIZE, seed=number)))
            (frames / "clip_000021.png").write_bytes(b"no picture")
            extension = ".png"
        else:
            frames = video(tmp_path, kind)
            extension = ".png" if generation == "old" else frames.suffix
        entries: dict[str, Any] = {}
        for number in range(FRAMES):
            if number % 7 == 5:
                continue
            points = [(small + np.array([number % 5, k * 9])).astype(np.float32) for k in range(1 + number % 2)]
            key = f"clip_{number + 1:06d}{extension}"
            if generation == "old":
                entries[key] = [face_entry(face) for face in points]
            else:
                faces = [
                    {
                        "x": 1,
                        "y": 2,
                        "w": 3,
                        "h": 4,
                        "landmarks_xy": face.tolist(),
                        "mask": {},
                        "identity": {},
                        "thumb": None,
                    }
                    for face in points
                ]
                entries[key] = {"faces": faces, "video_meta": {}}
        root = entries if generation == "old" else {"__meta__": {"version": 2.4}, "__data__": entries}
        return Job(write_pickled(tmp_path / "whole" / "a.fsa", root), frames, "-sz", "48", *options)

    (tmp_path / "whole").mkdir()
    return make


class Divided:
    """The same job in shards, in a folder of its own."""

    def __init__(self, whole: Job, count: int) -> None:
        self.whole, self.count = whole, count
        root = whole.root.with_name(f"in {count}")
        root.mkdir()
        (root / "a.fsa").write_bytes(whole.before)
        self.job = Job(root / "a.fsa", whole.frames, *whole.options)

    def cut(self, number: int, *options: str) -> int:
        return self.job.run("--shard", f"{number}/{self.count}", *options)

    def merge(self) -> int:
        job = self.job
        paths = ["-a", str(job.alignments), "-fr", str(job.frames), "-fc", str(job.faces)]
        return main(["merge", *paths, "--json", str(job.json), "--progress", "none", "--device", "cpu"])

    def missing(self) -> list[str]:
        assert self.merge() == 4
        found: list[str] = self.job.report["shards_missing"]
        return found

    def assert_whole(self) -> None:
        assert self.job.files() == self.whole.files()
        assert self.job.alignments.read_bytes() == self.whole.alignments.read_bytes()
        ours, theirs = self.job.report, self.whole.report
        for name in ("errors", "faces_written", "faces_failed", "frames_expected", "faces_filtered", "exit_code"):
            assert ours[name] == theirs[name], name
        assert journal.names(self.job.faces) == [journal.NAME]


KINDS = ("constant", "b-frames", "open", "one group", "transport", "no index", "variable", "folder")
ALL_KINDS = pytest.mark.parametrize("kind", [*KINDS, "damaged", "damaged elsewhere"])
GENERATIONS = pytest.mark.parametrize("generation", ["old", "new"])


@GENERATIONS
@ALL_KINDS
def test_merged_is_undivided(
    kind: str, generation: str, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind in two counts, a folder in all but the highest, and open groups in every one."""
    counts = {("open", "new"): COUNTS, ("folder", "old"): COUNTS[:-1]}.get((kind, generation), (2, 7))
    cut_and_merge(kind, generation, counts, job, monkeypatch)


@pytest.mark.slow
@GENERATIONS
@ALL_KINDS
def test_merged_is_undivided_in_every_count(
    kind: str, generation: str, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_and_merge(kind, generation, COUNTS, job, monkeypatch)


def cut_and_merge(
    kind: str, generation: str, counts: Sequence[int], job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind.startswith("damaged"):
        monkeypatch.setattr(sources_video, "_decoder_threads", lambda _: 1)  # with more, it is chance what is noticed
    whole = job(kind, "--metadata", "jsonl", generation=generation)
    code = whole.run()
    for count in counts:
        divided = Divided(whole, count)
        order = list(range(count))
        random.Random(count).shuffle(order)
        for number in order:
            assert divided.cut(number) in (0, 4)
        again = divided.merge()
        for _ in range(2):
            missing = divided.job.report["shards_missing"]
            assert not missing or kind.startswith("damaged")
            for name in missing:
                assert divided.cut(int(name.partition("/")[0]), "--resume") in (0, 4)
            again = divided.merge() if missing else again
        assert again == code
        divided.assert_whole()


def test_shards_of_one_run_share_the_work(job: Callable[..., Job]) -> None:
    """Every frame is in one shard; where the video has groups, none is read in two."""
    whole = job("constant")
    alignments = Alignments.load(whole.alignments)
    with open_frames(whole.frames, timing="constant") as source:
        plan = make_plan(alignments, source, PlanOptions(size=48))
        reading = source.reading(plan.positions)
        assert reading.skips
        assert plan.positions[reading.begins].tolist() == [0, 9, 18, 27, 36]
        assert reading.cost.sum() == FRAMES - 1, "frame 26, the last of a group, is not wanted"
        for count in COUNTS:
            bounds = cuts(plan, source, count)
            assert bounds[0] == 0
            assert bounds[-1] == plan.frame_count
            assert (np.diff(bounds) >= 0).all()
            parts = [part_of(plan, source, Shard(number, count)).positions for number in range(count)]
            assert np.concatenate(parts).tolist() == plan.positions.tolist()
            if count in (2, 3):
                assert reading.begins[bounds[1:-1]].all()
                assert np.diff(bounds).max() < 2 * plan.frame_count / count


def test_where_nothing_can_be_passed_over(job: Callable[..., Job]) -> None:
    whole = job("no index")
    with open_frames(whole.frames, timing="constant") as source:
        reading = source.reading(np.array([3, 4, 9]))
    assert not reading.skips
    assert reading.cost.tolist() == [4, 1, 5]


@pytest.mark.parametrize("text", ["3/3", "-1/2", "1", "1/0", "a/2", "1/2/3", "0/100001", ""])
def test_a_shard_that_is_none(text: str, job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    assert job("folder").run(f"--shard={text}") == 2
    assert "shard must be I/N" in capsys.readouterr().err


def test_who_may_write_into_the_folder(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    divided = Divided(job("folder"), 3)

    def refused(*options: str) -> str:
        before = files_in(divided.job.faces)
        assert divided.job.run(*options) == 6
        assert files_in(divided.job.faces) == before
        return capsys.readouterr().err

    assert divided.cut(1) in (0, 4)
    assert "holds an earlier try of shard 1/3; add --resume" in refused("--shard", "1/3")
    assert "holds a shard of 3, and this is 1/4" in refused("--shard", "1/4")
    assert "holds shards of a run (1 of 3)" in refused()
    images = sorted(divided.job.faces.glob("*.png"))
    assert divided.cut(1, "--resume") in (0, 4)
    assert sorted(divided.job.faces.glob("*.png")) == images
    assert divided.job.run("--resume") == 4  # takes the shard over and goes on alone
    assert journal.names(divided.job.faces) == [journal.NAME]
    assert "holds a run that is not divided" in refused("--shard", "0/3")
    assert divided.whole.run() == 4
    divided.assert_whole()


def test_what_is_missing_is_named_and_nothing_changed(job: Callable[..., Job]) -> None:
    divided = Divided(job("constant", "--metadata", "jsonl"), 3)
    assert divided.whole.run() == 0
    assert divided.cut(0) == 0
    assert divided.missing() == ["1/3", "2/3"]
    assert divided.cut(2) == 0
    assert divided.missing() == ["1/3"]
    assert divided.job.alignments.read_bytes() == divided.job.before
    assert not (divided.job.faces / "faces.jsonl").exists()
    assert journal.NAME not in [path.name for path in divided.job.faces.iterdir()]
    assert divided.cut(1) == 0
    assert divided.merge() == 0
    divided.assert_whole()


def test_the_next_command_cuts_what_is_missing_and_makes_one_run(job: Callable[..., Job]) -> None:
    divided = Divided(job("constant", "--metadata", "jsonl"), 3)
    assert divided.whole.run() == 0
    assert divided.cut(0) == divided.cut(2) == 0
    assert divided.missing() == ["1/3"]
    report = divided.job.report
    assert report["next"].endswith(" --resume")
    assert main(shlex.split(report["next"])[1:]) == 0
    assert divided.job.files() == divided.whole.files()
    assert divided.job.alignments.read_bytes() == divided.whole.alignments.read_bytes()
    assert journal.names(divided.job.faces) == [journal.NAME]


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_file_that_is_not_as_its_receipt_says(damage: str, job: Callable[..., Job]) -> None:
    divided = Divided(job("constant"), 3)
    assert divided.whole.run() == 0
    for number in range(3):
        assert divided.cut(number) == 0
    victim = divided.job.faces / "clip_000045_0.png"
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:100])
    assert divided.missing() == ["2/3"]
    assert divided.cut(2, "--resume", "--deleted", "restore") == 0
    assert divided.merge() == 0
    divided.assert_whole()


def test_what_was_deleted_and_how_it_comes_back(job: Callable[..., Job]) -> None:
    divided = Divided(job("constant"), 2)
    assert divided.whole.run() == 0
    assert divided.cut(0) == divided.cut(1) == 0
    (divided.job.faces / "clip_000001_0.png").unlink()
    for _ in range(2):
        assert divided.missing() == ["0/2"]
        assert "gone from the folder: 1 face (clip_000001_0.png); beside --resume" in divided.job.report["notes"][0]
        assert divided.cut(0, "--resume") == 0  # leaves it out, as a run that is not divided does
    assert divided.cut(0, "--resume", "--deleted", "restore") == 0
    assert divided.merge() == 0
    divided.assert_whole()


def test_names_that_are_no_receipts(job: Callable[..., Job]) -> None:
    divided = Divided(job("constant"), 2)
    assert divided.whole.run() == 0
    assert divided.cut(0) == divided.cut(1) == 0
    others = [
        divided.job.faces / f"{journal.NAME}.{end}" for end in ("0-of-99999999999", "00-of-2", "5-of-2", "0-of-0")
    ]
    for path in others:
        path.write_bytes(b"")
    assert divided.merge() == 0
    for path in others:
        path.unlink()  # merge leaves them alone
    divided.assert_whole()


def test_a_disk_that_folds_case(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, landmarks: np.ndarray
) -> None:
    """What it cannot hold has failed, in the shards as in one run."""
    monkeypatch.setattr(Journal, "folds_case", lambda _: True)
    whole = job("folder")
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    for name in ("Clip_000001.png", "Clip_000044.png"):
        (whole.frames / name).write_bytes(image_bytes(".png", noise(*SIZE, seed=99)))
    names = [path.name for path in whole.frames.iterdir()]
    whole = Job(write_pickled(tmp_path / "whole" / "b.fsa", {n: [face_entry(small)] for n in names}), whole.frames)
    divided = Divided(whole, 3)
    assert whole.run() == 4
    for number in range(3):
        assert divided.cut(number) in (0, 4)
    assert divided.merge() == 4
    divided.assert_whole()


def test_merging_what_was_not_divided(job: Callable[..., Job]) -> None:
    made = Divided(job("folder"), 1)
    assert made.job.run("--on-error", "stop") == 4
    assert made.missing() == []
    assert "extract --resume continues it" in made.job.report["notes"][-1]


def test_a_merge_that_was_killed_at_its_journal(job: Callable[..., Job]) -> None:
    """What it had begun to write is cleared away by the next."""
    divided = Divided(job("folder"), 1)
    assert divided.whole.run() == divided.cut(0) == 4
    begun = divided.job.faces / f".{journal.NAME}.123-0123abcd.tmp"
    begun.write_bytes(b"half")
    assert divided.merge() == 4
    assert not begun.exists()


def test_twice_is_once(job: Callable[..., Job]) -> None:
    """Also where a merge was killed between its journal and the end of the receipts."""
    divided = Divided(job("folder"), 2)
    assert divided.whole.run() == 4
    kept: dict[str, bytes] = {}
    for number in range(2):
        divided.cut(number)
        kept |= {path.name: path.read_bytes() for path in divided.job.faces.glob(f"{journal.NAME}.*")}
    assert divided.merge() == 4
    divided.assert_whole()
    first = divided.job.report
    copies = len(list(divided.job.root.glob("a_*.fsa")))
    for receipts in ({}, kept):
        for name, data in receipts.items():
            (divided.job.faces / name).write_bytes(data)
        assert divided.merge() == 4
        divided.assert_whole()
        assert divided.job.report["errors"] == first["errors"]
        assert len(list(divided.job.root.glob("a_*.fsa"))) == copies, "nothing was left to save"


def test_shards_of_another_run_are_refused(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    divided = Divided(job("folder"), 2)
    divided.cut(0)
    assert divided.job.run("--shard", "1/2", "-sz", "64") in (0, 4)
    capsys.readouterr()
    assert divided.merge() == 2
    assert "size was" in capsys.readouterr().err
    assert not journal.exists(divided.job.faces)


def test_verify_knows_a_run_in_shards(job: Callable[..., Job]) -> None:
    divided = Divided(job("constant"), 3)
    for number in range(3):
        divided.cut(number)
    made = divided.job
    paths = ["-a", str(made.alignments), "-fr", str(made.frames), "-fc", str(made.faces), "--json", str(made.json)]
    assert main(["verify", *paths, "-q"]) == 0
    assert made.report["settings_from"] == "the folder's journal"
    assert made.report["counts"]["extra"] == 0


def test_nested_folders_are_those_of_the_whole_run(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 20)
    divided = Divided(job("constant", "--output-layout", "by-frame"), 4)
    assert divided.whole.run() == 0
    for number in (3, 1, 0, 2):
        assert divided.cut(number) == 0
    assert divided.merge() == 0
    assert any("/" in name for name in divided.job.files())
    divided.assert_whole()


def test_tars_are_numbered_in_each_shard(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_SAMPLES", 10)
    divided = Divided(job("constant", "--output-layout", "webdataset"), 3)
    assert divided.whole.run() == 0
    for number in (2, 0, 1):
        assert divided.cut(number) == 0
    assert divided.merge() == 0
    made = divided.job
    assert made.alignments.read_bytes() == divided.whole.alignments.read_bytes()
    names = sorted(path.name for path in made.faces.glob("*.tar"))
    assert {name[:6] for name in names} == {"00000-", "00001-", "00002-"}
    assert len(names) > 3

    def samples(folder: Path) -> dict[str, bytes]:
        found = {}
        for path in folder.glob("*.tar"):
            with tarfile.open(path) as tar:
                for member in tar:
                    data = tar.extractfile(member)
                    assert data is not None
                    found[member.name] = data.read()
        return found

    assert samples(made.faces) == samples(divided.whole.faces)
    before = made.files()
    assert made.run("--resume") == 0
    assert made.files() == before
    paths = ["-a", str(made.alignments), "-fr", str(made.frames), "-fc", str(made.faces)]
    assert main(["verify", *paths, "-q"]) == 0


def test_shards_at_once_of_which_some_are_killed(job: Callable[..., Job]) -> None:
    divided = Divided(job("open"), 3)
    assert divided.whole.run() == 0
    generator = random.Random(5)
    for _ in range(2):
        crew = []
        for number in generator.sample(range(3), 3):
            command = [sys.executable, "-c", STOPS_ITSELF, *divided.job.command("--shard", f"{number}/3", "--resume")]
            environment = os.environ | {"STOP_AFTER": str(generator.randrange(2, 20)), "STOP_BY": "SIGKILL"}
            command[command.index("--json") + 1] = str(divided.job.root / f"report {number}.json")
            crew.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        for process in crew:
            process.wait()
    divided.merge()
    for name in divided.job.report["shards_missing"]:
        assert divided.cut(int(name[0]), "--resume") == 0
    assert divided.merge() == 0
    divided.assert_whole()


def test_a_shard_that_is_being_cut_is_left_alone(job: Callable[..., Job], capsys: pytest.CaptureFixture[str]) -> None:
    divided = Divided(job("folder"), 2)
    divided.cut(0)
    fingerprint = journal.begun(divided.job.faces)
    assert fingerprint is not None
    with contextlib.closing(Journal.resume(divided.job.faces, fingerprint, Shard(0, 2))):
        capsys.readouterr()
        for run in (divided.merge, lambda: divided.job.run("--resume"), lambda: divided.cut(0, "--resume")):
            assert run() == 6
            assert "shard 0/2 is being cut" in capsys.readouterr().err
    assert divided.cut(1) in (0, 4)
    assert divided.merge() == 4
