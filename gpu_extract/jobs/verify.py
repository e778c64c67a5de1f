"""`verify`: every face is cut again, in memory, and compared with what is stored. Nothing is written."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, FrameError, InputError, UsageError, printable
from gpu_extract.faces.beside import lies_beside
from gpu_extract.faces.compared import compared
from gpu_extract.faces.encoder import encoder_for, face_hash
from gpu_extract.faces.header import PREFIX, header_text, parse_text
from gpu_extract.faces.layout import Layout, layout_for
from gpu_extract.faces.metadata import json_line
from gpu_extract.faces.stored import InShard, Place, content, pixel_hash, png_fault, stored_files
from gpu_extract.jobs.prepare import Prepared, header_maker, prepared
from gpu_extract.naming import FACE_EXTENSIONS, face_extension, has_extension
from gpu_extract.options import Settings, options
from gpu_extract.reports.base import JsonReport, and_more, check_target, write_report
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES, as_settings, digest
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.progress import Listener, Progress, listener_for
from gpu_extract.run.rows import FaceRows
from gpu_extract.run.signals import GRACE_SECONDS, Interruption
from gpu_extract.storage.inputs import is_folder
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask

LISTED = 20
NAMED = 5
"""Files that a note names."""
KINDS = ("missing", "extra", "altered", "header", "moved", "hash", "metadata", "unproven")
OTHER_PIXELS = "its pixels are not those of a new extraction"


@dataclass
class VerifyReport(JsonReport):
    """What a verification found. Every field is a key of the JSON."""

    faces_expected: int = 0
    faces_agree: int = 0
    """Faces whose file, place and stored hash are all what a new extraction gives."""
    hashes_compared: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)
    """Each with `kind`, `file`, `frame`, `index` and `reason`. Kinds: missing, extra, altered, header (the pixels are
    right, what the PNG says of itself is not), moved (or renamed), hash (the alignments file holds another), metadata,
    unproven (the frame or face cannot be cut again)."""
    counts: dict[str, int] = field(default_factory=dict)
    """Differences by kind."""
    settings: dict[str, Any] = field(default_factory=dict)
    settings_from: str = ""
    engine: str = ""
    device: str = ""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def add(self, kind: str, file: str | None, frame: str | None, index: int | None, reason: str) -> None:
        self.differences.append({"kind": kind, "file": file, "frame": frame, "index": index, "reason": reason})

    def finish(self, seconds: float) -> None:
        order = {kind: i for i, kind in enumerate(KINDS)}
        self.differences.sort(key=lambda found: (order[found["kind"]], found["file"] or "", found["frame"] or ""))
        self.counts = {kind: sum(found["kind"] == kind for found in self.differences) for kind in KINDS}
        self.seconds = round(seconds, 3)
        self.exit_code = EXIT_PARTIAL if self.differences else EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        found = ", ".join(f"{count:,} {kind}" for kind, count in self.counts.items() if count)
        lines = [
            f"faces   {self.faces_agree:,} of {self.faces_expected:,} agree ({self.engine} on {self.device})",
            f"hashes  {self.hashes_compared:,} in the alignments file compared",
            f"differ  {found or 'nothing'}",
            *(f"note    {note}" for note in self.notes),
        ]
        for one in self.differences[:LISTED]:
            lines.append(f"{one['kind']:<7} {one['file'] or one['frame']}: {one['reason']}")
        lines += and_more(len(self.differences), LISTED, " " * 8)
        return "\n".join(map(printable, lines))


def verify(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    size: int | None = None,
    extract_every_n: int | None = None,
    align_eyes: bool | None = None,
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
        size, extract_every_n, align_eyes, large, min_size, centering, video_timing, match_keys, rotate, antialias,
            format, quality, output_layout, metadata, engine: as `extract` had them. None takes what the folder's
            journal says; where it has none, the size of its first image and the defaults of `extract`.
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
        Path(alignments),
        Path(frames),
        Path(faces),
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
        _Verification(made, settings, report).run(progress, interruption)
        report.finish(time.perf_counter() - began)
        progress.finish(report.exit_code)
    if settings.json is not None:
        write_report(report, settings.json)
    return report


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

    stored = stored_files(folder, (journal.NAME,))
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
class _Lost:
    """A face that its file does not show."""

    task: FrameTask
    index: int
    sha1: str
    """Of its pixels."""
    found: str | None
    """Of the pixels of the file under its name; None where there is none."""


class _Verification:
    """One pass over the frames. `compare` is the pipeline's last stage and called from many threads."""

    def __init__(self, made: Prepared, settings: Settings, report: VerifyReport) -> None:
        self._made, self._settings, self._report = made, settings, report
        self._layout = layout_for(settings.output_layout)(settings.faces, made.plan.positions[:0], made.plan.face_count)
        self._header = header_maker(made)
        self._rows = FaceRows(made.alignments, made.plan)
        self._unclaimed = stored_files(settings.faces, (journal.NAME,))
        self._record = _Record(settings.faces, made, self._layout)
        self._lock = threading.Lock()
        self._lost: dict[str, _Lost] = {}
        self._differently_written = self._recompressed = 0
        self._more: dict[str, int] = {}

    def run(self, progress: Progress, interruption: Interruption) -> None:
        made, report = self._made, self._report
        failures = [*made.plan.failures]
        failures += [Failure(name, None, reason) for name, reason in made.plan.missing.items()]
        report.faces_expected = made.plan.face_count
        pipeline = Pipeline(made.plan, made.source, made.engine, self.compare, made.workers)
        progress.planned(made.plan.frame_count, made.plan.face_count)
        found: list[FaceResult] = []
        with interruption.calling(partial(pipeline.stop, within=GRACE_SECONDS)):
            for result in pipeline:
                failures += result.failures
                found += result.faces
                progress.frame_done(result)
        interruption.check()
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
        sha1 = face_hash(crop, encoder, b"" if encoder.lossless else encoder.encode(crop, header))
        agrees = self._same_hash(task, k, place, sha1)
        with self._lock:
            stored = self._unclaimed.pop(place, None)
        lost = _Lost(task, index, sha1, None)
        fault = None if stored is None else self._fault(stored, lost, header, row)
        if stored is None or lost.found not in (None, sha1):
            with self._lock:
                self._lost[place] = lost
            return FaceResult(row, index, place, sha1, 0)
        if fault is None and (reason := self._sidecar_fault(task, k, place, sha1)):
            fault = "altered", reason
        with self._lock:
            if fault is not None:
                self._report.add(fault[0], place, task.name, index, fault[1])
            elif agrees:
                self._report.faces_agree += 1
        return FaceResult(row, index, place, sha1, 0)

    def _same_hash(self, task: FrameTask, k: int, place: str, sha1: str) -> bool:
        alignments = self._made.alignments
        row, index = int(task.rows[k]), int(task.index[k])
        stored = alignments.stored_hash(row) if alignments.traits.stores_hashes else None
        recorded = self._record.contradiction(task, row, sha1)
        with self._lock:
            self._report.hashes_compared += stored is not None
            if stored is not None and stored != sha1:
                reason = f"the alignments file has the hash {stored}, a new extraction gives {sha1}"
                self._report.add("hash", place, task.name, index, reason)
            if recorded is not None:
                reason = f"the run recorded the hash {recorded}, a new extraction gives {sha1}"
                self._report.add("hash", place, task.name, index, reason)
                return False
        return stored in (None, sha1)

    def _fault(self, stored: Place, face: _Lost, header: bytes | None, row: int) -> tuple[str, str] | None:
        """Kind and reason of what is wrong with a face's file, None if nothing is; notes its pixels in `face`."""
        recorded = self._record.of_row.get(row)
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

    def _sidecar_fault(self, task: FrameTask, k: int, place: str, sha1: str) -> str | None:
        beside = self._layout.beside(task, k, place, partial(self._rows.sidecar, task, k, sha1))
        if beside is None:
            return None
        name, expected = beside
        with self._lock:
            stored = self._unclaimed.pop(name, None)
        if stored is None:
            return "its JSON is missing"
        return None if content(stored) == expected else "its JSON is not that of a new extraction"

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
            with stored.open("rb") as file:
                lines: Iterator[bytes] = iter(file)
                same = all(next(lines, None) == json_line(row) for row in self._rows.rows(named))
                return same and next(lines, None) is None
        except OSError:
            return False

    def _notes(self, beside: list[str]) -> list[str]:
        """What differs from what an extraction writes, and is no fault."""
        notes = []
        if self._differently_written:
            notes.append(
                f"{self._differently_written:,} headers have the form of another release; their values are the same."
            )
        notes += [
            f"{count:,} headers also hold {name}; a new extraction would not write it."
            for name, count in self._more.items()
        ]
        if self._recompressed:
            notes.append(
                f"{self._recompressed:,} PNG files are compressed otherwise than the run did, pixel for pixel."
            )
        if beside:
            more = ", …" if len(beside) > NAMED else ""
            notes.append(f"{len(beside):,} files beside the faces are no faces: {', '.join(beside[:NAMED])}{more}")
        return notes


