"""A generated 1080p clip, or a folder of frames, with its alignments file: what the benchmarks run on.

    python bench/make_clip.py                            600 frames, 2 faces each, into bench/data/
    python bench/make_clip.py --folder jpg --frames 100

Made to cost what footage costs: texture of every size, sensor grain, panning, and faces of 150 to 500 px that move,
turn and scale, so that neither the decoder nor a PNG encoder has it easy. The same options give the same frames, and
what is already in bench/data/ is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np

from gpu_extract.demo.cartoon import OMAR, RUTH, Expression, Look, draw_face, place, similarity
from gpu_extract.demo.clip import face_record, write_alignments, write_video

DATA = Path(__file__).resolve().parent / "data"
RECIPE = 1  # part of every file name: raise it when the drawing changes
FRAMES_PER_SECOND = 30
MAX_DRAWN = 600  # longer clips repeat these frames
SPRITE_CORE_PX = 320
SPRITE_PX = 760
BOX_PER_CORE = 1.6  # side of the square that extract cuts, in core widths
GRAIN = 1.3  # standard deviation of the sensor noise, levels
IMAGE_OPTIONS = {"png": [cv2.IMWRITE_PNG_COMPRESSION, 3], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 92]}


class Footage(NamedTuple):
    """Frames (a video or a folder) and their alignments file."""

    frames: Path
    alignments: Path


class Sprite(NamedTuple):
    """A drawn face, to be warped into frames."""

    colour: np.ndarray  # [SPRITE_PX, SPRITE_PX, 3] float32, premultiplied BGR
    alpha: np.ndarray  # [SPRITE_PX, SPRITE_PX, 1] float32, 0 to 1
    landmarks: np.ndarray  # [68, 2] float64, sprite pixels


def make(
    frames: int = 600,
    faces: int = 2,
    height: int = 1080,
    width: int = 1920,
    keyint: int = 250,
    folder: str | None = None,
    data: Path = DATA,
) -> Footage:
    """The footage with these properties, made now or earlier; `folder` "png" or "jpg" gives images, None a video."""
    name = f"r{RECIPE}_{width}x{height}_{frames}f_{faces}faces" + ("" if folder else f"_key{keyint}")
    place_ = data / (f"{name}_{folder}" if folder else name)
    if not (place_ / "complete").exists():
        shutil.rmtree(place_, ignore_errors=True)
        place_.mkdir(parents=True)
        if folder is not None:
            _write_folder(place_, frames, faces, (height, width), folder)
        elif frames > MAX_DRAWN:
            _repeat(make(MAX_DRAWN, faces, height, width, keyint, None, data), place_, frames)
        else:
            _write_clip(place_, frames, faces, (height, width), keyint)
        (place_ / "complete").touch()
    return Footage(place_ / ("frames" if folder else "clip.mp4"), place_ / "alignments.fsa")


def draw(frames: int, faces: int, height: int, width: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Each frame [height, width, 3] uint8 BGR and the landmarks [68, 2] float64 of its faces."""
    rng = np.random.default_rng(2019)
    scenery = _texture(rng, height + 240, width + 400)
    grain = [
        np.clip(rng.normal(0, GRAIN, (height + 64, width + 64, 1)).repeat(3, axis=2), -127, 127).astype(np.int8)
        for _ in range(6)
    ]
    sprites = [[_sprite(look, mouth) for mouth in (0.1, 0.4, 0.8)] for look in (RUTH, OMAR)]
    for number in range(frames):
        t = number / FRAMES_PER_SECOND
        pan = np.float64([[1, 0, -200 - 180 * np.sin(_camera(t))], [0, 1, -120 - 100 * np.sin(1.6 * _camera(t))]])
        frame = cv2.warpAffine(scenery, pan, (width, height), flags=cv2.INTER_LINEAR)
        landmarks = []
        for face in range(faces):
            sprite = sprites[face % 2][(number // 5 + face) % 3]
            landmarks.append(_paste(frame, sprite, _frame_from_face(face, faces, t, height, width)))
        dy, dx = rng.integers(0, 64, 2)
        noise = grain[int(rng.integers(len(grain)))][dy : dy + height, dx : dx + width]
        yield cv2.add(frame, noise, dtype=cv2.CV_8U), landmarks


def _camera(t: float) -> float:
    """Where the camera points at `t` seconds: it stands still for four seconds, then moves on for one."""
    moves, rest = divmod(t, 5.0)
    share = max(0.0, rest - 4.0)
    return 0.9 * (moves + (3 - 2 * share) * share**2)


def _frame_from_face(face: int, faces: int, t: float, height: int, width: int) -> np.ndarray:
    """Where a face is at `t` seconds: `frame_from_face` [2, 3]. Boxes of 150 to 500 px at 1080 rows."""
    phase = 1.7 * face
    lane = width / faces
    unit = min(height / 1080, 2 * lane / 1920)
    box = unit * (325 + 175 * np.sin(0.83 * t + phase))
    x = lane * (face + 0.5) + 0.12 * lane * np.sin(0.71 * t + phase)
    y = height * (0.5 + 0.16 * np.sin(0.57 * t + 2 * phase))
    degrees = 40 * np.sin(0.9 * t + phase) if face % 2 == 0 else 25 * t
    return similarity((x, y), box / BOX_PER_CORE, degrees)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Scenery with about as much detail at every size, [height, width, 3] uint8 BGR."""
    texture = np.full((height, width, 3), (118, 126, 122), np.float32)
    cell = 512
    while cell >= 2:
        shape = (height // cell + 3, width // cell + 3)
        light = rng.standard_normal((*shape, 1), dtype=np.float32)
        coarse = light + 0.35 * rng.standard_normal((*shape, 3), dtype=np.float32)
        texture += (1.3 * np.log2(cell) - 1.1) * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cell //= 2
    return np.clip(np.rint(texture), 0, 255).astype(np.uint8)


def _sprite(look: Look, mouth: float) -> Sprite:
    """Drawn over black and over white: the difference is the transparency."""
    middle = SPRITE_PX / 2
    sprite_from_face = similarity((middle, middle), SPRITE_CORE_PX, 0)
    black, white = (np.full((SPRITE_PX, SPRITE_PX, 3), level, np.uint8) for level in (0, 255))
    landmarks = draw_face(black, look, Expression(mouth), sprite_from_face)
    draw_face(white, look, Expression(mouth), sprite_from_face)
    alpha = 1 - (white.astype(np.float32) - black).mean(axis=2, keepdims=True) / 255
    return Sprite(black.astype(np.float32), alpha, landmarks)


def _paste(frame: np.ndarray, sprite: Sprite, frame_from_face: np.ndarray) -> np.ndarray:
    """Warp a sprite into the frame, in place; returns its landmarks in frame pixels."""
    middle = SPRITE_PX / 2
    face_from_sprite = np.linalg.inv(np.vstack([similarity((middle, middle), SPRITE_CORE_PX, 0), [0, 0, 1]]))
    frame_from_sprite = frame_from_face @ face_from_sprite
    corners = place(np.array([[0.0, 0], [SPRITE_PX, 0], [0, SPRITE_PX], [SPRITE_PX, SPRITE_PX]]), frame_from_sprite)
    height, width = frame.shape[:2]
    x0, y0 = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, (width, height))
    x1, y1 = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1, 0, (width, height))
    if x0 < x1 and y0 < y1:
        shifted = frame_from_sprite - [[0, 0, x0], [0, 0, y0]]
        colour = cv2.warpAffine(sprite.colour, shifted, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        alpha = cv2.warpAffine(sprite.alpha, shifted, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        region = frame[y0:y1, x0:x1]
        region[:] = np.rint(colour + region * (1 - alpha[..., None])).clip(0, 255).astype(np.uint8)
    return place(sprite.landmarks, frame_from_sprite)


def _write_clip(folder: Path, frames: int, faces: int, size: tuple[int, int], keyint: int) -> None:
    alignments: dict[str, list[dict[str, Any]]] = {}

    def pictures() -> Iterator[np.ndarray]:
        for number, (picture, landmarks) in enumerate(draw(frames, faces, *size), start=1):
            alignments[f"clip_{number:06d}.png"] = [face_record(points) for points in landmarks]
            yield picture

    # the rest is x264's own: medium, 3 B-frames, scene cuts
    write_video(folder / "clip.mp4", pictures(), FRAMES_PER_SECOND, {"crf": "20", "g": str(keyint)})
    write_alignments(folder / "alignments.fsa", alignments)


def _write_folder(folder: Path, frames: int, faces: int, size: tuple[int, int], extension: str) -> None:
    alignments = {}
    (folder / "frames").mkdir()
    for number, (picture, landmarks) in enumerate(draw(frames, faces, *size), start=1):
        name = f"frame_{number:06d}.{extension}"
        cv2.imwrite(str(folder / "frames" / name), picture, IMAGE_OPTIONS[extension])
        alignments[name] = [face_record(points) for points in landmarks]
    write_alignments(folder / "alignments.fsa", alignments)


def _repeat(base: Footage, folder: Path, frames: int) -> None:
    """A long clip: the packets of a short one again and again, without encoding them anew."""
    import av

    faces = list(_load_alignments(base.alignments).values())
    if frames % len(faces):
        raise SystemExit(f"a clip of {frames} frames cannot be made; take a multiple of {len(faces)}")
    with av.open(str(folder / "clip.mp4"), "w") as out:
        target = None
        for lap in range(frames // len(faces)):
            with av.open(str(base.frames)) as container:
                source = container.streams.video[0]
                if target is None:
                    target = out.add_stream_from_template(source)
                for packet in container.demux(source):
                    if packet.dts is None:
                        continue
                    packet.pts += lap * source.duration
                    packet.dts += lap * source.duration
                    packet.stream = target
                    out.mux(packet)
    write_alignments(
        folder / "alignments.fsa",
        {f"clip_{number + 1:06d}.png": faces[number % len(faces)] for number in range(frames)},
    )


def _load_alignments(path: Path) -> dict[str, list[dict[str, Any]]]:
    import pickle
    import zlib

    return pickle.loads(zlib.decompress(path.read_bytes()))  # our own file, written by this script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600, help=f"above {MAX_DRAWN}: a multiple of it")
    parser.add_argument("--faces", type=int, default=2, help="faces in each frame")
    parser.add_argument("--height", type=int, default=1080)
    parser.add_argument("--width", type=int, default=1920)
    parser.add_argument("--keyint", type=int, default=250, help="most frames from one keyframe to the next")
    parser.add_argument("--folder", choices=sorted(IMAGE_OPTIONS), help="write images of this kind, not a video")
    footage = make(**vars(parser.parse_args()))
    print(json.dumps({"frames": str(footage.frames), "alignments": str(footage.alignments)}))


if __name__ == "__main__":
    main()
