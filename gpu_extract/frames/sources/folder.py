"""A folder of images as frames, by full name, code point by code point (docs/formats.md#images)."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.errors import DeviceError, FrameError, InputError, counted
from gpu_extract.frames.base import Frame, FrameFailure, FrameSource, SourceOptions, check_wanted
from gpu_extract.frames.memory import keep_freed_memory
from gpu_extract.naming import (
    ADMITTED_EXTENSIONS,
    IMAGE_EXTENSIONS,
    TO_PNG,
    UNREAD_EXTENSIONS,
    has_extension,
    split_name,
)
from gpu_extract.patch import Patch, Region
from gpu_extract.storage.placeholders import stands_for

if TYPE_CHECKING:
    from gpu_extract.frames.images.decode import Image


RESOURCE_PREFIX, RESOURCE_MAGIC = "._", b"\0\5\x16\7"
"""Of the AppleDouble file that macOS puts beside a file on a disk that cannot hold the file's attributes."""
OTHER_EXTENSIONS = (*ADMITTED_EXTENSIONS, *UNREAD_EXTENSIONS)
IMAGE_BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF")


def accepts(path: Path) -> bool:
    return path.is_dir()


def open_source(path: Path, options: SourceOptions) -> FolderSource:
    """Raises DeviceError where a device is to decode."""
    if options.device is not None:
        raise DeviceError(f"'{path}' is a folder of images, which no device decodes here; choose --decoder cpu.")
    return FolderSource(path, options)


class FolderSource(FrameSource):
    """Files of one folder, not recursive; a file is opened only when its frame is loaded.

    A folder named like an image is no frame (the reference lists it and then fails to read it), and neither are the
    resource files of macOS. Images in formats that the reference does not list would shift the numbers of those after
    them: they are frames where a key names them, and come last.
    """

    kind = "folder"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self._turned = options.rotate
        try:
            with os.scandir(path) as entries:
                listed, others, placeholders = _images(entries)
        except OSError as error:
            raise InputError(f"the frames folder '{path}' cannot be read: {error.strerror}.") from error
        resources = _resource_files(path, listed)
        self._names = [name for name in listed if name not in resources] if resources else listed
        self._beside = placeholders | {name: _why_unread(name) for name in others}
        if resources:
            self.notes = [_left_out(resources)]
        if not self._names:
            # Nothing is listed whose numbers could shift.
            self._names = sorted(name for name, why in self._beside.items() if not why)
        if not self._names:
            raise InputError(_no_frames(path, others, resources, placeholders))
        self._number()
        self._counting = threading.Lock()

    def _number(self) -> None:
        self._index = {name: index for index, name in enumerate(self._names)}
        self.frames_seen = len(self._names)

    def index_of(self, name: str) -> int | None:
        return self._index.get(name)

    def name_of(self, index: int) -> str:
        return self._names[index]

    def names(self) -> Sequence[str]:
        return self._names

    def beside(self) -> Mapping[str, str]:
        return {name: why for name, why in self._beside.items() if name not in self._index}

    def admit(self, names: Iterable[str]) -> None:
        self._names += sorted({name for name in names if self._beside.get(name) == ""} - self._index.keys())
        self._number()

    def size_of(self, index: int) -> tuple[int, int]:
        from gpu_extract.frames.images.decode import image_size, read_file

        return image_size(read_file(self.path / self._names[index]), turned=self._turned)

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        keep_freed_memory()
        for index in check_wanted(wanted).tolist():
            if index >= len(self._names):
                yield FrameFailure(
                    index, f"frame {index + 1}", f"the folder holds only {counted(len(self._names), 'frame')}."
                )
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


def _images(entries: Iterable[os.DirEntry[str]]) -> tuple[list[str], list[str], dict[str, str]]:
    """Names of files that are frames by their extension, in order, those of images in other formats, and those of
    images that something only stands for, with what."""
    listed, others, placeholders = [], [], {}
    for entry in entries:
        if has_extension(entry.name, IMAGE_EXTENSIONS):
            if not entry.is_dir():
                listed.append(entry.name)
        elif has_extension(entry.name, OTHER_EXTENSIONS) and not entry.is_dir():
            others.append(entry.name)
        elif (found := stands_for(entry.name)) and has_extension(found[0], (*IMAGE_EXTENSIONS, *OTHER_EXTENSIONS)):
            placeholders[found[0]] = found[1]
    return sorted(listed), [name for name in others if not name.startswith(RESOURCE_PREFIX)], placeholders


def _resource_files(path: Path, listed: list[str]) -> set[str]:
    """Those of the files in order that macOS left beside others; a hidden image may begin with the same two letters."""
    first, end = bisect_left(listed, RESOURCE_PREFIX), bisect_left(listed, ".`")  # "`" comes after "_"
    if first == end:
        return set()
    names = set(listed)
    found = set()
    for name in listed[first:end]:
        beginning = _beginning(path / name)
        beside = name.removeprefix(RESOURCE_PREFIX) in names and not beginning.startswith(IMAGE_BEGINNINGS)
        if beside or beginning == RESOURCE_MAGIC:
            found.add(name)
    return found


def _left_out(resources: set[str]) -> str:
    if len(resources) == 1:
        return f"1 resource file of macOS ('{min(resources)}' …) does not count as a frame."
    return f"{len(resources):,} resource files of macOS ('{min(resources)}' …) do not count as frames."


def _beginning(path: Path) -> bytes:
    from gpu_extract.frames.images.decode import read_file

    try:
        return read_file(path)[: len(RESOURCE_MAGIC)]
    except FrameError:
        return b""


def _why_unread(name: str) -> str:
    if has_extension(name, ADMITTED_EXTENSIONS):
        return ""
    return f"{split_name(name)[1][1:].upper()} images are not read; {TO_PNG}"


def _no_frames(path: Path, others: list[str], resources: set[str], placeholders: dict[str, str]) -> str:
    extensions = " ".join(IMAGE_EXTENSIONS)
    if others:
        counts = Counter(split_name(name)[1].lower() for name in others)
        found = ", ".join(f"{count:,} {extension}" for extension, count in sorted(counts.items()))
        return f"the folder '{path}' holds images that are not read ({found}); convert them to PNG or JPEG."
    if placeholders:
        name, why = next(iter(sorted(placeholders.items())))
        return f"the folder '{path}' holds no frames: of {len(placeholders):,}, such as '{name}', each is there {why}."
    if resources:
        return f"the folder '{path}' holds no frames, only resource files of macOS; name the folder with the images."
    return f"the folder '{path}' holds no frames: images end in one of {extensions}."


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
