"""Words that travel through a run: what to cut from a frame, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from gpu_extract.naming import stem_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Failure:
    """A face, or a whole frame (`index` None), that could not be cut, and why."""

    frame: str
    index: int | None
    reason: str
    faces: int = 1
    """How many faces are lost with it."""


@dataclass(slots=True)
class FrameTask:
    """All faces to cut from one frame, in file order."""

    position: int
    """Of the frame in its source, from 0."""
    name: str
    """The frame's key in the alignments file."""
    rows: np.ndarray  # [K] int64, faces in the file
    index: np.ndarray  # [K] int32, position of each in its frame's list
    crop_from_frame: np.ndarray  # [K, 2, 3] float64
    cubic: np.ndarray  # [K] bool
    region: np.ndarray  # [K, 4] int64: x0, y0, x1, y1 of the frame pixels that a crop may touch, not clipped
    extension: str
    failed: dict[int, Failure] = field(default_factory=dict)
    """By place in this task, faces that turn out to have no crop; their matrices are NaN."""

    def __len__(self) -> int:
        return len(self.rows)

    def file_name(self, k: int) -> str:
        """Name of the k-th face's file: frame key without extension, face index, extension."""
        return f"{stem_of(self.name)}_{self.index[k]}{self.extension}"


class Place(NamedTuple):
    """Where all files of a frame go, `<stem>_<index><extension>` each."""

    stem: str
    folder: str
    """Relative to the faces folder, "" or with a slash at its end."""
    folder_bytes: bytes
    """The same as the file system has it."""
    stem_bytes: bytes


@dataclass(frozen=True, slots=True)
class FaceResult:
    """One face, written."""

    row: int
    index: int
    file_name: str
    sha1: str
    nbytes: int
    sharpness: float | None = None
    """Of the pixels that the file decodes to, see `kernels.sharpness`; None where nobody measured it."""
    hash_state: str | None = None
    """Of `run.rows.HASH_STATES`, when it was written; None where nobody looked."""


@dataclass(slots=True)
class FrameResult:
    """What became of one frame's faces."""

    task: FrameTask
    faces: list[FaceResult] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    decoded: bool = False
    frame_size: tuple[int, int] = (0, 0)
    """(height, width) of the frame, once it was loaded."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage."""
    of_one_colour: set[int] = field(default_factory=set)
    """Rows of faces that show nothing else; told by `FaceWriter`."""

    def add_seconds(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
