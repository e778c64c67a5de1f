"""Whether the programs' own trainer takes the faces of a run: see `docs/formats.md#for-training`."""

from __future__ import annotations

from gpu_extract.alignments.generation import Traits
from gpu_extract.naming import FACE_EXTENSIONS
from gpu_extract.options import Settings
from gpu_extract.run.resolve import Resolved


def not_for_training(settings: Settings, resolved: Resolved, traits: Traits) -> str | None:
    """What keeps the trainer of a file's programs from taking the faces, as a sentence; None where nothing does."""
    faults = []
    if resolved.centering != traits.centering:
        faults.append(f"{resolved.centering}-centred")
    if traits.has_headers and settings.align_eyes:
        faults.append("turned until the eyes are level")
    if resolved.extension is not None and resolved.extension not in _taken(traits):
        faults.append(f"{resolved.extension} files{' without a header' if traits.has_headers else ''}")
    if not faults:
        return None
    files = "PNG files with a header" if traits.has_headers else "images"
    return (
        f"the programs' trainer does not take these faces, which are {', '.join(faults)}: it wants "
        f"{traits.centering}-centred {files}."
    )


def _taken(traits: Traits) -> tuple[str, ...]:
    return (".png",) if traits.has_headers else tuple(one for one in FACE_EXTENSIONS if one != ".webp")
