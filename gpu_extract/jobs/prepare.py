"""Inputs opened and matched with each other: what a run, a dry run and a verification begin with."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from gpu_extract.alignments import Alignments
from gpu_extract.engines.antialiased import AntialiasedEngine
from gpu_extract.engines.base import Engine, Limits, pick_engine
from gpu_extract.faces.header import face_header
from gpu_extract.faces.layout import layout_for
from gpu_extract.faces.writer import Header
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.reports.extraction import Report
from gpu_extract.run.plan import Options, Plan, make_plan, without_shared_files
from gpu_extract.settings import Resolved, Settings
from gpu_extract.tasks import FrameResult, FrameTask

HEADERS_SINCE = 2.1  # the version from which on face PNGs carry their alignment
log = logging.getLogger("gpu_extract")


@dataclass
class Prepared:
    """Everything open and planned."""

    alignments: Alignments
    resolved: Resolved
    source: FrameSource
    engine: Engine
    plan: Plan
    workers: int


@contextmanager
def prepared(settings: Settings, report: Report) -> Iterator[Prepared]:
    """Load, open, pick and plan; closes what it opened."""
    with ExitStack() as stack:
        alignments = Alignments.load(settings.alignments)
        report.alignments_version, report.alignments_generation = alignments.version, alignments.generation
        resolved = settings.resolve(alignments)
        report.notes += resolved.notes
        source = stack.enter_context(open_frames(settings.frames, timing=resolved.timing, rotate=resolved.rotate))
        if source.kind == "video":
            report.video_timing, report.rotate = resolved.timing, resolved.rotate
        engine = _picked_engine(settings, report)
        stack.enter_context(engine)
        if settings.antialias:
            engine = AntialiasedEngine(engine)
        plan = make_plan(
            alignments,
            source,
            Options(
                size=settings.size,
                extract_every_n=settings.extract_every_n,
                align_eyes=settings.align_eyes,
                min_box_px=settings.min_box_px,
                centering=resolved.centering,
                centering_asked=settings.centering != "auto",
                extension=resolved.extension,
                antialias=settings.antialias,
            ),
        )
        plan = without_shared_files(plan, any_extension=layout_for(settings.output_layout).in_archives)
        stack.enter_context(_one_opencv_thread())
        yield Prepared(alignments, resolved, source, engine, plan, settings.workers or _cores())


def _picked_engine(settings: Settings, report: Report) -> Engine:
    say = log.info if settings.progress == "none" else _say
    limits = Limits(settings.batch_mb, settings.pinned_mb)
    engine, passed_over = pick_engine(settings.engine, settings.device, limits, say)
    report.engine, report.device, report.engine_implementation = engine.name, engine.device, engine.implementation
    if engine.device != "cpu":
        report.notes += [f"engine passed over: {line}" for line in passed_over]
    return engine


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Our workers fill the cores; OpenCV's own pool inside each of them would only get in the way.

    Engines that use OpenCV have imported it by now. What else of it a run may need has no pool.
    """
    cv2 = sys.modules.get("cv2")
    if cv2 is None:
        yield
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def header_maker(made: Prepared) -> Header | None:
    """The function that makes each face's PNG header, for files of a version that has them."""
    alignments = made.alignments
    if alignments.version < HEADERS_SINCE:
        return None
    is_video = made.source.kind == "video"

    def header(task: FrameTask, k: int, result: FrameResult) -> bytes | None:
        record = alignments.record(int(task.rows[k]))
        index = int(task.index[k])
        height, width = result.frame_size
        return face_header(alignments.version, record, index, task.name, height, width, is_video)

    return header
