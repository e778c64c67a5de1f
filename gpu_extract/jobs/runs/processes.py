"""`extract --processes`: one run by several processes of this machine, each a shard at a time, merged in the end.

This process plans, starts the others, follows their receipts, and does what follows when all frames were gone over. It
cuts nothing itself, so it needs no device. A process that dies is started again where its receipt ends; what kills it
three times is named and left out.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    AlignmentsError,
    DeviceError,
    GpuExtractError,
    InputError,
    OutputError,
    UsageError,
    counted,
)
from gpu_extract.jobs.changes.stopped import check_completed
from gpu_extract.jobs.merge import join
from gpu_extract.jobs.runs.earlier import has_faces
from gpu_extract.jobs.runs.estimate import check_space
from gpu_extract.jobs.runs.extraction import RESUME, how_to_go_on, report_plan_failures, reserved
from gpu_extract.jobs.runs.prepare import Prepared
from gpu_extract.options import Settings, as_words
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.run.children import Child, shares
from gpu_extract.run.fingerprint import fingerprint
from gpu_extract.run.folder import held, prepare_folder
from gpu_extract.run.journal import Journal
from gpu_extract.run.plan import some_faces
from gpu_extract.run.progress import FrameDone, Progress
from gpu_extract.run.shard import Shard
from gpu_extract.run.shards import frame_costs, part_of
from gpu_extract.run.signals import Interruption
from gpu_extract.run.threads import available_cores
from gpu_extract.storage.inputs import open_input
from gpu_extract.tasks import Failure

TRIES = 3
POLL_SECONDS = 0.05
COST_SECONDS = 2.6e-3
"""Of one core for a frame of 1920 x 1080, see `run.shards`, on a machine that does nothing else: with these costs, what
`bench/results/extract.json` has for one core."""
INTERPRETER_SECONDS = 0.8e-3
"""Of a frame, for which a process runs on one core whatever it has. `bench/scale.py` measures the least of it: without
what threads lose by waiting for each other."""
SHARD_SECONDS = 20.0
"""Of work that a shard should have: starting one costs half a second, and the last ones should end together."""
MOST_SHARDS_EACH = 8
WORTHWHILE_SECONDS = 4.0
"""Of work for each process, below which starting it does not pay."""
FATAL: dict[int, type[GpuExtractError]] = {
    kind.exit_code: kind for kind in (UsageError, InputError, OutputError, AlignmentsError)
}
"""Exit codes after which another try would end alike."""


@dataclass(frozen=True)
class Work:
    """How a run is divided: among one process and in no shards where that is best."""

    processes: int = 1
    shards: int = 0
    note: str | None = None
    """Why, for the report of somebody who asked for something else, or left it open."""


def for_planning(settings: Settings) -> Settings:
    """The same without a device: exact engines give the same bytes everywhere, and who divides cuts no faces."""
    device = settings.device if settings.engine == "kornia" else "cpu"
    return replace(settings, processes=1, devices=None, device=device, decoder="auto")


def divide(settings: Settings, made: Prepared) -> Work:
    """How many processes pay, or were asked for, and how many shards they take.

    Args:
        made: with `for_planning(settings)`.
    """
    plan, source = made.plan, made.source
    reading = source.reading(plan.positions)
    seconds = float(frame_costs(plan, reading.cost, source).sum()) * COST_SECONDS
    note = None
    if settings.processes == "auto":
        processes, note = _that_pay(seconds, plan.frame_count, reading.skips)
    else:
        processes = int(settings.processes)
    if settings.resume and journal.exists(settings.faces):  # takes over what a merge has left of the receipts
        return Work(note="the run in the folder was begun by one process, or merged, and one goes on with it.")
    allowed = settings.errors_allowed
    if allowed is not None and len(plan.failures) + len(plan.missing) >= allowed:
        return Work(note=note)
    begun = journal.receipts(settings.faces) if settings.resume else []
    if begun:
        return Work(processes, begun[0].count, note)
    processes = min(processes, plan.frame_count)
    if processes <= 1:
        return Work(note=note)
    each = round(seconds / processes / SHARD_SECONDS) if reading.skips else 1
    return Work(processes, processes * max(1, min(each, MOST_SHARDS_EACH)), note)


def _that_pay(seconds: float, frames: int, skips: bool) -> tuple[int, str]:
    """How many processes pay for so much work of one core, and a sentence that says why."""
    if not skips:
        return (
            1,
            "one process: this video cannot be entered in the middle, and each would decode all before its part.",
        )
    cores = available_cores()
    # A process whose frames take long fills all its cores; only what the interpreter takes, it cannot share.
    busy = max(1.0, seconds / max(1, frames) / INTERPRETER_SECONDS)
    by_cores, by_work = round(cores / busy), int(seconds / WORTHWHILE_SECONDS)
    if by_cores <= 1:
        return 1, f"one process: it keeps all of {cores} cores busy with such frames."
    if by_work <= 1:
        return 1, f"one process: about {seconds:.0f} s of work are too little for more."
    processes = min(by_cores, by_work)
    return processes, f"{processes} processes, as many as pay on {cores} cores with such frames."


def cut_in_processes(
    settings: Settings, made: Prepared, work: Work, report: Report, progress: Progress, interruption: Interruption
) -> None:
    """The whole run, from the folder to the saved file.

    Args:
        made: with `for_planning(settings)`.
        work: with at least one shard.

    Raises:
        GpuExtractError: what a process ended with that another try cannot mend.
    """
    report.processes = work.processes
    with tempfile.TemporaryDirectory() as scratch:
        _Crew(settings, made, work, report, progress, Path(scratch)).run(interruption)


@dataclass(eq=False)
class _Slot:
    """Where a child may run; two of them may have the same cores and device."""

    cores: set[int]
    device: str


@dataclass
class _Running:
    child: Child
    shard: Shard
    slot: _Slot


class _Crew:
    """The children of one run."""

    def __init__(
        self, settings: Settings, made: Prepared, work: Work, report: Report, progress: Progress, scratch: Path
    ) -> None:
        self._settings, self._made, self._report, self._progress = settings, made, report, progress
        self._fingerprint = fingerprint(settings, made.alignments, made.resolved, made.engine.name)
        devices = (settings.devices or settings.device).split(",")
        self._slots = [
            _Slot(cores, devices[i % len(devices)].strip()) for i, cores in enumerate(shares(work.processes))
        ]
        self._shards = [Shard(number, work.shards) for number in range(work.shards)]
        self._waiting: deque[Shard] = deque()
        self._running: list[_Running] = []
        self._tries: dict[Shard, int] = {}
        self._followers: dict[Shard, journal.Follower] = {}
        self._stopping = False
        self._scratch = scratch
        self._done_before: set[int] = set()
        self._told: set[int] = set()
        self._errors: list[dict[str, Any]] = []
        self._failed: set[str] = set()
        self._faces_failed = 0
        self._devices: set[str] = set()
        self._deleted: Literal["leave-out", "restore"] = settings.deleted

    def run(self, interruption: Interruption) -> None:
        """Cut, merge, and once more what a damaged video makes necessary."""
        settings = self._settings
        with reserved(settings, self._made.alignments):
            prepare_folder(settings.faces, resume=settings.resume)
            check_completed(settings.faces)
            with held(settings.faces):
                self._run(interruption)

    def _run(self, interruption: Interruption) -> None:
        settings, made = self._settings, self._made
        if settings.resume and not has_faces(settings.faces):  # it was emptied; soon each child will see some
            self._deleted = "restore"
        check_space(made.plan, settings.faces, self._report)
        self._announce()
        asked = replace(settings, deleted=self._deleted)
        shards = self._shards
        for _ in range(2):
            self._cut(shards, interruption)
            if self._stopping:
                return
            shards = join(asked, made, self._report, interruption, is_reserved=True)
            if not shards:
                return
        raise OutputError(f"shards {', '.join(map(str, shards))} are not whole, though they were cut; {RESUME}.")

    def _announce(self) -> None:
        known = journal.read(self._settings.faces)
        self._done_before = {face.row for frame in known[1] for face in frame.faces} if known else set()
        left = ~np.isin(self._made.plan.rows, list(self._done_before))
        plan = some_faces(self._made.plan, left)
        self._made.announce(plan, self._progress)

    def _cut(self, shards: Iterable[Shard], interruption: Interruption) -> None:
        self._waiting = deque(shards)
        try:
            with interruption.calling(self.stop):
                while self._waiting or self._running:
                    self._start()
                    self._follow()
                    time.sleep(POLL_SECONDS)
                    for one in [one for one in self._running if one.child.exit_code is not None]:
                        self._ended(one)
                    if self._stopping:
                        for one in self._running:
                            one.child.end()
        finally:
            self._kill_all()
        if interruption.exit_code is not None:
            self._report.exit_code = interruption.exit_code
        if self._stopping:
            self._follow()
            self._note_how_to_resume()
        else:
            interruption.check()

    def stop(self) -> None:
        """Start no more, and ask all to end. May be called from a signal handler."""
        self._stopping = True

    @cached_property
    def _position_of(self) -> dict[str, int]:
        """Of frames, by their names."""
        plan = self._made.plan
        names = [plan.frame_names[frame] for frame in plan.frame_of.tolist()]
        return dict(zip(names, plan.positions.tolist(), strict=True))

    def _start(self) -> None:
        if self._stopping:
            self._waiting.clear()
        taken = [one.slot for one in self._running]
        for slot in self._slots:
            if slot not in taken and self._waiting:
                shard = self._waiting.popleft()
                self._running.append(_Running(Child.start(self._words(shard, slot), slot.cores), shard, slot))

    def _words(self, shard: Shard, slot: _Slot) -> list[str]:
        allowed = self._settings.max_errors
        mine = replace(
            self._settings,
            shard=str(shard),
            max_errors=None if allowed is None else max(1, self._errors_left(allowed)),
            deleted=self._deleted,
            processes=1,
            devices=None,
            device=slot.device,
            resume=True,
            json=self._report_of(shard),
            progress="none",
            workers=self._settings.workers or len(slot.cores),
        )
        return ["extract", "-q", "--config", "", *as_words(mine)]

    def _follow(self) -> None:
        """Tell of the frames that are new in the receipts, if anybody listens: reading takes time from the children."""
        if self._progress.is_silent:
            return
        for one in self._running:
            follower = self._followers.setdefault(one.shard, journal.Follower(self._settings.faces, one.shard))
            for frame in follower.new_frames():
                faces = [face for face in frame.faces if face.row not in self._done_before]
                if faces and frame.key not in self._told:
                    self._told.add(frame.key)
                    name = self._made.alignments.frame_names[int(self._made.alignments.faces.frame[faces[0].row])]
                    self._progress.told(FrameDone(name, frame.position, tuple(faces), ()))

    def _ended(self, one: _Running) -> None:
        self._follow()
        self._running.remove(one)
        code, words = one.child.exit_code, one.child.last_words()
        one.child.close()
        assert code is not None
        if self._stopping:
            return
        if code in (EXIT_OK, EXIT_PARTIAL):
            with open_input(self._report_of(one.shard), "the report of a process") as file:
                self._take(json.load(file))
            allowed = self._settings.errors_allowed
            too_many = allowed is not None and self._errors_left(allowed) <= 0
            if too_many or not journal.is_ended(self._settings.faces, one.shard):
                self._stop_at_errors()
            return
        if code in FATAL:
            self._stopping = True
            raise FATAL[code](f"{words or 'a process of this run ended without a word'}")
        if code == DeviceError.exit_code and len(self._slots) > 1:
            self._progress.note(f"a process on {one.slot.device} ended with {code}: {words}; the others go on.")
            self._slots.remove(one.slot)
            self._waiting.appendleft(one.shard)
            return
        tries = self._tries[one.shard] = self._tries.get(one.shard, 0) + 1
        how = f"ended by signal {-code}" if code < 0 else f"ended with {code}: {words}"
        if tries < TRIES:
            self._progress.note(f"the process that cut shard {one.shard} {how}; it is started again.")
            self._waiting.appendleft(one.shard)
        elif code == DeviceError.exit_code:
            raise DeviceError(words)
        else:
            self._give_up(one.shard, f"the process that was to cut it {how}, {TRIES} times")

    def _take(self, told: dict[str, Any]) -> None:
        """What the report of a child says that its receipt does not: its errors now, and what it ran on."""
        self._errors += told["errors"]
        self._faces_failed += told["faces_failed"]
        self._devices.add(told["device"])
        self._report.device = ", ".join(sorted(self._devices))
        self._report.engine_implementation = told["engine_implementation"]
        for name in {error["frame"] for error in told["errors"]} - self._failed:
            self._failed.add(name)
            failures = [Failure(**error) for error in told["errors"] if error["frame"] == name]
            self._progress.told(FrameDone(name, self._position_of[name], (), tuple(failures)))

    def _errors_left(self, allowed: int) -> int:
        plan = self._made.plan
        return allowed - len(plan.failures) - len(plan.missing) - len(self._errors)

    def _stop_at_errors(self) -> None:
        """What `--on-error stop` and `--max-errors` ask of one they ask of all."""
        self._stopping = self._report.stopped = True
        self._report.exit_code = EXIT_PARTIAL
        report_plan_failures(self._made.plan, self._report)
        for error in self._errors:
            self._report.add_error(error["frame"], error["index"], error["reason"])
        self._report.faces_failed += self._faces_failed

    def _report_of(self, shard: Shard) -> Path:
        return self._scratch / f"{shard.number}.json"

    def _give_up(self, shard: Shard, reason: str) -> None:
        """Name the frames that a shard did not come to, so that the others can be merged."""
        plan = part_of(self._made.plan, self._made.source, shard)
        folder = self._settings.faces
        begun = journal.exists(folder, shard)
        opened = (Journal.resume if begun else Journal.create)(folder, self._fingerprint, shard)
        with closing(opened) as receipt:
            done = [face.row for frame in receipt.finished.values() for face in frame.faces]
            left = some_faces(plan, ~np.isin(plan.rows, done))
            failed = [left.frame_names[frame] for frame in left.frame_of.tolist()]
            errors = [{"frame": name, "index": None, "reason": reason} for name in failed]
            receipt.end({"errors": errors, "damaged": 0, "faces_outside": 0, "seconds": {}})

    def _kill_all(self) -> None:
        for one in self._running:
            one.child.kill()
            one.child.close()
        self._running.clear()

    def _note_how_to_resume(self) -> None:
        report, plan = self._report, self._made.plan
        known = journal.read(self._settings.faces)
        frames = known[1] if known else []
        report.frames_expected, report.frames_decoded = plan.frame_count, len(frames)
        report.faces_written = sum(len(frame.faces) for frame in frames)
        report.bytes_written = sum(face.nbytes for frame in frames for face in frame.faces)
        why = "stopped by errors" if report.stopped else "interrupted"
        done = f"{len(frames):,} of {counted(plan.frame_count, 'frame')}"
        report.notes.append(f"{why} after {done}; {how_to_go_on(self._settings, report)}.")
