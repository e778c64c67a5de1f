"""Old and new numbering of video frames, chosen by the file's generation, on phone-like clips."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import write_alignments
from tests.helpers import (
    extract_command,
    face_entry,
    piped_decode,
    plain_decode,
    read_image,
    write_clip,
    write_frames,
)

SIDE = (96, 160)


def variable_rate_clip(path: Path) -> int:
    """A clip of ten frames, each a flat grey of 20 times its number, with a gap of one frame time after the fourth."""
    greys = ((np.full((*SIDE, 3), 20 * (number + 1), np.uint8), 4 * (number + (number > 3))) for number in range(10))
    write_frames(path, greys, ticks=100, options={"crf": "1", "bf": "0"}, fine_times=True)
    return 10


@pytest.fixture
def landmarks(landmarks: np.ndarray) -> np.ndarray:
    """Those of the vectors, small enough for the clip."""
    return landmarks * np.float32(0.3) + np.float32(10)


def greys(folder: Path) -> dict[str, int]:
    """The grey in the middle of each face, as the number of the frame that it shows."""
    found = {}
    for path in sorted(folder.glob("*.png")):
        image = read_image(path)
        found[path.stem] = round(float(image[28:36, 28:36].mean()) / 20)
    return found


def extract(folder: Path, alignments: Path, video: Path, *options: str) -> dict[str, Any]:
    report = folder / "report.json"
    given = ("-sz", "64", "--json", report, "--no-update", *options)
    main(extract_command(alignments, video, folder / "faces", *given))
    made: dict[str, Any] = json.loads(report.read_text())
    return made


def old_file(path: Path, landmarks: np.ndarray, count: int) -> Path:
    write_alignments(path, {f"clip_{n:06d}.png": [face_entry(landmarks)] for n in range(1, count + 1)})
    return path


def test_an_old_file_numbers_frames_at_a_constant_rate(tmp_path: Path, landmarks: np.ndarray) -> None:
    variable_rate_clip(tmp_path / "clip.mp4")
    alignments = old_file(tmp_path / "a.fsa", landmarks, 11)
    made = extract(tmp_path, alignments, tmp_path / "clip.mp4")
    assert made["video_timing"] == "constant"
    shown = list(greys(tmp_path / "faces").values())
    assert shown == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 10]
    assert made["alignments_without_frame"] == 0


def test_the_wrong_choice_is_said(tmp_path: Path, landmarks: np.ndarray) -> None:
    variable_rate_clip(tmp_path / "clip.mp4")
    alignments = old_file(tmp_path / "a.fsa", landmarks, 11)
    made = extract(tmp_path, alignments, tmp_path / "clip.mp4", "--video-timing", "decoded")
    assert list(greys(tmp_path / "faces").values()) == list(range(1, 11))
    assert made["alignments_without_frame"] == 1
    assert any("1 frame number of the file lies past the video's end (10 frames" in note for note in made["notes"])
    assert any("try --video-timing constant" in note for note in made["notes"])
    assert made["exit_code"] == 4


def test_a_file_of_today_numbers_every_decoded_frame(tmp_path: Path, landmarks: np.ndarray) -> None:
    variable_rate_clip(tmp_path / "clip.mp4")
    frames = {f"clip_{n:06d}.mp4": [landmarks.tolist()] for n in range(1, 11)}
    (tmp_path / "landmarks.json").write_text(json.dumps(frames))
    assert main(["import", str(tmp_path / "landmarks.json"), str(tmp_path / "a.fsa"), "-q"]) == 0
    made = extract(tmp_path, tmp_path / "a.fsa", tmp_path / "clip.mp4", "--centering", "legacy")
    assert made["video_timing"] == "decoded"
    assert made["rotate"] is False
    assert list(greys(tmp_path / "faces").values()) == list(range(1, 11))


@pytest.mark.parametrize(("rotate", "expected"), [("auto", True), ("on", True), ("off", False)])
def test_rotation_follows_the_files_generation(
    rotate: str, expected: bool, tmp_path: Path, vectors: Path, landmarks: np.ndarray
) -> None:
    """A clip without a display matrix is the same either way; what was decided is in the report."""
    shutil.copy(vectors / "video" / "clip.mp4", tmp_path / "clip.mp4")
    made = extract(tmp_path, old_file(tmp_path / "a.fsa", landmarks, 3), tmp_path / "clip.mp4", "--rotate", rotate)
    assert made["rotate"] is expected
    assert made["faces_written"] == 3


@pytest.mark.parametrize(
    ("generation", "options", "decode"),
    [
        ("old", (), piped_decode),
        ("old", ("--video-timing", "decoded"), piped_decode),
        ("today's", (), plain_decode),
        ("today's", ("--video-timing", "constant"), piped_decode),
    ],
)
def test_pixels_follow_the_files_generation(
    generation: str, options: tuple[str, ...], decode: Any, tmp_path: Path, landmarks: np.ndarray
) -> None:
    """Of a format of which the programs' pixels differ; frames of a folder have them as they are."""
    video = write_clip(tmp_path / "clip.mkv", 3, SIDE, pixel_format="yuv420p10le")
    (tmp_path / "frames").mkdir()
    for number, pixels in enumerate(decode(video), 1):
        cv2.imwrite(str(tmp_path / "frames" / f"clip_{number:06d}.png"), pixels)
    for folder, frames, extension in (("expected", tmp_path / "frames", ".png"), ("found", video, ".mkv")):
        place = tmp_path / folder
        place.mkdir()
        if generation == "old":
            old_file(place / "a.fsa", landmarks, 3)
        else:
            faces = {f"clip_{n:06d}{extension}": [landmarks.tolist()] for n in range(1, 4)}
            (place / "landmarks.json").write_text(json.dumps(faces))
            assert main(["import", str(place / "landmarks.json"), str(place / "a.fsa"), "-q"]) == 0
        assert extract(place, place / "a.fsa", frames, "--centering", "legacy", *options)["faces_written"] == 3
    for path in sorted((tmp_path / "expected" / "faces").glob("*.png")):
        found = read_image(tmp_path / "found" / "faces" / path.name)
        assert np.array_equal(read_image(path), found), path.name
    assert any((a != b).any() for a, b in zip(plain_decode(video), piped_decode(video), strict=True))
