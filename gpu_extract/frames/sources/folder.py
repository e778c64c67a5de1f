"""A folder of images as frames, by full name, code point by code point (docs/formats.md#images)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.errors import InputError
from gpu_extract.frames.base import Frame, FrameFailure, FrameSource, SourceOptions, check_wanted
from gpu_extract.frames.memory import keep_freed_memory
from gpu_extract.naming import IMAGE_EXTENSIONS, has_extension
from gpu_extract.patch import Patch, Region

if TYPE_CHECKING:
    from gpu_extract.frames.images.decode import Image


def accepts(path: Path) -> bool:
    return path.is_dir()


def open_source(path: Path, options: SourceOptions) -> FolderSource:
    return FolderSource(path, options)


class FolderSource(FrameSource):
    """Files of one folder, not recursive; a file is opened only when its frame is loaded.

    A folder named like an image is no frame (the reference lists it and then fails to read it).
    """

    kind = "folder"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self._turned = options.rotate
        try:
            with os.scandir(path) as entries:
                names = [
                    entry.name
                    for entry in entries
                    if has_extension(entry.name, IMAGE_EXTENSIONS) and not entry.is_dir()
                ]
        except OSError as error:
            raise InputError(f"the frames folder '{path}' cannot be read: {error.strerror}.") from error
        if not names:
            extensions = " ".join(IMAGE_EXTENSIONS)
            raise InputError(f"the folder '{path}' holds no frames: images end in one of {extensions}.")
        self._names = sorted(names)
        self._index = {name: index for index, name in enumerate(self._names)}
        self._counting = threading.Lock()
        self.frames_seen = len(self._names)

    def index_of(self, name: str) -> int | None:
        return self._index.get(name)

    def name_of(self, index: int) -> str:
        return self._names[index]

    def size_of(self, index: int) -> tuple[int, int]:
        from gpu_extract.frames.images.decode import image_size, read_file

        return image_size(read_file(self.path / self._names[index]), turned=self._turned)

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        keep_freed_memory()
        for index in check_wanted(wanted).tolist():
            if index >= len(self._names):
                yield FrameFailure(index, f"frame {index + 1}", f"the folder holds only {len(self._names)} frames.")
            else:
                yield FolderFrame(self, index)

    def open_image(self, name: str) -> Image:
        from gpu_extract.frames.images.decode import Image, read_file

        return Image(read_file(self.path / name), turned=self._turned)

    def count_decoded(self) -> None:
        with self._counting:
            self.frames_decoded += 1

    def close(self) -> None:
        pass


class FolderFrame(Frame):
    def __init__(self, source: FolderSource, index: int) -> None:
        self.index = index
        self.name = source.name_of(index)
        self._source = source
        self._guard = threading.Lock()
        self._image: Image | None = None
        self._counted = False

    @property
    def height(self) -> int:
        return self._opened().size[0]

    @property
    def width(self) -> int:
        return self._opened().size[1]

    def load(self, region: Region | None = None) -> Patch:
        patch = self._opened().patch(region)
        self._count()
        return patch

    def load_each(self, regions: Sequence[Region]) -> list[Patch]:
        patches = self._opened().patches(regions)
        self._count()
        return patches

    def _count(self) -> None:
        with self._guard:
            first, self._counted = not self._counted, True
        if first:
            self._source.count_decoded()

    def _opened(self) -> Image:
        """The file is read at the first question about it, and decoded at the first `load`."""
        with self._guard:
            if self._image is None:
                self._image = self._source.open_image(self.name)
            return self._image
