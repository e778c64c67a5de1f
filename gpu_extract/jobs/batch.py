"""`batch`: many videos and folders of images, each with its own alignments file, in one night and with one report.

Each is a run of `extract` in a process of its own, so that what breaks one ends no other and its memory is given back.
This process finds the footage, starts the others, follows what they tell, and writes down what became of each.
"""

from __future__ import annotations

import json as json_text
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, InputError, OutputError, UsageError, printable
from gpu_extract.jobs.night.done import Done, read_done, write_done
from gpu_extract.jobs.night.footage import Footage, Found, find
from gpu_extract.jobs.runs.next_step import chosen
from gpu_extract.jobs.whereabouts import looked_for
from gpu_extract.naming import of_this_machine
from gpu_extract.options import Settings, as_words, check_report_place, options, typed, words_of
from gpu_extract.reports import batch as states
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.batch import BatchReport, Row
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.run.children import Child, shares
from gpu_extract.run.progress import Counted, Listener, Progress, listener_for
from gpu_extract.run.signals import EXIT_CODES, Interruption
from gpu_extract.run.threads import available_cores
from gpu_extract.storage.inputs import open_input

TRIES = 2
"""Of a video whose process is killed. The second one goes on where the first one's journal ends."""
POLL_SECONDS = 0.05
ROOM_BYTES = 1 << 20
"""That a disk must still take if the batch is to go on after a run that could not write."""
NAMED_PLACES = 12
"""That the command at the end repeats."""
SAME_COMMAND = "the same command with --resume"
SAME_BUT_WET = "the same command without --dry-run"


def batch(
    places: Iterable[str | os.PathLike[str]],
    faces: str | os.PathLike[str],
    *,
    alignments_dir: str | os.PathLike[str] | None = None,
    recursive: bool = False,
    json: str | os.PathLike[str] | None = None,
    resume: bool = False,
    processes: int | str = 1,
    progress: str | Listener = "auto",
    cancel: threading.Event | None = None,
    **options_of_extract: Any,
) -> BatchReport:
    """Extract the faces of many videos, each into `<faces>/<its name without extension>`.

    Args:
        places: videos, folders of images, folders of either, and patterns such as `*.mp4`. Each video has its
            alignments file beside it, under the usual name (`<its name>_alignments.fsa`), a folder of images has it
            inside.
        faces: the folder in which each gets a folder of faces.
        alignments_dir: where the alignments files lie, if not beside the frames.
        recursive: also the folders inside those folders; faces go to folders of the same names.
        json: where to write the report; "-" is standard output.
        resume: leave out what an earlier batch did whole, and do the rest.
        processes: how many videos are cut at the same time, each by a process with its share of the cores; "auto" is
            one for every two cores.
        progress: "auto", "bar", "plain", "none", or a callable that gets `Counted`, `Note` and `Finished`.
        cancel: see `gpu_extract.extract`.
        options_of_extract: its other options, for every video; `on_error` and `max_errors` end the run of one video.

    Returns:
        The report. `exit_code` is 0, or 4 if a video was refused or faces of one failed (each row says why), 6 if the
        disk of the faces takes no more, or 129, 130 or 143 if a signal or `cancel` stopped the batch. A video without
        an alignments file has a row that says so, and is no failure.

    Raises:
        GpuExtractError: where nothing was begun. UsageError for options, InputError if nothing is found to be cut,
            OutputError if a folder of faces holds an earlier run and `resume` was not asked for.
    """
    if unknown := sorted(options_of_extract.keys() - {row.name for row in options("batch")}):
        raise UsageError(f"batch has no option {unknown[0]}.")
    asked = [os.fspath(place) for place in places]
    if not asked:
        raise UsageError("batch needs at least one video, folder or pattern.")
    values = options_of_extract | {"processes": processes, "json": json, "resume": resume, "progress": progress}
    out = of_this_machine(faces, "batch")
    # Checked once for all; each video has its own paths in their place.
    settings = Settings(alignments=Path(asked[0]), frames=Path(asked[0]), faces=out, **values)
    aligned = None if alignments_dir is None else of_this_machine(alignments_dir, "batch")
    found = find(asked, out, alignments_dir=aligned, recursive=recursive)
    if json is not None:
        check_target(BatchReport, json)
        for one in found.footage:
            check_report_place(json, {"frames": one.frames, "alignments": one.alignments or one.frames})
    began = time.perf_counter()
    with Interruption(cancel) as interruption, Progress(listener_for(progress)) as told:
        with tempfile.TemporaryDirectory() as scratch:
            night = _Night(settings, found, told, Path(scratch))
            interruption.check()
            night.run(interruption)
        report = night.report
        again = _again(asked, settings, alignments_dir, recursive=recursive)
        report.finish(time.perf_counter() - began, again=again, partial_ok=settings.partial_ok)
        told.finish(report.exit_code)
    if json is not None:
        write_report(report, json)
    return report


