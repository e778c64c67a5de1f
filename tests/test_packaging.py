"""What an installed copy looks like."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree, with what this environment has."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("setuptools and pip are needed to build a wheel")
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "gpu_extract", source / "gpu_extract", symlinks=True, ignore=ignore)
    shutil.copytree(ROOT / "kernels", source / "kernels", ignore=ignore)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("vectors", "__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gpu_extract"}
    for needed in (
        "gpu_extract/kernels/reference.py",
        "gpu_extract/kernels/warp_affine.py",
        "gpu_extract/data/mean_face_seed.json",
        "gpu_extract/alignments/containers/fsa.py",
        "gpu_extract/frames/sources/video.py",
        "gpu_extract/faces/layouts/flat.py",
        "gpu_extract/service/page/index.html",
        "gpu_extract/service/page/page.js",
    ):
        assert needed in names
    assert not [name for name in names if "test" in name.lower() or name.endswith(".pyc")]
