"""A decoded video frame → BGR pixels, whole or only a region, to the bytes that FFmpeg's swscale gives for the whole.

A region costs what the region costs. Which way is safe for a kind of frame – size, pixel format, colour tags – is tried
out once, on noise of that kind, against the conversion of the whole:

- the formula of `kernels.yuv`, for 8-bit 4:2:0, in a fraction of swscale's time;
- swscale on a cut-out of the planes, for 8-bit 4:2:0 and 4:2:2;
- swscale on a cut-out with a margin that is dropped, where it looks at neighbours: more bits, other subsampling.

If none is, the frame is converted whole, then cut.
"""

from __future__ import annotations

import threading
from hashlib import shake_128

import av
import numpy as np
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from gpu_extract.frames.base import clip_region
from gpu_extract.kernels import yuv
from gpu_extract.patch import Patch, Region

_FORMULA_FORMATS = frozenset(("yuv420p", "yuvj420p"))
_MARGINS = (0, 16)
_GRID = 8  # cut-outs start at multiples of it: of all chroma steps, and of the pattern with which swscale dithers

# A context of swscale is rebuilt when the size changes, which costs as much as 100 rows; few sizes are few rebuilds.
_SIZE_STEP = 32

_Way = yuv.Coefficients | int | None
"""Of the formula; or the margin of a cut-out; or None: whole."""


class _Reformatters(threading.local):
    """One reformatter of whole frames and one of regions for each thread; they are not shared, swscale keeps state."""

    def __init__(self) -> None:
        self.whole = VideoReformatter()
        self.region = VideoReformatter()


_reformatters = _Reformatters()
_ways: dict[tuple[object, ...], _Way] = {}
_trying = threading.Lock()


def to_bgr(frame: av.VideoFrame, region: Region | None = None) -> Patch:
    """BGR of a frame [H, W, 3] or of a region of it, at least.

    The same frame must not be converted by two threads at once: PyAV alters its colour tags while it converts.
    """
    height, width = frame.height, frame.width
    region = clip_region(region or Region(0, 0, width, height), height, width)
    way = _way(frame)
    if isinstance(way, yuv.Coefficients):
        x0, y0, x1, y1 = region
        region = Region(x0 & ~1, y0 & ~1, x1 + x1 % 2, y1 + y1 % 2)
        return Patch(_by_formula(frame, region, way), region.x0, region.y0, height, width)
    if way is None:
        return _part_of_whole(_convert(_reformatters.whole, frame), region)
    return _converted_part(frame, region, way)


def _way(frame: av.VideoFrame) -> _Way:
    key = (frame.format.name, frame.width, frame.height, *_tags(frame))
    if key not in _ways:
        with _trying:
            if key not in _ways:
                _ways[key] = _try_out(frame)
    return _ways[key]


def _try_out(frame: av.VideoFrame) -> _Way:
    """The quickest way that gives for noise what the conversion of the whole gives."""
    if not _can_be_cut(frame):
        return None
    noise = _noise_like(frame)
    height, width = frame.height, frame.width
    whole = _convert(_reformatters.whole, noise)
    _tag_like(frame, noise)  # which PyAV has altered
    if yuv.is_available() and frame.format.name in _FORMULA_FORMATS:
        for coefficients in yuv.COEFFICIENTS:
            if not np.array_equal(_by_formula(noise, Region(0, 0, width, 2), coefficients), whole[:2]):
                continue
            if np.array_equal(_by_formula(noise, Region(0, 0, width, height), coefficients), whole):
                return coefficients
    x, y, w, h = width // 3, height // 3, min(width, 90), min(height, 70)
    corners = [Region(0, 0, w, h), Region(width - w, height - h, width, height), Region(width - w, y, width, y + h)]
    others = [Region(x, y, x + w, y + h), Region(2 * x, 0, 2 * x + 9, 5), Region(x, height - 1, x + 1, height)]
    for margin in _MARGINS:
        parts = (_cut_out_part(noise, clip_region(region, height, width), margin) for region in corners + others)
        if all(_is_part_of(whole, part) for part in parts):
            return margin
    return None


