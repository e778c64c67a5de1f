"""One run of `extract`, from the folder that was taken to the saved file; a whole one, or a shard of one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.errors import EXIT_PARTIAL, InterruptedRunError, OutputError, counted
from gpu_extract.face_files.layout import Layout, layout_for
from gpu_extract.face_files.metadata import write_metadata
from gpu_extract.face_files.quality import measured
from gpu_extract.face_files.stored import is_as_written
from gpu_extract.face_files.writer import FaceWriter
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.jobs.runs.earlier import Earlier, look_over
from gpu_extract.jobs.runs.estimate import check_space
from gpu_extract.jobs.runs.prepare import Prepared, header_maker
from gpu_extract.jobs.runs.proof import FramesProof, Verdict
from gpu_extract.jobs.runs.refresh import refresh_thumbnails
from gpu_extract.options import Settings
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal as journals
from gpu_extract.run.confinement import active
from gpu_extract.run.crew import Crew
from gpu_extract.run.fingerprint import fingerprint
from gpu_extract.run.folder import prepare_folder
from gpu_extract.run.journal import Finished, Journal
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan, count_outside, without_shared_files
from gpu_extract.run.progress import Progress
from gpu_extract.run.receipts import Receipts
from gpu_extract.run.rows import FaceRows, hash_state
from gpu_extract.run.shard import Shard
from gpu_extract.run.shards import part_of
from gpu_extract.run.signals import GRACE_SECONDS, Interruption
from gpu_extract.run.written import Written
from gpu_extract.storage.atomic import locked
from gpu_extract.storage.parts import remove_unfinished
from gpu_extract.tasks import FaceResult, Failure, FrameResult

RESUME = "run the same command with --resume to continue"


def how_to_go_on(settings: Settings, report: Report) -> str:
    """What to do after a run that ended early; one that errors have ended would meet them again."""
    if not report.stopped:
        return RESUME
    other = "without --on-error stop" if settings.on_error == "stop" else "with a larger --max-errors"
    return f"when that is mended, or {other}, {RESUME}"


def introduce(made: Prepared, align_eyes: bool, report: Report) -> None:
    """What a report says of the inputs and of the engine."""
    alignments, numbering, engine = made.alignments, made.resolved.numbering, made.engine
    report.alignments_version, report.alignments_generation = alignments.version, alignments.generation
    if made.source.kind == "video":
        report.video_timing, report.rotate = numbering.timing, numbering.rotate
    report.centering, report.min_box_px = made.resolved.centering, made.options.min_box_px
    report.numerics = made.resolved.rounding.numerics
    report.eye_angle = made.resolved.rounding.eye_angle if align_eyes else ""
    report.engine, report.device, report.engine_implementation = engine.name, engine.device, engine.implementation
    report.confinement = active()
    report.notes += made.notes


def other_names(settings: Settings, alignments: Alignments) -> str | None:
    """What a person must know whose alignments file has hard links, for it is replaced and not written into."""
    try:
        others = settings.alignments.stat().st_nlink - 1
    except OSError:  # whoever took it away since it was loaded; saving will meet that
        return None
    if others < 1 or not _updates(settings, alignments):
        return None
    names = "another name" if others == 1 else f"{others} other names"
    return f"{settings.alignments} has {names} (hard links): when it is saved, the old file stays under {names}."


def _updates(settings: Settings, alignments: Alignments) -> bool:
    whole = settings.shard is None
    return whole and not settings.no_update and (alignments.traits.stores_hashes or settings.refresh_thumbs)


@contextmanager
def reserved(settings: Settings, alignments: Alignments) -> Iterator[None]:
    """Where a run is to save the alignments file: make sure that it can, and keep others from it meanwhile.

    Raises:
        OutputError: if its folder cannot be written.
        AlignmentsError: if another run works on it.
    """
    if not _updates(settings, alignments):
        yield
        return
    check_updatable(settings.alignments)
    with locked(settings.alignments):
        yield


@contextmanager
def begin(settings: Settings, made: Prepared, report: Report, *, is_reserved: bool = False) -> Iterator[Extraction]:
    """Make sure that the result can be saved and the folder taken; holds the locks on both.

    Args:
        is_reserved: the alignments file is `reserved` already.

    Raises:
        OutputError: if either cannot be written, is in use, or the faces would not fit on the disk.
        UsageError: if the folder's run had other settings, or something that changes the folder was stopped.
    """
    shard = None if settings.shard is None else Shard.of(settings.shard)
    with ExitStack() as stack:
        if not is_reserved:
            stack.enter_context(reserved(settings, made.alignments))
        prepare_folder(settings.faces, resume=settings.resume, shard=shard)
        check_completed(settings.faces)
        stored = fingerprint(settings, made.alignments, made.resolved, made.engine.name)
        if shard is None and journals.receipts(settings.faces):
            with Receipts(settings.faces, stored) as receipts:
                receipts.adopt()
        part = made.plan if shard is None else part_of(made.plan, made.source, shard)
        resumes = settings.resume and journals.exists(settings.faces, shard)
        if not resumes:
            check_space(part, settings.faces, report)
        journal = (Journal.resume if resumes else Journal.create)(settings.faces, stored, shard)
        stack.callback(journal.close)
        stack.enter_context(_hint_at_resume(journal))
        folded = on_this_disk(settings, made, [journal])
        if folded is not made:
            made = folded
            part = made.plan if shard is None else part_of(made.plan, made.source, shard)
        if shard is None:
            report_plan_failures(made.plan, report)
        else:
            report.shard = str(shard)
        yield Extraction(settings, made, report, journal, _updates(settings, made.alignments), resumes, part, shard)


def on_this_disk(settings: Settings, made: Prepared, journals: Iterable[Journal]) -> Prepared:
    """The same, without faces whose names the faces folder's file system takes for others'."""
    if layout_for(settings.output_layout).in_archives or not any(journal.folds_case() for journal in journals):
        return made
    return replace(made, plan=without_shared_files(made.plan, fold_case=True))


@dataclass
class Extraction:
    """One run, from the folder that was taken to the saved file: `todo`, `cut`, `finish`, in this order."""

    settings: Settings
    made: Prepared
    """With the whole plan, whatever an earlier run finished of it."""
    report: Report
    journal: Journal
    saves: bool
    """Whether the alignments file is saved in the end."""
    resumes: bool
    part: Plan
    """What this process is to cut of the whole plan, with what an earlier run finished of it."""
    shard: Shard | None = None

    def __post_init__(self) -> None:
        self._rows = FaceRows(self.made.alignments, self.made.plan)
        self._frames_of_size: dict[tuple[int, int], list[int]] = {}
        self._proof = FramesProof(self.made, self.settings)
        self._written = Written(keep_places=self.settings.metadata is not None)
        self._left_out: dict[int, list[FaceResult]] = {}
        self._todo = 0

    def todo(self, earlier: Earlier | None = None) -> Plan:
        """What an earlier run left to do; its faces are counted as written.

        Args:
            earlier: what is known of these faces; by default they are looked at.
        """
        settings = self.settings
        if earlier is None:
            self._prove_what_is_unsettled()
            earlier = look_over(self.journal, settings.faces, layout_for(settings.output_layout), settings.deleted)
        left = earlier.left(self.part)
        if self.resumes and self.shard is None:  # those of other shards may be in the making
            remove_unfinished(settings.faces)
        if self.resumes:
            check_space(left, settings.faces, self.report)
        for faces in earlier.whole.values():
            self._written.add(faces)
            self._proof.look(faces)
        for faces in earlier.left_out.values():
            self._written.leave_out(faces)
        entry_of = self.made.alignments.faces.frame
        self._left_out = {int(entry_of[faces[0].row]): faces for faces in earlier.left_out.values()}
        self.report.frames_decoded += len(earlier.whole)
        self.report.faces_left_out = earlier.faces_left_out
        self.report.notes += earlier.notes
        return left

    def _prove_what_is_unsettled(self) -> None:
        """Forget frames of an earlier run whose faces a power cut has taken; names and sizes may still be there."""
        journal, folder = self.journal, self.settings.faces
        if layout_for(self.settings.output_layout).flushes:
            return
        journal.revoke(
            [
                key
                for key in sorted(journal.unsettled)
                if not all(is_as_written(folder, face) for face in journal.finished[key].faces)
            ]
        )

    def cut(self, todo: Plan, progress: Progress, interruption: Interruption) -> None:
        """Read, cut and write; each finished frame goes into the journal."""
        report = self.report
        self.made.announce(todo, progress)
        self._todo = todo.frame_count
        if not self._too_many_errors():
            self._run_pipeline(todo, progress, interruption)
        report.faces_outside = count_outside(todo, self._frames_of_size)
        self.account()
        if not report.complete:
            self._note_how_to_resume()

    def account(self) -> None:
        """The counts of the report that follow from all that was done."""
        made, report = self.made, self.report
        note_faces_outside(self.part, made, report)
        seen = frames_seen(made, self.part, self.journal)
        report.frames_expected = self.part.frame_count
        report.damaged += made.source.damaged
        if self.shard is None:
            count(made, seen, self.settings.extract_every_n, report)
        report.faces_written = len(self._written) - self._written.left_out
        report.bytes_written = self._written.nbytes

    def finish(self, interruption: Interruption) -> None:
        """What follows when all frames were gone over: metadata, thumbnails, hashes, one atomic save."""
        settings, report, alignments = self.settings, self.report, self.made.alignments
        if not report.complete:
            return
        if self.shard is not None:
            self._end_shard()
            return
        if settings.metadata is not None:
            write_metadata(settings.faces, settings.metadata, self._rows.rows(self._measured(interruption)))
        other_frames = self._keeps_stored_hashes()
        if self.saves:
            if settings.refresh_thumbs:
                refresh_thumbnails(self.made, settings.size, report, interruption)
            save(alignments, None if other_frames else self._written, report)
        elif not alignments.traits.stores_hashes:
            report.notes.append(f"files of version {alignments.version} hold no hashes; none were stored.")

    def _measured(self, interruption: Interruption) -> Iterator[FaceResult]:
        """All faces with their sharpness, whoever cut them."""
        for face in measured(self.settings.faces, self._written.places, self.made.workers):
            interruption.check()
            yield face

    def _end_shard(self) -> None:
        report = self.report
        if self._todo or self.journal.report is None:
            self.journal.end(
                {
                    "errors": report.errors,
                    "damaged": report.damaged,
                    "faces_outside": report.faces_outside,
                    "seconds": {stage: round(spent, 3) for stage, spent in report.stage_seconds.items()},
                }
            )
        report.notes.append(
            f"shard {self.shard} is whole; when all are, gpu-extract merge makes one run of them and saves the hashes."
        )

    def _run_pipeline(self, todo: Plan, progress: Progress, interruption: Interruption) -> None:
        settings, made, report = self.settings, self.made, self.report
        prefix = "" if self.shard is None else f"{self.shard.number:05d}-"
        layout = layout_for(settings.output_layout)(settings.faces, todo.positions, made.plan.face_count, prefix)
        writer = FaceWriter(
            layout,
            settings.faces,
            settings.quality,
            header_maker(made),
            self._rows.sidecar,
            measures=settings.metadata is not None,
        )
        crew = Crew.of(todo, made.engine, writer, settings.faces, made.workers)
        pipeline = Pipeline(todo, made.source, made.engine, writer, made.workers, crew)
        try:
            with (
                crew or nullcontext(),
                interruption.calling(partial(pipeline.stop, within=GRACE_SECONDS)),
                closing(pipeline.batches()) as batches,  # whatever ends this, no thread works for the crew any more
            ):
                for batch in batches:
                    for result in batch:
                        tally(result, report)
                        if result.decoded:
                            self._frames_of_size.setdefault(result.frame_size, []).append(result.task.position)
                    self._keep([whole for result in batch for whole in layout.commit(result)])
                    if not layout.flushes:
                        self.journal.settle_when_due()
                    for result in batch:
                        progress.frame_done(result)
                        self._doubt(result, progress)
                    if self._too_many_errors():
                        pipeline.stop()
            if interruption.exit_code is not None:
                report.exit_code = interruption.exit_code
            self._keep(layout.finish())
            self._settle(layout)
        finally:
            layout.abandon()
            self.journal.sync()
        report.wait_seconds = asdict(pipeline.waits)
        for stage, seconds in pipeline.own_seconds().items():
            report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds
        report.limiting_stage = pipeline.limiting_stage(report.stage_seconds)

    def _settle(self, layout: Layout) -> None:
        """Have all faces on the disk, where somebody will look for them, before the file that holds their hashes."""
        self.journal.check_in_place()
        if layout.flushes:
            return
        if self.report.complete:
            self.journal.settle()
        else:
            self.journal.settle_if_quick()

    def _keep(self, results: Iterable[FrameResult]) -> None:
        """Frames whose files are whole under their names."""
        finished = []
        for result in results:
            if self.settings.metadata is not None:
                result.faces = self._with_states(result.faces)
            self._written.add(result.faces)
            if not result.failures:
                # What stays out is recorded with the rest, or a later run could not restore it.
                entry = int(self.made.alignments.faces.frame[result.task.rows[0]])
                left_out = self._left_out.get(entry, [])
                finished.append(Finished(result.task.position, [*result.faces, *left_out]))
        if finished:
            self.journal.add(*finished)

    def _with_states(self, faces: list[FaceResult]) -> list[FaceResult]:
        """Faces with the states of their hashes: of those that were made again, as before the hashes were saved."""
        frame = self.journal.finished.get(min((face.row for face in faces), default=-1))
        before = {(face.row, face.sha1): face.hash_state for face in frame.faces} if frame else {}
        alignments = self.made.alignments
        return [
            replace(face, hash_state=before.get((face.row, face.sha1)) or hash_state(alignments, face))
            for face in faces
        ]

    def _doubt(self, result: FrameResult, progress: Progress) -> None:
        """Find out on the first faces, before hours of work, that these may be other frames."""
        self._proof.look(result.faces, result.of_one_colour)
        if self._proof.in_doubt and not self.settings.replace_hashes:
            self._proof.settle()
            if self._proof.verdict is Verdict.DOUBTED:
                progress.note(f"{self._proof.reason()}; Ctrl-C stops this run.")

    def _keeps_stored_hashes(self) -> bool:
        """Whether the frames are other ones than the file's; its hashes stay then, and not all has gone well."""
        if self.settings.replace_hashes:
            return False
        self._proof.settle()
        if self._proof.verdict is not Verdict.DOUBTED:
            return False
        report, kept = self.report, self._proof.compared
        hashes = "stored hash stays" if kept == 1 else f"{kept:,} stored hashes stay"
        stays = f"; the {hashes}, --replace-hashes takes the new ones" if kept and self.saves else ""
        report.notes.append(f"{self._proof.reason()}{stays}.")
        report.hashes_kept = kept
        report.exit_code = EXIT_PARTIAL
        return True

    def _too_many_errors(self) -> bool:
        report, allowed = self.report, self.settings.errors_allowed
        if allowed is None or len(report.errors) < allowed:
            return False
        report.stopped = True
        return True

    def _note_how_to_resume(self) -> None:
        report = self.report
        why = "stopped at the first error" if self.settings.on_error == "stop" else "stopped by too many errors"
        if not report.stopped:
            why = "interrupted"
        done = f"{report.frames_decoded:,} of {counted(self.part.frame_count, 'frame')}"
        report.notes.append(f"{why} after {done}; {how_to_go_on(self.settings, report)}.")


