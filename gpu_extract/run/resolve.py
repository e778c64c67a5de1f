"""What "auto" stands for with a given alignments file and its frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.generation import Traits
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.geometry.rounding import EyeAngle, Numerics, Rounding
from gpu_extract.options import Settings, option

ANGLES = {"libm": "those of the C library that the programs of the time ran with", "rounded": "correctly rounded"}
SMALLEST_BOX_PX = 4  # of --min-size, as the file's own program has it


@dataclass(frozen=True)
class Numbering:
    """How the frames of a source are numbered, turned and converted; see `docs/formats.md#timing`."""

    timing: str
    """Of a video: "constant" or "decoded"."""
    rotate: bool
    """Whether a video's display rotation is applied."""
    pixels: str
    """How a video's frames become BGR: "piped" or "direct"; see `docs/formats.md#pixels`."""


@dataclass(frozen=True)
class Resolved:
    """Settings after "auto"."""

    centering: Centering
    numbering: Numbering
    rounding: Rounding
    extension: str | None
    """Of the face files; None takes each frame key's own."""
    notes: list[str] = field(default_factory=list)
    """Why, in sentences for the report."""


def resolve(settings: Settings, alignments: Alignments, begun: Mapping[str, Any] | None = None) -> Resolved:
    """What the settings mean with this file.

    Args:
        begun: the fingerprint of the run that goes on, if one does: its faces are rounded as they were.
    """
    traits = alignments.traits
    notes = []
    centering = settings.centering
    if centering == "auto":
        centering = traits.centering
        if centering != "legacy":
            notes.append(f"crops are head-centred, as version {alignments.version} has them (--centering changes it)")
    extension = None if settings.format == "auto" else f".{settings.format}"
    if extension is None and (settings.large or traits.has_headers):
        extension = ".png"
    numbering = resolve_numbering(
        alignments, settings.frames, video_timing=settings.video_timing, rotate=settings.rotate
    )
    rounding = resolve_rounding(traits, eye_angle=settings.eye_angle, numerics=settings.numerics, begun=begun)
    if rounding.numerics == "numpy2":
        notes.append(
            "crops are rounded as the programs do since December 2025, under NumPy 2: the fit takes a reciprocal in "
            "single precision (--numerics changes it)"
        )
    if settings.align_eyes:
        notes.append(f"angles of level eyes are {ANGLES[rounding.eye_angle]} (--eye-angle changes it)")
    return Resolved(cast(Centering, centering), numbering, rounding, extension, notes)


def resolve_rounding(
    traits: Traits, *, eye_angle: str = "auto", numerics: str = "auto", begun: Mapping[str, Any] | None = None
) -> Rounding:
    """How the crops of a file are rounded.

    Args:
        eye_angle, numerics: as `Settings` has them.
        begun: see `resolve`.
    """
    usual = {"eye_angle": "libm", "numerics": "numpy2" if traits.under_numpy_2 else "numpy1"}
    if begun is not None:
        usual = {name: begun.get(name, option(name).before) for name in usual}
    chosen = {
        name: asked if asked != "auto" else usual[name]
        for name, asked in (("eye_angle", eye_angle), ("numerics", numerics))
    }
    return Rounding(cast(Numerics, chosen["numerics"]), cast(EyeAngle, chosen["eye_angle"]))


def resolve_numbering(
    alignments: Alignments, frames: Path, *, video_timing: str = "auto", rotate: str = "auto"
) -> Numbering:
    """How the frames that a file was made from are numbered, turned and converted.

    Args:
        frames: the source's path; whether it is a video decides whether the file's keys tell anything.
        video_timing, rotate: as `Settings` has them.
    """
    counts_decoded = alignments.traits.counts_decoded_frames and not _has_old_keys(alignments, frames)
    timing = video_timing if video_timing != "auto" else ("decoded" if counts_decoded else "constant")
    # Whoever asks for the old numbering of a file that looks new says that it is an old one.
    pixels = "piped" if timing == "constant" or not counts_decoded else "direct"
    return Numbering(timing, rotate == "on" or (rotate == "auto" and not counts_decoded), pixels)


def _has_old_keys(alignments: Alignments, frames: Path) -> bool:
    """Whether a video's frames have the keys of before version 2.4, which end in .png."""
    if not frames.is_file() or not alignments.frame_names:
        return False
    return all(name.lower().endswith(".png") for name in alignments.frame_names)


def min_box_px(settings: Settings) -> float:
    """Source box, in frame pixels, below which a face is left out."""
    if settings.large:
        return float(settings.size)
    if not settings.min_size:
        return 0.0
    return float(max(SMALLEST_BOX_PX, int(settings.size * settings.min_size / 100)))
