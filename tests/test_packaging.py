"""What an installed copy looks like."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from gpu_extract import __main__
from gpu_extract.errors import DeviceError
from tests.helpers import demo_made_once

ROOT = Path(__file__).parent.parent
CLIENT = """
import threading
import gpu_extract
from gpu_extract import Report

def follow(event: object) -> None:
    if isinstance(event, gpu_extract.FrameDone):
        names: list[str] = [str(face.file_name) for face in event.faces]
        print(event.frame, names)

report: Report = gpu_extract.extract("a.fsa", "clip.mp4", "faces", size=256, progress=follow, cancel=threading.Event())
count: int = report.faces_written
print(count, report.exit_code)
"""


def test_the_kernels_folder_is_reached_through_a_link() -> None:
    link = ROOT / "gpu_extract" / "kernels"
    assert link.is_symlink()
    assert link.resolve() == (ROOT / "kernels").resolve()


def test_no_bare_package_named_kernels(tmp_path: Path) -> None:
    code = "import importlib.util; spec = importlib.util.find_spec('kernels'); print(spec.origin if spec else '')"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in run.stdout


def test_kernels_import_nothing_of_the_package_around_them() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        for line in path.read_text("utf-8").splitlines():
            if line.strip().startswith(("import gpu_extract", "from gpu_extract")):
                assert "gpu_extract.kernels" in line, f"{path.name}: {line}"


def test_opencv_5_is_not_taken() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    opencv = [name for name in project["dependencies"] if name.startswith("opencv")]
    assert opencv == ["opencv-python>=4.11,<5"]
    assert [name for name in project["dependencies"] if name.startswith("torch>=2.6,<2.14;")]


def source(folder: Path) -> Path:
    """A copy of what a source archive is made of; skips where this environment cannot build."""
    for name in ("setuptools", "pip"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is needed to build archives")
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("gpu_extract", "kernels", "docs"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=shutil.ignore_patterns("vectors", "__pycache__"))
    return copy


def built(folder: Path, kind: str, **environment: str) -> tuple[Path, str]:
    """An archive of a copy of the tree, made with what this environment has, and what was said.

    Args:
        kind: "bdist_wheel" or "sdist".
    """
    command = [sys.executable, "setup.py", kind, "-d", str(folder / "made")]
    run = subprocess.run(
        command, cwd=source(folder), env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (archive,) = (folder / "made").iterdir()
    return archive, run.stdout


def unpacked(wheel: Path) -> Path:
    folder = wheel.parent.parent / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree."""
    return built(tmp_path_factory.mktemp("wheel"), "bdist_wheel")[0]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive of a copy of the tree."""
    return built(tmp_path_factory.mktemp("sdist"), "sdist", SOURCE_DATE_EPOCH="1700000000")[0]


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A wheel where nothing can be compiled, and what was said."""
    return built(tmp_path_factory.mktemp("without"), "bdist_wheel", CC=shutil.which("false") or "/bin/false")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith((".dist-info", ".data"))} == {"gpu_extract"}
    for needed in (
        "gpu_extract/py.typed",
        "gpu_extract/kernels/reference.py",
        "gpu_extract/kernels/warp_affine.py",
        "gpu_extract/data/mean_face_seed.json",
        "gpu_extract/alignments/containers/fsa.py",
        "gpu_extract/frames/sources/video.py",
        "gpu_extract/face_files/layouts/flat.py",
        "gpu_extract/service/page/index.html",
        "gpu_extract/service/page/page.js",
    ):
        assert needed in names
    assert not [name for name in names if "test" in name.lower() or name.endswith((".pyc", ".c", ".h"))]
    assert [name.split("/", 1)[1] for name in names if ".data/" in name] == ["data/share/man/man1/gpu-extract.1"]


def test_one_wheel_serves_every_python(wheel: Path) -> None:
    _, _, python, abi, _ = wheel.stem.split("-")
    assert (python, abi) == ("cp311", "abi3")
    extensions = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
    assert all(name.endswith(".abi3.so") for name in extensions)
    assert len(extensions) in (0, 9)  # 0: this machine has no compiler


def test_a_system_without_posix_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as on_windows:
        on_windows.setattr(os, "name", "nt")
        on_windows.delattr(signal, "SIGHUP")
        code = __main__.main()
    assert code == DeviceError.exit_code
    assert capfd.readouterr().err == "gpu-extract: this runs on Linux and macOS; on Windows, inside WSL 2.\n"


