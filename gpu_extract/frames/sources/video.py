"""A video as frames, decoded with PyAV by the CPU or by a device that keeps them.

Numbers and names are those of docs/formats.md#frame-keys.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from gpu_extract.errors import FrameError, InputError, counted
from gpu_extract.frames.base import (
    Frame,
    FrameFailure,
    FrameSource,
    Reading,
    SourceOptions,
    check_wanted,
)
from gpu_extract.frames.video import processor, streams
from gpu_extract.frames.video.bitstream import DoubtError
from gpu_extract.frames.video.clock import MICROSECOND, ClockFacts, FrameClock, PacketClock
from gpu_extract.frames.video.container import DECODE_ERRORS, READ_ERRORS, open_container, probe
from gpu_extract.frames.video.damage import SEAM, DamageTracker
from gpu_extract.frames.video.decoders import gave_no_frame, has_silent_packets, notes_on
from gpu_extract.frames.video.hardware import Hardware, has_one_siting, obstacle, refused
from gpu_extract.frames.video.hardware import to_bgr as surface_to_bgr
from gpu_extract.frames.video.index import GENERATE_PTS, VideoIndex, read_index
from gpu_extract.frames.video.mp4 import has_composition_offsets
from gpu_extract.frames.video.piped import resized
from gpu_extract.frames.video.skipping import IndexMismatchError, decode_stretches, plan_stretches
from gpu_extract.frames.video.timing import ConstantRate, constant_rate_frames
from gpu_extract.frames.video.turn import UPRIGHT, Turn, turn_of
from gpu_extract.frames.video.yuv import notes_on as notes_on_pixels
from gpu_extract.frames.video.yuv import planes_of, to_bgr
from gpu_extract.kernels.cutter import Planes
from gpu_extract.naming import VIDEO_EXTENSIONS, split_name
from gpu_extract.patch import Patch, Region, Surface

MAX_DECODER_THREADS = 16  # each holds a frame or two
SMALL_PIXELS = 320 * 240  # of a frame that one thread decodes
MAX_PIXELS = 1 << 27  # of a frame; a decoder may hold twenty of them
LOOK_BEYOND = 32  # frames after the last wanted one that are decoded, at most, to learn how many there are
MAX_DEMUX_ERRORS = 16  # in a row; a damaged file may need a few tries to find the next packet

LAST_IN_A_ROW = 10**17  # keys have 18 digits at most
DAMAGED = "the video is damaged at or before this frame, since its last keyframe; its pixels cannot be trusted"

# Reading all packets of a file costs about a hundredth of decoding them; it must have a chance to pay.
WORTHWHILE_GAP = 32  # frames between two wanted ones; shorter gaps seldom hold a whole group of pictures
WORTHWHILE_SHARE = 0.1  # of the frames up to the last wanted one, those in such gaps


class Picture:
    """A decoded frame, and the lock that whoever converts it holds; several `VideoFrame`s may show one.

    surface: of a frame that a device has decoded.
    """

    __slots__ = ("frame", "guard", "surface")

    def __init__(self, frame: av.VideoFrame, surface: Surface | None = None) -> None:
        self.frame, self.surface = frame, surface
        self.guard = threading.Lock()


Decoded = tuple[av.VideoFrame, bool, int]
"""A frame; whether its pixels are what FFmpeg made up, or predicted from that; its time, or 1 if timing is "decoded".
"""


def accepts(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in VIDEO_EXTENSIONS or probe(path) is not None)


def open_source(path: Path, options: SourceOptions) -> VideoSource:
    return VideoSource(path, options)


class VideoSource(FrameSource):
    """One video stream of a file, which one depends on `timing`: see `pick_stream`.

    `skipping` says after an iteration whether parts of the video were left undecoded, or why not. Where FFmpeg
    complains of damage, the frames from there to the next key frame are failures; damage that decodes without any
    complaint cannot be noticed.
    """

    kind = "video"

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path = path
        self.skipping = "not tried"
        self._options = options
        self._stem, self._extension = split_name(path.name)
        self._key_extensions = VIDEO_EXTENSIONS | {".png", self._extension.lower()}
        self._guard = threading.Lock()  # held while FFmpeg works, so that close() waits for it
        self._closed = False
        self._container: InputContainer | None = None
        self._begun: Iterator[Decoded] | None = None  # all frames, of which the decoder has given some already
        self._turn = UPRIGHT
        self._clock_facts: ClockFacts | None = None
        self._index: VideoIndex | None = None
        self._hardware: Hardware | None = None
        self._unread: VideoStream | None = None
        self._resizer = VideoReformatter()
        self._unread = stream = self._at_start()
        self._stored_size = (stream.codec_context.height, stream.codec_context.width)
        if options.timing == "constant":
            assert self._container is not None
            self.notes = (*self.notes, *streams.notes_on(self._container, stream))
        if options.pixels == "piped":
            self.notes = (*self.notes, *notes_on(stream.codec_context.name))
        if options.rotate:
            self._turn = self._display_turn()
        if not processor.is_x86():
            self.notes = (*self.notes, *self._notes_on_pixels())
        if options.device is not None:
            try:
                self._decode_on(options.device)
            except BaseException:
                self.close()
                raise

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

    def indices_of(self, names: Sequence[str]) -> list[int | None]:
        first = self.index_of(names[0]) if names else None
        if first is not None and first + len(names) < LAST_IN_A_ROW:
            extension = split_name(names[0])[1]
            numbers = range(first, first + len(names))
            if names == [f"{self._stem}_{number + 1:06d}{extension}" for number in numbers]:  # as in most files
                return [*numbers]
        return super().indices_of(names)

    def name_of(self, index: int) -> str:
        return f"{self._stem}_{index + 1:06d}{self._extension}"

    def size_of(self, index: int) -> tuple[int, int]:
        return self._turn.size(*self._stored_size)

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        remaining = check_wanted(wanted)
        was_closed = self._closed
        index = self._read_index(remaining)
        if self._closed and not was_closed:
            return
        if index is not None:
            given = -1
            try:
                for frame in self._indexed(index, remaining):
                    yield frame
                    given = frame.index
                return
            except (IndexMismatchError, *READ_ERRORS) as error:
                if self._hardware is not None:
                    raise self._hardware.fault("its pictures are not those that its packets announce") from error
                remaining = remaining[remaining > given]
                self.frames_seen = None
                self.skipping = "given up: the video is damaged, or its frames are not those that its packets announce"
        yield from self._sequential(remaining)

    def reading(self, wanted: np.ndarray) -> Reading:
        index = self._index_of_all() if len(wanted) else None
        if index is None:
            return Reading(np.diff(wanted, prepend=-1).astype(np.float64), np.ones(len(wanted), bool), False)
        try:
            source_of = self._sources(index)
        except IndexMismatchError:
            return Reading(np.diff(wanted, prepend=-1).astype(np.float64), np.ones(len(wanted), bool), False)
        packets = index.packet_of[source_of[np.minimum(wanted, len(source_of) - 1)]]
        entries = index.entries_before(packets)
        read_before = np.maximum.accumulate(np.concatenate([[-1], packets[:-1]]))
        cost = np.maximum(packets - np.maximum(read_before, entries - 1), 0)
        return Reading(cost.astype(np.float64), entries > read_before, True)

    def close(self) -> None:
        self._closed = True  # whoever works under the guard now soon sees it
        with self._guard:
            self._begun = None
            if self._container is not None:
                self._container.close()
                self._container = None

    def _sequential(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        """Decodes from the beginning to the last wanted frame, or to the end where that is near."""
        targets = wanted.tolist()
        remaining = iter(targets)
        never = 1 << 62
        target = next(remaining, never)
        last = (targets[-1] if targets else 0) + LOOK_BEYOND if self._options.skip_unwanted else never
        position = 0  # of the next frame
        picture = None
        for frame, damaged, copies in self._counted():
            position += copies
            if picture is not None and picture.frame is not frame:
                picture = None  # an unwanted one would otherwise be kept until the next wanted one
            if target < position:
                picture = picture or self._picture(frame)
                while target < position:
                    yield self._damaged(target) if damaged else self._frame(target, picture)
                    target = next(remaining, never)
            if position > last:
                return
        if self._closed:
            return
        if not position:
            raise InputError(f"no frame of the video '{self.path}' can be decoded.")
        self.frames_seen = position
        for missing in wanted[wanted >= position].tolist():
            yield self._failure(missing, position)

    def _indexed(self, index: VideoIndex, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        """Decodes only what the wanted frames need; raises IndexMismatchError once the index proves wrong."""
        source_of = self._sources(index)
        self.frames_seen = len(source_of)
        present = wanted[wanted < len(source_of)]
        pending = iter(zip(present.tolist(), source_of[present].tolist(), strict=True))
        target, shows = next(pending, (None, None))
        for number, frame in self._stretches(index, np.flatnonzero(np.bincount(source_of[present]))):
            picture = self._picture(frame)
            while target is not None and shows == number:
                yield self._frame(target, picture)
                target, shows = next(pending, (None, None))
        if self._closed:
            return
        for missing in wanted[len(present) :].tolist():
            yield self._failure(missing, len(source_of))

    def _sources(self, index: VideoIndex) -> np.ndarray:
        """[M] the decoded frame that each frame, as numbered by `timing`, shows."""
        if self._options.timing == "decoded":
            return np.arange(index.frame_count)
        with self._guard:
            clock = self._rate_clock(self._at_start())
        try:
            return constant_rate_frames(index.time[index.packet_of], index.duration[index.packet_of], clock)
        except ValueError as error:
            raise IndexMismatchError from error

    def _stretches(self, index: VideoIndex, wanted: np.ndarray) -> Iterator[tuple[int, av.VideoFrame]]:
        with self._guard:
            stream = self._at_start()
            container = self._container
        assert container is not None
        steps = decode_stretches(container, stream, index, plan_stretches(index, wanted), self._count)
        while True:
            with self._guard:
                if self._closed:
                    return
                try:
                    step = next(steps)
                except StopIteration:
                    return
            if step is not None:
                yield step

    def _count(self, frames: int) -> None:
        self.frames_decoded += frames

    def would_see(self, count: int, wanted: np.ndarray) -> bool:
        return bool(len(wanted)) and bool(wanted[-1] >= count - LOOK_BEYOND or _has_worthwhile_gaps(wanted))

    def _read_index(self, wanted: np.ndarray) -> VideoIndex | None:
        """The index if skipping is allowed, may pay and is safe; else None."""
        if not self._options.skip_unwanted or not len(wanted):
            return None
        if not _has_worthwhile_gaps(wanted):
            self.skipping = "not tried: the wanted frames are too close to each other"
            return None
        return self._index_of_all()

    def _index_of_all(self) -> VideoIndex | None:
        """The index, read once; None where the packets do not tell enough."""
        if self._index is not None:
            self.skipping = "done"
            return self._index
        with self._guard:
            try:
                stream = self._at_start()
                assert self._container is not None
                index = read_index(self._container, stream, lambda: self._closed, self._packet_clock(stream))
            except DoubtError as doubt:
                self.skipping = f"not possible: {doubt}"
                return None
        self.skipping = "done"
        self._index = index
        return index

    def _counted(self) -> Iterator[tuple[av.VideoFrame, bool, int]]:
        """All frames, whether each is damaged, and how many numbers show it in a row, as `timing` counts.

        One may come twice in a row, or be shown by none.
        """
        decoded, self._begun = self._begun or self._decoded(), None
        return self._at_constant_rate(decoded) if self._options.timing == "constant" else decoded

    def _at_constant_rate(self, decoded: Iterator[Decoded]) -> Iterator[tuple[av.VideoFrame, bool, int]]:
        previous = None
        clock = None
        for frame, damaged, time in decoded:
            if clock is None:
                with self._guard:
                    if self._container is None:
                        return
                    clock = self._rate_clock(self._video_stream(self._container))
            repeats, copies = clock.place(time, frame.duration or 0)
            if repeats:
                yield *(previous or (frame, damaged)), repeats
            yield frame, damaged, copies
            previous = frame, damaged
        if clock is not None and previous is not None:
            yield *previous, clock.finish()

    def _packet_clock(self, stream: VideoStream) -> PacketClock | None:
        """With constant timing, and then no packet is given times that its file has not."""
        if self._options.timing != "constant":
            return None
        assert self._container is not None
        self._container.flags = self._container.flags & ~GENERATE_PTS
        if self._clock_facts is None:
            self._clock_facts = streams.clock_facts(self._container, stream, self.path)
        return PacketClock(self._clock_facts)

    def _rate_clock(self, stream: VideoStream) -> ConstantRate:
        assert self._container is not None
        return ConstantRate(
            streams.frame_rate(stream),
            stream.time_base or MICROSECOND,
            only_stream=len(self._container.streams) == 1,
            lengths_known=not (
                self._container.format.name.startswith("mov") and has_composition_offsets(self.path, stream.id)
            ),
        )

    def _decoded(self) -> Iterator[Decoded]:
        """Every frame that the decoder gives, in its order; packets that it refuses are passed over."""
        with self._guard:
            stream = self._at_start()
            container = self._container
            clock = self._packet_clock(stream)
        assert container is not None
        context = stream.codec_context
        tracker = DamageTracker(round(1 / (stream.time_base or MICROSECOND)))
        times = FrameClock(clock, context) if clock else None
        hardware = self._hardware
        if hardware is not None:
            hardware.begin()
        packets = _delayed(self._packets(container, stream, tracker, clock), SEAM)
        packet: av.Packet[Any] | None
        while True:
            with self._guard:
                packet = next(packets, None)
                if self._closed:
                    return
                try:
                    frames = context.decode(packet)
                except DECODE_ERRORS as error:
                    if hardware is not None:
                        raise hardware.fault(f"a packet cannot be decoded ({error})") from error
                    frames = []
                    self.damaged += 1
                    tracker.refused(context.thread_count - 1)
            self.frames_decoded += len(frames)
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged += 1
            if hardware is not None:
                hardware.came(frames)
            passed = tracker.take(frames)
            if packet is None:
                passed += tracker.finish()
                if hardware is not None:
                    hardware.end()
            while passed:
                # One is let go before the next: buffers come back in that order, and damage may show what was in them.
                frame, damaged = passed.pop(0)
                yield frame, damaged, times.take(frame) if times else 1
            if packet is None:
                return

    def _packets(
        self, container: InputContainer, stream: VideoStream, tracker: DamageTracker, clock: PacketClock | None
    ) -> Iterator[av.Packet[Any] | None]:
        """The stream's packets, then None; an unreadable spot in the file is passed over where FFmpeg can go on.

        For whoever holds the guard.
        """
        silent = clock is not None and has_silent_packets(stream.codec_context.name)
        errors = 0
        while errors < MAX_DEMUX_ERRORS:
            demuxed = container.demux(stream)
            while not self._closed:
                try:
                    packet = next(demuxed, None)
                except READ_ERRORS as error:
                    if self._hardware is not None:
                        raise self._hardware.fault(f"the file cannot be read ({error})") from error
                    errors += 1
                    self.damaged += 1
                    tracker.hole()
                    break
                if packet is None:
                    yield None
                    return
                size, stored_dts = packet.size, packet.dts
                if clock and (size or stored_dts is not None):
                    packet.duration = clock.duration(packet.pts, packet.duration or 0)
                    packet.pts, packet.dts = clock.take(packet.pts, stored_dts, packet.duration)
                # FFmpeg's decoders take an empty packet for the end of the stream; AVI has them where a frame repeats.
                if size and not (silent and gave_no_frame(stream.codec_context.name, memoryview(packet))):
                    errors = 0
                    if packet.is_corrupt:
                        self.damaged += 1
                    tracker.send(packet, stored_dts)
                    yield packet
            else:
                return
        yield None

    def _at_start(self) -> VideoStream:
        """The video stream at its beginning; of a container opened anew, which replaces one that was read from."""
        if self._closed:
            raise ValueError("the video is closed.")
        if self._unread is not None:
            unread, self._unread = self._unread, None
            return unread
        if self._container is not None:
            self._container.close()
        if self._begun is not None:
            self._begun = None
            self.frames_decoded = self.damaged = 0
        like_program = self._options.timing == "constant"
        if self._hardware is not None:
            self._container = self._hardware.container(like_program=like_program)
            threads = 1
        else:
            self._container = open_container(self.path, like_program=like_program)
            threads = self._options.threads or 0
        stream = self._video_stream(self._container)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads or _decoder_threads(stream)
        stream.codec_context.options = processor.decoder_options() | {"max_pixels": str(MAX_PIXELS)}
        return stream

    def _video_stream(self, container: InputContainer) -> VideoStream:
        try:
            return streams.pick_stream(container, self.path, self._options.timing)
        except InputError:
            container.close()
            raise

    def _display_turn(self) -> Turn:
        """What the display matrix of the first frame asks for."""
        first = self._first_picture()
        if first is None:
            return UPRIGHT
        self._stored_size = first.height, first.width
        return turn_of(first)

    def _notes_on_pixels(self) -> tuple[str, ...]:
        """Of the first frame; another kind of frame may follow, but seldom does."""
        first = self._first_picture()
        try:
            return () if first is None else notes_on_pixels(first, self._options.pixels)
        except (av.error.FFmpegError, ValueError):  # `load` says so, and of which frame
            return ()

    def _decode_on(self, device: str) -> None:
        """Have a device decode from now on, once its first picture was seen to be the CPU's.

        Raises:
            DeviceError: if it cannot, or gives another picture.
        """
        if (why := obstacle(self._at_start(), device)) is not None:
            raise refused(self.path, device, why)
        if self._turn != UPRIGHT:
            raise refused(self.path, device, "its frames are to be turned (--rotate off takes them as they are stored)")
        index = self._index_of_all()
        if index is None:
            doubt = self.skipping.removeprefix("not possible: ")
            raise refused(self.path, device, f"its packets do not tell which frames there must be ({doubt})")
        first = self._first_picture()
        planes = None if first is None else planes_of(first, self._options.pixels)
        if first is None or planes is None:
            raise refused(
                self.path, device, "there is no formula for its colours here" if first else "it has no frames"
            )
        if planes.layout.bits > 8 and not planes.layout.cubic:
            stream = self._at_start()
            assert self._container is not None
            if not has_one_siting(self._container, stream):
                why = (
                    "its parameters may change on the way, and with them where chroma lies, which matters with 10 bits"
                )
                raise refused(self.path, device, why)
        self._hardware = Hardware(self.path, device, first, planes, index.time[index.packet_of])
        on_device = self._first_picture()
        if on_device is None:
            raise self._hardware.fault("no picture comes")
        self._hardware.compare(self._hardware.surface(on_device, lambda: self._closed), first)
        self.skipping = "not tried"
        self.notes = (*self.notes, f"frames were decoded by {device}, which says nothing of damage that it conceals.")

    def _first_picture(self) -> av.VideoFrame | None:
        """The first frame, which comes again; None where there is none."""
        decoded = self._decoded()
        first = next(decoded, None)
        if first is None:
            return None
        self._begun = chain([first], decoded)
        return first[0]

    def _picture(self, frame: av.VideoFrame) -> Picture:
        if self._hardware is None:
            if self._options.timing == "constant" and (frame.height, frame.width) != self._stored_size:
                frame = self._resized(frame)
            return Picture(frame)
        return Picture(frame, self._hardware.surface(frame, lambda: self._closed))

    def _resized(self, frame: av.VideoFrame) -> av.VideoFrame:
        """In the size that the program's pipe had begun with; what cannot be converted is left to `load`."""
        try:
            return resized(frame, self._resizer, *self._stored_size)
        except (av.error.FFmpegError, ValueError):
            return frame

    def _frame(self, index: int, picture: Picture) -> Frame:
        return VideoFrame(index, self.name_of, picture, self._turn, self._options.pixels)

    def _damaged(self, index: int) -> FrameFailure:
        return FrameFailure(index, self.name_of(index), DAMAGED)

    def _failure(self, index: int, count: int) -> FrameFailure:
        return FrameFailure(
            index, self.name_of(index), f"the video ends after {counted(count, 'frame')} that can be decoded."
        )


