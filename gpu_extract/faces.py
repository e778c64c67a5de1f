"""Writing face files: encode, hash, and a file that is whole from the moment its name appears."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from gpu_extract.encode import Encoder, encoder_for, face_hash
from gpu_extract.errors import OutputError
from gpu_extract.pipeline import FaceResult, FrameResult
from gpu_extract.plan import Failure, FrameTask

TEMPORARY_PREFIX = ".part-"
NAME_ERRORS = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What a file system says of one name; any other error would meet every face."""

Header = Callable[[FrameTask, int], bytes | None]
"""header(task, k): metadata for the k-th face's file, or None."""


def prepare_folder(folder: Path) -> None:
    """Create a folder for face files, with parents; one that exists must be empty.

    Raises:
        OutputError: if it is not a folder, holds anything, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            occupied = next(entries, None)
    except NotADirectoryError:
        raise OutputError(f"the faces folder {folder} cannot be made: a part of that path is a file.") from None
    except FileExistsError:
        raise OutputError(f"the faces folder {folder} is a file; name a folder that is empty or not there yet.") from None
    except OSError as error:
        raise OutputError(f"the faces folder {folder} cannot be made: {error.strerror}.") from error
    if occupied is not None:
        raise OutputError(
            f"the faces folder {folder} is not empty (it holds {occupied.name!r}); name another, or empty it first."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the faces folder {folder} cannot be written: permission denied.")


@lru_cache(maxsize=16)
def _encoder(extension: str, quality: int | None) -> Encoder:
    return encoder_for(extension, quality)


class FolderWriter:
    """Finishes faces into one folder. Called from many threads at once."""

    def __init__(self, folder: Path, quality: int | None = None, header: Header | None = None) -> None:
        self._folder = os.fspath(folder)
        self._quality = quality
        self._header = header

    def __call__(
        self, task: FrameTask, k: int, crop: np.ndarray, result: FrameResult
    ) -> FaceResult | Failure:
        """Encode, hash and write one face.

        Raises:
            OutputError: if the folder or its disk takes no more files.
        """
        clock = time.perf_counter
        encoder = _encoder(task.extension, self._quality)
        began = clock()
        data = encoder.encode(crop, self._header(task, k) if self._header else None)
        encoded = clock()
        sha1 = face_hash(crop, encoder, data)
        hashed = clock()
        name = task.file_name(k)
        try:
            self._write(name, data)
        except OSError as error:
            if error.errno in NAME_ERRORS:
                return Failure(task.name, int(task.index[k]), f"its file name {name!r} is refused: {error.strerror}")
            raise OutputError(f"the face {name!r} cannot be written to {self._folder}: {error.strerror}.") from error
        result.add_seconds("encode", encoded - began)
        result.add_seconds("hash", hashed - encoded)
        result.add_seconds("write", clock() - hashed)
        return FaceResult(int(task.rows[k]), int(task.index[k]), name, sha1, len(data))

    def _write(self, name: str, data: bytes) -> None:
        """All of a file or nothing: written under a temporary name, then renamed."""
        final = os.path.join(self._folder, name)
        temporary = os.path.join(self._folder, TEMPORARY_PREFIX + name)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
            finally:
                os.close(handle)
            os.rename(temporary, final)
        except BaseException:
            os.unlink(temporary)
            raise
