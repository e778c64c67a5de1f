"""All faces in one folder, under the names that the reference gives them."""

from __future__ import annotations

from gpu_extract.face_files.layout import Layout, Sidecar
from gpu_extract.storage.parts import check_name, write_file
from gpu_extract.tasks import FrameTask


class Flat(Layout):
    def place(self, task: FrameTask, k: int, name: str) -> str:
        check_name(name)
        return name

    def inside(self, task: FrameTask) -> str:
        return ""

    def store(self, task: FrameTask, k: int, name: str, data: bytes, sidecar: Sidecar) -> str:
        write_file(self._folder, name, data)
        return name


LAYOUT = Flat
