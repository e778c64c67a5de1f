"""By what a journal knows its run: everything that decides which bytes it writes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_extract.options import Settings, options

if TYPE_CHECKING:  # a service reads journals and cuts nothing: it starts sooner without NumPy
    from gpu_extract.alignments import Alignments
    from gpu_extract.run.resolve import Resolved

Fingerprint = dict[str, Any]
"""Names and plain JSON values. Two runs may share a faces folder only if theirs agree."""

FRAMES = "frames"
FACES = "faces in the alignments file"


def fingerprint(settings: Settings, alignments: Alignments, resolved: Resolved, engine: str) -> Fingerprint:
    """The fingerprint of a run; `engine` is the kind that was picked."""
    chosen = {option.name: getattr(settings, option.name) for option in options() if option.decides_bytes}
    return chosen | {
        "centering": resolved.centering,
        "video_timing": resolved.numbering.timing,
        "rotate": resolved.numbering.rotate,
        "eye_angle": resolved.rounding.eye_angle,
        "numerics": resolved.rounding.numerics,
        "format": resolved.extension or "as the frames",
        "engine": engine,
        FRAMES: _identity(settings.frames),
        FACES: digest(alignments),
    }


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What changed between two runs, a phrase each.

    A journal that does not know an option was written before there was one: the run then did what the option's row
    says.
    """
    defaults = {option.name: option.before for option in options() if option.decides_bytes}
    return [
        f"{name} was {was!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if (was := before.get(name, defaults.get(name))) != now.get(name)
    ]


def as_settings(stored: Fingerprint, command: str = "verify") -> dict[str, Any]:
    """The arguments of `Settings` that a stored fingerprint tells, those that a command takes."""
    rows = [option for option in options(command) if option.decides_bytes]
    told = {option.name: stored.get(option.name, option.before) for option in rows}
    told["rotate"] = "on" if told["rotate"] else "off"
    told["format"] = told["format"].removeprefix(".") if told["format"].startswith(".") else "auto"
    return told


def digest(alignments: Alignments) -> str:
    """SHA-1 of what a file says about where faces are; hashes, masks and the rest do not count."""
    import numpy as np

    faces = alignments.faces
    state = hashlib.sha1("\0".join(alignments.frame_names).encode("utf-8", "surrogatepass"))
    for column in (faces.frame, faces.index, faces.rotation):
        state.update(np.ascontiguousarray(column).data)
    for group in faces.groups:
        state.update(np.ascontiguousarray(group.rows).data)
        state.update(np.ascontiguousarray(group.points).data)
    return state.hexdigest()


def _identity(frames: Path) -> str:
    """A source's name and, for a video, its size; a folder may gain files between two runs."""
    return f"{frames.name} ({frames.stat().st_size} bytes)" if frames.is_file() else frames.name
