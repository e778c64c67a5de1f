"""What an image file says of itself in its header: enough to know its size, and whether to decode it at all.

Only the five formats that frames come in are known. `read_header` returns None for anything else and for a header that
ends early, so a caller can refuse a file before a decoder allocates what the file asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpu_extract import png_file

# A 16-bit or paletted image, APNG frames, transparency and orientation change what OpenCV makes of a file; the chunks
# below do not: OpenCV ignores colour profiles and gamma, and text is text.
PNG_PLAIN_CHUNKS = frozenset(
    (b"IHDR", b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP")
)

EXIF_PREFIX = b"Exif\0\0"
JPEG_SCAN = 0xDA
JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_TRANSPOSING_ORIENTATIONS = frozenset((5, 6, 7, 8))


PNG_ANIMATION_CHUNKS = frozenset((b"acTL", b"fcTL", b"fdAT"))


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded."""

    format: str
    height: int
    """Pixels of the image as it is decoded: turned by its EXIF orientation, or not."""
    width: int
    plain_png: bool = False
    """8-bit RGB(A) with nothing that alters pixels."""
    channels: int = 0
    """Of a plain PNG: 3 or 4."""
    animated: bool = False
    """A PNG that holds an animation beside its still picture."""


def read_header(data: bytes, *, turned: bool = True) -> Header | None:
    """The header of an image file; None if it is none of the known formats, or ends early.

    Args:
        turned: whether the EXIF orientation of PNG, JPEG and WebP is followed; OpenCV follows that of TIFF always.
    """
    try:
        if data.startswith(png_file.SIGNATURE):
            return _png(data, turned)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data, turned)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data, turned)
    except (struct.error, IndexError):
        return None
    return None


def _oriented(name: str, height: int, width: int, orientation: int) -> Header:
    if orientation in _TRANSPOSING_ORIENTATIONS:
        return Header(name, width, height)
    return Header(name, height, width)


def _png(data: bytes, turned: bool) -> Header:
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", data, 16)
    plain = depth == 8 and colour in (2, 6) and interlace == 0
    orientation = 1
    ended = animated = False
    for chunk in png_file.chunks(data, passed_over=b"IDAT"):
        if chunk.kind in PNG_ANIMATION_CHUNKS:
            animated = True
        elif chunk.kind != b"eXIf" or turned:
            plain = plain and chunk.kind in PNG_PLAIN_CHUNKS
        if chunk.kind == b"eXIf" and turned:
            orientation = exif_orientation(data[chunk.start : chunk.stop])
        if chunk.kind == b"IEND":
            ended = chunk.start == chunk.stop and png_file.is_intact(data, chunk)
            break
    plain = plain and ended
    if plain:
        return Header("PNG", height, width, True, 3 if colour == 2 else 4, animated)
    return replace(_oriented("PNG", height, width, orientation), animated=animated)


def _jpeg(data: bytes, turned: bool) -> Header | None:
    """Of several EXIF blocks the first one counts, wherever before the scan it stands."""
    size: tuple[int, int] | None = None
    orientation: int | None = None
    for marker, position, length in jpeg_segments(data):
        if marker in JPEG_FRAME_MARKERS and size is None:
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = (height, width)
        elif marker == 0xE1 and orientation is None and data.startswith(EXIF_PREFIX, position + 4):
            orientation = exif_orientation(data[position + 10 : position + 2 + length])
    return None if size is None else _oriented("JPEG", *size, orientation or 1 if turned else 1)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, position of its 0xFF byte, length that it gives) of each segment of a JPEG, the first scan's the last.

    Ends early where the file is damaged; raises struct.error or IndexError where it is cut off.
    """
    position = 2
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:
            position += 1
        if data[position] != 0xFF:
            return
        marker = data[position + 1]
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        if marker == 0xD9:
            return
        (length,) = struct.unpack_from(">H", data, position + 2)
        yield marker, position, length
        if marker == JPEG_SCAN:
            return
        position += 2 + length


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("BMP", abs(height), width)


def _tiff(data: bytes) -> Header | None:
    tags = _tiff_tags(data)
    if 256 not in tags or 257 not in tags:
        return None
    return _oriented("TIFF", tags[257], tags[256], tags.get(274, 1))


def _webp(data: bytes, turned: bool) -> Header | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        if data[20] & 0x08 and turned:
            return _oriented("WebP", height, width, _webp_orientation(data))
        return Header("WebP", height, width)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header("WebP", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", height & 0x3FFF, width & 0x3FFF)
    return None


def _webp_orientation(data: bytes) -> int:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return exif_orientation(data[position + 8 : position + 8 + length].removeprefix(EXIF_PREFIX))
        position += 8 + length + length % 2
    return 1


def exif_orientation(tiff: bytes) -> int:
    """Orientation 1–8 of an EXIF block (a TIFF without pixels); 1 where there is none or the block is broken."""
    try:
        orientation = _tiff_tags(tiff).get(274, 1)
    except (struct.error, IndexError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _tiff_tags(data: bytes) -> dict[int, int]:
    """First value of each one-number tag of the first directory, classic or big."""
    order = "<" if data[:1] == b"I" else ">"
    (version,) = struct.unpack_from(order + "H", data, 2)
    big = version == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    entry_size, value_at = (20, 12) if big else (12, 8)
    first = start + (8 if big else 2)
    tags = {}
    for entry in range(first, first + min(count, 4096) * entry_size, entry_size):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter and tag not in tags and (big or letter != "Q"):
            (tags[tag],) = struct.unpack_from(order + letter, data, entry + value_at)
    return tags
