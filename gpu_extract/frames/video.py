"""A video as frames, decoded with PyAV on the CPU; numbering and names are those of SPEC 1.6."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gpu_extract.errors import FrameError, InputError
from gpu_extract.frames.base import (
    VIDEO_EXTENSIONS,
    Frame,
    FrameFailure,
    FrameSource,
    SourceOptions,
    check_wanted,
    split_name,
)
from gpu_extract.frames.container import open_container, probe
from gpu_extract.frames.yuv import to_bgr
from gpu_extract.patch import Patch, Region

MAX_DEMUX_ERRORS = 16  # in a row; a damaged file may need a few tries to find the next packet


def accepts(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in VIDEO_EXTENSIONS or probe(path) is not None)


def open_source(path: Path, options: SourceOptions) -> VideoSource:
    return VideoSource(path, options)


class VideoSource(FrameSource):
    """The first video stream of a file that is not a cover picture."""

    kind = "video"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self._options = options
        self._stem, self._extension = split_name(path.name)
        self._key_extensions = VIDEO_EXTENSIONS | {".png", self._extension.lower()}
        self._guard = threading.Lock()  # held while FFmpeg works on the container, so that close() waits for it
        self._closed = False
        self._container: InputContainer | None = open_container(path)
        stream = self._video_stream(self._container)
        self._size = (stream.codec_context.height, stream.codec_context.width)
        self._unused = True

    def index_of(self, name: str) -> int | None:
        stem, extension = split_name(name)
        prefix = self._stem + "_"
        if extension.lower() not in self._key_extensions or not stem.startswith(prefix):
            return None
        digits = stem[len(prefix) :]
        plain = digits.isascii() and digits.isdigit() and len(digits) <= 18
        if not plain or len(digits) < 6 or (len(digits) > 6 and digits[0] == "0") or int(digits) == 0:
            return None
        return int(digits) - 1

    def name_of(self, index: int) -> str:
        return f"{self._stem}_{index + 1:06d}{self._extension}"

    def size_of(self, index: int) -> tuple[int, int]:
        return self._size

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        remaining = iter(check_wanted(wanted).tolist())
        target = next(remaining, None)
        index = -1
        for index, picture in enumerate(self._decode()):
            if index == target:
                yield VideoFrame(index, self.name_of(index), picture)
                target = next(remaining, None)
            if target is None and self._options.skip_unwanted:
                return
        if index < 0:
            raise InputError(f"no frame of the video '{self.path}' can be decoded.")
        self.frames_seen = index + 1
        while target is not None:
            reason = f"the video ends after {index + 1} frames that can be decoded."
            yield FrameFailure(target, self.name_of(target), reason)
            target = next(remaining, None)

    def close(self) -> None:
        with self._guard:
            self._closed = True
            if self._container is not None:
                self._container.close()
                self._container = None

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Every frame that the decoder gives, in its order; packets that it refuses are passed over."""
        with self._guard:
            container = self._restarted()
            stream = self._video_stream(container)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = self._options.threads or 0
        for packet in self._packets(container, stream):
            with self._guard:
                if self._closed:
                    return
                try:
                    pictures = stream.codec_context.decode(packet)
                except av.error.FFmpegError:
                    pictures = []
            self.frames_decoded += len(pictures)
            yield from pictures

    def _packets(self, container: InputContainer, stream: VideoStream) -> Iterator[av.Packet | None]:
        """The stream's packets, then None; an unreadable spot in the file is passed over where FFmpeg can go on."""
        errors = 0
        while errors < MAX_DEMUX_ERRORS:
            demuxed = container.demux(stream)
            while True:
                with self._guard:
                    if self._closed:
                        return
                    try:
                        packet = next(demuxed, None)
                    except av.error.FFmpegError:
                        errors += 1
                        break
                if packet is None:
                    yield None
                    return
                # FFmpeg's decoders take an empty packet for the end of the stream; AVI has them where a frame repeats.
                if packet.size:
                    errors = 0
                    yield packet
        yield None

    def _restarted(self) -> InputContainer:
        if self._closed:
            raise ValueError("the video is closed.")
        if self._container is None or not self._unused:
            if self._container is not None:
                self._container.close()
            self._container = open_container(self.path)
        self._unused = False
        return self._container

    def _video_stream(self, container: InputContainer) -> VideoStream:
        attached = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & attached]
        if not streams:
            container.close()
            raise InputError(f"'{self.path}' has no video stream.")
        if streams[0].codec_context is None:
            container.close()
            raise InputError(f"the codec of the video '{self.path}' has no decoder here; re-encode it as H.264.")
        return streams[0]


class VideoFrame(Frame):
    """Keeps its decoded picture until it is dropped; drop it once it is loaded."""

    def __init__(self, index: int, name: str, picture: av.VideoFrame) -> None:
        self.index = index
        self.name = name
        self._picture = picture
        self._guard = threading.Lock()

    @property
    def height(self) -> int:
        return int(self._picture.height)

    @property
    def width(self) -> int:
        return int(self._picture.width)

    def load(self, region: Region | None = None) -> Patch:
        with self._guard:
            try:
                return to_bgr(self._picture, region)
            except (av.error.FFmpegError, ValueError) as error:
                raise FrameError(f"its pixels ({self._picture.format.name}) cannot be converted: {error}.") from error
