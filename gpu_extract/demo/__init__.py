"""The demo: a drawn clip, its alignments file, and the real extract run on both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gpu_extract.errors import OutputError

if TYPE_CHECKING:
    from gpu_extract.reports.extraction import Report

__all__ = ["DemoResult", "run_demo"]

MARKER = ".gpu-extract-demo"
"""A file that says: this folder is a demo's, and the next demo may replace it."""


class DemoResult(NamedTuple):
    """What a demo leaves behind."""

    video: Path
    alignments: Path
    faces: Path
    report_json: Path
    sheet: Path
    report: Report

    def table(self) -> str:
        """The report, and what to look at."""
        return f"{self.report.table()}\n{'sheet':<8}{self.sheet} shows every face: upright, level, centred"


def run_demo(folder: Path | str = "demo", *, size: int = 256, **options: Any) -> DemoResult:
    """Draw a clip into `folder`, extract its faces with the real job and put them on a contact sheet.

    `folder` is created; what an earlier demo left in it is replaced, and a folder that holds anything else is refused.
    `size` and `options` go to `gpu_extract.extract`.
    """
    from gpu_extract.demo.clip import make_clip
    from gpu_extract.jobs.sheet import contact_sheet

    folder = Path(folder)
    faces, report_json, sheet = folder / "faces", folder / "report.json", folder / "sheet.png"
    _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).touch()
        clip = make_clip(folder)
    except OSError as error:
        raise OutputError(
            f"the demo cannot be written into {folder}: {error.strerror}; give a writable folder."
        ) from error

    from gpu_extract.jobs.extract import extract

    report = extract(clip.alignments, clip.video, faces, size=size, json=report_json, **options)
    contact_sheet(faces, sheet)
    return DemoResult(clip.video, clip.alignments, faces, report_json, sheet, report)


def _clear(folder: Path) -> None:
    """Remove an earlier demo; nothing is removed from a folder that holds any other file."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file; the demo needs a folder of its own.")
    if not (folder / MARKER).exists():
        other = next(folder.iterdir(), None)
        if other is not None:
            raise OutputError(f"{folder} holds {other.name}, which is not of an earlier demo; give a new folder.")
    files = (MARKER, "demo.mp4", "demo_alignments*.fsa", "report.json", "sheet.png")
    patterns = (*files, "faces/demo_??????_?.png", "faces/.gpu-extract.*")
    ours = {path for pattern in patterns for path in folder.glob(pattern)}
    others = [path for path in folder.rglob("*") if path not in ours and path != folder / "faces"]
    if others:
        raise OutputError(f"{folder} holds {others[0].name}, which is not of an earlier demo; give a new folder.")
    for path in ours:
        path.unlink()
    if (folder / "faces").is_dir():
        (folder / "faces").rmdir()
