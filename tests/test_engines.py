"""How an engine is picked; what every engine keeps is in `tests/contracts/test_engine.py`."""

from __future__ import annotations

import weakref
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.engines import pick
from gpu_extract.engines.base import Crops, MemoryLimits
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.kernels.tables import source_region
from gpu_extract.patch import Patch, group_regions, whole_frame
from tests.helpers import assert_as_exact_as_promised, exact_crops, photograph, some_crops, turned


def test_kornia_stays_inside_its_band_on_natural_images() -> None:
    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    frame = photograph(540, 960, 9)
    rng = np.random.default_rng(4)
    count = 24
    matrices = np.array(
        [turned(rng.uniform(0.3, 3), rng.uniform(0, 7), rng.uniform((0, 0), (960, 540)), 128) for _ in range(count)]
    )
    crops = Crops(np.zeros(count, int), matrices, np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]) >= 1, 128)
    with KorniaEngine("cpu", MemoryLimits(batch_mb=64)) as engine:
        assert_as_exact_as_promised(engine, engine.warp([whole_frame(frame)], crops), exact_crops([frame], crops))


def test_what_kornia_makes_of_a_face_depends_on_no_other_face() -> None:
    """Nor on how much of the frame it is given, in batches of any size, together or in parts."""
    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    size, height, width, count = 33, 170, 243, 40
    frame = photograph(height, width, 9)
    rng = np.random.default_rng(5)
    scales, angles = np.exp(rng.uniform(np.log(0.15), np.log(4), count)), rng.uniform(0, 7, count)
    centres = rng.uniform((-30, -30), (width + 30, height + 30), (count, 2))
    matrices = np.array([turned(*one, size) for one in zip(scales, angles, centres, strict=True)])
    cubic = scales >= 1
    patches = []
    for region in source_region(matrices, cubic, size):
        ((x0, y0, x1, y1),), _ = group_regions(region[None], height, width)
        patches.append(Patch(frame[y0:y1, x0:x1], x0, y0, height, width))

    def cut(engine: KorniaEngine, rows: np.ndarray, given: list[Patch]) -> np.ndarray:
        part = Crops(np.arange(len(rows)), matrices[rows], cubic[rows], size)
        return engine.warp([given[i] for i in rows], part)

    with KorniaEngine("cpu", MemoryLimits(batch_mb=64)) as engine, KorniaEngine("cpu", MemoryLimits(batch_mb=1)) as few:
        alone = np.concatenate([cut(engine, np.array([i]), patches) for i in range(count)])
        assert alone.any(axis=(1, 2, 3)).sum() > 28
        for batch in (1, 2, 3, 7, 36):
            order = rng.permutation(count)
            for start in range(0, count, batch):
                rows = order[start : start + batch]
                for of in (engine, few) if batch > 3 else (engine,):
                    np.testing.assert_array_equal(cut(of, rows, patches), alone[rows])
        np.testing.assert_array_equal(cut(engine, np.arange(count), [whole_frame(frame)] * count), alone)


@pytest.mark.parametrize("cubic", [True, False])
def test_kornia_ends_where_the_exact_sampler_does_in_frames_longer_than_int16(cubic: bool) -> None:
    """What would lie behind shows the last pixels that a position can tell, over and over."""
    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    size, wide = 24, photograph(40, 33_000, 3)
    across = np.array(
        [turned(scale, 0.3, (x, 21), size) for x in (32_700, 32_755, 32_768, 32_999, 40_000) for scale in (0.4, 1.7)]
    )
    down, tall = across[:, ::-1][:, :, [1, 0, 2]], np.ascontiguousarray(wide.transpose(1, 0, 2))
    with KorniaEngine("cpu", MemoryLimits(batch_mb=64)) as engine:
        for frame, matrices in ((wide, across), (tall, down)):
            crops = Crops(np.zeros(len(matrices), int), matrices, np.full(len(matrices), cubic), size)
            truth = exact_crops([frame], crops)
            assert truth.any(axis=(1, 2, 3)).all()
            assert_as_exact_as_promised(engine, engine.warp([whole_frame(frame)], crops), truth)


def test_what_lies_in_memory_behind_its_pictures_is_nothing_to_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are said to be larger than they are, and no pixel of that may count, not even for nothing."""
    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    padded = KorniaEngine._padded

    def poisoned(engine: KorniaEngine, *arguments: Any) -> Any:
        pictures = padded(engine, *arguments)
        memory = pictures.as_strided((pictures.untyped_storage().nbytes() // 4,), (1,))
        memory[pictures.numel() :] = float("nan")
        return pictures

    monkeypatch.setattr(KorniaEngine, "_padded", poisoned)
    frames, crops = some_crops(33)
    frames += [frame[:1] for frame in frames] + [frame[:, :1] for frame in frames] + [frames[0][:1, :1]]
    crops = Crops(
        np.resize(np.arange(len(frames)), 3 * len(frames)),
        np.resize(crops.crop_from_frame, (3 * len(frames), 2, 3)),
        np.arange(3 * len(frames)) % 2 == 0,
        33,
    )
    for batch_mb in (1, 64):
        with KorniaEngine("cpu", MemoryLimits(batch_mb=batch_mb)) as engine:
            made = engine.warp([whole_frame(frame) for frame in frames], crops)
        assert_as_exact_as_promised(engine, made, exact_crops(frames, crops))


@pytest.mark.parametrize(
    ("height", "width", "size", "count"),
    [
        (150, 150, 150, 60),
        (300, 300, 150, 30),
        (60, 60, 150, 60),
        (130, 515, 150, 40),
        (540, 960, 64, 3),
        (1, 700, 16, 400),
    ],
)
def test_kornia_holds_no_more_floats_than_it_may(height: int, width: int, size: int, count: int) -> None:
    """Or those of one crop, where that needs more."""
    from torch.utils._python_dispatch import TorchDispatchMode

    from gpu_extract.engines.samplers.kornia_torch import KorniaEngine

    batch_mb = 8
    held: dict[int, int] = {}
    most = 0

    class Held(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most
            made = func(*args, **(kwargs or {}))
            if func.is_view or not made.is_floating_point():
                return made
            if id(storage := made.untyped_storage()) not in held:
                held[id(storage)] = storage.nbytes()
                weakref.finalize(storage, held.pop, id(storage))
                most = max(most, sum(held.values()))
            return made

    matrices = np.repeat([[[size / width, 0.01, 0], [0, size / height, 0]]], count, axis=0)
    crops = Crops(np.zeros(count, int), matrices, np.ones(count, bool), size)
    with KorniaEngine("cpu", MemoryLimits(batch_mb=batch_mb)) as engine, Held():  # type: ignore[no-untyped-call]
        engine.warp([whole_frame(photograph(height, width, 2))], crops)
    picture = 4 * 3 * height * width
    assert picture < most <= max(batch_mb << 20, 4 * picture)


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
    assert any("not built" in one.obstacle for one in passed_over)
    frames, crops = some_crops(50)
    np.testing.assert_array_equal(picked.warp([whole_frame(f) for f in frames], crops), exact_crops(frames, crops))
