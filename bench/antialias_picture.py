"""docs/images/antialias.png: a face of 900 pixels cut to 256 in two frames half a pixel apart, plainly and antialiased.

python bench/antialias_picture.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gpu_extract.demo.cartoon import OMAR, Expression, draw_face, similarity
from gpu_extract.geometry.crops import crop_geometry
from gpu_extract.kernels import antialias, reference

SIZE, CORE_PX = 256, 562.5  # the source box is 1.6 times the core: 900 px
ZOOM = slice(70, 166)  # a part of the crop, shown three times as large
TARGET = Path(__file__).parent.parent / "docs" / "images" / "antialias.png"


def main() -> None:
    frame_from_face = similarity((640.0, 640.0), CORE_PX, 11.0)
    rng = np.random.default_rng(7)
    picture = np.full((1280, 1280, 3), (150, 160, 140), np.uint8)
    landmarks = draw_face(picture, OMAR, Expression(), frame_from_face)
    grain = rng.normal(0, 18, picture.shape[:2])[:, :, None]
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    weave = 22 * np.sin(2.35 * x + 0.4 * y)[:, :, None]  # cloth: finer than the crop can show
    picture = np.clip(picture + grain + weave, 0, 255).astype(np.uint8)
    points = landmarks.astype(np.float32)[None]

    rows, flicker = [], []
    for sample in (reference.warp_affine, smooth):
        crops = []
        for shift in (0.0, 0.5):
            moved = points + np.float32(shift)
            matrix = crop_geometry(moved, SIZE, seed=True).crop_from_frame
            crops.append(sample([picture], np.array([0]), matrix, np.array([False]), SIZE)[0])
        flicker.append(np.abs(crops[0].astype(int) - crops[1]).mean())
        detail = cv2.resize(crops[0][ZOOM, ZOOM], (288, 288), interpolation=cv2.INTER_NEAREST)
        difference = np.clip(4 * np.abs(crops[0].astype(int) - crops[1]), 0, 255).astype(np.uint8)
        rows.append(np.hstack([pad(image) for image in (crops[0], detail, difference)]))
    TARGET.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(TARGET), np.vstack(rows))
    plain, antialiased = flicker
    print(f"mean change when the face moves by half a pixel: plain {plain:.2f}, antialiased {antialiased:.2f} levels")


def smooth(*arguments: object) -> np.ndarray:
    crops: np.ndarray = antialias.warp_affine(reference.warp_affine, *arguments)  # type: ignore[arg-type]
    return crops


def pad(image: np.ndarray) -> np.ndarray:
    """The image on a white cell of 300 x 300."""
    cell = np.full((300, 300, 3), 255, np.uint8)
    top, left = (300 - image.shape[0]) // 2, (300 - image.shape[1]) // 2
    cell[top : top + image.shape[0], left : left + image.shape[1]] = image
    return cell


if __name__ == "__main__":
    main()
