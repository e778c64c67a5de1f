"""What is known of a face that was cut, as plain JSON values: the row of a metadata file, or a JSON beside an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.geometry import crops
from gpu_extract.run.plan import Plan, upright_landmarks
from gpu_extract.tasks import FaceResult, FrameTask


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
        points = self._faces.groups[self._group_of[row]].points[self._place_in_group[row]]
        points = upright_landmarks(self._alignments, row, points, self._plan.frame_sizes)
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
            "landmarks": points.astype(np.float64).tolist(),
        }

    def rows(self, written: Iterable[FaceResult]) -> Iterator[dict[str, Any]]:
        """The rows of all faces that were written, in the order of the plan, each with its `file`."""
        result_of = {face.row: face for face in written}
        for task in self._plan.tasks():
            for k, row in enumerate(task.rows.tolist()):
                if row in result_of:
                    face = result_of[row]
                    yield {"file": face.file_name, **self.sidecar(task, k, face.sha1)}
