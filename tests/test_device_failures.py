"""Runs on simulated devices: two at once, and one that fails at its k-th operation, for every k that a run makes.

The device is a CPU that is told it is `cuda:0`: what torch does for an engine there is counted, whether it computes,
allocates, copies or waits, and one of these operations fails. The order of streams is another matter:
`test_device_slots.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from gpu_extract import kernels
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.engines import pick
from gpu_extract.engines.base import Crops, MemoryLimits
from gpu_extract.engines.samplers import exact_cuda, kornia_torch
from gpu_extract.engines.slots import SlotEngine
from gpu_extract.kernels.slab import WORD
from gpu_extract.patch import whole_frame
from tests.helpers import (
    assert_as_exact_as_promised,
    exact_crops,
    extract_command,
    files_in,
    module_from,
    photograph,
    some_crops,
)

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
pytest.importorskip("kornia")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402  # torch may not be there

SIZE = 24
ASSERTED = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


class Failure(NamedTuple):
    """What the k-th operation raises, and whether the device is well again after it."""

    error: Callable[[], Exception]
    passes: bool


OUT_OF_MEMORY = Failure(lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate more."), True)
NO_MEMORY_LEFT = OUT_OF_MEMORY._replace(passes=False)
ASSERT = Failure(lambda: RuntimeError(ASSERTED), False)


class Device:
    """Counts the operations of a run; the one numbered `fails_at`, from 0 on, fails."""

    def __init__(self, failure: Failure = ASSERT, fails_at: int = -1) -> None:
        self.failure, self.fails_at = failure, fails_at
        self.operations = 0
        self.locked: set[int] = set()
        self.lock = threading.Lock()

    @property
    def has_failed(self) -> bool:
        return 0 <= self.fails_at < self.operations

    def operate(self, allocates: bool = True) -> None:
        """One operation; those that need no memory do not run out of it."""
        if self.failure is not ASSERT and not allocates:
            return
        with self.lock:
            number, self.operations = self.operations, self.operations + 1
        if number == self.fails_at or (self.has_failed and not self.failure.passes):
            raise self.failure.error()

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:  # noqa: N802
        self.locked.add(address)
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        if self.has_failed and self.failure is ASSERT:
            return 710
        self.locked.remove(address)
        return 0

    @contextmanager
    def made_current(self, *_: Any) -> Iterator[None]:
        """CUDA says what failed also when a device is chosen."""
        if self.has_failed and self.failure is ASSERT:
            raise self.failure.error()
        yield


class Event:
    def __init__(self, device: Device) -> None:
        self._device = device

    def _operate(self) -> None:
        self._device.operate(allocates=False)

    record = wait = synchronize = _operate


class Operations(TorchDispatchMode):
    """Everything that torch computes on this thread is an operation of the device; views are none."""

    def __init__(self, device: Device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self._device.operate(allocates=not func._schema.is_mutable)
        return func(*args, **(kwargs or {}))


def launch(
    slab: Any, sources: Any, source_of: Any, tables: Any, rows: Any, cubic: bool, inside: bool, crops: Any
) -> None:
    """The kernel's twin in NumPy, for an interpreted kernel takes a hundred times as long."""
    from gpu_extract.kernels import reference
    from gpu_extract.kernels.tables import weights

    crops += 0  # an operation of the device
    for k in rows.tolist():
        first, height, stride, x0, y0 = sources[source_of[k]].tolist()
        lines = slab[WORD * first :].numpy()[: WORD * stride * height].reshape(height, WORD * stride)
        source = lines[:, : WORD * stride // 3 * 3].reshape(height, -1, 3)
        crops[k].numpy()[:] = reference.sampled(source, x0, y0, tables[k].numpy(), weights(cubic))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Device], None]:
    """simulated(device) puts that one behind `cuda:0`, as the only engines' device."""
    from gpu_extract.kernels import warp_affine

    def put(device: Device) -> None:
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *size, **kw: empty(*size, **kw | {"device": "cpu"}))
        for name in ("Event", "Stream"):
            monkeypatch.setattr(torch.cuda, name, lambda *_, **__: Event(device))
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "device", device.made_current)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: device)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: device.operate(allocates=False))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a simulated device")
        monkeypatch.setattr(warp_affine, "launch", launch)

        def self_check(_: str) -> bool:
            device.operate()
            return True

        monkeypatch.setattr(warp_affine, "self_check", self_check)
        monkeypatch.setattr(pick, "resolve_device", lambda asked: "cuda:0" if asked == "cuda" else asked)
        for module in (exact_cuda, kornia_torch):
            monkeypatch.setattr(module, "create", counted(module.create, device))
        monkeypatch.setattr(SlotEngine, "submit", counted(SlotEngine.submit, device))

    return put


