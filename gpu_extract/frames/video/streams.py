"""Which of a file's video streams its frames come from, and what the ffmpeg program knew of that stream's clock."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from gpu_extract.errors import InputError
from gpu_extract.frames.video.clock import MICROSECOND, ClockFacts, rescaled
from gpu_extract.frames.video.container import READ_ERRORS, open_container
from gpu_extract.frames.video.mp4 import has_composition_offsets, is_fragmented

_WORTH_OF_DEFAULT = 5_000_000  # pixels
_UNKNOWN_RATE = 25  # frames a second
_FIRST_PACKETS = 1000  # among which every stream's first one should be


def pick_stream(container: InputContainer, path: Path, timing: str) -> VideoStream:
    """The first stream that is no cover picture, or with "constant" timing the one that the ffmpeg program took.

    That is the largest one, if being marked as the default counts as five million pixels.
    """
    streams = _candidates(container)
    if not streams:
        raise InputError(f"'{path}' has no video stream.")
    stream = max(streams, key=_worth) if timing == "constant" else streams[0]
    if stream.codec_context is None:
        raise InputError(f"the codec of the video '{path}' has no decoder here; re-encode it as H.264.")
    return stream


def notes_on(container: InputContainer, picked: VideoStream) -> tuple[str, ...]:
    """Sentences for whoever expects the frames of before March 2026."""
    streams = _candidates(container)
    if len(streams) < 2:
        return ()
    text = f"the file has {len(streams)} video streams; frames are those of {_called(picked)}, which FFmpeg 4.2 took"
    largest = max(streams, key=_pixels)
    if largest.index != picked.index:
        text += (
            f"; before spring 2020 it took {_called(largest)}: if no hash fits, copy that one into a file of its own"
        )
    return (text + ".",)


def _candidates(container: InputContainer) -> list[VideoStream]:
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def _worth(stream: VideoStream) -> int:
    return _pixels(stream) + (_WORTH_OF_DEFAULT if stream.disposition & Disposition.default else 0)


def _pixels(stream: VideoStream) -> int:
    context = stream.codec_context
    return 0 if context is None else context.width * context.height


def _called(stream: VideoStream) -> str:
    return f"stream {stream.index} ({stream.codec_context.width} × {stream.codec_context.height})"


def frame_rate(stream: VideoStream) -> Fraction:
    """Frames a second, as FFmpeg's libraries of the time guessed them.

    They believed the video itself where a stream is too short to be measured, and MPEG-1 in AVI; those of today then
    count fields.
    """
    rate = Fraction(stream.guessed_rate or _UNKNOWN_RATE)
    context = stream.codec_context
    coded = Fraction(context.framerate or 0)
    average = stream.average_rate
    if coded and rate == 2 * coded and not average:
        return coded
    counts_ticks = average and stream.time_base and average * stream.time_base == 1
    return coded if coded and context.name == "mpeg1video" and counts_ticks else rate


def clock_facts(container: InputContainer, stream: VideoStream, path: Path) -> ClockFacts:
    name = container.format.name.split(",")[0]
    start = container.start_time
    if (
        start is not None
        and container.streams.audio
        and (name == "matroska" or (name == "mov" and is_fragmented(path)))
    ):
        start = min(start, _first_sound(path))
    context = stream.codec_context
    return ClockFacts(
        container=name,
        time_base=stream.time_base or MICROSECOND,
        file_start=start,
        stream_start=stream.start_time,
        average_rate=stream.average_rate or None,
        coded_rate=context.framerate or None,
        reorder=getattr(context, "reorder_depth", int(context.has_b_frames)),
        starts=_starts(stream) if name == "mov" and not has_composition_offsets(path, stream.id) else None,
    )


def _starts(stream: VideoStream) -> tuple[int, ...] | None:
    """When the packets of an mp4 or mov track start, in its time base and the file's order, and when the track ends.

    FFmpeg's libraries of the time had each last to the start of the next, and the last one to the end of the track.
    Those of today give packets behind the beginning of an edit the length of the packet before.
    """
    if not len(stream.index_entries) or stream.duration is None:
        return None
    return (*(entry.timestamp for entry in stream.index_entries), stream.duration)


def _first_sound(path: Path) -> int:
    """Time of the first packet of sound, in microseconds.

    A sound track whose codec has a delay begins before what is to be heard. FFmpeg's libraries of today do not count
    that part as belonging to the file; those of the time did in these containers.
    """
    earliest = 1 << 62
    with open_container(path) as container:
        waiting: dict[int, Stream] = {stream.index: stream for stream in container.streams.audio}
        packets = container.demux(*waiting.values())
        for _ in range(_FIRST_PACKETS):
            try:
                packet = next(packets, None)
            except READ_ERRORS:
                break
            if packet is None or not waiting:
                break
            if waiting.pop(packet.stream_index, None) and packet.pts is not None:
                earliest = min(earliest, rescaled(packet.pts, packet.time_base or Fraction(1), MICROSECOND))
    return earliest
