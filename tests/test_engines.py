"""How an engine is picked; what every engine keeps is in `tests/contracts/test_engine.py`."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gpu_extract.engines import pick
from gpu_extract.engines.base import Crops, MemoryLimits
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.patch import whole_frame
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
