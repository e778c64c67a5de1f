"""Where the alignments file of a video or of a folder of images lies, when nobody says: under its usual name.

`docs/formats.md#default-names` has the names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gpu_extract.naming import split_name

EXTENSIONS = (".fsa", ".json", ".p", ".pickle", ".yml", ".yaml")
"""Of alignments files, that of the newest programs first."""


def alignments_of(frames: Path, folder: Path | None = None) -> Path | None:
    """The alignments file of frames; None where there is none. Copies have a time in their name and are not taken.

    Args:
        folder: where to look instead of beside the frames.
    """
    return next((path for path in candidates(frames, folder) if _is_there(path)), None)


def candidates(frames: Path, folder: Path | None = None) -> Iterator[Path]:
    """The usual names, the best first; see `alignments_of`."""
    name = name_of(frames)
    if frames.is_dir():
        inside = frames if folder is None else folder / name
        yield from (inside / f"alignments{extension}" for extension in EXTENSIONS)
        stem = f"{name}_alignments"
    else:
        stem = f"{split_name(name)[0]}_alignments"
    beside = _parent_of(frames) if folder is None else folder
    yield from (beside / f"{stem}{extension}" for extension in EXTENSIONS)
    if not frames.is_dir() and "." in stem:
        # Programs of 2019 to 2022, and since 2026, took what follows a video's last dot for an extension.
        yield beside / f"{stem.rpartition('.')[0]}.fsa"


def looked_for(frames: Path) -> str:
    """What was looked for, in a phrase."""
    names = [path.name for path in candidates(frames)]
    others = ", ".join(extension for extension in EXTENSIONS[1:])
    return f"{names[0]} (or {others}) {'in' if frames.is_dir() else 'beside'} {name_of(frames)}"


def name_of(frames: Path) -> str:
    """The name of a file or folder, also of one that is called `.`."""
    return frames.name if frames.name not in ("", "..") else frames.resolve().name


def _parent_of(frames: Path) -> Path:
    return frames.parent if frames.name not in ("", "..") else frames.resolve().parent


def _is_there(path: Path) -> bool:
    """Whether there is anything but a folder of that name; reading it will say what is wrong with it."""
    return os.path.lexists(path) and not path.is_dir()
