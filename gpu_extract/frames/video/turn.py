"""The turn that a video's display matrix asks for, as a permutation of pixels."""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from gpu_extract.patch import Patch, Region


class Turn(NamedTuple):
    """Swap the axes first, then mirror; all False is the identity."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) after the turn."""
        return (width, height) if self.transpose else (height, width)

    def stored_region(self, region: Region, height: int, width: int) -> Region:
        """Where a region of the turned frame, which has that size, lies in the stored one."""
        x0, y0, x1, y1 = region
        if self.mirror_x:
            x0, x1 = width - x1, width - x0
        if self.mirror_y:
            y0, y1 = height - y1, height - y0
        return Region(y0, x0, y1, x1) if self.transpose else Region(x0, y0, x1, y1)

    def patch(self, stored: Patch) -> Patch:
        """The same patch of the turned frame."""
        pixels, x0, y0 = stored.pixels, stored.x0, stored.y0
        if self.transpose:
            pixels, x0, y0 = pixels.swapaxes(0, 1), y0, x0
        height, width = self.size(stored.height, stored.width)
        if self.mirror_x:
            pixels, x0 = pixels[:, ::-1], width - x0 - pixels.shape[1]
        if self.mirror_y:
            pixels, y0 = pixels[::-1], height - y0 - pixels.shape[0]
        return Patch(np.ascontiguousarray(pixels), x0, y0, height, width)


UPRIGHT = Turn()


def turn_of(frame: av.VideoFrame) -> Turn:
    """What the container says of the stream, as its first frame shows it.

    A frame with EXIF data of its own, as cameras write them into motion JPEG, shows those since FFmpeg 8.1. The ffmpeg
    programs before did not turn by them.
    """
    try:
        # A frame's own `side_data` would keep it until the garbage collector comes.
        side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]  # which its stub leaves out
        matrix = None if "EXIF" in side_data else side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV before 19 has no name for EXIF data
        return UPRIGHT
    return UPRIGHT if matrix is None else turn_of_matrix(bytes(matrix))


def turn_of_matrix(matrix: bytes) -> Turn:
    """What the ffmpeg program does with a display matrix: nine 32-bit integers, native byte order.

    Quarter turns and mirrorings; UPRIGHT for any other angle.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if math.hypot(a, c) == 0 or math.hypot(b, d) == 0:
        return UPRIGHT
    angle = math.degrees(math.atan2(b / math.hypot(b, d), a / math.hypot(a, c))) % 360
    quarter = round(angle / 90)
    if abs(angle - 90 * quarter) >= 1:
        return UPRIGHT
    match quarter % 4:
        case 1:
            return Turn(True, c <= 0, False)
        case 2:
            return Turn(False, a < 0, d < 0)
        case 3:
            return Turn(True, c < 0, True)
    return Turn(False, False, d < 0)
