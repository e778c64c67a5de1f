"""The places where programs of different times round otherwise, and so cut other bytes: see `Rounding`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Numerics = Literal["numpy1", "numpy2", "mixed"]
EyeAngle = Literal["libm", "rounded"]


@dataclass(frozen=True)
class Rounding:
    """How the last bits of a crop come about; see `docs/formats.md#crops`."""

    numerics: Numerics = "numpy1"
    """Of a crop without level eyes. numpy1: the reciprocal of the variance of a face's points, by which a fit divides,
    in float64, and so the offset of a head's centre. numpy2: both in float32. mixed: the offset only. Of
    float64 points the reciprocal is float64 anyhow."""
    eye_angle: EyeAngle = "libm"
    """Of level eyes: that of the C library for float32, or the correctly rounded one."""

    @property
    def others(self) -> list[Rounding]:
        """All other ways, those that differ in one thing first."""
        found = [Rounding(numerics, angle) for numerics in get_args(Numerics) for angle in get_args(EyeAngle)]
        found.sort(key=lambda one: (one.numerics != self.numerics) + (one.eye_angle != self.eye_angle))
        return found[1:]

    def inverse(self, variance: np.ndarray) -> np.ndarray:
        """1 / variance, float64 [K]; variance [K] is float32 or, of float64 points, float64, which no NumPy narrows."""
        found: np.ndarray = np.reciprocal(variance if self.numerics == "numpy2" else variance.astype(np.float64))
        return found.astype(np.float64)

    def less_half(self, projected: np.ndarray) -> np.ndarray:
        """projected - 0.5, float64 [2]; projected is float32 [2]. Below 0.25 it matters which subtracts."""
        if self.numerics == "numpy1":
            return projected.astype(np.float64) - 0.5
        return (projected - np.float32(0.5)).astype(np.float64)

    def arctan2(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The angle of (x, y) in radians, all [K] float32, or all float64, of which there is one way."""
        if y.dtype == np.float32 and self.eye_angle == "libm":
            return atan2f(y, x)
        # NumPy's own gives other last bits where the processor has AVX-512.
        exact = np.array(list(map(math.atan2, y.tolist(), x.tolist())))
        return exact.astype(y.dtype)


USUAL = Rounding()
"""That of the programs whose files hold hashes."""


def atan2f(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """float32 arctan2 as the C library has it with which the programs of the time ran: glibc on x86-64, up to 2.40.

    That is the method of fdlibm (Sun Microsystems, 1993), in float32 arithmetic without fused operations, which is the
    same on every machine. The library of the machine at hand may have another: glibc since 2.41, those of other systems
    and processors, and NumPy itself where the processor has AVX-512.

    Args:
        y, x: float32 [K]. NaN gives NaN; an infinite one, which no landmark is, gives NaN too.
    """
    with np.errstate(all="ignore"):
        flat = _atanf(np.abs(y / x))  # 0 to pi/2; pi/2 where x is 0
        apart = _exponent(y) - _exponent(x)
        flat = np.where(apart > FAR_APART, HALF_PI + np.float32(0.5) * PI_LOW, flat)
        left = np.signbit(x)
        flat = np.where(left & (apart < -FAR_APART), np.float32(0), flat)
        angle = np.where(left, PI - (flat - PI_LOW), flat)
        angle = np.where(x == 0, HALF_PI, angle)
        angle = np.where(y == 0, np.where(left, PI, np.float32(0)), angle)
        angle = np.where(np.isfinite(x) & np.isfinite(y), angle, np.float32(np.nan))
        found: np.ndarray = np.copysign(angle, y).astype(np.float32)
        return found


PI, PI_LOW = np.float32(3.1415927410), np.float32(-8.7422776573e-08)
HALF_PI = np.float32(1.5707963705)
FAR_APART = 60  # in powers of two, of y and x
TURNED = np.array([0.46364760399, 0.78539812565, 0.98279368877, 1.5707962513], np.float32)
"""arctan of 1/2, 1, 3/2 and infinity, cut off …"""
TURNED_LOW = np.array([5.0121582440e-09, 3.7748947079e-08, 3.4473217170e-08, 7.5497894159e-08], np.float32)
"""… and what was cut off."""
SERIES = np.array(
    [
        *(3.3333334327e-01, -2.0000000298e-01, 1.4285714924e-01, -1.1111110449e-01, 9.0908870101e-02),
        *(-7.6918758452e-02, 6.6610731184e-02, -5.8335702866e-02, 4.9768779427e-02, -3.6531571299e-02),
        1.6285819933e-02,
    ],
    np.float32,
)
"""(x - arctan x) / x = x² (SERIES[0] + SERIES[1] x² + …), for x up to 7/16."""
BOUNDS = np.array([0.4375, 0.6875, 1.1875, 2.4375], np.float32)
TINY, HUGE = np.float32(2.0**-29), np.float32(2.0**25)


def _exponent(value: np.ndarray) -> np.ndarray:
    """[K] int32, the biased exponent of float32 values."""
    bits: np.ndarray = np.abs(value).view(np.int32)
    return bits >> 23


def _atanf(x: np.ndarray) -> np.ndarray:
    """float32 arctan of x >= 0, [K]."""
    one, half_more = np.float32(1), np.float32(1.5)
    piece = np.searchsorted(BOUNDS, x, side="right")  # which of five, by x
    reduced = np.select(
        [piece == 0, piece == 1, piece == 2, piece == 3],
        [x, (x + x - one) / (np.float32(2) + x), (x - one) / (x + one), (x - half_more) / (one + half_more * x)],
        -one / x,
    )
    square = reduced * reduced
    fourth = square * square
    even, odd = SERIES[10], SERIES[9]
    for i in (8, 6, 4, 2, 0):
        even = SERIES[i] + fourth * even
    for i in (7, 5, 3, 1):
        odd = SERIES[i] + fourth * odd
    bent = reduced * (square * even + fourth * odd)
    of_turned = np.maximum(piece - 1, 0)
    turned = TURNED[of_turned] - ((bent - TURNED_LOW[of_turned]) - reduced)
    angle: np.ndarray = np.where(piece == 0, reduced - bent, turned)
    angle[x < TINY] = x[x < TINY]
    angle[x >= HUGE] = TURNED[3] + TURNED_LOW[3]
    return angle
