"""What proves, without reading frames or faces, that a video of a batch needs nothing more.

When its run ends with nothing amiss, a file in its folder of faces says what it made, of what, and what was asked for.
As long as all of that is as it was, there is nothing to do. In any doubt the run is resumed, which looks closer: this
saves time, and decides nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_extract.errors import InputError, OutputError
from gpu_extract.jobs.runs.earlier import RESTORE
from gpu_extract.options import Settings, options
from gpu_extract.run import journal
from gpu_extract.storage.atomic import write_whole
from gpu_extract.storage.inputs import open_input

VERSION = 1
NOT_ASKED = frozenset(
    (
        *("alignments", "frames", "faces", "json", "progress", "resume", "device", "devices", "processes", "workers"),
        *("decoder", "batch_mb", "pinned_mb", "partial_ok", "on_error", "max_errors", "cache", "shard", "dry_run"),
    )
)
"""Options that change nothing about a run that went well."""


@dataclass(frozen=True)
class Done:
    """What a run came to."""

    faces: int
    hashes: int
    seconds: float


def write_done(settings: Settings, done: Done) -> None:
    """Say in a folder of faces that its run is over. A folder that takes no such file does without.

    Args:
        settings: of the run.
    """
    try:
        entry = {"done": VERSION, "made": [done.faces, done.hashes, done.seconds]} | _state(settings)
        write_whole(settings.faces / journal.DONE, [json.dumps(entry).encode()])
    except (OutputError, OSError):  # an older one is not true any more, and shows it
        return


def read_done(settings: Settings) -> Done | None:
    """What a run came to that needs nothing more; None where it may need something.

    Args:
        settings: of the run that would do the rest.
    """
    if settings.deleted == RESTORE or not os.path.lexists(settings.faces / journal.DONE):
        return None
    try:
        with open_input(settings.faces / journal.DONE, "what is done") as file:
            stored = json.load(file)
        if stored["done"] != VERSION or any(stored[key] != value for key, value in _state(settings).items()):
            return None
        return Done(*stored["made"])
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None


def _state(settings: Settings) -> dict[str, Any]:
    """All that must be as it was, as JSON holds it."""
    asked = {row.name: getattr(settings, row.name) for row in options("extract") if row.name not in NOT_ASKED}
    return {
        "asked": asked,
        "frames": _stamp(settings.frames),
        "alignments": _stamp(settings.alignments),
        "journal": _stamp(settings.faces / journal.NAME),
        "content": _content(settings.faces),
    }


def _stamp(path: Path) -> list[Any]:
    """Name, size and time of change; the size of a folder says nothing."""
    status = path.stat()
    return [path.name, 0 if path.is_dir() else status.st_size, status.st_mtime_ns]


def _content(folder: Path) -> list[int]:
    """How many files there are, hidden ones apart, and of how many bytes."""
    sizes = [
        Path(at, name).stat().st_size for at, _, names in os.walk(folder) for name in names if not name.startswith(".")
    ]
    return [len(sizes), sum(sizes)]
