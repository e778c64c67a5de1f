"""A decoded video frame → BGR pixels, whole or only a region, to the bytes that its file's own program had.

These depend on when that was (docs/formats.md#pixels): "piped" pixels are the ffmpeg program's, of before March 2026,
"direct" ones those that PyAV's swscale gives for the whole frame.

A region costs what the region costs. Which way is safe for a kind of frame – size, pixel format, order of rows, colour
tags, where its chroma lies – is tried out once, on noise of that kind, against the conversion of the whole:

- a formula of `kernels.yuv`, for 4:2:0 and 4:2:2 of 8 to 12 bits, in a fraction of swscale's time;
- swscale on a cut-out of the planes, for 8-bit 4:2:0 and 4:2:2, and where chroma is not subsampled; for piped pixels
  also where chroma is halved and interpolated, with a margin, for it then lies in the same place in every frame.

If neither is, the frame is converted whole, then cut. So are all other formats: swscale interpolates their chroma from
where the frame says that it lies, and PyAV can neither read that nor set it for a cut-out. It keeps it, though, in a
frame that is made of another one: what a tiny one of noise is converted to tells it (`_siting`).

The standard is swscale's code for x86. That for other processors rounds otherwise, so that no formula equals it. There
the one is taken that x86 would need by what the frame says of itself, where this processor's swscale is near it
(`_formula_of_x86`); frames without one are converted by that swscale, and `notes_on` says so.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from hashlib import shake_128
from itertools import product, starmap
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from gpu_extract.frames.base import clip_region
from gpu_extract.frames.video import piped, processor
from gpu_extract.frames.video.planes import copied, samples
from gpu_extract.kernels import yuv
from gpu_extract.kernels.cutter import Planes
from gpu_extract.patch import Patch, Region

_BLOCK_FORMATS = frozenset(  # a chroma sample is used as it is for its 2 or 4 pixels
    ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p")
)
_DEEP_FORMATS = {f"yuv{kind}p{bits}le": bits for kind in (420, 422) for bits in (9, 10, 12)}
_FORMULA_FORMATS = dict.fromkeys(_BLOCK_FORMATS, 8) | _DEEP_FORMATS
"""And the bits of a sample."""
_HALVED = re.compile(r"yuvj?4(20|22|40)p\d*([bl]e)?$")  # chroma of half the width, of half the height, or of both
_MARGIN = 16  # pixels around a cut-out that its edge may spoil: four samples of chroma reach eight pixels far
_GRID = 8  # cut-outs start at multiples of it: of the chroma steps, and of the pattern with which swscale dithers
_SMALLEST = 8  # sides of a frame below which nothing is gained

# A context of swscale is rebuilt when the size changes, which costs as much as 100 rows; few sizes are few rebuilds.
_SIZE_STEP = 32

_KNOWN_MATRICES = frozenset((0, 1, 2, 4, 5, 6, 7, 9))  # to today's swscale

_TINY = 16  # sides of a frame that only tells where chroma lies; of all formats with a formula

_PLACES = {
    "center": (False, 1),
    "left": (True, 1),
    "top": (False, 0),
    "topleft": (True, 0),
    "bottom": (False, 2),
    "bottomleft": (True, 2),
}
"""Where chroma lies, as FFmpeg calls it: `left` and `down` of a layout."""

# Levels between another processor's swscale and the formula of x86, at most. For noise aarch64's is 3 away at 8 bits, 5
# at 9 to 12; the formula of another range 16, of chroma in another column 32, of another matrix 13, or 8 in a picture
# that is tiny. Only BT.601 and FCC, BT.709 and SMPTE 240M are too near each other: tags alone tell these apart.
_NEAR = 6


class Formula(NamedTuple):
    coefficients: yuv.Coefficients
    layout: yuv.Layout


CUT_OUT, WHOLE = "cut-out", "whole"
_Way = Formula | str
"""A formula, or CUT_OUT, or WHOLE."""


class _Reformatters(threading.local):
    """Reformatters for each thread, and for each size that frames have; they are not shared, swscale keeps state."""

    def __init__(self) -> None:
        self.whole = VideoReformatter()
        self.region = VideoReformatter()
        self.shrinking = VideoReformatter()
        self.tiny = VideoReformatter()


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
    if isinstance(way, Formula):
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
    if not isinstance(way, Formula):
        return None
    return Planes(y, u, v, strides, frame.height, frame.width, *way)


def notes_on(frame: av.VideoFrame, pixels: str) -> tuple[str, ...]:
    """Sentences for whoever expects the pixels of x86-64 on another processor."""
    if processor.is_x86() or not _is_subsampled(frame) or isinstance(_way(frame, pixels), Formula):
        return ()
    return (
        f"frames of this kind ({frame.format.name}, {frame.width} x {frame.height}) are converted by FFmpeg's code for "
        f"this processor ({processor.name()}), whose pixels may be a level or two away from those of x86-64, and more "
        "at edges of colours; hashes that were stored there may not come out again.",
    )


def _is_subsampled(frame: av.VideoFrame) -> bool:
    """Whether chroma has fewer samples than luma; where not, aarch64 converts as x86 does."""
    return (frame.format.chroma_width(_TINY), frame.format.chroma_height(_TINY)) != (_TINY, _TINY)


def formats_like_x86() -> list[str]:
    """Pixel formats of which frames with even sides come out as on x86-64, though this is another processor."""
    frames = (av.VideoFrame(4 * _TINY, 4 * _TINY, name) for name in sorted(_FORMULA_FORMATS))
    return [frame.format.name for frame in frames if isinstance(_way(frame, "direct"), Formula)]


def _way(frame: av.VideoFrame, pixels: str) -> _Way:
    return _known_way(frame, pixels, all(plane.line_size >= 0 for plane in frame.planes))


def _known_way(frame: av.VideoFrame, pixels: str, upright: bool) -> _Way:
    siting = _siting(frame) if pixels == "direct" and frame.format.name in _DEEP_FORMATS else None
    key = (pixels, frame.format.name, frame.width, frame.height, upright, *_tags(frame), siting)
    way = _ways.get(key)
    if way is None:
        with _trying:
            way = _ways.get(key)
            if way is None:
                way = _ways[key] = _try_out(frame, pixels, siting)
    return way


def _siting(frame: av.VideoFrame) -> bytes | None:
    """Bytes that differ where frames, alike but for that, say that their chroma lies in different places.

    None where that does not matter: the frame is copied before it is converted.
    """
    if frame.interlaced_frame:
        return None
    return _converted_noise(_another(_reformatters.shrinking, frame, _TINY, _TINY))


def _converted_noise(tiny: av.VideoFrame) -> bytes:
    """What becomes of a tiny frame once it is filled with noise."""
    for plane, noise in zip(tiny.planes, _tiny_noise(tiny.format.name), strict=True):
        plane.update(noise)
    return _convert(_reformatters.tiny, tiny, "direct").tobytes()


def _another(reformatter: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Another frame that says the same of its colours and of where its chroma lies; of its picture, nothing is left."""
    if (frame.width, frame.height) == (width, height):  # PyAV would give the frame itself
        frame = _resized(reformatter, frame, _TINY if width > _TINY else 2 * _TINY, _TINY)
    return _resized(reformatter, frame, width, height)


