"""Stand-ins for sources and engines: quick, without files or devices, and able to fail on demand.

They keep the contracts: their lines stand in the lists beside this file. What a test asks for by name ("breaks_at")
is then the one thing that is wrong with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import numpy as np

from gpu_extract.engines.base import Crops, Engine, Ticket
from gpu_extract.errors import DeviceError, FrameError
from gpu_extract.frames import Frame, FrameFailure, FrameSource
from gpu_extract.frames.base import check_wanted, clip_region
from gpu_extract.kernels import reference
from gpu_extract.patch import Patch, Region


def fake_pixels(index: int, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8: the frame's number in blue, columns and rows in green and red."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, :, 0] = index % 251
    pixels[:, :, 1] = np.arange(width) % 256
    pixels[:, :, 2] = np.arange(height)[:, None] % 256
    return pixels


class FakeSource(FrameSource):
    """Frames whose names, sizes and pixels follow from their numbers.

    Args:
        names: of all frames; None: there is no end of them, named f_000000.png and so on.
        size: (height, width) of every frame.
        torn: positions that come as a FrameFailure.
        unreadable: positions whose pixels cannot be decoded.
        ends_at: the walk ends there without a word, which no source may do.
        breaks_at: the walk raises ValueError there.
        waits_at: the walk waits there until the source is closed, as for a frame that is far away.
        when_closed: what a walk that waits there raises then; None: it just ends.
    """

    kind = "folder"

    def __init__(
        self,
        names: Sequence[str] | None = None,
        size: tuple[int, int] = (7, 9),
        torn: Container[int] = (),
        unreadable: Container[int] = (),
        ends_at: int | None = None,
        breaks_at: int | None = None,
        waits_at: int | None = None,
        when_closed: Exception | None = None,
    ) -> None:
        self.path = Path("frames")
        self.size = size
        self.unreadable = unreadable
        self.read = 0
        """How many frames were given out."""
        self.lock = threading.Lock()
        self._names = names
        self._torn = torn
        self._ends_at, self._breaks_at, self._waits_at = ends_at, breaks_at, waits_at
        self._when_closed = when_closed
        self._closed = threading.Event()
        if names is not None:
            self.frames_seen = len(names)

    def index_of(self, name: str) -> int | None:
        if self._names is not None:
            return self._names.index(name) if name in self._names else None
        digits = name[2:-4]
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 18 else -1
        return number if number >= 0 and name == self.name_of(number) else None

    def name_of(self, index: int) -> str:
        if self._names is None:
            return f"f_{index:06d}.png"
        return self._names[index] if index < len(self._names) else f"frame {index + 1}"

    def names(self) -> Sequence[str] | None:
        return self._names

    def size_of(self, index: int) -> tuple[int, int]:
        return self.size

    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        for index in check_wanted(wanted).tolist():
            if index == self._waits_at:
                self._closed.wait(60)
                if self._when_closed is not None:
                    raise self._when_closed
            if self._closed.is_set() or index == self._ends_at:
                return
            if index == self._breaks_at:
                raise ValueError("the source broke")
            self.read += 1
            if self._names is not None and index >= len(self._names):
                yield FrameFailure(index, self.name_of(index), "the source ends before it.")
            elif index in self._torn:
                yield FrameFailure(index, self.name_of(index), "torn")
            else:
                yield FakeFrame(self, index)

    def close(self) -> None:
        self._closed.set()


class FakeFrame(Frame):
    def __init__(self, source: FakeSource, index: int) -> None:
        self.index, self.name = index, source.name_of(index)
        self._source = source
        self._counted = False

    @property
    def height(self) -> int:
        return self._source.size[0]

    @property
    def width(self) -> int:
        return self._source.size[1]

    def load(self, region: Region | None = None) -> Patch:
        if self.index in self._source.unreadable:
            raise FrameError("this frame cannot be read.")
        with self._source.lock:
            self._source.frames_decoded += not self._counted
            self._counted = True
        height, width = self._source.size
        x0, y0, x1, y1 = clip_region(region or Region(0, 0, width, height), height, width)
        return Patch(fake_pixels(self.index, height, width)[y0:y1, x0:x1], x0, y0, height, width)


class FakeEngine(Engine):
    """Exact, by the slow reference. Batches take a while, and whoever reads crops after their release gets poison.

    Args:
        fails_after: crops that are cut before the device is gone.
        delay: seconds that each batch takes.
    """

    name, implementation, device = "exact", "fake", "cpu"

    def __init__(
        self, inline: bool = True, batch_bytes: int = 6000, fails_after: int = 10**9, delay: float = 0.0
    ) -> None:
        self.inline, self.batch_bytes, self.delay = inline, batch_bytes, delay
        self.left = fails_after
        self.out = self.most_out = 0
        """Tickets that are not yet released: now, and at the most."""
        self.lock = threading.Lock()

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        with self.lock:
            self.left -= len(crops)
            if self.left < 0:
                raise DeviceError("the device is gone.")
        time.sleep(self.delay)
        pieces, origins = [patch.pixels for patch in patches], [(patch.x0, patch.y0) for patch in patches]
        return reference.warp_affine(pieces, crops.patch, crops.crop_from_frame, crops.cubic, crops.size, origins)

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        ticket = FakeTicket(self, self.warp(patches, crops))
        with self.lock:
            self.out += 1
            self.most_out = max(self.most_out, self.out)
        return ticket


class FakeTicket(Ticket):
    def __init__(self, engine: FakeEngine, crops: np.ndarray) -> None:
        self._engine, self._crops = engine, crops

    def result(self) -> np.ndarray:
        return self._crops

    def release(self) -> None:
        self._crops[:] = 255
        with self._engine.lock:
            self._engine.out -= 1


class NoEngine(FakeEngine):
    """For runs that come to an end before anything is cut."""

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        raise AssertionError("nothing was to be cut")
