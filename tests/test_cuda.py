"""The CUDA path as a user meets it: on a GPU if there is one, and its failures in Triton's interpreter everywhere."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import gpu_extract
from gpu_extract.cli import main
from gpu_extract.engines import pick, slots
from gpu_extract.engines.base import Crops, MemoryLimits
from gpu_extract.engines.samplers import exact_cuda, kornia_torch
from gpu_extract.errors import DeviceError
from gpu_extract.patch import whole_frame
from tests.helpers import copied, exact_crops, extract_command, files_in

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

SIZE = 16  # the interpreter is slow

INTERPRETED = """
import sys
import torch
from gpu_extract.engines.samplers import exact_cpu, exact_cuda
from gpu_extract.kernels import warp_affine

create, launch = exact_cuda.create, warp_affine.launch
launches = 0

def tiny_batches(*arguments):
    engine = create(*arguments)
    engine.batch_bytes = {batch_bytes}
    return engine

def failing(*arguments):
    global launches
    launches += 1
    rows = arguments[4]
    if {condition}:
        raise {error}
    launch(*arguments)

exact_cuda.create = tiny_batches
self_check = warp_affine.self_check

def check_then_fail(device):
    right = self_check(device)
    warp_affine.launch = failing
    return right

warp_affine.self_check = check_then_fail
from gpu_extract.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def alignments(tmp_path: Path, vectors: Path) -> Path:
    return copied(vectors / "alignments" / "g6_2019-12.fsa", tmp_path)


def command(alignments: Path, vectors: Path, faces: Path, *flags: str, size: int = SIZE) -> list[str]:
    # A size that the stored hashes are not of: to try others would take the interpreted kernel half a minute.
    return extract_command(alignments, vectors / "frames", faces, "-sz", size, "--replace-hashes", *flags)


def interpreted(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, *words], env=environment, capture_output=True, text=True, check=False
    )


def on_cpu(alignments: Path, vectors: Path, folder: Path, size: int = SIZE) -> dict[str, bytes]:
    """The faces that the C sampler gives."""
    assert main(command(alignments, vectors, folder, "--device", "cpu", "--no-update", size=size)) == 4
    return files_in(folder)


def test_when_memory_runs_out_the_run_goes_on(alignments: Path, vectors: Path, tmp_path: Path) -> None:
    """One frame of the vectors is missing: exit code 4 is the best there is."""
    script = INTERPRETED.format(
        batch_bytes=1 << 20, condition="len(rows) > 2", error='torch.cuda.OutOfMemoryError("CUDA out of memory.")'
    )
    run = interpreted(script, *command(alignments, vectors, tmp_path / "faces", "--engine", "exact"))
    assert run.returncode == 4, run.stderr
    assert files_in(tmp_path / "faces") == on_cpu(alignments, vectors, tmp_path / "cpu")


def test_a_device_that_fails_for_good_leaves_whole_files(alignments: Path, vectors: Path, tmp_path: Path) -> None:
    before = alignments.read_bytes()
    script = INTERPRETED.format(
        batch_bytes=1, condition="launches > 12", error='RuntimeError("CUDA error: unspecified launch failure\\nmore")'
    )
    words = command(alignments, vectors, tmp_path / "faces", "--engine", "exact", "--device", "cpu", "--workers", "1")
    run = interpreted(script, *words)
    assert run.returncode == 5
    assert run.stderr.splitlines()[-1] == (
        "gpu-extract: cpu failed: CUDA error: unspecified launch failure; the faces written so far are whole."
    )
    assert "Traceback" not in run.stderr
    assert alignments.read_bytes() == before
    written = files_in(tmp_path / "faces")
    whole = on_cpu(alignments, vectors, tmp_path / "cpu")
    assert 0 < len(written) < len(whole)
    assert written.items() <= whole.items()
    assert main(command(alignments, vectors, tmp_path / "faces", "--device", "cpu", "--resume")) == 4
    assert files_in(tmp_path / "faces") == whole


