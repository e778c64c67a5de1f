"""What a face PNG says of itself: the iTXt chunk with the face's alignment and its source.

The chunk's text is a Python dict literal, `{'alignments': {...}, 'source': {...}}`, as `str()` prints it. Its layout
follows the release that the alignments file was made for:

    2.1           x, w, y, h; masks without stored_centering; no identity; no source_frame_dims
    2.2           masks with stored_centering; source_frame_dims (height, width), which releases have written since
                  July 2021 and without which current ones refuse the face
    2.3, 2.4      identity
    2.4, lists    files that hold lists instead of arrays: x, y, w, h; source_frame_dims a list; mask matrices 3x3,
                  and they and identities rounded to float32
"""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.alignments.generation import Traits
from gpu_extract.errors import InputError
from gpu_extract.naming import path_of

PREFIX = b"faceswap" + b"\0" + b"\0\0" + b"\0" + b"\0"
"""Keyword; compression flag and method; language tag; translated keyword. The text follows."""
LANDMARK_MASKS = ("components", "extended")
"""Masks drawn from landmarks: releases whose files hold lists neither read nor write them."""

MAX_TEXT_BYTES = 16 << 20  # a real header has 4 to 100 KB; each mask may add four times its compressed bytes
MAX_VALUES = 200_000  # numbers and names in a header; each costs the parser about 0.5 KB
MAX_DEPTH = 8  # a real header nests to 5
MAX_CHUNKS = 1024  # before the pixels

# Possessive, and with the closing quote optional, so that no hostile text costs more than one pass over it; Python
# itself refuses a string that does not end.
_STRING = re.compile(r"b?'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'?" + r'|b?"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?')
_PLAIN = re.compile(r"(?>True|False|None|-?[0-9][0-9.]*+(?:e[+-]?[0-9]++)?+|[\[\](){},: ]|'')*+")
_TWO_STRINGS = "''''"  # one directly after the other, as in a triple-quoted one, which would be scanned wrongly
_PARSING = threading.Lock()  # up to Python 3.12 two threads in the parser may end in a SystemError
_NOT_BRACKETS = re.compile(r"[^\[\](){}]+")


@dataclass(frozen=True)
class FaceFile:
    """What a face file holds."""

    pixels: np.ndarray  # [S, S, 3] uint8 BGR
    header: dict[str, Any] | None
    """`{"alignments": {...}, "source": {...}}`; None where the file carries none."""


def face_header(
    alignments_version: float,
    record: Mapping[str, Any],
    face_index: int,
    frame_name: str,
    frame_height: int,
    frame_width: int,
    is_video: bool,
) -> bytes | None:
    """All data of a face's iTXt chunk, keyword to text; None for versions before 2.1, whose faces carry no header.

    Args:
        alignments_version: of the loaded file.
        record: the face as the file stores it, with arrays or with lists; keys that belong to no header are left out.
        face_index: position in its frame's list.
        frame_name: the frame's key in the file.
        frame_height, frame_width: pixels.
        is_video: whether the frame came from a video.

    Raises:
        InputError: if the record lacks something that the header needs, or holds a number that is not finite: such a
            header could not be read back.
    """
    traits = Traits(alignments_version)
    if not traits.has_headers:
        return None
    try:
        lists = traits.may_hold_lists and isinstance(record["landmarks_xy"], list)
        names = ("x", "y", "w", "h") if lists else ("x", "w", "y", "h")
        face: dict[str, Any] = {name: _number(record[name], name) for name in names}
        face["landmarks_xy"] = _floats(record["landmarks_xy"], np.float32, "landmarks").tolist()
        face["mask"] = {
            str(name): _mask(mask, str(name), traits, lists)
            for name, mask in (record.get("mask") or {}).items()
            if not (lists and name in LANDMARK_MASKS)
        }
        if traits.has_identity:
            dtype = np.float32 if lists else np.float64
            face["identity"] = {
                str(name): _floats(values, dtype, f"identity {name!r}").tolist()
                for name, values in (record.get("identity") or {}).items()
            }
    except KeyError as error:
        raise InputError(f"the face's record has no {error.args[0]!r}, which its PNG header needs.") from None
    source: dict[str, Any] = {
        "alignments_version": float(alignments_version),
        "original_filename": f"{PurePosixPath(frame_name).stem}_{int(face_index)}.png",
        "face_index": int(face_index),
        "source_filename": frame_name,
        "source_is_video": bool(is_video),
    }
    if traits.headers_have_frame_size:
        height, width = int(frame_height), int(frame_width)
        source["source_frame_dims"] = [height, width] if lists else (height, width)
    return PREFIX + str({"alignments": face, "source": source}).encode("utf-8")


def _mask(mask: Mapping[str, Any], name: str, traits: Traits, lists: bool) -> dict[str, Any]:
    if not isinstance(mask, Mapping) or not isinstance(mask["mask"], (bytes, bytearray, np.ndarray)):
        raise InputError(f"mask {name!r} of the face's record is no mask: a dict with compressed bytes is expected.")
    matrix = _floats(mask["affine_matrix"], np.float32 if lists else np.float64, f"the matrix of mask {name!r}")
    if matrix.shape not in ((2, 3), (3, 3)):
        shape = " x ".join(map(str, matrix.shape)) or "one number"
        raise InputError(f"the matrix of mask {name!r} is {shape}; 2 x 3 and 3 x 3 are understood.")
    if lists and len(matrix) == 2:
        matrix = np.concatenate([matrix, np.array([[0, 0, 1]], matrix.dtype)])
    found = {
        "mask": bytes(mask["mask"]),
        "affine_matrix": (matrix if lists else matrix[:2]).tolist(),
        "interpolator": _number(mask["interpolator"], f"the interpolator of mask {name!r}"),
        "stored_size": _number(mask["stored_size"], f"the size of mask {name!r}"),
    }
    if traits.masks_have_centering:
        # Faces that an older file brought along have none; releases from 2.2 on take them for "face".
        found["stored_centering"] = str(mask.get("stored_centering", "face"))
    return found