class VideoFrame(Frame):
    """Keeps its decoded picture until it is dropped; drop it once it is loaded."""

    def __init__(
        self,
        index: int,
        name_of: Callable[[int], str],
        picture: Picture,
        turn: Turn = UPRIGHT,
        pixels: str = "direct",
    ) -> None:
        self.index = index
        self._name_of = name_of
        self._picture = picture
        self._turn = turn
        self._pixels = pixels

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        return self._name_of(self.index)

    @property
    def height(self) -> int:
        return self._turn.size(self._picture.frame.height, self._picture.frame.width)[0]

    @property
    def width(self) -> int:
        return self._turn.size(self._picture.frame.height, self._picture.frame.width)[1]

    def surface(self) -> Surface | None:
        return self._picture.surface

    def planes(self) -> Planes | None:
        if self._turn != UPRIGHT or self._picture.surface is not None:
            return None
        try:
            with self._picture.guard:
                return planes_of(self._picture.frame, self._pixels)
        except (av.error.FFmpegError, ValueError):  # `load` says so, and of which frame
            return None

    def load(self, region: Region | None = None) -> Patch:
        if self._picture.surface is not None:
            return surface_to_bgr(self._picture.surface, region)
        stored = None if region is None else self._turn.stored_region(region, self.height, self.width)
        frame = self._picture.frame
        try:
            with self._picture.guard:
                patch = to_bgr(frame, stored, self._pixels)
        except (av.error.FFmpegError, ValueError) as error:
            raise FrameError(f"its pixels ({frame.format.name}) cannot be converted: {error}.") from error
        return patch if self._turn == UPRIGHT else self._turn.patch(patch)


def _has_worthwhile_gaps(wanted: np.ndarray) -> bool:
    gaps = np.diff(wanted, prepend=-1) - 1
    return bool(gaps[gaps >= WORTHWHILE_GAP].sum() >= WORTHWHILE_SHARE * (wanted[-1] + 1))


def _delayed(packets: Iterator[av.Packet[Any] | None], count: int) -> Iterator[av.Packet[Any] | None]:
    """The same packets, each given only when `count` more have been read."""
    waiting: deque[av.Packet[Any] | None] = deque()
    for packet in packets:
        waiting.append(packet)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _decoder_threads(stream: VideoStream) -> int:
    """One more than there are cores, for threads wait for rows that others decode: 6 % faster on 2 cores.

    On a single core more than one only costs, and for small frames, which are decoded in less time than threads take to
    tell each other of them: a quarter more of 0.14 ms at 320 x 180.
    """
    if stream.codec_context.width * stream.codec_context.height <= SMALL_PIXELS:
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if usable == 1 else min(usable + 1, MAX_DECODER_THREADS)
