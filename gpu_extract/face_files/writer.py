"""Finishing faces: encode, hash, and hand the bytes to a layout that puts them on disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract.errors import InputError, OutputError
from gpu_extract.face_files.encoder import Encoder, encoder_for, is_of_one_colour, sha1_of, stored_pixels
from gpu_extract.face_files.layout import Layout
from gpu_extract.kernels.sharpness import sharpness
from gpu_extract.storage.parts import MAX_NAME_BYTES, TEMPORARY_PREFIX, check_name
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask, Place

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What a file system says of one name; any other error would meet every face."""

PNG = ".png"
LONGEST_INDEX = len("_-2147483648")

Header = Callable[[FrameTask, int, FrameResult], bytes | None]
"""header(task, k, result): metadata that travels inside the k-th face's file."""

RowOf = Callable[[FrameTask, int, str], dict[str, Any]]
"""row_of(task, k, sha1): what is known of the k-th face, for a layout that puts it beside the face's file."""


@lru_cache(maxsize=16)
def _encoder(extension: str, quality: int | None) -> Encoder:
    return encoder_for(extension, quality)


class FaceWriter:
    """The pipeline's last stage. Called from many threads at once.

    Calling it finishes a face. Whoever finishes the faces of a frame by itself, with the same files, asks for `place`
    and `texts`, and lets `refused` say what an error means.

    Attributes:
        measures: whether faces are to tell their sharpness.
    """

    def __init__(
        self,
        layout: Layout,
        folder: Path,
        quality: int | None,
        header: Header | None,
        row_of: RowOf,
        *,
        measures: bool = False,
    ) -> None:
        self._layout, self._folder, self._quality = layout, folder, quality
        self._header, self._row_of = header, row_of
        self.measures = measures

    def __call__(self, task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
        """Encode, hash and store one face.

        Raises:
            OutputError: if the folder or its disk takes no more files.
        """
        clock = time.perf_counter
        encoder = _encoder(task.extension, self._quality)
        began = clock()
        try:
            header = self._header(task, k, result) if self._header and encoder.extension == ".png" else None
        except InputError as error:
            return Failure(task.name, int(task.index[k]), str(error))
        data = encoder.encode(crop, header)
        encoded = clock()
        pixels = stored_pixels(crop, encoder, data)
        sha1 = sha1_of(pixels)
        measured = sharpness(pixels) if self.measures else None
        if is_of_one_colour(crop):
            result.of_one_colour.add(int(task.rows[k]))
        hashed = clock()
        name = task.file_name(k)
        try:
            stored = self._layout.store(task, k, name, data, lambda: self._row_of(task, k, sha1))
        except OSError as error:
            return self.refused(task, k, error)
        result.add_seconds("encode", encoded - began)
        result.add_seconds("hash", hashed - encoded)
        result.add_seconds("write", clock() - hashed)
        return FaceResult(int(task.rows[k]), int(task.index[k]), stored, sha1, len(data), measured)

    def place(self, task: FrameTask) -> Place | None:
        """Where the PNG files of a frame go; None where its faces are no such files, or one of them may be refused."""
        if task.extension != PNG:
            return None
        stem = self._layout.stem(task.name)
        try:
            check_name(stem)
            folder = self._layout.inside(task)
            stem_bytes = os.fsencode(stem)
        except (OSError, UnicodeEncodeError):
            return None
        longest = len(TEMPORARY_PREFIX) + len(stem_bytes) + LONGEST_INDEX + len(PNG)
        if folder is None or longest > MAX_NAME_BYTES:
            return None
        return Place(stem, folder, os.fsencode(folder) if folder else b"", stem_bytes)

    def texts(self, result: FrameResult, start: int, stop: int) -> list[bytes | None] | None:
        """What travels inside the files of faces start .. stop of a frame whose size is known; None: nothing.

        Raises:
            InputError: if one of them cannot have it.
        """
        return None if self._header is None else [self._header(result.task, k, result) for k in range(start, stop)]

    def refused(self, task: FrameTask, k: int, error: OSError) -> Failure:
        """What it means that a face's file could not be written.

        Raises:
            OutputError: unless the error speaks of this name only.
        """
        name = task.file_name(k)
        if error.errno in NAME_ERRORS:
            return Failure(task.name, int(task.index[k]), f"its file name {name!r} is refused: {error.strerror}")
        raise OutputError(f"the face {name!r} cannot be written to {self._folder}: {error.strerror}.") from error
