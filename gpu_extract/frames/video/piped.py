"""What the ffmpeg program gave through a pipe until March 2026, brought about with today's swscale.

That program (4.1 to 5.1 give the same bytes) made rgb24 of each frame so (docs/formats.md#pixels):

- chroma is interpolated bicubically from the middle of its block, whatever the frame says of fields and siting;
- the matrix is that of the frame's tag where this is BT.709, FCC, SMPTE 240M or BT.2020, else BT.601;
- deep planar RGB takes a way through YUV that rounds up, XYZ is computed in 12 bits, deep grey may be of limited range.

Today's swscale looks at more, refuses some tags, and takes other ways with some formats. `plain` alters a frame so that
none of this comes into play.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from gpu_extract.frames.video.planes import copied, samples, words
from gpu_extract.kernels.yuv import MATRICES

LIMITED, FULL = 1, 2  # FFmpeg's color_range
BT601 = 2  # its colorspace where nothing is said
_MATRIX_OF_TAG = {1: "BT.709", 4: "FCC", 7: "SMPTE 240M", 9: "BT.2020"}
_CONSTANT_LUMINANCE, _BT2020 = 10, 9

# Since FFmpeg 8.1 swscale reads these the wrong way round.
_SWAPPED = {f"{order}{depth}be": f"{order}{depth}le" for order in ("rgb", "bgr") for depth in ("555", "565")}

# Formats that decoders give since 2023, with the planar one that they gave before: where a pixel's bytes go.
_PACKED = {
    "vyu444": ("yuv444p", (1, 2, 0)),
    "uyva": ("yuva444p", (1, 0, 2, 3)),
    "vuya": ("yuva444p", (2, 1, 0, 3)),
    "vuyx": ("yuv444p", (2, 1, 0)),
    "ayuv": ("yuva444p", (1, 2, 3, 0)),
}

_SHIFT = 15  # of the factors from RGB to YUV
_ENDING = re.compile(r"(?P<bits>\d*)(?P<endian>[bl]e)?$")


def to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, *, own: bool = False) -> np.ndarray:
    """[H, W, 3] RGB of a whole frame.

    own: the frame was made here for this purpose – it has no siting and no fields – and may be altered.
    """
    # bgr24 would be dithered otherwise.
    made = reformatter.reformat(plain(frame, own=own), format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
    pixels: np.ndarray = made.to_ndarray()
    return pixels


def resized(frame: av.VideoFrame, reformatter: VideoReformatter, height: int, width: int) -> av.VideoFrame:
    """The frame as rgb24 of another size, which the program made of it in one step."""
    return reformatter.reformat(
        plain(frame), width, height, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1
    )


def plain(frame: av.VideoFrame, *, own: bool = False) -> av.VideoFrame:
    """A frame of which today's swscale makes those bytes."""
    made = _relaid(frame)
    if made is not None:
        return made
    matrix, colour_range = matrix_of(frame.colorspace), frame.color_range
    name = frame.format.name
    if name.startswith("yuvj") and colour_range == LIMITED:
        frame, own = copied(frame, name.replace("yuvj", "yuv")), True
    made = frame if own else copied(frame)
    made.colorspace, made.color_range = matrix, colour_range
    return made


def matrix_of(tag: int) -> int:
    """The tag of the matrix that the program took for a tag; swscale knows it today too."""
    if tag == _CONSTANT_LUMINANCE:
        return _BT2020
    return tag if tag in _MATRIX_OF_TAG else BT601


def matrix_named(tag: int) -> str:
    """The name of that matrix in `MATRICES`."""
    return _MATRIX_OF_TAG.get(matrix_of(tag), "BT.601")


def bytes_swapped(frame: av.VideoFrame) -> av.VideoFrame | None:
    """A frame of 16-bit RGB, big endian, as little endian; None of any other format."""
    name = _SWAPPED.get(frame.format.name)
    if name is None:
        return None
    made = av.VideoFrame(frame.width, frame.height, name)
    words(made.planes[0], frame.width, big_endian=False)[:] = words(frame.planes[0], frame.width, big_endian=True)
    return made


def _relaid(frame: av.VideoFrame) -> av.VideoFrame | None:
    """The samples in another format; None where that of the frame will do."""
    relay = _relay_of(frame.format.name)
    return None if relay is None else relay(frame)


