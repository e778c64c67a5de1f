"""A decoded video frame → BGR pixels, whole or only a region.

For 8-bit 4:2:0 of even size swscale computes each 2 × 2 block of pixels from its own four luma and two chroma samples,
so converting a cut-out of the planes at even offsets gives the bytes of the whole conversion, at the cost of the
cut-out. That is tried out once on noise, in case a build of swscale works otherwise. Any other layout is converted
whole (odd sizes and most formats go through swscale's general path, which looks at neighbours) and then cut.
"""

from __future__ import annotations

import threading
from functools import cache

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from gpu_extract.frames.base import clip_region
from gpu_extract.patch import Patch, Region, whole_frame

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
    if region is None:
        return whole_frame(_convert(_reformatters.whole, frame))
    x0, y0, x1, y1 = clip_region(region, height, width)
    if width % 2 or height % 2 or frame.format.name not in _BLOCK_FORMATS or not blocks_are_independent():
        pixels = _convert(_reformatters.whole, frame)
        return Patch(pixels[y0:y1, x0:x1], x0, y0, height, width)
    x0, x1 = _even_span(x0, x1, width)
    y0, y1 = _even_span(y0, y1, height)
    if 2 * (x1 - x0) * (y1 - y0) > width * height:
        pixels = _convert(_reformatters.whole, frame)
        return Patch(pixels[y0:y1, x0:x1], x0, y0, height, width)
    return Patch(_convert(_reformatters.region, _cut_out(frame, x0, y0, x1, y1)), x0, y0, height, width)


@cache
def blocks_are_independent() -> bool:
    """Whether swscale, as built here, gives a cut-out the bytes that the whole frame has there."""
    random = np.random.default_rng(0)
    for name in _BLOCK_FORMATS:
        frame = av.VideoFrame(134, 70, name)
        for plane in frame.planes:
            plane.update(random.bytes(plane.buffer_size))
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
    pixels: np.ndarray = reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
    return pixels
