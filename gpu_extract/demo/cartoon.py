"""Cartoon faces drawn from their exact 68 landmarks.

Face units: the unit square of the mean face, x to the right, y down, with the jaw and the hair around it. A point is
carried into a picture by `picture_from_face` [2, 3], a similarity; pixel (0, 0) is the centre of the top-left pixel.
Landmarks are in the usual 68-point order: jaw 0-16, brows 17-26, nose 27-35, eyes 36-47, mouth 48-67.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR

MIDLINE = 0.490127  # x of the nose line of the mean face
EYE_OPENING = 2.2  # the mean face's eyes are narrow slits: a cartoon needs more white
SUBPIXEL_BITS = 4
INK: Colour = (38, 30, 34)


@dataclass(frozen=True)
class Look:
    """Who is drawn. Colours are BGR."""

    name: str
    skin: Colour
    shade: Colour
    lips: Colour
    hair: Colour
    hair_light: Colour
    iris: Colour
    brow_width: float
    curly: bool = False
    glasses: Colour | None = None
    flower: Colour | None = None
    freckles: bool = False


@dataclass(frozen=True)
class Expression:
    """What the face does: `open_mouth` and `blink` from 0 to 1, `gaze` (x, y) from -1 to 1."""

    open_mouth: float = 0.3
    blink: float = 0.0
    gaze: tuple[float, float] = field(default=(0.0, 0.0))


RUTH = Look(
    "Ruth", skin=(188, 212, 250), shade=(150, 178, 232), lips=(104, 96, 214), hair=(42, 92, 214),
    hair_light=(76, 136, 242), iris=(92, 150, 70), brow_width=0.055, flower=(232, 196, 110), freckles=True,
)  # fmt: skip
OMAR = Look(
    "Omar", skin=(92, 132, 186), shade=(64, 98, 150), lips=(74, 78, 152), hair=(52, 38, 40),
    hair_light=(92, 70, 72), iris=(44, 70, 108), brow_width=0.085, curly=True, glasses=(64, 176, 240),
)  # fmt: skip


@cache
def mean_face() -> np.ndarray:
    """The 51 core points, landmarks 17 to 67, in face units: [51, 2] float64."""
    text = resources.files("gpu_extract").joinpath("data/mean_face_seed.json").read_text(encoding="utf-8")
    points = np.array(json.loads(text)["points"], np.float64)
    points.setflags(write=False)
    return points


def face_landmarks(expression: Expression) -> np.ndarray:
    """All 68 landmarks in face units, [68, 2] float64: the mean face with a jaw, moved by the expression."""
    angle = np.pi * (1 - np.arange(17) / 16)
    narrowing = 1 - 0.1 * np.sin(angle) ** 2
    jaw = np.stack([MIDLINE + 0.57 * narrowing * np.cos(angle), 0.24 + 0.95 * np.sin(angle)], axis=1)
    points = np.concatenate([jaw, mean_face()])

    for eye in (slice(36, 42), slice(42, 48)):
        middle = points[eye, 1].mean()
        points[eye, 1] = middle + (points[eye, 1] - middle) * EYE_OPENING * (1 - 0.93 * expression.blink)

    from_middle = np.abs(points[48:68, 0] - MIDLINE) / 0.236  # 0 in the middle of the mouth, 1 at its corners
    points[48:68, 1] -= 0.06 * from_middle**2  # corners up: a smile
    lower = [*range(55, 60), *range(65, 68)]
    points[lower, 1] += 0.11 * expression.open_mouth
    return points


def similarity(centre: tuple[float, float], core_px: float, degrees: float) -> np.ndarray:
    """`picture_from_face` [2, 3] float64: the unit square, `core_px` pixels wide, turned clockwise about `centre`."""
    turn = np.deg2rad(degrees)
    rotation = core_px * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([rotation, np.array(centre) - rotation @ (MIDLINE, 0.46)])


def place(points: np.ndarray, picture_from_face: np.ndarray) -> np.ndarray:
    """Points in face units, [n, 2], carried into the picture: [n, 2] float64 pixels."""
    placed: np.ndarray = points @ picture_from_face[:, :2].T + picture_from_face[:, 2]
    return placed


def draw_face(picture: np.ndarray, look: Look, expression: Expression, picture_from_face: np.ndarray) -> np.ndarray:
    """Draw a face into `picture` [H, W, 3] uint8 BGR, in place; returns its landmarks, [68, 2] float64 pixels."""
    landmarks = face_landmarks(expression)
    pen = _Pen(picture, picture_from_face)
    _hair_behind(pen, look)
    _head(pen, look, landmarks)
    _nose(pen, look, landmarks)
    for eye, brow in ((slice(36, 42), slice(17, 22)), (slice(42, 48), slice(22, 27))):
        _eye(pen, look, expression, landmarks[eye])
        _brow(pen, look, landmarks[brow])
    _mouth(pen, look, landmarks)
    _hair_in_front(pen, look)
    if look.glasses is not None:
        _glasses(pen, look.glasses)
    return place(landmarks, picture_from_face)


class _Pen:
    """Draws shapes that are given in face units; line widths are in face units too."""

    def __init__(self, picture: np.ndarray, picture_from_face: np.ndarray) -> None:
        self.picture = picture
        self.picture_from_face = picture_from_face
        self.unit_px = float(np.hypot(*picture_from_face[:, 0]))

    def fill(self, shape: np.ndarray, colour: Colour, alpha: float = 1.0) -> None:
        if alpha < 1.0:
            self.inside(shape, [(shape, colour)], alpha)
        else:
            cv2.fillPoly(self.picture, [self._fixed(shape)], colour, cv2.LINE_AA, SUBPIXEL_BITS)

    def line(self, shape: np.ndarray, colour: Colour, width: float, closed: bool = False) -> None:
        pixels = max(1, round(width * self.unit_px))
        cv2.polylines(self.picture, [self._fixed(shape)], closed, colour, pixels, cv2.LINE_AA, SUBPIXEL_BITS)

    def inside(self, outline: np.ndarray, shapes: list[tuple[np.ndarray, Colour]], alpha: float = 1.0) -> None:
        """Fill `shapes` in turn, but only where `outline` is."""
        points = place(outline, self.picture_from_face)
        height, width = self.picture.shape[:2]
        x0, y0 = np.clip(np.floor(points.min(axis=0)).astype(int) - 2, 0, (width, height))
        x1, y1 = np.clip(np.ceil(points.max(axis=0)).astype(int) + 3, 0, (width, height))
        if x0 == x1 or y0 == y1:
            return
        under = self.picture[y0:y1, x0:x1]
        shifted = self.picture_from_face - [[0, 0, x0], [0, 0, y0]]
        scratch = _Pen(under.copy(), shifted)
        for shape, colour in shapes:
            scratch.fill(shape, colour)
        share = np.zeros((y1 - y0, x1 - x0, 1), np.uint8)
        cv2.fillPoly(share, [scratch._fixed(outline)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
        weight = share * (alpha / 255.0)
        under[:] = np.rint(scratch.picture * weight + under * (1 - weight)).astype(np.uint8)

    def _fixed(self, shape: np.ndarray) -> np.ndarray:
        placed: np.ndarray = np.rint(place(shape, self.picture_from_face) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        return placed


def _head(pen: _Pen, look: Look, landmarks: np.ndarray) -> None:
    for side in (-1, 1):
        pen.fill(_ellipse((MIDLINE + side * 0.58, 0.36), (0.1, 0.16)), look.skin)
        pen.fill(_ellipse((MIDLINE + side * 0.59, 0.37), (0.05, 0.1)), look.shade)
    jaw = landmarks[:17]
    over = np.linspace(0, -np.pi, 25)[1:-1]
    forehead = np.stack([MIDLINE + 0.57 * np.cos(over), 0.24 + 0.62 * np.sin(over)], axis=1)
    outline = np.concatenate([_smooth(jaw), forehead])
    lit = (outline - (MIDLINE, 0.2)) * (0.96, 0.95) + (MIDLINE, 0.19)
    pen.inside(outline, [(outline, look.shade), (lit, look.skin)])
    for side in (-1, 1):
        cheek = (MIDLINE + side * 0.35, 0.6)
        for radius in (0.13, 0.1, 0.07):
            pen.fill(_ellipse(cheek, (radius, 0.75 * radius)), look.lips, alpha=0.13)
        if look.freckles:
            for dx, dy in ((-0.07, -0.03), (0.0, -0.055), (0.07, -0.02), (-0.025, 0.025), (0.045, 0.035)):
                pen.fill(_ellipse((cheek[0] + dx, cheek[1] + dy - 0.03), (0.013, 0.013)), look.hair, alpha=0.6)


def _nose(pen: _Pen, look: Look, landmarks: np.ndarray) -> None:
    pen.fill(_smooth(np.concatenate([landmarks[28:30], landmarks[31:36]]), closed=True), look.shade, alpha=0.55)
    tip = landmarks[30]
    pen.fill(_ellipse((tip[0], tip[1] + 0.005), (0.085, 0.075)), look.skin)
    pen.fill(_ellipse((tip[0] - 0.02, tip[1] - 0.025), (0.03, 0.022)), (255, 255, 255), alpha=0.5)
    pen.line(_smooth(landmarks[31:36]), _darker(look.shade, 0.68), 0.016)


def _brow(pen: _Pen, look: Look, points: np.ndarray) -> None:
    curve = _smooth(points)
    thickness = look.brow_width * np.sin(np.linspace(0.25, np.pi - 0.25, len(curve)))[:, None] * (0.0, 0.45)
    pen.fill(np.concatenate([curve - thickness, (curve + thickness)[::-1]]), look.hair)


def _eye(pen: _Pen, look: Look, expression: Expression, points: np.ndarray) -> None:
    white = _smooth(points, closed=True)
    middle = points.mean(axis=0)
    iris = (middle[0] + 0.035 * expression.gaze[0], middle[1] + 0.02 * expression.gaze[1])
    shapes = [
        (white, (250, 250, 250)),
        (_ellipse(iris, (0.072, 0.072)), _darker(look.iris, 0.6)),
        (_ellipse(iris, (0.062, 0.062)), look.iris),
        (_ellipse(iris, (0.036, 0.036)), INK),
        (_ellipse((iris[0] - 0.022, iris[1] - 0.024), (0.018, 0.018)), (255, 255, 255)),
    ]
    pen.inside(white, shapes)
    pen.line(_smooth(points[[3, 4, 5, 0]]), _darker(look.shade, 0.6), 0.012)
    pen.line(_smooth(points[:4]), INK, 0.026)


def _mouth(pen: _Pen, look: Look, landmarks: np.ndarray) -> None:
    outer, inner = _smooth(landmarks[48:60], closed=True), _smooth(landmarks[60:68], closed=True)
    low = landmarks[66]
    teeth = np.concatenate([_smooth(landmarks[60:65]), landmarks[[64, 60]] + (0, 0.035)])
    pen.fill(outer, look.lips)
    tongue = _ellipse((low[0], low[1] + 0.01), (0.1, 0.05))
    pen.inside(inner, [(inner, (48, 26, 74)), (tongue, (120, 110, 226)), (teeth, (246, 250, 250))])
    pen.line(outer, _darker(look.lips, 0.72), 0.01, closed=True)


def _hair_behind(pen: _Pen, look: Look) -> None:
    if look.curly:
        for angle in np.linspace(np.pi * 0.98, np.pi * 2.02, 15):
            pen.fill(_ellipse((MIDLINE + 0.6 * np.cos(angle), 0.12 + 0.62 * np.sin(angle)), (0.2, 0.2)), look.hair)
        return
    mane = [
        (0.49, -0.56), (0.02, -0.46), (-0.24, -0.1), (-0.27, 0.4), (-0.3, 0.9), (-0.2, 1.16), (0.05, 1.1), (0.49, 1.0),
    ]  # fmt: skip
    pen.fill(_smooth(_mirrored(mane), closed=True), look.hair)


def _hair_in_front(pen: _Pen, look: Look) -> None:
    if look.curly:
        rounds = ((0.15, 0.0, look.hair), (0.085, -0.035, look.hair_light), (0.085, -0.015, look.hair))
        for radius, shift, colour in rounds:
            for angle in np.linspace(np.pi * 1.06, np.pi * 1.94, 9):
                at = (MIDLINE + 0.52 * np.cos(angle) + shift, 0.12 + 0.5 * np.sin(angle) + shift)
                pen.fill(_ellipse(at, (radius, radius)), colour)
        return
    fringe = [
        (-0.12, 0.34), (-0.16, 0.05), (-0.02, -0.3), (0.28, -0.46), (0.62, -0.48), (0.95, -0.34), (1.13, 0.02),
        (1.1, 0.34), (1.02, 0.12), (0.86, -0.08), (0.62, -0.2), (0.36, -0.16), (0.12, -0.06), (-0.02, 0.1),
    ]  # fmt: skip
    pen.fill(_smooth(np.array(fringe), closed=True), look.hair)
    for strand in ([(0.6, -0.42), (0.34, -0.34), (0.1, -0.16)], [(0.72, -0.4), (0.92, -0.26), (1.04, -0.02)]):
        pen.line(_smooth(np.array(strand)), look.hair_light, 0.03)
    if look.flower is not None:
        middle = np.array([1.0, -0.06])
        for angle in np.arange(5) * (2 * np.pi / 5) - np.pi / 2:
            petal = middle + 0.1 * np.array([np.cos(angle), np.sin(angle)])
            pen.fill(_ellipse(tuple(petal), (0.075, 0.075)), look.flower)
        pen.fill(_ellipse(tuple(middle), (0.06, 0.06)), (80, 210, 250))


def _glasses(pen: _Pen, colour: Colour) -> None:
    for side in (-1, 1):
        lens = _ellipse((MIDLINE + side * 0.262, 0.215), (0.2, 0.18))
        pen.fill(lens, (255, 250, 240), alpha=0.08)
        pen.line(lens, colour, 0.032, closed=True)
        pen.line(np.array([(MIDLINE + side * 0.45, 0.19), (MIDLINE + side * 0.57, 0.22)]), colour, 0.032)
    pen.line(_smooth(np.array([(MIDLINE - 0.065, 0.2), (MIDLINE, 0.17), (MIDLINE + 0.065, 0.2)])), colour, 0.032)


def _ellipse(centre: tuple[float, ...], radii: tuple[float, float]) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.array(centre) + np.stack([np.cos(angle), np.sin(angle)], axis=1) * radii


def _mirrored(left: list[tuple[float, float]]) -> np.ndarray:
    """An outline from its left half, given from the top of the midline to its bottom."""
    half = np.array(left)
    return np.concatenate([half, (half * (-1, 1) + (2 * MIDLINE, 0))[-2:0:-1]])


def _smooth(points: np.ndarray, closed: bool = False, steps: int = 6) -> np.ndarray:
    """A Catmull-Rom curve through every point of `points` [n, 2]."""
    padded = np.concatenate([points[-1:], points, points[:2]] if closed else [points[:1], points, points[-1:]])
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def _darker(colour: Colour, share: float) -> Colour:
    blue, green, red = (int(channel * share) for channel in colour)
    return blue, green, red