@cache
def _relay_of(name: str) -> Callable[[av.VideoFrame], av.VideoFrame | None] | None:
    match = _ENDING.search(name)
    assert match is not None
    bits, big_endian = int(match["bits"] or 8), match["endian"] == "be"
    if name in _SWAPPED:
        return bytes_swapped
    if name in _PACKED:
        return partial(_unpacked, *_PACKED[name])
    if name == "v30xle":
        return _unpacked_v30x
    if name.startswith("xyz12"):
        return partial(_from_xyz, big_endian=big_endian)
    if name.startswith(("gbrp", "gbrap")) and match["endian"] and 9 <= bits <= 16:
        return partial(_from_planar_rgb, bits=bits, big_endian=big_endian)
    if name.startswith(("rgb48", "bgr48", "rgba64", "bgra64")):
        return partial(_from_packed_rgb, big_endian=big_endian)
    if name.startswith("grayf32"):
        return partial(_from_full_float, big_endian=big_endian)
    if name == "ya8" or (name.startswith(("gray", "ya")) and match["endian"] and 9 <= bits <= 16):
        return partial(_from_limited_grey, bits=bits, big_endian=big_endian)
    return None


def _unpacked(name: str, order: tuple[int, ...], frame: av.VideoFrame) -> av.VideoFrame:
    made = _like(frame, name)
    count = len(order)
    pixels = samples(frame.planes[0])[:, : count * frame.width].reshape(frame.height, frame.width, count)
    for plane, position in zip(made.planes, order, strict=True):
        samples(plane)[:, : frame.width] = pixels[..., position]
    return made


def _unpacked_v30x(frame: av.VideoFrame) -> av.VideoFrame:
    """From the lowest bit: two that are unused, ten of U, of Y and of V."""
    made = _like(frame, "yuv444p10le")
    pixels = samples(frame.planes[0])[:, : 4 * frame.width].view("<u4")
    for plane, shift in zip(made.planes, (12, 2, 22), strict=True):
        words(plane, frame.width, big_endian=False)[:] = pixels >> shift & 0x3FF
    return made


def _from_limited_grey(frame: av.VideoFrame, bits: int, big_endian: bool) -> av.VideoFrame | None:
    """Grey of limited range is expanded where it is deep; today's swscale takes all grey for full range."""
    if frame.color_range != LIMITED:
        return None
    made = _like(frame, "yuv444p" if bits == 8 else f"yuv444p{bits}le")
    step = 2 if frame.format.name.startswith("ya") else 1  # which have alpha between
    if bits == 8:
        samples(made.planes[0])[:, : frame.width] = samples(frame.planes[0])[:, : step * frame.width : step]
    else:
        grey = words(frame.planes[0], step * frame.width, big_endian=big_endian)
        words(made.planes[0], frame.width, big_endian=False)[:] = grey[:, ::step]
    for plane in made.planes[1:]:
        if bits == 8:
            samples(plane)[:] = 128
        else:
            samples(plane).view("<u2")[:] = 1 << bits - 1
    return made


def _from_full_float(frame: av.VideoFrame, big_endian: bool) -> av.VideoFrame | None:
    """Grey of full range in 16 bits; today's swscale expands all grey in floating point as if it were limited."""
    if frame.color_range != FULL:
        return None
    made = _like(frame, "gray16le")
    grey = samples(frame.planes[0])[:, : 4 * frame.width].view(">f4" if big_endian else "<f4")
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.rint(np.nan_to_num(grey.astype(np.float32) * np.float32(65535), posinf=65535))
    words(made.planes[0], frame.width, big_endian=False)[:] = np.clip(levels, 0, 65535)
    return made


def _from_planar_rgb(frame: av.VideoFrame, bits: int, big_endian: bool) -> av.VideoFrame:
    """YUV 4:4:4 by the factors of the time; the offsets are half a level too high, as they were then."""
    green, blue, red = (words(plane, frame.width, big_endian=big_endian) for plane in frame.planes[:3])
    kept = min(bits, 14)
    offsets = (33 << _SHIFT + bits - 9, 257 << _SHIFT + bits - 9)
    made = av.VideoFrame(frame.width, frame.height, "yuv444p16le" if bits == 16 else "yuv444p14le")
    _write_yuv(made, matrix_of(frame.colorspace), (red, green, blue), offsets, _SHIFT + kept - 14)
    return made


