"""Long runs: memory, file handles and threads do not grow with the number of frames, and nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments, write_video
from gpu_extract.run import journal

HEIGHT, WIDTH = 48, 64


def pictures(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(9)
    noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    for number in range(count):
        yield np.roll(noise, number, axis=1)


def make(folder: Path, count: int, landmarks: np.ndarray) -> list[str]:
    """A clip of so many frames with a face in each, and the command that extracts them."""
    write_video(folder / "clip.mp4", pictures(count), 25, {"preset": "ultrafast", "g": "50"})
    small = (landmarks * 0.2).astype(np.float32)
    entries = {f"clip_{number + 1:06d}.png": [face_record(small + np.float32(number % 7))] for number in range(count)}
    write_alignments(folder / "a.fsa", entries)
    given = ["extract", "-a", str(folder / "a.fsa"), "-fr", str(folder / "clip.mp4"), "-fc", str(folder / "faces")]
    return [*given, "-sz", "16", "-q", "--device", "cpu", "--json", str(folder / "report.json")]


def watched(command: list[str], faces: Path, at: list[int]) -> dict[int, dict[str, int]]:
    """Run a command in a process of its own; its memory, handles and threads when so many frames were finished."""
    process = subprocess.Popen([sys.executable, "-W", "error", "-m", "gpu_extract", *command])
    seen: dict[int, dict[str, int]] = {}
    lines = position = 0
    last: dict[str, int] = {}
    while process.poll() is None:
        time.sleep(0.02)
        try:
            with (faces / journal.NAME).open("rb") as file:
                file.seek(position)
                fresh = file.read()
            last = state(process.pid)
        except (OSError, KeyError):  # not begun yet, or just ended
            continue
        lines += fresh.count(b"\n")
        position += len(fresh)
        for goal in at:
            if lines >= goal and goal not in seen:
                seen[goal] = last
    assert process.returncode == 0
    return seen


def state(process: int) -> dict[str, int]:
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    handles = len(list(Path(f"/proc/{process}/fd").iterdir()))
    return {"rss_kib": int(fields["VmRSS"].split()[0]), "handles": handles, "threads": int(fields["Threads"])}


def check_flat(seen: dict[int, dict[str, int]], early: int, late: int, bytes_a_face: int) -> None:
    """What is kept of a face until the end, its row and its hash, is all that may grow."""
    first, last = seen[early], seen[late]
    allowed_kib = (late - early) * bytes_a_face // 1024 + 8 * 1024
    assert last["rss_kib"] - first["rss_kib"] < allowed_kib, seen
    assert last["handles"] <= first["handles"] + 1, seen
    assert last["threads"] <= first["threads"], seen


def test_some_thousand_frames(tmp_path: Path, landmarks: np.ndarray) -> None:
    command = make(tmp_path, 6000, landmarks)
    seen = watched(command, tmp_path / "faces", [2000, 5500])
    check_flat(seen, 2000, 5500, 100)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["faces_written"] == report["hashes_updated"] == 6000
    assert Alignments.load(tmp_path / "a.fsa").stored_hash(5999)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "webdataset"])
def test_100_000_frames(layout: str, tmp_path: Path, landmarks: np.ndarray) -> None:
    count = 100_000
    command = make(tmp_path, count, landmarks)
    goals = [10_000, 30_000, 50_000, 70_000, 90_000]
    seen = watched([*command, "--output-layout", layout], tmp_path / "faces", goals)
    print(layout, seen)
    check_flat(seen, 10_000, 90_000, 100)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["faces_written"] == count
    print({key: report[key] for key in ("seconds", "frames_per_second", "limiting_stage")})


def test_many_runs_in_one_process(tmp_path: Path, landmarks: np.ndarray) -> None:
    """Plain, resumed, failing and verified: no thread, handle or warning is left, and memory comes back."""
    command = make(tmp_path, 60, landmarks)
    pairs = command[1:7]

    def once(number: int) -> None:
        faces = tmp_path / f"faces{number}"
        run = [*command]
        run[run.index("-fc") + 1] = str(faces)
        assert main(run) == 0
        assert main([*run, "--resume"]) == 0
        assert main([*run, "-sz", "32", "--resume"]) == 2
        assert main(["verify", *pairs[:5], str(faces), "-q"]) == 0
        assert main(["check", *pairs[:4], "-q"]) == 0
        assert main(["extract", *pairs[:1], str(tmp_path / "clip.mp4"), *pairs[2:5], str(faces), "-q"]) == 7
        assert main(["extract", *pairs[:2], "-fr", str(tmp_path / "a.fsa"), *pairs[4:5], str(faces), "-q"]) == 3

    for number in range(3):
        once(number)
    gc.collect()
    before = state(os.getpid())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(3, 10):
            once(number)
        gc.collect()
    after = state(os.getpid())
    assert after["handles"] <= before["handles"]
    assert after["threads"] <= before["threads"]
    assert after["rss_kib"] - before["rss_kib"] < 24 * 1024
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("gpu-extract")] == []
