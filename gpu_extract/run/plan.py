"""What to cut: which faces of which frames, with which matrix and filter, under which file name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.rotation import legacy_rotation
from gpu_extract.errors import InputError
from gpu_extract.frames import FrameSource
from gpu_extract.geometry import crops
from gpu_extract.geometry.crops import CropGeometry, Fit
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.geometry.rounding import USUAL, Rounding
from gpu_extract.kernels import antialias, tables
from gpu_extract.naming import face_extension, stem_of
from gpu_extract.run.keys import Matched, match_keys
from gpu_extract.tasks import Failure, FrameTask

Fits = list[tuple[np.ndarray, Fit]]
"""Groups of a file's faces: their rows, ascending, and their fits."""


@dataclass(frozen=True)
class PlanOptions:
    """What a user may choose about the faces themselves. Defaults are the command line's."""

    size: int = 256
    extract_every_n: int = 1
    align_eyes: bool = False
    rounding: Rounding = USUAL
    min_box_px: float = 0.0
    """Only faces whose source box is at least this many frame pixels wide."""
    centering: Centering = "legacy"
    centering_asked: bool = False
    """Whether the user named the centering; if not, sets of 51 points, which have legacy only, take that."""
    extension: str | None = None
    """Of the face files; None takes each frame key's own."""
    antialias: bool = False
    match_keys: str = "exact"
    """What may differ between a key and its frame's name, see `run.keys`."""
    fit_ahead: bool = True
    """Whether faces are fitted before the first frame is read, or with those about them when their frame is. Where
    boxes are measured they always are."""


