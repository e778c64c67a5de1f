"""What was stopped while it changed a faces folder: until it is completed, no other job may take its names for faces.

Each of these keeps a record in the folder, which says whether it is done: `pruned`, `renumbered`, `renamed`.
"""

from __future__ import annotations

import os
from pathlib import Path

from gpu_extract.errors import UsageError
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.changes.record import DONE, PRUNE, REINDEX, RENAME, UNDOING
from gpu_extract.jobs.changes.renamed import Renamed
from gpu_extract.jobs.changes.renumbered import Renumbered


def stopped(folder: Path, *, but: str = "") -> str | None:
    """A sentence that names what was stopped in a folder, and what completes it; None where nothing was.

    Args:
        but: the command that is not asked for, for it completes its own.

    Raises:
        InputError: if a record cannot be read.
    """
    # The reindex removes its record when it is done, so it need not be read, and may be damaged.
    if but != REINDEX and os.path.lexists(folder / Renumbered.FILE):
        return _sentence(f"a reindex of {folder}", REINDEX)
    if but != PRUNE:
        prune = Pruned.load(folder)
        if prune is not None and prune.state != DONE:
            return _sentence(f"a prune of {folder}", PRUNE)
    if but != RENAME:
        rename = Renamed.load(folder)
        if rename is not None and rename.state == UNDOING:
            return _sentence(f"the undoing of a rename of {folder}", f"{RENAME} --undo")
        if rename is not None and rename.state != DONE:
            return _sentence(f"a rename of {folder}", RENAME)
    return None


def check_completed(folder: Path, *, but: str = "") -> None:
    """Refuse a folder in which something was stopped; see `stopped`.

    Raises:
        UsageError: if something was.
        InputError: if a record cannot be read.
    """
    if (sentence := stopped(folder, but=but)) is not None:
        raise UsageError(sentence)


def _sentence(what: str, command: str) -> str:
    return f"{what} was stopped; gpu-extract {command} with the same folder completes it."