def _is_part_of(whole: np.ndarray, part: Patch) -> bool:
    rows, columns = part.pixels.shape[:2]
    return np.array_equal(part.pixels, whole[part.y0 : part.y0 + rows, part.x0 : part.x0 + columns])


def _can_be_cut(frame: av.VideoFrame) -> bool:
    """Whether each plane holds one kind of sample, rows from the top, and all chroma samples belong to whole blocks."""
    planes = frame.planes
    return len(frame.format.components) == len(planes) and all(
        plane.line_size > 0 and frame.width % plane.width == 0 and frame.height % plane.height == 0 for plane in planes
    )


def _converted_part(frame: av.VideoFrame, region: Region, margin: int) -> Patch:
    x0, y0, x1, y1 = region
    if 2 * (x1 - x0 + 2 * margin) * (y1 - y0 + 2 * margin) > frame.width * frame.height:
        return _part_of_whole(_convert(_reformatters.whole, frame), region)
    return _cut_out_part(frame, region, margin)


def _part_of_whole(pixels: np.ndarray, region: Region) -> Patch:
    x0, y0, x1, y1 = region
    return Patch(pixels[y0:y1, x0:x1], x0, y0, *pixels.shape[:2])


def _cut_out_part(frame: av.VideoFrame, region: Region, margin: int) -> Patch:
    """The region and what comes with it, of a cut-out that reaches `margin` pixels further where the frame does."""
    width, height = frame.width, frame.height
    x0, x1 = _span(region.x0 - margin, region.x1 + margin, width)
    y0, y1 = _span(region.y0 - margin, region.y1 + margin, height)
    pixels = _convert(_reformatters.region, _cut_out(frame, x0, y0, x1, y1))
    left, top = margin * (x0 > 0), margin * (y0 > 0)
    right, bottom = x1 - x0 - margin * (x1 < width), y1 - y0 - margin * (y1 < height)
    return Patch(pixels[top:bottom, left:right], x0 + left, y0 + top, height, width)


def _span(low: int, high: int, limit: int) -> tuple[int, int]:
    """From a multiple of `_GRID` on, multiples of `_SIZE_STEP`, so as to cover low..high; no further than 0..limit."""
    low = max(low, 0) // _GRID * _GRID
    return low, min(low - (low - high) // _SIZE_STEP * _SIZE_STEP, limit)


def _cut_out(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame:
    cut = av.VideoFrame(x1 - x0, y1 - y0, frame.format.name)
    _tag_like(frame, cut)
    for source, target, component in zip(frame.planes, cut.planes, frame.format.components, strict=True):
        across, down = frame.width // source.width, frame.height // source.height
        nbytes = (component.bits + 7) // 8
        part = _samples(source)[y0 // down : y1 // down, x0 // across * nbytes : x1 // across * nbytes]
        _samples(target)[:, : part.shape[1]] = part
    return cut


def _by_formula(frame: av.VideoFrame, region: Region, coefficients: yuv.Coefficients) -> np.ndarray:
    y, u, v = frame.planes
    return yuv.to_bgr((y, u, v), (y.line_size, u.line_size, v.line_size), *region, coefficients)


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
    _tag_like(frame, copy)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        rows, room = _samples(source), _samples(target)
        shared = min(rows.shape[1], room.shape[1])
        room[:, :shared] = rows[:, :shared]
    return copy


def _noise_like(frame: av.VideoFrame) -> av.VideoFrame:
    """Always the same, with a period that is no multiple of a row."""
    noise = av.VideoFrame(frame.width, frame.height, frame.format.name)
    _tag_like(frame, noise)
    for i, plane in enumerate(noise.planes):
        words = np.frombuffer(shake_128(bytes((i,))).digest(65521 * 2), np.uint16)
        bits = frame.format.components[i].bits
        samples = words.astype(np.uint8) if bits <= 8 else words & ((1 << bits) - 1)
        plane.update(np.resize(samples, plane.buffer_size // samples.itemsize).tobytes())
    return noise


def _tags(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc


def _tag_like(frame: av.VideoFrame, other: av.VideoFrame) -> None:
    other.colorspace, other.color_range, other.color_primaries, other.color_trc = _tags(frame)


def _samples(plane: VideoPlane) -> np.ndarray:
    """[rows, bytes a row] view of a plane, padding included."""
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]
