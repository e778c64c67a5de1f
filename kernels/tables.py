"""The integer tables that every exact sampler reads: where a crop's pixels lie in the frame, and what each tap weighs.

All samplers of this folder (NumPy, C, Triton) take the same two tables and do nothing but integer arithmetic on them,
so they agree to the byte. The tables themselves are the only place with floating point; `README.md` has the formula.

Conventions: pixel (0, 0) is the centre of the top-left pixel, points are (x, y), a matrix `crop_from_frame` maps frame
pixels to crop pixels. Positions are held in 1/1024 px and used in 1/32 px.
"""

from __future__ import annotations

from functools import cache

import numpy as np

POSITION_BITS = 10  # a table entry is 1/1024 px
FRACTION_BITS = 5  # weights exist for each 1/32 px
WEIGHT_BITS = 15  # weights of one pixel sum to 1 << 15
INDEFINITE = np.iinfo(np.int32).min  # what x86's float -> int32 conversion gives for NaN and for all it cannot hold
EVERYWHERE = (-(1 << 15) - 1, -(1 << 15) - 1, (1 << 15) + 2, (1 << 15) + 2)  # holds every tap of a saturated position


@cache
def weights(cubic: bool) -> np.ndarray:
    """Tap weights, read-only int16 [1024, k, k], k = 4 (cubic) or 2 (linear); entry `fy * 32 + fx`, tap [row, column].

    The weights of one entry sum to 32768.
    """
    fractions = np.arange(1 << FRACTION_BITS, dtype=np.float32) / np.float32(1 << FRACTION_BITS)
    line = _cubic(fractions) if cubic else np.stack([1 - fractions, fractions], axis=1)
    k = line.shape[1]
    products = line[:, None, :, None] * line[None, :, None, :]  # [32, 32, k, k] float32: fy, fx, row, column
    table = np.clip(np.rint(products * np.float32(1 << WEIGHT_BITS)), -(1 << 15), (1 << 15) - 1).astype(np.int32)
    table = table.reshape(-1, k, k)
    for index in np.flatnonzero(table.sum(axis=(1, 2)) != 1 << WEIGHT_BITS):
        _balance(table[index])
    result: np.ndarray = table.astype(np.int16)
    result.flags.writeable = False
    return result


def _cubic(t: np.ndarray) -> np.ndarray:
    """One-dimensional cubic weights, float32 [n, 4], of the fractions t float32 [n]; A = -0.75."""
    a = np.float32(-0.75)
    outer = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    inner = [((a + 2) * u - (a + 3)) * u * u + 1 for u in (t, 1 - t)]
    return np.stack([outer, *inner, 1 - outer - inner[0] - inner[1]], axis=1)


def _balance(entry: np.ndarray) -> None:
    """Make the weights of one entry, int32 [k, k], sum to 32768 by changing one of the taps around its centre."""
    half = entry.shape[0] // 2
    smallest = largest = (half, half)
    for tap in np.ndindex(half + 2, half + 2):
        if min(tap) < half or max(tap) >= entry.shape[0]:
            continue
        if entry[tap] < entry[smallest]:
            smallest = tap
        elif entry[tap] > entry[largest]:
            largest = tap
    excess = entry.sum() - (1 << WEIGHT_BITS)
    entry[largest if excess < 0 else smallest] -= excess


def invert(crop_from_frame: np.ndarray) -> np.ndarray:
    """frame_from_crop, float64 [K, 2, 3], of crop_from_frame float64 [K, 2, 3]; a singular matrix gives zeros.

    The order of the operations is part of the result: another order differs in the last bit, and so may the pixels.
    """
    m00, m01, m02, m10, m11, m12 = np.asarray(crop_from_frame, dtype=np.float64).reshape(-1, 6).T
    inverse = np.empty((6, len(m00)))
    with np.errstate(all="ignore"):
        determinant = m00 * m11 - m01 * m10
        reciprocal = np.divide(1.0, determinant, out=np.zeros_like(determinant), where=determinant != 0)
        inverse[0] = i00 = m11 * reciprocal
        inverse[1] = i01 = m01 * -reciprocal
        inverse[2] = -i00 * m02 - i01 * m12
        inverse[3] = i10 = m10 * -reciprocal
        inverse[4] = i11 = m00 * reciprocal
        inverse[5] = -i10 * m02 - i11 * m12
    return inverse.T.reshape(-1, 2, 3)