@pytest.fixture
def no_exact_sampler_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is on a CUDA device: our kernel or kornia."""
    pytest.importorskip("triton")
    # Imported first: a module that is imported under the variable stays interpreted for all later tests.
    importlib.import_module("gpu_extract.kernels.warp_affine")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(pick, "modules", lambda: [exact_cuda, kornia_torch])


@pytest.mark.parametrize("what", ["wrong bytes", "no compiler"])
@pytest.mark.usefixtures("no_exact_sampler_for_cpus")
def test_a_kernel_that_cannot_be_trusted_is_passed_over(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    from gpu_extract.kernels import warp_affine

    def check(device: str) -> bool:
        if what == "no compiler":
            raise FileNotFoundError(2, "No such file or directory", "ptxas")
        return False

    monkeypatch.setattr(warp_affine, "self_check", check)
    with pytest.raises(DeviceError) as caught:  # kornia would cut, but other bytes: only by name
        pick.pick_engine("auto", "cpu")
    sentence = str(caught.value)
    assert sentence.startswith("engine exact cannot run on cpu: exact_cuda on cpu: the CUDA kernel")
    assert ("self-check" in sentence) == (what == "wrong bytes")
    assert ("ptxas" in sentence) == (what == "no compiler")
    picked, _ = pick.pick_engine("kornia", "cpu")
    with picked:
        assert picked.name == "kornia"


def test_auto_on_a_gpu_whose_kernel_cannot_be_made_is_exact_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, alignments: Path, vectors: Path, tmp_path: Path
) -> None:
    def broken(device: str, *_: object) -> None:
        raise DeviceError("the CUDA kernel cannot be made: FileNotFoundError: ptxas")

    given = (alignments, vectors / "frames")
    right = gpu_extract.extract(*given, tmp_path / "cpu", size=40, device="cpu", no_update=True, progress="none")
    real = pick.resolve_device
    monkeypatch.setattr(pick, "resolve_device", lambda device: "cuda:0" if device != "cpu" else real(device))
    monkeypatch.setattr(exact_cuda, "obstacle", lambda device: None if device == "cuda:0" else "no")
    monkeypatch.setattr(exact_cuda, "create", broken)
    report = gpu_extract.extract(*given, tmp_path / "auto", size=40, no_update=True, progress="none")
    assert (report.engine, report.device) == ("exact", "cpu")
    assert report.notes[0] == (
        "engine passed over: exact_cuda on cuda:0: the CUDA kernel cannot be made: FileNotFoundError: ptxas"
    )
    faces = sorted(path.name for path in (tmp_path / "cpu").glob("[!.]*.*"))
    assert len(faces) == right.faces_written == report.faces_written
    for name in faces:
        assert (tmp_path / "cpu" / name).read_bytes() == (tmp_path / "auto" / name).read_bytes()
    with pytest.raises(DeviceError, match="engine exact cannot run on cuda:0: exact_cuda on cuda:0"):
        gpu_extract.extract(*given, tmp_path / "asked", device="cuda:0", progress="none")


@pytest.mark.usefixtures("no_exact_sampler_for_cpus")
def test_exact_without_a_trusted_kernel_exits_5(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    alignments: Path,
    vectors: Path,
    tmp_path: Path,
) -> None:
    from gpu_extract.kernels import warp_affine

    monkeypatch.setattr(warp_affine, "self_check", lambda device: False)
    assert main(command(alignments, vectors, tmp_path / "faces", "--engine", "exact", "--device", "cpu")) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert "self-check" in line
    assert not (tmp_path / "faces").exists()


# What follows needs a GPU.


def some_batch(size: int = 64) -> tuple[list[Any], Crops]:
    rng = np.random.default_rng(8)
    frames = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((61, 97), (120, 45), (33, 34))]
    matrices = np.array([[[s, -0.3, 5 - 20 * s], [0.3, s, 9 - 10 * s]] for s in np.linspace(0.4, 2.5, 12)])
    return frames, Crops(np.arange(12) % 3, matrices, np.arange(12) % 2 > 0, size)


@contextmanager
def made(module: Any, device: str = "cuda:0", **limits: int) -> Iterator[Any]:
    with module.create(device, MemoryLimits(**limits), print) as engine:
        yield engine


@pytest.mark.cuda
@pytest.mark.parametrize("size", [37, 256])
def test_the_job_on_cuda_gives_the_files_of_the_cpu(alignments: Path, vectors: Path, tmp_path: Path, size: int) -> None:
    whole = on_cpu(alignments, vectors, tmp_path / "cpu", size)
    flags = ("--engine", "exact", "--device", "cuda", "--no-update")
    assert main(command(alignments, vectors, tmp_path / "faces", *flags, size=size)) == 4
    assert files_in(tmp_path / "faces") == whole
    assert all(cv2.imread(str(tmp_path / "faces" / name)) is not None for name in whole)


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("module", [exact_cuda, kornia_torch])
def test_the_loop_does_not_wait_for_the_device(module: Any) -> None:
    frames, crops = some_batch()
    patches = [whole_frame(frame) for frame in frames]
    with made(module, batch_mb=8) as engine:
        engine.warp(patches, crops)  # weights, libraries and memory of the first time
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            tickets = [engine.submit(patches, crops) for _ in range(3)]
            results = []
            for ticket in tickets:
                results.append(ticket.result().copy())
                ticket.release()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    if module is exact_cuda:
        np.testing.assert_array_equal(results[0], exact_crops(frames, crops))


@pytest.mark.cuda
def test_slots_are_page_locked() -> None:
    with made(exact_cuda, batch_mb=4) as engine:
        assert all(slot.host.is_pinned() for slot in engine._slots)


@pytest.mark.cuda
def test_the_engine_works_on_another_thread_and_on_every_device() -> None:
    frames, crops = some_batch()
    patches = [whole_frame(frame) for frame in frames]
    count = torch.cuda.device_count()
    assert count > 0
    for i in range(count):
        with made(exact_cuda, f"cuda:{i}", batch_mb=4) as engine:
            results: list[np.ndarray] = []
            thread = threading.Thread(target=lambda to=results, by=engine: to.append(by.warp(patches, crops)))
            thread.start()
            thread.join()
            np.testing.assert_array_equal(results[0], exact_crops(frames, crops))


@pytest.mark.cuda
def test_too_little_memory_on_cuda_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, crops = some_batch(512)
    patches = [whole_frame(frame) for frame in frames]
    whole_slot = slots._Slot

    def slot(device: Any, nbytes: int) -> Any:
        if nbytes > 4 << 20:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return whole_slot(device, nbytes)

    with made(exact_cuda, batch_mb=2) as engine:
        monkeypatch.setattr(slots, "_Slot", slot)
        np.testing.assert_array_equal(engine.warp(patches, crops), exact_crops(frames, crops))


@pytest.mark.cuda
def test_a_cuda_failure_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, crops = some_batch()
    patches = [whole_frame(frame) for frame in frames]
    with made(exact_cuda, batch_mb=4) as engine:
        with monkeypatch.context() as patch:

            def failing(*_: Any) -> None:
                raise RuntimeError("CUDA error: unspecified launch failure")

            patch.setattr(engine._kernel, "launch", failing)
            with pytest.raises(DeviceError, match="cuda:0 failed: CUDA error"):
                engine.submit(patches, crops)
        np.testing.assert_array_equal(engine.warp(patches, crops), exact_crops(frames, crops))
