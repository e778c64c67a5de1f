"""Landmarks to crop matrices, for all faces of a file at once.

Conventions
-----------
Points are (x, y) in pixels; (0, 0) is the *centre* of the top-left pixel, x to the right, y down.
Landmarks are in iBUG order; the *core* are points 17..67 (brows, nose, eyes, mouth).
`normalized` matrices map frame pixels to mean-face space, whose unit square is the core of the face;
`crop_from_frame` matrices map frame pixels to pixels of the S x S crop. Both are [K, 2, 3] float64.
K is the number of faces, n the number of points of a face, S the side of a crop.

Float widths and the order of operations are part of the behaviour: they decide which 1/1024 of a pixel a sample
position rounds to, and so whether a stored hash comes out again. Each is stated where it matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_extract.geometry import pose
from gpu_extract.geometry.certain import Certainty
from gpu_extract.geometry.mean_faces import Centering, table
from gpu_extract.geometry.rounding import USUAL, Rounding
from gpu_extract.kernels import tables

COVERED = {"legacy": 0.375, "face": 0.5, "head": 0.625}
"""Share of the crop side that is padding around the core, both sides together."""

RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)
POINT_COUNTS = (68, 98, 51, 4)
DECIMALS = 2
MANY = 1 << 12  # faces whose sums are taken at a time
BLOCK = 1 << 10  # faces fitted at a time: their float64 copies stay in the cache
FILTER_TOLERANCE_PX = 1e-3
"""A box is compared with a wanted size after this much slack: at scale 1 the float32 fit is off by about 1e-5 px."""


def mean_face(points: int, *, seed: bool) -> np.ndarray:
    """The fit's target, [51, 2] (or [4, 2]) float64 in the unit square.

    Args:
        points: number of landmarks of a face, one of `POINT_COUNTS`.
        seed: the mean face of files before version 2.0; later ones use one shifted by 0.0099 in x.
    """
    if points == 4:
        return table("mean_face_head_4pt").astype(np.float64)
    return table("mean_face_seed" if seed else "mean_face_head").astype(np.float64)


def to_68(points: np.ndarray) -> np.ndarray:
    """98-point landmarks [K, 98, 2] as 68-point ones, same dtype; other counts come back as they are."""
    return points[:, table("map_98_to_68")] if points.shape[1] == 98 else points


def core(points: np.ndarray) -> np.ndarray:
    """The points that the fit uses: [K, 51, 2], or all four of a 4-point region."""
    points = to_68(points)
    return points[:, 17:] if points.shape[1] == 68 else points


def umeyama(points: np.ndarray, target: np.ndarray, rounding: Rounding = USUAL) -> np.ndarray:
    """Similarity that maps each face's points onto the target in the least-squares sense (Umeyama 1991).

    Args:
        points: [K, n, 2] float32 or float64; sums are taken in this dtype, one point after another.
        target: [n, 2] float64.
        rounding: of the reciprocal of the points' variance.

    Returns:
        [K, 2, 3] float64; all NaN for a face whose points coincide.
    """
    with np.errstate(all="ignore"):
        n = points.shape[1]
        by_point = points.transpose(1, 0, 2).copy()  # the same sums, of all faces at a time
        points_mean = by_point.mean(axis=0)
        by_point -= points_mean
        points_centred = np.ascontiguousarray(by_point.transpose(1, 0, 2), np.float64)
        target_mean = target.mean(axis=0)
        target_centred = target - target_mean
        covariance = np.matmul(target_centred.T, points_centred) / n
        finite = np.isfinite(covariance).all(axis=(1, 2))
        u, s, vh = np.linalg.svd(np.where(finite[:, None, None], covariance, 0.0))
        tolerance = s[:, 0] * 2 * np.finfo(np.float64).eps
        rank = (s > tolerance[:, None]).sum(axis=1)
        proper = np.where(rank == 1, np.linalg.det(u) * np.linalg.det(vh) > 0, np.linalg.det(covariance) >= 0)
        sign = np.stack([np.ones(len(points)), np.where(proper, 1.0, -1.0)], axis=1)
        turn = np.matmul(u * sign[:, None, :], vh)
        variance = by_point.var(axis=0).sum(axis=1)
        weight = np.where((rank == 1)[:, None], 1.0, sign)
        scale = rounding.inverse(variance) * (s * weight).sum(axis=1)
        matrix = np.empty((len(points), 2, 3))
        matrix[:, :, :2] = scale[:, None, None] * turn
        moved = np.matmul(turn, points_mean.astype(np.float64)[:, :, None])[:, :, 0]
        matrix[:, :, 2] = target_mean - scale[:, None] * moved
    matrix[(rank == 0) | ~finite] = np.nan
    return matrix


def padding_px(size: int, centering: Centering, *, seed: bool) -> int:
    """Pixels between the crop's edge and the core square.

    Files before 2.0 truncate (`int(S * 0.1875)`), later ones round half to even; the two agree for multiples of 16.
    """
    if seed and centering == "legacy":
        return int(size * 0.1875)
    return round(size * COVERED[centering] / 2)


def to_crop(normalized: np.ndarray, size: int, padding: int) -> np.ndarray:
    """crop_from_frame [K, 2, 3] from normalized matrices: the core square becomes S - 2 * padding pixels wide."""
    with np.errstate(all="ignore"):
        crop_from_frame = normalized * (size - 2 * padding)
        crop_from_frame[:, :, 2] += padding
    return crop_from_frame


def eye_angle(points: np.ndarray, crop_from_frame: np.ndarray, rounding: Rounding = USUAL) -> np.ndarray:
    """Angle theta [K] float64, radians, by which a face must turn for its eyes to be level.

    The reference takes landmarks into the crop, the mean of each eye's six points and then arctan2, all in the
    landmarks' own type. In float32 it rounds as it goes, and NumPy and libm builds disagree about arctan2 by one unit
    in the last place; the hash changes with it. So every float32 step is spelled out, and `rounding` has arctan2.

    Args:
        points: [K, n, 2] float32 or float64 landmarks in frame pixels, n = 68 or 51.
        crop_from_frame: [K, 2, 3] of the legacy crop before eye alignment.
        rounding: which arctan2, of float32.

    Returns:
        NaN for a face whose eyes are not finite; a face whose eyes coincide gets pi.
    """
    first = 68 - points.shape[1]
    right = _mean_in_crop(points[:, RIGHT_EYE.start - first : RIGHT_EYE.stop - first], crop_from_frame)
    left = _mean_in_crop(points[:, LEFT_EYE.start - first : LEFT_EYE.stop - first], crop_from_frame)
    with np.errstate(all="ignore"):
        span = right - left
        found: np.ndarray = np.pi - rounding.arctan2(span[:, 1], span[:, 0]).astype(np.float64)
        return found


def _mean_in_crop(points: np.ndarray, crop_from_frame: np.ndarray) -> np.ndarray:
    """Mean position of points [K, n, 2] in the crop, [K, 2] of their dtype, summed point after point."""
    in_crop = _in_crop if points.dtype == np.float32 else _in_crop_double
    mean = np.zeros((len(points), 2), points.dtype)
    with np.errstate(all="ignore"):
        for axis in range(2):
            for moved in in_crop(points, crop_from_frame, axis).T:
                mean[:, axis] += moved
    mean /= points.dtype.type(points.shape[1])
    return mean


def _in_crop(points: np.ndarray, crop_from_frame: np.ndarray, axis: int) -> np.ndarray:
    """x or y of float32 points in the crop, [K, n] float32, rounded as `cv2.transform` does.

    That is x*m0 + y*m1 + m2 with the first sum fused; where neither m1 of x nor m0 of y exceeds float32's epsilon, it
    takes both for 0 and fuses the sum that is left. A fused sum is done in float64, which holds the product exactly.
    """
    matrix = crop_from_frame.astype(np.float32)[:, :, :, None]
    x, y = points[:, :, 0], points[:, :, 1]
    m0, m1, m2 = (matrix[:, axis, i] for i in range(3))
    turned = (x.astype(np.float64) * m0 + (y * m1)).astype(np.float32) + m2
    along = (points[:, :, axis].astype(np.float64) * matrix[:, axis, axis] + m2).astype(np.float32)
    is_level = np.maximum(np.abs(matrix[:, 0, 1]), np.abs(matrix[:, 1, 0])) <= np.finfo(np.float32).eps
    return np.where(is_level, along, turned)


def _in_crop_double(points: np.ndarray, crop_from_frame: np.ndarray, axis: int) -> np.ndarray:
    """x or y of float64 points in the crop, [K, n] float64."""
    m0, m1, m2 = (crop_from_frame[:, axis, i, None] for i in range(3))
    moved: np.ndarray = points[:, :, 0] * m0 + points[:, :, 1] * m1 + m2
    return moved


def rotation(theta: np.ndarray) -> np.ndarray:
    """[K, 2, 2] float64 from angles [K]."""
    with np.errstate(all="ignore"):
        cos, sin = np.cos(theta), np.sin(theta)
    return np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)


def rotate(normalized: np.ndarray, turn: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    """Normalized matrices [K, 2, 3] turned by `turn` [K, 2, 2] about a point of normalized space.

    Legacy crops turn about (0, 0), the top-left corner of the core square, because the reference does.
    """
    moved = normalized.copy()
    moved[:, :, 2] -= centre
    turned = np.empty_like(moved)
    for i in range(2):
        for j in range(3):
            turned[:, i, j] = turn[:, i, 0] * moved[:, 0, j] + turn[:, i, 1] * moved[:, 1, j]
    turned[:, :, 2] += centre
    return turned


def roi(crop_from_frame: np.ndarray, size: int) -> np.ndarray:
    """Corners of each crop in the frame, [K, 4, 2] int64 pixels: top-left, bottom-left, bottom-right, top-right."""
    frame_from_crop = tables.invert(crop_from_frame)
    last = size - 1
    corners = np.array([(0, 0), (0, last), (last, last), (last, 0)], dtype=np.float64)
    exact = np.einsum("kij,cj->kci", frame_from_crop[:, :, :2], corners) + frame_from_crop[:, None, :, 2]
    found: np.ndarray = np.clip(np.rint(exact), -(2**31), 2**31 - 1).astype(np.int64)
    return found


def roi_size(corners: np.ndarray) -> np.ndarray:
    """Whole-pixel length of each crop's top edge in the frame, [K] int64; corners [K, 4, 2] from `roi`.

    The reference returns 0 for an edge that is exactly level; here a level edge has its length like any other.
    """
    edge = (corners[:, 3] - corners[:, 0]).astype(np.float64)
    found: np.ndarray = np.sqrt(edge[:, 0] ** 2 + edge[:, 1] ** 2).astype(np.int64)
    return found


def box_px(crop_from_frame: np.ndarray, size: int) -> np.ndarray:
    """Side of each crop in frame pixels, [K] float64: the face's source box, padding included."""
    with np.errstate(all="ignore"):
        found: np.ndarray = size / np.hypot(crop_from_frame[:, 0, 0], crop_from_frame[:, 1, 0])
        return found