def _floats(values: Any, dtype: type[np.float32] | type[np.float64], what: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(values, dtype)
    except (TypeError, ValueError):
        raise InputError(f"the face's {what} are not numbers in rows of one length.") from None
    if not np.isfinite(array).all():
        raise InputError(f"the face's {what} hold a number that is not finite, which a PNG header cannot carry.")
    return array


def _number(value: Any, what: str) -> int | float:
    """A Python number: NumPy 2 prints its own as `np.int64(3)`."""
    number = value.item() if isinstance(value, (np.generic, np.ndarray)) and value.size == 1 else value
    if isinstance(number, int):
        return int(number)
    if isinstance(number, float) and np.isfinite(number):
        return float(number)
    raise InputError(f"the face's {what} is {value!r}, which is not a finite number.")


def read_face(path: str | os.PathLike[str]) -> FaceFile:
    """A face image, and what a PNG says of itself.

    Raises:
        InputError: if the file cannot be read or decoded, or its header is damaged.
        UsageError: for what is no path.
    """
    from gpu_extract.frames.images.decode import decode_image, read_file

    try:
        data = read_file(path_of(path))
        header = read_header(data) if data.startswith(png_file.SIGNATURE) else None
        return FaceFile(decode_image(data).pixels, header)
    except InputError as error:
        raise InputError(f"the face {path} cannot be read: {error}") from error


def read_header(source: str | os.PathLike[str] | bytes) -> dict[str, Any] | None:
    """What a face PNG, given as a path or as its bytes, says of itself; None if it carries no header.

    Raises:
        InputError: if the file cannot be read, is not a PNG, or its header is damaged or no plain literal.
    """
    if isinstance(source, bytes):
        return _parsed(source)
    from gpu_extract.frames.images.decode import read_file

    try:
        return _parsed(read_file(Path(source)))
    except InputError as error:
        raise InputError(f"the header of {os.fspath(source)} cannot be read: {error}") from error


def _parsed(png: bytes) -> dict[str, Any] | None:
    text = header_text(png)
    return None if text is None else parse_text(text)


def header_text(png: bytes) -> str | None:
    """Text of the first `faceswap` iTXt chunk before the pixels; None if there is none.

    Raises:
        InputError: if the bytes are no PNG, or a chunk on the way is damaged.
    """
    if not png.startswith(png_file.SIGNATURE):
        raise InputError("this is not a PNG file; only PNG faces carry a header.")
    last: png_file.Chunk | None = None
    for chunk in islice(png_file.chunks(png), MAX_CHUNKS):
        if chunk.kind in (b"IDAT", b"IEND"):
            return None
        if chunk.end > len(png):
            raise InputError(f"the PNG file ends inside its {chunk.name!r} chunk.")
        if chunk.kind == b"iTXt" and png.startswith(PREFIX[:9], chunk.start, chunk.stop):
            return _text_of(png, chunk)
        last = chunk
    if last is not None and last.end + 8 <= len(png):
        raise InputError(f"the PNG file has more than {MAX_CHUNKS} chunks before its pixels.")
    raise InputError("the PNG file ends before its pixels.")


def _text_of(png: bytes, chunk: png_file.Chunk) -> str:
    nbytes = chunk.stop - chunk.start
    if nbytes > MAX_TEXT_BYTES:
        raise InputError(f"the header has {nbytes} bytes; at most {MAX_TEXT_BYTES} are read.")
    if not png_file.is_intact(png, chunk):
        raise InputError("the header's checksum is wrong: the file is damaged.")
    data = png[chunk.start : chunk.stop]
    if not data.startswith(PREFIX):
        raise InputError("the header is compressed or has a language, which no writer of faces does.")
    try:
        return data[len(PREFIX) :].decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("the header is not UTF-8 text.") from None


def with_text(png: bytes, text: str) -> bytes:
    """A face PNG that carries a header, as `header_text` finds it, with another text in its place."""
    for chunk in png_file.chunks(png):
        if chunk.kind == b"iTXt" and png.startswith(PREFIX[:9], chunk.start, chunk.stop):
            new = png_file.chunk_bytes(b"iTXt", PREFIX + text.encode("utf-8"))
            return b"".join((png[: chunk.start - 8], new, png[chunk.end :]))
    raise InputError("the PNG file carries no header.")


def parse_text(text: str) -> dict[str, Any]:
    """The dict of a header's text: a literal of numbers, strings, bytes, lists, tuples and dicts, nothing else.

    Raises:
        InputError: if it is something else, or larger or deeper than any face needs.
    """
    bare = _STRING.sub("''", text)
    brackets = _NOT_BRACKETS.sub("", bare)
    depth = deepest = 0
    for bracket in brackets:
        depth += 1 if bracket in "[({" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or bare.count(",") + len(brackets) > MAX_VALUES:
        raise InputError("the header is deeper or longer than that of any face.")
    if _TWO_STRINGS in bare or not _PLAIN.fullmatch(bare):
        raise InputError("the header is not a plain literal of numbers, strings and lists.")
    try:
        with _PARSING:
            header = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(f"the header is not a literal that can be read ({type(error).__name__}).") from None
    if not isinstance(header, dict):
        raise InputError(f"the header is not a dict but of type {type(header).__name__}.")
    return header
