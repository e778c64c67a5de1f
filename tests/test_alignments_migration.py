"""`migrate` and `export` as the command line has them: with frames at hand, and with notes."""

import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.rotation import legacy_rotation
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsError
from gpu_extract.frames import open_frames
from gpu_extract.jobs.exchange import export
from gpu_extract.jobs.migrate import migrate
from tests.helpers import VECTORS

VIDEO = VECTORS / "video"
NOTE = "--video-timing constant --rotate on"


def test_a_file_without_its_video_says_how_its_frames_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = VIDEO / "clip_alignments_v2_3_pngkeys.fsa"
    report = migrate(old, tmp_path / "new.fsa")
    assert [NOTE in note for note in report.notes] == [True, False]
    assert "none of 6 in .png; name the video with -fr" in report.notes[1]
    assert NOTE in export(old, tmp_path / "new.json").table()
    assert main(["export", str(old), str(tmp_path / "again.json")]) == 0
    assert NOTE in capsys.readouterr().out


@pytest.mark.parametrize("to", ["g7b", "2.2"])
def test_files_that_tell_their_counting_need_no_note(to: str, tmp_path: Path) -> None:
    assert migrate(VIDEO / "clip_alignments_seed_list.fsa", tmp_path / "new.fsa", to=to).notes == []
    assert migrate(VIDEO / "clip_alignments_v2_4.fsa", tmp_path / "same.fsa").notes == []


def test_images_have_no_counting(tmp_path: Path) -> None:
    old = VECTORS / "alignments" / "g6_2019-12.fsa"
    assert migrate(old, tmp_path / "new.fsa", frames=VECTORS / "frames").notes == []
    assert export(old, tmp_path / "new.json", frames=VECTORS / "frames").notes == []


def test_export_of_turned_faces_takes_the_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = VECTORS / "alignments" / "g0_2018-05.json"
    with pytest.raises(AlignmentsError, match="name the frames too"):
        export(old, tmp_path / "new.json")
    new = tmp_path / "new.json"
    assert main(["export", str(old), str(new), "-fr", str(VECTORS / "frames")]) == 0
    assert "1 face turned back into its frame" in capsys.readouterr().out
    migrate(old, tmp_path / "new.fsa", frames=VECTORS / "frames")
    migrated = Alignments.load(tmp_path / "new.fsa").root()["__data__"]
    for name, faces in json.loads(new.read_text()).items():
        expected = [one["landmarks_xy"] for one in migrated[name]["faces"]]
        assert [one["landmarks_2d"] for one in faces] == expected


def test_export_names_faces_that_move_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = np.zeros((68, 2), np.float32)
    face: dict[str, Any] = {"x": 1, "w": 2, "y": 3, "h": 4, "mask": {}}
    faces = [face | {"landmarks_xy": one} for one in (None, points)]
    (tmp_path / "a.fsa").write_bytes(zlib.compress(pickle.dumps({"a.png": faces})))
    assert main(["export", str(tmp_path / "a.fsa")]) == 4
    assert "so the faces after it move up by one" in capsys.readouterr().out


def test_a_turned_face_of_2018_lies_in_the_video_as_its_display_matrix_shows_it(tmp_path: Path) -> None:
    clip = (VIDEO / "clip.mp4").read_bytes()
    upright, turned = (_fixed_point(*matrix) for matrix in ((1, 0, 0, 1), (0, 1, -1, 0)))
    at = clip.index(upright, clip.index(b"tkhd"))
    (tmp_path / "clip.mp4").write_bytes(clip[:at] + turned + clip[at + len(turned) :])
    with open_frames(VIDEO / "clip.mp4") as source:
        width, height = source.size_of(0)
    points = (np.arange(136).reshape(68, 2) * 1.5).astype(np.float32)
    old = {"x": 10, "y": 20, "w": 31, "h": 43, "r": 90, "landmarksXY": [(int(x), int(y)) for x, y in points]}
    (tmp_path / "a.json").write_text(json.dumps({"clip_000001.png": [old]}))
    migrate(tmp_path / "a.json", tmp_path / "new.fsa", frames=tmp_path / "clip.mp4")
    expected, _ = legacy_rotation(points.astype(int), np.array([10, 20, 31, 43]), 90, height, width)
    assert width != height
    assert Alignments.load(tmp_path / "new.fsa").record(0)["landmarks_xy"] == expected.tolist()


def _fixed_point(a: int, b: int, c: int, d: int) -> bytes:
    """A display matrix as mp4 has it."""
    return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
