"""What a prune found and did; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, counted, printable
from gpu_extract.reports.base import JsonReport, and_more, listed

LISTED = 10


@dataclass
class PruneReport(JsonReport):
    """What a prune found and did. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "prune/1"

    alignments: str = ""
    faces_folder: str = ""
    faces_before: int = 0
    """Faces in the alignments file before."""
    faces_after: int = 0
    faces_present: int = 0
    """Faces of the file that the folder holds, each once."""
    faces_never_cut: int = 0
    """Faces that the folder's run did not make, or that nothing can tell from others; they stay."""
    deleted: list[dict[str, Any]] = field(default_factory=list)
    """Faces that leave the file, each with its `frame` and the `index` that it had there."""
    frames_emptied: list[str] = field(default_factory=list)
    """Frames that are left without a face by it."""
    frames_removed: bool = False
    """Whether these left the file, too."""
    extra: list[str] = field(default_factory=list)
    """Files in the folder that show no face of the file."""
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    """Each with `file` and `reason`."""
    unproven: list[str] = field(default_factory=list)
    """Files that say they are a face of the file but show another picture of it, or other landmarks; it stays."""
    files_renumbered: int = 0
    """Files that got another name or header, for faces before theirs left the frame."""
    known_by: str = ""
    """What told the faces apart."""
    backup: str | None = None
    undo: str | None = None
    """What to type to have it all back."""
    undone: bool = False
    dry_run: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        if self.undone:
            lines = [f"undone  {self.alignments} holds {counted(self.faces_after, 'face')} again"]
            return "\n".join(map(printable, lines + [f"note    {note}" for note in self.notes]))
        lines = [f"faces   {self.faces_before:,} in the file, {self.faces_present:,} of them in {self.faces_folder}"]
        lines.append(f"deleted {self._deleted()}")
        lines += [f"        {face['frame']} face {face['index']}" for face in self.deleted[:LISTED]]
        lines += and_more(len(self.deleted), LISTED, " " * 8)
        if self.faces_never_cut:
            others = counted(self.faces_never_cut, "face")
            lines.append(
                f"others  {others} in the file: never cut into this folder, or not to be told; nothing changes"
            )
        if self.frames_emptied:
            lines.append(f"frames  {self._emptied()}")
        if self.files_renumbered:
            one, several = "gets the number that its face has", "get the numbers that their faces have"
            lines.append(f"files   {counted(self.files_renumbered, one, several)} now")
        lines += listed("extra   ", "show no face of the file", self.extra, LISTED)
        lines += listed("other   ", "named as a face that looks otherwise in the file; it stays", self.unproven, LISTED)
        reasons = [f"{one['file']}: {one['reason']}" for one in self.unreadable]
        lines += listed("damaged ", "cannot be read", reasons, LISTED)
        lines += [f"note    {note}" for note in self.notes]
        if self.backup is not None:
            lines.append(f"before  {self.backup} is the file as it was; undo: {self.undo}")
        return "\n".join(map(printable, lines))

    def _deleted(self) -> str:
        if not self.deleted:
            return "nothing"
        faces = counted(len(self.deleted), "face")
        if self.dry_run:
            return f"{faces} would leave the file, {self.faces_after:,} stay"
        return f"{faces} left the file, {self.faces_after:,} are in it"

    def _emptied(self) -> str:
        one = len(self.frames_emptied) == 1
        left = f"{counted(len(self.frames_emptied), 'frame')} {'is' if one else 'are'} left without a face"
        if self.frames_removed:
            return f"{left}; {'it leaves' if one else 'they leave'} the file, too"
        return f"{left}; {'it stays' if one else 'they stay'} in the file, empty"