def counted(function: Callable[..., Any], device: Device) -> Callable[..., Any]:
    """The same, every operation of torch in it being one of the device."""
    function = getattr(function, "original", function)

    def call(*arguments: Any) -> Any:
        with Operations(device):
            made = function(*arguments)
        if isinstance(made, SlotEngine):
            made.batch_bytes = 60_000  # a frame
        return made

    call.original = function  # type: ignore[attr-defined]
    return call


class Job:
    """Frames of two faces each, or one, cut into `faces`."""

    def __init__(self, folder: Path, landmarks: np.ndarray, engine: str, frames: int = 2, each: int = 2) -> None:
        self.alignments, self.frames, self.faces = folder / "a.fsa", folder / "frames", folder / "faces"
        self.engine = engine
        self.frames.mkdir()
        faces = [face_record(landmarks), face_record(landmarks + np.array([21, -13], np.float32))]
        names = [f"f_{number}.png" for number in range(frames)]
        for number, name in enumerate(names):
            cv2.imwrite(str(self.frames / name), photograph(240, 320, number))
        write_alignments(self.alignments, dict.fromkeys(names, faces[:each]))
        self.before = self.alignments.read_bytes()

    def words(self, *options: str) -> list[str]:
        given = ("-sz", SIZE, "--engine", self.engine, "--workers", "1", *options)
        return extract_command(self.alignments, self.frames, self.faces, *given)

    def run(self, device: str, *options: str) -> int:
        return main(self.words("--device", device, *options))

    def results(self) -> tuple[dict[str, bytes], bytes]:
        return files_in(self.faces), self.alignments.read_bytes()

    def forget(self) -> None:
        for path in self.alignments.parent.glob("a*.fsa*"):
            path.unlink()
        for path in sorted(self.faces.rglob("*"), reverse=True) if self.faces.exists() else ():
            path.unlink()
        if self.faces.exists():
            self.faces.rmdir()
        self.alignments.write_bytes(self.before)


