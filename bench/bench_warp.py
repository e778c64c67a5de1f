"""How fast the exact samplers are on the CPU, beside OpenCV; gpu_check has the kernel of the GPU.

    python bench/bench_warp.py                     JSON to stdout, a table to stderr
    python bench/bench_warp.py --json FILE
    python bench/bench_warp.py --table FILE        the Markdown table of such a file, for kernels/README.md

Contenders run in turn, in an order that changes, in one process; the figure is the median over the rounds, the ratio
the median over the rounds' pairs. Each finds its pixels freshly written, as in a pipeline: OpenCV the whole frame, ours
the regions that the crops touch. Nothing is timed before it gave the bytes of the reference.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
from common import run_metadata

from gpu_extract.kernels import cpu, reference, tables

CPU_CASES = [(size, cubic, turned) for size in (256, 512) for cubic in (True, False) for turned in (False, True)]
ROTATION = 4  # different inputs that take turns, so that no cache holds them all


class Scene(NamedTuple):
    """Arguments of warp_affine: one frame, K crops of it."""

    frames: list[np.ndarray]
    frame_of: np.ndarray
    crop_from_frame: np.ndarray
    cubic: np.ndarray
    size: int
    origins: list[tuple[int, int]]


def scene(seed: int, frame: tuple[int, int], size: int, faces: int, cubic: bool, turned: bool) -> Scene:
    """Crops that lie inside a frame of smoothed noise: enlarged to 150 % for cubic, reduced to 60 % for linear."""
    rng = np.random.default_rng(seed)
    height, width = frame
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), (0, 0), 1.5)
    scale = max(1.5 if cubic else 0.6, 1.5 * size / min(frame))
    matrices = np.empty((faces, 2, 3))
    for matrix in matrices:
        angle = rng.uniform(-0.5, 0.5) if turned else 0.0
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        margin = 0.75 * size / scale
        centre = rng.uniform((margin, margin), (max(margin, width - margin), max(margin, height - margin)))
        matrix[:] = np.c_[turn, size / 2 - turn @ centre]
    return Scene([pixels], np.zeros(faces, np.int32), matrices, np.full(faces, cubic), size, [(0, 0)])


def pieces_of(whole: Scene) -> Scene:
    """The same crops, each from a copy of the region that it touches: what a pipeline hands over."""
    pieces, origins = [], []
    for region, frame in zip(
        tables.source_region(whole.crop_from_frame, whole.cubic, whole.size), whole.frame_of, strict=True
    ):
        height, width = whole.frames[frame].shape[:2]
        x0, y0, x1, y1 = np.clip(region, 0, [width, height, width, height])
        pieces.append(whole.frames[frame][y0:y1, x0:x1].copy())
        origins.append((int(x0), int(y0)))
    order = np.arange(len(pieces), dtype=np.int32)
    return whole._replace(frames=pieces, frame_of=order, origins=origins)


def with_opencv(whole: Scene) -> np.ndarray:
    crops = np.empty((len(whole.cubic), whole.size, whole.size, 3), np.uint8)
    for crop, frame, matrix, cubic in zip(crops, whole.frame_of, whole.crop_from_frame, whole.cubic, strict=True):
        flags = cv2.INTER_CUBIC if cubic else cv2.INTER_AREA
        cv2.warpAffine(whole.frames[frame], matrix, (whole.size, whole.size), crop, flags)
    return crops


def with_portable_c(pieces: Scene) -> np.ndarray:
    crops = np.empty((len(pieces.cubic), pieces.size, pieces.size, 3), np.uint8)
    positions = tables.coordinate_tables(pieces.crop_from_frame, pieces.size)
    for crop, source, table, cubic in zip(crops, pieces.frame_of, positions, pieces.cubic, strict=True):
        cpu._sampler.warp(
            pieces.frames[source], *pieces.origins[source], table, tables.weights(bool(cubic)), crop, True
        )
    return crops


def cpu_row(size: int, cubic: bool, turned: bool, rounds: int) -> dict[str, Any]:
    """Microseconds a crop on one core of each CPU contender, two crops a call."""
    faces = 2
    whole = [scene(seed, (1080, 1920), size, faces, cubic, turned) for seed in range(ROTATION)]
    pieces = [pieces_of(one) for one in whole]
    contenders: dict[str, tuple[Callable[[Scene], np.ndarray], list[Scene]]] = {"opencv": (with_opencv, whole)}
    if cpu.is_available():
        contenders["c"] = (lambda one: cpu.warp_affine(*one), pieces)
        contenders["c_portable"] = (with_portable_c, pieces)
    expected = reference.warp_affine(*whole[0])
    for name, (cut, scenes) in contenders.items():
        if not np.array_equal(cut(scenes[0]), expected):
            raise SystemExit(f"{name} does not give the bytes of the reference; nothing is timed")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names, rng = list(contenders), np.random.default_rng(0)
    for turn in range(rounds):
        for name in rng.permutation(names):
            cut, scenes = contenders[name]
            one = scenes[turn % ROTATION]
            fresh = one._replace(frames=[frame.copy() for frame in one.frames])
            start = time.perf_counter()
            cut(fresh)
            seconds[name].append(time.perf_counter() - start)
    start = time.perf_counter()
    reference.warp_affine(*whole[0])
    return {
        "size": size,
        "interpolation": "cubic" if cubic else "linear",
        "turned": turned,
        "us_per_crop": {name: round(median(values) / faces * 1e6, 1) for name, values in seconds.items()}
        | {"reference": round((time.perf_counter() - start) / faces * 1e6, 1)},
        "times_opencv": {
            name: round(median(a / b for a, b in zip(seconds["opencv"], values, strict=True)), 2)
            for name, values in seconds.items()
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The CPU figures as the table of kernels/README.md."""
    lines = [
        "| crop | sampling | crops are | OpenCV | C | | C, portable | | NumPy reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["cpu"]:
        us, ratio = row["us_per_crop"], row["times_opencv"]
        lines.append(
            f"| {row['size']} px | {row['interpolation']} | {'turned' if row['turned'] else 'upright'} "
            f"| {us['opencv']:.0f} µs | **{us['c']:.0f} µs** | {ratio['c']:.1f} × | {us['c_portable']:.0f} µs "
            f"| {ratio['c_portable']:.1f} × | {us['reference'] / 1000:.0f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there instead of to stdout")
    parser.add_argument("--rounds", type=int, default=31, help="times that each contender runs (default 31)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the Markdown table of a result and stop")
    options = parser.parse_args()
    if options.table:
        print(markdown(json.loads(options.table.read_text())))
        return
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"metadata": run_metadata(), "sampler": cpu.variant(), "cpu": []}
    for case in CPU_CASES:
        row = cpu_row(*case, options.rounds)
        result["cpu"].append(row)
        print(row["size"], row["interpolation"], "turned" if row["turned"] else "upright", "µs a crop:",
              row["us_per_crop"], "times OpenCV:", row["times_opencv"], file=sys.stderr)  # fmt: skip
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
