"""A decoded video frame → BGR pixels, whole or only a region, to the bytes that its file's own program had.

These depend on when that was (docs/formats.md#pixels): "piped" pixels are the ffmpeg program's, of before March 2026,
"direct" ones those that PyAV's swscale gives for the whole frame.

A region costs what the region costs. Which way is safe for a kind of frame – size, pixel format, order of rows, colour
tags – is tried out once, on noise of that kind, against the conversion of the whole:

- the formula of `kernels.yuv`, for 8-bit 4:2:0, in a fraction of swscale's time;
- swscale on a cut-out of the planes, for 8-bit 4:2:0 and 4:2:2, and where chroma is not subsampled; for piped pixels
  also where chroma is halved and interpolated, with a margin, for it then lies in the same place in every frame.

If neither is, the frame is converted whole, then cut. So are all other formats: swscale interpolates their chroma from
where the frame says that it lies, and PyAV can neither read that nor set it for a cut-out.
"""

from __future__ import annotations

import re
import threading
from hashlib import shake_128

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from gpu_extract.frames.base import clip_region
from gpu_extract.frames.video import piped
from gpu_extract.frames.video.planes import copied, samples
from gpu_extract.kernels import yuv
from gpu_extract.kernels.cutter import Planes
from gpu_extract.patch import Patch, Region

_FORMULA_FORMATS = frozenset(("yuv420p", "yuvj420p"))
_BLOCK_FORMATS = _FORMULA_FORMATS | {"yuv422p", "yuvj422p"}  # a chroma sample is used as it is for its 2 or 4 pixels
_HALVED = re.compile(r"yuvj?4(20|22|40)p\d*([bl]e)?$")  # chroma of half the width, of half the height, or of both
_MARGIN = 16  # pixels around a cut-out that its edge may spoil: four samples of chroma reach eight pixels far
_GRID = 8  # cut-outs start at multiples of it: of the chroma steps, and of the pattern with which swscale dithers
_SMALLEST = 8  # sides of a frame below which nothing is gained

# A context of swscale is rebuilt when the size changes, which costs as much as 100 rows; few sizes are few rebuilds.
_SIZE_STEP = 32

_KNOWN_MATRICES = frozenset((0, 1, 2, 4, 5, 6, 7, 9))  # to today's swscale

CUT_OUT, WHOLE = "cut-out", "whole"
_Way = yuv.Coefficients | str
"""The formula with these coefficients, or CUT_OUT, or WHOLE."""


class _Reformatters(threading.local):
    """One reformatter of whole frames and one of regions for each thread; they are not shared, swscale keeps state."""

    def __init__(self) -> None:
        self.whole = VideoReformatter()
        self.region = VideoReformatter()


_reformatters = _Reformatters()
_ways: dict[tuple[object, ...], _Way] = {}
_trying = threading.Lock()


def to_bgr(frame: av.VideoFrame, region: Region | None = None, pixels: str = "direct") -> Patch:
    """BGR of a frame [H, W, 3] or of a region of it, at least; pixels: "direct" or "piped".

    The same frame must not be converted by two threads at once: PyAV alters its colour tags while it converts.
    """
    height, width = frame.height, frame.width
    x0, y0, x1, y1 = region = clip_region(region or Region(0, 0, width, height), height, width)
    way = _way(frame, pixels)
    if isinstance(way, yuv.Coefficients):
        even = Region(x0 & ~1, y0 & ~1, x1 + x1 % 2, y1 + y1 % 2)
        return Patch(_by_formula(frame, even, way), even.x0, even.y0, height, width)
    if way == WHOLE or 2 * (x1 - x0) * (y1 - y0) > width * height:
        part = _convert(_reformatters.whole, frame, pixels)[y0:y1, x0:x1]
        return Patch(_in_order(part), x0, y0, height, width)
    return _converted_cut_out(frame, region, pixels)


def planes_of(frame: av.VideoFrame, pixels: str = "direct") -> Planes | None:
    """The planes and the formula that `to_bgr` would use; None if it would not use one. Not beside `to_bgr` either."""
    if frame.format.name not in _FORMULA_FORMATS:
        return None
    y, u, v = frame.planes
    strides = y.line_size, u.line_size, v.line_size
    way = _known_way(frame, pixels, min(strides) >= 0)
    if not isinstance(way, yuv.Coefficients):
        return None
    return Planes(y, u, v, strides, frame.height, frame.width, way)


def _way(frame: av.VideoFrame, pixels: str) -> _Way:
    return _known_way(frame, pixels, all(plane.line_size >= 0 for plane in frame.planes))


def _known_way(frame: av.VideoFrame, pixels: str, upright: bool) -> _Way:
    key = (pixels, frame.format.name, frame.width, frame.height, upright, *_tags(frame))
    way = _ways.get(key)
    if way is None:
        with _trying:
            way = _ways.get(key)
            if way is None:
                way = _ways[key] = _try_out(frame, pixels)
    return way


