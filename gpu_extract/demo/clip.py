"""A small clip of cartoon faces with the alignments file that a detector would have made for it."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from gpu_extract.demo.cartoon import OMAR, RUTH, Expression, Look, draw_face, similarity

HEIGHT, WIDTH = 360, 640
FRAMES = 72
FRAMES_PER_SECOND = 24
SUPERSAMPLING = 2  # drawn at this many times the size, then averaged down: smoother edges than cv2's own

# time 0..1, x, y (pixels of the frame), width of the core square (pixels), clockwise turn (degrees)
RUTH_PATH = np.array([
    (0.00, 165, 185, 95, -15),
    (0.25, 190, 180, 110, 60),
    (0.45, 320, 182, 172, 140),
    (0.60, 325, 185, 176, 205),
    (0.80, 180, 180, 120, 300),
    (1.00, 150, 185, 90, 375),
])  # fmt: skip
OMAR_PATH = np.array([
    (0.00, 470, 190, 95, 10),
    (0.18, 540, 185, 105, -30),
    (0.30, 628, 170, 110, -60),
    (0.36, 820, 160, 110, -75),
    (0.60, 520, -160, 100, 200),
    (0.70, 490, 40, 100, 130),
    (0.84, 470, 185, 120, 40),
    (1.00, 495, 185, 90, -12),
])  # fmt: skip


class Clip(NamedTuple):
    """The files of a clip and the number of its frames and faces."""

    video: Path
    alignments: Path
    frames: int
    faces: int


def make_clip(folder: Path, frames: int = FRAMES, stem: str = "demo") -> Clip:
    """Write `<stem>.mp4` and `<stem>_alignments.fsa` into `folder`; the same pixels and landmarks every time."""
    alignments: dict[str, list[dict[str, Any]]] = {}

    def pictures() -> Iterator[np.ndarray]:
        for number, (picture, faces) in enumerate(draw_frames(frames), start=1):
            alignments[f"{stem}_{number:06d}.png"] = [face_record(landmarks) for landmarks in faces]
            yield picture

    video = folder / f"{stem}.mp4"
    write_video(video, pictures(), FRAMES_PER_SECOND, {"crf": "16", "preset": "medium"})
    file = folder / f"{stem}_alignments.fsa"
    write_alignments(file, alignments)
    return Clip(video, file, frames, sum(map(len, alignments.values())))


def draw_frames(frames: int = FRAMES) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Each frame [HEIGHT, WIDTH, 3] uint8 BGR and the landmarks [68, 2] float64 of the faces that it shows."""
    wallpaper = textured_background(HEIGHT + 80, WIDTH + 160, seed=7)
    for number in range(frames):
        time = number / max(1, frames - 1)
        x, y = round(80 + 80 * np.sin(2 * np.pi * time)), round(40 + 40 * np.cos(2 * np.pi * time))
        window = wallpaper[y : y + HEIGHT, x : x + WIDTH]
        canvas = cv2.resize(window, None, fx=SUPERSAMPLING, fy=SUPERSAMPLING, interpolation=cv2.INTER_CUBIC)
        shown = []
        for look, path, phase in ((RUTH, RUTH_PATH, 0.0), (OMAR, OMAR_PATH, 0.4)):
            landmarks = _draw_actor(canvas, look, path, time, phase)
            inside = ((landmarks >= -0.5) & (landmarks < (WIDTH - 0.5, HEIGHT - 0.5))).all(axis=1)
            if inside.mean() >= 0.5:  # a detector loses a face that is mostly outside
                shown.append(landmarks)
        yield cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), shown


def textured_background(height: int, width: int, seed: int) -> np.ndarray:
    """Woven stripes under soft noise of several sizes, [height, width, 3] uint8 BGR: its turning is easy to see."""
    rng = np.random.default_rng(seed)
    texture = np.empty((height, width, 3), np.float32)
    texture[:] = (158, 164, 148)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    texture += ((columns % 64 < 22)[..., None]) * np.array([26, 14, -12], np.float32)
    texture += ((rows % 64 < 22)[..., None]) * np.array([-18, 10, 26], np.float32)
    for cell, strength in ((96, 12.0), (24, 8.0), (6, 6.0), (2, 4.0)):
        shape = (height // cell + 2, width // cell + 2)
        light = rng.standard_normal((*shape, 1), dtype=np.float32)
        coarse = light + 0.3 * rng.standard_normal((*shape, 3), dtype=np.float32)
        texture += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(np.rint(texture), 0, 255).astype(np.uint8)


def face_record(landmarks: np.ndarray) -> dict[str, Any]:
    """A face of the alignments files of late 2019: whole-pixel box, float32 landmarks, no hash yet, no masks."""
    low, high = np.floor(landmarks.min(axis=0)).astype(int), np.ceil(landmarks.max(axis=0)).astype(int)
    return {
        "x": int(low[0]),
        "w": int(high[0] - low[0]),
        "y": int(low[1]),
        "h": int(high[1] - low[1]),
        "landmarks_xy": landmarks.astype(np.float32),
        "hash": None,
        "mask": {},
    }


def write_alignments(path: Path, alignments: dict[str, list[dict[str, Any]]]) -> None:
    """Write `{frame name: [face, …]}` as an `.fsa` file of late 2019."""
    path.write_bytes(zlib.compress(pickle.dumps(alignments, protocol=4)))


def write_video(path: Path, pictures: Iterable[np.ndarray], rate: int, options: dict[str, str]) -> int:
    """Encode pictures [H, W, 3] uint8 BGR, H and W even, as H.264 4:2:0 with libx264 options; returns their number."""
    import av

    count = 0
    with av.open(str(path), "w") as container:
        stream = None
        for picture in pictures:
            count += 1
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(rate), options=options)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        if stream is not None:
            container.mux(stream.encode(None))
    return count


def _draw_actor(canvas: np.ndarray, look: Look, path: np.ndarray, time: float, phase: float) -> np.ndarray:
    """Draw one face on the enlarged canvas; landmarks in frame pixels."""
    x, y, core_px, degrees = (_ease(time, path[:, 0], path[:, column]) for column in range(1, 5))
    wave = 2 * np.pi * (time + phase)
    expression = Expression(
        open_mouth=0.45 + 0.45 * np.sin(3 * wave),
        blink=max(0.0, np.cos(2 * wave + 1.0) - 0.9) * 10,
        gaze=(np.sin(2 * wave), 0.6 * np.cos(3 * wave)),
    )
    s = SUPERSAMPLING
    centre = (s * (x + 0.5) - 0.5, s * (y + 0.5) - 0.5)
    landmarks = draw_face(canvas, look, expression, similarity(centre, s * core_px, degrees))
    return (landmarks + 0.5) / s - 0.5


def _ease(time: float, at: np.ndarray, values: np.ndarray) -> float:
    """Between the two nearest entries of a path, starting and stopping softly."""
    i = int(np.clip(np.searchsorted(at, time, side="right") - 1, 0, len(at) - 2))
    share = (time - at[i]) / (at[i + 1] - at[i])
    return float(values[i] + (values[i + 1] - values[i]) * (3 - 2 * share) * share**2)
