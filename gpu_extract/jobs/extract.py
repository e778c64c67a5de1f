"""The job: load the alignments, plan, run the pipeline, save the hashes, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from gpu_extract.alignments import Alignments
from gpu_extract.errors import InterruptedRunError, OutputError
from gpu_extract.faces.layout import Layout, layout_for
from gpu_extract.faces.metadata import write_metadata
from gpu_extract.faces.writer import FaceWriter, prepare_folder
from gpu_extract.jobs.estimate import check_space, estimate
from gpu_extract.jobs.prepare import Prepared, header_maker, prepared
from gpu_extract.jobs.refresh import refresh_thumbnails
from gpu_extract.reports.extraction import Report, check_target, write_report
from gpu_extract.run.journal import Journal
from gpu_extract.run.journal import exists as journal_exists
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan, subset, without_shared_files
from gpu_extract.run.progress import make_progress
from gpu_extract.run.rows import FaceRows
from gpu_extract.run.signals import StopOnSignal
from gpu_extract.run.written import Written
from gpu_extract.settings import Settings
from gpu_extract.storage.atomic import locked
from gpu_extract.storage.parts import remove_unfinished
from gpu_extract.tasks import FaceResult, FrameResult

GRACE_SECONDS = 3.0  # after a signal, for frames in flight; what takes longer is given up and done again by --resume
RESUME = "run the same command with --resume to continue"


def extract(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    size: int = 256,
    extract_every_n: int = 1,
    align_eyes: bool = False,
    large: bool = False,
    min_size: int = 0,
    centering: str = "auto",
    video_timing: str = "auto",
    rotate: str = "auto",
    antialias: bool = False,
    format: str = "auto",
    quality: int | None = None,
    output_layout: str = "flat",
    metadata: str | None = None,
    refresh_thumbs: bool = False,
    engine: str = "auto",
    device: str = "auto",
    batch_mb: int = 64,
    pinned_mb: int = 512,
    workers: int | None = None,
    json: str | os.PathLike[str] | None = None,
    no_update: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    on_error: str = "skip",
    max_errors: int | None = None,
    progress: str = "auto",
) -> Report:
    """Cut every face out again and record its hash in the alignments file.

    Args:
        alignments: alignments file of any generation (`.fsa`, `.json`, `.p`, `.pickle`, `.yaml`, `.yml`).
        frames: the video, or the folder of images, that the file was made from.
        faces: folder for the face images; created, and refused unless empty (but see `resume`).
        size: crop side in pixels, 16 to 4096.
        extract_every_n: take frames 0, N, 2N … of the source.
        align_eyes: turn each face until its eyes are exactly level.
        large: only faces whose source box is at least `size` pixels.
        min_size: only faces whose source box is at least this percentage of `size`; 0 takes all.
        centering: "legacy", "face", "head", or "auto": legacy for files before version 2.0, head from then on.
        video_timing: how a video's frames are numbered: "decoded" (each once), "constant" (as a constant-rate stream,
            as files until March 2026 have it), or "auto" by the file.
        rotate: "on" applies a video's display matrix (as files until March 2026 have it), "off" does not, "auto" by
            the file.
        antialias: prefilter faces that are larger than the crop.
        format: "png", "jpg", "webp", or "auto" as the file's generation does.
        quality: 1 to 100, of jpg and webp.
        output_layout: "flat", "by-frame", "webdataset".
        metadata: also write one row a face, as "jsonl" or "parquet".
        refresh_thumbs: regenerate the thumbnails inside the alignments file.
        engine: "exact" (the same bytes everywhere), "kornia", or "auto": exact where the device has it.
        device: "auto", "cpu", "cuda", "cuda:N".
        batch_mb: MiB of one batch on a device.
        pinned_mb: MiB of page-locked host memory, on CUDA.
        workers: threads that cut and encode; None takes one for each core this process may use.
        json: where to write the report; "-" is standard output.
        no_update: leave the alignments file as it is.
        resume: continue an interrupted run in `faces`.
        dry_run: plan and estimate, write nothing.
        on_error: "skip" goes on after a frame or face that fails, "stop" ends the run.
        max_errors: end the run after this many failures.
        progress: "auto", "bar", "plain" or "none".

    Returns:
        The report; `exit_code` is 0, or 4 if some frames or faces failed (each is named in `errors`), or 130 or 143
        if a signal stopped the run.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. The alignments file is then as it was.
    """
    options = {name: value for name, value in locals().items() if name not in ("alignments", "frames", "faces")}
    settings = Settings(Path(alignments), Path(frames), Path(faces), **options)
    if settings.json is not None:
        check_target(settings.json)
    report = Job(settings).run()
    if settings.json is not None:
        write_report(report, settings.json)
    return report


class Job:
    """One extraction."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(size=settings.size, faces_folder=os.fspath(settings.faces), dry_run=settings.dry_run)
        self._signals = StopOnSignal()

    def run(self) -> Report:
        """Do it; see `extract`."""
        began = time.perf_counter()
        settings, report = self._settings, self._report
        with self._signals, ExitStack() as stack:
            made = stack.enter_context(prepared(settings, report))
            if settings.dry_run:
                estimate(made, settings, report)
            else:
                self._extract(made, stack)
        report.finish(time.perf_counter() - began)
        return report

    def _extract(self, made: Prepared, stack: ExitStack) -> None:
        settings, report = self._settings, self._report
        self._updates = not settings.no_update and (made.alignments.stores_hashes or settings.refresh_thumbs)
        if self._updates:
            check_updatable(settings.alignments)
            stack.enter_context(locked(settings.alignments))
        prepare_folder(settings.faces, resume=settings.resume)
        resuming = settings.resume and journal_exists(settings.faces)
        if not resuming:
            check_space(made.plan, settings.faces, report)
        journal = self._open_journal(made)
        stack.callback(journal.close)
        stack.enter_context(_hint_at_resume())
        layout_class = layout_for(settings.output_layout)
        if journal.folds_case() and not layout_class.in_archives:
            made = replace(made, plan=without_shared_files(made.plan, fold_case=True))
        report_plan_failures(made.plan, report)
        earlier = still_there(journal, settings.faces, layout_class)
        todo = subset(made.plan, [position not in earlier for position in made.plan.positions.tolist()])
        if resuming:
            remove_unfinished(settings.faces)
            check_space(todo, settings.faces, report)
        layout = layout_class(settings.faces, todo.positions, made.plan.face_count)
        rows = FaceRows(made.alignments, made.plan)
        writer = FaceWriter(layout, settings.faces, settings.quality, header_maker(made), rows.sidecar)
        written = Written(keep_places=settings.metadata is not None)
        for faces in earlier.values():
            written.add(faces)
        report.frames_decoded += len(earlier)
        if self._too_many_errors(report):
            self._note_how_to_resume(made.plan)
        else:
            self._run_pipeline(replace(made, plan=todo), writer, layout, journal, written, made.plan)
        count(made, frames_seen(made, journal), settings.extract_every_n, report)
        report.faces_written = len(written)
        report.bytes_written = written.nbytes
        if report.complete:
            if settings.metadata is not None:
                write_metadata(settings.faces, settings.metadata, rows.rows(written.places))
            if self._updates:
                if settings.refresh_thumbs:
                    refresh_thumbnails(made, settings.size, report)
                save(made.alignments, written, report)
            elif not made.alignments.stores_hashes:
                report.notes.append(f"files of version {made.alignments.version} hold no hashes; none were stored.")

    def _open_journal(self, made: Prepared) -> Journal:
        settings = self._settings
        fingerprint = settings.fingerprint(made.alignments, made.resolved, made.engine.name)
        if settings.resume and journal_exists(settings.faces):
            return Journal.resume(settings.faces, fingerprint)
        return Journal.create(settings.faces, fingerprint)

    def _run_pipeline(
        self,
        made: Prepared,
        writer: FaceWriter,
        layout: Layout,
        journal: Journal,
        written: Written,
        whole_plan: Plan,
    ) -> None:
        settings, report = self._settings, self._report
        pipeline = Pipeline(made.plan, made.source, made.engine, writer, made.workers)
        progress = make_progress(settings.progress, made.plan.frame_count)

        def keep(results: Iterable[FrameResult]) -> None:
            for result in results:
                written.add(result.faces)
                if not result.failures:
                    journal.add(result.task.position, result.faces)

        try:
            with self._signals.calling(partial(pipeline.stop, within=GRACE_SECONDS)):
                for result in pipeline:
                    tally(result, report)
                    keep(layout.commit(result))
                    progress.advance(len(result.faces))
                    if self._too_many_errors(report):
                        pipeline.stop()
            if self._signals.exit_code is not None:
                report.exit_code = self._signals.exit_code
            keep(layout.finish())
            if not report.complete:
                self._note_how_to_resume(whole_plan)
        finally:
            layout.abandon()
            progress.close()
            journal.sync()
        report.wait_seconds = asdict(pipeline.waits)
        report.stage_seconds |= pipeline.own_seconds()
        report.limiting_stage = pipeline.limiting_stage(report.stage_seconds)

    def _too_many_errors(self, report: Report) -> bool:
        settings = self._settings
        allowed = 1 if settings.on_error == "stop" else settings.max_errors
        if allowed is None or len(report.errors) < allowed:
            return False
        report.stopped = True
        return True

    def _note_how_to_resume(self, plan: Plan) -> None:
        report = self._report
        why = "stopped at the first error" if self._settings.on_error == "stop" else "stopped by too many errors"
        if not report.stopped:
            why = "interrupted"
        report.notes.append(f"{why} after {report.frames_decoded:,} of {plan.frame_count:,} frames; {RESUME}.")