def _again(
    places: list[str], settings: Settings, alignments_dir: str | os.PathLike[str] | None, *, recursive: bool
) -> str:
    """The command that does what is left, or what a dry run has planned."""
    if len(places) > NAMED_PLACES:
        return SAME_BUT_WET if settings.dry_run else SAME_COMMAND
    own = [] if alignments_dir is None else ["--alignments-dir", os.fspath(alignments_dir)]
    own += ["--recursive"] if recursive else []
    words = words_of(chosen(settings, "batch", but=("dry_run",)) | ({} if settings.dry_run else {"resume": True}))
    named = ["--", *places] if any(place.startswith("-") for place in places) else []
    return typed("batch", *([] if named else places), *words, *own, *named)


@dataclass
class _Video:
    """One that is to be cut."""

    footage: Footage
    row: Row
    settings: Settings
    tries: int = 0
    frames: int | None = None
    """That its run has to do; None before it was planned."""
    frames_done: int = 0
    faces_done: int = 0


@dataclass(frozen=True)
class _Slot:
    number: int
    cores: frozenset[int]
    device: str


@dataclass
class _Running:
    child: Child
    video: _Video
    slot: _Slot
    began: float


class _Night:
    """The children of one batch, and what became of the videos."""

    def __init__(self, settings: Settings, found: Found, progress: Progress, scratch: Path) -> None:
        self._settings, self._progress, self._scratch = settings, progress, scratch
        self.report = BatchReport(notes=list(found.notes), dry_run=settings.dry_run)
        self._videos: list[_Video] = []
        for one in found.footage:
            self._enter(one)
        self._waiting = deque(self._videos)
        self._running: list[_Running] = []
        self._stopping = False
        processes = max(1, available_cores() // 2) if settings.processes == "auto" else int(settings.processes)
        self.report.processes = max(1, min(processes, len(self._videos)))
        devices = (settings.devices or settings.device).split(",")
        self._slots = [
            _Slot(i, frozenset(cores), devices[i % len(devices)].strip())
            for i, cores in enumerate(shares(self.report.processes))
        ]

    def _enter(self, one: Footage) -> None:
        """Give it a row and, if there is something to do for it, a place in the queue."""
        folder = self._settings.faces / one.below
        file = None if one.alignments is None else os.fspath(one.alignments)
        row = Row(os.fspath(one.frames), file, os.fspath(folder))
        self.report.videos.append(row)
        if one.fault:
            row.state, row.reason = states.REFUSED, one.fault
        elif one.alignments is None:
            row.state, row.reason = states.NO_ALIGNMENTS, f"there is no {looked_for(one.frames)}."
        else:
            settings = replace(
                self._settings,
                alignments=one.alignments,
                frames=one.frames,
                faces=folder,
                processes=1,
                devices=None,
                json=None,
                progress="jsonl",
                partial_ok=False,
            )
            self._videos.append(_Video(one, row, settings))

    def run(self, interruption: Interruption) -> None:
        """All videos, until none is left or something ends them all.

        Raises:
            OutputError: if the folder of one holds something, and nobody asked to go on there.
        """
        if not self._settings.resume and not self._settings.dry_run:
            self._check_folders()
        try:
            with interruption.calling(self.stop):
                while self._waiting or self._running:
                    self._start()
                    time.sleep(POLL_SECONDS if self._running else 0)
                    for one in [one for one in self._running if one.child.exit_code is not None]:
                        self._ended(one)
                    if self._stopping:
                        for one in self._running:
                            one.child.end()
                    self._follow()
        finally:
            for one in self._running:
                one.child.kill()
                one.child.close()
        if interruption.exit_code is not None:
            self.report.exit_code = interruption.exit_code
        elif not self._stopping:
            interruption.check()

    def stop(self) -> None:
        """Start no more, and ask all to end. May be called from a signal handler."""
        self._stopping = True

    def _check_folders(self) -> None:
        taken = [video.settings.faces for video in self._videos if _holds_something(video.settings.faces)]
        if not taken:
            return
        more = f", and {len(taken) - 1:,} more like it" if len(taken) > 1 else ""
        what = "holds an earlier run" if journal.begun(taken[0]) is not None else "is not empty"
        raise OutputError(
            f"the faces folder {taken[0]} {what}{more}; add --resume to do what is left, or name another folder."
        )

    def _start(self) -> None:
        if self._stopping:
            self._waiting.clear()
        taken = [one.slot for one in self._running]
        for slot in self._slots:
            if slot not in taken:
                self._start_next(slot)

    def _start_next(self, slot: _Slot) -> None:
        """Start the next video that needs it; those that do not are soon looked through."""
        while self._waiting and not self._stopping:
            video = self._waiting.popleft()
            if self._settings.resume and video.tries == 0 and (done := read_done(video.settings)) is not None:
                row = video.row
                row.state, row.exit_code = states.DONE_BEFORE, EXIT_OK
                row.faces, row.hashes, row.seconds = done.faces, done.hashes, done.seconds
                video.frames = 0
                continue
            mine = replace(
                video.settings,
                device=slot.device,
                json=self._report_of(slot),
                workers=self._settings.workers or len(slot.cores),
                resume=self._settings.resume or video.tries > 0,
            )
            self._report_of(slot).unlink(missing_ok=True)
            try:
                child = Child.start(["extract", "--config", "", *as_words(mine)], set(slot.cores))
            except OutputError as error:
                self._stop_all(error.exit_code, str(error))
                return
            video.tries += 1
            self._running.append(_Running(child, video, slot, time.monotonic()))
            return

    def _follow(self) -> None:
        """Tell how far all are together."""
        for one in self._running:
            self._hear(one)
        begun = [video.frames for video in self._videos if video.frames is not None]
        if not begun:
            return
        # Those that an earlier batch did have none to do, and tell nothing of the others.
        mean = sum(begun) / max(1, sum(frames > 0 for frames in begun))
        waiting = sum(video.frames is None for video in self._videos)
        at_work = len(self._waiting) + len(self._running)
        self._progress.counted(
            Counted(
                len(self._videos) - at_work,
                len(self._videos),
                sum(video.frames_done for video in self._videos),
                sum(begun) + round(mean * waiting),
                sum(video.faces_done for video in self._videos),
            )
        )

    def _hear(self, one: _Running) -> None:
        """What its run has said since: counts as JSON, and notes."""
        for line in one.child.new_lines():
            told = _parsed(line)
            if "frames" in told:
                one.video.frames_done, one.video.frames = told["frames"], told["of"]
                one.video.faces_done = told["faces"]
            elif "note" in told:
                self._note(one.video, told["note"])

    def _ended(self, one: _Running) -> None:
        self._hear(one)
        self._running.remove(one)
        code, words = one.child.exit_code, _words_of(one.child)
        one.child.close()
        assert code is not None
        video, row = one.video, one.video.row
        row.seconds, row.exit_code = round(time.monotonic() - one.began, 3), code
        if code in EXIT_CODES.values() or code < 0:
            self._killed(video, code)
        elif code in (EXIT_OK, EXIT_PARTIAL) and (told := _report_in(self._report_of(one.slot))) is not None:
            self._take(video, told)
        else:
            row.state, row.reason = states.REFUSED, words or f"its process ended with {code} and without a word."
            if code == OutputError.exit_code and (why := _takes_no_more(self._settings.faces)) is not None:
                self._stop_all(code, f"the folder {self._settings.faces} takes no more files ({why}).")
        if row.state not in states.WELL and row.state != states.INTERRUPTED and not self._stopping and row.reason:
            self._note(video, f"{row.state}: {row.reason}")
        video.frames = video.frames_done if video.frames is None else video.frames

    def _note(self, video: _Video, text: str) -> None:
        self._progress.note(printable(f"{video.row.frames}: {text}"))

    def _stop_all(self, exit_code: int, why: str) -> None:
        """End the batch for what would end every other video, too."""
        self._stopping = True
        self.report.exit_code, self.report.stopped = exit_code, why

    def _killed(self, video: _Video, code: int) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        if self._stopping:
            video.row.state = states.INTERRUPTED
        elif video.tries < TRIES:
            self._note(video, f"its process {how}; it is started again.")
            self._waiting.appendleft(video)
        else:
            video.row.state, video.row.reason = states.REFUSED, f"its process {how}, {TRIES} times."

    def _take(self, video: _Video, told: Report) -> None:
        """What the report of its run says."""
        row = video.row
        row.faces, row.faces_failed, row.hashes = told.faces_written, told.faces_failed, told.hashes_updated
        row.seconds, row.notes = told.seconds, told.notes
        if told.dry_run:
            row.faces = told.faces_planned or 0
            self.report.bytes_estimated += told.bytes_estimated or 0
        if told.errors:
            stopped = ", which ended its run" if told.stopped else ""
            row.state, row.reason = states.WITH_FAILURES, f"{told.first_errors().removesuffix('.')}{stopped}."
        elif told.exit_code == EXIT_PARTIAL:
            row.state, row.reason = states.WITH_FAILURES, told.notes[-1] if told.notes else ""
        elif told.dry_run:
            row.state = states.PLANNED
        else:
            row.state = states.DONE
            write_done(video.settings, Done(row.faces, row.hashes, row.seconds))

    def _report_of(self, slot: _Slot) -> Path:
        return self._scratch / f"{slot.number}.json"


def _holds_something(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:  # it is not there, or its own run will say what is wrong with it
        return False


def _parsed(line: str) -> Mapping[str, Any]:
    """What a line of JSON says; nothing where it is another."""
    try:
        told = json_text.loads(line) if line.startswith("{") else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _words_of(child: Child) -> str:
    """The sentence with which a run ended; counts are none."""
    words = child.last_words()
    return "" if words.startswith("{") else words


def _report_in(path: Path) -> Report | None:
    """The report that a run has written; None where it is not whole."""
    try:
        with open_input(path, "the report of a process") as file:
            told = json_text.load(file)
        return Report(**{field.name: told[field.name] for field in fields(Report)})
    except (InputError, ValueError, KeyError, TypeError):
        return None


def _takes_no_more(folder: Path) -> str | None:
    """Why nothing can be written into a folder any more; None where something can."""
    there = next((path for path in chain([folder], folder.parents) if path.is_dir()), Path())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