@pytest.mark.parametrize("engine", ["exact", pytest.param("kornia", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "failure",
    [pytest.param(OUT_OF_MEMORY, marks=pytest.mark.slow), NO_MEMORY_LEFT, ASSERT],
    ids=["out of memory once", "no memory left", "assert"],
)
def test_whatever_operation_fails_nothing_is_lost(
    simulated: Callable[[Device], None],
    tmp_path: Path,
    landmarks: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    engine: str,
    failure: Failure,
) -> None:
    job = Job(tmp_path, landmarks, engine, frames=2 if engine == "exact" else 1)  # kornia makes many temporaries
    assert job.run("cpu") == 0
    whole, saved = job.results()
    assert len(whole) in (4, 2)
    codes: set[int] = set()
    for k in range(10_000):
        job.forget()
        device = Device(failure, k)
        simulated(device)
        capsys.readouterr()
        code = job.run("cuda")
        if not device.has_failed:
            break
        codes.add(code)
        faces, alignments = files_in(job.faces) if job.faces.exists() else {}, job.alignments.read_bytes()
        said = capsys.readouterr().err.splitlines()
        if code == 0:
            assert said == []
            assert (faces, alignments) == (whole, saved), k
            assert failure is ASSERT or not device.locked
            continue
        assert code == 5, (k, said)
        assert len(said) == 1, (k, said)
        assert said[0].startswith("gpu-extract: "), said
        assert "cuda:0" in said[0]
        assert alignments == job.before
        assert faces.items() <= whole.items(), k
        assert failure is ASSERT or not device.locked
        device.fails_at = -1
        assert job.run("cpu", "--resume") == 0
        assert job.results() == (whole, saved), k
    assert code == 0
    assert job.results() == (whole, saved)
    assert 0 in codes or failure is NO_MEMORY_LEFT
    assert 5 in codes or failure is OUT_OF_MEMORY


@pytest.mark.parametrize("faces", [1, 2])
def test_a_run_that_has_begun_survives_a_lack_of_memory_that_passes(
    simulated: Callable[[Device], None], tmp_path: Path, landmarks: np.ndarray, faces: int
) -> None:
    """kornia's temporaries are the device's memory; a batch is a frame, which of one face cannot be halved."""
    job = Job(tmp_path, landmarks, "kornia", frames=2, each=faces)
    assert job.run("cpu") == 0
    expected = job.results()
    begun: list[int] = []

    def run(k: int) -> Device:
        device = Device(OUT_OF_MEMORY, k)
        simulated(device)
        submit = SlotEngine.submit

        def noted(*arguments: Any) -> Any:
            begun.append(device.operations)
            return submit(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SlotEngine, "submit", noted)
            job.forget()
            assert job.run("cuda") == 0, k
        assert job.results() == expected, k
        return device

    operations = run(-1).operations
    assert begun[0] < operations
    for k in range(begun[0], operations):
        assert run(k).has_failed


@contextmanager
def interpreted_kernel() -> Iterator[ModuleType]:
    """The CUDA engine's kernel as a copy that Triton's interpreter runs on CPU tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        source = Path(kernels.__file__).with_name("warp_affine.py")
        copy = module_from(source, "warp_affine_of_two_devices")
        patch.setattr(kernels, "warp_affine", copy, raising=False)
        yield copy


def batches() -> Iterator[tuple[list[Any], Crops, np.ndarray]]:
    """Patches, crops of them, and the truth."""
    frames, crops = some_crops(7)
    for few in ([1], [2, 3], [5], [1, 4]):
        part = Crops(crops.patch[few], crops.crop_from_frame[few], crops.cubic[few], crops.size)
        yield [whole_frame(frame) for frame in frames], part, exact_crops(frames, part)


@pytest.mark.parametrize("module", [exact_cuda, kornia_torch])
def test_two_devices_at_once_give_the_crops_of_one(module: ModuleType) -> None:
    """Batches in flight on both, and their results read in another order than they were begun in."""
    with interpreted_kernel(), ExitStack() as stack:
        one, two = (
            stack.enter_context(module.create("cpu", MemoryLimits(batch_mb=1, pinned_mb=8), print)) for _ in range(2)
        )
        work = list(batches())
        alone = [one.warp(patches, crops) for patches, crops, _ in work]
        tickets = [engine.submit(patches, crops) for patches, crops, _ in work[:2] for engine in (one, two)]
        tickets += [engine.submit(patches, crops) for patches, crops, _ in work[2:] for engine in (two, one)]
        for number in (7, 2, 0, 5, 1, 6, 4, 3):
            np.testing.assert_array_equal(tickets[number].result(), alone[number // 2])
            tickets[number].release()
        for crops, (_, _, truth) in zip(alone, work, strict=True):
            assert_as_exact_as_promised(one, crops, truth)


@pytest.mark.parametrize("engine", [pytest.param("exact", marks=pytest.mark.slow), "kornia"])
def test_a_run_on_two_devices_gives_the_files_of_one(tmp_path: Path, landmarks: np.ndarray, engine: str) -> None:
    """Two processes, each with a device; the exact kernel is interpreted in both."""
    job = Job(tmp_path, landmarks, engine)
    assert job.run("cpu") == 0
    one = job.results()
    job.forget()
    words = job.words("--processes", "2")
    run = subprocess.run(
        [sys.executable, "-m", "gpu_extract", *words],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert job.results() == one
