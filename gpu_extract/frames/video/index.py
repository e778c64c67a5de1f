"""The packets of a video, read without decoding: which frame each one becomes, and where decoding may begin.

Frame n of a full decode is the n-th shown picture in the order of presentation times. That holds for a file only if
its packets pass every check here; for any other file `read_index` says why not, and the video is decoded whole. What
no check can see is damage inside the packets of a part that is passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gpu_extract.frames.video.bitstream import DoubtError, PacketReader, packet_reader
from gpu_extract.frames.video.clock import TIMELESS, PacketClock
from gpu_extract.frames.video.container import READ_ERRORS

# Their timestamps are stored, not guessed, and a seek lands where the file says.
_INDEXED_CONTAINERS = ("mov", "matroska", "mpegts")

GENERATE_PTS = 1  # AVFMT_FLAG_GENPTS, which PyAV sets

_LONGEST_SPAN = 1 << 32  # transport streams count to 2^33 and begin again


@dataclass(frozen=True)
class VideoIndex:
    """Packets in decode order (axis P); a frame's number is its position in `packet_of`."""

    pts: np.ndarray  # [P] int64, stream time base, all different
    seek_to: np.ndarray  # [P] int64, the time to give to a seek that shall arrive at or before the packet
    size: np.ndarray  # [P] int64, bytes
    time: np.ndarray  # [P] int64, when its picture is shown by the clock that `read_index` was given, else as pts
    duration: np.ndarray  # [P] int64, 0 where it is not known
    entry: np.ndarray  # [P] bool: decoding may begin here
    droppable: np.ndarray  # [P] bool: no other picture needs it
    shown: np.ndarray  # [P] bool: not cut away by an edit list
    packet_of: np.ndarray  # [N] frame number -> packet

    @property
    def frame_count(self) -> int:
        return len(self.packet_of)

    def entries_before(self, packets: np.ndarray) -> np.ndarray:
        """`entry_before` of many, [n] each."""
        entries = np.flatnonzero(self.entry)
        at = np.searchsorted(entries, packets, side="right") - 1
        while (late := (at > 0) & (self.pts[entries[at]] > self.pts[packets])).any():
            at[late] -= 1
        found: np.ndarray = np.where(self.pts[entries[at]] > self.pts[packets], 0, entries[at])
        return found

    def entry_before(self, packet: int) -> int:
        """The last packet at which decoding may begin so that this packet's picture comes out right."""
        entries = np.flatnonzero(self.entry[: packet + 1])
        usable = entries[self.pts[entries] <= self.pts[packet]]
        return int(usable[-1]) if len(usable) else 0


def read_index(
    container: InputContainer, stream: VideoStream, closed: Callable[[], bool], clock: PacketClock | None = None
) -> VideoIndex:
    """Reads all packets; raises DoubtError, with the reason, where frame numbers cannot be told from them.

    closed: asked at each packet; reading ends when it is true, because a large file may take a minute.
    """
    if not container.format.name.startswith(_INDEXED_CONTAINERS):
        raise DoubtError(f"{container.format.name} files have no reliable timestamps")
    container.flags = container.flags & ~GENERATE_PTS  # missing timestamps shall be seen to be missing
    reader = packet_reader(stream.codec_context.codec.canonical_name, stream.codec_context.extradata)
    rows = []
    latest = None
    try:
        for packet in container.demux(stream):
            if closed():
                raise DoubtError("the source was closed")
            if not packet.size:
                continue
            rows.append(_row(packet, reader, clock))
            if packet.dts is not None:
                if latest is not None and packet.dts <= latest:
                    raise DoubtError("timestamps do not ascend")
                latest = packet.dts
    except READ_ERRORS as error:
        raise DoubtError("the file is damaged") from error
    if not rows:
        raise DoubtError("the stream has no packets")
    # A transport stream is searched by decoding times, and from the middle of a packet.
    margin = round(1 / stream.time_base) if container.format.name == "mpegts" and stream.time_base else None
    reorders = bool(stream.codec_context.has_b_frames)
    stores_both = not container.format.name.startswith("matroska")
    return _checked(np.array(rows, np.int64).T, margin, reorders, stores_both)


def _row(packet: av.Packet[Any], reader: PacketReader, clock: PacketClock | None) -> tuple[int, ...]:
    if packet.pts is None:
        raise DoubtError("a packet has no timestamp")
    if packet.is_corrupt:
        raise DoubtError("a packet is marked as damaged")
    facts = reader(memoryview(packet), packet.is_keyframe)
    dts = packet.pts if packet.dts is None else packet.dts
    duration = packet.duration or 0
    time = packet.pts
    if clock is not None:
        duration = clock.duration(packet.pts, duration)
        time = clock.take(packet.pts, packet.dts, duration)[0]
    if time >= TIMELESS:
        raise DoubtError("a timestamp is far from all others")
    return packet.pts, dts, packet.size, time, duration, not packet.is_discard, *facts


def _checked(columns: np.ndarray, margin: int | None, reorders: bool, stores_both: bool) -> VideoIndex:
    pts, dts, size, time, duration = columns[:5]
    shown, entry, droppable, all_parameters, parameters, layered = columns[5:].astype(bool)
    if not entry[0]:
        raise DoubtError("the stream does not begin with a picture of its own")
    if pts[0] != pts.min():
        raise DoubtError("pictures are shown before the first one in the file")
    if pts.max() - pts.min() >= _LONGEST_SPAN:
        raise DoubtError("timestamps begin again")
    if (np.diff(np.sort(pts)) == 0).any():
        raise DoubtError("two frames have one timestamp")
    # Who does reorder, and did not here, has times of decoding that lie before those of showing.
    if reorders and len(pts) > 2 and (np.diff(pts) > 0).all() and not (stores_both and (pts != dts).all()):
        raise DoubtError("its timestamps may be those of decoding, and frames are shown in another order")
    if parameters[1:].any():
        entry = entry & all_parameters
        entry[0] = True
    droppable = droppable & ~parameters & ~layered.any()
    packets = np.flatnonzero(shown)
    packets = packets[np.argsort(pts[packets], kind="stable")]
    if (np.diff(time[packets]) <= 0).any():
        raise DoubtError("its clock was set while frames were out of order")
    return VideoIndex(
        pts=pts,
        time=time,
        seek_to=pts if margin is None else np.minimum(pts, dts) - margin,
        size=size,
        duration=duration,
        entry=entry,
        droppable=droppable,
        shown=shown,
        packet_of=packets,
    )
