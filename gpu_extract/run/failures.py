"""What failed in a folder's run, kept beside its journal for whoever looks at the folder later."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.reports.base import MAX_REPORT_BYTES
from gpu_extract.reports.extraction import Report
from gpu_extract.run import journal
from gpu_extract.storage.atomic import write_whole
from gpu_extract.storage.inputs import open_input


def keep(folder: Path, report: Report) -> None:
    """Put the errors of a run into its folder, where there were any; those of an earlier one go.

    A disk that takes nothing any more costs this list alone: the report has it, too.
    """
    path = folder / journal.FAILURES
    with suppress(OSError, OutputError):
        if report.errors and folder.is_dir():
            write_whole(path, [json.dumps(report.errors).encode()])
        else:
            path.unlink(missing_ok=True)


def kept(folder: Path) -> list[Any]:
    """The errors that `keep` has put there, as `Report.errors`; none where there are none, or nothing can be read."""
    with suppress(InputError, OSError, ValueError, RecursionError):
        with open_input(folder / journal.FAILURES, "the list of failures") as file:
            found = json.loads(file.read(MAX_REPORT_BYTES))
        return found if isinstance(found, list) else []
    return []
