"""What failed in a folder's run, kept beside its journal for whoever looks at the folder later."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.reports.base import MAX_REPORT_BYTES
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.run.fingerprint import FACES
from gpu_extract.storage.atomic import write_whole
from gpu_extract.storage.inputs import open_input


@dataclass(frozen=True)
class Kept:
    """What failed in a run."""

    errors: list[Any] = field(default_factory=list)
    """As `Report.errors`, as far as the file says it."""
    faces: str | None = None
    """Digest of where the faces of the alignments file were, as journals have it: in that file the indices of the
    errors are right. None where that is not known."""


def keep(folder: Path, report: Report) -> None:
    """Put the errors of a run into its folder, where there were any; those of an earlier one go.

    A disk that takes nothing any more costs this list alone: the report has it, too.
    """
    path = folder / journal.FAILURES
    with suppress(OSError, InputError, OutputError):
        if report.errors and folder.is_dir():
            faces = (journal.begun(folder) or {}).get(FACES)
            write_whole(path, [json.dumps({"faces": faces, "errors": report.errors}).encode()])
        else:
            path.unlink(missing_ok=True)


def kept(folder: Path) -> Kept:
    """What `keep` has put there; nothing where nothing can be read."""
    with suppress(InputError, OSError, ValueError, RecursionError):
        with open_input(folder / journal.FAILURES, "the list of failures") as file:
            found = json.loads(file.read(MAX_REPORT_BYTES))
        told = found if isinstance(found, dict) else {"errors": found}
        errors, faces = told.get("errors"), told.get("faces")
        return Kept(errors if isinstance(errors, list) else [], faces if isinstance(faces, str) else None)
    return Kept()
