"""`make gpu-check` without a GPU: its dry run, what it refuses, and the tables made from its result."""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
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
def gpu_day() -> Any:
    return of_bench("gpu_day")


def wheel(folder: Path, name: str = "only_here", version: str = "1.0") -> Path:
    """A wheel of one module, which says where it was imported from."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", f"{name}.py,,\n{about}/METADATA,,\n{about}/WHEEL,,\n{about}/RECORD,,\n")
    return path


def without_network(*command: str) -> subprocess.CompletedProcess[str]:
    """A command that reaches no network: in a name space of its own, where that is allowed, and by wrong proxies.

    Nor does it find a C compiler, which would take longer than all the rest.
    """
    nowhere = "http://127.0.0.1:9"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    environment |= {
        "CC": "false",
        "PIP_NO_INDEX": "1",
        "https_proxy": nowhere,
        "http_proxy": nowhere,
        "CUDA_VISIBLE_DEVICES": "",
    }
    cut = ["unshare", "-rn"]
    try:
        subprocess.run([*cut, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        cut = []
    return subprocess.run([*cut, *command], env=environment, capture_output=True, text=True, check=False)


def copy_of_the_tree(folder: Path) -> Path:
    """What one would copy to another machine, without `.git`, results of builds and what only other checks need."""
    tree = folder / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "Makefile"):
        shutil.copy(REPO / name, tree)
    for name, left in {"bench": "data", "gpu_extract": "kernels", "kernels": "*.so", "tests": "*.so"}.items():
        ignore = shutil.ignore_patterns("__pycache__", left)
        shutil.copytree(REPO / name, tree / name, ignore=ignore)
    (tree / "gpu_extract" / "kernels").symlink_to("../kernels")
    return tree


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`make gpu-check` from a folder of wheels, in a copy of the tree, without a network and without a GPU."""
    pytest.importorskip("triton")
    pytest.importorskip("pip")
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def make(file: Path) -> None:
        folder = tmp_path_factory.mktemp("gpu-day")
        wheels = folder / "wheels"
        wheels.mkdir()
        wheel(wheels)
        wheel(wheels, "numpy", "2.0.0")  # the machine has one that is as good
        wheel(wheels, "torch", "99.0")
        (wheels / "commit").write_text("0123456789abcdef\n")
        for extension in (REPO / "kernels").glob("*.abi3.so"):
            shutil.copy(extension, wheels)
        words = (f"PY={sys.executable}", f"WHEELS={wheels}", f"GPU_CHECK_FLAGS=--allow-cpu --json {file}")
        run = without_network("make", "-C", str(copy_of_the_tree(folder)), "gpu-check", *words)
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stdout.count("Not yet measured on a GPU.") == 2, "a dry run measures nothing"
        assert "all passed: " in run.stderr

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
        opponents = {"kornia", "kornia_regions", "grid_sample", "grid_sample_regions", "opencv_all_cores"}
        assert set(row["ms"]) == {"triton"} | opponents
        assert all(ms > 0 for ms in row["ms"].values())
        assert row["levels_away"]["triton"] == 0
        assert max(row["levels_away"].values()) <= 3
        assert row["copies"] == 2
    assert dry_run["kernel"]["launch_ms"] > 0
    assert set(dry_run["end_to_end"]["runs"]) == {"exact", "kornia", "cpu"}
    assert dry_run["end_to_end"]["unequal"] == 0
    assert dry_run["end_to_end"]["runs"]["exact"]["frames_per_second"] > 0
    assert dry_run["kernel"]["upload_gb_per_second"] >= 0
    assert "CV-CUDA: needs a CUDA device" in dry_run["skipped"]


def test_it_takes_only_what_is_missing_from_the_folder_of_wheels(dry_run: dict[str, Any]) -> None:
    assert dry_run["installed"] == ["only-here"]
    assert dry_run["commit"] == "0123456789ab"
    built = [*(REPO / "kernels").glob("*.abi3.so")]
    assert dry_run["extensions"] == ("from the folder of wheels" if built else "none")
    assert list(dry_run["parts"]) == [
        *("doctor", "self-check", "tests", "random_crops", "vectors", "kernel", "end_to_end"),
    ]
    for name, part in dry_run["parts"].items():
        assert part["exit_code"] == 0, name
    assert " passed" in dry_run["parts"]["tests"]["said"]


