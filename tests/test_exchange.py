"""Landmarks from elsewhere, and keys that stand twice: nothing is lost without a word."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import import_json, load_any
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsError, UsageError
from gpu_extract.jobs.check import check
from gpu_extract.jobs.exchange import export
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.verify import verify
from tests.helpers import CLIP, VECTORS, files_in

FRAMES = VECTORS / "frames"


def points(seed: int, count: int = 68) -> list[list[float]]:
    """Landmarks in the middle of a frame of the vectors."""
    made: list[list[float]] = (np.random.default_rng(seed).random((count, 2)) * 60 + 90).round(2).tolist()
    return made


def twice(pairs: list[tuple[str, Any]]) -> str:
    """JSON of an object that may give a key more than once."""
    return "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"


def exchanged(seed: int) -> dict[str, Any]:
    return {"detected": [90, 90, 150, 150], "landmarks_2d": points(seed)}


def old_face(seed: int) -> dict[str, Any]:
    whole = [[round(x), round(y)] for x, y in points(seed)]
    return {"x": 90, "w": 60, "y": 90, "h": 60, "landmarks_xy": whole, "hash": None}


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    """Faces in the exchange form of two frames of the vectors."""
    path = tmp_path / "landmarks.json"
    path.write_text(json.dumps({"f_000001.png": [exchanged(1), exchanged(2)], "f_000002.png": [exchanged(3)]}))
    return path


# ---- import


BAD: list[tuple[Any, str]] = [
    ({"landmarks_2d": points(1, 67)}, "it has 67 landmarks; sets of 68, 98, 51, 4 are known"),
    ({"landmarks_2d": [[1, None], *points(1, 67)]}, "its point 0 of 68 has None, which is no number"),
    ({"landmarks_2d": [*points(1, 67), [1, "2"]]}, "its point 67 of 68 has '2', which is no number"),
    ({"landmarks_2d": [*points(1, 67), [True, 2]]}, "its point 67 of 68 has True, which is no number"),
    ({"landmarks_2d": [*points(1, 67), [1, 2, 3]]}, "its point 67 of 68 is not [x, y]"),
    ({"landmarks_2d": [*points(1, 67), [math.nan, 2]]}, "its landmarks hold values that are not finite numbers"),
    ({"landmarks_2d": [*points(1, 67), [10**400, 2]]}, "its landmarks hold values that are not finite numbers"),
    ({"landmarks_2d": None}, "its landmarks are missing; a list of points [x, y] is wanted"),
    ({"detected": [1, 2, 3, 4]}, "it has no landmarks_2d"),
    ({"landmarks_2d": points(1), "detected": [1, 2, 3]}, "its box `detected` is not [left, top, right, bottom]"),
    (points(1, 5), "it has 5 landmarks"),
    ("face", "its landmarks are text"),
    (7, "its landmarks are a number"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_face_is_named_and_the_others_are_taken(
    bad: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, new = tmp_path / "landmarks.json", tmp_path / "new.fsa"
    source.write_text(json.dumps({"a.png": [exchanged(1), bad, exchanged(2)], "b.png": 3, "c.png": [exchanged(3)]}))
    assert main(["import", str(source), str(new)]) == 4
    out = capsys.readouterr().out
    assert "3 faces of 2 frames, version 2.4" in out
    assert f"left out: 'a.png' face 1: {reason}" in out
    assert "so the faces after it move up by one" in out
    assert "left out: 'b.png': its faces are a number; a list of them is wanted" in out
    assert main(["import", str(source), str(tmp_path / "quiet.fsa"), "-q"]) == 4
    quiet = capsys.readouterr()
    assert quiet.out == ""
    assert "2 entries left out: landmarks.json, frame 'a.png', face 1: it" in quiet.err
    made = Alignments.load(new)
    assert made.frame_names == ["a.png", "c.png"]
    expected = np.array([points(1), points(2), points(3)], np.float32)
    assert np.array_equal(made.faces.groups[0].points, expected)

    assert main(["import", str(source), str(tmp_path / "strict.fsa"), "--strict"]) == 7
    err = capsys.readouterr().err
    assert "frame 'a.png', face 1: it" in err
    assert "and 1 more; nothing was imported" in err
    assert not (tmp_path / "strict.fsa").exists()


def test_where_no_face_is_good_nothing_is_made(tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    source.write_text(json.dumps({"a.png": [points(1, 5)], "b.png": [points(1, 6)]}))
    with pytest.raises(AlignmentsError, match=r"face 0: it has 5 landmarks.*, and 1 more; no face is left"):
        import_json(source, tmp_path / "new.fsa")
    assert not (tmp_path / "new.fsa").exists()


def test_good_landmarks_leave_nothing_to_say(landmarks: Path, tmp_path: Path) -> None:
    made = import_json(landmarks, tmp_path / "new.fsa", strict=True)
    assert (made.notes, made.left_out, made.imported) == ([], [], False)


def test_values_that_have_no_place_are_named(tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    source.write_text(json.dumps({"a.png": [exchanged(1) | {"score": 0.5}, exchanged(2) | {"score": 0.7, "id": 3}]}))
    assert import_json(source, tmp_path / "new.fsa").notes == [
        "2 faces of landmarks.json held 'score', for which an alignments file has no place.",
        "1 face of landmarks.json held 'id', for which an alignments file has no place.",
    ]


# ---- keys that stand twice


@pytest.mark.parametrize(
    ("first", "second", "faces"),
    [
        ([exchanged(1)], [exchanged(2)], [1, 2]),
        ([exchanged(1), exchanged(2)], [exchanged(2), exchanged(3)], [1, 2, 3]),
        ([], [exchanged(1)], [1]),
        ([points(1)], [points(2)], [1, 2]),
        (points(1), points(2), [1, 2]),
        ([points(1)], points(2), [1, 2]),
    ],
)
def test_a_frame_that_stands_twice_in_landmarks_keeps_all_faces(
    first: Any, second: Any, faces: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, new = tmp_path / "landmarks.json", tmp_path / "new.fsa"
    source.write_text(twice([("f_000001.png", first), ("f_000002.png", [exchanged(9)]), ("f_000001.png", second)]))
    assert main(["import", str(source), str(new)]) == 0
    said = "1 frame stands more than once in landmarks.json, the faces of all places were taken: 'f_000001.png'"
    assert said in capsys.readouterr().out
    made = Alignments.load(new)
    assert made.frame_names == ["f_000001.png", "f_000002.png"]
    assert np.array_equal(made.faces.groups[0].points, np.array([*map(points, faces), points(9)], np.float32))
    assert said in load_any(source).notes


def test_a_face_with_two_values_is_no_face(tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    face = twice([("landmarks_2d", points(1)), ("detected", [1, 2, 3, 4]), ("detected", [1, 2, 3, 5])])
    same = twice([("landmarks_2d", points(2)), ("detected", [1, 2, 3, 4]), ("detected", [1, 2, 3, 4])])
    source.write_text(f'{{"a.png": [{face}, {same}]}}')
    made = import_json(source, tmp_path / "new.fsa")
    assert [(bad.frame, bad.index) for bad in made.left_out] == [("a.png", 0)]
    assert made.left_out[0].reason.startswith("it has 'detected' twice, with two values")


@pytest.mark.parametrize("extension", [".json", ".yml"])
@pytest.mark.parametrize("framed", [False, True])
def test_a_frame_that_stands_twice_in_an_alignments_file(framed: bool, extension: str, tmp_path: Path) -> None:
    def entry(*seeds: int) -> Any:
        faces = [old_face(seed) for seed in seeds]
        return {"faces": faces, "video_meta": {}} if framed else faces

    path = tmp_path / f"alignments{extension}"
    pairs = [("f_000001.png", entry(1)), ("f_000002.png", entry(2)), ("f_000001.png", entry(1, 3))]
    path.write_text(twice([*pairs, ("f_000002.png", entry(2))]))
    loaded = Alignments.load(path)
    assert loaded.frame_names == ["f_000001.png", "f_000002.png"]
    assert loaded.faces.frame.tolist() == [0, 0, 1]
    assert loaded.notes == [
        f"1 frame stands more than once in alignments{extension}, the faces of all places were taken: 'f_000001.png'",
        f"1 frame stands more than once in alignments{extension}, with the same faces, taken once: 'f_000002.png'",
    ]
    report = extract(path, FRAMES, tmp_path / "faces", size=64, progress="none")
    assert (report.exit_code, report.faces_written) == (0, 3)
    assert set(loaded.notes) <= set(report.notes)
    saved = Alignments.load(path)
    assert saved.notes == []
    assert [saved.stored_hash(row) is not None for row in range(3)] == [True] * 3
    assert verify(path, FRAMES, tmp_path / "faces", progress="none").exit_code == 0
    assert report.backup is not None
    assert Path(report.backup).read_text() == twice([*pairs, ("f_000002.png", entry(2))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'{{"a.png": [{twice([("x", 1), ("x", 2)])}]}}', r"has the key 'x' twice in frame 'a\.png', face 0, with two"),
        (
            f'{{"a.png": [], "b.png": {twice([("faces", []), ("faces", [old_face(1)])])}}}',
            r"has the key 'faces' twice in frame 'b\.png', with two values",
        ),
        (
            f'{{"a.png": [{{"mask": {{"own": {twice([("stored_size", 1), ("stored_size", 2)])}}}}}]}}',
            r"has the key 'stored_size' twice in frame 'a\.png', face 0",
        ),
        (twice([("__data__", {"a.png": []}), ("__data__", {"b.png": []})]), "has the key '__data__' twice, with two"),
        (twice([("a.png", []), ("a.png", {"faces": []})]), r"frame 'a\.png' more than once, in forms that do not go"),
    ],
)
@pytest.mark.parametrize("extension", [".json", ".yaml"])
def test_anything_else_that_stands_twice_is_refused(text: str, message: str, extension: str, tmp_path: Path) -> None:
    path = tmp_path / f"alignments{extension}"
    path.write_text(text)
    with pytest.raises(AlignmentsError, match=message):
        Alignments.load(path)


def test_the_same_value_twice_is_no_contradiction(tmp_path: Path) -> None:
    path = tmp_path / "alignments.json"
    face = old_face(1)
    path.write_text(f'{{"a.png": [{twice([*face.items(), *face.items()])}]}}')
    assert len(Alignments.load(path).faces) == 1


def test_many_frames_that_stand_twice_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "alignments.json"
    pairs = [(f"{number:03d}.png", [old_face(number)]) for number in range(30)]
    path.write_text(twice([*pairs, *((name, [old_face(99)]) for name, _ in pairs)]))
    loaded = Alignments.load(path)
    assert len(loaded.faces) == 60
    assert loaded.notes[0].startswith("30 frames stand more than once in alignments.json")
    assert loaded.notes[0].endswith("'019.png' and 10 more")


@pytest.mark.parametrize("extension", [".json", ".yml"])
def test_a_frame_that_stands_a_hundred_thousand_times_takes_no_longer_than_its_faces(
    extension: str, tmp_path: Path
) -> None:
    count = 100_000 if extension == ".json" else 10_000
    path = tmp_path / f"alignments{extension}"
    path.write_text("{" + ",".join(f'"a.png": [{{"x": {number}}}]' for number in range(count)) + "}")
    began = time.process_time()
    assert len(Alignments.load(path).faces) == count
    assert time.process_time() - began < 10


def test_deep_landmarks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.json"
    path.write_text('{"a.png": [], "a.png": [' + "[" * 300 + "]" * 300 + "]}")
    with pytest.raises(AlignmentsError, match="nests deeper than 64 levels"):
        import_json(path, tmp_path / "new.fsa")
    with pytest.raises(AlignmentsError, match="nests deeper than 64 levels"):
        load_any(path)


# ---- landmarks straight into a run


def test_landmarks_are_extracted_as_if_they_had_been_imported(landmarks: Path, tmp_path: Path) -> None:
    before = landmarks.read_bytes()
    report = extract(landmarks, FRAMES, tmp_path / "direct", size=64, progress="none")
    assert (report.exit_code, report.faces_written, report.alignments_version) == (0, 3, 2.4)
    assert "landmarks.json holds landmarks for exchange" in report.notes[0]
    assert landmarks.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["direct", "landmarks.json"]
    import_json(landmarks, tmp_path / "new.fsa")
    assert extract(tmp_path / "new.fsa", FRAMES, tmp_path / "imported", size=64, progress="none").exit_code == 0
    assert files_in(tmp_path / "direct") == files_in(tmp_path / "imported")
    for alignments in (landmarks, tmp_path / "new.fsa"):
        found = verify(alignments, FRAMES, tmp_path / "direct", progress="none")
        assert (found.exit_code, found.faces_agree) == (0, 3)
    again = extract(landmarks, FRAMES, tmp_path / "direct", size=64, resume=True, progress="none")
    assert (again.exit_code, again.faces_written) == (0, 3)


def test_plain_lists_of_points_are_extracted_too(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"f_000001.png": [], "f_000002.png": [points(1)], "f_000003.png": points(2)}))
    report = extract(path, FRAMES, tmp_path / "faces", size=64, progress="none")
    assert (report.exit_code, report.faces_written) == (0, 2)


def test_bad_faces_of_landmarks_fail_by_name(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.json"
    path.write_text(json.dumps({"f_000001.png": [exchanged(1), points(1, 9)], "f_000002.png": [points(1, 8)]}))
    report = extract(path, FRAMES, tmp_path / "faces", size=64, progress="none")
    assert (report.exit_code, report.faces_written, report.faces_failed) == (4, 1, 2)
    named = [(error["frame"], error["index"], error["reason"][:16]) for error in report.errors]
    assert named == [("f_000001.png", 1, "it has 9 landmar"), ("f_000002.png", 0, "it has 8 landmar")]
    found = verify(path, FRAMES, tmp_path / "faces", progress="none")
    assert found.counts["unproven"] == 2
    looked = check(path, FRAMES)
    assert [bad["index"] for bad in looked.bad_landmarks] == [1, 0]
    assert "f_000001.png face 1: it has 9 landmarks" in looked.table()
    every_second = extract(path, FRAMES, tmp_path / "second", size=64, extract_every_n=2, progress="none")
    assert [error["frame"] for error in every_second.errors] == ["f_000001.png"]


def test_what_cannot_be_done_to_landmarks_is_refused(landmarks: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"landmarks\.json holds landmarks for exchange; turn it into"):
        extract(landmarks, FRAMES, tmp_path / "faces", refresh_thumbs=True, progress="none")
    loaded = load_any(landmarks)
    loaded.set_field(0, "x", 3)
    with pytest.raises(UsageError, match="cannot be updated"):
        loaded.save()
    for other in (lambda: Alignments.load(landmarks), lambda: export(landmarks, tmp_path / "new.json")):
        with pytest.raises(AlignmentsError, match="gpu-extract import"):
            other()


def test_landmarks_are_told_from_alignments_by_their_first_sure_face(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, imported in [
        ({}, False),
        ({"a.png": [], "b.png": []}, False),
        ({"a.png": [None, {}], "b.png": [exchanged(1)]}, True),
        ({"a.png": [None, {"x": 1}], "b.png": [old_face(1)]}, False),
        ({"a.png": [[], [{}]], "b.png": [old_face(1)]}, False),
        ({"a.png": {"faces": []}}, False),
    ]:
        path.write_text(json.dumps(content))
        assert load_any(path).imported is imported


# ---- export of a video


OLD = VECTORS / "video" / "clip_alignments_v2_3_pngkeys.fsa"


def keys(path: Path) -> list[str]:
    return list(json.loads(path.read_text()))


def test_keys_of_a_video_get_its_extension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.json"
    assert main(["export", str(OLD), str(new), "-fr", str(CLIP)]) == 0
    assert keys(new)[0] == "clip_000001.mp4"
    assert all(key.endswith(".mp4") for key in keys(new))
    out = capsys.readouterr().out
    assert "6 frame keys given other names, those of their frames" in out
    assert "-fr" not in out
    kept = tmp_path / "kept.json"
    assert main(["export", str(OLD), str(kept), "-fr", str(CLIP), "--keep-keys"]) == 0
    assert [key.replace(".png", ".mp4") for key in keys(kept)] == keys(new)
    assert all(key.endswith(".png") for key in keys(kept))


def test_an_extension_is_the_videos_own(tmp_path: Path) -> None:
    video = Path(shutil.copy(CLIP, tmp_path / "clip.MOV"))
    export(OLD, tmp_path / "new.json", frames=video)
    assert {Path(key).suffix for key in keys(tmp_path / "new.json")} == {".MOV"}


def test_keys_of_another_video_are_kept_and_counted(tmp_path: Path) -> None:
    video = Path(shutil.copy(CLIP, tmp_path / "other.mp4"))
    report = export(OLD, tmp_path / "new.json", frames=video)
    assert {Path(key).suffix for key in keys(tmp_path / "new.json")} == {".png"}
    assert "frame keys that do not belong to other.mp4 and were kept as they are: 6 of 6" in report.notes


def test_without_the_video_a_note_says_what_is_missing(tmp_path: Path) -> None:
    report = export(OLD, tmp_path / "new.json")
    assert "look for keys that end in the video's extension and find none of 6 in .png" in report.notes[-1]
    assert all(key.endswith(".png") for key in keys(tmp_path / "new.json"))
    images = export(OLD, tmp_path / "images.json", frames=FRAMES)
    assert not any("video's extension" in note for note in images.notes)


def test_exported_keys_come_back_and_fit_the_video(tmp_path: Path) -> None:
    export(OLD, tmp_path / "new.json", frames=CLIP)
    direct = extract(tmp_path / "new.json", CLIP, tmp_path / "faces", size=64, progress="none")
    assert direct.exit_code == 0
    assert direct.faces_written == len(Alignments.load(OLD).faces)