def _resized(reformatter: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    tags = _tags(frame)
    frame.colorspace = piped.BT601  # any that swscale knows
    resized = reformatter.reformat(frame, width=width, height=height, interpolation=Interpolation.POINT, threads=1)
    _set_tags(frame, tags)
    _set_tags(resized, tags)
    return resized


def _try_out(frame: av.VideoFrame, pixels: str, siting: bytes | None) -> _Way:
    """The quickest way that gives for noise what the conversion of the whole gives, or would give on x86."""
    has_formula = yuv.is_available() and _has_formula(frame)
    can_be_cut = _can_be_cut(frame, pixels)
    if not (has_formula or can_be_cut):
        return WHOLE
    noise = _noise_like(frame)
    height, width = frame.height, frame.width
    whole = _convert(_reformatters.whole, noise, pixels)
    _tag_like(frame, noise)  # which PyAV has altered
    if has_formula:
        for formula in _formulas(frame.format.name, pixels):
            if not np.array_equal(_by_formula(noise, Region(0, 0, width, 2), formula), whole[:2]):
                continue
            if np.array_equal(_by_formula(noise, Region(0, 0, width, height), formula), whole):
                return formula
        if not processor.is_x86() and (likely := _formula_of_x86(frame, pixels, siting)) is not None:
            return likely
    if not can_be_cut:
        return WHOLE
    x, y, w, h = width // 3, height // 3, min(width, 90), min(height, 70)
    corners = [Region(0, 0, w, h), Region(width - w, height - h, width, height), Region(width - w, y, width, y + h)]
    others = [Region(x, y, x + w, y + h), Region(2 * x, 0, 2 * x + 9, 5), Region(x, height - 1, x + 1, height)]
    parts = (_converted_cut_out(noise, clip_region(region, height, width), pixels) for region in corners + others)
    return CUT_OUT if all(_is_part_of(whole, part) for part in parts) else WHOLE


def _is_part_of(whole: np.ndarray, part: Patch) -> bool:
    rows, columns = part.pixels.shape[:2]
    return np.array_equal(part.pixels, whole[part.y0 : part.y0 + rows, part.x0 : part.x0 + columns])


def _formulas(format_name: str, pixels: str) -> Iterator[Formula]:
    """Those that there are for a format."""
    bits, halved = _FORMULA_FORMATS[format_name], "420" in format_name
    layouts = [yuv.Layout(bits, halved)]
    if format_name in _DEEP_FORMATS and pixels == "piped":
        layouts = [yuv.Layout(bits, halved, cubic=True)]
    elif format_name in _DEEP_FORMATS:
        rows = (1, 0, 2) if halved else (1,)
        layouts = [yuv.Layout(bits, halved, left, down) for left in (True, False) for down in rows]
    return starmap(Formula, product(yuv.COEFFICIENTS, layouts))


def _formula_of_x86(frame: av.VideoFrame, pixels: str, siting: bytes | None) -> Formula | None:
    """The one that x86 would need, which this processor's swscale must be near; None where that is not certain."""
    name = frame.format.name
    bits, halved = _FORMULA_FORMATS[name], "420" in name
    layout = yuv.Layout(bits, halved)
    if name in _DEEP_FORMATS:
        if pixels == "piped":  # computed alike by all: what does not equal the formula here does not on x86 either
            return None
        place = _PLACES["center"] if siting is None else _place_of_chroma(frame, siting)
        if place is None:
            return None
        left, down = place
        layout = yuv.Layout(bits, halved, left, down if halved else 1)
    likely = Formula(_coefficients_of(frame, pixels), layout)
    noise = _noise_like(frame)
    if name in _DEEP_FORMATS:
        # Between two rows of chroma x86 takes one or the mean, others what lies between; so let them be alike.
        for plane in noise.planes[1:]:
            samples(plane)[:] = samples(plane)[0].copy()
    whole = _convert(_reformatters.whole, noise, pixels).astype(np.int16)
    _tag_like(frame, noise)
    apart = np.abs(_by_formula(noise, Region(0, 0, frame.width, frame.height), likely) - whole)
    return likely if apart.max() <= _NEAR else None


def _coefficients_of(frame: av.VideoFrame, pixels: str) -> yuv.Coefficients:
    """Those that the frame's tags ask for."""
    goes_by_name = pixels == "direct" or frame.color_range != piped.LIMITED
    is_full = frame.color_range == piped.FULL or (goes_by_name and frame.format.name.startswith("yuvj"))
    return yuv.coefficients_of(piped.matrix_named(frame.colorspace), is_full)


def _place_of_chroma(frame: av.VideoFrame, siting: bytes) -> tuple[bool, int] | None:
    """`left` and `down` of a layout, of the place with which a tiny frame gives those bytes; None if none does."""
    for location, place in _PLACES.items():
        tiny = _placed(av.VideoFrame(_TINY, _TINY, frame.format.name), location)
        _tag_like(frame, tiny)
        if _converted_noise(tiny) == siting:
            return place
    return None


def _placed(frame: av.VideoFrame, location: str) -> av.VideoFrame:
    """The same frame, saying where its chroma lies, which PyAV can set with a filter only."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25))
    marker, sink = graph.add("setparams", f"chroma_location={location}"), graph.add("buffersink")
    graph.link_nodes(source, marker, sink).configure()
    graph.push(frame)
    placed = graph.pull()
    assert isinstance(placed, av.VideoFrame)
    return placed


def _has_formula(frame: av.VideoFrame) -> bool:
    """Whether there may be one: of its format, for rows from the top."""
    is_even = frame.width % 2 == 0 and frame.height % 2 == 0
    is_known = frame.format.name in _FORMULA_FORMATS and min(frame.width, frame.height) >= _SMALLEST
    return is_even and is_known and all(one.line_size > 0 for one in frame.planes)


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


def _by_formula(frame: av.VideoFrame, region: Region, formula: Formula) -> np.ndarray:
    y, u, v = frame.planes
    strides = y.line_size, u.line_size, v.line_size
    return yuv.to_bgr((y, u, v), strides, *region, *formula, (frame.height, frame.width))


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
    """Of the same kind, and with its chroma in the same place where that matters."""
    if frame.format.name not in _DEEP_FORMATS or frame.interlaced_frame:
        noise = av.VideoFrame(frame.width, frame.height, frame.format.name)
        _tag_like(frame, noise)
        return _noisy(noise)
    return _noisy(_another(VideoReformatter(), frame, frame.width, frame.height))


def _noisy(frame: av.VideoFrame) -> av.VideoFrame:
    """Filled with what is always the same, with a period that is no multiple of a row."""
    for i, (plane, component) in enumerate(zip(frame.planes, frame.format.components, strict=False)):
        words = np.frombuffer(shake_128(bytes((i,))).digest(65521 * 2), np.uint16)
        samples = words.astype(np.uint8) if component.bits <= 8 else words & ((1 << component.bits) - 1)
        plane.update(np.resize(samples, plane.buffer_size // samples.itemsize).tobytes())
    return frame


@cache
def _tiny_noise(format_name: str) -> list[bytes]:
    """The planes of a tiny frame."""
    return [bytes(plane) for plane in _noisy(av.VideoFrame(_TINY, _TINY, format_name)).planes]


def _tags(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc


def _tag_like(frame: av.VideoFrame, other: av.VideoFrame) -> None:
    _set_tags(other, _tags(frame))


def _set_tags(frame: av.VideoFrame, tags: tuple[int, int, int, int]) -> None:
    frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc = tags
