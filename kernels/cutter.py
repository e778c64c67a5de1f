"""All that is done about the faces of a frame in one call of C, or in threads of C that need no interpreter.

A decoded picture's planes go in; its regions become BGR (`yuv`), crops (`tables` and `cpu`), SHA-1 sums and PNG files
(`png`), whose bytes are theirs, and what became of each face comes out, many frames at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu_extract.kernels.tables import weights
from gpu_extract.kernels.yuv import Coefficients, Layout

try:
    import gpu_extract.kernels._cutter as _cutter
except ImportError:  # built only where a C compiler was at hand
    _cutter = None

FRAME = np.dtype([("frame", np.int64), ("height", np.int32), ("width", np.int32)])
"""A frame that is done: its number in the plan, and its size."""

FACE = np.dtype(
    [("sha1", "V20"), ("nbytes", np.uint32), ("error", np.int32), ("one_colour", np.uint32), ("sharpness", np.float64)]
)
"""What became of a face: the SHA-1 of its crop, bytes of its file, errno or 0, whether all its pixels are the same, and
how sharp it is, where that is measured."""

STAGES = ("load", "warp", "hash", "encode", "write")

Seconds = tuple[float, float, float, float, float]
"""Of `STAGES`."""


class Planes(NamedTuple):
    """A decoded picture of even sides that `yuv.to_bgr` converts exactly."""

    y: Any
    """A buffer of bytes as `u` and `v` are, rows from the top; valid for as long as it is kept."""
    u: Any
    v: Any
    strides: tuple[int, int, int]
    """Bytes from one row to the next of each, positive."""
    height: int
    width: int
    coefficients: Coefficients
    layout: Layout = Layout()


class Done(NamedTuple):
    """Frames in the order of completion, and their faces one after another."""

    frames: np.ndarray  # [n] FRAME
    faces: np.ndarray  # [k] FACE
    seconds: Seconds


def is_available() -> bool:
    """Whether the C extension was built."""
    return _cutter is not None


def sha1(data: Any, *, portable: bool = False) -> bytes:
    """The 20 bytes of a buffer's SHA-1; portable leaves out what is particular to this processor."""
    digest: bytes = _cutter.hashed(data, portable)
    return digest


class Cutter:
    """The frames of a plan, cut into files of one folder. Raises RuntimeError where the extension was not built.

    Args:
        threads: that cut submitted pictures; they start with the first one.
        per_thread: pictures that may wait for each; the n-th thread, from 0, takes one only while more than
            n * per_thread wait.
        size: S.
        folder: an open directory's descriptor, which stays open longer than this; -1 where no file is made.
        extension: of the files, with the dot.
        crop_from_frame, cubic, region, index: [K, 2, 3] float64, [K] bool, [K, 4] int64 and [K] int32 of the plan's
            faces; their memory is read whenever a frame is cut.
        starts: [N + 1] int64, faces of frame i are starts[i] .. starts[i + 1].
        measures: whether faces tell their sharpness, as of `kernels.sharpness`.
        portable: leaves out what is particular to this processor; the files are the same.

    Of a frame, `folder` is where its files go inside the cutter's, "" or with a slash at its end, `stem` how their
    names begin, before `_<index>`, both as the file system has them, and `texts` None or one for each face: the data of
    an iTXt chunk, or None.
    """

    def __init__(
        self,
        threads: int,
        per_thread: int,
        size: int,
        folder: int,
        extension: str,
        crop_from_frame: np.ndarray,
        cubic: np.ndarray,
        region: np.ndarray,
        index: np.ndarray,
        starts: np.ndarray,
        *,
        measures: bool = False,
        portable: bool = False,
    ) -> None:
        if _cutter is None:
            raise RuntimeError("the C cutter was not built here; install with a C compiler")
        arrays = (weights(False), weights(True), crop_from_frame, cubic, region, index, starts)
        self._cutter = _cutter.Cutter(threads, per_thread, size, folder, extension, portable, measures, arrays)

    def submit(
        self,
        frame: int,
        planes: Planes,
        folder: bytes,
        stem: bytes,
        texts: Sequence[bytes | None] | None,
        wait: float,
        crops: np.ndarray | None = None,
    ) -> bool:
        """Have a frame of the plan cut by the threads; False if there was no room for it in that many seconds, or after
        `abandon`, which may come meanwhile.

        Args:
            crops: [k, S, S, 3] uint8, C-contiguous, where the crops go instead of into files; they are not hashed.

        Raises OSError where the system refuses a thread, ValueError after `close` and for planes, names or texts that
        cannot be.
        """
        y, u, v, strides, height, width, coefficients, layout = planes
        taken: bool = self._cutter.submit(
            frame,
            (y, u, v),
            strides,
            height,
            width,
            coefficients,
            layout,
            folder,
            stem,
            None if texts is None else tuple(texts),
            int(wait * 1000),
            crops,
        )
        return taken

    def collect(self, least: int, wait: float) -> Done | None:
        """What is done since the last call: returns when that is `least` frames, after so many seconds, or if woken.

        None when everything was collected and nothing more will come.
        """
        done = self._cutter.collect(least, int(wait * 1000))
        return None if done is None else Done(np.frombuffer(done[0], FRAME), np.frombuffer(done[1], FACE), done[2])

    def cut(
        self,
        frame: int,
        first: int,
        count: int,
        patches: Sequence[tuple[np.ndarray, int, int]],
        patch_of: np.ndarray,
        folder: bytes,
        stem: bytes,
        texts: Sequence[bytes | None] | None,
    ) -> tuple[np.ndarray, Seconds]:
        """Cut faces `first` .. `first + count` of a frame, on this thread.

        Args:
            patches: pixels [h, w, 3] uint8 BGR, side by side in a row, and the frame pixel (x, y) of their [0, 0].
            patch_of: [count] int64, of which each face is cut.

        Returns:
            [count] FACE, and the seconds of the stages.
        """
        texts = None if texts is None else tuple(texts)
        faces, seconds = self._cutter.cut(frame, first, count, tuple(patches), patch_of, folder, stem, texts)
        return np.frombuffer(faces, FACE), seconds

    def finish(
        self,
        frame: int,
        first: int,
        crops: np.ndarray,
        folder: bytes,
        stem: bytes,
        texts: Sequence[bytes | None] | None,
    ) -> tuple[np.ndarray, Seconds]:
        """Hash, encode and store crops [k, S, S, 3] uint8 of faces from `first` on, on this thread; as `cut`."""
        texts = None if texts is None else tuple(texts)
        faces, seconds = self._cutter.finish(frame, first, crops, folder, stem, texts)
        return np.frombuffer(faces, FACE), seconds

    def wake(self) -> None:
        """Have `collect` return, now or when it is next called."""
        self._cutter.wake()

    def let_go(self) -> None:
        """Let go of the pictures that were cut, as `submit` and `collect` do whenever they are called."""
        self._cutter.let_go()

    def close(self) -> None:
        """No more pictures will be submitted."""
        self._cutter.close()

    def abandon(self) -> None:
        """As `close`; faces that are not begun, whoever cuts them, are left out with the error ECANCELED."""
        self._cutter.abandon()

    def join(self) -> None:
        """As `close`, and wait for the threads to end."""
        self._cutter.join()

    def waits(self) -> tuple[float, float]:
        """Seconds that `submit` waited for threads, and that threads waited for pictures."""
        waited: tuple[float, float] = self._cutter.waits()
        return waited
