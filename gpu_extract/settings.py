"""What a run was asked for: every option with its default, checked, and what "auto" stands for with a given file."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.errors import UsageError
from gpu_extract.faces.layout import layouts
from gpu_extract.faces.metadata import check_kind
from gpu_extract.geometry.mean_faces import CENTERINGS, Centering
from gpu_extract.run.progress import check_style

SIZES = range(16, 4097)
FORMATS = ("auto", "png", "jpg", "webp")
TIMINGS = ("auto", "constant", "decoded")
ROTATIONS = ("auto", "on", "off")
ON_ERROR = ("skip", "stop")
SMALLEST_BOX_PX = 4  # of --min-size, as the file's own program has it
NOT_IN_FINGERPRINT = (
    *("alignments", "frames", "faces", "json", "no_update", "progress", "workers", "resume", "dry_run"),
    *("on_error", "max_errors", "batch_mb", "pinned_mb", "engine", "device"),
)


@dataclass(frozen=True)
class Settings:
    """The options of `extract`, with the names and defaults that its docstring explains."""

    alignments: Path
    frames: Path
    faces: Path
    size: int = 256
    extract_every_n: int = 1
    align_eyes: bool = False
    large: bool = False
    min_size: int = 0
    centering: str = "auto"
    video_timing: str = "auto"
    rotate: str = "auto"
    antialias: bool = False
    format: str = "auto"
    quality: int | None = None
    output_layout: str = "flat"
    metadata: str | None = None
    refresh_thumbs: bool = False
    engine: str = "auto"
    device: str = "auto"
    batch_mb: int = 64
    pinned_mb: int = 512
    workers: int | None = None
    json: str | os.PathLike[str] | None = None
    no_update: bool = False
    resume: bool = False
    dry_run: bool = False
    on_error: str = "skip"
    max_errors: int | None = None
    progress: str = "auto"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise UsageError(f"size must be {SIZES.start} to {SIZES.stop - 1} pixels, got {self.size}.")
        for name, least, most in [
            ("extract_every_n", 1, None),
            ("workers", 1, None),
            ("max_errors", 1, None),
            ("min_size", 0, 1000),
            ("quality", 1, 100),
            ("batch_mb", 1, None),
            ("pinned_mb", 1, None),
        ]:
            _check_range(name, getattr(self, name), least, most)
        for name, allowed in [
            ("centering", ("auto", *CENTERINGS)),
            ("video_timing", TIMINGS),
            ("rotate", ROTATIONS),
            ("format", FORMATS),
            ("output_layout", tuple(layouts())),
            ("on_error", ON_ERROR),
        ]:
            _check_word(name, getattr(self, name), allowed)
        if self.metadata is not None:
            check_kind(self.metadata)
        if self.json is not None and self.json != "-":
            for name, path in (("alignments", self.alignments), ("frames", self.frames)):
                if os.path.realpath(self.json) == os.path.realpath(path):
                    raise UsageError(f"the report would replace the {name} {path}; give json another name.")
        if self.quality is not None and self.format == "png":
            raise UsageError("quality is for jpg and webp; png is lossless.")
        if self.refresh_thumbs and self.no_update:
            raise UsageError("refresh-thumbs changes the alignments file; it cannot go with no-update.")
        if self.large and self.min_size not in (0, 100):
            raise UsageError(f"large means min-size 100; it cannot go with min-size {self.min_size}.")
        check_style(self.progress)

    @property
    def min_box_px(self) -> float:
        """Source box, in frame pixels, below which a face is left out."""
        if self.large:
            return float(self.size)
        return float(max(SMALLEST_BOX_PX, int(self.size * self.min_size / 100))) if self.min_size else 0.0

    def resolve(self, alignments: Alignments) -> Resolved:
        """What "auto" stands for with this file, and why, in sentences for the report."""
        notes = []
        modern = alignments.version >= 2
        centering = self.centering
        if centering == "auto":
            centering = "head" if modern else "legacy"
            if modern:
                notes.append(
                    f"crops are head-centred, as version {alignments.version} has them (--centering changes it)"
                )
        # From March 2026 on files hold lists only and number every decoded frame; before, a constant-rate stream. Their
        # keys end in the video's extension, which those of files that were only rewritten since then do not.
        recent = modern and alignments.lists_only and not self._has_old_keys(alignments)
        timing = self.video_timing if self.video_timing != "auto" else ("decoded" if recent else "constant")
        rotate = self.rotate == "on" or (self.rotate == "auto" and not recent)
        extension = None if self.format == "auto" else f".{self.format}"
        if extension is None and (self.large or alignments.version >= 2.1):
            extension = ".png"
        return Resolved(cast(Centering, centering), timing, rotate, extension, notes)

    def _has_old_keys(self, alignments: Alignments) -> bool:
        """Whether a video's frames have the keys of before version 2.4, which end in .png."""
        if not self.frames.is_file() or not alignments.frame_names:
            return False
        return all(name.lower().endswith(".png") for name in alignments.frame_names)

    def fingerprint(self, alignments: Alignments, resolved: Resolved, engine: str) -> dict[str, Any]:
        """Everything that decides which bytes a run writes; two runs may share a folder only if these agree."""
        chosen = {name: value for name, value in asdict(self).items() if name not in NOT_IN_FINGERPRINT}
        chosen |= {
            "centering": resolved.centering,
            "video_timing": resolved.timing,
            "rotate": resolved.rotate,
            "format": resolved.extension or "as the frames",
            "engine": engine,
            "frames": _identity(self.frames),
            "faces in the alignments file": digest(alignments),
        }
        return chosen


@dataclass(frozen=True)
class Resolved:
    """Settings after "auto"."""

    centering: Centering
    timing: str
    rotate: bool
    extension: str | None
    """Of the face files; None takes each frame key's own."""
    notes: list[str]


def digest(alignments: Alignments) -> str:
    """SHA-1 of what a file says about where faces are; hashes, masks and the rest do not count."""
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


def _check_range(name: str, value: int | None, least: int, most: int | None) -> None:
    if value is not None and (value < least or (most is not None and value > most)):
        allowed = f"{least} to {most}" if most is not None else f"{least} or more"
        raise UsageError(f"{name.replace('_', '-')} must be {allowed}, got {value}.")


def _check_word(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name.replace('_', '-')} {value!r} is not understood; {', '.join(allowed)} are.")
