"""What every engine keeps (`gpu_extract/engines/base.py`), compared with the slow reference.

A new engine gets a line in `ENGINES`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpu_extract import kernels, plugins
from gpu_extract.engines.antialiased import AntialiasedEngine
from gpu_extract.engines.base import Crops, Engine, MemoryLimits
from gpu_extract.engines.slots import SLOTS
from gpu_extract.kernels import antialias, reference, tables
from gpu_extract.patch import Patch, group_regions, whole_frame
from tests.contracts.fakes import FakeEngine
from tests.helpers import (
    assert_as_exact_as_promised,
    exact_crops,
    module_from,
    noise,
    photograph,
    some_crops,
    turned,
)

SAMPLERS = "gpu_extract.engines.samplers"


def averaged_crops(frames: list[np.ndarray], crops: Crops) -> np.ndarray:
    """The truth of antialiased sampling."""
    arguments = (frames, crops.patch, crops.crop_from_frame, crops.cubic, crops.size)
    return antialias.warp_affine(reference.warp_affine, *arguments)


class Sampling(NamedTuple):
    truth: Callable[[list[np.ndarray], Crops], np.ndarray]
    region: Callable[[np.ndarray, np.ndarray, int], np.ndarray]


PLAIN = Sampling(exact_crops, tables.source_region)
AVERAGED = Sampling(averaged_crops, antialias.source_region)


class Backend(NamedTuple):
    name: str
    make: Callable[[], Engine]
    module: str = ""
    """In the folder of plug-ins."""
    sampling: Sampling = PLAIN
    sizes: tuple[int, ...] = (16, 37, 64)
    """Of the crops that are compared with the reference; the others are as large as the first."""
    many: tuple[int, int] = (24, 40)
    """How many crops, and their size, go into a batch that is too large for it."""

    few: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    """Which of the crops go into a batch where several batches are cut."""

    def crops(self) -> tuple[list[np.ndarray], Crops]:
        return some_crops(self.sizes[0])

    def few_crops(self) -> tuple[list[np.ndarray], Crops]:
        frames, crops = self.crops()
        few = list(self.few)
        return frames, Crops(crops.patch[few], crops.crop_from_frame[few], crops.cubic[few], crops.size)


def sampler(module: str, device: str = "cpu", **fields: Any) -> Any:
    """The engine of a module in `samplers/`, on a device."""

    def make() -> Engine:
        found = plugins.module(SAMPLERS, module)
        if (obstacle := found.obstacle(device)) is not None:
            pytest.skip(obstacle)
        engine: Engine = found.create(device, MemoryLimits(batch_mb=1, pinned_mb=32), print)
        return engine

    marks = [] if device == "cpu" else [pytest.mark.cuda]
    return pytest.param(Backend(f"{module}-{device}", make, module, **fields), marks=marks)


def interpreted(module: str, **fields: Any) -> Any:
    """The CUDA engine on a CPU, its kernel run by Triton's interpreter: slow, so the crops are small."""

    def make() -> Engine:
        pytest.importorskip("triton")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            source = Path(kernels.__file__).with_name("warp_affine.py")
            patch.setattr(kernels, "warp_affine", module_from(source, "warp_affine_of_the_contract"), raising=False)
            engine: Engine = sampler(module).values[0].make()
        assert "interpreted" in engine.implementation
        return engine

    return pytest.param(Backend(f"{module}-interpreted", make, module, **fields))


def cuda_devices() -> list[str]:
    """All that are there, but one at least, for which tests are skipped, or fail, where there is none."""
    import torch

    return [f"cuda:{i}" for i in range(max(1, torch.cuda.device_count()))]


def fake(name: str, make: Callable[[], Engine], **fields: Any) -> Any:
    return pytest.param(Backend(name, make, many=(24, 20), **fields))


ENGINES = [
    sampler("exact_cpu"),
    sampler("exact_opencv"),
    sampler("kornia_torch"),
    interpreted("exact_cuda", sizes=(9, 17), many=(7, 12), few=(1, 2)),  # a linear one, and a cubic one partly outside
    *(sampler("exact_cuda", device) for device in cuda_devices()),
    *(sampler("kornia_torch", device) for device in cuda_devices()),
    fake("fake", FakeEngine),
    fake("fake-batched", lambda: FakeEngine(inline=False)),
    fake("antialiased", lambda: AntialiasedEngine(FakeEngine()), sampling=AVERAGED),
]


