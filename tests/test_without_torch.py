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
            "device cuda was asked for but torch is not installed; install it, or try --device cpu.",
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
        return ModuleSpec(name, self) if name == "torch" else None
    def create_module(self, spec):
        raise OSError("libcudart.so.12: cannot open shared object file: No such file or directory")
    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Broken())
from gpu_extract.engines import pick
pick._cuda_driver_present = lambda: True
from gpu_extract.__main__ import main
raise SystemExit(main())
"""
WHY = "torch is installed but cannot be loaded (libcudart.so.12: cannot open shared object file: No such file or direc"


def test_a_torch_without_its_libraries_is_named_and_passed_over(tmp_path: Path) -> None:
    def run_broken(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BROKEN, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    ended = run_broken("doctor")
    assert ended.returncode == 0, ended.stderr
    assert f"cpu only ({WHY}" in ended.stdout
    ended = run_broken("doctor", "--device", "cuda")
    assert ended.returncode == 5
    assert f"device cuda was asked for but {WHY}" in ended.stdout
    ended = run_broken("demo", str(tmp_path / "demo"))
    assert ended.returncode == 0, ended.stderr


def test_a_driver_alone_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.engines import pick
    from gpu_extract.engines.installed import torch_fault

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(pick, "torch_fault", torch_fault.__wrapped__)
    monkeypatch.setattr(pick, "_cuda_driver_present", lambda: True)
    assert pick.resolve_device("auto") == "cpu"
