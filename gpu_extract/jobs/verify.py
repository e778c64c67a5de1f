"""`verify`: every face is cut again, in memory, and compared with what is stored. Nothing is written."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import FrameError, InputError, UsageError, counted
from gpu_extract.face_files.beside import lies_beside
from gpu_extract.face_files.compared import compared
from gpu_extract.face_files.encoder import encoder_for, face_hash, sha1_of, stored_pixels
from gpu_extract.face_files.header import PREFIX, header_text, parse_text
from gpu_extract.face_files.layout import layout_for
from gpu_extract.face_files.metadata import Row, json_line
from gpu_extract.face_files.stored import InShard, Place, content, pixel_hash, png_fault, stored_files
from gpu_extract.geometry.rounding import Rounding
from gpu_extract.jobs.changes.stopped import stopped
from gpu_extract.jobs.runs.prepare import Prepared, header_maker, prepared
from gpu_extract.jobs.runs.record import Record
from gpu_extract.kernels.sharpness import sharpness
from gpu_extract.naming import FACE_EXTENSIONS, has_extension, of_this_machine
from gpu_extract.options import Settings, options
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.verification import VerifyReport
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import as_settings
from gpu_extract.run.pipeline import Finish, Pipeline
from gpu_extract.run.plan import Plan, refitted, some_faces, subset
from gpu_extract.run.progress import Listener, Progress, listener_for
from gpu_extract.run.rows import HASH_STATES, LATER, FaceRows
from gpu_extract.run.signals import GRACE_SECONDS, Interruption
from gpu_extract.storage.inputs import is_folder, open_input
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask

TRIED_FRAMES = 16
"""Of those with doubtful faces, whether another way to round explains them."""
NAMED = 5
"""Files that a note names."""
OTHER_PIXELS = "its pixels are not those of a new extraction"


def verify(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    size: int | None = None,
    extract_every_n: int | None = None,
    align_eyes: bool | None = None,
    eye_angle: str | None = None,
    numerics: str | None = None,
    large: bool | None = None,
    min_size: int | None = None,
    centering: str | None = None,
    video_timing: str | None = None,
    match_keys: str | None = None,
    rotate: str | None = None,
    antialias: bool | None = None,
    format: str | None = None,
    quality: int | None = None,
    output_layout: str | None = None,
    metadata: str | None = None,
    engine: str | None = None,
    device: str = "auto",
    batch_mb: int = 64,
    pinned_mb: int = 512,
    workers: int | None = None,
    json: str | os.PathLike[str] | None = None,
    progress: str | Listener = "auto",
    cancel: threading.Event | None = None,
) -> VerifyReport:
    """Cut every face again in memory and compare it with its file, its place and its stored hash. Writes nothing.

    Args:
        alignments, frames, faces: as `gpu_extract.extract` had them.
        size, extract_every_n, align_eyes, eye_angle, numerics, large, min_size, centering, video_timing, match_keys,
            rotate, antialias, format, quality, output_layout, metadata, engine: as `extract` had them. None takes what
            the folder's journal says; where it has none, the size of its first image and the defaults of `extract`.
        device, batch_mb, pinned_mb, workers, progress, cancel: see `extract`.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0 only if everything agrees, else 4.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    asked = {
        "size": size,
        "extract_every_n": extract_every_n,
        "align_eyes": align_eyes,
        "eye_angle": eye_angle,
        "numerics": numerics,
        "large": large,
        "min_size": min_size,
        "centering": centering,
        "video_timing": video_timing,
        "match_keys": match_keys,
        "rotate": rotate,
        "antialias": antialias,
        "format": format,
        "quality": quality,
        "output_layout": output_layout,
        "metadata": metadata,
        "engine": engine,
    }
    return run(
        of_this_machine(alignments, "verify"),
        of_this_machine(frames, "verify"),
        of_this_machine(faces, "verify"),
        asked={name: value for name, value in asked.items() if value is not None},
        running={
            "device": device,
            "batch_mb": batch_mb,
            "pinned_mb": pinned_mb,
            "workers": workers,
            "json": json,
            "progress": progress,
        },
        cancel=cancel,
    )


