"""`masks`: the masks of an alignments file as grey images: in each face's crop, in the frame, or as they are stored.

A stored mask brings its matrix M, frame pixels to mask pixels. In a crop, whose matrix is C (frame pixels to crop
pixels), pixel (x, y) is the mask at `M · C⁻¹ · (x, y, 1)`; in the frame it is the mask at `M · (x, y, 1)`. C⁻¹ is
`kernels.tables.invert`, and the product is, in float64 and in this order,

    i[r, c] = M[r, 0] * C⁻¹[0, c] + M[r, 1] * C⁻¹[1, c]        and for c = 2, + M[r, 2]

What lies between the mask's pixels is the exact sampling of `kernels/README.md` with that i, and 0 outside of the mask:
in a crop cubic where the mask is enlarged and linear where it shrinks, as for faces; in the frame by the filter that
the record names, as the programs bring it there. Stored masks are raw: nothing is blurred or cut off at a level.

`components` is also drawn, for faces that store none: the hulls of `geometry.hulls`, of the landmarks in the crop or
frame, without soft edges. What else programs made of landmarks, `extended` above all, comes from what is stored only.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import load_any
from gpu_extract.alignments.masks import Mask, described, mask_of, stored_masks
from gpu_extract.errors import EXIT_PARTIAL, AlignmentsError, InputError, OutputError, UsageError
from gpu_extract.face_files.mask_file import EXTENSION, encoded, is_mask
from gpu_extract.face_files.writer import NAME_ERRORS
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.geometry import crops, hulls
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.kernels import channel, tables
from gpu_extract.naming import of_this_machine, stem_of
from gpu_extract.options import check_report_place, option
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.masks import MasksReport
from gpu_extract.run.keys import Matched
from gpu_extract.run.keys import match_keys as match
from gpu_extract.run.plan import NO_CROP, Fits, PlanOptions, core_only, fit_all, upright_landmarks, with_poses
from gpu_extract.run.pool import Pool
from gpu_extract.run.resolve import resolve_numbering, resolve_rounding
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.outputs import check_output
from gpu_extract.storage.parts import check_name, check_part, write_file

ALL = "all"
DRAWN = "components"
CROP, FRAME, STORED = "crop", "frame", "stored"
WITHIN = (CROP, FRAME, STORED)
WHAT = "the mask"
TURNED = "it was found in a turned frame, whose size is needed; name the frames with -fr"
ENTRIES_AT_ONCE = 256
TOUCHED_PX = 3
"""Pixels around a mask, at most, whose samples reach into it."""


def masks(
    alignments: str | os.PathLike[str],
    faces: str | os.PathLike[str],
    *,
    kind: str,
    within: str = CROP,
    frames: str | os.PathLike[str] | None = None,
    size: int = 256,
    align_eyes: bool = False,
    eye_angle: str = "auto",
    numerics: str = "auto",
    centering: str = "auto",
    video_timing: str = "auto",
    match_keys: str = "exact",
    rotate: str = "auto",
    json: str | os.PathLike[str] | None = None,
) -> MasksReport:
    """Write masks as 8-bit grey PNG images.

    Args:
        alignments: alignments file of any generation.
        faces: folder for the images. A mask has the name that `extract` gives its face, with `.png`; one of a frame
            the frame's. Files there are replaced if they are masks of this command.
        kind: name of the masks, or "all" for all that are stored, each in a folder of its name.
        within: "crop" for the crops of `extract`, which the options decide as there; "frame" for whole frames, in which
            the masks of all faces are joined by their maximum; "stored" for masks as they are, in their own size.
        frames: the video or folder that the file was made from; "frame" needs its size, and so do faces of 2018 that
            were found in turned frames. No frame is decoded.
        size, align_eyes, eye_angle, numerics, centering: see `gpu_extract.extract`.
        video_timing, match_keys, rotate: see `gpu_extract.extract`; of use with `frames` only.
        json: where to write the report; "-" is standard output.

    Returns:
        The report; `exit_code` is 0, or 4 if masks could not be made. A face that has no mask of the kind is named,
        but no fault.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`. InputError if no face has such a mask.
    """
    began = time.perf_counter()
    wish = _Wish(kind, within, size, align_eyes, eye_angle, numerics, centering, video_timing, match_keys, rotate)
    wish.check(frames)
    file, folder = of_this_machine(alignments, "masks"), of_this_machine(faces, "masks")
    source_path = None if frames is None else of_this_machine(frames, "masks")
    if json is not None:
        check_report_place(json, {"alignments": file} | ({} if source_path is None else {"frames": source_path}))
        check_target(MasksReport, json)
    loaded = load_any(file, read_only=True)
    with ExitStack() as stack:
        source = None if source_path is None else stack.enter_context(_opened(loaded, source_path, wish))
        job = _Masks(loaded, source, folder, wish)
        job.run()
    job.report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(job.report, json)
    return job.report


def list_masks(alignments: str | os.PathLike[str], *, json: str | os.PathLike[str] | None = None) -> MasksReport:
    """Which masks an alignments file stores, and how many faces have each. Writes nothing but the report.

    Raises:
        GpuExtractError: one of its kinds, see `gpu_extract.errors`.
    """
    began = time.perf_counter()
    file = of_this_machine(alignments, "masks")
    if json is not None:
        check_report_place(json, {"alignments": file})
        check_target(MasksReport, json)
    report = _listed(load_any(file, read_only=True))
    report.seconds = round(time.perf_counter() - began, 3)
    if json is not None:
        write_report(report, json)
    return report


def _listed(alignments: Alignments) -> MasksReport:
    """A report that says what there is."""
    faces = alignments.faces
    report = MasksReport(os.fspath(alignments.path), len(alignments.frame_names), len(faces))
    report.notes += alignments.notes
    counts: dict[str, int] = {}
    sizes: dict[str, set[int]] = {}
    centerings: dict[str, set[str]] = {}
    usual = "legacy" if alignments.traits.before_2 else "face"
    for row in range(len(faces)):
        stored = stored_masks(alignments.shallow_record(row))
        report.faces_without += not stored
        for name, record in stored.items():
            side, centering = described(record)
            counts[name] = counts.get(name, 0) + 1
            sizes.setdefault(name, set()).update(() if side is None else (side,))
            centerings.setdefault(name, set()).add(centering or usual)
    report.kinds = [
        {"kind": name, "faces": counts[name], "sizes": sorted(sizes[name]), "centerings": sorted(centerings[name])}
        for name in sorted(counts)
    ]
    report.faces_drawable = sum(len(group.rows) for group in faces.groups if hulls.can_draw(group.points.shape[1]))
    return report


@dataclass(frozen=True)
class _Wish:
    kind: str
    within: str
    size: int
    align_eyes: bool
    eye_angle: str
    numerics: str
    centering: str
    video_timing: str
    match_keys: str
    rotate: str

    def check(self, frames: object) -> None:
        """Refuse what is not understood, or does not go together; raises UsageError."""
        for name, value in asdict(self).items():
            if name not in ("kind", "within") and (fault := option(name).fault(value)):
                raise UsageError(fault)
        if not self.kind or not isinstance(self.kind, str):
            raise UsageError(f"kind must be the name of masks, or {ALL}, got {self.kind!r}.")
        if self.within not in WITHIN:
            raise UsageError(f"within {self.within!r} is not understood; {', '.join(WITHIN)} are.")
        if self.within == FRAME and frames is None:
            raise UsageError("a mask in the frame needs the frame's size; name the frames with -fr.")
        if frames is None and self.match_keys != option("match_keys").default:
            raise UsageError("match-keys compares keys with the names of frames; name the frames too.")


def _opened(alignments: Alignments, frames: Path, wish: _Wish) -> FrameSource:
    numbering = resolve_numbering(alignments, frames, video_timing=wish.video_timing, rotate=wish.rotate)
    return open_frames(frames, timing=numbering.timing, rotate=numbering.rotate)


@dataclass
class _Made:
    """What came of the masks of one frame."""

    images: int = 0
    black: int = 0
    drawn: int = 0
    lacking: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)


class _NoMaskError(Exception):
    """The face has none of the kind."""


class _Masks:
    """One call, from the file to the images."""

    def __init__(self, alignments: Alignments, source: FrameSource | None, folder: Path, wish: _Wish) -> None:
        self._alignments, self._source, self._folder, self._wish = alignments, source, folder, wish
        self.report = _listed(alignments)
        self.report.masks_folder, self.report.within = os.fspath(folder), wish.within
        self._faces = alignments.faces
        self._names = alignments.frame_names
        self._starts = np.searchsorted(self._faces.frame, np.arange(len(self._names) + 1))
        self._points: dict[int, np.ndarray] = {}
        self._fits: Fits = []
        self._sizes: dict[int, tuple[int, int]] = {}
        self._missing: dict[int, str] = {}
        self._core_only: set[int] = set()

    def run(self) -> None:
        self._choose()
        self._match()
        self._lay_out()
        self._prepare()
        with Pool() as pool:
            for start in range(0, len(self._names), ENTRIES_AT_ONCE):
                some = range(start, min(start + ENTRIES_AT_ONCE, len(self._names)))
                for made in pool.map(self._make, some):
                    self._tell(made)
        try:
            sync_file_system(self._folder)
        except OSError as error:
            raise OutputError(f"the masks in {self._folder} cannot be saved: {error.strerror}.") from error
        if self.report.errors:
            self.report.exit_code = EXIT_PARTIAL

    def _tell(self, made: _Made) -> None:
        report = self.report
        report.images_written += made.images
        report.images_black += made.black
        report.masks_drawn += made.drawn
        report.lacking += made.lacking
        report.errors += made.errors

    # ---- what is to be made

    def _choose(self) -> None:
        """Which kinds, and in which folders."""
        wish, name = self._wish, self._alignments.path.name
        stored = {one["kind"]: one["faces"] for one in self.report.kinds}
        drawable = self.report.faces_drawable and wish.within != STORED
        if wish.kind == ALL and not stored:
            hint = f"; --kind {DRAWN} draws masks from landmarks" if drawable else ""
            raise InputError(f"no face of {name} stores a mask{hint}.")
        if wish.kind != ALL and wish.kind not in stored and not (wish.kind == DRAWN and drawable):
            there = ", ".join(f"{kind} ({count:,})" for kind, count in stored.items())
            raise InputError(
                f"no face of {name} stores a mask {wish.kind!r}; " + (f"it has {there}." if there else "it has none.")
            )
        self._folders = {wish.kind: self._folder}
        if wish.kind == ALL:
            for kind in stored:
                try:
                    check_part(kind)
                except OSError:
                    raise InputError(
                        f"masks {kind!r} of {name} cannot have a folder of that name; take them alone, with --kind."
                    ) from None
            self._folders = {kind: self._folder / kind for kind in stored}

    def _match(self) -> None:
        """Find the frames, where they were named, and what sizes of them are needed."""
        wish, source = self._wish, self._source
        turned = set(self._faces.frame[self._faces.rotation != 0].tolist())
        if source is None:
            return
        matched = match(self._names, source, wish.match_keys)
        self.report.notes += [*source.notes, *matched.notes]
        if len(self._names) and not (matched.position >= 0).any():
            raise InputError(
                f"no entry of {self._alignments.path.name} names a frame of {source.path}; check that the two belong "
                "together."
            )
        self._names = matched.names
        needed = range(len(self._names)) if wish.within == FRAME else sorted(turned)
        for entry in needed:
            self._look_at(entry, source, matched)

    def _look_at(self, entry: int, source: FrameSource, matched: Matched) -> None:
        """Learn the size of an entry's frame, or why it has none."""
        position = int(matched.position[entry])
        if position < 0:
            self._missing[entry] = matched.reason(entry)
            return
        try:
            self._sizes[entry] = source.size_of(position)
        except InputError as error:
            self._missing[entry] = str(error)

    def _lay_out(self) -> None:
        """Which image has which name; refuse before the work what would replace anything but a mask."""
        self._owner: dict[str, int] = {}
        for entry in range(len(self._names)):
            for name in self._image_names(entry):
                self._owner.setdefault(name, entry)
        for folder in self._folders.values():
            self._make_folder(folder)
            with os.scandir(folder) as found:
                there = self._owner.keys() & {one.name for one in found}
            for name in sorted(there):
                check_output(folder / name, WHAT, is_mask, [self._alignments.path])

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise OutputError(f"masks cannot be written to {folder}: {error.strerror}.") from error

    def _rows(self, entry: int) -> range:
        return range(int(self._starts[entry]), int(self._starts[entry + 1]))

    def _image_names(self, entry: int) -> list[str]:
        """File names of an entry's images: of its frame, or of each of its faces."""
        stem = stem_of(self._names[entry])
        if self._wish.within == FRAME:
            return [f"{stem}{EXTENSION}"]
        return [f"{stem}_{index}{EXTENSION}" for index in range(len(self._rows(entry)))]

    def _prepare(self) -> None:
        """Fit the crops, or look up the landmarks to draw."""
        wish, alignments = self._wish, self._alignments
        traits = alignments.traits
        if wish.within == CROP:
            self.report.size = wish.size
            centering = cast(Centering, traits.centering if wish.centering == "auto" else wish.centering)
            rounding = resolve_rounding(traits, eye_angle=wish.eye_angle, numerics=wish.numerics)
            options = PlanOptions(size=wish.size, align_eyes=wish.align_eyes, rounding=rounding, centering=centering)
            self._fits = fit_all(alignments, options, self._sizes)
            if wish.centering in ("face", "head"):
                for group in self._faces.groups:
                    self._core_only.update(group.rows.tolist() if group.points.shape[1] == 51 else ())
        if DRAWN in self._folders:
            for group in self._faces.groups:
                if hulls.can_draw(group.points.shape[1]):
                    self._points.update(zip(group.rows.tolist(), group.points, strict=True))

    # ---- one frame

    def _make(self, entry: int) -> _Made:
        """Write all images of an entry of the file."""
        made = _Made()
        rows = self._rows(entry)
        records = [stored_masks(self._alignments.shallow_record(row)) for row in rows]
        if self._wish.within == FRAME:
            self._make_frames(entry, rows, records, made)
            return made
        matrices = with_poses(self._fits, np.array(rows, np.int64)) if self._wish.within == CROP else [None] * len(rows)
        for kind, folder in self._folders.items():
            for index, (row, masks_of_face, matrix) in enumerate(zip(rows, records, matrices, strict=True)):
                try:
                    if matrix is None:
                        pixels = _stored(masks_of_face, kind).pixels
                    else:
                        pixels = self._in_crop(row, kind, masks_of_face, matrix, made)
                except _NoMaskError:
                    made.lacking.append({"frame": self._names[entry], "index": index, "kind": kind})
                except AlignmentsError as error:
                    made.errors.append(self._error(entry, index, kind, str(error)))
                else:
                    self._write(entry, index, kind, folder, pixels, made)
        return made

    def _in_crop(
        self, row: int, kind: str, records: Mapping[str, Any], crop_from_frame: np.ndarray, made: _Made
    ) -> np.ndarray:
        """A face's mask in its crop, [S, S] uint8; raises AlignmentsError if it has no such crop."""
        mask = self._mask(row, kind, records)
        size = self._wish.size
        frame_from_crop = self._usable(row, crop_from_frame)
        if mask is None:
            made.drawn += 1
            return hulls.drawn(_moved(crop_from_frame, self._upright(row)), (0, 0, size, size))
        mask_from_crop = _product(mask.mask_from_frame, frame_from_crop)
        cubic = bool(crops.is_cubic(tables.invert(mask_from_crop[None]))[0])
        return channel.warp(mask.pixels, mask_from_crop, cubic, (0, 0, size, size))

    def _make_frames(self, entry: int, rows: range, records: Sequence[Mapping[str, Any]], made: _Made) -> None:
        """The images of an entry's whole frame."""
        if entry in self._missing:
            made.errors += [self._error(entry, None, kind, self._missing[entry]) for kind in self._folders]
            return
        height, width = self._sizes[entry]
        for kind, folder in self._folders.items():
            pixels = np.zeros((height, width), np.uint8)
            found = 0
            for index, (row, masks_of_face) in enumerate(zip(rows, records, strict=True)):
                try:
                    self._join(pixels, row, kind, masks_of_face, made)
                    found += 1
                except _NoMaskError:
                    made.lacking.append({"frame": self._names[entry], "index": index, "kind": kind})
                except AlignmentsError as error:
                    made.errors.append(self._error(entry, index, kind, str(error)))
            made.black += not found
            self._write(entry, None, kind, folder, pixels, made)

    def _join(self, frame: np.ndarray, row: int, kind: str, records: Mapping[str, Any], made: _Made) -> None:
        """Bring a face's mask into its frame [H, W] uint8, which keeps what is brighter."""
        mask = self._mask(row, kind, records)
        if mask is None:
            points = self._upright(row).astype(np.float64)
            region = _clipped(points, frame.shape)
            part = hulls.drawn(points, region)
            made.drawn += 1
        else:
            region = _clipped(_corners(mask), frame.shape)
            part = channel.warp(mask.pixels, mask.mask_from_frame, mask.cubic, region)
        x0, y0, x1, y1 = region
        np.maximum(frame[y0:y1, x0:x1], part, out=frame[y0:y1, x0:x1])

    def _mask(self, row: int, kind: str, records: Mapping[str, Any]) -> Mask | None:
        """A face's stored mask; None where one is to be drawn. Raises _NoMaskError if it has none."""
        if kind not in records and row in self._points and kind == DRAWN:
            return None
        return _stored(records, kind)

    def _usable(self, row: int, crop_from_frame: np.ndarray) -> np.ndarray:
        """The inverse of a crop's matrix; raises AlignmentsError where the face has no such crop."""
        reason = self._faces.invalid.get(row)
        if reason is None and self._faces.rotation[row] and int(self._faces.frame[row]) not in self._sizes:
            reason = self._missing.get(int(self._faces.frame[row]), TURNED)
        if reason is None and row in self._core_only:
            reason = core_only(cast(Centering, self._wish.centering))
        inverse: np.ndarray = tables.invert(crop_from_frame[None])[0]
        if reason is None and not (np.isfinite(inverse).all() and inverse.any()):
            reason = NO_CROP
        if reason is not None:
            raise AlignmentsError(reason)
        return inverse

    def _upright(self, row: int) -> np.ndarray:
        """Landmarks [n, 2] in the frame as it is; raises AlignmentsError where its size is needed and not known."""
        entry = int(self._faces.frame[row])
        if self._faces.rotation[row] and entry not in self._sizes:
            raise AlignmentsError(self._missing.get(entry, TURNED))
        return upright_landmarks(self._alignments, row, self._points[row], self._sizes)

    def _error(self, entry: int, index: int | None, kind: str, reason: str) -> dict[str, Any]:
        return {"frame": self._names[entry], "index": index, "kind": kind, "reason": reason}

    def _write(self, entry: int, index: int | None, kind: str, folder: Path, pixels: np.ndarray, made: _Made) -> None:
        name = self._image_names(entry)[index or 0]
        if (owner := self._owner[name]) != entry:
            reason = f"its file {name!r} would replace that of {self._names[owner]!r}; rename one frame"
            made.errors.append(self._error(entry, index, kind, reason))
            return
        try:
            check_name(name)
            write_file(folder, name, encoded(pixels))
        except OSError as error:
            if error.errno not in NAME_ERRORS:
                raise OutputError(f"the mask {name!r} cannot be written to {folder}: {error.strerror}.") from error
            reason = f"its file name {name!r} is refused: {error.strerror}"
            made.errors.append(self._error(entry, index, kind, reason))
        else:
            made.images += 1


def _stored(records: Mapping[str, Any], kind: str) -> Mask:
    """One of a face's stored masks; raises _NoMaskError, or AlignmentsError where it is damaged."""
    if kind not in records:
        raise _NoMaskError
    return mask_of(records[kind])


def _product(mask_from_frame: np.ndarray, frame_from_crop: np.ndarray) -> np.ndarray:
    """mask_from_crop [2, 3]; the order of the operations is part of the result."""
    m, c = mask_from_frame, frame_from_crop
    with np.errstate(all="ignore"):
        found: np.ndarray = m[:, 0:1] * c[0] + m[:, 1:2] * c[1]
        found[:, 2] += m[:, 2]
    return found


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [n, 2] as a matrix [2, 3] maps them, float64."""
    x, y = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    return np.stack([m[0] * x + m[1] * y + m[2] for m in matrix], axis=1)


def _corners(mask: Mask) -> np.ndarray:
    """Frame pixels [4, 2] around all whose samples reach into a mask."""
    low, high = -TOUCHED_PX, len(mask.pixels) - 1 + TOUCHED_PX
    corners = np.array([(low, low), (high, low), (high, high), (low, high)], np.float64)
    return _moved(tables.invert(mask.mask_from_frame[None])[0], corners)


def _clipped(points: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Pixels of a frame (height, width) around points [n, 2]: x0, y0, x1, y1, half-open, perhaps empty."""
    last = np.array(shape[::-1])
    low = np.clip(np.floor(points.min(axis=0)), 0, last).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, low, last).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])
