"""What is known of a face that was cut, as plain JSON values: the row of a metadata file, or a JSON beside an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.geometry import crops
from gpu_extract.run.plan import Plan, upright_landmarks
from gpu_extract.tasks import FaceResult, FrameTask

AT_ONCE = 1000  # faces whose poses are found together
HASH_STATES = ("new", "same", "changed", "none")
LATER = ("sharpness", "side_px", "pose", "hash_state")  # columns that lists of earlier versions do not have


def hash_state(alignments: Alignments, face: FaceResult) -> str:
    """What a face's hash is beside the one that the file holds, one of `HASH_STATES`."""
    if not alignments.traits.stores_hashes:
        return "none"
    stored = alignments.stored_hash(face.row)
    return "new" if stored is None else "same" if stored == face.sha1 else "changed"


class FaceRows:
    """Rows for the faces of one plan."""

    def __init__(self, alignments: Alignments, plan: Plan) -> None:
        self._alignments, self._faces = alignments, alignments.faces
        self._plan = plan
        self._group_of = np.full(len(self._faces.frame), -1, np.int32)
        self._place_in_group = np.zeros(len(self._faces.frame), np.int64)
        for i, group in enumerate(self._faces.groups):
            self._group_of[group.rows] = i
            self._place_in_group[group.rows] = np.arange(len(group.rows))

    def sidecar(self, task: FrameTask, k: int, sha1: str) -> dict[str, Any]:
        """The row of the k-th face of a frame; without `file`, which is known later.

        Keys: frame, position (of the frame, from 0), index, hash, size, matrix (crop_from_frame, 2 x 3), roi (corners
        in the frame: top-left, bottom-left, bottom-right, top-right), roi_size, box (x, y, w, h), landmarks.
        """
        row = int(task.rows[k])
        matrix = task.crop_from_frame[k]
        corners = crops.roi(matrix[None], self._plan.size)
        return {
            "frame": task.name,
            "position": task.position,
            "index": int(task.index[k]),
            "hash": sha1,
            "size": self._plan.size,
            "matrix": matrix.tolist(),
            "roi": corners[0].tolist(),
            "roi_size": int(crops.roi_size(corners)[0]),
            "box": self._faces.box[row].tolist(),
            "landmarks": self.landmarks(row).tolist(),
        }

    def landmarks(self, row: int) -> np.ndarray:
        """Of a face by its row, [n, 2] float64 in the frame as it is."""
        return self._points(row).astype(np.float64)

    def rows(self, written: Iterable[FaceResult]) -> Iterator[dict[str, Any]]:
        """The rows of all faces that were written, in the order of the plan: `file`, what `sidecar` has, and four more.

        Keys: sharpness (of the stored pixels, see `kernels.sharpness`; None where it is not known), side_px (of the
        crop's box in the frame, in pixels), pose (yaw, pitch, roll in degrees, see `geometry.pose.angles`; None where
        the landmarks tell none), hash_state (one of `HASH_STATES`: against what the alignments file held when the
        face was written, "none" where its version holds no hashes).
        """
        result_of = {face.row: face for face in written}
        faces = (
            (task, k, result_of[row])
            for task in self._plan.tasks()
            for k, row in enumerate(task.rows.tolist())
            if row in result_of
        )
        while block := list(islice(faces, AT_ONCE)):
            poses = self._poses([face.row for _, _, face in block])
            for (task, k, face), pose in zip(block, poses, strict=True):
                yield {
                    "file": face.file_name,
                    **self.sidecar(task, k, face.sha1),
                    "sharpness": face.sharpness,
                    "side_px": float(crops.side_px(task.crop_from_frame[[k]], self._plan.size)[0]),
                    "pose": pose,
                    "hash_state": face.hash_state or hash_state(self._alignments, face),
                }

    def _points(self, row: int) -> np.ndarray:
        """Landmarks [n, 2] of a face in its frame as it is."""
        points = self._faces.groups[self._group_of[row]].points[self._place_in_group[row]]
        return upright_landmarks(self._alignments, row, points, self._plan.frame_sizes)

    def _poses(self, rows: Sequence[int]) -> list[list[float] | None]:
        found: list[list[float] | None] = [None] * len(rows)
        points = [self._points(row) for row in rows]
        for count in {len(one) for one in points}:
            places = [i for i, one in enumerate(points) if len(one) == count]
            poses = crops.head_pose(np.stack([points[i] for i in places]))
            for i, pose in zip(places, poses.tolist(), strict=True):
                found[i] = pose if math.isfinite(pose[0]) else None
        return found
