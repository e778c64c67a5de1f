"""`check`: what can be said of an alignments file and its frames without cutting a face."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import load_any
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, UsageError, counted, printable
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.naming import of_this_machine
from gpu_extract.options import check_report_place, option
from gpu_extract.reports.base import JsonReport, and_more, check_target, write_report
from gpu_extract.run.keys import Matched
from gpu_extract.run.keys import match_keys as match
from gpu_extract.run.plan import PlanOptions, crop_all
from gpu_extract.run.resolve import resolve_numbering

LISTED = 10
BEYOND_ANY_FRAME = np.array([1 << 40])
"""A position that no source has: whoever looks for it learns how many frames there are."""


@dataclass
class CheckReport(JsonReport):
    """What a check found. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "check/1"

    frames: int = 0
    """Frames of the source."""
    entries: int = 0
    """Frames of the alignments file."""
    faces: int = 0
    frames_without_alignments: list[str] = field(default_factory=list)
    alignments_without_frame: list[str] = field(default_factory=list)
    bad_landmarks: list[dict[str, Any]] = field(default_factory=list)
    """Each with `frame`, `index` and `reason`."""
    frames_without_faces: list[str] = field(default_factory=list)
    """Entries without a face. Not a fault."""
    frames_with_several_faces: list[str] = field(default_factory=list)
    """Entries with two faces or more. Not a fault."""
    alignments_version: float = 0.0
    alignments_generation: str = ""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        frames = counted(self.entries, "frame")
        lines = [f"file    {frames} with {counted(self.faces, 'face')}, version {self.alignments_version}"]
        lines.append(f"source  {counted(self.frames, 'frame')}")
        for title, found in [
            ("without alignments", self.frames_without_alignments),
            ("in the file but not in the source", self.alignments_without_frame),
            ("without faces", self.frames_without_faces),
            ("with several faces", self.frames_with_several_faces),
        ]:
            lines.append(f"{len(found):>7,} {title}{_some(found)}")
        lines.append(
            f"{len(self.bad_landmarks):>7,} {'face' if len(self.bad_landmarks) == 1 else 'faces'} with bad landmarks"
        )
        for bad in self.bad_landmarks[:LISTED]:
            face = "" if bad["index"] is None else f" face {bad['index']}"
            lines.append(f"        {bad['frame']}{face}: {bad['reason']}")
        lines += and_more(len(self.bad_landmarks), LISTED, " " * 8)
        lines += [f"note    {note}" for note in self.notes]
        return "\n".join(map(printable, lines))


def check(
    alignments: str | os.PathLike[str],
    frames: str | os.PathLike[str],
    *,
    video_timing: str = "auto",
    match_keys: str = "exact",
    json: str | os.PathLike[str] | None = None,
) -> CheckReport:
    """Compare an alignments file with the frames it was made from. Writes nothing but the report.

    Args:
        alignments: alignments file of any generation.
        frames: the video, or the folder of images.
        video_timing: how a video's frames are numbered, see `gpu_extract.extract`.
        match_keys: what may differ between a key and its frame's name, see `gpu_extract.extract`.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0 if every frame has an entry, every entry with faces a frame, and every face
        landmarks that can be cut; else 4. Frames with several faces or none are named, but no fault.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    for name, value in (("video_timing", video_timing), ("match_keys", match_keys)):
        if fault := option(name).fault(value):
            raise UsageError(fault)
    for place in (alignments, frames):
        of_this_machine(place, "check")
    if json is not None:
        check_report_place(json, {"alignments": alignments, "frames": frames})
        check_target(CheckReport, json)
    began = time.perf_counter()
    loaded = load_any(alignments, read_only=True)
    numbering = resolve_numbering(loaded, Path(frames), video_timing=video_timing)
    with open_frames(frames, timing=numbering.timing, rotate=numbering.rotate) as source:
        matched = match(loaded.frame_names, source, match_keys)
        report = _compared(loaded, source, matched, frame_count(source))
        report.bad_landmarks = _bad_landmarks(loaded, PlanOptions(centering=loaded.traits.centering))
    if report.frames_without_alignments or report.alignments_without_frame or report.bad_landmarks:
        report.exit_code = EXIT_PARTIAL
    report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(report, json)
    return report


def frame_count(source: FrameSource) -> int:
    """How many frames a source has; of a video that may mean to read all of it."""
    if source.frames_seen is None:
        for _ in source.frames(BEYOND_ANY_FRAME):
            pass
    assert source.frames_seen is not None
    return source.frames_seen


def _compared(alignments: Alignments, source: FrameSource, matched: Matched, count: int) -> CheckReport:
    names, faces = alignments.frame_names, alignments.faces
    report = CheckReport(frames=count, entries=len(names), faces=len(faces), notes=[*alignments.notes])
    report.alignments_version, report.alignments_generation = alignments.version, alignments.generation
    report.notes += [*source.notes, *matched.notes]
    per_entry = np.bincount(faces.frame, minlength=len(names))
    entry_of: dict[int, str] = {}
    for name, position, number_of_faces in zip(names, matched.position.tolist(), per_entry.tolist(), strict=True):
        if not 0 <= position < count:
            report.alignments_without_frame.append(name)
        elif position in entry_of:
            report.notes.append(f"{name} and {entry_of[position]} name the same frame; only the latter is extracted.")
        else:
            entry_of[position] = name
        if number_of_faces == 0:
            report.frames_without_faces.append(name)
        elif number_of_faces > 1:
            report.frames_with_several_faces.append(name)
    report.frames_without_alignments = [source.name_of(i) for i in range(count) if i not in entry_of]
    return report


def _bad_landmarks(alignments: Alignments, options: PlanOptions) -> list[dict[str, Any]]:
    faces = alignments.faces
    bad = dict(faces.invalid)
    for row in np.flatnonzero(~crop_all(alignments, options, {}).usable).tolist():
        bad.setdefault(row, "its landmarks do not define a crop (all in one place)")
    found: list[dict[str, Any]] = [
        {"frame": alignments.frame_names[faces.frame[row]], "index": int(faces.index[row]), "reason": reason}
        for row, reason in sorted(bad.items())
    ]
    left_out = alignments.left_out
    return found + [{"frame": one.frame, "index": one.index, "reason": one.reason} for one in left_out]


def _some(names: list[str]) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > LISTED else ""
    return f": {', '.join(names[:LISTED])}{more}"
