"""What a rename found and did; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, counted, printable
from gpu_extract.reports.base import JsonReport, and_more, listed

LISTED = 10


@dataclass
class RenameReport(JsonReport):
    """What a rename found and did. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "rename/1"

    faces_folder: str = ""
    alignments: str | None = None
    files: int = 0
    """Images that were looked at."""
    files_right: int = 0
    """Faces that had their names already."""
    renamed: list[dict[str, Any]] = field(default_factory=list)
    """Files that got their names back, `from` and `to`, relative to the folder."""
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    """Files that show a face once more, and the file that has its name, `of`; they stay as they are."""
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    """Files that differ and all say they are one face; they stay, each with the name that they want, `name`."""
    in_the_way: list[dict[str, Any]] = field(default_factory=list)
    """Files whose names another file has that stays; each with `file` and `name`."""
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    """Each with `file` and `reason`."""
    unproven: list[str] = field(default_factory=list)
    """Files that say they are a face of the alignments file, but show other landmarks; they stay as they are."""
    extra: list[str] = field(default_factory=list)
    """Images of which nothing tells what they were called."""
    known_by: str = ""
    """What told the faces apart."""
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
            lines = [f"undone  {counted(len(self.renamed), 'file')} in {self.faces_folder} called as before"]
            return "\n".join(map(printable, lines + [f"note    {note}" for note in self.notes]))
        lines = [f"faces   {counted(self.files, 'image')} in {self.faces_folder}, {self.files_right:,} named right"]
        lines.append(f"renamed {self._renamed()}")
        lines += [f"        {one['from']} -> {one['to']}" for one in self.renamed[:LISTED]]
        lines += and_more(len(self.renamed), LISTED, " " * 8)
        twice = [f"{one['file']}, beside {one['of']}" for one in self.duplicates]
        lines += listed("twice   ", "with a face that another file shows; left", twice, LISTED)
        for title, what, found in (
            ("other   ", "with one name to have, and not the same in them; left", self.contradictions),
            ("in way  ", "with a name to have that another file keeps; left", self.in_the_way),
        ):
            lines += listed(title, what, [f"{one['file']}: {one['name']}" for one in found], LISTED)
        reasons = [f"{one['file']}: {one['reason']}" for one in self.unreadable]
        lines += listed("damaged ", "cannot be read", reasons, LISTED)
        lines += listed("altered ", "with no face as the alignments file has it; left", self.unproven, LISTED)
        lines += listed("extra   ", "of unknown origin; left", self.extra, LISTED)
        lines += [f"note    {note}" for note in self.notes]
        if self.undo is not None:
            lines.append(f"undo    {self.undo}")
        return "\n".join(map(printable, lines))

    def _renamed(self) -> str:
        if not self.renamed:
            return "nothing"
        files = counted(len(self.renamed), "file")
        return f"{files} would get their names back" if self.dry_run else f"{files} got their names back"
