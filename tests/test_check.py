"""`check` compares an alignments file with its frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import write_video

Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    def run(alignments: Path, frames: Path, *options: str) -> tuple[int, dict[str, Any]]:
        report = tmp_path / "check.json"
        before = alignments.read_bytes()
        code = main(["check", "-a", str(alignments), "-fr", str(frames), "--json", str(report), *options])
        assert alignments.read_bytes() == before
        found = json.loads(report.read_text())
        assert found["exit_code"] == code
        return code, found

    return run


def points(vector_faces: Any) -> list[list[float]]:
    found: list[list[float]] = vector_faces["f_000001.png"][0]["landmarks"].tolist()
    return found


def face(landmarks: Any) -> dict[str, Any]:
    return {"x": 0, "y": 0, "w": 9, "h": 9, "landmarks_xy": landmarks}


def test_the_vectors(checked: Check, vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = checked(vectors / "alignments" / "g6_2019-12.fsa", vectors / "frames")
    assert code == 4
    assert (found["frames"], found["entries"], found["faces"]) == (8, 8, 18)
    assert found["frames_without_alignments"] == ["f_000006.png"]
    assert found["alignments_without_frame"] == ["f_000099.png"]
    assert found["frames_without_faces"] == ["f_000005.png"]
    assert found["frames_with_several_faces"] == [f"f_00000{i}.png" for i in (2, 3, 4, 7, 8)]
    assert found["bad_landmarks"] == []
    out = capsys.readouterr().out
    assert "      1 without alignments: f_000006.png" in out
    assert "      1 in the file but not in the source: f_000099.png" in out


def test_nothing_wrong(checked: Check, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    """Several faces, or none, are no fault."""
    source = tmp_path / "a.json"
    good = face(points(vector_faces))
    names = sorted(path.name for path in (vectors / "frames").iterdir())
    source.write_text(json.dumps({name: [good] * (i % 3) for i, name in enumerate(names)}))
    code, found = checked(source, vectors / "frames")
    assert code == 0
    assert len(found["frames_without_faces"]) == 3
    assert len(found["frames_with_several_faces"]) == 2


def test_bad_landmarks(checked: Check, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    good = points(vector_faces)
    nan, huge = [[float("nan"), 1.0], *good[1:]], [[1e39, 1.0], *good[1:]]
    bad = [nan, huge, [[5, 5]] * 68, good[:67], "text", None, [], [[1, 2, 3]] * 68]
    source = tmp_path / "a.json"
    source.write_text(json.dumps({"f_000001.png": [face(good), *map(face, bad), face(good)]}))
    code, found = checked(source, vectors / "frames")
    assert code == 4
    assert [one["index"] for one in found["bad_landmarks"]] == list(range(1, 9))
    assert all(one["frame"] == "f_000001.png" and one["reason"] for one in found["bad_landmarks"])


@pytest.mark.parametrize("timing", ["decoded", "constant"])
def test_a_video_is_counted_to_its_end(timing: str, checked: Check, tmp_path: Path, vector_faces: Any) -> None:
    rng = np.random.default_rng(3)
    pictures = (rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(150))
    write_video(tmp_path / "clip.mp4", pictures, 25, {"preset": "ultrafast"})
    source = tmp_path / "a.json"
    entries = {f"clip_{number:06d}.png": [face(points(vector_faces))] for number in (1, 2, 150, 151)}
    source.write_text(json.dumps(entries))
    code, found = checked(source, tmp_path / "clip.mp4", "--video-timing", timing)
    assert (code, found["frames"]) == (4, 150)
    assert found["frames_without_alignments"] == [f"clip_{number:06d}.mp4" for number in range(3, 150)]
    assert found["alignments_without_frame"] == ["clip_000151.png"]


def test_two_entries_for_one_frame(checked: Check, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    source = tmp_path / "a.json"
    shutil.copy(vectors / "video" / "clip.mp4", tmp_path / "clip.mp4")
    keys = [f"clip_{i:06d}.png" for i in range(1, 8)] + ["clip_000003.mp4"]
    source.write_text(json.dumps({key: [face(points(vector_faces))] for key in keys}))
    code, found = checked(source, tmp_path / "clip.mp4")
    assert code == 0
    assert found["notes"] == ["clip_000003.mp4 and clip_000003.png name the same frame; only the latter is extracted."]


@pytest.mark.parametrize("name", ["reject_builtins_eval.fsa", "nothing.fsa"])
def test_what_cannot_be_read(name: str, vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", "-a", str(vectors / "alignments" / name), "-fr", str(vectors / "frames")])
    assert code == (7 if name.startswith("reject") else 3)
    assert capsys.readouterr().err.startswith("gpu-extract: ")


def test_hostile_names_are_printed_harmlessly(
    checked: Check, tmp_path: Path, vectors: Path, vector_faces: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.json"
    keys = ["\x1b[2J.png", "a\nb.png", "\udcff.png", "n" * 4000]
    source.write_text(json.dumps({key: [face(points(vector_faces))] for key in keys}))
    _, found = checked(source, vectors / "frames")
    assert found["alignments_without_frame"] == keys
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[2J.png, a\nb.png, \udcff.png" in out