def coordinate_tables(crop_from_frame: np.ndarray, size: int) -> np.ndarray:
    """Where each crop samples its frame: int32 [K, 4, S] = dx, dy (by column x) and X0, Y0 (by row y), in 1/1024 px.

    Pixel (x, y) of the crop lies at ((X0[y] + dx[x]) >> 5, (Y0[y] + dy[x]) >> 5) in 1/32 px of the frame, where the sum
    wraps around in int32. An entry that int32 cannot hold, NaN and infinity included, is -2**31, as it is for OpenCV on
    x86: such a crop is mostly black, never an error.

    crop_from_frame: float64 [K, 2, 3]; size: S >= 1.
    """
    steps = np.arange(size, dtype=np.float64)
    return positions(invert(crop_from_frame), steps, steps)


def positions(frame_from_crop: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`coordinate_tables` of any part of a crop, from the inverse: int32 [K, 4, n].

    frame_from_crop: float64 [K, 2, 3]; columns, rows: float64 [n], whole numbers.
    """
    table = np.empty((len(frame_from_crop), 4, len(columns)))
    with np.errstate(all="ignore"):
        np.multiply(frame_from_crop[:, :, :1], columns, out=table[:, :2])
        np.multiply(frame_from_crop[:, :, 1:2], rows, out=table[:, 2:])
        table[:, 2:] += frame_from_crop[:, :, 2:]
        table *= 1 << POSITION_BITS
        np.rint(table, out=table)
        if not (table.min(initial=0) >= -(2.0**31) and table.max(initial=0) < 2.0**31):  # NaN is neither
            table[~((table >= -(2.0**31)) & (table < 2.0**31))] = INDEFINITE
        found = table.astype(np.int32)
        found[:, 2:] += 1 << (POSITION_BITS - FRACTION_BITS - 1)
    return found


def source_region(crop_from_frame: np.ndarray, cubic: np.ndarray, size: int) -> np.ndarray:
    """The frame pixels that the taps of each crop touch: int64 [K, 4] = x0, y0, x1, y1, half-open, not yet clipped.

    The bounds are exact: the positions are monotone along rows and columns, so the ends of the coordinate tables are
    enough. Where an entry of the tables overflows int32 that does not hold, and the region is `EVERYWHERE`: clipped to
    the frame it is the whole frame.

    crop_from_frame: float64 [K, 2, 3]; cubic: bool [K]; size: S >= 1.
    """
    first_and_last = np.array([0.0, size - 1.0])
    ends = positions(invert(crop_from_frame), first_and_last, first_and_last).astype(np.int64)  # [K, 4, 2]
    rounding = 1 << (POSITION_BITS - FRACTION_BITS - 1)
    overflow = np.isin(ends, (INDEFINITE, INDEFINITE + rounding)).any(axis=(1, 2))
    low = ends[:, :2].min(axis=2) + ends[:, 2:].min(axis=2)  # [K, 2] = x, y
    high = ends[:, :2].max(axis=2) + ends[:, 2:].max(axis=2)
    overflow |= (low < -(1 << 31)).any(axis=1) | (high >= 1 << 31).any(axis=1)
    low = np.clip(low >> POSITION_BITS, -(1 << 15), (1 << 15) - 1)
    high = np.clip(high >> POSITION_BITS, -(1 << 15), (1 << 15) - 1)
    before = np.asarray(cubic, dtype=bool).astype(np.int64)[:, None]
    region = np.concatenate([low - before, high + 2 + before], axis=1)
    region[overflow] = EVERYWHERE
    return region
