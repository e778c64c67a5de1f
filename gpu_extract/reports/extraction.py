"""What a run did: counts, times, failures; as JSON with stable keys and as a short table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, counted, printable
from gpu_extract.reports.base import JsonReport, and_more, versions

LONGEST_TEXT = 300
LISTED = 20
"""Failures and missing frames that the table lists; the JSON holds all."""


@dataclass
class Report(JsonReport):
    """The result of a run. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "extract/1"

    frames_expected: int = 0
    """Frames that hold faces to cut, of those the source has or should have."""
    frames_decoded: int = 0
    """Of these, frames that were read."""
    damaged: int = 0
    """Pieces of a video that could not be decoded, or only with errors; frames among them are listed in `errors`."""
    frames_without_alignments: int | None = None
    """Frames of the source, among those selected, without an entry; None where the source was not read to its end."""
    alignments_without_frame: int = 0
    """Entries with faces whose frame the source does not have."""
    faces_written: int = 0
    faces_left_out: int = 0
    """Faces that an earlier run wrote and that somebody deleted since; see --deleted."""
    faces_filtered: int = 0
    """Faces whose source box, the crop's side in frame pixels, is under `min_box_px`."""
    min_box_px: float = 0.0
    centering: str = ""
    """What crops are centred on, and so which box is measured: "legacy", "face" or "head"."""
    faces_failed: int = 0
    faces_outside: int = 0
    """Faces of this run's frames whose middle lies outside the picture."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Each with `frame` (key), `index` (face, or null for the whole frame) and `reason`."""
    bytes_written: int = 0
    seconds: float = 0.0
    frames_per_second: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage, summed over threads."""
    wait_seconds: dict[str, float] = field(default_factory=dict)
    limiting_stage: str = ""
    engine: str = ""
    engine_implementation: str = ""
    device: str = ""
    alignments_version: float = 0.0
    alignments_generation: str = ""
    video_timing: str = ""
    """How the frames of a video were numbered: "constant" or "decoded"."""
    rotate: bool = False
    """Whether the display rotation of a video was applied."""
    numerics: str = ""
    """How crops were rounded: "numpy1", "numpy2" or "mixed"."""
    eye_angle: str = ""
    """Where the angles of level eyes come from, "libm" or "rounded"; empty where eyes are not levelled."""
    hashes_updated: int = 0
    """Faces whose hash in the alignments file is this run's."""
    hashes_changed: int = 0
    """Of these, faces that had another hash or none."""
    hashes_kept: int = 0
    """Stored hashes that were left alone, since these do not look like the frames that they were made from."""
    backup: str | None = None
    thumbs_refreshed: int = 0
    processes: int = 1
    """Of this machine, that cut at the same time."""
    confinement: list[str] = field(default_factory=list)
    """What the process had given up before it read anything, and what it could not; empty where nobody asked for it."""
    shard: str = ""
    """The part of the run that this was, as "2/7"; empty for a whole one."""
    shards_missing: list[str] = field(default_factory=list)
    """Shards that a merge found missing or not whole, as "2/7"; nothing was changed then."""
    stopped: bool = False
    """Ended early because of errors, as --on-error or --max-errors asked."""
    dry_run: bool = False
    faces_planned: int | None = None
    bytes_estimated: int | None = None
    seconds_estimated: float | None = None
    size: int = 0
    faces_folder: str = ""
    notes: list[str] = field(default_factory=list)
    next: str = ""
    """A command: it goes on where this run ended, or does again what failed, or looks at what was made."""
    exit_code: int = EXIT_OK

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, of this package, and of the libraries that are installed; a key of the JSON, too."""
        return versions()

    @property
    def complete(self) -> bool:
        """Whether the run went over all frames, even if some failed."""
        return self.exit_code in (EXIT_OK, EXIT_PARTIAL) and not self.stopped

    def first_errors(self) -> str:
        """What failed, in one line, for a run that prints no table."""
        first = self.errors[0]
        more = f", and {len(self.errors) - 1:,} more" if len(self.errors) > 1 else ""
        why = printable(first["reason"]).removesuffix(".")
        return f"{counted(self.faces_failed, 'face')} failed: {printable(first['frame'])}: {why}{more}."

    def add_error(self, frame: str, index: int | None, reason: str) -> None:
        self.errors.append({"frame": frame, "index": index, "reason": reason})

    def finish(self, seconds: float, *, partial_ok: bool = False) -> None:
        """Set what follows from the counts: the rate, the order of the errors, the exit code.

        Args:
            partial_ok: a run that went over all its frames is a success, whatever failed.
        """
        self.seconds = round(seconds, 3)
        self.frames_per_second = round(self.frames_decoded / seconds, 2) if seconds else 0.0
        self.stage_seconds = {stage: round(spent, 3) for stage, spent in self.stage_seconds.items()}
        self.wait_seconds = {stage: round(spent, 3) for stage, spent in self.wait_seconds.items()}
        self.errors.sort(key=lambda error: (error["frame"], -1 if error["index"] is None else error["index"]))
        if self.errors and self.exit_code == EXIT_OK:
            self.exit_code = EXIT_PARTIAL
        if partial_ok and self.complete and not self.shards_missing:
            self.exit_code = EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"versions": self.versions}

    def table(self) -> str:
        """The report for a person, some ten lines."""
        if self.dry_run:
            return "\n".join(self._plan_lines())
        lines = [
            ("faces", f"{self.faces_written:,} written to {self.faces_folder} ({self.size} px)"),
            ("", f"{self.faces_left_out:,} deleted since the earlier run, left out" if self.faces_left_out else ""),
            ("", f"{self.faces_filtered:,} left out, {self._too_small()}" if self.faces_filtered else ""),
            ("", f"{self.faces_failed:,} failed" if self.faces_failed else ""),
            ("frames", f"{self.frames_decoded:,} of {self.frames_expected:,} read{self._numbering()}"),
            ("", f"{self.frames_without_alignments:,} without alignments" if self.frames_without_alignments else ""),
            (
                "",
                f"{self.alignments_without_frame:,} in the file but not found" if self.alignments_without_frame else "",
            ),
            ("", f"{counted(self.damaged, 'damaged place')} in the video" if self.damaged else ""),
            (
                "time",
                f"{self.seconds:.2f} s, {self.frames_per_second:,.1f} frames/s{self._limit()}",
            ),
            ("engine", f"{self.engine} on {self.device} ({self.engine_implementation}){self._processes()}"),
            ("limits", "; ".join(self.confinement)),
            ("hashes", self._hash_line()),
            (
                "thumbs",
                f"{self.thumbs_refreshed:,} made; the old file is {self.backup}" if self.thumbs_refreshed else "",
            ),
        ]
        text = [f"{head:<8}{body}" for head, body in lines if body]
        text += [f"{'note':<8}{note}" for note in self.notes]
        text += [f"{'failed':<8}{_error_line(error)}" for error in self.errors[:LISTED]]
        text += and_more(len(self.errors), LISTED, " " * 8)
        text += self._next_lines()
        return "\n".join(map(printable, text))

    def _limit(self) -> str:
        """What kept it from being faster, where anything was done."""
        return f"; the limit was {self.limiting_stage}" if self.limiting_stage else ""

    def _processes(self) -> str:
        return f", {self.processes} processes" if self.processes > 1 else ""

    def _too_small(self) -> str:
        return f"too small: {self.centering} box under {self.min_box_px:,.0f} px" if self.min_box_px else "too small"

    def _numbering(self) -> str:
        """How a video's frames were numbered, for the table."""
        if not self.video_timing:
            return ""
        timing = "at a constant rate" if self.video_timing == "constant" else "as decoded"
        return f", numbered {timing}{', display rotation followed' if self.rotate else ''}"

    def _plan_lines(self) -> list[str]:
        seconds, nbytes = self.seconds_estimated or 0.0, self.bytes_estimated or 0
        frames = counted(self.frames_expected, "frame")
        return [
            f"plan    {counted(self.faces_planned or 0, 'face')} of {frames}, {self.size} px",
            f"        {self.faces_filtered:,} {self._too_small()}, {self.faces_failed:,} cannot be cut",
            f"space   about {nbytes / 1e6:,.0f} MB",
            f"time    about {seconds:,.0f} s on {self.device} ({self.engine_implementation})",
            *(f"note    {note}" for note in self.notes),
            "nothing was written",
            *self._next_lines(),
        ]

    def _next_lines(self) -> list[str]:
        if not self.next:
            return []
        if self.dry_run:
            what = "this does it"
        elif self.shards_missing:
            what = "this cuts what is missing, here, and makes one run of all"
        elif not self.complete:
            what = "when that is mended, this goes on" if self.stopped else "this goes on"
        elif self.errors:
            what = "when that is mended, this does again what failed"
        elif self.shard:
            what = "when all shards are done, this makes one run of them"
        else:
            what = "this makes a page of the faces, to look through them"
        return [f"{'next':<8}{what}: {self.next}"]

    def _hash_line(self) -> str:
        if self.hashes_kept:
            if self.hashes_kept == 1:
                return "the stored one is kept: it does not come out again"
            return f"{self.hashes_kept:,} stored ones kept: none of them comes out again"
        if not self.hashes_updated:
            return ""
        if not self.hashes_changed:
            return f"{self.hashes_updated:,} equal to those stored; the alignments file is unchanged"
        saved = f"{self.hashes_updated:,} in the alignments file, {self.hashes_changed:,} of them new"
        return f"{saved}; the old file is {self.backup}" if self.backup else saved


def _error_line(error: dict[str, Any]) -> str:
    frame = _shortened(error["frame"])
    where = frame if error["index"] is None else f"{frame} face {error['index']}"
    return f"{where}: {_shortened(error['reason'])}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"
