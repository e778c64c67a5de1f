"""Folders of at most 10,000 entries, for jobs whose faces one folder would not bear.

    up to 10,000 faces     <frame>_<index>.png
    more                   <position // 10,000>/<frame>/<frame>_<index>.png
    a frame of more        <position // 10,000>/<frame>/<index // 10,000>/<frame>_<index>.png

Frames are grouped by their position in the source, not by how many were cut: where a face lies does not depend on the
other faces, so that runs with other filters, and resumed ones, put it in the same place.
"""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np

from gpu_extract.face_files.layout import Layout, Sidecar
from gpu_extract.naming import stem_of
from gpu_extract.storage.parts import check_name, write_file
from gpu_extract.tasks import FrameTask

MAX_ENTRIES = 10_000


class ByFrame(Layout):
    def __init__(self, folder: Path, positions: np.ndarray, face_count: int, archive_prefix: str = "") -> None:
        super().__init__(folder, positions, face_count)
        self._nested = face_count > MAX_ENTRIES
        self._made: set[str] = set()

    def place(self, task: FrameTask, k: int, name: str) -> str:
        check_name(name)
        return f"{self._folder_of(task, k)}/{name}" if self._nested else name

    def store(self, task: FrameTask, k: int, name: str, data: bytes, sidecar: Sidecar) -> str:
        if not self._nested:
            write_file(self._folder, name, data)
            return name
        inside = self._folder_of(task, k)
        self._make(inside)
        write_file(self._folder / inside, name, data)
        return f"{inside}/{name}"

    def inside(self, task: FrameTask) -> str | None:
        if not self._nested:
            return ""
        if int(task.index.max()) >= MAX_ENTRIES:
            return None
        inside = self._folder_of(task, 0)
        self._make(inside)
        return f"{inside}/"

    def _make(self, inside: str) -> None:
        if inside not in self._made:
            (self._folder / inside).mkdir(parents=True, exist_ok=True)
            self._made.add(inside)

    def _folder_of(self, task: FrameTask, k: int) -> str:
        stem = stem_of(task.name)
        if stem in (".", "..", "") or "/" in stem or "\0" in stem:
            raise OSError(errno.EINVAL, "the frame's name is no name of a folder")
        inside = f"{task.position // MAX_ENTRIES:05d}/{stem}"
        if int(task.index.max()) >= MAX_ENTRIES:
            inside += f"/{task.index[k] // MAX_ENTRIES:03d}"
        return inside


LAYOUT = ByFrame