@dataclass
class Plan:
    """The faces of a run, ordered by frame position and face index."""

    size: int
    frame_names: list[str]
    positions: np.ndarray  # [N] int64 ascending, frames of the source to be read
    rows: np.ndarray  # [K] int64
    starts: np.ndarray  # [N + 1] int64, faces of frame i are starts[i] .. starts[i + 1]
    index: np.ndarray  # [K] int32
    frame_of: np.ndarray  # [N] int32, entry of the alignments file
    geometry: CropGeometry  # K rows; NaN, or its translation is, where `task` has yet to fit or to find the pose
    region: np.ndarray  # [K, 4] int64; everywhere, where the translation is NaN
    extension: str | None
    antialias: bool = False
    fits: Fits = field(default_factory=list)
    """The groups of which crops are NaN as yet."""
    faces_filtered: int = 0
    failures: list[Failure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Keys of the alignments file that hold faces but have no frame in the source, and why."""
    faces_missing: int = 0
    """Faces of those keys."""
    position_of: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """[entries of the file] int64, of each one's frame; -1 where it has none."""
    notes: list[str] = field(default_factory=list)
    """How keys and frames were matched, if not exactly, and other sentences for a report."""
    frame_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    """(height, width) by entry of the file, of frames that hold faces found in a turned frame."""

    @property
    def frame_count(self) -> int:
        return len(self.positions)

    @property
    def face_count(self) -> int:
        return len(self.rows)

    def task(self, i: int) -> FrameTask:
        """The i-th frame's faces. Completes their crops, so that each is found by whoever needs it."""
        faces = slice(self.starts[i], self.starts[i + 1])
        name = self.frame_names[self.frame_of[i]]
        lost = self._complete(faces) if self.fits else []
        failed = {k: Failure(name, int(self.index[faces][k]), NO_CROP) for k in lost}
        return FrameTask(
            int(self.positions[i]),
            name,
            self.rows[faces],
            self.index[faces],
            self.geometry.crop_from_frame[faces],
            self.geometry.cubic[faces],
            self.region[faces],
            self.extension or face_extension(name),
            failed,
        )

    def _complete(self, faces: slice) -> list[int]:
        """Find the crops of some faces; returns which of them have none. Threads may do so for others meanwhile."""
        crop_from_frame, cubic = self.geometry.crop_from_frame[faces], self.geometry.cubic[faces]
        pending = np.flatnonzero(np.isnan(crop_from_frame[:, 0, 2]))
        if not len(pending):
            return []
        crop_from_frame[pending] = found = with_poses(self.fits, self.rows[faces][pending])
        cubic[pending] = crops.is_cubic(found)
        self.region[faces] = _source_region(crop_from_frame, cubic, self.size, self.antialias)
        lost: list[int] = pending[np.isnan(found[:, 0, 2])].tolist()
        return lost

    def tasks(self) -> Iterator[FrameTask]:
        return (self.task(i) for i in range(self.frame_count))


NO_CROP = "its landmarks do not define a crop (all in one place)"


def core_only(centering: Centering) -> str:
    """Why a set of 51 points has no crop of another centering than legacy."""
    return f"it has the 51 core landmarks only, which allow --centering legacy, not {centering}"


def crop_all(alignments: Alignments, options: PlanOptions, sizes: dict[int, tuple[int, int]]) -> CropGeometry:
    """Geometry of every face of a file, F rows; faces that cannot be cut are not usable.

    Translations that need a pose are NaN; `with_poses` has them.

    Args:
        sizes: (height, width) of the frames, by entry of the file, that hold faces found in a rotated frame.
    """
    return _stacked(alignments, fit_all(alignments, options, sizes), ahead=True)


def fit_all(alignments: Alignments, options: PlanOptions, sizes: dict[int, tuple[int, int]]) -> Fits:
    """All faces of a file that have landmarks; the arguments are those of `crop_all`."""
    faces = alignments.faces
    seed = alignments.traits.before_2
    fits = []
    for group in faces.groups:
        points = group.points
        turned = np.flatnonzero(faces.rotation[group.rows])
        if len(turned):
            points = points.copy()
            for k in turned:
                points[k] = upright_landmarks(alignments, int(group.rows[k]), points[k], sizes)
        n = points.shape[1]
        centering = "legacy" if n == 51 else options.centering
        fitted = crops.Fit(
            points, options.size, centering, seed=seed, align_eyes=options.align_eyes, rounding=options.rounding
        )
        fits.append((group.rows, fitted))
    return fits


def _stacked(alignments: Alignments, fits: Fits, *, ahead: bool) -> CropGeometry:
    parts = [(rows, fit.geometry_before_pose() if ahead else fit.geometry_before_fit()) for rows, fit in fits]
    return crops.stack(parts, len(alignments.faces))


def with_poses(fits: Fits, rows: np.ndarray) -> np.ndarray:
    """Complete matrices [k, 2, 3] float64 of faces of a file by their rows [k]; NaN where no pose is found."""
    crop_from_frame = np.full((len(rows), 2, 3), np.nan)
    for of_fit, fit in fits:
        place = np.searchsorted(of_fit, rows)
        mine = np.flatnonzero(of_fit.take(place, mode="clip") == rows)
        if len(mine):
            crop_from_frame[mine] = fit.crop_from_frame(place[mine])
    return crop_from_frame


def upright_landmarks(
    alignments: Alignments, row: int, points: np.ndarray, sizes: dict[int, tuple[int, int]]
) -> np.ndarray:
    """A face's landmarks [n, 2] in its frame as it is, also where it was found in a turned one (generation g0)."""
    faces = alignments.faces
    size = sizes.get(int(faces.frame[row]))
    if not faces.rotation[row] or size is None:
        return points
    return legacy_rotation(points, faces.box[row], int(faces.rotation[row]), *size)[0]


def make_plan(alignments: Alignments, source: FrameSource, options: PlanOptions) -> Plan:
    """Match faces with frames, filter, and work out every crop.

    Raises:
        InputError: if no face has a frame in the source, or the source cannot tell the size of a frame that a rotated
            face needs.
    """
    faces = alignments.faces
    matched = match_keys(alignments.frame_names, source, options.match_keys)
    names, position = matched.names, matched.position
    if len(faces.frame) and not (position[faces.frame] >= 0).any():
        raise InputError(_nothing_matches(alignments, source, matched))
    selected = (position >= 0) & (position % options.extract_every_n == 0)
    face_counts = np.bincount(faces.frame, minlength=len(names))

    failures = _drop_same_frame(names, position, face_counts, selected)
    wanted_face = selected[faces.frame]
    turned = sorted(set(faces.frame[wanted_face & (faces.rotation != 0)].tolist()))
    sizes = {i: source.size_of(int(position[i])) for i in turned}
    fits = fit_all(alignments, options, sizes)
    ahead = options.fit_ahead or options.min_box_px > 0
    cut = _stacked(alignments, fits, ahead=ahead)

    failures += [
        Failure(names[faces.frame[row]], int(faces.index[row]), reason)
        for row, reason in faces.invalid.items()
        if wanted_face[row]
    ]
    poseless = np.zeros(len(faces.frame), bool)
    if options.centering_asked and options.centering != "legacy":
        for group in faces.groups:
            if group.points.shape[1] == 51:
                poseless[group.rows] = wanted_face[group.rows]
    cut.usable[poseless] = False
    failures += [
        Failure(
            names[faces.frame[row]],
            int(faces.index[row]),
            core_only(options.centering),
        )
        for row in np.flatnonzero(poseless)
    ]
    degenerate = wanted_face & ~cut.usable & ~poseless
    degenerate[list(faces.invalid)] = False
    failures += [Failure(names[faces.frame[row]], int(faces.index[row]), NO_CROP) for row in np.flatnonzero(degenerate)]

    keep = wanted_face & cut.usable
    large = _is_large(cut, fits, options)
    filtered = int((keep & ~large).sum())
    notes = matched.notes + _kept_at_the_edge(cut, keep & large, options)
    rows = np.flatnonzero(keep & large)
    rows = rows[np.lexsort((faces.index[rows], faces.frame[rows], position[faces.frame[rows]]))]
    frame_of_face = faces.frame[rows]
    first = np.flatnonzero(np.diff(frame_of_face, prepend=-1))
    crop_from_frame = cut.crop_from_frame[rows]
    return Plan(
        size=options.size,
        frame_names=names,
        positions=position[frame_of_face[first]],
        rows=rows,
        starts=np.append(first, len(rows)),
        index=faces.index[rows],
        frame_of=frame_of_face[first],
        geometry=CropGeometry(crop_from_frame, cut.cubic[rows], cut.usable[rows]),
        region=_source_region(crop_from_frame, cut.cubic[rows], options.size, options.antialias),
        extension=options.extension,
        antialias=options.antialias,
        fits=[part for part in fits if part[1].needs_pose or not ahead],
        faces_filtered=filtered,
        failures=failures,
        frame_sizes=sizes,
        missing={names[i]: matched.reason(i) for i in np.flatnonzero((face_counts > 0) & (position < 0)).tolist()},
        faces_missing=int((position[faces.frame] < 0).sum()),
        position_of=position,
        notes=notes,
    )


def _nothing_matches(alignments: Alignments, source: FrameSource, matched: Matched) -> str:
    if matched.nearly:
        return f"no entry of {alignments.path.name} names a frame of {source.path} exactly, but {matched.nearly}."
    return (
        f"no entry of {alignments.path.name} names a frame of {source.path}: the file has "
        f"{matched.names[alignments.faces.frame[0]][:100]!r}, the frames are like {source.name_of(0)!r}; "
        "check that the two belong together."
    )


def _drop_same_frame(
    names: list[str], position: np.ndarray, face_counts: np.ndarray, selected: np.ndarray
) -> list[Failure]:
    """Of entries that name the same frame (`clip_000001.png` and `clip_000001.mp4`) the first stays selected."""
    entries = np.flatnonzero(selected & (face_counts > 0))
    _, first = np.unique(position[entries], return_index=True)
    later = np.delete(entries, first)
    selected[later] = False
    reason = "another entry of the alignments file names the same frame"
    return [Failure(names[i], None, reason, int(face_counts[i])) for i in later]


def refitted(plan: Plan, alignments: Alignments, options: PlanOptions) -> Plan:
    """The same faces of the same frames, cut by other options of the fit."""
    fits = fit_all(alignments, options, plan.frame_sizes)
    cut = _stacked(alignments, fits, ahead=True)
    crop_from_frame, cubic = cut.crop_from_frame[plan.rows], cut.cubic[plan.rows]
    return replace(
        plan,
        geometry=CropGeometry(crop_from_frame, cubic, cut.usable[plan.rows]),
        region=_source_region(crop_from_frame, cubic, plan.size, plan.antialias),
        fits=[part for part in fits if part[1].needs_pose],
    )


def with_own_crops(plan: Plan) -> Plan:
    """The same plan for another walk: crops that `Plan.task` completes for one are not written into the other's."""
    if not plan.fits:
        return plan
    cut = plan.geometry
    own = replace(cut, crop_from_frame=cut.crop_from_frame.copy(), cubic=cut.cubic.copy())
    return replace(plan, geometry=own, region=plan.region.copy())


def without_shared_files(plan: Plan, *, any_extension: bool = False, fold_case: bool = False) -> Plan:
    """The plan without faces whose file would replace another's, as those of `a.png` and `a.jpg` with one extension.

    The first frame in the plan's order keeps its files; the faces of later ones become failures.

    Args:
        any_extension: whether names that differ in their extension only are one name.
        fold_case: whether names that differ in case only, or in how accents are composed, are one name.
    """
    names = [plan.frame_names[frame] for frame in plan.frame_of.tolist()]
    files = [stem_of(name) for name in names]
    if not any_extension and plan.extension is None:
        files = [f"{file}/{face_extension(name)}" for file, name in zip(files, names, strict=True)]
    if fold_case:
        files = [unicodedata.normalize("NFC", file).casefold() for file in files]
    if len(set(files)) == len(files):
        return plan
    frames_of: dict[str, list[int]] = {}
    for i, file in enumerate(files):
        frames_of.setdefault(file, []).append(i)
    keep = np.ones(plan.face_count, bool)
    failures = []
    for frames in frames_of.values():
        if len(frames) == 1:
            continue
        owner: dict[int, str] = {}
        for i in frames:
            task = plan.task(i)
            for k, index in enumerate(task.index.tolist()):
                if owner.setdefault(index, task.name) != task.name:
                    keep[plan.starts[i] + k] = False
                    reason = f"its file {task.file_name(k)!r} would replace that of {owner[index]!r}; rename one frame"
                    failures.append(Failure(task.name, index, reason))
    if not failures:
        return plan
    return replace(_with_faces(plan, keep), failures=plan.failures + failures)


def subset(plan: Plan, keep: Sequence[bool] | np.ndarray) -> Plan:
    """The same plan over some of its frames; keep [N] bool."""
    frames = np.asarray(keep, bool)
    return plan if frames.all() else _with_faces(plan, np.repeat(frames, np.diff(plan.starts)))


def some_faces(plan: Plan, keep: np.ndarray) -> Plan:
    """The same plan over some of its faces; keep [K] bool."""
    return plan if keep.all() else _with_faces(plan, keep)


def _with_faces(plan: Plan, keep: np.ndarray) -> Plan:
    """The plan over some of its faces, keep [K] bool, and the frames that still have any."""
    left = np.add.reduceat(keep, plan.starts[:-1], dtype=np.int64)
    some = left > 0
    cut = plan.geometry
    return replace(
        plan,
        positions=plan.positions[some],
        rows=plan.rows[keep],
        starts=np.concatenate([[0], np.cumsum(left[some])]),
        index=plan.index[keep],
        frame_of=plan.frame_of[some],
        geometry=CropGeometry(cut.crop_from_frame[keep], cut.cubic[keep], cut.usable[keep]),
        region=plan.region[keep],
    )


def count_outside(plan: Plan, frames_of_size: Mapping[tuple[int, int], Sequence[int]]) -> int:
    """How many faces have the middle of what their crop reads outside of their frame.

    Args:
        frames_of_size: (height, width) -> positions of the frames of that size; others are left out.
    """
    count = 0
    for (height, width), positions in frames_of_size.items():
        frames = np.isin(plan.positions, np.asarray(positions, np.int64))
        region = plan.region[np.repeat(frames, np.diff(plan.starts))]
        middle = region[:, :2] + region[:, 2:]  # twice that
        count += int(((middle < 0) | (middle > (2 * width, 2 * height))).any(axis=1).sum())
    return count


def _kept_at_the_edge(cut: CropGeometry, kept: np.ndarray, options: PlanOptions) -> list[str]:
    """A sentence about faces [F] that are just large enough, whose top edge between pixel centres is not."""
    if not options.min_box_px:
        return []
    edge = crops.box_px(cut.crop_from_frame, options.size) * (options.size - 1) / options.size
    count = int((kept & (edge < options.min_box_px)).sum())
    if not count:
        return []
    which, them = ("1 face is", "it") if count == 1 else (f"{count:,} faces are", "them")
    return [f"{which} just large enough: the programs measure a box one pixel short, and may drop {them}."]


def _is_large(cut: CropGeometry, fits: Fits, options: PlanOptions) -> np.ndarray:
    """Which faces [F] have a source box of the wanted size.

    The box's true side decides; a face whose whole-pixel length reaches the size by rounding stays, too, because the
    reference keeps it.
    """
    if not options.min_box_px:
        return cut.usable
    box = crops.box_px(cut.crop_from_frame, options.size)
    large = box >= options.min_box_px - crops.FILTER_TOLERANCE_PX
    rounding = 2.0  # of two corners, by half a pixel in x and y each
    doubtful = np.flatnonzero(cut.usable & ~large & (box >= options.min_box_px - rounding))
    if len(doubtful):
        corners = crops.roi(with_poses(fits, doubtful), options.size)
        large[doubtful] = crops.roi_size(corners) >= options.min_box_px
    return large


def _source_region(crop_from_frame: np.ndarray, cubic: np.ndarray, size: int, antialiased: bool) -> np.ndarray:
    region = np.full((len(cubic), 4), tables.EVERYWHERE, np.int64)
    known = np.flatnonzero(np.isfinite(crop_from_frame[:, 0, 2]))
    if len(known):
        sampling = antialias if antialiased else tables
        region[known] = sampling.source_region(crop_from_frame[known], cubic[known], size)
    return region