def run(
    alignments: Path,
    frames: Path,
    faces: Path,
    *,
    asked: Mapping[str, Any],
    running: Mapping[str, Any],
    otherwise: Mapping[str, Any] | None = None,
    cancel: threading.Event | None = None,
) -> VerifyReport:
    """`verify` with its options as values.

    Args:
        asked: options that decide bytes, as the user named them.
        running: the other options.
        otherwise: options that decide bytes, for a folder whose journal does not tell.
    """
    if not is_folder(faces, "the faces folder"):
        raise InputError(f"there is no faces folder {faces}; name the one that extract wrote.")
    report = VerifyReport()
    began = time.perf_counter()
    stored = {**(otherwise or {}), **_stored_settings(faces, {*asked, *(otherwise or {})}, report), **asked}
    settings = Settings(alignments=alignments, frames=frames, faces=faces, **stored, **running)
    report.settings = {
        option.name: getattr(settings, option.name) for option in options("verify") if option.decides_bytes
    }
    if settings.json is not None:
        check_target(VerifyReport, settings.json)
    with (
        Interruption(cancel) as interruption,
        Progress(listener_for(settings.progress)) as progress,
        prepared(settings, progress.note) as made,
    ):
        interruption.check()
        report.engine, report.device = made.engine.name, made.engine.device
        report.notes += made.notes
        report.notes += _unfinished(faces)
        _Verification(made, settings, report).run(progress, interruption)
        report.finish(time.perf_counter() - began)
        progress.finish(report.exit_code)
    if settings.json is not None:
        write_report(report, settings.json)
    return report


def _unfinished(folder: Path) -> list[str]:
    """What was stopped in the folder, which explains why faces are not where they should be."""
    try:
        sentence = stopped(folder)
    except InputError as error:
        return [str(error)]
    return [] if sentence is None else [sentence]


def _stored_settings(folder: Path, known: set[str], report: VerifyReport) -> dict[str, Any]:
    """Arguments of `Settings` that the folder itself tells; `known` are those that are told anyway."""
    found = journal.read(folder)
    if found is None:
        report.settings_from = "the folder's first image"
        return _guessed_settings(folder, known)
    report.settings_from = "the folder's journal"
    return as_settings(found[0])


def _guessed_settings(folder: Path, known: set[str]) -> dict[str, Any]:
    from gpu_extract.frames.images.decode import image_size

    stored = stored_files(folder, journal.own_names(folder))
    shards = any(isinstance(place, InShard) for place in stored.values())
    for name in sorted(stored):
        if has_extension(name, FACE_EXTENSIONS):
            layout = "webdataset" if shards else "by-frame" if "/" in name else "flat"
            with suppress(FrameError):
                return {"size": image_size(content(stored[name]))[0], "output_layout": layout}
    if "size" in known:
        return {}
    raise UsageError(f"{folder} holds neither a journal nor a readable image; give the --size of its faces.")


