"""Inputs opened and matched with each other: what a run, a dry run and a verification begin with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import load_any
from gpu_extract.engines.antialiased import AntialiasedEngine
from gpu_extract.engines.base import Engine, MemoryLimits
from gpu_extract.engines.pick import pick_engine, resolve_device
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.face_files.header import face_header
from gpu_extract.face_files.layout import layout_for
from gpu_extract.face_files.writer import Header
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.options import Settings
from gpu_extract.run import journal
from gpu_extract.run.plan import Plan, PlanOptions, make_plan, without_shared_files
from gpu_extract.run.progress import Progress
from gpu_extract.run.resolve import Resolved, min_box_px, resolve
from gpu_extract.run.shard import Shard
from gpu_extract.run.threads import available_cores
from gpu_extract.run.training import not_for_training
from gpu_extract.tasks import Failure, FrameResult, FrameTask


@dataclass
class Prepared:
    """Everything open and planned."""

    alignments: Alignments
    resolved: Resolved
    source: FrameSource
    engine: Engine
    options: PlanOptions
    """Of the plan."""
    plan: Plan
    workers: int
    notes: list[str] = field(default_factory=list)
    """What was decided on the way and a user should know, in sentences for a report."""

    def announce(self, plan: Plan, progress: Progress) -> None:
        """Say what of the plan is to be done."""
        progress.planned(plan.frame_count, plan.face_count, plan.positions if self.source.kind == "video" else ())


@contextmanager
def prepared(settings: Settings, say: Callable[[str], None]) -> Iterator[Prepared]:
    """Load, open, pick and plan; closes what it opened.

    Args:
        say: told what takes a while.
    """
    with ExitStack() as stack:
        alignments = load_any(settings.alignments)
        if settings.refresh_thumbs and alignments.imported:
            raise UsageError(
                f"refresh-thumbs changes the alignments file, but {settings.alignments.name} holds landmarks for "
                "exchange; turn it into an alignments file with gpu-extract import."
            )
        shard = None if settings.shard is None else Shard.of(settings.shard)
        goes_on = settings.resume or settings.shard is not None
        resolved = resolve(settings, alignments, journal.begun(settings.faces) if goes_on else None)
        notes = [*alignments.notes, *resolved.notes]
        if (warning := not_for_training(settings, resolved, alignments.traits)) is not None:
            notes.append(warning)
        opened = frames_of(settings, resolved, skip_unwanted=not journal.is_void(settings.faces, shard))
        source = stack.enter_context(opened)
        engine = stack.enter_context(engine_of(settings, say, notes))
        options, plan = planned(settings, alignments, resolved, source)
        notes += [*source.notes, *plan.notes]
        plan = without_shared_files(plan, any_extension=layout_for(settings.output_layout).in_archives)
        stack.enter_context(_one_opencv_thread())
        workers = settings.workers or available_cores()
        yield Prepared(alignments, resolved, source, engine, options, plan, workers, notes)


@contextmanager
def on_own_device(settings: Settings, made: Prepared, say: Callable[[str], None]) -> Iterator[Prepared]:
    """What was planned for any device, with the engine and the decoder of these settings.

    Args:
        made: with settings that differ in nothing but the device, the decoder and the processes.
    """
    notes = list(made.notes)
    with ExitStack() as stack:
        source = made.source
        if settings.decoder == "cuda":
            shard = None if settings.shard is None else Shard.of(settings.shard)
            opened = frames_of(settings, made.resolved, skip_unwanted=not journal.is_void(settings.faces, shard))
            source = stack.enter_context(opened)
            notes += [note for note in source.notes if note not in notes]
        engine = stack.enter_context(engine_of(settings, say, notes))
        yield replace(made, source=source, engine=engine, notes=notes)


def frames_of(settings: Settings, resolved: Resolved, *, skip_unwanted: bool = True) -> FrameSource:
    """The frames as the alignments file numbers, turns and converts them; the arguments are those of `open_frames`."""
    numbering = resolved.numbering
    return open_frames(
        settings.frames,
        timing=numbering.timing,
        rotate=numbering.rotate,
        pixels=numbering.pixels,
        skip_unwanted=skip_unwanted,
        device=resolve_device(settings.device) if settings.decoder == "cuda" else None,
    )


def planned(
    settings: Settings, alignments: Alignments, resolved: Resolved, source: FrameSource, *, fit_ahead: bool = True
) -> tuple[PlanOptions, Plan]:
    """Which faces of which frames, and how; what was no face from the beginning is among the plan's failures."""
    options = _plan_options(settings, resolved, fit_ahead)
    plan = make_plan(alignments, source, options)
    plan.failures += _left_out(alignments, source, settings.extract_every_n)
    return options, plan


@contextmanager
def engine_of(settings: Settings, say: Callable[[str], None], notes: list[str]) -> Iterator[Engine]:
    """The engine that these settings ask for; closed in the end.

    Args:
        say: told what takes a while.
        notes: grows by a sentence where a better one was passed over.
    """
    limits = MemoryLimits(settings.batch_mb, settings.pinned_mb)
    engine, passed_over = pick_engine(settings.engine, settings.device, limits, say)
    with engine:
        if passed_over and passed_over[0].device != "cpu":  # on a CPU the engines of other devices are no loss
            notes.append(f"engine passed over: {passed_over[0]}")
        if settings.decoder == "cuda" and not engine.takes_surfaces:
            why = f" ({passed_over[0]})" if passed_over else ""
            raise DeviceError(
                f"frames that a device decodes stay there, and the engine is {engine.name} on {engine.device}{why}; "
                "choose --decoder cpu."
            )
        yield AntialiasedEngine(engine) if settings.antialias else engine


def _left_out(alignments: Alignments, source: FrameSource, every_n: int) -> list[Failure]:
    """What was no face in landmarks for exchange, of the frames that are asked for."""
    positions = [source.index_of(bad.frame) for bad in alignments.left_out]
    return [bad for bad, position in zip(alignments.left_out, positions, strict=True) if (position or 0) % every_n == 0]


def _plan_options(settings: Settings, resolved: Resolved, fit_ahead: bool) -> PlanOptions:
    return PlanOptions(
        size=settings.size,
        extract_every_n=settings.extract_every_n,
        align_eyes=settings.align_eyes,
        rounding=resolved.rounding,
        min_box_px=min_box_px(settings),
        centering=resolved.centering,
        centering_asked=settings.centering != "auto",
        extension=resolved.extension,
        antialias=settings.antialias,
        match_keys=settings.match_keys,
        fit_ahead=fit_ahead,
    )


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
    if not alignments.traits.has_headers:
        return None
    is_video = made.source.kind == "video"

    def header(task: FrameTask, k: int, result: FrameResult) -> bytes | None:
        record = alignments.record(int(task.rows[k]))
        index = int(task.index[k])
        height, width = result.frame_size
        return face_header(alignments.version, record, index, task.name, height, width, is_video)

    return header
