"""`extract`: load the alignments, plan, run the pipeline, save the hashes, report."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import Literal

from gpu_extract.jobs.runs.estimate import estimate
from gpu_extract.jobs.runs.extraction import begin, introduce, other_names
from gpu_extract.jobs.runs.next_step import next_command
from gpu_extract.jobs.runs.prepare import Prepared, on_own_device, prepared
from gpu_extract.naming import located
from gpu_extract.options import Settings
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run import failures
from gpu_extract.run.folder import check_folder
from gpu_extract.run.progress import Listener, Progress, listener_for
from gpu_extract.run.shard import Shard
from gpu_extract.run.signals import Interruption


def extract(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    size: int = 256,
    extract_every_n: int = 1,
    align_eyes: bool = False,
    eye_angle: str = "auto",
    numerics: str = "auto",
    large: bool = False,
    min_size: int = 0,
    centering: str = "auto",
    video_timing: str = "auto",
    match_keys: str = "exact",
    rotate: str = "auto",
    antialias: bool = False,
    format: str = "auto",
    quality: int | None = None,
    output_layout: str = "flat",
    metadata: str | None = None,
    refresh_thumbs: bool = False,
    engine: str = "auto",
    device: str = "auto",
    decoder: str = "auto",
    batch_mb: int = 64,
    pinned_mb: int = 512,
    workers: int | None = None,
    json: str | os.PathLike[str] | None = None,
    no_update: bool = False,
    replace_hashes: bool = False,
    resume: bool = False,
    shard: str | None = None,
    processes: int | str = 1,
    devices: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    deleted: Literal["leave-out", "restore"] = "leave-out",
    dry_run: bool = False,
    on_error: Literal["skip", "stop"] = "skip",
    max_errors: int | None = None,
    partial_ok: bool = False,
    progress: str | Listener = "auto",
    cancel: threading.Event | None = None,
) -> Report:
    """Cut every face out again and record its hash in the alignments file.

    Args:
        alignments: alignments file of any generation (`.fsa`, `.json`, `.p`, `.pickle`, `.yaml`, `.yml`).
        frames: the video, or the folder of images, that the file was made from.
        faces: folder for the face images; created, and refused unless empty (but see `resume`).
        size: crop side in pixels, 16 to 4096.
        extract_every_n: take frames 0, N, 2N … of the source.
        align_eyes: turn each face until its eyes are exactly level.
        eye_angle: where that angle comes from: "libm" (as the C library of the programs' time has it), "rounded"
            (correctly), or "auto", which is libm.
        numerics: how crops are rounded: "numpy1" (as by the programs until November 2025), "numpy2" (as since), "mixed"
            (as in folders of before there was the option), or "auto" by the file.
        large: only faces whose source box is at least `size` pixels.
        min_size: only faces whose source box is at least this percentage of `size`; 0 takes all.
        centering: "legacy", "face", "head", or "auto": legacy for files before version 2.0, head from then on.
        video_timing: how a video's frames are numbered: "decoded" (each once), "constant" (as a constant-rate stream,
            as files until March 2026 have it), or "auto" by the file.
        match_keys: what may differ between a key of the file and its frame's name: "exact" (nothing), "any", or some of
            "path", "unicode", "case", "padding", "extension", "stem" with commas between.
        rotate: "on" follows a video's display matrix and an image's EXIF orientation (as files until March 2026 have
            it), "off" does not, "auto" by the file.
        antialias: prefilter faces that are larger than the crop.
        format: "png", "jpg", "webp", or "auto" as the file's generation does.
        quality: 1 to 100, of jpg and webp.
        output_layout: "flat", "by-frame", "webdataset".
        metadata: also write one row a face, as "jsonl" or "parquet".
        refresh_thumbs: regenerate the thumbnails inside the alignments file.
        engine: "exact" (the same bytes everywhere), "kornia", or "auto", which is exact.
        device: "auto", "cpu", "cuda", "cuda:N".
        decoder: what decodes a video: "cpu", "cuda" (the device that also cuts, where its pictures stay), or "auto",
            which is the CPU.
        batch_mb: MiB of one batch on a device.
        pinned_mb: MiB of page-locked host memory, on CUDA.
        workers: threads that cut and encode; None takes one for each core this process may use.
        json: where to write the report; "-" is standard output.
        no_update: leave the alignments file as it is.
        replace_hashes: store the new hashes also where none of the stored ones comes out again.
        resume: continue an interrupted run in `faces`.
        deleted: with `resume`, of faces that the earlier run wrote and that are not there any more: "leave-out", or
            "restore" to make them again. Where none is left, all are made again.
        shard: "I/N", part I (from 0) of N of the planned frames: only faces and the part's record are written, and
            `gpu_extract.jobs.merge` makes one run of all parts.
        processes: in how many processes to cut, each a shard at a time; "auto" takes as many as pay.
        devices: of these processes, with commas between.
        cache: where what comes from a bucket is kept; by default in the user's folder of caches.
        dry_run: plan and estimate, write nothing; a folder that the run would refuse is refused.
        on_error: "skip" goes on after a frame or face that fails, "stop" ends the run.
        max_errors: end the run after this many failures.
        partial_ok: `exit_code` is 0, not 4, where the run finished and some frames or faces failed.
        progress: "auto", "bar", "plain", "none", or a callable that gets every event of `gpu_extract.run.progress`.
        cancel: an event that ends the run in good order when it is set, as Ctrl-C does otherwise; signals are then left
            alone.

    Returns:
        The report; `exit_code` is 0, or 4 if some frames or faces failed (each is named in `errors`), or 129, 130
        or 143 if a signal or `cancel` stopped the run.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. The alignments file is then as it was.
    """
    settings = Settings(
        alignments=located(alignments),
        frames=located(frames),
        faces=located(faces),
        size=size,
        extract_every_n=extract_every_n,
        align_eyes=align_eyes,
        eye_angle=eye_angle,
        numerics=numerics,
        large=large,
        min_size=min_size,
        centering=centering,
        video_timing=video_timing,
        match_keys=match_keys,
        rotate=rotate,
        antialias=antialias,
        format=format,
        quality=quality,
        output_layout=output_layout,
        metadata=metadata,
        refresh_thumbs=refresh_thumbs,
        engine=engine,
        device=device,
        decoder=decoder,
        batch_mb=batch_mb,
        pinned_mb=pinned_mb,
        workers=workers,
        json=json,
        no_update=no_update,
        replace_hashes=replace_hashes,
        resume=resume,
        shard=shard,
        processes=processes,
        devices=devices,
        cache=cache,
        deleted=deleted,
        dry_run=dry_run,
        on_error=on_error,
        max_errors=max_errors,
        partial_ok=partial_ok,
        progress=progress,
    )
    return run(settings, cancel=cancel)


def run(settings: Settings, *, cancel: threading.Event | None = None) -> Report:
    """`extract` with its options as one value."""
    if settings.urls:
        from gpu_extract.jobs.runs.staging import run_staged

        return run_staged(settings, cancel, partial(run, cancel=cancel))
    if settings.json is not None:
        check_target(Report, settings.json)
    began = time.perf_counter()
    report = Report(size=settings.size, faces_folder=os.fspath(settings.faces), dry_run=settings.dry_run)
    with Interruption(cancel) as interruption, Progress(listener_for(settings.progress)) as progress:
        if settings.processes == 1 or settings.dry_run:
            with prepared(settings, progress.note) as made:
                _alone(settings, made, report, progress, interruption)
        else:
            _divided(settings, report, progress, interruption)
        report.finish(time.perf_counter() - began, partial_ok=settings.partial_ok)
        progress.finish(report.exit_code)
    report.next = next_command(settings, report)
    if not settings.dry_run and settings.shard is None and not report.shards_missing:
        failures.keep(settings.faces, report)
    if settings.json is not None:
        write_report(report, settings.json)
    return report


def _divided(settings: Settings, report: Report, progress: Progress, interruption: Interruption) -> None:
    """The run in several processes, or in this one where it does better."""
    from gpu_extract.jobs.runs.processes import cut_in_processes, divide, for_planning

    with prepared(for_planning(settings), progress.note) as made:
        work = divide(settings, made)
        if work.note is not None:
            report.notes.append(work.note)
        if not work.shards:
            with on_own_device(settings, made, progress.note) as mine:
                _alone(settings, mine, report, progress, interruption)
            return
        _introduce(settings, made, report, progress)
        interruption.check()
        cut_in_processes(settings, made, work, report, progress, interruption)


def _alone(settings: Settings, made: Prepared, report: Report, progress: Progress, interruption: Interruption) -> None:
    """The run in this process."""
    _introduce(settings, made, report, progress)
    interruption.check()
    if settings.dry_run:
        shard = None if settings.shard is None else Shard.of(settings.shard)
        check_folder(settings.faces, resume=settings.resume, shard=shard)
        estimate(made, settings, report)
        return
    with begin(settings, made, report) as extraction:
        extraction.cut(extraction.todo(), progress, interruption)
        extraction.finish(interruption)


def _introduce(settings: Settings, made: Prepared, report: Report, progress: Progress) -> None:
    introduce(made, settings.align_eyes, report)
    if note := other_names(settings, made.alignments):
        report.notes.append(note)
        progress.note(note)
