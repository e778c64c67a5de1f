"""The contract that every engine keeps, and how one is picked."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.engines import pick
from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.kernels import reference
from gpu_extract.patch import Patch, group_regions, whole_frame


def places() -> list[str]:
    import torch

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


RUNNABLE = [(m, place) for place in places() for m in pick.modules() if m.obstacle(place) is None]


@pytest.fixture(params=RUNNABLE, ids=[f"{m.__name__.rpartition('.')[2]}-{place}" for m, place in RUNNABLE])
def engine(request: pytest.FixtureRequest) -> Any:
    module, place = request.param
    with module.create(place, MemoryLimits(batch_mb=8, pinned_mb=32), print) as made:
        yield made


def natural(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth, non-symmetric picture [H, W, 3] uint8 with some grain, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (max(2, height // 24), max(2, width // 24), 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 2, (height, width, 3))
    return np.clip(smooth, 0, 255).astype(np.uint8)


def turned(scale: float, degrees: float, centre: tuple[float, float], size: int) -> np.ndarray:
    """crop_from_frame [2, 3] that shows the frame around `centre`."""
    t = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    return np.column_stack([turn, np.array([size / 2, size / 2]) - turn @ np.array(centre)])


def some_crops(size: int) -> tuple[list[np.ndarray], Crops]:
    """Frames of different, odd, non-square sizes and crops of all kinds over them."""
    frames = [natural(61, 97, 1), natural(120, 45, 2), natural(33, 34, 3)]
    wanted = [
        (0, turned(1.7, 20, (40, 30), size), True),
        (2, turned(0.4, -118, (17, 16), size), False),
        (1, turned(2.5, 90, (1, 118), size), True),  # a corner: partly outside
        (0, turned(0.8, 180, (48, 30), size), False),
        (1, turned(1.0, 0, (-200, 60), size), True),  # wholly outside
        (0, turned(1.0, 0, (48.5, 30.5), size), True),
    ]
    patch, matrix, cubic = zip(*wanted, strict=True)
    return frames, Crops(np.array(patch), np.array(matrix), np.array(cubic), size)


def truth(frames: list[np.ndarray], crops: Crops) -> np.ndarray:
    return reference.warp_affine(frames, crops.patch, crops.crop_from_frame, crops.cubic, crops.size)


def assert_close(engine: Engine, got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal for exact engines; inside kornia's stated band for the other."""
    if engine.name == "exact":
        np.testing.assert_array_equal(got, wanted)
        return
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= 3
    assert (difference > 1).mean() < 1e-4


@pytest.mark.parametrize("size", [16, 37, 64])
def test_equals_the_reference(engine: Engine, size: int) -> None:
    frames, crops = some_crops(size)
    got = engine.warp([whole_frame(frame) for frame in frames], crops)
    assert got.shape == (6, size, size, 3)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    assert_close(engine, got, truth(frames, crops))
    assert not got[4].any()  # wholly outside the frame is black


def test_a_patch_gives_the_same_bytes_as_its_frame(engine: Engine) -> None:
    from gpu_extract.kernels import tables

    frames, crops = some_crops(48)
    patches = []
    for k in range(len(crops)):
        frame = frames[crops.patch[k]]
        region = tables.source_region(crops.crop_from_frame[k : k + 1], crops.cubic[k : k + 1], 48)
        [(x0, y0, x1, y1)], _ = group_regions(region, *frame.shape[:2])
        padded = np.full((y1 - y0 + 2, x1 - x0 + 2, 3), 255, np.uint8)  # a view into strided memory, poison around it
        padded[1:-1, 1:-1] = frame[y0:y1, x0:x1]
        patches.append(Patch(padded[1:-1, 1:-1], x0, y0, *frame.shape[:2]))
    own = Crops(np.arange(len(crops)), crops.crop_from_frame, crops.cubic, 48)
    assert_close(engine, engine.warp(patches, own), truth(frames, crops))


def test_a_patch_of_one_pixel_for_a_face_outside_the_frame(engine: Engine) -> None:
    frame = natural(40, 60, 8)
    matrices = np.array([turned(1.5, 30, (-90, 20), 32), turned(0.5, 10, (200, -70), 32)])
    crops = Crops(np.array([0, 1]), matrices, np.array([True, False]), 32)
    patches = [Patch(frame[20:21, :1], 0, 20, 40, 60), Patch(frame[:1, 59:], 59, 0, 40, 60)]
    assert not engine.warp(patches, crops).any()


