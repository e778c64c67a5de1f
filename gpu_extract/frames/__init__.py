"""Where frames come from: a folder of images or a video.

`open_frames` asks each module of `sources/` in turn: `accepts(path)`, then `open_source(path, options)`. A new kind of
source is one new file there.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpu_extract import plugins
from gpu_extract.errors import InputError
from gpu_extract.frames.base import Frame, FrameFailure, FrameSource, Reading, SourceOptions
from gpu_extract.storage.contents import HEAD_BYTES, what_it_is
from gpu_extract.storage.inputs import open_input, unreadable
from gpu_extract.storage.placeholders import why_not_there

__all__ = ["Frame", "FrameFailure", "FrameSource", "Reading", "SourceOptions", "open_frames"]


SOURCES = "gpu_extract.frames.sources"


def open_frames(
    path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    timing: str = "decoded",
    rotate: bool = False,
    skip_unwanted: bool = True,
    pixels: str = "direct",
    device: str | None = None,
) -> FrameSource:
    """Opens a folder of images or a video.

    threads        decoder threads of a video, None = as many as pay on this machine
    timing         how the frames of a video are numbered: "decoded" = every decoded frame once; "constant" = as a
                   constant-frame-rate stream, frames repeated or dropped, as files made before March 2026 have
                   it (docs/formats.md#timing)
    rotate         whether a video's display matrix and an image's EXIF orientation are followed
    skip_unwanted  whether parts of a video that hold nothing wanted may be left undecoded; `frames_seen` stays unknown
                   where that happened
    pixels         how a video's frames become BGR: "direct" = as PyAV converts them; "piped" = as the ffmpeg program
                   did in a pipe, whose hashes files from before March 2026 hold (docs/formats.md#pixels)
    device         the CUDA device ("cuda:0") that decodes a video and keeps its frames (docs/gpu.md); None = the CPU

    Raises InputError if the path is missing, is not a known kind of source, or holds no frames, and DeviceError if the
    device cannot decode it to the same pixels.
    """
    source = Path(path)
    try:
        is_there = source.exists()
    except OSError as error:
        raise unreadable(source, "the frames", error) from error
    if not is_there:
        if why := why_not_there(source):
            raise InputError(f"'{source}' is there, but {why}.")
        raise InputError(f"no frames at '{source}': pass a folder of images or a video file.")
    options = SourceOptions(threads, timing, rotate, skip_unwanted, pixels, device)
    for name in plugins.names(SOURCES):  # one after another: a folder of images need not import PyAV
        module = plugins.module(SOURCES, name)
        try:
            if module.accepts(source):
                opened: FrameSource = module.open_source(source, options)
                return opened
        except OSError as error:
            raise unreadable(source, "the frames", error) from error
    if source.is_file() and (other := what_it_is(_head(source))) is not None:
        raise InputError(f"'{source}' is neither a folder of images nor a video; it is {other}.")
    raise InputError(
        f"'{source}' is neither a folder of images nor a video in a known container "
        "(mp4, mov, mkv, webm, avi, ts, mpg, vob, flv, wmv, ogv)."
    )


def _head(path: Path) -> bytes:
    try:
        with open_input(path, "the frames") as file:
            return file.read(HEAD_BYTES)
    except (OSError, InputError):
        return b""
