"""Fixtures for every test: the vectors, CUDA, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import VECTORS

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 << 30


def pytest_configure(config: pytest.Config) -> None:
    """Put the folders of tests into memory where it has room: their runs flush to the disk thousands of times.

    PYTEST_DEBUG_TEMPROOT, pytest's own, names another place; the long runs of the Makefile take the disk.
    """
    if config.option.basetemp is None and MEMORY.is_dir():
        status = os.statvfs(MEMORY)
        if status.f_bavail * status.f_frsize >= MEMORY_BYTES and not status.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of conformance vectors; its README says what is in it."""
    return VECTORS


@pytest.fixture(scope="session")
def vector_faces() -> dict[str, list[dict[str, Any]]]:
    """Frame key -> faces of the vectors, landmarks as float32 [68, 2]."""
    faces: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "faces.json").read_text())
    for frame in faces.values():
        for face in frame:
            face["landmarks"] = np.array(face["landmarks"], np.float32)
    return faces


@pytest.fixture(scope="session")
def landmarks(vector_faces: dict[str, list[dict[str, Any]]]) -> np.ndarray:
    """Of the first face of the vectors, float32 [68, 2], in the middle of a 320 x 240 frame; not to be written into."""
    points: np.ndarray = vector_faces["f_000001.png"][0]["landmarks"].copy()
    points.flags.writeable = False
    return points


@pytest.fixture(scope="session")
def expected() -> dict[str, Any]:
    """The vectors' expected results by file stem."""
    return {path.stem: json.loads(path.read_text()) for path in (VECTORS / "expected").glob("*.json")}


def _cuda_is_there() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not _cuda_is_there() and os.environ.get("FAIL_WITHOUT_CUDA") != "1":
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device (FAIL_WITHOUT_CUDA=1 makes this a failure)"))
    if os.environ.get("RUN_SLOW") != "1":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="a soak or fuzz run; see the Makefile"))


def _open_files() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        return set()
    found = set()
    for link in list(folder.iterdir()):
        try:
            target = str(link.readlink())
        except OSError:
            continue
        if target.startswith("/") and (target.startswith(f"{MEMORY}/") or not target.startswith(("/dev/", "/proc/"))):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves one of our threads running or a file of its own open."""
    files = _open_files()
    yield
    ours = [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-extract")]
    assert not ours, f"threads still running: {ours}"
    left = {name for name in _open_files() - files if "/pytest-of-" in name or "/tmp" in name or "vectors" in name}
    if left:
        gc.collect()
        left &= _open_files()
    assert not left, f"files still open: {sorted(left)}"
