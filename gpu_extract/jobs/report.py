"""`report`: a page for a browser of all faces of a folder, with what failed on top. Opened from the disk, no server."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from gpu_extract.alignments import Alignments
from gpu_extract.errors import (
    EXIT_OK,
    EXIT_PARTIAL,
    AlignmentsError,
    InputError,
    OutputError,
    UsageError,
    counted,
    printable,
)
from gpu_extract.face_files.stored import stored_files
from gpu_extract.jobs.gallery.entries import State, entries_of
from gpu_extract.jobs.gallery.miniatures import KINDS, is_hidden, write_miniatures
from gpu_extract.jobs.gallery.outcome import outcome_of
from gpu_extract.jobs.gallery.pages import FACES_A_PAGE, Pages, states
from gpu_extract.jobs.gallery.particulars import Knowledge
from gpu_extract.jobs.gallery.summary import Tally, summary
from gpu_extract.naming import of_this_machine
from gpu_extract.run import journal
from gpu_extract.run.pool import Pool
from gpu_extract.storage.atomic import locked
from gpu_extract.storage.inputs import is_folder
from gpu_extract.storage.outputs import check_output, write_output
from gpu_extract.storage.parts import write_file

WHAT = "the report"
PAGE = "index.html"
STATIC = ("page.css", "elements.js", "gallery.js", "charts.js", "grid.js", "viewer.js", "page.js", "icon.svg")
"""Of `reports/page/`, in the order in which the page loads its scripts."""
MARK = b'<meta name="generator" content="gpu-extract report">'
"""Stands at the beginning of every page, and says that the next report may replace it."""
MARKED_BYTES = 1024
OWN = "made-by-gpu-extract-report"
"""An empty file in a page's folder of data, which says that it may be removed with the page."""


@dataclass
class FaceReport:
    """What was made."""

    page: Path
    tally: Tally = field(default_factory=Tally)
    exit_code: int = EXIT_OK

    def table(self) -> str:
        """Where the page is, and what it shows, in a few lines."""
        tally = self.tally
        lines = [f"page    {self.page}", f"faces   {tally.files:,} of {counted(tally.frames, 'frame')}"]
        lines += [
            f"        {count:,} {what}"
            for count, what in (
                (tally.failed, "failed"),
                (tally.gone, "deleted since the run"),
                (tally.extra, "that the run did not write"),
                (tally.unreadable, "cannot be read"),
                (tally.outside, "outside the picture"),
            )
            if count
        ]
        return "\n".join(map(printable, lines))