def tally(result: FrameResult, report: Report) -> None:
    """Add one frame's counts, failures and times to the report."""
    report.frames_decoded += result.decoded
    for failure in result.failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += 1 if failure.index is not None else len(result.task)
    for stage, seconds in result.seconds.items():
        report.stage_seconds[stage] = report.stage_seconds.get(stage, 0.0) + seconds


def note_faces_outside(plan: Plan, made: Prepared, report: Report) -> None:
    """Say so where too many faces lie outside their pictures for it to be what a person meant."""
    if report.faces_outside * 20 <= plan.face_count:
        return
    outside = report.faces_outside
    faces = counted(outside, "face lies outside its picture", "faces lie outside their pictures")
    if made.resolved.numbering.rotate:
        taken, other = "was turned as it asks for" if outside == 1 else "were turned as they ask for", "off"
    else:
        taken, other = "was taken as it is stored" if outside == 1 else "were taken as they are stored", "on"
    they = "it" if outside == 1 else "they"
    report.notes.append(f"{faces}, which {taken}: if {they} should lie inside, try --rotate {other}.")


@contextmanager
def _hint_at_resume(journal: Journal) -> Iterator[None]:
    """What ends a run whose journal exists says how to go on; where its folder is gone, that is what ended it."""
    try:
        yield
    except InterruptedRunError as error:
        raise InterruptedRunError(f"interrupted; {RESUME}.", error.exit_code) from None
    except (OutputError, FileNotFoundError) as error:
        why = error
        try:
            journal.check_in_place()
        except OutputError as moved:
            why = moved
        if not isinstance(why, OutputError):
            raise
        raise OutputError(f"{str(why).removesuffix('.')}; when that is solved, {RESUME}.") from error