@dataclass
class _Face:
    """A face that was cut, and what is stored of it."""

    task: FrameTask
    row: int
    index: int
    place: str
    sha1: str
    """Of its pixels."""
    header: bytes | None
    stored: Place | None
    """Its file; None where there is none under its name."""
    sidecar: Place | None
    found: str | None = None
    """Of the pixels of that file, as far as they can be read."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    """Kind and reason of each, but for a face that is lost."""

    @property
    def is_lost(self) -> bool:
        """Whether its file does not show it."""
        return self.stored is None or self.found not in (None, self.sha1)

    @property
    def agrees(self) -> bool:
        return not self.faults and not self.is_lost


class _Verification:
    """One pass over the frames, and another over those with faces that may be rounded otherwise.

    `compare` and `compare_again` are the last stage of a pipeline, and called from many threads.
    """

    def __init__(self, made: Prepared, settings: Settings, report: VerifyReport) -> None:
        self._made, self._settings, self._report = made, settings, report
        self._layout = layout_for(settings.output_layout)(settings.faces, made.plan.positions[:0], made.plan.face_count)
        self._header = header_maker(made)
        self._rows = FaceRows(made.alignments, made.plan)
        self._unclaimed = stored_files(settings.faces, journal.own_names(settings.faces))
        self._record = Record(settings.faces, made, self._layout)
        self._lock = threading.Lock()
        self._doubtful: dict[int, _Face] = {}
        self._lost: dict[str, _Face] = {}
        self._otherwise: dict[str, int] = {}
        self._differently_written = self._recompressed = 0
        self._more: dict[str, int] = {}

    def run(self, progress: Progress, interruption: Interruption) -> None:
        made, report = self._made, self._report
        failures = [*made.plan.failures]
        failures += [Failure(name, None, reason) for name, reason in made.plan.missing.items()]
        report.faces_expected = made.plan.face_count
        made.announce(made.plan, progress)
        found: list[FaceResult] = []
        for result in self._cut(made.plan, self.compare, interruption):
            failures += result.failures
            found += result.faces
            progress.frame_done(result)
        self._look_again(interruption)
        for face in self._doubtful.values():
            for kind, reason in face.faults:
                report.add(kind, face.place, face.task.name, face.index, reason)
            if face.is_lost:
                self._lost[face.place] = face
        self._metadata(found)
        self._pass_over(failures)
        self._moved_and_missing()
        beside = [name for name in sorted(self._unclaimed) if lies_beside(name, self._settings.alignments)]
        for name in sorted(self._unclaimed.keys() - set(beside)):
            report.add("extra", name, None, None, "no face of the alignments file has this file")
        report.notes += [*self._record.notes(), *self._notes(beside)]

    def compare(self, task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
        """Compare one face; pixels first, then what is known of it."""
        row, index, name = int(task.rows[k]), int(task.index[k]), task.file_name(k)
        encoder = encoder_for(task.extension, self._settings.quality)
        try:
            header = self._header(task, k, result) if self._header and encoder.extension == ".png" else None
            place = self._layout.place(task, k, name)
        except (InputError, OSError) as error:
            return Failure(task.name, index, str(error))
        pixels = stored_pixels(crop, encoder, b"" if encoder.lossless else encoder.encode(crop, header))
        sha1 = sha1_of(pixels)
        sidecar = self._sidecar(task, k, place, sha1)
        with self._lock:
            stored = self._unclaimed.pop(place, None)
            beside = None if sidecar is None or stored is None else self._unclaimed.pop(sidecar[0], None)
        face = _Face(task, row, index, place, sha1, header, stored, beside)
        self._judge(face, sidecar)
        with self._lock:
            self._report.hashes_compared += self._stored_hash(row) is not None
            if face.agrees:
                self._report.faces_agree += 1
            else:
                self._doubtful[row] = face
        return FaceResult(row, index, place, sha1, 0, self._measured(pixels))

    def compare_again(
        self, rounding: Rounding, task: FrameTask, k: int, crop: np.ndarray, _: FrameResult
    ) -> FaceResult:
        """Compare a doubtful face that was cut otherwise."""
        before = self._doubtful[int(task.rows[k])]
        encoder = encoder_for(task.extension, self._settings.quality)
        sha1 = face_hash(crop, encoder, b"" if encoder.lossless else encoder.encode(crop, before.header))
        face = dataclasses.replace(before, sha1=sha1, found=None, faults=[])
        self._judge(face, self._sidecar(task, k, face.place, sha1))
        if face.agrees:
            way = f"--numerics {rounding.numerics}"
            if self._settings.align_eyes:
                way += f" --eye-angle {rounding.eye_angle}"
            with self._lock:
                del self._doubtful[face.row]
                self._report.faces_agree += 1
                self._otherwise[way] = self._otherwise.get(way, 0) + 1
        return FaceResult(face.row, face.index, face.place, sha1, 0)

    def _look_again(self, interruption: Interruption) -> None:
        """Cut doubtful faces as programs of other times round, if that is what some of them show."""
        made = self._made
        for rounding in made.resolved.rounding.others:
            if not self._may_be(rounding):
                continue
            rows = [row for row, face in self._doubtful.items() if face.stored is not None]
            if not rows:
                return
            doubtful = some_faces(made.plan, np.isin(made.plan.rows, rows))
            plan = refitted(doubtful, made.alignments, dataclasses.replace(made.options, rounding=rounding))
            tried = np.zeros(plan.frame_count, bool)
            tried[np.linspace(0, plan.frame_count - 1, min(plan.frame_count, TRIED_FRAMES)).astype(int)] = True
            for some in (tried, ~tried):
                left = len(self._doubtful)
                if some.any():
                    deque(self._cut(subset(plan, some), partial(self.compare_again, rounding), interruption), maxlen=0)
                if len(self._doubtful) == left:
                    break

    def _may_be(self, rounding: Rounding) -> bool:
        """Whether faces may have been rounded so: nobody said that they were not, and it makes a difference."""
        usual, settings = self._made.resolved.rounding, self._settings
        if rounding.eye_angle != usual.eye_angle and not (settings.align_eyes and settings.eye_angle == "auto"):
            return False
        # No program that stores hashes has run under NumPy 2.
        either = settings.numerics == "auto" and not self._made.alignments.traits.stores_hashes
        return either or rounding.numerics == usual.numerics

    def _cut(self, plan: Plan, finish: Finish, interruption: Interruption) -> Iterator[FrameResult]:
        pipeline = Pipeline(plan, self._made.source, self._made.engine, finish, self._made.workers)
        with interruption.calling(partial(pipeline.stop, within=GRACE_SECONDS)):
            yield from pipeline
        interruption.check()

    def _judge(self, face: _Face, sidecar: tuple[str, bytes] | None) -> None:
        """Find a face's faults."""
        stored, recorded = self._stored_hash(face.row), self._record.contradiction(face.task, face.row, face.sha1)
        if stored not in (None, face.sha1):
            reason = f"the alignments file has the hash {stored}, a new extraction gives {face.sha1}"
            face.faults.append(("hash", reason))
        if recorded is not None:
            face.faults.append(("hash", f"the run recorded the hash {recorded}, a new extraction gives {face.sha1}"))
        if face.stored is None:
            return
        fault = self._fault(face.stored, face)
        if face.is_lost:
            return
        if fault is None and sidecar is not None:
            if face.sidecar is None:
                fault = "altered", "its JSON is missing"
            elif content(face.sidecar) != sidecar[1]:
                fault = "altered", "its JSON is not that of a new extraction"
        if fault is not None:
            face.faults.append(fault)

    def _stored_hash(self, row: int) -> str | None:
        alignments = self._made.alignments
        return alignments.stored_hash(row) if alignments.traits.stores_hashes else None

    def _fault(self, stored: Place, face: _Face) -> tuple[str, str] | None:
        """Kind and reason of what is wrong with a face's file, None if nothing is; notes its pixels in `face`."""
        recorded, header = self._record.of_row.get(face.row), face.header
        other_size = None
        try:
            data = content(stored)
            if recorded is not None and recorded.nbytes != len(data):
                other_size = f"it has {len(data)} bytes, the run wrote {recorded.nbytes}"
            face.found = pixel_hash(data)
            if face.found != face.sha1:
                return "altered", OTHER_PIXELS
            if not data.startswith(png_file.SIGNATURE):
                return None if other_size is None else ("altered", other_size)
            if (fault := png_fault(data)) is not None:
                return "altered", fault
            said = header_text(data)
        except InputError as error:
            return "altered", other_size or str(error)
        fault = self._header_fault(said, _header_text(header))
        if fault is None and other_size is not None and said == _header_text(header):
            with self._lock:
                self._recompressed += 1
        return None if fault is None else ("header", fault)

    def _header_fault(self, said: str | None, expected: str | None) -> str | None:
        """What a face's header says that is not so; None if its values are the expected ones, in whatever form."""
        if said == expected:
            return None
        if said is None:
            return "its header is gone"
        if expected is None:
            more = ["a header, which faces of this version have not"]
        else:
            try:
                found = compared(parse_text(said), parse_text(expected))
            except InputError as error:
                return str(error)
            if found.faults:
                return f"its header {', '.join(found.faults)}"
            more = found.more
        with self._lock:
            self._differently_written += not more
            for name in more:
                self._more[name] = self._more.get(name, 0) + 1
        return None

    def _sidecar(self, task: FrameTask, k: int, place: str, sha1: str) -> tuple[str, bytes] | None:
        """Name and content of what belongs beside a face."""
        return self._layout.beside(task, k, place, partial(self._rows.sidecar, task, k, sha1))

    def _pass_over(self, failures: list[Failure]) -> None:
        """Report what cannot be cut again; where such a face has a file all the same, it is not called extra."""
        faces_of: dict[str, set[int | None]] = {}
        for failure in failures:
            self._report.add("unproven", None, failure.frame, failure.index, failure.reason)
            faces_of.setdefault(self._layout.stem(failure.frame), set()).add(failure.index)
        for name in list(self._unclaimed) if faces_of else ():
            stem, _, rest = name.rpartition("/")[2].rpartition("_")
            index, dot, _ = rest.partition(".")
            failed = faces_of.get(stem, set())
            if dot and index.isdecimal() and (None in failed or int(index) in failed):
                del self._unclaimed[name]

    def _moved_and_missing(self) -> None:
        """Faces that their files do not show: moved, if another file holds exactly their pixels.

        That may be a file that nothing claims, or one under another face's name: faces after one that was taken away
        have new numbers, and perhaps not yet new names.
        """
        by_hash: dict[str, list[str]] = {}
        for name in self._unclaimed if self._lost else ():
            with suppress(InputError):
                by_hash.setdefault(pixel_hash(content(self._unclaimed[name])), []).append(name)
        for place, face in self._lost.items():
            if face.found is not None:
                by_hash.setdefault(face.found, []).append(place)
        taken = set()
        for place, face in sorted(self._lost.items()):
            if candidates := by_hash.get(face.sha1):
                name = candidates.pop()
                taken.add(name)
                self._unclaimed.pop(name, None)
                self._report.add("moved", place, face.task.name, face.index, f"its pixels are in {name}")
            elif face.found is None:
                self._report.add("missing", place, face.task.name, face.index, "the file is not there")
        for place, face in sorted(self._lost.items()):
            if face.found is None or face.sha1 in by_hash:
                continue
            if place in taken:
                self._report.add("missing", place, face.task.name, face.index, "the file shows another face")
            else:
                self._report.add("altered", place, face.task.name, face.index, OTHER_PIXELS)

    def _measured(self, pixels: np.ndarray) -> float | None:
        return None if self._settings.metadata is None else sharpness(pixels)

    def _metadata(self, found: list[FaceResult]) -> None:
        kind = self._settings.metadata
        if kind is None:
            return
        name = f"faces.{kind}"
        stored = self._unclaimed.pop(name, None)
        if stored is None:
            self._report.add("missing", name, None, None, "the run was asked for it")
        elif kind == "jsonl" and isinstance(stored, Path) and not self._same_rows(stored, found):
            self._report.add("metadata", name, None, None, "its rows are not those of a new extraction")

    def _same_rows(self, stored: Path, found: list[FaceResult]) -> bool:
        files = {row: face.file_name for row, face in self._record.of_row.items()}
        named = [dataclasses.replace(face, file_name=files.get(face.row, face.file_name)) for face in found]
        try:
            with open_input(stored, "the list of faces") as file:
                lines: Iterator[bytes] = iter(file)
                same = all(_tells(next(lines, None), row) for row in self._rows.rows(named))
                return same and next(lines, None) is None
        except (OSError, InputError):
            return False

    def _notes(self, beside: list[str]) -> list[str]:
        """What differs from what an extraction writes, and is no fault."""
        notes = [
            f"{counted(count, 'face agrees', 'faces agree')} with {way}." for way, count in self._otherwise.items()
        ]
        if self._differently_written:
            headers = counted(
                self._differently_written,
                "header has the form of another release; its values are",
                "headers have the form of another release; their values are",
            )
            notes.append(f"{headers} the same.")
        notes += [
            f"{counted(count, 'header also holds', 'headers also hold')} {name}; a new extraction would not write it."
            for name, count in self._more.items()
        ]
        if self._recompressed:
            files = counted(self._recompressed, "PNG file is", "PNG files are")
            notes.append(f"{files} compressed otherwise than the run did, pixel for pixel.")
        if beside:
            more = ", …" if len(beside) > NAMED else ""
            others = counted(len(beside), "file beside the faces is no face", "files beside the faces are no faces")
            notes.append(f"{others}: {', '.join(beside[:NAMED])}{more}")
        return notes


def _tells(line: bytes | None, row: Row) -> bool:
    """Whether a line of the list of faces is a row's; of an earlier version, without the columns that came later."""
    if line is None:
        return False
    try:
        stored = json.loads(line)
    except ValueError:
        return False
    if not isinstance(stored, dict):
        return False
    if stored.keys().isdisjoint(LATER):
        return line == json_line({key: value for key, value in row.items() if key not in LATER})
    # The run has replaced the hash that it compared this one with.
    return stored.get("hash_state") in HASH_STATES and line == json_line(row | {"hash_state": stored["hash_state"]})


def _header_text(header: bytes | None) -> str | None:
    """The text of a header as `Encoder.encode` takes it."""
    return None if header is None else header.removeprefix(PREFIX).decode("utf-8")