def test_many_more_crops_than_a_batch_holds(engine: Engine) -> None:
    frame = natural(200, 300, 5)
    count, size = (60, 160) if "interpreted" not in engine.implementation else (7, 24)
    matrices = np.array([turned(0.5 + 0.04 * i, 7 * i, (3 * i, 2 * i), size) for i in range(count)])
    crops = Crops(np.zeros(count, int), matrices, np.arange(count) % 3 > 0, size)
    ticket = engine.submit([whole_frame(frame)], crops)
    got = ticket.result().copy()
    ticket.release()
    assert_close(engine, got, truth([frame], crops))


def test_batches_in_flight_do_not_disturb_each_other(engine: Engine) -> None:
    frames, crops = some_crops(64)
    patches = [whole_frame(frame) for frame in frames]
    wanted = truth(frames, crops)
    others = [whole_frame(255 - frame) for frame in frames]
    tickets = [engine.submit(patches, crops), engine.submit(others, crops), engine.submit(patches, crops)]
    for ticket, source in zip(tickets, (patches, others, patches), strict=True):
        right = wanted if source is patches else truth([patch.pixels for patch in others], crops)
        assert_close(engine, ticket.result(), right)
        ticket.release()


def test_no_crops(engine: Engine) -> None:
    none = Crops(np.empty(0, int), np.empty((0, 2, 3)), np.empty(0, bool), 32)
    assert engine.warp([whole_frame(natural(8, 9, 1))], none).shape == (0, 32, 32, 3)


def test_kornia_stays_inside_its_band_on_natural_images() -> None:
    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    frame = natural(540, 960, 9)
    rng = np.random.default_rng(4)
    count = 24
    matrices = np.array(
        [turned(rng.uniform(0.3, 3), rng.uniform(0, 360), rng.uniform((0, 0), (960, 540)), 128) for _ in range(count)]
    )
    crops = Crops(np.zeros(count, int), matrices, np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) >= 1, 128)
    got = KorniaEngine("cpu", MemoryLimits(batch_mb=64)).warp([whole_frame(frame)], crops)
    difference = np.abs(got.astype(int) - truth([frame], crops))
    assert difference.max() <= 3
    assert (difference > 1).mean() < 1e-4


def test_auto_takes_exact_on_a_cpu() -> None:
    picked, _ = pick.pick_engine("auto", "cpu")
    assert (picked.name, picked.device) == ("exact", "cpu")


def test_kornia_can_be_asked_for() -> None:
    picked, _ = pick.pick_engine("kornia", "cpu")
    assert picked.name == "kornia"


@pytest.mark.parametrize(
    ("kind", "device", "error", "text"),
    [
        ("fast", "cpu", UsageError, "engine 'fast' is not understood; auto, exact, kornia are"),
        ("exact", "gpu", UsageError, "device 'gpu' is not understood"),
        ("exact", "cuda:x", UsageError, "not understood"),
        ("exact", "cuda:99", DeviceError, "cuda:99 was asked for but"),
    ],
)
def test_what_cannot_be_had_is_a_sentence(kind: str, device: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        pick.pick_engine(kind, device)


def test_opencv_5_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.engines.samplers import exact_opencv

    monkeypatch.setattr(cv2, "__version__", "5.0.0")
    reason = exact_opencv.obstacle("cpu")
    assert reason is not None
    assert "OpenCV 5.0.0 samples differently" in reason


def test_without_the_c_sampler_opencv_cuts_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.kernels import cpu

    monkeypatch.setattr(cpu, "is_available", lambda: False)
    picked, passed_over = pick.pick_engine("exact", "cpu")
    assert picked.implementation.startswith("OpenCV 4")
    assert any("not built" in line for line in passed_over)
    frames, crops = some_crops(50)
    np.testing.assert_array_equal(picked.warp([whole_frame(f) for f in frames], crops), truth(frames, crops))


def test_the_cuda_engine_keeps_the_contract_in_the_interpreter() -> None:
    """The contract tests of this file over the CUDA engine, its kernel run by Triton's interpreter on the CPU."""
    pytest.importorskip("triton")
    import os
    import subprocess
    import sys

    chosen = f"{__file__}::test_equals_the_reference[exact_cuda-cpu-37]"
    others = [f"{__file__}::{name}[exact_cuda-cpu]" for name in CONTRACT]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", chosen, *others]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert f"{1 + len(CONTRACT)} passed" in run.stdout


CONTRACT = (
    "test_a_patch_gives_the_same_bytes_as_its_frame",
    "test_many_more_crops_than_a_batch_holds",
    "test_batches_in_flight_do_not_disturb_each_other",
    "test_no_crops",
)