def face_report(
    faces: Path | str,
    out: Path | str | None = None,
    *,
    run_report: Path | str | None = None,
    alignments: Path | str | None = None,
    thumbs: str = "auto",
) -> FaceReport:
    """Make a page of the faces of a folder.

    Args:
        out: a folder for `index.html`, or a name that ends in .html; `<faces>_report` beside the faces by default. The
            page's data lies beside it, in a folder of its own. Nothing is replaced but an earlier report.
        run_report: what `extract --json` wrote; looked for in the folder and beside it by default.
        alignments: the file that the faces were cut from, where they do not say themselves how.
        thumbs: "auto" makes thumbnails of faces over 256 px, of members of archives, and of formats that browsers do
            not know; "always" of all, so that the page goes without the faces; "never" of none.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    folder = of_this_machine(faces, "report")
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"{folder} is not a folder; give the folder that extract wrote the faces into.")
    if thumbs not in KINDS:
        raise UsageError(f"thumbnails {thumbs!r} are not understood; {', '.join(KINDS)} are.")
    page = _page_of(folder, out)
    loaded = None if alignments is None else Alignments.load(Path(alignments))
    outcome = outcome_of(folder, None if run_report is None else Path(run_report), loaded)
    stored = stored_files(folder, journal.own_names(folder))
    entries = entries_of(stored, outcome)
    if not entries and outcome.settings is None and outcome.report is None:
        raise InputError(f"{folder} holds neither faces nor the journal of a run; there is nothing to report.")
    _make_place(page)
    knowledge = Knowledge(folder, stored, outcome.settings, loaded)
    made = FaceReport(page)
    with _data_folder(page) as data, Pool() as threads:
        pages = Pages(data)
        for at in range(0, len(entries), FACES_A_PAGE):
            block = entries[at : at + FACES_A_PAGE]
            found = knowledge.of(block)
            small = data / "thumbs" / f"{pages.next_number:04d}"
            write_miniatures(small, block, found, thumbs, threads)
            for entry, about in zip(block, found, strict=True):
                if entry.place is not None and is_hidden(entry):
                    about.state |= State.HIDDEN
            pages.add(block, found)
            made.tally.add(block, found)
        known = pages.finish(states=states(), faces=_way(page, folder))
        for name in STATIC:
            write_file(data, name, _static(name))
        html = _static(PAGE).decode().replace("{data}", _link(data.name)).replace("{known}", " ".join(known))
        told = summary(folder, outcome, made.tally, None if alignments is None else Path(alignments))
        write_output(page, html.replace("<!-- summary -->", told).encode(), WHAT, _is_page)
    made.exit_code = EXIT_PARTIAL if made.tally.unreadable else EXIT_OK
    return made


def _page_of(folder: Path, out: Path | str | None) -> Path:
    """Where the page will be. Raises OutputError if that is among the faces."""
    if out is None:
        real = Path(os.path.realpath(folder))
        out = folder.with_name(f"{folder.name}_report") if folder.name not in ("", "..") else Path(f"{real}_report")
    page = Path(out)
    if page.suffix.lower() not in (".html", ".htm"):
        page = page / PAGE
    inside, faces = Path(os.path.realpath(page.parent)), Path(os.path.realpath(folder))
    if inside == faces or faces in inside.parents:
        raise OutputError(
            f"{WHAT} would lie among the faces in {folder}, where verify takes its pictures for faces; "
            "name a folder beside them."
        )
    return page


def _make_place(page: Path) -> None:
    """Make the page's folder. Raises OutputError if the page cannot be there, or would replace what is none."""
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{WHAT} cannot be written to {page.parent}: {error.strerror}.") from error
    check_output(page, WHAT, _is_page)


@contextmanager
def _data_folder(page: Path) -> Iterator[Path]:
    """A new folder for the data of a page, beside it; those of earlier ones go when the page is there."""
    try:
        with locked(page):
            data = page.with_name(f"{page.stem}_{secrets.token_hex(4)}")
            try:
                data.mkdir()
                write_file(data, OWN, b"")
                yield data
            except BaseException as error:
                shutil.rmtree(data, ignore_errors=True)
                if isinstance(error, OSError):
                    raise OutputError(f"{WHAT} cannot be written to {data}: {error.strerror}.") from error
                raise
            for other in _earlier(page):
                if other != data:
                    shutil.rmtree(other, ignore_errors=True)
    except AlignmentsError as error:
        raise OutputError(f"another report is being written to {page}; wait until it is.") from error


def _earlier(page: Path) -> list[Path]:
    name = re.compile(rf"{re.escape(page.stem)}_[0-9a-f]{{8}}")
    with suppress(OSError), os.scandir(page.parent) as entries:
        return [page.parent / entry.name for entry in entries if name.fullmatch(entry.name) and _is_own(entry)]
    return []


def _is_own(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and (Path(entry.path) / OWN).is_file()


def _way(page: Path, folder: Path) -> str:
    """From the page's folder to the faces, for links."""
    return _link(os.path.relpath(os.path.realpath(folder), os.path.realpath(page.parent)))


def _link(way: str) -> str:
    """A relative path as it stands in a link, or in an attribute: percent signs for whatever means something there."""
    return quote(os.fsencode(way))


def _static(name: str) -> bytes:
    return (resources.files("gpu_extract.reports") / "page" / name).read_bytes()


def _is_page(file: BinaryIO) -> bool:
    return MARK in file.read(MARKED_BYTES)
