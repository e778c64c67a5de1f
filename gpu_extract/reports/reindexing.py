"""Which faces of an alignments file got another number; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, counted, printable
from gpu_extract.reports.base import JsonReport, and_more

LISTED = 10


@dataclass
class ReindexReport(JsonReport):
    """What came of another order. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "reindex/1"

    alignments: str = ""
    new: str | None = None
    """The file that was written; None where that is the one that was read."""
    by: str = ""
    frames: int = 0
    frames_several: int = 0
    """Frames with two faces or more."""
    faces: int = 0
    frames_reordered: int = 0
    faces_moved: list[dict[str, Any]] = field(default_factory=list)
    """Faces with another number: each `frame`, the `index` that it had, and the `new_index`."""
    left_as_they_are: list[dict[str, Any]] = field(default_factory=list)
    """Frames in which nothing tells where the faces are, each with `frame` and `reason`."""
    faces_nowhere: list[dict[str, Any]] = field(default_factory=list)
    """Faces without box and landmarks, which come last in their frames, each with `frame` and its old `index`."""
    faces_folder: str | None = None
    """The folder that followed."""
    files_renumbered: int = 0
    """Files in it that got another name, or another header."""
    backup: str | None = None
    dry_run: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        frames = counted(self.frames, "frame")
        lines = [f"file    {counted(self.faces, 'face')} of {frames}, {self.frames_several:,} with several"]
        moved = f"{counted(len(self.faces_moved), 'face')} of {counted(self.frames_reordered, 'frame')}"
        how = "would get" if self.dry_run else "got"
        if self.faces_moved:
            lines.append(f"moved   {moved} {how} another number, {self.by}")
        else:
            lines.append(f"moved   nothing; all faces are in order, {self.by}")
        lines += [
            f"        {one['frame']} face {one['index']}: now {one['new_index']}" for one in self.faces_moved[:LISTED]
        ]
        lines += and_more(len(self.faces_moved), LISTED, " " * 8)
        if self.faces_nowhere:
            lines.append(f"last    {counted(len(self.faces_nowhere), 'face')} without box and landmarks")
        if self.left_as_they_are:
            lines.append(f"left    {counted(len(self.left_as_they_are), 'frame')} in the old order")
        lines += [f"        {one['frame']}: {one['reason']}" for one in self.left_as_they_are[:LISTED]]
        lines += and_more(len(self.left_as_they_are), LISTED, " " * 8)
        if self.faces_folder is not None and self.faces_moved:
            renumbered = f"{counted(self.files_renumbered, 'file')} in {self.faces_folder}"
            lines.append(f"files   {renumbered} {how} the numbers of their faces")
        lines += [f"note    {note}" for note in self.notes]
        if self.backup is not None:
            lines.append(f"before  {self.backup} is the file as it was")
        return "\n".join(map(printable, lines))