def test_classifiers_name_each_python_that_has_a_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = {path.name.split("-")[1] for path in (ROOT / "requirements").glob("linux-*-test.txt")}
    prefix = "Programming Language :: Python :: 3."
    named = {f"3.{name.removeprefix(prefix)}" for name in project["classifiers"] if name.startswith(prefix)}
    assert named == locked
    assert min(named) == project["requires-python"].removeprefix(">=")


def test_the_source_archive_builds_what_it_must_and_holds_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "docs/gpu-extract.1"} <= names
    sources = {path.name for path in (ROOT / "kernels").iterdir() if path.suffix in (".c", ".h", ".py")}
    assert sources <= {name.removeprefix("gpu_extract/kernels/") for name in names}
    assert not [name for name in names if name.startswith(("tests", "kernels", "bench"))]
    assert not [member.name for member in members if member.issym() or member.islnk()]
    assert {member.mtime for member in members} == {1700000000}


def test_a_source_archive_follows_from_the_sources_alone(sdist: Path, tmp_path: Path) -> None:
    again, _ = built(tmp_path / "elsewhere", "sdist", SOURCE_DATE_EPOCH="1700000000")
    assert again.read_bytes() == sdist.read_bytes()


def test_nothing_compiled_is_a_line_and_no_end(without_compiler: tuple[Path, str]) -> None:
    archive, said = without_compiler
    assert not [name for name in zipfile.ZipFile(archive).namelist() if name.endswith(".so")]
    lines = [line for line in said.splitlines() if line.startswith("gpu-extract: ")]
    assert lines == [
        "gpu-extract: _columns, _cutter, _inflate, _jpeg, _opcodes, _png, _sampler, _scanlines, _yuv could not be "
        "compiled here; Python, NumPy, OpenCV and FFmpeg will do that work, more slowly, to the same bytes."
    ]


def pictures(
    program: Sequence[str | Path], words: Sequence[str | Path], folder: Path, place: str = ""
) -> dict[str, bytes]:
    """What an installation writes into a folder with no compiler in reach, by name; `place` is its PYTHONPATH."""
    command = [*program, *words]
    environment = {"PATH": "", "CC": "false", "PYTHONPATH": place}
    run = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return {path.name: path.read_bytes() for path in folder.rglob("*.png")}


def test_faces_are_the_same_files_with_the_extensions_and_without(
    wheel: Path, without_compiler: tuple[Path, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    demo_made_once(tmp_path_factory, tmp_path / "demo")
    program = (sys.executable, "-c", "import sys; from gpu_extract.__main__ import main; sys.exit(main())")
    words = ["extract", "-a", "demo/demo_alignments.fsa", "-fr", "demo/demo.mp4", "-een", "9", "--no-update"]
    made = []
    for place in (unpacked(wheel), unpacked(without_compiler[0])):
        faces = tmp_path / place.parent.name
        made.append(pictures(program, [*words, "-fc", faces], faces, str(place)))
    assert len(made[0]) > 10
    assert made[0] == made[1]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("RUN_SLOW"), reason="downloads all dependencies; RUN_SLOW=1 runs it")
def test_clean_environments_without_a_compiler_run_the_demo(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    """The wheel and the source archive, each with its dependencies, in a virtual environment of its own."""
    made = []
    for name, archive in (("wheel", wheel), ("sdist", sdist)):
        python = tmp_path / name / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", tmp_path / name], check=True)
        install: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            ROOT / "requirements" / "torch.txt",
            archive,
        ]
        subprocess.run(install, env=os.environ | {"CC": "false", "PIP_NO_CACHE_DIR": "1"}, check=True)
        subprocess.run([python, "-m", "pip", "check"], check=True)
        folder = tmp_path / f"demo of {name}"
        made.append(pictures([python.with_name("gpu-extract")], ["demo", folder], folder))
        assert (tmp_path / name / "share" / "man" / "man1" / "gpu-extract.1").exists()
    assert len(made[0]) == 119
    assert made[0] == made[1]
    if importlib.util.find_spec("mypy") is not None:
        client = tmp_path / "client.py"
        client.write_text(CLIENT)
        python = tmp_path / "wheel" / "bin" / "python"
        check = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), str(client)]
        run = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("RUN_SLOW"), reason="compiles twice; RUN_SLOW=1 runs it")
def test_a_wheel_follows_from_the_sources_alone(tmp_path: Path) -> None:
    files = [built(tmp_path / name, "bdist_wheel", SOURCE_DATE_EPOCH="1700000000")[0] for name in ("a", "b of another")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_manual_is_set_without_a_complaint() -> None:
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("mandoc is not installed")
    command = [mandoc, "-T", "lint", "-W", "warning", str(ROOT / "docs" / "gpu-extract.1")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    assert [line for line in said if "missing date" not in line] == []
