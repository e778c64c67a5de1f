"""The planes of a decoded frame as arrays, and frames that are made here."""

from __future__ import annotations

import av
import numpy as np
from av.video.plane import VideoPlane


def samples(plane: VideoPlane) -> np.ndarray:
    """[rows, bytes a row] view of a plane, padding included."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]


def words(plane: VideoPlane, width: int, *, big_endian: bool) -> np.ndarray:
    """[rows, width] view of a plane of 16-bit samples; without the padding."""
    return samples(plane)[:, : 2 * width].view(">u2" if big_endian else "<u2")


def copied(frame: av.VideoFrame, format_name: str | None = None) -> av.VideoFrame:
    """The same planes in a frame that says nothing of its colours, its fields or where its chroma lies.

    format_name: another one of the same layout, if wanted.
    """
    copy = av.VideoFrame(frame.width, frame.height, format_name or frame.format.name)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        if not source.line_size:  # a palette
            target.update(bytes(source))
            continue
        rows, room = samples(source), samples(target)
        shared = min(rows.shape[1], room.shape[1])
        room[:, :shared] = rows[:, :shared]
    return copy
