"""Faces to store, for the tests of layouts: made up, each of other bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpu_extract.face_files.layout import Layout
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask


def a_task(position: int, faces: int, name: str | None = None, first: int = 0) -> FrameTask:
    return FrameTask(
        position=position,
        name=name or f"clip_{position + 1:06d}.png",
        rows=np.arange(faces) + position * 100,
        index=np.arange(first, first + faces, dtype=np.int32),
        crop_from_frame=np.zeros((faces, 2, 3)),
        cubic=np.zeros(faces, bool),
        region=np.zeros((faces, 4), np.int64),
        extension=".png",
    )


def content(task: FrameTask, k: int) -> bytes:
    """The bytes of a face: some hundred of them, another number for each."""
    seed = f"{task.name} {task.index[k]}".encode("utf-8", "surrogateescape")
    return hashlib.sha512(seed).digest() * (2 + (task.position * 7 + k) % 23) + seed


def finished(layout: Layout, task: FrameTask, fail: Iterable[int] = ()) -> FrameResult:
    """Store a frame's faces, those in `fail` excepted."""
    result = FrameResult(task)
    for k in range(len(task)):
        name, data = task.file_name(k), content(task, k)
        if k in fail:
            result.failures.append(Failure(task.name, k, "no room"))
            continue

        def sidecar(k: int = k) -> dict[str, Any]:
            return {"frame": task.name, "position": task.position, "index": int(task.index[k]), "box": [1.5, np.nan]}

        stored = layout.store(task, k, name, data, sidecar)
        result.faces.append(FaceResult(int(task.rows[k]), int(task.index[k]), stored, "ab" * 20, len(data)))
    return result


def positions(tasks: Iterable[FrameTask]) -> np.ndarray:
    return np.array([task.position for task in tasks], np.int64)
