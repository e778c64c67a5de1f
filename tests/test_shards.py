"""A run in shards, merged, is the run undivided: to the byte, in any order, after any death."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.frames import open_frames
from gpu_extract.jobs.merge import merge
from gpu_extract.run import journal, shards
from gpu_extract.run.journal import Journal
from gpu_extract.run.plan import PlanOptions, make_plan
from gpu_extract.run.shards import Shard, cuts, part_of
from tests.helpers import (
    Job,
    copied,
    face_entry,
    files_in,
    fsa_root,
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
            (frames / "clip_000020.png").write_bytes(b"no picture")
            extension = ".png"
        else:
            frames = video(tmp_path, kind)
            extension = ".png" if generation == "old" else frames.suffix
        entries: dict[str, Any] = {}
        for number in range(FRAMES):
            if number % 7 == 5:
                continue
            points = [(small + (number % 5, k * 9)).astype(np.float32) for k in range(1 + number % 2)]
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
        self.job = Job(root / "a.fsa", whole.frames, *whole.options) if False else self._copy(root)

    def _copy(self, root: Path) -> Job:
        (root / "a.fsa").write_bytes(self.whole.before)
        return Job(root / "a.fsa", self.whole.frames, *self.whole.options)

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


@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("kind", [*KINDS, "damaged", "damaged elsewhere"])
def test_merged_is_undivided(kind: str, generation: str, job: Callable[..., Job]) -> None:
    whole = job(kind, "--metadata", "jsonl", generation=generation)
    code = whole.run()
    for count in COUNTS if kind in ("open", "folder") else COUNTS[1:4]:
        divided = Divided(whole, count)
        order = list(range(count))
        random.Random(count).shuffle(order)
        for number in order:
            assert divided.cut(number) in (0, 4)
        again = divided.merge()
        while missing := divided.job.report["shards_missing"]:
            assert kind.startswith("damaged")
            for name in missing:
                assert divided.cut(int(name.partition("/")[0]), "--resume") in (0, 4)
            again = divided.merge()
        assert again == code
        divided.assert_whole()
