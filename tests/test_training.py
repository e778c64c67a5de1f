"""Faces that the programs' trainer does not take, and filters that the programs mean otherwise: said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.geometry import crops
from tests.helpers import Job, copied, face_entry, image_bytes, noise, write_pickled

OLD, MODERN = "g6_2019-12.fsa", "v2_3.fsa"


def warnings(job: Job) -> list[str]:
    return [note for note in job.report["notes"] if "trainer" in note]


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        (MODERN, ["--centering", "face"], ["face-centred"]),
        (MODERN, ["--centering", "legacy"], ["legacy-centred"]),
        (MODERN, ["--format", "jpg"], [".jpg files without a header"]),
        (MODERN, ["--format", "webp", "--centering", "face"], ["face-centred, .webp files"]),
        (MODERN, ["-ae"], ["level"]),
        (OLD, ["--centering", "head"], ["head-centred", "legacy-centred images"]),
        (OLD, ["--format", "webp"], [".webp files"]),
    ],
)
def test_one_line_where_the_trainer_does_not_take_them(
    name: str, options: list[str], named: list[str], vectors: Path, tmp_path: Path
) -> None:
    job = Job(copied(vectors / "alignments" / name, tmp_path), vectors / "frames", "-sz", "32")
    job.run(*options)
    (warning,) = warnings(job)
    assert all(words in warning for words in named), warning


@pytest.mark.parametrize(
    ("name", "options"),
    [(MODERN, []), (MODERN, ["--centering", "head", "--format", "png"]), (OLD, []), (OLD, ["-ae", "--format", "jpg"])],
)
def test_none_where_it_does(name: str, options: list[str], vectors: Path, tmp_path: Path) -> None:
    job = Job(copied(vectors / "alignments" / name, tmp_path), vectors / "frames", "-sz", "32")
    job.run(*options)
    assert warnings(job) == []


@pytest.mark.parametrize(
    ("name", "options", "box", "least"),
    [
        (OLD, ["--large"], "legacy", 128),
        (MODERN, ["--min-size", "50"], "head", 64),
        (MODERN, ["--large", "--centering", "face"], "face", 128),
    ],
)
def test_which_box_was_measured(
    name: str,
    options: list[str],
    box: str,
    least: int,
    vectors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Job(copied(vectors / "alignments" / name, tmp_path), vectors / "frames", "-sz", "128")
    job.run(*options)
    report = job.report
    assert (report["centering"], report["min_box_px"]) == (box, least)
    assert f"left out, too small: {box} box under {least} px" in capsys.readouterr().out


@pytest.mark.parametrize("scale", [1.0, 1.004, 1.2])
def test_faces_that_the_programs_drop_by_a_pixel(scale: float, vector_faces: Any, tmp_path: Path) -> None:
    """At scale 1 a crop of 64 px has a source box of 64 px, of which the programs measure 63."""
    size = 64
    points = vector_faces["f_000001.png"][0]["landmarks"].astype(np.float64)
    box = crops.box_px(crops.crop_geometry(points[None], size, seed=True).crop_from_frame, size)[0]
    points = (points - points.mean(axis=0)) * (size * scale / box) + (80, 70)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "a.png").write_bytes(image_bytes(".png", noise(140, 160)))
    alignments = write_pickled(tmp_path / "a.fsa", {"a.png": [face_entry(points.astype(np.float32))]})
    job = Job(alignments, tmp_path / "frames", "-sz", str(size), "--large")
    assert job.run() == 0
    report = job.report
    assert report["faces_written"] == 1
    cut = crops.crop_geometry(points.astype(np.float32)[None], size, seed=True)
    short = crops.box_px(cut.crop_from_frame, size)[0] * (size - 1) / size < size
    assert [("just large enough" in note) for note in report["notes"]].count(True) == short
    assert short == (scale < 1.1)