@pytest.fixture
def day(gpu_day: Any, tmp_path: Path) -> Any:
    options = argparse.Namespace(allow_cpu=True, json=tmp_path / "day.json", wheels=None, commit=None)
    (tmp_path / "work").mkdir()
    return gpu_day.Day(options, tmp_path / "work")


def test_a_part_that_hangs_or_fails_costs_only_itself(gpu_day: Any, day: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done is in the file while the next part runs; timings need the proofs before them, and nothing else."""
    python = sys.executable
    before = f"import json; assert json.load(open({str(day.file)!r}))['parts']['first']['said'] == 'done'"
    hangs = "import subprocess; subprocess.run(['sleep', '60'])"
    parts = [
        gpu_day.Part("first", [python, "-c", "print('done')"], 60, proves=True),
        gpu_day.Part("hangs", [python, "-c", hangs], 1),
        gpu_day.Part("second", [python, "-c", before], 60, timed=True),
        gpu_day.Part("tool", [python, "-c", "1 / 0"], 60, needs="sh"),
        gpu_day.Part("no tool", [python], 60, needs="no-such-program"),
    ]
    monkeypatch.setattr(day, "parts", lambda: parts)
    assert not day.run()
    result = json.loads(day.file.read_text())
    codes = {name: part["exit_code"] for name, part in result["parts"].items()}
    assert codes == {"first": 0, "hangs": None, "second": 0, "tool": 1}
    assert result["skipped"] == [
        "hangs: was not done after 1 s",
        "tool: failed, exit code 1",
        "no tool: no-such-program is not here",
    ]


def test_nothing_is_timed_after_a_proof_that_failed(gpu_day: Any, day: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        gpu_day.Part("proof", [sys.executable, "-c", "1 / 0"], 60, proves=True),
        gpu_day.Part("times", [sys.executable, "-c", ""], 60, timed=True),
    ]
    monkeypatch.setattr(day, "parts", lambda: parts)
    assert not day.run()
    assert list(day.result["parts"]) == ["proof"]
    assert day.result["skipped"][-1] == "times: crops were not shown to be equal"


def test_a_package_that_is_too_old_here_comes_from_the_folder(
    gpu_day: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pip")
    here = {"av": "12.0", "opencv-python-headless": "5.0.0", "kornia": "0.9.0"}

    def version(name: str) -> str:
        if name not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    packages = ("av", "opencv-python", "kornia", "tqdm")
    assert [gpu_day._is_here(name) for name in packages] == [False, False, True, False]
    here["opencv-python-headless"] = "4.12.0"
    assert gpu_day._is_here("opencv-python")
    for name in ("av", "kornia", "tqdm", "opencv_python"):
        wheel(tmp_path, name, "99.0")
    assert gpu_day.install(tmp_path, tmp_path / "site") == ["av", "tqdm"]
    assert (tmp_path / "site" / "av.py").exists()


def test_wheels_that_do_not_fit_are_a_sentence(gpu_day: Any, tmp_path: Path) -> None:
    pytest.importorskip("pip")
    wheel(tmp_path, "only_there").rename(tmp_path / "only_there-1.0-cp27-none-any.whl")
    with pytest.raises(gpu_day.MissingError, match=r"^pip cannot install only-there from "):
        gpu_day.install(tmp_path, tmp_path / "site")


def test_a_measurement_elsewhere_is_printed_and_never_written(dry_run: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps(dry_run | {"dry_run": False, "gpu": {"name": "Test GPU", "driver": "600.1"}}))
    command = [sys.executable, str(BENCH / "gpu_table.py"), "--json", str(file)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("Test GPU") == 2
    assert subprocess.run([*command, "--write"], capture_output=True, check=False).returncode == 2


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
    assert "| 96x54 | 2 × 16 px | cubic | 12.3 µs | 2.51 × | 42.0 × | – | – | – | 3.0 × |\n" in kernel
    assert "Skipped: CV-CUDA: needs a CUDA device" in kernel
    assert "4 of 4 random crops equal to the byte" in whole
    del result["vectors"]
    assert "Exactness was not shown" in gpu_table.kernel_part(result)
    assert "| kornia 0" in whole
    assert whole.count("\n| ") == 4
