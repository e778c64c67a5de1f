"""What a verification found; as JSON with stable keys and as a short table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, printable
from gpu_extract.reports.base import JsonReport, and_more

LISTED = 20
KINDS = ("missing", "extra", "altered", "header", "moved", "hash", "metadata", "unproven")


@dataclass
class VerifyReport(JsonReport):
    """What a verification found. Every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "verify/1"

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
