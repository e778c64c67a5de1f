"""An installation without torch, Triton and kornia, as in the container image for CPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
for name in ("torch", "triton", "kornia"):
    sys.modules[name] = None  # what imports and looks for them finds: nothing
from gpu_extract.__main__ import main
raise SystemExit(main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_demo_is_cut_by_the_exact_engine(tmp_path: Path) -> None:
    ended = run("demo", str(tmp_path / "demo"))
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "demo" / "faces").glob("*.png"))) == 118


def test_doctor_says_what_is_missing() -> None:
    ended = run("doctor")
    assert ended.returncode == 0, ended.stderr
    assert "cpu only (torch is not installed)" in ended.stdout
    assert "cannot: kornia is not installed" in ended.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--engine", "kornia"], "kornia is not installed."),
        (
            ["--device", "cuda"],
            "device cuda was asked for but torch is not installed; install or repair it, or try --device cpu.",
        ),
    ],
)
def test_what_needs_them_is_refused_by_a_sentence(words: list[str], sentence: str) -> None:
    ended = run("doctor", *words)
    assert ended.returncode == 5
    assert sentence in ended.stdout


BROKEN = """
import sys
from importlib.machinery import ModuleSpec

class Broken:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == BROKEN else None
    def create_module(self, spec):
        raise OSError("libcudart.so.12: cannot open shared object file: No such file or directory")
    def exec_module(self, module):
        pass

BROKEN = sys.argv.pop(1)
sys.meta_path.insert(0, Broken())
from gpu_extract.engines import pick
pick._cuda_driver_present = lambda: True
from gpu_extract.__main__ import main
raise SystemExit(main())
"""
WHY = "cannot be loaded (libcudart.so.12: cannot open shared object file: No such file or directory)"


def run_broken(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BROKEN, package, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_torch_without_its_libraries_is_named_and_passed_over(tmp_path: Path) -> None:
    ended = run_broken("torch", "doctor")
    assert ended.returncode == 0, ended.stderr
    assert f"cpu only (torch {WHY})" in ended.stdout
    ended = run_broken("torch", "doctor", "--device", "cuda")
    assert ended.returncode == 5
    assert f"device cuda was asked for but torch {WHY}" in ended.stdout
    ended = run_broken("torch", "demo", str(tmp_path / "demo"))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("package", ["kornia", "torch"])
def test_a_kornia_that_cannot_be_loaded_is_an_engine_that_cannot_run(package: str) -> None:
    pytest.importorskip("kornia")
    ended = run_broken(package, "doctor", "--engine", "kornia")
    assert ended.returncode == 5, ended.stderr
    assert f"kornia_torch  on cpu    cannot: {package} {WHY}" in ended.stdout
    assert f"engine kornia cannot run on cpu: kornia_torch on cpu: {package} {WHY}." in ended.stdout


def test_a_triton_that_cannot_be_loaded_is_an_engine_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ended = run_broken("triton", "doctor")
    assert ended.returncode == 0, ended.stderr
    assert f"exact_cuda    on cpu    cannot: triton {WHY}" in ended.stdout


def test_a_folder_that_is_left_of_a_package_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.engines import installed

    for package in ("torch", "triton", "kornia"):
        (tmp_path / package).mkdir()
        monkeypatch.setitem(sys.modules, package, sys)  # is put back or taken away again after the test
        monkeypatch.delitem(sys.modules, package)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert installed.torch_fault.__wrapped__() == "torch lies there in parts only"
    monkeypatch.setattr(installed, "torch_fault", lambda: None)
    assert installed.kornia_fault.__wrapped__() == "kornia lies there in parts only"
    assert installed.triton_fault.__wrapped__() == "triton lies there in parts only"


def test_a_run_says_why_it_does_not_take_the_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.engines import pick

    for fault, drivers, wanted in ((None, True, []), ("torch is not installed", False, [])):
        monkeypatch.setattr(pick, "torch_fault", lambda fault=fault: fault)
        monkeypatch.setattr(pick, "_cuda_driver_present", lambda drivers=drivers: drivers)
        with pick.pick_engine()[0]:
            assert [one for one in pick.pick_engine()[1] if one.device != "cpu"] == wanted
    monkeypatch.setattr(pick, "torch_fault", lambda: "torch cannot be loaded (no libcudart)")
    monkeypatch.setattr(pick, "_cuda_driver_present", lambda: True)
    engine, passed_over = pick.pick_engine()
    with engine:
        assert engine.device == "cpu"
        assert str(passed_over[0]) == "exact_cuda on cuda: torch cannot be loaded (no libcudart)"
    with pick.pick_engine(device="cpu")[0]:
        assert [one for one in pick.pick_engine(device="cpu")[1] if one.device != "cpu"] == []


def test_a_driver_alone_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.engines import pick
    from gpu_extract.engines.installed import torch_fault

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(pick, "torch_fault", torch_fault.__wrapped__)
    monkeypatch.setattr(pick, "_cuda_driver_present", lambda: True)
    assert pick.resolve_device("auto") == "cpu"
