"""The exact kernel beside what else warps crops: on a CUDA device kornia, grid_sample and CV-CUDA, and OpenCV's CPU.

Part of gpu_check; by itself it launches the kernel a few times, for a profiler to look at. Device times lie between two
events, with work queued up before the first so that the host's pace does not show; inputs and outputs take turns, so
many that what one call touches has left the L2 cache before its turn comes again. Without a device, for tests, the same
code runs on the CPU under Triton's interpreter by the wall clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
from bench_warp import Scene, scene
from common import core_count

from gpu_extract.kernels import cpu, reference, tables
from gpu_extract.kernels.slab import fill, lies_inside, slab_layout

CASES = [
    (frame, size, faces, cubic)
    for frame in ((1080, 1920), (2160, 3840))
    for size in (256, 512, 1024)
    for faces in (1, 8, 64)
    for cubic in (True, False)
]
TOY_CASES = [((54, 96), 16, faces, cubic) for faces in (2,) for cubic in (True, False)]
MOST_COPIES = 512  # of input and output that take turns; CUDA queues up about a thousand launches
FEW_COPIES = 16  # for contenders that move whole frames as floats, and launch dozens of kernels a call
SECONDS_EACH = 0.4  # of device time that a contender may take in one case
CLOCK_HZ = 2e9  # about a GPU's; only how long the queue is held back depends on it
LONGEST_HOLD_MS = 80


class UnequalError(Exception):
    """The kernel's bytes are wrong: no time of it means anything."""


class Clock:
    """Times calls on a device; on a CPU by the wall."""

    def __init__(self, device: str) -> None:
        import torch

        self._cuda = torch.cuda if device != "cpu" else None

    def ms(self, calls: list[Callable[[], Any]]) -> float:
        """Milliseconds of one call, the calls taking turns: the median over rounds through all of them."""
        if self._cuda is None:
            return self._round(calls, 0.0) / len(calls)
        for call in calls:
            call()
        one_round = self._round(calls, 0.0)
        rounds = int(np.clip(SECONDS_EACH * 1000 / max(one_round, 1e-3), 3, 25))
        return median(self._round(calls, one_round) for _ in range(rounds)) / len(calls)

    def _round(self, calls: list[Callable[[], Any]], host_ms: float) -> float:
        if self._cuda is None:
            began = time.perf_counter()
            for call in calls:
                call()
            return (time.perf_counter() - began) * 1000
        self._cuda.synchronize()
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        # While the device sleeps the host queues up the round, so that launches do not wait for Python.
        self._cuda._sleep(int(min(1 + 1.2 * host_ms, LONGEST_HOLD_MS) / 1000 * CLOCK_HZ))
        start.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        elapsed: float = start.elapsed_time(end)
        return elapsed


def copy_bandwidth(clock: Clock, device: str, nbytes: int) -> float:
    """Bytes a millisecond that the device reads and writes when it copies memory to itself."""
    import torch

    pairs = [[torch.ones(nbytes, dtype=torch.uint8, device=device) for _ in range(2)] for _ in range(2)]
    return 2 * nbytes / clock.ms([partial(target.copy_, source) for source, target in pairs])


def transfer_bandwidths(clock: Clock, device: str, nbytes: int) -> dict[str, float]:
    """Bytes a millisecond that go up to the device and down from it, from and to page-locked memory."""
    import torch

    there = torch.empty(nbytes, dtype=torch.uint8, device=device)
    here = torch.ones(nbytes, dtype=torch.uint8, pin_memory=device != "cpu")
    ways = {"upload": (there, here), "download": (here, there)}
    return {
        way: nbytes / clock.ms([partial(target.copy_, source, non_blocking=True)])
        for way, (target, source) in ways.items()
    }


def launch_ms(clock: Clock, device: str) -> float:
    """Milliseconds of a launch that cuts one pixel: less than that no case can take."""
    return clock.ms(Contenders(scene(1, (64, 64), 1, 1, True, True), device, FEW_COPIES).calls("triton"))


