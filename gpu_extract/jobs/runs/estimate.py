"""How much disk and time a run will take, from the plan and a few faces cut for real."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu_extract.errors import OutputError
from gpu_extract.face_files.layout import Layout, Sidecar
from gpu_extract.reports.extraction import Report
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan, subset
from gpu_extract.tasks import FaceResult, FrameResult, FrameTask

if TYPE_CHECKING:
    from gpu_extract.jobs.runs.prepare import Prepared
    from gpu_extract.options import Settings

SAMPLED_FRAMES = 48  # from the start of the source: enough to see past the first decoder delay, under a second
BYTES_PER_PIXEL = {".png": 1.1, ".bmp": 3.0, ".tif": 2.0, ".tiff": 2.0}
LOSSY_BYTES_PER_PIXEL = 0.35
MARGIN = 0.5  # a run is refused only if even half of the estimate does not fit


def check_space(plan: Plan, folder: Path, report: Report) -> None:
    """Refuse a run that cannot fit on the disk, and note one that might not.

    Raises:
        OutputError: if even half of the estimated bytes are not free.
    """
    needed = sum_of_bytes(plan)
    free = shutil.disk_usage(folder).free
    if free < needed * MARGIN:
        raise OutputError(
            f"about {needed / 1e6:,.0f} MB of faces would not fit into {folder}, which has {free / 1e6:,.0f} MB free; "
            "free some space, or choose a smaller --size or --format jpg."
        )
    if free < needed:
        report.notes.append(f"the disk may fill up: about {needed / 1e6:,.0f} MB to write, {free / 1e6:,.0f} MB free.")


def sum_of_bytes(plan: Plan) -> int:
    """Rough size of all faces of a plan, by format and area."""
    pixels = plan.size * plan.size
    total = 0.0
    sampled = 0
    for task in _some_tasks(plan):
        per_pixel = BYTES_PER_PIXEL.get(task.extension.lower(), LOSSY_BYTES_PER_PIXEL)
        total += len(task) * (pixels * per_pixel)
        sampled += len(task)
    return int(total * plan.face_count / sampled) if sampled else 0


def _some_tasks(plan: Plan) -> list[FrameTask]:
    chosen = np.linspace(0, plan.frame_count - 1, min(plan.frame_count, SAMPLED_FRAMES)).astype(int)
    return [plan.task(i) for i in sorted(set(chosen.tolist()))]


def estimate(made: Prepared, settings: Settings, report: Report) -> None:
    """Fill a report with what a run would do; cuts the first frames' faces, in memory only."""
    from gpu_extract.face_files.writer import FaceWriter

    plan = made.plan
    first = subset(plan, np.arange(plan.frame_count) < SAMPLED_FRAMES)
    writer = FaceWriter(
        _Nowhere(settings.faces, plan.positions, plan.face_count),
        settings.faces,
        settings.quality,
        None,
        lambda task, k, sha1: {},
    )
    began = time.perf_counter()
    faces: list[FaceResult] = []
    results: list[FrameResult] = []
    for result in Pipeline(first, made.source, made.engine, writer, made.workers):
        results.append(result)
        faces += result.faces
    seconds = time.perf_counter() - began
    share = plan.frame_count / max(1, len(results))
    report.frames_expected = plan.frame_count
    report.faces_planned = plan.face_count
    report.faces_filtered = plan.faces_filtered
    report.faces_failed = len(plan.failures) + plan.faces_missing
    report.bytes_estimated = int(sum(face.nbytes for face in faces) * plan.face_count / max(1, len(faces)))
    report.seconds_estimated = round(seconds * share, 3)


class _Nowhere(Layout):
    """Takes faces and keeps none."""

    def place(self, task: FrameTask, k: int, name: str) -> str:
        return name

    def store(self, task: FrameTask, k: int, name: str, data: bytes, sidecar: Sidecar) -> str:
        return name
