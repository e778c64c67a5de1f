"""A face as Python is given it: pixels, and where they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gpu_extract.geometry import crops
from gpu_extract.naming import stem_of

PNG = ".png"


@dataclass(frozen=True, eq=False, repr=False)
class Face:
    """One face, cut out of its frame.

    Points are (x, y) in pixels, and (0, 0) is the centre of the top-left one. The arrays are the receiver's: nobody
    else writes or keeps them.
    """

    pixels: np.ndarray
    """[S, S, 3] uint8 BGR, those of the face's file; of a file that loses something, as jpg, before it does."""
    landmarks: np.ndarray
    """[n, 2] float64 in the frame, as the alignments file has them."""
    crop_from_frame: np.ndarray
    """[2, 3] float64: `crop_from_frame @ (x, y, 1)` is where a point of the frame lies in the crop."""
    box: np.ndarray
    """[4] float64 in the frame: x, y, width and height, as found by the detector; NaN where the file has none."""
    frame: str
    """The frame's key in the alignments file."""
    position: int
    """Of the frame in the video or folder, from 0."""
    index: int
    """Of the face in its frame's list."""
    frame_size: tuple[int, int]
    """(height, width) of the frame."""

    @property
    def size(self) -> int:
        """S, pixels."""
        return len(self.pixels)

    @property
    def rgb(self) -> np.ndarray:
        """The pixels in the other order, [S, S, 3] uint8 RGB, C-contiguous; a copy."""
        return np.ascontiguousarray(self.pixels[..., ::-1])

    @property
    def landmarks_in_crop(self) -> np.ndarray:
        """[n, 2] float64 in the crop, also outside of it."""
        points: np.ndarray = self.landmarks @ self.crop_from_frame[:, :2].T + self.crop_from_frame[:, 2]
        return points

    @property
    def roi(self) -> np.ndarray:
        """[4, 2] int64, corners of the crop in the frame: top-left, bottom-left, bottom-right, top-right."""
        corners: np.ndarray = crops.roi(self.crop_from_frame[None], self.size)[0]
        return corners

    @cached_property
    def hash(self) -> str:
        """SHA-1 of the pixels as they are when it is first asked for, as alignments files store it; 40 hex digits."""
        return hashlib.sha1(np.ascontiguousarray(self.pixels).data).hexdigest()

    @property
    def name(self) -> str:
        """What its file is called, without the extension."""
        return f"{stem_of(self.frame)}_{self.index}"

    def __repr__(self) -> str:
        return f"<Face {self.index} of {self.frame!r}, {self.size} px>"

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        from gpu_extract.face_files.encoder import encoder_for

        return encoder_for(PNG).encode(np.ascontiguousarray(self.pixels))