def _try_out(frame: av.VideoFrame, pixels: str) -> _Way:
    """The quickest way that gives for noise what the conversion of the whole gives."""
    if not _can_be_cut(frame, pixels):
        return WHOLE
    noise = _noise_like(frame)
    height, width = frame.height, frame.width
    whole = _convert(_reformatters.whole, noise, pixels)
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
    parts = (_converted_cut_out(noise, clip_region(region, height, width), pixels) for region in corners + others)
    return CUT_OUT if all(_is_part_of(whole, part) for part in parts) else WHOLE


def _is_part_of(whole: np.ndarray, part: Patch) -> bool:
    rows, columns = part.pixels.shape[:2]
    return np.array_equal(part.pixels, whole[part.y0 : part.y0 + rows, part.x0 : part.x0 + columns])


def _can_be_cut(frame: av.VideoFrame, pixels: str) -> bool:
    """Whether each plane holds one kind of whole bytes, rows from the top, and chroma is not interpolated from where
    only the frame knows."""
    width, height, planes, components = frame.width, frame.height, frame.planes, frame.format.components
    if min(width, height) < _SMALLEST or len(components) != len(planes):
        return False
    if frame.format.name in _BLOCK_FORMATS or (pixels == "piped" and _HALVED.match(frame.format.name)):
        in_blocks = width % 2 == 0 and height % 2 == 0
    else:
        in_blocks = all((plane.width, plane.height) == (width, height) for plane in planes)
    return in_blocks and all(8 <= one.bits <= 16 for one in components) and all(one.line_size > 0 for one in planes)


def _converted_cut_out(frame: av.VideoFrame, region: Region, pixels: str) -> Patch:
    """The region and what comes with it."""
    name, height, width = frame.format.name, frame.height, frame.width
    margin = _MARGIN if pixels == "piped" and name not in _BLOCK_FORMATS and _HALVED.match(name) else 0
    x0, x1 = _span(max(region.x0 - margin, 0), min(region.x1 + margin, width), width)
    y0, y1 = _span(max(region.y0 - margin, 0), min(region.y1 + margin, height), height)
    converted = _convert(_reformatters.region, _cut_out(frame, x0, y0, x1, y1), pixels, own=True)
    if not margin:
        return Patch(_in_order(converted), x0, y0, height, width)
    x, y, right, bottom = region
    return Patch(_in_order(converted[y - y0 : bottom - y0, x - x0 : right - x0]), x, y, height, width)


def _in_order(bgr: np.ndarray) -> np.ndarray:
    """The same with B, G, R side by side; only the part that is wanted is worth a copy."""
    return bgr if bgr.strides[-1] == 1 else np.ascontiguousarray(bgr)


def _span(low: int, high: int, limit: int) -> tuple[int, int]:
    """From a multiple of `_GRID` on, a multiple of `_SIZE_STEP`, so as to cover low..high; no further than limit."""
    low = low // _GRID * _GRID
    return low, min(low - (low - high) // _SIZE_STEP * _SIZE_STEP, limit)


def _cut_out(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame:
    cut = av.VideoFrame(x1 - x0, y1 - y0, frame.format.name)
    _tag_like(frame, cut)
    for source, target, component in zip(frame.planes, cut.planes, frame.format.components, strict=True):
        across, down = frame.width // source.width, frame.height // source.height
        nbytes = (component.bits + 7) // 8
        part = samples(source)[y0 // down : y1 // down, x0 // across * nbytes : x1 // across * nbytes]
        samples(target)[:, : part.shape[1]] = part
    return cut


def _by_formula(frame: av.VideoFrame, region: Region, coefficients: yuv.Coefficients) -> np.ndarray:
    y, u, v = frame.planes
    return yuv.to_bgr((y, u, v), (y.line_size, u.line_size, v.line_size), *region, coefficients)


def _convert(reformatter: VideoReformatter, frame: av.VideoFrame, pixels: str, *, own: bool = False) -> np.ndarray:
    """BGR of a whole frame, perhaps a view of RGB; own: it was made here, and may be altered."""
    if pixels == "piped":
        return piped.to_rgb(frame, reformatter, own=own)[..., ::-1]
    if frame.interlaced_frame:
        frame = _progressive(frame)
    frame = piped.bytes_swapped(frame) or frame
    if frame.colorspace not in _KNOWN_MATRICES:  # an error today, and no picture
        frame.colorspace = piped.matrix_of(frame.colorspace)
    bgr: np.ndarray = reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray()
    return bgr


def _progressive(frame: av.VideoFrame) -> av.VideoFrame:
    """A copy that is not marked as interlaced.

    Since 2024 swscale spreads the chroma of a marked frame over the lines of each field; before, and in every face that
    has a stored hash, it did not look at the mark.
    """
    copy = copied(frame)
    _tag_like(frame, copy)
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