def tally(result: FrameResult, report: Report) -> None:
    """Add one frame's counts, failures and times to the report."""
    report.frames_decoded += result.decoded
    for failure in result.failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += 1 if failure.index is not None else len(result.task)
    for stage, seconds in result.seconds.items():
        report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds


@contextmanager
def _hint_at_resume() -> Iterator[None]:
    """What ends a run whose journal exists says how to go on."""
    try:
        yield
    except InterruptedRunError as error:
        raise InterruptedRunError(f"interrupted; {RESUME}.", error.exit_code) from None
    except OutputError as error:
        raise OutputError(f"{str(error).removesuffix('.')}; when that is solved, {RESUME}.") from error


def report_plan_failures(plan: Plan, report: Report) -> None:
    """The faces and frames of which the plan knows that they cannot be cut."""
    for failure in plan.failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += failure.faces
    for name in plan.missing:
        report.add_error(name, None, "the source has no such frame")
    report.faces_failed += plan.faces_missing


def frames_seen(made: Prepared, journal: Journal) -> int | None:
    """How many frames the source has, where a run that was never interrupted would know."""
    seen = made.source.frames_seen
    if seen is None:
        return journal.frames_seen
    if not made.source.would_see(seen, made.plan.positions):
        return None
    if made.source.kind == "video":  # a folder knows at any time
        journal.set_frames_seen(seen)
    return seen


