"""The engine that averages: the same bytes as the reference, overlapping like the engine that it wraps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from gpu_extract.engines.antialiased import AntialiasedEngine
from gpu_extract.engines.base import Crops, Engine, MemoryLimits, Ticket
from gpu_extract.engines.samplers import exact_cpu, exact_opencv
from gpu_extract.kernels import antialias, cpu, reference
from gpu_extract.patch import Patch, whole_frame

SIZE = 17


def crops_of(shrinks: Sequence[float]) -> Crops:
    """One crop for each factor by which its face is larger than the crop."""
    matrices = np.array([[[1 / s, 0.03, 2.25], [-0.02, 1 / s, -1.5]] for s in shrinks]).reshape(-1, 2, 3)
    K = len(shrinks)
    return Crops(np.arange(K) % 2, matrices, np.arange(K) % 3 != 1, SIZE)


def patches() -> list[Patch]:
    random = np.random.default_rng(4)
    return [whole_frame(random.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((61, 93), (75, 44))]


def expected(crops: Crops) -> np.ndarray:
    frames = [patch.pixels for patch in patches()]
    return antialias.warp_affine(
        reference.warp_affine, frames, crops.patch, crops.crop_from_frame, crops.cubic, crops.size
    )


class Slots(Engine):
    """Batches through one slot more than a caller may have in flight; slots are poisoned when they come back."""

    name, implementation, device, inline = "exact", "slots", "cpu", False

    def __init__(self, slots: int) -> None:
        self.free, self.most_out, self.submitted, self.patches_sent = slots, 0, 0, 0
        self.slots = slots
        self.batch_bytes = 1 << 20

    def warp(self, patches: Sequence[Patch], crops: Crops) -> np.ndarray:
        pixels = [patch.pixels for patch in patches]
        return reference.warp_affine(pixels, crops.patch, crops.crop_from_frame, crops.cubic, crops.size)

    def has_room(self) -> bool:
        return self.free > 0

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        self.patches_sent += len(patches)
        assert self.free, "nobody would ever free a slot: this waits for good"
        self.free -= 1
        self.submitted += 1
        self.most_out = max(self.most_out, self.slots - self.free)
        engine, result = self, self.warp(patches, crops)

        class InSlot(Ticket):
            def result(self) -> np.ndarray:
                return result

            def release(self) -> None:
                result[:] = 99
                engine.free += 1

        return InSlot()


SHRINKS = [0.7, 3.2, 1.0, 2.4, 5.1, 0.9]


@pytest.mark.parametrize("module", [exact_cpu, exact_opencv])
def test_the_bytes_are_those_of_the_reference(module: object) -> None:
    if module is exact_cpu and not cpu.is_available():
        pytest.skip("the C sampler was not built here")
    with AntialiasedEngine(module.create("cpu", MemoryLimits(), print)) as engine:  # type: ignore[attr-defined]
        for shrinks in (SHRINKS, [1.0], [4.0], []):
            crops = crops_of(shrinks)
            np.testing.assert_array_equal(engine.warp(patches(), crops), expected(crops))
            np.testing.assert_array_equal(engine.submit(patches(), crops).result(), expected(crops))


def test_a_batch_is_on_its_way_when_submit_returns_and_holds_one_slot() -> None:
    slots = Slots(3)
    engine = AntialiasedEngine(slots)
    batches = [crops_of(SHRINKS), crops_of([2.0, 2.5]), crops_of([0.5])]
    tickets = [engine.submit(patches(), crops) for crops in batches]
    assert slots.submitted == 3
    assert slots.most_out == 3
    for ticket, crops in zip(tickets, batches, strict=True):
        np.testing.assert_array_equal(ticket.result(), expected(crops))
        kept = ticket.result()
        ticket.release()
        np.testing.assert_array_equal(kept, expected(crops), "what was averaged lies in no slot")
    assert slots.free == 3
    assert slots.most_out == 3


def test_the_parts_of_a_batch_overlap_where_slots_are_free() -> None:
    """Each takes along only the patches that it reads; before the result is asked for there is one part."""
    slots = Slots(3)
    ticket = AntialiasedEngine(slots).submit(patches(), crops_of([2.0, 2.5, 4.0, 3.0]))
    assert slots.most_out == 1
    np.testing.assert_array_equal(ticket.result(), expected(crops_of([2.0, 2.5, 4.0, 3.0])))
    assert slots.most_out == 3
    assert slots.free == 3
    assert slots.submitted == slots.patches_sent == 4


def test_with_one_slot_the_parts_follow_each_other() -> None:
    slots = Slots(1)
    np.testing.assert_array_equal(
        AntialiasedEngine(slots).warp(patches(), crops_of(SHRINKS)), expected(crops_of(SHRINKS))
    )
    assert slots.most_out == slots.free == 1


def test_batches_are_as_large_as_the_wrapped_engine_has_them_now() -> None:
    slots = Slots(1)
    engine = AntialiasedEngine(slots)
    slots.batch_bytes //= 2
    assert engine.batch_bytes == slots.batch_bytes


def test_slots_come_back_also_when_averaging_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = Slots(2)
    ticket = AntialiasedEngine(slots).submit(patches(), crops_of([4.0, 4.0]))

    def fails(fine: np.ndarray, n: int) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(antialias, "mean", fails)
    with pytest.raises(MemoryError):
        ticket.result()
    assert slots.submitted == 2
    assert slots.free == 2