def report_failures(plan: Plan, failures: Iterable[Failure], report: Report) -> None:
    """Faces and frames that shards could not cut."""
    counts = zip(plan.frame_of.tolist(), np.diff(plan.starts).tolist(), strict=True)
    faces_of = {plan.frame_names[frame]: count for frame, count in counts}
    for failure in failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += 1 if failure.index is not None else faces_of[failure.frame]


def report_plan_failures(plan: Plan, report: Report) -> None:
    """The faces and frames of which the plan knows that they cannot be cut."""
    for failure in plan.failures:
        report.add_error(failure.frame, failure.index, failure.reason)
        report.faces_failed += failure.faces
    for name, reason in plan.missing.items():
        report.add_error(name, None, reason)
    report.faces_failed += plan.faces_missing


def frames_seen(made: Prepared, plan: Plan, journal: Journal) -> int | None:
    """How many frames the source has, where a run that was never interrupted would know."""
    seen = made.source.frames_seen
    if seen is None:
        return journal.frames_seen
    if not made.source.would_see(seen, plan.positions):
        return None
    if made.source.kind == "video":  # a folder knows at any time
        journal.set_frames_seen(seen)
    return seen


def count(made: Prepared, frames_seen: int | None, every_n: int, report: Report) -> None:
    """The counts that follow from the plan and from how many frames the source has."""
    plan, source = made.plan, made.source
    if report.damaged:
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
            other = "decoded" if made.resolved.numbering.timing == "constant" else "constant"
            numbers = counted(beyond, "frame number of the file lies", "frame numbers of the file lie")
            report.notes.append(
                f"{numbers} past the video's end ({counted(frames_seen, 'frame')}, timing "
                f"{made.resolved.numbering.timing}): if faces look shifted, try --video-timing {other}."
            )
        has_entry = np.zeros(frames_seen, bool)
        has_entry[plan.position_of[(plan.position_of >= 0) & (plan.position_of < frames_seen)]] = True
        selected = int(has_entry[::every_n].sum())
        report.frames_without_alignments = -(-frames_seen // every_n) - selected


def check_updatable(path: Path) -> None:
    """Find out before hours of work that the result could not be saved.

    Raises:
        OutputError: if the alignments file's folder cannot be written.
    """
    folder = Path(os.path.realpath(path)).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be updated, its folder is read-only; add --no-update to leave it as it is.")


def save(alignments: Alignments, written: Written | None, report: Report) -> None:
    """Record the hashes where the file's generation has them; the file is replaced only if something changed.

    Args:
        written: the faces of the run; None saves only what was changed before.
    """
    if alignments.traits.stores_hashes and written is not None:
        report.hashes_updated = len(written)
        rows = written.rows()
        report.hashes_changed = sum(
            alignments.stored_hash(row) != sha1 for row, sha1 in zip(rows.tolist(), written.hashes(), strict=True)
        )
        if report.hashes_changed:
            alignments.set_hashes(rows, written.hashes())
    backup = alignments.save()
    report.backup = os.fspath(backup) if backup is not None else None
