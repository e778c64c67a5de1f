"""The job: load the alignments, plan, run the pipeline, save the hashes, report."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.engines import Engine, Limits, pick_engine
from gpu_extract.errors import OutputError, UsageError
from gpu_extract.faces import FolderWriter, prepare_folder
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.pipeline import FaceResult, Pipeline
from gpu_extract.plan import Options, Plan, make_plan
from gpu_extract.progress import check_style, make_progress
from gpu_extract.report import Report, versions
from gpu_extract.signals import StopOnSignal

SIZES = range(16, 4097)
log = logging.getLogger("gpu_extract")


def extract(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    size: int = 256,
    extract_every_n: int = 1,
    align_eyes: bool = False,
    large: bool = False,
    engine: str = "auto",
    device: str = "auto",
    json: str | os.PathLike[str] | None = None,
    no_update: bool = False,
    progress: str = "auto",
    workers: int | None = None,
) -> Report:
    """Cut every face out again and record its hash in the alignments file.

    Args:
        alignments: alignments file of any generation (`.fsa`, `.json`, `.p`, `.pickle`, `.yaml`, `.yml`).
        frames: the video, or the folder of images, that the file was made from.
        faces: folder for the face images; created, and refused unless empty.
        size: crop side in pixels, 16 to 4096.
        extract_every_n: take frames 0, N, 2N … of the source.
        align_eyes: turn each face until its eyes are exactly level.
        large: only faces whose source box is at least `size` pixels.
        engine: "exact" (the same bytes everywhere), "kornia", or "auto": exact where the device has it.
        device: "auto", "cpu", "cuda", "cuda:N".
        json: where to write the report; "-" is standard output.
        no_update: leave the alignments file as it is.
        progress: "auto", "bar", "plain" or "none".
        workers: threads that cut and encode; None takes one for each core this process may use.

    Returns:
        The report; `exit_code` is 0, or 4 if some frames or faces failed (each is named in `errors`).

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. The alignments file is then as it was.
    """
    began = time.perf_counter()
    if size not in SIZES:
        raise UsageError(f"size must be {SIZES.start} to {SIZES.stop - 1} pixels, got {size}.")
    if extract_every_n < 1:
        raise UsageError(f"extract-every-n must be 1 or more, got {extract_every_n}.")
    if workers is not None and workers < 1:
        raise UsageError(f"workers must be 1 or more, got {workers}.")
    check_style(progress)

    folder = Path(faces)
    report = Report(size=size, faces_folder=os.fspath(folder), versions=versions())
    with ExitStack() as stack:
        loaded = Alignments.load(Path(alignments))
        report.alignments_version, report.alignments_generation = loaded.version, loaded.generation
        options = Options(
            size=size,
            extract_every_n=extract_every_n,
            align_eyes=align_eyes,
            min_box_px=size if large else 0.0,
            extension=".png" if large else None,
        )
        source = stack.enter_context(open_frames(frames, threads=workers))
        picked, passed_over = pick_engine(engine, device, Limits())
        stack.enter_context(picked)
        for line in passed_over:
            log.info("engine passed over: %s", line)
        report.engine, report.device = picked.name, picked.device
        report.engine_implementation = picked.implementation
        plan = make_plan(loaded, source, options)
        prepare_folder(folder)
        stack.enter_context(_one_opencv_thread())
        hashes = _run(plan, source, picked, FolderWriter(folder), workers or _cores(), progress, report)
        _count(plan, loaded, source, options, report)
        if report.exit_code in (0, 4) and not no_update:
            _save_hashes(loaded, hashes, report)
    report.finish(time.perf_counter() - began)
    if json is not None:
        write_report(report, json)
    return report


def write_report(report: Report, target: str | os.PathLike[str]) -> None:
    """Write the report as JSON to a file, or to standard output for "-".

    Raises:
        OutputError: if the file cannot be written.
    """
    if target == "-":
        sys.stdout.write(report.to_json())
        return
    try:
        Path(target).write_text(report.to_json(), "utf-8")
    except OSError as error:
        raise OutputError(f"the report cannot be written to {target}: {error.strerror}.") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Our workers fill the cores; OpenCV's own pool inside each of them would only get in the way."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _run(
    plan: Plan, source: FrameSource, engine: Engine, writer: FolderWriter, workers: int, style: str, report: Report
) -> list[FaceResult]:
    """Run the pipeline into the report; returns the faces written."""
    written: list[FaceResult] = []
    pipeline = Pipeline(plan, source, engine, writer, workers)
    progress = make_progress(style, plan.frame_count)
    try:
        with StopOnSignal(pipeline.stop) as signals:
            for result in pipeline:
                report.frames_decoded += result.decoded
                written += result.faces
                for failure in result.failures:
                    report.add_error(failure.frame, failure.index, failure.reason)
                    report.faces_failed += 1 if failure.index is not None else len(result.task)
                for stage, seconds in result.seconds.items():
                    report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds
                progress.advance(len(result.faces))
    finally:
        progress.close()
    if signals.exit_code is not None:
        report.exit_code = signals.exit_code
    _name_limit(pipeline, engine, report)
    report.faces_written = len(written)
    report.bytes_written = sum(face.nbytes for face in written)
    return written


def _name_limit(pipeline: Pipeline, engine: Engine, report: Report) -> None:
    """Which stage the others waited for."""
    waits = pipeline.waits
    stages = report.stage_seconds
    report.wait_seconds = {
        "reader_for_workers": waits.reader_for_workers,
        "workers_for_reader": waits.workers_for_reader,
        "device_for_regions": waits.device_for_regions,
        "regions_for_device": waits.regions_for_device,
    }
    work = {name: stages[name] for name in ("load", "warp", "encode", "hash", "write") if name in stages}
    stages["read"] = waits.read
    if not engine.inline:
        stages["warp"] = waits.device
    if engine.inline:
        reader_limits = waits.workers_for_reader > waits.reader_for_workers
        report.limiting_stage = "read" if reader_limits or not work else max(work, key=work.__getitem__)
    elif waits.regions_for_device > waits.device_for_regions:
        report.limiting_stage = "warp"
    else:
        report.limiting_stage = "read" if waits.workers_for_reader > waits.reader_for_workers else "encode"


def _count(plan: Plan, alignments: Alignments, source: FrameSource, options: Options, report: Report) -> None:
    """The counts and failures that are known from the plan."""
    report.frames_expected = plan.frame_count
    report.faces_filtered = plan.faces_filtered
    report.alignments_without_frame = len(plan.missing)
    for failure in plan.failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += 1
    for name in plan.missing:
        report.add_error(name, None, "the source has no such frame")
    report.faces_failed += plan.faces_missing
    if source.frames_seen is not None:
        report.alignments_without_frame += int((plan.positions >= source.frames_seen).sum())
        with_entry = {i for i in map(source.index_of, alignments.frame_names) if i is not None}
        step = options.extract_every_n
        selected = -(-source.frames_seen // step)
        report.frames_without_alignments = selected - sum(
            1 for i in with_entry if i < source.frames_seen and i % step == 0
        )


def _save_hashes(alignments: Alignments, written: list[FaceResult], report: Report) -> None:
    """Record the hashes where the file's generation has them; the file is replaced only if one changed."""
    if not alignments.stores_hashes:
        report.notes.append(
            f"files of version {alignments.version} hold no hashes, so {alignments.path.name} was left as it is."
        )
        return
    rows = np.array([face.row for face in written], np.int64)
    report.hashes_updated = len(written)
    report.hashes_changed = sum(alignments.stored_hash(face.row) != face.sha1 for face in written)
    if report.hashes_changed:
        alignments.set_hashes(rows, [face.sha1 for face in written])
        backup = alignments.save()
        report.backup = os.fspath(backup) if backup is not None else None
