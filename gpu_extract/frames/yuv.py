"""A decoded video frame → BGR pixels, whole or only a region, to the bytes that FFmpeg's swscale gives for the whole.

For 8-bit 4:2:0 of even size swscale computes each 2 × 2 block of pixels from its own four luma and two chroma samples,
so a region is converted at the cost of the region. `kernels.yuv` does it in a fraction of swscale's time, once noise of
the same size and colour tags has shown that both give the same bytes; which of the matrices it is, that tells, too. If
none does, or without the C extension, swscale converts a cut-out of the planes at even offsets, which was tried out on
noise as well. Any other layout is converted whole (odd sizes and most formats go through swscale's general path, which
looks at neighbours) and then cut.
"""

from __future__ import annotations

import threading
from functools import cache
from hashlib import shake_128

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from gpu_extract.frames.base import clip_region
from gpu_extract.kernels import yuv
from gpu_extract.patch import Patch, Region

_BLOCK_FORMATS = frozenset(("yuv420p", "yuvj420p"))

# A context of swscale is rebuilt when the size changes, which costs as much as 100 rows; few sizes are few rebuilds.
_SIZE_STEP = 32


class _Reformatters(threading.local):
    """One reformatter of whole frames and one of regions for each thread; they are not shared, swscale keeps state."""

    def __init__(self) -> None:
        self.whole = VideoReformatter()
        self.region = VideoReformatter()


_reformatters = _Reformatters()


def to_bgr(frame: av.VideoFrame, region: Region | None = None) -> Patch:
    """BGR of a frame [H, W, 3] or of a region of it, never a copy of more than was converted.

    The same frame must not be converted by two threads at once: PyAV alters its colour tags while it converts.
    """
    height, width = frame.height, frame.width
    x0, y0, x1, y1 = clip_region(region or Region(0, 0, width, height), height, width)
    if width % 2 or height % 2 or frame.format.name not in _BLOCK_FORMATS:
        return Patch(_convert(_reformatters.whole, frame)[y0:y1, x0:x1], x0, y0, height, width)
    coefficients = _coefficients(frame)
    if coefficients is not None:
        x0, y0, x1, y1 = x0 & ~1, y0 & ~1, x1 + x1 % 2, y1 + y1 % 2
        return Patch(_own_conversion(frame, Region(x0, y0, x1, y1), coefficients), x0, y0, height, width)
    (cut_x0, cut_x1), (cut_y0, cut_y1) = _even_span(x0, x1, width), _even_span(y0, y1, height)
    if 2 * (cut_x1 - cut_x0) * (cut_y1 - cut_y0) > width * height or not blocks_are_independent():
        return Patch(_convert(_reformatters.whole, frame)[y0:y1, x0:x1], x0, y0, height, width)
    pixels = _convert(_reformatters.region, _cut_out(frame, cut_x0, cut_y0, cut_x1, cut_y1))
    return Patch(pixels, cut_x0, cut_y0, height, width)


_known: dict[tuple[object, ...], yuv.Coefficients | None] = {}
_finding_out = threading.Lock()


def _coefficients(frame: av.VideoFrame) -> yuv.Coefficients | None:
    """Those with which the formula of `kernels.yuv` gives swscale's bytes for frames like this one, if any do."""
    if not yuv.is_available() or any(plane.line_size <= 0 for plane in frame.planes):
        return None
    tags = (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc)
    key = (frame.format.name, frame.width, frame.height, *tags)
    if key not in _known:
        with _finding_out:
            if key not in _known:
                _known[key] = _found_on(_noise_like(frame))
    return _known[key]


def _found_on(noise: av.VideoFrame) -> yuv.Coefficients | None:
    # First, for PyAV alters the tags of what it converts.
    whole = _convert(_reformatters.whole, noise)
    some, everything = Region(0, 0, noise.width, 2), Region(0, 0, noise.width, noise.height)
    for coefficients in yuv.COEFFICIENTS:
        if not np.array_equal(_own_conversion(noise, some, coefficients), whole[:2]):
            continue
        return coefficients if np.array_equal(_own_conversion(noise, everything, coefficients), whole) else None
    return None


def _noise_like(frame: av.VideoFrame) -> av.VideoFrame:
    noise = _noise(frame.width, frame.height, frame.format.name)
    noise.colorspace, noise.color_range = frame.colorspace, frame.color_range
    noise.color_primaries, noise.color_trc = frame.color_primaries, frame.color_trc
    return noise


def _noise(width: int, height: int, format_name: str) -> av.VideoFrame:
    """Always the same, with a period that is no multiple of a row."""
    noise = av.VideoFrame(width, height, format_name)
    for i, plane in enumerate(noise.planes):
        some = shake_128(bytes((i,))).digest(65521)
        plane.update((some * (plane.buffer_size // len(some) + 1))[: plane.buffer_size])
    return noise


def _own_conversion(frame: av.VideoFrame, region: Region, coefficients: yuv.Coefficients) -> np.ndarray:
    y, u, v = frame.planes
    return yuv.to_bgr((y, u, v), (y.line_size, u.line_size, v.line_size), *region, coefficients)


@cache
def blocks_are_independent() -> bool:
    """Whether swscale, as built here, gives a cut-out the bytes that the whole frame has there."""
    for name in sorted(_BLOCK_FORMATS):
        frame = _noise(134, 70, name)
        whole = _convert(_reformatters.whole, frame)
        for x0, y0, x1, y1 in ((0, 0, 32, 32), (38, 6, 70, 70), (102, 38, 134, 70), (2, 2, 98, 34)):
            part = _convert(_reformatters.region, _cut_out(frame, x0, y0, x1, y1))
            if not np.array_equal(part, whole[y0:y1, x0:x1]):
                return False
    return True


def _even_span(low: int, high: int, limit: int) -> tuple[int, int]:
    """The smallest span of `_SIZE_STEP` multiples that starts even and covers low..high, moved inside 0..limit."""
    low -= low % 2
    size = min(-(-(high - low) // _SIZE_STEP) * _SIZE_STEP, limit)
    low = min(low, limit - size)
    return low, low + size


def _cut_out(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame:
    cut = av.VideoFrame(x1 - x0, y1 - y0, frame.format.name)
    cut.colorspace = frame.colorspace
    cut.color_range = frame.color_range
    for step, source, target in zip((1, 2, 2), frame.planes, cut.planes, strict=True):
        part = _samples(source)[y0 // step : y1 // step, x0 // step : x1 // step]
        _samples(target)[:, : part.shape[1]] = part
    return cut


def _samples(plane: av.video.plane.VideoPlane) -> np.ndarray:
    """[rows, bytes a row] view of a plane, padding included."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]


def _convert(reformatter: VideoReformatter, frame: av.VideoFrame) -> np.ndarray:
    if frame.interlaced_frame and len(frame.planes) > 1 and frame.planes[1].height < frame.height:
        frame = _progressive(frame)
    pixels: np.ndarray = reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
    return pixels


def _progressive(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy that is not marked as interlaced.

    Since 2024 swscale spreads the chroma of a marked frame over the lines of each field; before, and in every face that
    has a stored hash, it did not look at the mark.
    """
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    copy.colorspace, copy.color_range = frame.colorspace, frame.color_range
    copy.color_primaries, copy.color_trc = frame.color_primaries, frame.color_trc
    for source, target in zip(frame.planes, copy.planes, strict=True):
        rows, room = _samples(source), _samples(target)
        shared = min(rows.shape[1], room.shape[1])
        room[:, :shared] = rows[:, :shared]
    return copy
