"""The faces folder before a run: empty, or holding the run that is to be resumed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gpu_extract.errors import OutputError
from gpu_extract.run import journal
from gpu_extract.storage.inputs import is_folder, unreadable


def prepare_folder(folder: Path, *, resume: bool) -> None:
    """Create a folder for face files, with parents; one that exists must be empty, or hold a run to resume.

    Raises:
        OutputError: if it is not a folder, holds anything else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(folder) as entries:
            occupied = next(entries, None)
    except NotADirectoryError:
        raise OutputError(f"the faces folder {folder} cannot be made: a part of that path is a file.") from None
    except FileExistsError:
        raise OutputError(
            f"the faces folder {folder} is a file; name a folder that is empty or not there yet."
        ) from None
    except OSError as error:
        if error.errno == errno.EIO and is_folder(folder, "the faces folder"):
            raise unreadable(folder, "the faces folder", error) from error
        raise OutputError(f"the faces folder {folder} cannot be made: {error.strerror}.") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"the faces folder {folder} cannot be written: permission denied.")
    if occupied is None or (resume and journal.exists(folder)):
        return
    if journal.exists(folder):
        raise OutputError(
            f"the faces folder {folder} holds an earlier run; add --resume to continue it, or name another folder."
        )
    raise OutputError(
        f"the faces folder {folder} is not empty (it holds {occupied.name!r}); name another, or empty it first."
    )