class Contenders:
    """One scene on a device, `copies` times over, and what cuts it there, each to uint8 [K, S, S, 3]."""

    def __init__(self, whole: Scene, device: str, copies: int) -> None:
        import torch

        from gpu_extract.kernels import warp_affine

        self._torch, self._kernel = torch, warp_affine
        self.whole, self.size, self.cubic, self.faces = whole, whole.size, bool(whole.cubic[0]), len(whole.cubic)
        self.copies = copies
        (frame,) = whole.frames
        height, width = frame.shape[:2]
        layout, nbytes = slab_layout([(height, width)])
        slab = np.zeros(nbytes, np.uint8)
        fill(slab, layout[0], frame)
        positions = tables.coordinate_tables(whole.crop_from_frame, self.size)
        self._inside = bool(lies_inside(positions, whole.cubic, whole.frame_of, layout).all())
        arrays = (layout, whole.frame_of, positions, np.arange(self.faces, dtype=np.int32))
        self._arguments = [torch.from_numpy(array).to(device) for array in arrays]
        uploaded = torch.from_numpy(slab).to(device)
        self._slabs = [uploaded.clone() for _ in range(copies)]
        self._outs = [
            torch.empty((self.faces, self.size, self.size, 3), dtype=torch.uint8, device=device) for _ in range(copies)
        ]
        self._frames = [slab[: frame.size].view(height, width, 3) for slab in self._slabs]  # rows of whole words
        self._matrices = torch.from_numpy(whole.crop_from_frame).to(device).float()

    @cached_property
    def _grid(self) -> Any:
        """The exact sample positions, [K, S, S, 2] float32, as grid_sample takes them."""
        dx, dy, x0, y0 = (self._arguments[2][:, i] for i in range(4))
        height, width = self.whole.frames[0].shape[:2]
        x = ((x0[:, :, None] + dx[:, None, :]) >> 5).float() / 32
        y = ((y0[:, :, None] + dy[:, None, :]) >> 5).float() / 32
        return self._torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)

    def calls(self, name: str) -> list[Callable[[], Any]]:
        """One call a copy, or a few. The grid of grid_sample is made before and costs it nothing."""
        cut = getattr(self, f"_{name}")
        copies = self.copies if name in ("triton", "cvcuda") else min(self.copies, FEW_COPIES)
        return [partial(cut, i) for i in range(copies)]

    def _triton(self, i: int) -> Any:
        self._kernel.launch(self._slabs[i], *self._arguments, self.cubic, self._inside, self._outs[i])
        return self._outs[i]

    def _grid_sample(self, i: int) -> Any:
        """The crops of the frame stacked along one grid, so that the frame is not repeated for each."""
        S = self.size
        warped = self._torch.nn.functional.grid_sample(
            self._frames[i].permute(2, 0, 1)[None].float(),
            self._grid.view(1, -1, S, 2),
            mode="bicubic" if self.cubic else "bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return self._to_uint8(warped)[0].view(3, -1, S, S).permute(1, 2, 3, 0).contiguous()

    def _kornia(self, i: int) -> Any:
        """kornia.geometry.warp_affine over the frame, repeated as a view for each crop."""
        import kornia

        warped = kornia.geometry.transform.warp_affine(
            self._frames[i].permute(2, 0, 1)[None].float().expand(self.faces, -1, -1, -1),
            self._matrices,
            (self.size, self.size),
            mode="bicubic" if self.cubic else "bilinear",
            padding_mode="zeros",
            align_corners=True,
        )
        return self._to_uint8(warped).permute(0, 2, 3, 1).contiguous()

    @cached_property
    def _regions(self) -> tuple[Any, Any, Any]:
        """Where each crop's pixels lie, all regions of one size: rows [K, h, 1], columns [K, 1, w], origins [K, 2]."""
        height, width = self.whole.frames[0].shape[:2]
        x0, y0, x1, y1 = np.clip(
            tables.source_region(self.whole.crop_from_frame, self.whole.cubic, self.size),
            0,
            [width, height, width, height],
        ).T
        w, h = max(2, int((x1 - x0).max())), max(2, int((y1 - y0).max()))
        left, top = np.minimum(x0, width - w), np.minimum(y0, height - h)
        rows, columns = top[:, None, None] + np.arange(h)[:, None], left[:, None, None] + np.arange(w)
        device = self._matrices.device
        origins = np.stack([left, top], axis=1).astype(np.float32)
        return tuple(self._torch.from_numpy(array).to(device) for array in (rows, columns, origins))  # type: ignore

    def _region_pixels(self, i: int) -> Any:
        """[K, 3, h, w] float32: only what the crops touch is converted."""
        rows, columns, _ = self._regions
        return self._frames[i][rows, columns].permute(0, 3, 1, 2).float()

    @cached_property
    def _region_grid(self) -> Any:
        """`_grid` in the regions' own coordinates."""
        height, width = self.whole.frames[0].shape[:2]
        rows, columns, origins = self._regions
        frame = self._torch.tensor([width, height], device=origins.device)
        region = self._torch.tensor([columns.shape[2], rows.shape[1]], device=origins.device)
        pixels = ((self._grid + 1) * frame - 1) / 2 - origins[:, None, None, :]
        return (2 * pixels + 1) / region - 1

    def _grid_sample_regions(self, i: int) -> Any:
        """The same of the crops' regions, converted alone; the grid is made before here too."""
        warped = self._torch.nn.functional.grid_sample(
            self._region_pixels(i),
            self._region_grid,
            mode="bicubic" if self.cubic else "bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        return self._to_uint8(warped).permute(0, 2, 3, 1).contiguous()

    @cached_property
    def _region_matrices(self) -> Any:
        matrices, origins = self._matrices.clone(), self._regions[2]
        matrices[:, :, 2] += (matrices[:, :, :2] @ origins[:, :, None])[:, :, 0]
        return matrices

    def _kornia_regions(self, i: int) -> Any:
        """kornia.geometry.warp_affine over the crops' regions, converted alone."""
        import kornia

        warped = kornia.geometry.transform.warp_affine(
            self._region_pixels(i),
            self._region_matrices,
            (self.size, self.size),
            mode="bicubic" if self.cubic else "bilinear",
            padding_mode="zeros",
            align_corners=True,
        )
        return self._to_uint8(warped).permute(0, 2, 3, 1).contiguous()

    def _cvcuda(self, i: int) -> Any:
        """CV-CUDA's var-shape warp, its wrapping of images included; its cubic is another filter (A = -0.5)."""
        import cvcuda

        sources, targets = cvcuda.ImageBatchVarShape(self.faces), cvcuda.ImageBatchVarShape(self.faces)
        sources.pushback([cvcuda.as_image(self._frames[i]) for _ in range(self.faces)])
        targets.pushback([cvcuda.as_image(crop) for crop in self._outs[i]])
        stream = cvcuda.as_stream(self._torch.cuda.current_stream())
        matrices = cvcuda.as_tensor(self._matrices.view(self.faces, 6), "NW")
        kind = cvcuda.Interp.CUBIC if self.cubic else cvcuda.Interp.LINEAR
        cvcuda.warp_affine_into(
            targets, sources, matrices, kind, border_mode=cvcuda.Border.CONSTANT, border_value=[0.0], stream=stream
        )
        return self._outs[i]

    def _to_uint8(self, warped: Any) -> Any:
        return warped.add_(0.5).floor_().clamp_(0, 255).to(self._torch.uint8)

    def opencv_ms(self, pool: ThreadPoolExecutor, rounds: int) -> float:
        """Wall milliseconds of OpenCV on all cores, a crop a task, one OpenCV thread each."""
        (frame,), size = self.whole.frames, self.size
        flags = cv2.INTER_CUBIC if self.cubic else cv2.INTER_AREA
        out = np.empty((self.faces, size, size, 3), np.uint8)

        def cut(k: int) -> None:
            cv2.warpAffine(frame, self.whole.crop_from_frame[k], (size, size), out[k], flags)

        seconds = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            list(pool.map(cut, range(self.faces)))
            seconds.append(time.perf_counter() - began)
        return median(seconds[1:]) * 1000


def least_bytes(whole: Scene) -> int:
    """What must be moved: every crop written once, every frame pixel under any of the crops read once."""
    (frame,), S = whole.frames, whole.size
    under = np.zeros(frame.shape[:2], np.uint8)
    corners = np.array([[0, 0, 1], [S - 1, 0, 1], [S - 1, S - 1, 1], [0, S - 1, 1]], np.float64)
    for frame_from_crop in tables.invert(whole.crop_from_frame):
        cv2.fillConvexPoly(under, np.rint(corners @ frame_from_crop.T).astype(np.int32), 1)
    return 3 * (len(whole.cubic) * S**2 + int(under.sum()))


def copies_of(whole: Scene, l2_bytes: int, free_bytes: int) -> int:
    """How many copies of a scene take turns: twice the L2 cache of what a call touches, in a quarter of the memory."""
    held = whole.frames[0].size + 3 * len(whole.cubic) * whole.size**2
    wanted = 2 * l2_bytes // least_bytes(whole) + 1
    return int(np.clip(min(wanted, free_bytes // 4 // held), 2, MOST_COPIES))


def kernel_rows(
    device: str, clock: Clock, bandwidth: float, l2_bytes: int, deadline: float, skipped: list[str]
) -> Iterator[dict[str, Any]]:
    """A row a case; contenders that are missing or fail are named in `skipped`, cases past the deadline too."""
    import torch

    cv2.setNumThreads(1)
    cases = CASES if device != "cpu" else TOY_CASES
    names = ["triton", "grid_sample", "grid_sample_regions", "kornia", "kornia_regions"]
    if _installed("cvcuda") and device != "cpu":
        names.append("cvcuda")
    else:
        skipped.append("CV-CUDA: not installed" if device != "cpu" else "CV-CUDA: needs a CUDA device")
    with ThreadPoolExecutor(core_count()) as pool:
        for frame, size, faces, cubic in cases:
            title = f"{frame[1]}x{frame[0]}, {faces} x {size} px {'cubic' if cubic else 'linear'}"
            if time.monotonic() > deadline:
                skipped.append(f"{title}: out of time")
                continue
            whole = scene(1, frame, size, faces, cubic, True)
            free_bytes = 0
            if device != "cpu":
                torch.cuda.empty_cache()
                free_bytes = torch.cuda.mem_get_info()[0]
            contenders = Contenders(whole, device, copies_of(whole, l2_bytes, free_bytes))
            row = {"frame": f"{frame[1]}x{frame[0]}", "size": size, "faces": faces, "ms": {}, "levels_away": {}}
            row["interpolation"] = "cubic" if cubic else "linear"
            cut = cpu.warp_affine if cpu.is_available() else reference.warp_affine
            wanted = torch.from_numpy(cut(*whole)).to(device)
            for name in names:
                calls = contenders.calls(name)
                try:
                    away = int((calls[0]().to(torch.int16) - wanted.to(torch.int16)).abs().max())
                    if name == "triton" and away:
                        raise UnequalError(f"the kernel is {away} levels away from the C sampler ({title})")
                    row["levels_away"][name] = away
                    row["ms"][name] = round(clock.ms(calls), 5)
                except Exception as error:  # of other people's libraries, on sizes that they may not be made for
                    if name == "triton":
                        raise
                    row["ms"][name] = None
                    skipped.append(f"{name}, {title}: {(str(error) or type(error).__name__).splitlines()[0]}")
            row["ms"]["opencv_all_cores"] = round(contenders.opencv_ms(pool, 5), 4)
            row["copies"] = contenders.copies
            floor = least_bytes(whole) / bandwidth
            row["floor_ms"] = round(floor, 5)
            row["times_memory_floor"] = round(row["ms"]["triton"] / floor, 2)
            row["times_faster_than"] = {
                name: round(ms / row["ms"]["triton"], 2)
                for name, ms in row["ms"].items()
                if ms is not None and name != "triton"
            }
            del contenders, calls, wanted  # their memory is the next case's
            yield row


def launch_for_a_profiler() -> None:
    """Cubic crops of 256 px, 64 at a time."""
    import torch

    for call in Contenders(scene(1, (1080, 1920), 256, 64, True, True), "cuda", 8).calls("triton"):
        call()
    torch.cuda.synchronize()


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


if __name__ == "__main__":
    launch_for_a_profiler()