def count(made: Prepared, frames_seen: int | None, every_n: int, report: Report) -> None:
    """The counts that follow from the plan and from how many frames the source has."""
    plan, source = made.plan, made.source
    report.frames_expected = plan.frame_count
    report.damaged = source.damaged
    if source.damaged:
        report.notes.append(
            "the video is damaged: frames that cannot be trusted are listed as failed; if whole frames were lost, "
            "those after them are numbered too low (compare with gpu-extract check)."
        )
    report.faces_filtered = plan.faces_filtered
    report.alignments_without_frame = len(plan.missing)
    if frames_seen is not None:
        beyond = int((plan.positions >= frames_seen).sum())
        report.alignments_without_frame += beyond
        if beyond and source.kind == "video":
            other = "decoded" if made.resolved.timing == "constant" else "constant"
            report.notes.append(
                f"{beyond:,} frame numbers of the file lie past the video's end ({frames_seen:,} frames, timing "
                f"{made.resolved.timing}): if faces look shifted, try --video-timing {other}."
            )
        with_entry = {i for i in map(source.index_of, made.alignments.frame_names) if i is not None}
        report.frames_without_alignments = -(-frames_seen // every_n) - sum(
            1 for i in with_entry if i < frames_seen and i % every_n == 0
        )


def check_updatable(path: Path) -> None:
    """Find out before hours of work that the result could not be saved.

    Raises:
        OutputError: if the alignments file's folder cannot be written.
    """
    folder = Path(os.path.realpath(path)).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be updated, its folder is read-only; add --no-update to leave it as it is.")


def still_there(journal: Journal, folder: Path, layout: type[Layout]) -> dict[int, list[FaceResult]]:
    """The frames of an earlier run whose files are all in place and whole, by position."""
    holds = layout.holder(folder)
    return {
        position: frame.faces
        for position, frame in journal.finished.items()
        if all(holds(face.file_name, face.nbytes) for face in frame.faces)
    }


def save(alignments: Alignments, written: Written, report: Report) -> None:
    """Record the hashes where the file's generation has them; the file is replaced only if something changed."""
    if alignments.stores_hashes:
        report.hashes_updated = len(written)
        rows = written.rows()
        report.hashes_changed = sum(
            alignments.stored_hash(row) != sha1 for row, sha1 in zip(rows.tolist(), written.hashes(), strict=True)
        )
        if report.hashes_changed:
            alignments.set_hashes(rows, written.hashes())
    backup = alignments.save()
    report.backup = os.fspath(backup) if backup is not None else None
