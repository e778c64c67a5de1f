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
from gpu_extract.faces.encoder import Encoder, encoder_for, face_hash
from gpu_extract.faces.layout import Layout
from gpu_extract.run import journal
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask

NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What a file system says of one name; any other error would meet every face."""

Header = Callable[[FrameTask, int, FrameResult], bytes | None]
"""header(task, k, result): metadata that travels inside the k-th face's file."""

Sidecar = Callable[[FrameTask, int, str], dict[str, Any]]
"""sidecar(task, k, sha1): what a layout may put beside the k-th face's file."""


def prepare_folder(folder: Path, *, resume: bool) -> None:
    """Create a folder for face files, with parents; one that exists must be empty, or hold a run to resume.

    Raises:
        OutputError: if it is not a folder, holds anything else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            occupied = next(entries, None)
    except NotADirectoryError:
        raise OutputError(f"the faces folder {folder} cannot be made: a part of that path is a file.") from None
    except FileExistsError:
        raise OutputError(
            f"the faces folder {folder} is a file; name a folder that is empty or not there yet."
        ) from None
    except OSError as error:
        raise OutputError(f"the faces folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the faces folder {folder} cannot be written: permission denied.")
    if occupied is None or (resume and journal.exists(folder)):
        return
    if journal.exists(folder):
        raise OutputError(
            f"the faces folder {folder} holds an earlier run; add --resume to continue it, or name another folder."
        )
    raise OutputError(
        f"the faces folder {folder} is not empty (it holds {occupied.name!r}); name another, or empty it first."
    )


@lru_cache(maxsize=16)
def _encoder(extension: str, quality: int | None) -> Encoder:
    return encoder_for(extension, quality)


class FaceWriter:
    """The pipeline's last stage. Called from many threads at once."""

    def __init__(
        self, layout: Layout, folder: Path, quality: int | None, header: Header | None, sidecar: Sidecar
    ) -> None:
        self._layout, self._folder, self._quality = layout, folder, quality
        self._header, self._sidecar = header, sidecar

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
        sha1 = face_hash(crop, encoder, data)
        hashed = clock()
        name = task.file_name(k)
        try:
            stored = self._layout.store(task, k, name, data, lambda: self._sidecar(task, k, sha1))
        except OSError as error:
            if error.errno in NAME_ERRORS:
                return Failure(task.name, int(task.index[k]), f"its file name {name!r} is refused: {error.strerror}")
            raise OutputError(f"the face {name!r} cannot be written to {self._folder}: {error.strerror}.") from error
        result.add_seconds("encode", encoded - began)
        result.add_seconds("hash", hashed - encoded)
        result.add_seconds("write", clock() - hashed)
        return FaceResult(int(task.rows[k]), int(task.index[k]), stored, sha1, len(data))
