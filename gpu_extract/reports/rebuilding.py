"""What a rebuild found and made; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, counted, printable
from gpu_extract.reports.base import JsonReport, and_more, listed

LISTED = 10


@dataclass
class RebuildReport(JsonReport):
    """What a rebuild found and made. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "rebuild/1"

    faces_folder: str = ""
    new: str = ""
    """The alignments file that was made."""
    version: float = 0.0
    generation: str = ""
    source: str = ""
    """Which of the videos, or folders of images, whose faces lie in the folder it is of."""
    files: int = 0
    """Images that were looked at."""
    faces_rebuilt: int = 0
    frames: int = 0
    """Entries of the file, with and without faces."""
    headers_the_same: int = 0
    """Faces whose headers an extraction from the file writes to the byte."""
    faces_listed: int = 0
    """Faces without a header, known by the list that their run wrote."""
    faces_proven: int = 0
    """Of these, those that the file has cut exactly where they were."""
    as_the_run: bool = False
    """Whether the folder's journal knows the file's faces for those of its run."""
    gaps: list[dict[str, Any]] = field(default_factory=list)
    """Stretches of frames without a face, each with the keys of its `first` and `last` frame and how many, `count`."""
    frames_not_in_source: list[str] = field(default_factory=list)
    """Keys with faces for which there is no frame, where the frames were named."""
    closed_up: list[dict[str, Any]] = field(default_factory=list)
    """Faces that get a lower number because others of their frame are gone: `file`, `frame`, `was` and `index`."""
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    """Files that show a face once more: `file`, and the one that was taken, `of`."""
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    """Files that say they are the face of another file, `of`, which was taken, but have other landmarks."""
    damaged: list[str] = field(default_factory=list)
    """Files whose pixels are damaged; their headers are whole and were taken."""
    unreadable: list[dict[str, Any]] = field(default_factory=list)
    """Each with `file` and `reason`."""
    unproven: list[str] = field(default_factory=list)
    """Files whose names stand in the list of faces, but that show other pixels."""
    extra: list[str] = field(default_factory=list)
    """Images that nothing tells the origin of."""
    dry_run: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    next: str = ""
    """What to type to see that all is right."""
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        would = "would hold" if self.dry_run else "holds"
        entries = f"{counted(self.faces_rebuilt, 'face')} of {counted(self.frames, 'frame')}"
        lines = [f"file    {self.new} {would} {entries}, generation {self.generation}"]
        if headers := self.faces_rebuilt - self.faces_listed:
            others = "" if self.headers_the_same == headers else ", others in another form or with another number"
            lines.append(f"headers {self.headers_the_same:,} of them come out again to the byte{others}")
        if self.faces_listed:
            proven = f"{self.faces_proven:,} to the bit"
            lines.append(f"listed  {self.faces_listed:,} of them are known by the list of faces, {proven}")
        if self.as_the_run:
            lines.append("run     the folder's journal knows these faces: --resume and verify go on with the file")
        lines += self._gaps()
        if self.closed_up:
            faces = counted(len(self.closed_up), "face")
            lines.append(f"numbers {faces} get a lower number: others of their frames are not in the folder")
            lines += [
                f"        {one['frame']} face {one['was']} is face {one['index']}" for one in self.closed_up[:LISTED]
            ]
            lines += and_more(len(self.closed_up), LISTED, " " * 8)
        no_frame = "face" if len(self.frames_not_in_source) == 1 else "faces"
        lines += _keys(f"of frames that the source has not; their {no_frame} stay", self.frames_not_in_source)
        for title, what, found in (
            ("twice   ", "with a face that another file shows; passed over", self.duplicates),
            (
                "other   ",
                "with other landmarks for a face of another file; left out",
                self.contradictions,
            ),
        ):
            lines += listed(title, what, [f"{one['file']}, beside {one['of']}" for one in found], LISTED)
        lines += listed("damaged ", "with damaged pixels; the headers are whole and were taken", self.damaged, LISTED)
        reasons = [f"{one['file']}: {one['reason']}" for one in self.unreadable]
        lines += listed("unread  ", "cannot be read", reasons, LISTED)
        lines += listed("altered ", "with other pixels than the list of faces has", self.unproven, LISTED)
        lines += listed("extra   ", "of unknown origin", self.extra, LISTED)
        lines += [f"note    {note}" for note in self.notes]
        if self.next:
            lines.append(f"next    {self.next}")
        return "\n".join(map(printable, lines))

    def _gaps(self) -> list[str]:
        if not self.gaps:
            return []
        frames = counted(sum(gap["count"] for gap in self.gaps), "frame")
        lines = [f"gaps    {frames} in {counted(len(self.gaps), 'stretch', 'stretches')} without a face"]
        for gap in self.gaps[:LISTED]:
            lines.append(f"        {gap['first']}" if gap["count"] == 1 else f"        {gap['first']} to {gap['last']}")
        return lines + and_more(len(self.gaps), LISTED, " " * 8)


def _keys(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    lines = [f"frames  {counted(len(keys), 'entry', 'entries')} {what}"]
    return lines + [f"        {key}" for key in keys[:LISTED]] + and_more(len(keys), LISTED, " " * 8)
