"""`make gpu-check` without a GPU: its dry run, what it refuses, and the tables made from its result."""

from __future__ import annotations

import copy
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import made_once

REPO = Path(__file__).resolve().parent.parent
BENCH = REPO / "bench"


def of_bench(name: str) -> Any:
    sys.path.insert(0, str(BENCH))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def gpu_table() -> Any:
    return of_bench("gpu_table")


@pytest.fixture(scope="module")
def gpu_timing() -> Any:
    return of_bench("gpu_timing")


def gpu_check(*flags: str, hide_gpu: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if hide_gpu:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(BENCH / "gpu_check.py"), *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("triton")

    def make(file: Path) -> None:
        run = gpu_check("--allow-cpu", "--json", str(file))
        assert run.returncode == 0, run.stderr[-3000:]

    result: dict[str, Any] = json.loads(made_once(tmp_path_factory, "gpu.json", make).read_text())
    return result


def test_without_a_gpu_it_says_so_and_exits_5() -> None:
    run = gpu_check()
    assert run.returncode == 5
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert "there is no CUDA device here" in run.stderr


def test_a_dry_run_never_lands_in_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = BENCH / "results" / "dry.json"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--allow-cpu", "--json", str(file)])
    with pytest.raises(SystemExit) as ended:
        of_bench("gpu_check").main()
    assert ended.value.code == 2
    assert "a dry run measures nothing" in capsys.readouterr().err
    assert not file.exists()


def test_a_dry_run_goes_through_every_section(dry_run: dict[str, Any]) -> None:
    assert dry_run["dry_run"] is True
    assert {"date", "commit", "versions", "machine", "gpu"} <= dry_run.keys()
    assert dry_run["random_crops"]["crops"] > 0
    assert dry_run["random_crops"]["unequal"] == 0
    assert dry_run["vectors"]["faces"] > 5
    assert dry_run["vectors"]["files_unequal_to_cpu"] == 0
    assert "own Triton kernel" in dry_run["vectors"]["engine"]
    assert {row["interpolation"] for row in dry_run["kernel"]["rows"]} == {"cubic", "linear"}
    for row in dry_run["kernel"]["rows"]:
        assert set(row["ms"]) == {"triton", "grid_sample", "kornia", "opencv_all_cores"}
        assert all(ms > 0 for ms in row["ms"].values())
        assert row["levels_away"]["triton"] == 0
        assert max(row["levels_away"].values()) <= 3
        assert row["copies"] == 2
    assert dry_run["kernel"]["launch_ms"] > 0
    assert set(dry_run["end_to_end"]["runs"]) == {"exact", "kornia", "cpu"}
    assert dry_run["end_to_end"]["unequal"] == 0
    assert dry_run["end_to_end"]["runs"]["exact"]["frames_per_second"] > 0
    assert dry_run["skipped"] == ["CV-CUDA: needs a CUDA device"]


def touched_bytes(whole: Any) -> int:
    """What the samplers read and write, from every tap of every pixel."""
    from gpu_extract.kernels import tables

    (frame,) = whole.frames
    touched = np.zeros(frame.shape[:2], bool)
    for dx, dy, x0, y0 in tables.coordinate_tables(whole.crop_from_frame, whole.size):
        x, y = (x0[:, None] + dx) >> 10, (y0[:, None] + dy) >> 10
        for tap in np.ndindex(2, 2):
            touched[y + tap[0], x + tap[1]] = True
    return 3 * (len(whole.cubic) * int(whole.size) ** 2 + int(touched.sum()))


@pytest.mark.parametrize(("faces", "size", "cubic"), [(1, 64, True), (1, 64, False), (12, 96, True), (12, 96, False)])
def test_the_floor_counts_each_byte_once(gpu_timing: Any, faces: int, size: int, cubic: bool) -> None:
    """Crops that overlap share their pixels. The taps around a crop's edge, a row or two, are not counted."""
    whole = gpu_timing.scene(3, (300, 401), size, faces, cubic, True)
    floor = gpu_timing.least_bytes(whole)
    assert 0.93 * touched_bytes(whole) < floor <= touched_bytes(whole)
    separately = sum(
        gpu_timing.least_bytes(whole._replace(crop_from_frame=whole.crop_from_frame[[i]], cubic=whole.cubic[[i]]))
        for i in range(faces)
    )
    assert (floor < separately) == (faces > 1)


def test_enough_copies_take_turns_to_leave_no_call_in_the_cache(gpu_timing: Any) -> None:
    whole = gpu_timing.scene(1, (1080, 1920), 256, 1, True, True)
    copies = gpu_timing.copies_of(whole, 50 << 20, 70 << 30)
    assert copies * gpu_timing.least_bytes(whole) > 2 * (50 << 20)
    held = whole.frames[0].size + 3 * 256**2
    assert gpu_timing.copies_of(whole, 50 << 20, 1 << 30) * held <= (1 << 30) // 4
    assert gpu_timing.copies_of(whole, 50 << 20, 0) == 2


def test_a_section_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_check = of_bench("gpu_check")
    check = gpu_check.Check("cpu")
    exact = {"crops": 9, "unequal": 0}, {"files_unequal_to_cpu": 0, "hashes_unequal": 0}

    def out_of_memory() -> None:
        raise RuntimeError("CUDA out of memory.\nAdvice")

    for name, method in (
        ("random_crops", lambda: exact[0]),
        ("vectors", lambda: exact[1]),
        ("kernel", out_of_memory),
        ("end_to_end", lambda: {"unequal": 0, "runs": {}}),
    ):
        monkeypatch.setattr(check, name, method)
    assert check.all() == 1
    assert check.result["random_crops"] == exact[0]
    assert check.result["end_to_end"] == {"unequal": 0, "runs": {}}
    assert "kernel" not in check.result
    assert check.result["skipped"] == ["kernel: failed, RuntimeError: CUDA out of memory."]
    monkeypatch.setattr(check, "vectors", out_of_memory)
    assert check.all() == 1
    assert check.skipped[-1] == "all timings: crops were not shown to be equal"


def test_the_tables_are_those_of_the_result_file(gpu_table: Any) -> None:
    """Run `python bench/gpu_table.py --write` after a measurement."""
    result = gpu_table.load()
    for path, make in gpu_table.PARTS.items():
        assert gpu_table.part_of(path.read_text("utf-8")) == make(result), path


def test_no_result_claims_nothing(gpu_table: Any, dry_run: dict[str, Any], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_table, "RESULT", tmp_path / "none.json")
        assert gpu_table.load() is None
        (tmp_path / "dry.json").write_text(json.dumps(dry_run))
        patch.setattr(gpu_table, "RESULT", tmp_path / "dry.json")
        assert gpu_table.load() is None
    assert gpu_table.end_to_end_part(None) == gpu_table.kernel_part(None) == "Not yet measured on a GPU.\n"


def test_the_tables_of_a_measurement(gpu_table: Any, dry_run: dict[str, Any]) -> None:
    gpu = {"name": "Test GPU", "driver": "600.1"}
    result = copy.deepcopy(dry_run) | {"dry_run": False, "gpu": gpu}
    result["kernel"]["rows"][0]["times_faster_than"] = {"kornia": 42.04, "opencv_all_cores": 3.0}
    result["kernel"]["rows"][0] |= {"times_memory_floor": 2.514, "ms": {"triton": 0.0123, "kornia": 1.0}}
    kernel, whole = gpu_table.kernel_part(result), gpu_table.end_to_end_part(result)
    assert "Test GPU, driver 600.1" in kernel
    assert "| 96x54 | 2 × 16 px | cubic | 12.3 µs | 2.51 × | 42.0 × | – | 3.0 × |\n" in kernel
    assert "Skipped: CV-CUDA: needs a CUDA device." in kernel
    assert "4 of 4 random crops equal to the byte" in whole
    del result["vectors"]
    assert "Exactness was not shown" in gpu_table.kernel_part(result)
    assert "| kornia 0" in whole
    assert whole.count("\n| ") == 4