@pytest.fixture(scope="module", params=ENGINES, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param
    return made


@pytest.fixture(scope="module")
def engine(backend: Backend) -> Iterator[Engine]:
    """One for all tests of the class: some take seconds to make, and batches of others are what they must survive."""
    with backend.make() as made:
        yield made


def whole(frames: Sequence[np.ndarray]) -> list[Patch]:
    return [whole_frame(frame) for frame in frames]


def test_every_sampler_has_a_line() -> None:
    assert {parameter.values[0].module for parameter in ENGINES} - {""} == set(plugins.names(SAMPLERS))


class TestEngine:
    def test_it_says_what_it_is(self, engine: Engine) -> None:
        assert engine.name in ("exact", "kornia")
        assert engine.implementation
        assert engine.device == "cpu" or engine.device.startswith("cuda:")
        assert isinstance(engine.inline, bool)
        assert engine.batch_bytes > 0

    def test_crops_equal_the_reference(self, engine: Engine, backend: Backend) -> None:
        for size in backend.sizes:
            frames, crops = some_crops(size)
            got = engine.warp(whole(frames), crops)
            assert got.shape == (6, size, size, 3)
            assert got.dtype == np.uint8
            assert got.flags.c_contiguous
            assert_as_exact_as_promised(engine, got, backend.sampling.truth(frames, crops))
            assert not got[4].any()  # wholly outside the frame is black

    def test_a_patch_gives_the_same_bytes_as_its_frame(self, engine: Engine, backend: Backend) -> None:
        frames, crops = backend.crops()
        patches = []
        for k in range(len(crops)):
            frame = frames[crops.patch[k]]
            region = backend.sampling.region(crops.crop_from_frame[k : k + 1], crops.cubic[k : k + 1], crops.size)
            [(x0, y0, x1, y1)], _ = group_regions(region, *frame.shape[:2])
            padded = np.full((y1 - y0 + 2, x1 - x0 + 2, 3), 255, np.uint8)  # rows are strided, with poison around them
            padded[1:-1, 1:-1] = frame[y0:y1, x0:x1]
            patches.append(Patch(padded[1:-1, 1:-1], x0, y0, *frame.shape[:2]))
        own = Crops(np.arange(len(crops)), crops.crop_from_frame, crops.cubic, crops.size)
        assert_as_exact_as_promised(engine, engine.warp(patches, own), backend.sampling.truth(frames, crops))

    def test_a_patch_of_one_pixel_for_a_face_outside_the_frame(self, engine: Engine, backend: Backend) -> None:
        frame, size = photograph(40, 60, 8), backend.sizes[0]
        matrices = np.array([turned(1.5, 0.5, (-90, 20), size), turned(0.5, 0.2, (200, -70), size)])
        crops = Crops(np.array([0, 1]), matrices, np.array([True, False]), size)
        patches = [Patch(frame[20:21, :1], 0, 20, 40, 60), Patch(frame[:1, 59:], 59, 0, 40, 60)]
        assert not engine.warp(patches, crops).any()

    def test_frames_of_a_row_a_column_and_a_pixel(self, engine: Engine, backend: Backend) -> None:
        frames = [photograph(1, 41, 1), photograph(29, 1, 2), np.full((1, 1, 3), 200, np.uint8)]
        size = backend.sizes[0]
        centres = ((20, 0), (0, 14), (0, 0))
        matrices = np.array([turned(1.3, 0.4, centre, size) for centre in centres for _ in range(2)])
        crops = Crops(np.arange(6) // 2, matrices, np.arange(6) % 2 > 0, size)
        got = engine.warp(whole(frames), crops)
        assert got.any(axis=(1, 2, 3)).all()
        assert_as_exact_as_promised(engine, got, backend.sampling.truth(frames, crops))

    def test_crops_in_any_order_from_patches_of_which_some_are_unused(self, engine: Engine, backend: Backend) -> None:
        frames, crops = backend.crops()
        order = np.array([5, 1, 0, 3, 1])
        mixed = Crops(crops.patch[order], crops.crop_from_frame[order], crops.cubic[order], crops.size)
        assert 1 not in mixed.patch
        assert_as_exact_as_promised(engine, engine.warp(whole(frames), mixed), backend.sampling.truth(frames, mixed))

    def test_what_memory_held_before_shows_nowhere(
        self, engine: Engine, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Results, and the slots of devices, begin as whatever was there: a pixel that is never written shows it."""
        frames, crops = backend.few_crops()
        truth = backend.sampling.truth(frames, crops)
        empty = np.empty

        def poisoned(*arguments: Any, **named: Any) -> np.ndarray:
            made = empty(*arguments, **named)
            if made.dtype == np.uint8:
                made.fill(0xA5)
            return made

        monkeypatch.setattr(np, "empty", poisoned)
        for _ in range(SLOTS):  # each of them
            engine.warp([whole_frame(np.full_like(frame, 255)) for frame in frames], crops)
        assert_as_exact_as_promised(engine, engine.warp(whole(frames), crops), truth)

    def test_nothing_that_is_given_is_changed(self, engine: Engine, backend: Backend) -> None:
        frames, crops = backend.few_crops()
        kept = [frame.copy() for frame in frames]
        before = [array.copy() for array in (crops.patch, crops.crop_from_frame, crops.cubic)]
        engine.warp(whole(frames), crops)
        for frame, copy in zip(frames, kept, strict=True):
            np.testing.assert_array_equal(frame, copy)
        for array, copy in zip((crops.patch, crops.crop_from_frame, crops.cubic), before, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_the_result_is_the_callers(self, engine: Engine, backend: Backend) -> None:
        """Of `warp`, not of a ticket: no later batch writes into it."""
        frames, crops = backend.few_crops()
        first = engine.warp(whole(frames), crops)
        kept = first.copy()
        for _ in range(SLOTS + 1):
            engine.warp([whole_frame(255 - frame) for frame in frames], crops)
        np.testing.assert_array_equal(first, kept)

    def test_a_batch_that_is_larger_than_its_memory(self, engine: Engine, backend: Backend) -> None:
        frame = photograph(600, 701, 5)
        count, size = backend.many
        matrices = np.array([turned(0.5 + 0.04 * i, -0.12 * i, (3 * i, 2 * i), size) for i in range(count)])
        crops = Crops(np.zeros(count, int), matrices, np.arange(count) % 3 > 0, size)
        assert engine.inline or frame.nbytes + crops.nbytes > engine.batch_bytes
        ticket = engine.submit([whole_frame(frame)], crops)
        got = ticket.result().copy()
        ticket.release()
        assert_as_exact_as_promised(engine, got, backend.sampling.truth([frame], crops))

    def test_batches_in_flight_do_not_disturb_each_other(self, engine: Engine, backend: Backend) -> None:
        frames, crops = backend.few_crops()
        others = [255 - frame for frame in frames]
        batches = [frames, others, frames]
        tickets = [engine.submit(whole(batch), crops) for batch in batches]
        for ticket, batch in zip(tickets, batches, strict=True):
            assert_as_exact_as_promised(engine, ticket.result(), backend.sampling.truth(batch, crops))
            ticket.release()

    def test_no_crops(self, engine: Engine) -> None:
        none = Crops(np.empty(0, int), np.empty((0, 2, 3)), np.empty(0, bool), 32)
        assert engine.warp([whole_frame(photograph(8, 9, 1))], none).shape == (0, 32, 32, 3)

    def test_threads(self, engine: Engine, backend: Backend) -> None:
        """Many at once where that is allowed; else one, which is not the thread that made the engine."""
        count = 4 if engine.inline else 1
        size = backend.sizes[0]
        batches = [[noise(31, 43, seed=seed), noise(22, 57, seed=seed + 50)] for seed in range(count)]
        matrices = np.array([turned(1.2, 0.3, (20, 11), size), turned(0.7, 2.0, (5, 15), size)])
        crops = Crops(np.array([0, 1]), matrices, np.array([True, False]), size)
        results: list[list[np.ndarray]] = [[] for _ in range(count)]
        together = threading.Barrier(count)

        def work(number: int) -> None:
            together.wait(30)
            for _ in range(5 if engine.inline else 1):
                results[number].append(engine.warp(whole(batches[number]), crops))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found, batch in zip(results, batches, strict=True):
            assert len(found) == (5 if engine.inline else 1)
            for got in found:
                assert_as_exact_as_promised(engine, got, backend.sampling.truth(batch, crops))

    def test_it_may_be_closed_twice(self, backend: Backend) -> None:
        with backend.make() as made:
            frames, crops = backend.few_crops()
            ticket = made.submit(whole(frames), crops)
            ticket.release()
            made.close()
        made.close()
