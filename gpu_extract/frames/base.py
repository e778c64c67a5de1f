"""What every source of frames offers: the contract between `frames/` and the pipeline.

A source numbers its frames 0, 1, 2 … (`index`) and names them as alignments files do (`name`, the frame key). One
reader thread walks `FrameSource.frames`; each `Frame` goes to a worker, which calls `Frame.load` to get pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import numpy as np

from gpu_extract.kernels.cutter import Planes
from gpu_extract.patch import Patch, Region, Surface

TIMINGS = ("decoded", "constant")
PIXELS = ("direct", "piped")


@dataclass(frozen=True)
class SourceOptions:
    """See `open_frames`."""

    threads: int | None = None
    timing: str = "decoded"
    rotate: bool = False
    skip_unwanted: bool = True
    pixels: str = "direct"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.pixels not in PIXELS:
            raise ValueError(f"pixels must be one of {', '.join(PIXELS)}, got {self.pixels!r}.")
        if self.timing not in TIMINGS:
            raise ValueError(f"timing must be one of {', '.join(TIMINGS)}, got {self.timing!r}.")


@dataclass(frozen=True)
class FrameFailure:
    """A wanted frame that cannot be had; `reason` is a sentence for the report."""

    index: int
    name: str
    reason: str


@dataclass(frozen=True)
class Reading:
    """What reading some frames of a source costs, and where it may begin. Both [N]."""

    cost: np.ndarray
    """float64: frames that must be read for each one, those that were read for one before not counted."""
    begins: np.ndarray
    """bool: whether whoever begins here reads nothing that is read for one before."""
    skips: bool
    """Whether those before the first one can be passed over."""


class Frame(ABC):
    """One frame that was read but not yet turned into pixels."""

    index: int
    name: str

    @property
    @abstractmethod
    def height(self) -> int:
        """Rows of the frame as `load` gives it. Raises FrameError if an image's header cannot be read."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Columns of the frame as `load` gives it. Raises FrameError if an image's header cannot be read."""

    @abstractmethod
    def load(self, region: Region | None = None) -> Patch:
        """The frame's pixels, BGR; with a region, a patch that covers at least the part of it inside the frame.

        Safe to call from any thread. Raises FrameError if the pixels cannot be decoded.
        """

    def load_each(self, regions: Sequence[Region]) -> list[Patch]:
        """`load` of every region, of which there is at least one; may leave undecoded what none of them needs."""
        return [self.load(region) for region in regions]

    def planes(self) -> Planes | None:
        """What the frame was decoded to, where a formula gives its pixels; None where only `load` does."""
        return None

    def surface(self) -> Surface | None:
        """What the frame was decoded to, where it lies on a device; None elsewhere. `load` gives the same pixels."""
        return None


class FrameSource(ABC):
    """A folder or a video; a context manager."""

    kind: ClassVar[str]
    path: Path
    frames_seen: int | None = None  # how many frames the source has, known exactly; None before and where it is not
    frames_decoded: int = 0  # frames of which pixels or planes were made so far, wanted or not
    notes: Sequence[str] = ()  # what a user should know of the source, in sentences for a report
    damaged: int = 0  # pieces of the source that were met and could not be decoded, or only with errors

    @abstractmethod
    def index_of(self, name: str) -> int | None:
        """Position of a frame key; None if no frame of this source can have that name."""

    def indices_of(self, names: Sequence[str]) -> list[int | None]:
        """`index_of` of many names."""
        return [self.index_of(name) for name in names]

    @abstractmethod
    def name_of(self, index: int) -> str: ...

    def names(self) -> Sequence[str] | None:
        """All names in order; None where they only follow from their numbers."""
        return None

    def beside(self) -> Mapping[str, str]:
        """Names of what lies beside the frames and looks like one: for each a sentence why it is none.

        The sentence is empty for what `admit` takes.
        """
        return {}

    def admit(self, names: Iterable[str]) -> None:
        """Take some of what lies beside the frames as frames too, after all others; only before `frames`."""
        if unknown := [*names]:
            raise ValueError(f"nothing lies beside these frames, so not {unknown[0]!r} either.")

    @abstractmethod
    def size_of(self, index: int) -> tuple[int, int]:
        """(height, width) from headers, without decoding. Raises FrameError if the header cannot be read."""

    @abstractmethod
    def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
        """The wanted frames in ascending order, each exactly once, as a Frame or as a FrameFailure.

        wanted: [N] integers, strictly ascending, >= 0. One iteration at a time, walked by one thread.
        """

    def reading(self, wanted: np.ndarray) -> Reading:
        """What the wanted frames, [N] as for `frames`, cost to read; only before `frames`.

        The same for all that open the source alike, but for `skip_unwanted`.
        """
        return Reading(np.ones(len(wanted)), np.ones(len(wanted), bool), True)

    def would_see(self, count: int, wanted: np.ndarray) -> bool:
        """Whether a whole walk over `wanted` sets `frames_seen`, for a source that has `count` frames."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Frees files and decoder threads; safe while an iteration is unfinished, and more than once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_wanted(wanted: np.ndarray) -> np.ndarray:
    """The same as int64 [N]; raises ValueError unless strictly ascending and not negative."""
    positions = np.asarray(wanted)
    if positions.size == 0:
        return np.empty(0, np.int64)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"wanted must be [N] integers, got {positions.dtype} {list(positions.shape)}.")
    positions = positions.astype(np.int64)
    if positions[0] < 0 or (np.diff(positions) <= 0).any():
        raise ValueError("wanted must be strictly ascending positions from 0.")
    return positions


def clip_region(region: Region, height: int, width: int) -> Region:
    """The part of a region inside a frame; at least one pixel, so that a patch is never empty."""
    x0 = min(max(region.x0, 0), width - 1)
    y0 = min(max(region.y0, 0), height - 1)
    return Region(x0, y0, max(min(region.x1, width), x0 + 1), max(min(region.y1, height), y0 + 1))