def _from_packed_rgb(frame: av.VideoFrame, big_endian: bool) -> av.VideoFrame | None:
    """RGB of 16 bits goes through YUV and back by the matrix of its tag; today's swscale goes by BT.601."""
    matrix = matrix_of(frame.colorspace)
    if matrix == BT601:
        return None
    count = 4 if "a" in frame.format.name else 3
    pixels = words(frame.planes[0], count * frame.width, big_endian=big_endian)
    pixels = pixels.reshape(frame.height, frame.width, count)
    order = (0, 1, 2) if frame.format.name.startswith("rgb") else (2, 1, 0)
    rgb = tuple(pixels[..., position] for position in order)
    made = av.VideoFrame(frame.width, frame.height, "yuv444p16le")
    _write_yuv(made, matrix, rgb, (0x2001 << _SHIFT - 1, 0x10001 << _SHIFT - 1), _SHIFT)
    return made


def _write_yuv(
    made: av.VideoFrame, matrix: int, rgb: tuple[np.ndarray, ...], offsets: tuple[int, int], shift: int
) -> None:
    """Planes of 4:4:4: the weighted sums of R, G and B and an offset, of luma or of chroma, without the lowest bits."""
    colours = [colour.astype(np.int32) for colour in rgb]  # sums stay below 2 ** 31
    for i, (plane, factors) in enumerate(zip(made.planes, _factors(matrix), strict=True)):
        total = np.full(colours[0].shape, offsets[i > 0], np.int32)
        for factor, colour in zip(factors, colours, strict=True):
            total += np.int32(factor) * colour
        words(plane, made.width, big_endian=False)[:] = total >> shift
    made.colorspace, made.color_range = matrix, LIMITED


@cache
def _factors(matrix: int) -> tuple[tuple[int, int, int], ...]:
    """Rows Y, U and V of limited range from red, green and blue, in 1/32768, as they were rounded then."""
    if matrix == BT601:
        return ((8414, 16519, 3208), (-4865, -9528, 14392), (14392, -12061, -2332))
    one = 1 << 16
    red_v, blue_u, green_u, green_v = MATRICES[_MATRIX_OF_TAG[matrix]]
    blue, red = _divided(one * one * green_u, blue_u), _divided(one * one * green_v, red_v)
    green = one * one - blue - red
    y, u, v = (_divided(factor * green, one) for factor in (one * 255 // 219, blue_u, red_v))
    unit = 1 << _SHIFT
    return (
        (-_divided(unit * red, y), _divided(unit * one * one, y), -_divided(unit * blue, y)),
        (_divided(unit * red, u), -_divided(unit * one * one, u), _divided(unit * (green + blue), u)),
        (_divided(unit * (red + green), v), -_divided(unit * one * one, v), _divided(unit * blue, v)),
    )


def _divided(a: int, b: int) -> int:
    """To the nearest, halves away from zero."""
    return (abs(a) + b // 2) // b * (1 if a >= 0 else -1)


@cache
def _gammas() -> tuple[np.ndarray, np.ndarray]:
    """[4096] XYZ as stored → linear, and linear RGB → RGB."""
    level = np.arange(4096) / 4095
    return np.rint(level**2.6 * 4095).astype(np.int32), np.rint(level ** (1 / 2.2) * 4095).astype(np.uint16)


_RGB_FROM_XYZ = np.array(((13270, -6295, -2041), (-3969, 7682, 170), (228, -835, 4329)), np.int32)  # in 1/4096


def _from_xyz(frame: av.VideoFrame, big_endian: bool) -> av.VideoFrame:
    """RGB of 12 bits, in the upper ones of 16."""
    linear, gamma = _gammas()
    xyz = words(frame.planes[0], 3 * frame.width, big_endian=big_endian).reshape(frame.height, frame.width, 3)
    rgb = np.clip(linear[xyz >> 4] @ _RGB_FROM_XYZ.T >> 12, 0, 4095)
    made = _like(frame, "rgb48le")
    words(made.planes[0], 3 * frame.width, big_endian=False)[:] = (gamma[rgb] << 4).reshape(frame.height, -1)
    return _relaid(made) or made


def _like(frame: av.VideoFrame, format_name: str) -> av.VideoFrame:
    """An empty frame of another format, with the colours that the program took the frame's for."""
    made = av.VideoFrame(frame.width, frame.height, format_name)
    made.colorspace, made.color_range = matrix_of(frame.colorspace), frame.color_range
    return made
