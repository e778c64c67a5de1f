"""Decodes only the parts of an indexed video that wanted frames need, and checks that they are what the index says.

A stretch begins at a picture where decoding may begin, skips pictures that neither are wanted nor serve others, and
ends with its last wanted frame. Every frame that comes out must carry the very next timestamp that is due; a frame is
handed on only when the one after it was right, too, and all that it may have been predicted from. At the first surprise
the index is given up (`IndexMismatchError`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from gpu_extract.frames.video.index import VideoIndex

_SHORT_GAP = 8  # packets; decoding over so few is cheaper than draining the decoder and starting it again
_READ_AHEAD = 64  # packets; reading over so few is cheaper than a seek


class IndexMismatchError(Exception):
    """The decoder gave something else than the index says, or found damage, which may have cost frames elsewhere."""


class Stretch(NamedTuple):
    start: int  # packet at which decoding begins
    end: int  # last packet that a wanted frame needs
    wanted: list[int]  # frame numbers, ascending


def plan_stretches(index: VideoIndex, wanted: np.ndarray) -> list[Stretch]:
    """Stretches in file order; wanted: [N] ascending frame numbers, all below `index.frame_count`."""
    stretches: list[Stretch] = []
    for frame in wanted.tolist():
        packet = int(index.packet_of[frame])
        start = index.entry_before(packet)
        if stretches and start <= stretches[-1].end + _SHORT_GAP:
            last = stretches[-1]
            last.wanted.append(frame)
            stretches[-1] = last._replace(start=min(last.start, start), end=max(last.end, packet))
        else:
            stretches.append(Stretch(start, packet, [frame]))
    return stretches


def decode_stretches(
    container: InputContainer,
    stream: VideoStream,
    index: VideoIndex,
    stretches: list[Stretch],
    count: Callable[[int], None],
) -> Iterator[tuple[int, av.VideoFrame] | None]:
    """(frame number, picture) of each wanted frame; None after each step in which other work may go on.

    count: told how many frames each step decoded.
    Raises IndexMismatchError, and av errors from reading or decoding.
    """
    context = stream.codec_context
    packet_at = {pts: packet for packet, pts in enumerate(index.pts.tolist())}
    size = index.size.tolist()
    position = 0
    packets = container.demux(stream)
    for stretch in stretches:
        if stretch.start > position + _READ_AHEAD:
            container.seek(int(index.seek_to[stretch.start]), stream=stream)
            packets = container.demux(stream)
        elif position:
            context.flush_buffers()
        checker = _Checker(index, stretch, count)
        needed = _needed(index, stretch).tolist()
        begun = False
        for packet in packets:
            if not (found_size := packet.size):
                continue
            at = packet_at.get(packet.pts)
            if not begun:
                begun = at == stretch.start
                if at is not None and at > stretch.start:
                    raise IndexMismatchError
            elif at != position:
                raise IndexMismatchError
            if begun and at is not None:
                if found_size != size[at]:
                    raise IndexMismatchError
                if needed[at - stretch.start]:
                    yield from checker.take(context.decode(packet))
                position = at + 1
                if at == stretch.end:
                    break
            yield None
        if position <= stretch.end:
            raise IndexMismatchError
        yield from checker.take(context.decode(None))
        yield from checker.finish()


def _needed(index: VideoIndex, stretch: Stretch) -> np.ndarray:
    """[end - start + 1] bool: which of a stretch's packets must be decoded."""
    needed = ~index.droppable[stretch.start : stretch.end + 1]
    needed[index.packet_of[stretch.wanted] - stretch.start] = True
    return needed


class _Checker:
    """Compares what comes out of the decoder with what is due, one frame behind, or as many as are shown too early."""

    def __init__(self, index: VideoIndex, stretch: Stretch, count: Callable[[int], None]) -> None:
        self._count = count
        span = slice(stretch.start, stretch.end + 1)
        self._first = index.pts[stretch.start]
        # Pictures shown before the entry were predicted from what was not decoded: they come out wrong or not at all.
        due = _needed(index, stretch) & index.shown[span] & (index.pts[span] >= self._first)
        self._due = iter(np.sort(index.pts[span][due]).tolist())
        self._number = {int(index.pts[index.packet_of[frame]]): frame for frame in stretch.wanted}
        needed_pts = np.where(_needed(index, stretch), index.pts[span], self._first)
        # Time of a frame -> the latest time of it and of all that are decoded before it.
        self._settled_at = dict(zip(index.pts[span].tolist(), np.maximum.accumulate(needed_pts).tolist(), strict=True))
        self._held: deque[tuple[int, int, av.VideoFrame]] = deque()  # (settled at, frame number, picture)

    def take(self, pictures: list[av.VideoFrame]) -> Iterator[tuple[int, av.VideoFrame]]:
        self._count(len(pictures))
        for picture in pictures:
            pts = picture.pts
            if pts is None or picture.is_corrupt:
                raise IndexMismatchError
            if pts < self._first:
                continue
            if pts != next(self._due, None):
                raise IndexMismatchError
            while self._held and pts >= self._held[0][0]:
                yield self._held.popleft()[1:]
            number = self._number.get(pts)
            if number is not None:
                self._held.append((self._settled_at[pts], number, picture))

    def finish(self) -> Iterator[tuple[int, av.VideoFrame]]:
        if next(self._due, None) is not None:
            raise IndexMismatchError
        while self._held:
            yield self._held.popleft()[1:]