def side_px(crop_from_frame: np.ndarray, size: int) -> np.ndarray:
    """`box_px`, to the hundredth of a pixel: what C libraries of all machines agree about."""
    return np.round(box_px(crop_from_frame, size), DECIMALS)


def head_pose(points: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll of each head in degrees, [K, 3] float64, as `pose.angles` says; NaN where there is no pose.

    They follow from the landmarks alone, whatever the version of their file and the crop. To the hundredth, about which
    solvers of all machines agree, and never -0.0.

    Args:
        points: [K, n, 2] landmarks in frame pixels; of 51 and of 4 no pose is known.
    """
    found = np.full((len(points), 3), np.nan)
    if points.shape[1] in (68, 98):
        target = mean_face(68, seed=False)
        for block in _blocks(len(points)):
            found[block] = pose.angles(to_68(points[block]), umeyama(core(points[block]), target))
    return np.round(found, DECIMALS) + 0.0


def is_cubic(crop_from_frame: np.ndarray) -> np.ndarray:
    """Which crops [K] bool are sampled with the cubic filter: those that enlarge or keep the face's size."""
    m = crop_from_frame
    with np.errstate(all="ignore"):
        sx = np.sqrt(m[:, 0, 0] * m[:, 0, 0] + m[:, 0, 1] * m[:, 0, 1])
        sy = np.where(sx > 0, (m[:, 0, 0] * m[:, 1, 1] - m[:, 0, 1] * m[:, 1, 0]) / sx, 0.0)
        found: np.ndarray = (sx + sy) / 2 >= 1
        return found


@dataclass(frozen=True)
class CropGeometry:
    """Where and how each of K faces is cut."""

    crop_from_frame: np.ndarray  # [K, 2, 3] float64; NaN where the landmarks do not define a crop
    cubic: np.ndarray  # [K] bool
    usable: np.ndarray  # [K] bool

    @property
    def count(self) -> int:
        return len(self.usable)


class Fit:
    """K faces that have the same number of landmarks, fitted to the mean face. Any of their crops follow from it.

    They are fitted by the block, when one of it is asked for; threads may ask at once.

    Args:
        points: [K, n, 2] float32 or float64 landmarks in frame pixels, n one of `POINT_COUNTS`, finite.
        size: crop side S in pixels.
        centering: what the crop is centred on; "face" and "head" need a pose, so 51 points allow "legacy" only.
        seed: the numbers of files before version 2.0.
        align_eyes: turn the face until its eyes are level (needs eyes: 4-point regions stay as they are).
        rounding: how the last bits come about.

    Raises:
        ValueError: if n is not one of `POINT_COUNTS`, or 51 points meet another centering than legacy.
    """

    def __init__(
        self,
        points: np.ndarray,
        size: int,
        centering: Centering = "legacy",
        *,
        seed: bool,
        align_eyes: bool = False,
        rounding: Rounding = USUAL,
    ) -> None:
        n = points.shape[1]
        if n not in POINT_COUNTS:
            raise ValueError(f"a face has {n} landmarks; 68, 98, 51 and 4 are understood")
        if n == 51 and centering != "legacy":
            raise ValueError(f"a face has the 51 core landmarks only, which allow centering legacy, not {centering}")
        seed = seed and centering == "legacy"
        self.points, self._size, self._centering, self._rounding = points, size, centering, rounding
        self._target = mean_face(n, seed=seed)
        self._padding = padding_px(size, centering, seed=seed)
        self._legacy_padding = padding_px(size, "legacy", seed=seed)
        self._legacy = np.empty((len(points), 2, 3))
        self._turn = np.empty((len(points), 2, 2)) if align_eyes and n != 4 else None
        self._is_fitted = np.zeros(len(_blocks(len(points))), bool)

    @property
    def needs_pose(self) -> bool:
        """Whether the crops are centred on something that only a pose tells."""
        return self._centering != "legacy" and self.points.shape[1] != 4

    def crop_from_frame(self, faces: np.ndarray | slice) -> np.ndarray:
        """Matrices [k, 2, 3] float64 of some of the faces; NaN where landmarks, or the pose, do not define a crop."""
        self._fit(faces)
        legacy = self._legacy[faces]
        if not self.needs_pose:
            return self._to_crop(legacy, faces)
        normalized = legacy.copy()
        normalized[:, :, 2] -= pose.offsets(to_68(self.points[faces]), legacy, self._centering, self._rounding)
        return self._to_crop(normalized, faces)

    def geometry(self) -> CropGeometry:
        """All crops."""
        return _geometry(self.crop_from_frame(slice(None)))

    def geometry_before_pose(self) -> CropGeometry:
        """All crops; translations that need a pose are NaN where it is sure to be found. `crop_from_frame` finds it.

        A pose costs many times what all the rest does, and nothing but the translation depends on it.
        """
        if not self.needs_pose:
            return self.geometry()
        self._fit(slice(None))
        crop_from_frame = self._to_crop(self._legacy, slice(None))
        surely = np.empty(len(self.points), bool)
        for block in _blocks(len(surely)):
            surely[block] = pose.surely_found(to_68(self.points[block]), self._legacy[block])
        crop_from_frame[~surely] = self.crop_from_frame(np.flatnonzero(~surely))
        cut = _geometry(crop_from_frame)
        crop_from_frame[surely, :, 2] = np.nan
        return cut

    def geometry_before_fit(self) -> CropGeometry:
        """All crops, of which those that are sure to be usable are NaN and not cubic as yet; see `crop_from_frame`."""
        surely = np.zeros(len(self.points), bool)
        if self._size > 2 * self._padding:
            certainty = self._certainty()
            for start in range(0, len(surely), MANY):
                surely[start : start + MANY] = certainty.have_crops(self.points[start : start + MANY])
        crop_from_frame = np.full((len(surely), 2, 3), np.nan)
        cubic = np.zeros(len(surely), bool)
        usable = surely.copy()
        others = np.flatnonzero(~surely)
        if len(others):
            cut = _geometry(self.crop_from_frame(others))
            crop_from_frame[others], cubic[others], usable[others] = cut.crop_from_frame, cut.cubic, cut.usable
        return CropGeometry(crop_from_frame, cubic, usable)

    def _certainty(self) -> Certainty:
        n = self.points.shape[1]
        which = np.arange(n)[None, :, None]
        posed = to_68(which)[0, pose.POSE_POINTS, 0] if self.needs_pose else None
        return Certainty(n, core(which)[0, :, 0], self._target, posed)

    def _fit(self, faces: np.ndarray | slice) -> None:
        every = _blocks(len(self.points))
        wanted = range(len(every)) if isinstance(faces, slice) else sorted(set((faces // BLOCK).tolist()))
        for number in wanted:
            if self._is_fitted[number]:
                continue
            block = every[number]
            self._legacy[block] = legacy = umeyama(core(self.points[block]), self._target, self._rounding)
            if self._turn is not None:
                plain = to_crop(legacy, self._size, self._legacy_padding)
                self._turn[block] = rotation(eye_angle(to_68(self.points[block]), plain, self._rounding))
            self._is_fitted[number] = True

    def _to_crop(self, normalized: np.ndarray, faces: np.ndarray | slice) -> np.ndarray:
        if self._turn is not None:
            centre = (0.0, 0.0) if self._centering == "legacy" else (0.5, 0.5)
            normalized = rotate(normalized, self._turn[faces], centre)
        return to_crop(normalized, self._size, self._padding)


def crop_geometry(
    points: np.ndarray,
    size: int,
    centering: Centering = "legacy",
    *,
    seed: bool,
    align_eyes: bool = False,
    rounding: Rounding = USUAL,
) -> CropGeometry:
    """Crop matrices of faces that have the same number of landmarks; see `Fit`."""
    return Fit(points, size, centering, seed=seed, align_eyes=align_eyes, rounding=rounding).geometry()


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]


def _geometry(crop_from_frame: np.ndarray) -> CropGeometry:
    usable = np.isfinite(crop_from_frame).all(axis=(1, 2))
    with np.errstate(all="ignore"):
        area = crop_from_frame[:, 0, 0] * crop_from_frame[:, 1, 1] - crop_from_frame[:, 0, 1] * crop_from_frame[:, 1, 0]
        usable &= np.isfinite(1.0 / area)
    return CropGeometry(crop_from_frame, is_cubic(crop_from_frame), usable)


def stack(parts: Sequence[tuple[np.ndarray, CropGeometry]], count: int) -> CropGeometry:
    """One geometry of `count` rows from parts (rows, geometry); rows that no part names are not usable."""
    crop_from_frame = np.full((count, 2, 3), np.nan)
    cubic = np.zeros(count, bool)
    usable = np.zeros(count, bool)
    for rows, part in parts:
        crop_from_frame[rows] = part.crop_from_frame
        cubic[rows] = part.cubic
        usable[rows] = part.usable
    return CropGeometry(crop_from_frame, cubic, usable)
