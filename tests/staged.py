"""A small job and the places that its inputs and results may lie in, for tests of buckets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpu_extract
from gpu_extract.jobs.merge import merge
from gpu_extract.jobs.runs import outbox
from gpu_extract.run import journal
from gpu_extract.run.journal import Told
from tests.helpers import face_entry, files_in, image_bytes, noise, write_clip, write_pickled

FRAMES, SIZE = 12, (76, 90)
OPTIONS: dict[str, Any] = {"size": 32, "device": "cpu", "progress": "none"}


class Place:
    """A bucket, or a folder in its stead."""

    def __init__(self, root: str, below: Callable[[str], dict[str, bytes]], put: Callable[[str, bytes], None]) -> None:
        self.root, self._below, self.put = root, below, put

    def url(self, name: str) -> str:
        return f"{self.root}/{name}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        return self._below(prefix)

    def faces(self, prefix: str) -> dict[str, bytes]:
        """All but journals and the object that says whose run it is."""
        return {name: data for name, data in self.objects(prefix).items() if not name.startswith(outbox.OWN)}

    def told(self, prefix: str, name: str = journal.NAME) -> Told:
        told = Told.by(self.objects(prefix)[name])
        assert told is not None
        return told


class Whole:
    """The job on the disk, whose results all others are compared with."""

    def __init__(self, folder: Path, alignments: Path, frames: Path) -> None:
        self.folder, self.alignments, self.frames = folder, alignments, frames
        self.before = alignments.read_bytes()
        self.after = b""
        self.files: dict[str, bytes] = {}
        self.settings: dict[str, Any] = {**OPTIONS}

    def run(self, **options: Any) -> None:
        self.settings |= options
        report = gpu_extract.extract(self.alignments, self.frames, self.folder / "faces", **self.settings)
        assert report.exit_code == 0
        self.files, self.after = files_in(self.folder / "faces"), self.alignments.read_bytes()

    def put_into(self, place: Place) -> None:
        place.put("in/a.fsa", self.before)
        for path in [self.frames] if self.frames.is_file() else self.frames.iterdir():
            place.put(f"in/{path.relative_to(self.frames.parent)}", path.read_bytes())


def make_job(folder: Path, landmarks: np.ndarray, kind: str = "video", name: str = "clip", **options: Any) -> Whole:
    """A job of a few frames, one or two faces each, done on the disk."""
    small = (landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)
    folder.mkdir()
    if kind == "video":
        frames = write_clip(folder / f"{name}.mp4", FRAMES, SIZE, options={"g": "3", "bf": "0"})
    else:
        frames = folder / "frames"
        frames.mkdir()
        for number in range(FRAMES):
            path = frames / f"{name}_{number + 1:06d}.png"
            path.write_bytes(image_bytes(".png", noise(*SIZE, seed=number)))
    entries = {
        f"{name}_{number + 1:06d}.png": [
            face_entry((small + np.array([number % 5, k * 9])).astype(np.float32)) for k in range(1 + number % 2)
        ]
        for number in range(FRAMES)
    }
    whole = Whole(folder, write_pickled(folder / "a.fsa", entries), frames)
    whole.run(**options)
    return whole


def files_in_all(folder: Path) -> dict[str, bytes]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def run(whole: Whole, place: Place, faces: str = "faces", **options: Any) -> gpu_extract.Report:
    frames = place.url(f"in/{whole.frames.name}")
    return gpu_extract.extract(
        place.url("in/a.fsa"), frames, place.url(faces), **{**whole.settings, "json": None, **options}
    )


def merged(whole: Whole, place: Place, faces: str = "faces", **options: Any) -> gpu_extract.Report:
    frames = place.url(f"in/{whole.frames.name}")
    return merge(place.url("in/a.fsa"), frames, place.url(faces), device="cpu", progress="none", **options)


def assert_same(place: Place, whole: Whole, faces: str = "faces") -> None:
    """The bucket holds what the disk does: faces, what lies beside them, the alignments file, and a copy of the old."""
    assert place.faces(faces) == whole.files
    inside = place.objects("in")
    assert inside["a.fsa"] == whole.after
    copies = [data for name, data in inside.items() if name.startswith("a_")]
    assert copies
    assert all(data == whole.before for data in copies)
    there = place.told(faces)
    here = Told.by((whole.folder / "faces" / journal.NAME).read_bytes())
    assert here is not None
    assert there.covers(here) or whole.settings.get("output_layout") == "webdataset"
    assert not [name for name in place.objects(faces) if journal.shard_of(name)]
    assert not [name for name in place.objects(faces) if "probe" in name]
