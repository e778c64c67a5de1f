"""How fast faces become PNG files, and how large: our own encoder against ISA-L's rows and OpenCV, on one thread.

    python bench/bench_encode.py FACES                      the images of a folder, of one size
    python bench/bench_encode.py FACES --noise 0 2 4        the same with Gaussian noise of these levels added

Prints a row of kernels/README.md for each level of noise. The writers take all images in turn, round after round; times
are CPU seconds of the thread, medians over the rounds, and the factors are medians of pairs. Every file is decoded and
compared first.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from common import median
from isal import isal_zlib

from gpu_extract.kernels import png
from gpu_extract.png_file import SIGNATURE, chunk_bytes

Encode = Callable[[np.ndarray], bytes]
UP = 2


def isal_file(crop: np.ndarray) -> bytes:
    """Rows differenced to the one above by NumPy, deflated by ISA-L at level 1."""
    height, width = crop.shape[:2]
    rgb = crop[:, :, ::-1].reshape(height, width * 3)
    rows = np.empty((height, 1 + width * 3), np.uint8)
    rows[:, 0] = UP
    rows[0, 1:] = rgb[0]
    np.subtract(rgb[1:], rgb[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(rows, 1)), (b"IEND", b""))
    return SIGNATURE + b"".join(chunk_bytes(kind, data) for kind, data in chunks)


def opencv_file(crop: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", crop)
    assert done
    return bytes(data)


# ISA-L's own code leaves vector registers in a state that slows code without AVX down; ours does not.
WRITERS: dict[str, Encode] = {
    "own": png.encoded,
    "own, portable": lambda crop: png.encoded(crop, portable=True),
    "ISA-L": isal_file,
    "OpenCV": opencv_file,
}


def read_faces(folder: Path, most: int) -> list[np.ndarray]:
    """Up to `most` images of a folder, evenly taken from all of them."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".jpg", ".webp"))
    picks = np.unique(np.linspace(0, len(paths) - 1, most).astype(int)) if paths else []
    faces = [cv2.imread(str(paths[i]), cv2.IMREAD_COLOR) for i in picks]
    if not faces:
        raise SystemExit(f"{folder} holds no faces.")
    return faces


def with_noise(faces: list[np.ndarray], sigma: float) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [np.clip(np.rint(face + rng.normal(0, sigma, face.shape)), 0, 255).astype(np.uint8) for face in faces]


def sizes(faces: list[np.ndarray]) -> dict[str, float]:
    """Mean bytes a file of each writer."""
    found = {}
    for name, encode in WRITERS.items():
        files = [encode(face) for face in faces]
        for face, file in zip(faces, files, strict=True):
            if not np.array_equal(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED), face):
                raise SystemExit(f"a file of {name} is not its face")
        found[name] = sum(map(len, files)) / len(files)
    return found


def times(faces: list[np.ndarray], rounds: int) -> dict[str, list[float]]:
    """Microseconds a face of each writer, one value a round."""
    taken: dict[str, list[float]] = {name: [] for name in WRITERS}
    for _ in range(rounds):
        for name, encode in WRITERS.items():
            start = time.thread_time()
            for face in faces:
                encode(face)
            taken[name].append((time.thread_time() - start) / len(faces) * 1e6)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], metavar="SIGMA")
    parser.add_argument("--most", type=int, default=60, help="images taken from the folder")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    faces = read_faces(options.faces, options.most)
    for sigma in options.noise:
        noisy = with_noise(faces, sigma)
        taken, size = times(noisy, options.rounds), sizes(noisy)
        cells = [f"{faces[0].shape[1]} px", f"σ {sigma:g}"]
        for name in WRITERS:
            factor = median([a / b for a, b in zip(taken[name], taken["own"], strict=True)])
            cells.append(f"{median(taken[name]):.0f} µs ({factor:.1f} ×), {size[name] / 1000:.1f} kB")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
