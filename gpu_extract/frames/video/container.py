"""Opens a video file, and only a video file.

FFmpeg guesses a format from content, and some of what it guesses are lists that name further files and addresses
(HLS, concat, DASH, numbered images). So the format is decided here, from the first bytes, among plain containers;
FFmpeg is told which one, and may use no protocol but `file`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from gpu_extract.errors import InputError
from gpu_extract.storage.contents import PHOTO_BRANDS, what_it_is
from gpu_extract.storage.inputs import open_input

PROBE_BYTES = 2048

# PyAV looks a packet's stream up in a list that is not grown when a stream appears in the middle of a file.
READ_ERRORS = (av.error.FFmpegError, IndexError)

# A decoder that FFmpeg did not open is an unknown one to PyAV from the second packet on, since PyAV 19.
DECODE_ERRORS = (av.error.FFmpegError, ValueError)

# Tags that are not UTF-8 are no reason to refuse a video. PyAV 19 never minds them, and knows no such argument.
_ANY_TAGS: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}

_MOV_ATOMS = frozenset((b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"uuid"))
_TS_PACKET_SIZES = (188, 192, 204)


def container_format(head: bytes) -> str | None:
    """FFmpeg's name of the container that a file's first bytes begin; None if it is no plain video container."""
    if head[4:8] == b"ftyp" and head[8:12] in PHOTO_BRANDS:
        return None
    if head[4:8] in _MOV_ATOMS:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"AVIX"):
        return "avi"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "asf"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpeg"
    if head.startswith(b"\x00\x00\x01\xb3"):
        return "mpegvideo"
    if head.startswith(b"OggS"):
        return "ogg"
    if _is_transport_stream(head):
        return "mpegts"
    return None


def _is_transport_stream(head: bytes) -> bool:
    """Three sync bytes at the distance of one of the packet sizes, wherever in the first packet the first one is."""
    return any(
        all(head[start + step * size : start + step * size + 1] == b"\x47" for step in range(3))
        for size in _TS_PACKET_SIZES
        for start in range(size)
    )


def probe(path: Path) -> str | None:
    """`container_format` of a regular file; None for anything else. Raises InputError if it cannot be opened."""
    return container_format(_head(path)) if path.is_file() else None


def _head(path: Path) -> bytes:
    try:
        with open_input(path, "the video") as file:
            return file.read(PROBE_BYTES)
    except OSError as error:
        raise InputError(f"the video '{path}' cannot be opened: {error.strerror}.") from error


def open_container(path: Path, *, like_program: bool = False, hwaccel: HWAccel | None = None) -> InputContainer:
    """Raises InputError if the file is no plain video container or FFmpeg cannot read its header.

    like_program: look as far into a transport stream as the ffmpeg program does, which may guess another frame rate.
    hwaccel: what decodes; the CPU by default.
    """
    name = probe(path)
    if name is None and (other := what_it_is(_head(path))) is not None:
        raise InputError(f"'{path}' is no video; it is {other}.")
    if name is None:
        raise InputError(
            f"'{path}' is not a video in a known container: its first bytes are none of mp4/mov, mkv/webm, avi, ts, "
            "mpg/vob, flv, wmv or ogv; remux it, for example to mkv."
        )
    options = {"protocol_whitelist": "file"}
    if like_program and name == "mpegts":
        options["scan_all_pmts"] = "1"
    try:
        opened: InputContainer = av.open(
            "file:" + os.path.abspath(path),  # noqa: PTH100 - a Path would change names that are not UTF-8
            format=name,
            options=options,
            hwaccel=hwaccel,
            **_ANY_TAGS,
        )
        return opened
    except (av.error.FFmpegError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise InputError(f"the video '{path}' cannot be read: {detail}.") from error
