"""Which masks an alignments file has, and which became images; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, counted, printable
from gpu_extract.reports.base import JsonReport, and_more

LISTED = 10


@dataclass
class MasksReport(JsonReport):
    """Which masks there are, and what was made of them. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "masks/1"

    alignments: str = ""
    frames: int = 0
    """Entries of the file."""
    faces: int = 0
    """Faces of the file."""
    kinds: list[dict[str, Any]] = field(default_factory=list)
    """Masks that the file stores: each `kind` with how many `faces` have it, in which `sizes` and `centerings`."""
    faces_without: int = 0
    """Faces that store no mask."""
    faces_drawable: int = 0
    """Faces whose landmarks give a `components` mask, stored or not."""
    masks_folder: str | None = None
    """Where images were written to; None where the masks were only listed."""
    within: str | None = None
    """What the images show: "crop", "frame" or "stored"."""
    size: int | None = None
    """Side of crops."""
    images_written: int = 0
    images_black: int = 0
    """Of them, frames none of whose faces has the mask."""
    masks_drawn: int = 0
    """Masks in these images that were drawn from landmarks, because the face stores none of the kind."""
    lacking: list[dict[str, Any]] = field(default_factory=list)
    """Faces that have no mask of a kind, each with `frame`, `index` and `kind`."""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """Masks that could not be made, each with `frame`, `index`, `kind` and `reason`."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """The result for a person."""
        lines = [f"file    {counted(self.faces, 'face')} of {counted(self.frames, 'frame')}"]
        lines += [f"        {self._kind(one)}" for one in self.kinds]
        if self.masks_folder is None:
            lines.append(f"without {counted(self.faces_without, 'face')} that {_store(self.faces_without)} no mask")
            if self.faces_drawable:
                faces = counted(self.faces_drawable, "face")
                lines.append(f"drawn   components can be, from the landmarks of {faces}")
        else:
            lines += self._made()
        lines += [f"note    {note}" for note in self.notes]
        return "\n".join(map(printable, lines))

    def _kind(self, one: dict[str, Any]) -> str:
        sizes = ", ".join(f"{size} px" for size in one["sizes"]) or "of no size that is understood"
        return f"{one['kind']}: {counted(one['faces'], 'face')}, {sizes}, {', '.join(one['centerings'])}"

    def _made(self) -> list[str]:
        what = {"crop": f"crops of {self.size} px", "frame": "whole frames", "stored": "as they are stored"}
        lines = [f"written {counted(self.images_written, 'image')} to {self.masks_folder}, {what[str(self.within)]}"]
        if self.masks_drawn:
            lines.append(f"drawn   {counted(self.masks_drawn, 'mask')} from landmarks, of faces that store none")
        if self.images_black:
            lines.append(f"black   {counted(self.images_black, 'image')} of frames without a face that has the mask")
        if self.lacking:
            lines.append(f"lacking {counted(len(self.lacking), 'mask')} that faces do not have")
        lines += [f"        {one['frame']} face {one['index']}: no {one['kind']}" for one in self.lacking[:LISTED]]
        lines += and_more(len(self.lacking), LISTED, " " * 8)
        if self.errors:
            lines.append(f"failed  {len(self.errors):,}")
        lines += [f"        {_where(one)}, {one['kind']}: {one['reason']}" for one in self.errors[:LISTED]]
        return lines + and_more(len(self.errors), LISTED, " " * 8)


def _store(faces: int) -> str:
    return "stores" if faces == 1 else "store"


def _where(one: dict[str, Any]) -> str:
    return str(one["frame"]) if one["index"] is None else f"{one['frame']} face {one['index']}"
