"""Regenerating the thumbnails inside an alignments file: one more pass over the frames, with their own centering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_extract.face_files.thumbs import as_stored, thumbnail
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import PlanOptions, make_plan
from gpu_extract.tasks import FaceResult, FrameResult, FrameTask

if TYPE_CHECKING:
    from gpu_extract.jobs.runs.prepare import Prepared
    from gpu_extract.reports.extraction import Report
    from gpu_extract.run.signals import Interruption


def refresh_thumbnails(made: Prepared, size: int, report: Report, interruption: Interruption) -> None:
    """Set the `thumb` of every face whose frame is there; the file itself is saved later.

    Args:
        size: of the extracted faces, which thumbnails are shrunk from.

    Raises:
        InterruptedRunError: if the run is to end; nothing was set then.
    """
    alignments = made.alignments
    if not alignments.traits.has_thumbs:
        report.notes.append(f"files of generation {alignments.generation} hold no thumbnails; none were made.")
        return
    traits = alignments.traits
    plan = make_plan(
        alignments, made.source, PlanOptions(size=size, centering=traits.centering, rounding=made.resolved.rounding)
    )
    jpegs: dict[int, bytes] = {}

    def finish(task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult:
        row = int(task.rows[k])
        jpegs[row] = thumbnail(crop, traits)
        return FaceResult(row, int(task.index[k]), "", "", 0)

    pipeline = Pipeline(plan, made.source, made.engine, finish, made.workers)
    for result in pipeline:
        interruption.check()
        for failure in result.failures:
            report.notes.append(f"no thumbnail for {failure.frame}: {failure.reason}")
    for row, jpeg in jpegs.items():
        record: dict[str, Any] = alignments.record(row)
        before = record.get("thumb")
        alignments.set_field(row, "thumb", as_stored(jpeg, record["landmarks_xy"] if before is None else before))
    report.thumbs_refreshed = len(jpegs)