class _Record:
    """What the run's journal says of the faces.

    Where the alignments file is still the run's, faces are known by their rows. Where it is not, rows have shifted with
    every face that was taken out or added, and positions with every image, so a face is known by its file's name.
    """

    def __init__(self, folder: Path, made: Prepared, layout: Layout) -> None:
        run = journal.read(folder)
        self._same_file = run is None or run[0].get(FACES) == digest(made.alignments)
        self._plan, self._layout = made.plan, layout
        # The last entry of a frame counts: it is the one that was done again.
        frames = {frame.key: frame.faces for frame in run[1]} if run else {}
        recorded = [face for faces in frames.values() for face in faces]
        self.of_row = {face.row: face for face in recorded}
        """By row of today's file, what the run recorded of a face."""
        self._frames: dict[str, list[FaceResult]] = {}
        self._expected: dict[str, int] = {}
        if not self._same_file:
            self._know_by_name(recorded)

    def contradiction(self, task: FrameTask, row: int, sha1: str) -> str | None:
        """The hash that the run recorded for a face, where it is another one and not that of another of its frame."""
        recorded = self.of_row.get(row)
        if recorded is None or recorded.sha1 == sha1:
            return None
        if not self._same_file:
            faces = self._frames[self._key(task.name)]
            if len(faces) != len(task) or any(face.sha1 == sha1 for face in faces):
                return None
        return recorded.sha1

    def notes(self) -> list[str]:
        """How today's alignments file differs from the run's."""
        if self._same_file:
            return []
        notes = ["the faces in the alignments file are not those that the folder was made from."]
        gone = sum(max(0, len(faces) - self._expected.get(key, 0)) for key, faces in self._frames.items())
        if gone:
            notes.append(f"{gone:,} of the run's faces are no longer in the alignments file.")
        return notes

    def _know_by_name(self, recorded: list[FaceResult]) -> None:
        by_name = {}
        for face in recorded:
            # The last part of the place: the journal of an archive begins with the shard.
            by_name[name := face.file_name.rpartition("/")[2]] = face
            stem, _, rest = name.rpartition("_")
            self._frames.setdefault(stem + rest.removeprefix(str(face.index)), []).append(face)
        self.of_row = {}
        plan = self._plan
        for i, frame in enumerate(plan.frame_of.tolist()):
            name = plan.frame_names[frame]
            stem, extension = self._layout.stem(name), self._extension(name)
            faces = slice(plan.starts[i], plan.starts[i + 1])
            self._expected[self._key(name)] = faces.stop - faces.start
            for row, index in zip(plan.rows[faces].tolist(), plan.index[faces].tolist(), strict=True):
                if (known := by_name.get(f"{stem}_{index}{extension}")) is not None:
                    self.of_row[row] = known

    def _key(self, name: str) -> str:
        """How the names of a frame's files begin and end."""
        return self._layout.stem(name) + self._extension(name)

    def _extension(self, name: str) -> str:
        return self._plan.extension or face_extension(name)


def _header_text(header: bytes | None) -> str | None:
    """The text of a header as `Encoder.encode` takes it."""
    return None if header is None else header.removeprefix(PREFIX).decode("utf-8")
