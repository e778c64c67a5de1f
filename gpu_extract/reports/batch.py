"""What became of each video of a batch, as JSON with stable keys and as a table with a row each."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, counted, printable
from gpu_extract.reports.base import JsonReport

DONE, DONE_BEFORE, WITH_FAILURES, REFUSED = "done", "done before", "with failures", "refused"
INTERRUPTED, NOT_BEGUN, NO_ALIGNMENTS, PLANNED = "interrupted", "not begun", "no alignments", "planned"
WELL = (DONE, DONE_BEFORE, PLANNED)
AMISS = (WITH_FAILURES, REFUSED)


@dataclass
class Row:
    """One video or folder of images."""

    frames: str
    alignments: str | None
    faces_folder: str
    state: str = NOT_BEGUN
    """"done", "done before" (an earlier run's folder is as it should be), "with failures" (some faces or frames),
    "refused" (by its own run, or killed), "interrupted", "not begun", "no alignments", "planned" (a dry run)."""
    faces: int = 0
    """Written, or planned."""
    faces_failed: int = 0
    hashes: int = 0
    """In the alignments file that are this run's."""
    seconds: float = 0.0
    """Of its own run; of one that was done before, then."""
    exit_code: int | None = None
    """Of its own run; null where it had none, negative where a signal ended it."""
    reason: str = ""
    """What was wrong, in a sentence."""
    notes: list[str] = field(default_factory=list)


@dataclass
class BatchReport(JsonReport):
    """The result of a batch. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "batch/1"

    videos: list[Row] = field(default_factory=list)
    """In the order in which they were named and lie in their folders."""
    videos_done: int = 0
    """Now or before, with nothing amiss."""
    videos_with_failures: int = 0
    videos_refused: int = 0
    videos_without_alignments: int = 0
    videos_left: int = 0
    """Not begun, or interrupted."""
    faces: int = 0
    hashes: int = 0
    seconds: float = 0.0
    processes: int = 1
    dry_run: bool = False
    bytes_estimated: int = 0
    """In a dry run, of all faces."""
    stopped: str = ""
    """Why the batch ended before its end, in a sentence; empty where it did not, or was interrupted."""
    notes: list[str] = field(default_factory=list)
    next: str = ""
    """A command that does what is left, and nothing that is done, or what a dry run has planned; empty where all is
    done."""
    exit_code: int = EXIT_OK

    def finish(self, seconds: float, *, again: str, partial_ok: bool = False) -> None:
        """Set what follows from the rows: counts, the exit code, what to do next.

        Args:
            again: the command that goes on.
            partial_ok: videos that some faces or frames of failed are no failure.
        """
        count = [row.state for row in self.videos].count
        self.videos_done = sum(map(count, WELL))
        self.videos_with_failures, self.videos_refused = count(WITH_FAILURES), count(REFUSED)
        self.videos_without_alignments = count(NO_ALIGNMENTS)
        self.videos_left = count(NOT_BEGUN) + count(INTERRUPTED)
        self.faces, self.hashes = sum(row.faces for row in self.videos), sum(row.hashes for row in self.videos)
        self.seconds = round(seconds, 3)
        amiss = self.videos_refused + (0 if partial_ok else self.videos_with_failures)
        if amiss and self.exit_code == EXIT_OK:
            self.exit_code = EXIT_PARTIAL
        if self.dry_run or self.videos_done < len(self.videos):
            self.next = again

    def table(self) -> str:
        """The report for a person: a row a video, what was wrong below it, and in the last line what to do next.

        What is to be said of several videos alike is said once, below all.
        """
        rows = [("", "", "faces", "hashes", "seconds"), *map(_cells, self.videos)]
        widths = [max(_width(row[i]) for row in rows) for i in range(5)]
        lines = []
        of_many = {note: n for note, n in Counter(note for row in self.videos for note in row.notes).items() if n > 1}
        for cells, row in zip(rows, [None, *self.videos], strict=True):
            names = [cell + " " * (width - _width(cell)) for cell, width in zip(cells[:2], widths, strict=False)]
            counts = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
            lines.append("  ".join((*names, *counts)).rstrip())
            if row is not None:
                own = [note for note in row.notes if note not in of_many]
                lines += [f"    {printable(reason)}" for reason in (row.reason, *own) if reason]
        lines += [f"note    {printable(note)}" for note in self.notes]
        lines += [f"note    of {n:,} videos: {printable(note)}" for note, n in of_many.items()]
        return "\n".join((*lines, printable(self._sum()), *map(printable, self._last_lines())))

    def first_failure(self) -> str:
        """What went wrong, in one line, for a batch that prints no table."""
        amiss = [row for row in self.videos if row.state in AMISS]
        more = f" {counted(len(amiss) - 1, 'more video')} went wrong, too." if len(amiss) > 1 else ""
        return f"{amiss[0].frames}: {amiss[0].reason}{more}" if amiss else self.stopped or "interrupted."

    def _sum(self) -> str:
        counts = [
            (self.videos_with_failures, "with failures"),
            (self.videos_refused, "refused"),
            (self.videos_without_alignments, "without an alignments file"),
            (self.videos_left, "left"),
        ]
        what = "planned" if self.dry_run else "done"
        videos = ", ".join(f"{count:,} {words}" for count, words in counts if count)
        space = f", about {self.bytes_estimated / 1e6:,.0f} MB" if self.dry_run else ""
        return (
            f"{self.videos_done:,} of {len(self.videos):,} {what}{f' ({videos})' if videos else ''}, "
            f"{counted(self.faces, 'face')}{space}, {self.seconds:,.1f} s"
        )

    def _last_lines(self) -> list[str]:
        if self.dry_run:
            return ["nothing was written", f"this does it: {self.next}"]
        if not self.next:
            return ["all is done; nothing is left to do"]
        if self.stopped:
            return [f"{self.stopped} When that is solved, this goes on: {self.next}"]
        if self.videos_left:
            return [f"interrupted; this goes on: {self.next}"]
        return [f"when that is mended, this does what is left, and nothing that is done: {self.next}"]


def _width(text: str) -> int:
    """Columns that a text takes in a terminal, where some letters are two wide and some stand above others."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    had_a_run = row.state not in (NO_ALIGNMENTS, NOT_BEGUN, REFUSED) or row.faces > 0
    counts = (f"{row.faces:,}", f"{row.hashes:,}", f"{row.seconds:,.1f}") if had_a_run else ("", "", "")
    return printable(row.frames), row.state, *counts
