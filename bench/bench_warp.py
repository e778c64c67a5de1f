"""How fast the exact samplers are, beside OpenCV on the CPU and beside kornia and grid_sample on a CUDA device.

    python bench/bench_warp.py                     JSON to stdout, a table to stderr
    python bench/bench_warp.py --json FILE
    python bench/bench_warp.py --table FILE        the Markdown table of such a file, for kernels/README.md

Contenders run in turn, in an order that changes, in one process; the figure is the median over the rounds, the ratio
the median over the rounds' pairs. Each finds its pixels freshly written, as in a pipeline: OpenCV the whole frame, ours
the regions that the crops touch. Nothing is timed before it gave the bytes of the reference (kornia and grid_sample,
which sample in floats: within their band). CUDA times are device times between events, warm, with inputs that rotate;
without a CUDA device that part says so and holds no number.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
from common import run_metadata

from gpu_extract import kernels
from gpu_extract.kernels import cpu, reference, tables

CPU_CASES = [(size, cubic, turned) for size in (256, 512) for cubic in (True, False) for turned in (False, True)]
CUDA_CASES = [
    (frame, size, faces, cubic)
    for frame in ((1080, 1920), (2160, 3840))
    for size in (256, 512, 1024)
    for faces in (1, 8, 64)
    for cubic in (True, False)
]
ROTATION = 4  # different inputs that take turns, so that no cache holds them all
FLOAT_BAND = 3  # levels that float samplers may be away from the reference


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


class OnDevice:
    """One scene on a torch device, and the contenders that cut it there, each to uint8 [K, S, S, 3]."""

    def __init__(self, whole: Scene, device: str) -> None:
        import torch

        from gpu_extract.kernels import warp_affine

        self.torch, self.kernel = torch, warp_affine
        self.size, self.cubic, faces = whole.size, bool(whole.cubic[0]), len(whole.cubic)
        layout, n_bytes = warp_affine.slab_layout([frame.shape[:2] for frame in whole.frames])
        slab = np.empty(n_bytes, np.uint8)
        for place, frame in zip(layout, whole.frames, strict=True):
            warp_affine.fill(slab, place, frame)
        positions = tables.coordinate_tables(whole.crop_from_frame, whole.size)
        arrays = (slab, layout, whole.frame_of, positions, np.arange(faces, dtype=np.int32))
        self.arguments = [torch.from_numpy(array).to(device) for array in arrays]
        self.crops = torch.empty((faces, self.size, self.size, 3), dtype=torch.uint8, device=device)
        self.frame = torch.from_numpy(whole.frames[0]).to(device)
        self.matrices = torch.from_numpy(whole.crop_from_frame).to(device).float()
        dx, dy, x0, y0 = (self.arguments[3][:, i].float() for i in range(4))
        height, width = whole.frames[0].shape[:2]
        x = torch.floor((x0[:, :, None] + dx[:, None, :]) / 32) / 32
        y = torch.floor((y0[:, :, None] + dy[:, None, :]) / 32) / 32
        self.grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)  # [K, S, S, 2]

    def triton(self) -> Any:
        self.kernel.launch(*self.arguments, self.cubic, self.crops)
        return self.crops

    def _to_uint8(self, warped: Any) -> Any:
        return warped.add_(0.5).floor_().clamp_(0, 255).to(self.torch.uint8)

    def grid_sample(self) -> Any:
        """The crops of the frame stacked along one grid, so that the frame is not repeated for each."""
        S = self.size
        source = self.frame.permute(2, 0, 1)[None].float()
        warped = self.torch.nn.functional.grid_sample(
            source,
            self.grid.view(1, -1, S, 2),
            mode="bicubic" if self.cubic else "bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return self._to_uint8(warped)[0].view(3, -1, S, S).permute(1, 2, 3, 0).contiguous()

    def kornia(self) -> Any:
        """kornia.geometry.warp_affine over the frame, repeated as a view for each crop."""
        import kornia

        source = self.frame.permute(2, 0, 1)[None].float().expand(len(self.matrices), -1, -1, -1)
        mode = "bicubic" if self.cubic else "bilinear"
        warped = kornia.geometry.transform.warp_affine(
            source, self.matrices, (self.size, self.size), mode=mode, padding_mode="zeros", align_corners=True
        )
        return self._to_uint8(warped).permute(0, 2, 3, 1).contiguous()


def device_ms(torch: Any, work: list[Callable[[], Any]], rounds: int) -> float:
    """Median device milliseconds of one call, the callables taking turns."""
    for call in work * 2:
        call()
    times = []
    for turn in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work[turn % len(work)]()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def copy_bandwidth(torch: Any) -> float:
    """Bytes a millisecond that this card reads and writes when it copies 512 MiB to itself."""
    source = torch.empty(512 << 20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / device_ms(torch, [lambda: target.copy_(source)], 21)


def check_device(on_device: OnDevice, whole: Scene, contenders: list[str]) -> None:
    expected = with_opencv(whole).astype(int)
    for name in contenders:
        away = np.abs(getattr(on_device, name)().cpu().numpy() - expected).max()
        if away > (0 if name == "triton" else FLOAT_BAND):
            raise SystemExit(f"{name} is {away} levels away from the reference; nothing is timed")


def cuda_rows(rounds: int) -> Iterator[dict[str, Any]]:
    """Device milliseconds of each CUDA contender and how near the kernel is to the card's copy bandwidth."""
    import torch

    bandwidth = copy_bandwidth(torch)
    contenders = ["triton", "grid_sample", "kornia"]
    for frame, size, faces, cubic in CUDA_CASES:
        whole = [scene(seed, frame, size, faces, cubic, True) for seed in range(ROTATION)]
        scenes = [OnDevice(one, "cuda") for one in whole]
        row: dict[str, Any] = {
            "frame": f"{frame[1]}x{frame[0]}",
            "size": size,
            "faces": faces,
            "interpolation": "cubic" if cubic else "linear",
            "ms": {},
        }
        check_device(scenes[0], whole[0], contenders[:2])
        for name in contenders:
            try:
                row["ms"][name] = round(device_ms(torch, [getattr(one, name) for one in scenes], rounds), 4)
            except torch.cuda.OutOfMemoryError:
                row["ms"][name] = None
                torch.cuda.empty_cache()
        scale = float(np.hypot(*whole[0].crop_from_frame[0, 0, :2]))
        moved = faces * 3 * (size**2 + (size / scale) ** 2)
        row["times_memory_floor"] = round(row["ms"]["triton"] / (moved / bandwidth), 2)
        yield row


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
    result: dict[str, Any] = {"metadata": run_metadata(), "sampler": cpu.variant(), "cpu": [], "cuda": []}
    for case in CPU_CASES:
        row = cpu_row(*case, options.rounds)
        result["cpu"].append(row)
        print(row["size"], row["interpolation"], "turned" if row["turned"] else "upright", "µs a crop:",
              row["us_per_crop"], "times OpenCV:", row["times_opencv"], file=sys.stderr)  # fmt: skip
    if kernels.is_available():
        for row in cuda_rows(options.rounds):
            result["cuda"].append(row)
            print(row, file=sys.stderr)
    else:
        result["skipped"] = "CUDA: not yet measured on a GPU (no CUDA device here)"
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
