"""Older files as newer ones, landmarks in and out as JSON, and faces of 2018 turned back."""

import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.exchange import export_json, import_json
from gpu_extract.alignments.rotation import legacy_rotation
from gpu_extract.alignments.upgrade import GENERATIONS, TARGETS, frame_key_of_video, migrate
from gpu_extract.errors import AlignmentsError, InputError, UsageError
from tests.helpers import ALIGNMENTS, ALIGNMENTS_FILES, VECTORS, face_entry, file_name, fsa_root, write_pickled

ROTATIONS = json.loads((VECTORS / "expected" / "legacy_rotation.json").read_text())
FACES = json.loads((VECTORS / "faces.json").read_text())


def frame_size(name: str) -> tuple[int, int]:
    return (240, 320)


def face(**fields: Any) -> dict[str, Any]:
    points = (np.arange(136, dtype=np.float32) / 7).reshape(68, 2)
    return face_entry(points, **{"hash": "a" * 40} | fields)


def mask(**fields: Any) -> dict[str, Any]:
    raw = zlib.compress(bytes(16))
    return {"mask": raw, "affine_matrix": np.eye(2, 3) / 3, "interpolator": 2, "stored_size": 4} | fields


def check_current(root: dict[str, Any]) -> None:
    """What the current program's loader asks of a file (its strict schema), and its types."""
    assert list(root) == ["__meta__", "__data__"]
    assert root["__meta__"] == {"version": 2.4}
    for name, frame in root["__data__"].items():
        assert type(name) is str
        assert list(frame) == ["faces", "video_meta"]
        assert type(frame["faces"]) is list
        assert set(frame["video_meta"]) in (set(), {"pts_time", "keyframe"})
        for one in frame["faces"]:
            assert list(one) == ["x", "y", "w", "h", "landmarks_xy", "mask", "identity", "thumb"]
            assert all(type(one[key]) is int for key in "xywh")
            assert type(one["landmarks_xy"]) is list
            assert len(one["landmarks_xy"]) in (68, 98, 51, 4)
            for point in one["landmarks_xy"]:
                assert list(map(type, point)) == [float, float]
                assert all(float(np.float32(value)) == value for value in point)
            for name, record in one["mask"].items():
                assert type(name) is str
                assert set(record) == {"mask", "affine_matrix", "interpolator", "stored_size", "stored_centering"}
                assert [type(record[key]) for key in ("mask", "interpolator", "stored_size")] == [bytes, int, int]
                assert len(zlib.decompress(record["mask"])) == record["stored_size"] ** 2
                assert np.array(record["affine_matrix"]).shape in ((2, 3), (3, 3))
                assert {type(value) for row in record["affine_matrix"] for value in row} == {float}
                assert record["stored_centering"] in ("legacy", "face", "head")
            for embedding in one["identity"].values():
                assert set(map(type, embedding)) == {float}
            assert one["thumb"] is None or set(map(type, one["thumb"])) == {int}


# ---- migrate


@pytest.mark.parametrize("path", ALIGNMENTS_FILES, ids=file_name)
def test_every_file_becomes_one_that_the_current_program_loads(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.fsa"
    before = path.read_bytes()
    old = Alignments.load(path)
    report = migrate(path, new, frame_size=frame_size)
    assert path.read_bytes() == before
    assert zlib.decompress(new.read_bytes())[:2] == b"\x80\x04"
    root = fsa_root(new)
    check_current(root)
    assert list(root["__data__"]) == old.frame_names
    assert (report.frames, report.faces, report.faces_dropped) == (len(old.frame_names), len(old.faces), [])
    assert report.hashes_dropped == sum(old.stored_hash(row) is not None for row in range(len(old.faces)))
    assert asdict(report)["from_generation"] == old.generation
    upgraded = Alignments.load(new)
    turned = old.faces.rotation != 0
    assert report.rotations_converted == turned.sum()
    assert np.array_equal(upgraded.faces.groups[0].points[~turned], old.faces.groups[0].points[~turned])
    assert np.array_equal(upgraded.faces.box[~turned], old.faces.box[~turned])
    for row in range(len(old.faces)):
        was, after = old.record(row), upgraded.record(row)
        assert list(was.get("mask") or {}) == list(after["mask"])
        for name, record in after["mask"].items():
            mask_was = was["mask"][name]
            assert record["mask"] == mask_was["mask"]
            assert np.array_equal(record["affine_matrix"], mask_was["affine_matrix"])
            assert record["stored_centering"] == mask_was.get(
                "stored_centering", "legacy" if old.version < 2 else "face"
            )
        thumb = was.get("thumb")
        assert after["thumb"] == (None if thumb is None or old.version < 2 else np.asarray(thumb).ravel().tolist())
        assert after["identity"] == was.get("identity", {})
        meta = old.frame_extra(int(old.faces.frame[row])).get("video_meta", {})
        assert upgraded.frame_extra(int(upgraded.faces.frame[row]))["video_meta"] == meta


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize(
    "name", ["g0_2018-05.p", "g4_2019-09.json", "g6_2019-12.json", "g7b_2020-08.fsa", "v2_0.fsa", "v2_2.fsa"]
)
def test_every_newer_generation_can_be_made(name: str, to: str, tmp_path: Path) -> None:
    path, new = ALIGNMENTS / name, tmp_path / "new.fsa"
    old = Alignments.load(path)
    older = GENERATIONS.index(to) < GENERATIONS.index(old.generation) or to == old.generation
    centred_otherwise = to in ("2.0", "2.1") and "mask" in old.record(0) and old.version < 2
    if older or centred_otherwise:
        with pytest.raises(AlignmentsError, match="newer ones only" if older else "migrate to 2.2 or newer"):
            migrate(path, new, to, frame_size=frame_size)
        assert not new.exists()
        return
    migrate(path, new, to, frame_size=frame_size)
    made = Alignments.load(new)
    assert made.generation == to or (to in ("g7a", "g7b") and made.generation == "g7a")
    upright = old.faces.rotation == 0
    assert np.array_equal(made.faces.groups[0].points[upright], old.faces.groups[0].points[upright])
    keys = list(made.record(0))
    wanted = ["x", "w", "y", "h", "landmarks_xy", "hash", "mask", "identity", "thumb"]
    if made.version >= 2.1:
        wanted.remove("hash")
    if made.version < 2.3:
        wanted.remove("identity")
    if made.version < 2 and not (to == "g7b" and "thumb" in old.record(0)):
        wanted.remove("thumb")
    if to == "2.4":
        wanted[:4] = "xywh"
    assert keys == wanted
    assert type(made.record(0)["landmarks_xy"]) is (list if to == "2.4" else np.ndarray)
    assert made.stored_hash(0) == (old.stored_hash(0) if made.version < 2.1 else None)


def test_an_upgrade_of_a_2_4_file_of_arrays_or_with_left_over_hashes(tmp_path: Path) -> None:
    for number, name in enumerate(("v2_4_numpy.fsa", "v2_4_from_g7b_by_v2_3_0.fsa", "v2_4_list.fsa")):
        report = migrate(ALIGNMENTS / name, tmp_path / f"{number}.fsa")
        check_current(fsa_root(tmp_path / f"{number}.fsa"))
        assert report.hashes_dropped == (18 if "g7b" in name else 0)
    # What the current program wrote itself comes out as it was.
    assert fsa_root(tmp_path / "2.fsa") == fsa_root(ALIGNMENTS / "v2_4_list.fsa")


def test_what_cannot_be_taken_along_is_named(tmp_path: Path) -> None:
    masks = {
        "components": mask(),
        "extended": mask(),
        "unet-dfl": mask(intepolator=3),
        "vgg-clear": mask(),
        "half": {"mask": b""},
    }
    del masks["unet-dfl"]["interpolator"]
    faces = [
        face(mask=masks, note="mine", thumb=np.zeros((7, 1), np.uint8), frame_dims=(240, 320)),
        face(landmarks_xy=np.full((68, 2), np.nan, np.float32)),
        face(hash=None, x=1.0, w=np.float32(2), y=None),
        face(landmarks_xy=np.random.default_rng(1).random((68, 2)) * 1e5),
    ]
    old = write_pickled(tmp_path / "old.fsa", {"f.png": {"faces": faces, "seen": True}})
    report = migrate(old, tmp_path / "new.fsa")
    assert report.masks_dropped == {"components": 1, "extended": 1, "half (incomplete)": 1}
    assert report.keys_dropped == {"note": 1, "frame_dims": 1, "seen": 1}
    assert report.faces_dropped == [
        {"frame": "f.png", "index": 1, "reason": "its landmarks hold values that are not finite numbers"}
        | {"others_move_up": True}
    ]
    assert (report.hashes_dropped, report.thumbnails_dropped, report.faces) == (2, 1, 3)
    first, second, third = fsa_root(tmp_path / "new.fsa")["__data__"]["f.png"]["faces"]
    assert list(first["mask"]) == ["unet-dfl", "vgg-clear"]
    assert first["mask"]["unet-dfl"]["interpolator"] == 3
    assert {record["stored_centering"] for record in first["mask"].values()} == {"legacy"}
    assert first["mask"]["vgg-clear"]["affine_matrix"] == (np.eye(2, 3) / 3).tolist()
    assert [second[key] for key in "xywh"] == [0, 0, 19, 19]  # made from the landmarks
    assert third["landmarks_xy"] == faces[3]["landmarks_xy"].astype(np.float32).tolist()
    json.dumps(asdict(report))


@pytest.mark.parametrize("thumb", ["jpeg", [1, [2]], [], [0.5], {"a": 1}])
def test_damaged_thumbnails_are_dropped_and_named(thumb: Any, tmp_path: Path) -> None:
    root = {"__meta__": {"version": 2.3}, "__data__": {"f.png": {"faces": [face(thumb=thumb)], "video_meta": {}}}}
    report = migrate(write_pickled(tmp_path / "old.fsa", root), tmp_path / "new.fsa")
    check_current(fsa_root(tmp_path / "new.fsa"))
    assert report.keys_dropped == {"thumb (damaged)": 1}


def test_unknown_keys_stay_below_2_4(tmp_path: Path) -> None:
    old = write_pickled(tmp_path / "old.fsa", {"f.png": {"faces": [face(note="mine")], "seen": True}})
    report = migrate(old, tmp_path / "new.fsa", "2.3")
    frame = fsa_root(tmp_path / "new.fsa")["__data__"]["f.png"]
    assert (frame["seen"], frame["video_meta"], frame["faces"][0]["note"]) == (True, {}, "mine")
    assert report.keys_dropped == {}


def test_turned_faces_need_the_size_of_their_frame(tmp_path: Path) -> None:
    path = ALIGNMENTS / "g0_2018-05.p"
    with pytest.raises(AlignmentsError, match=r"frame 'f_000008\.png' was found in a frame turned by 90 degrees"):
        migrate(path, tmp_path / "new.fsa")
    assert not (tmp_path / "new.fsa").exists()
    migrate(path, tmp_path / "new.fsa", frame_size=frame_size)
    got = fsa_root(tmp_path / "new.fsa")["__data__"]["f_000008.png"]["faces"][2]
    old = FACES["f_000008.png"][2]
    landmarks = np.rint(np.array(old["landmarks"]))
    points, box = legacy_rotation(landmarks, np.array([old[key] for key in "xywh"]), 90, *frame_size(""))
    assert got["landmarks_xy"] == points.tolist()
    assert [got[key] for key in "xywh"] == box.tolist()


@pytest.mark.parametrize("vector", ROTATIONS, ids=lambda vector: str(vector["before"]["r"]))
def test_the_size_in_the_file_is_enough(vector: dict[str, Any], tmp_path: Path) -> None:
    old = write_pickled(tmp_path / "old.fsa", {"f.png": [vector["before"]]})
    migrate(old, tmp_path / "new.fsa")
    (got,) = fsa_root(tmp_path / "new.fsa")["__data__"]["f.png"]["faces"]
    assert got["landmarks_xy"] == vector["after"]["landmarksXY"]
    assert [got[key] for key in "xywh"] == [vector["after"][key] for key in "xywh"]


def test_frames_of_a_video_get_its_extension(tmp_path: Path) -> None:
    report = migrate(VECTORS / "video" / "clip_alignments_v2_3_pngkeys.fsa", tmp_path / "new.fsa", video="clip.MP4")
    names = Alignments.load(tmp_path / "new.fsa").frame_names
    assert names == [name.replace(".png", ".MP4") for name in names]
    assert names[0] == "clip_000001.MP4"
    assert report.frames_renamed == len(names)


@pytest.mark.parametrize(
    ("key", "video", "expected"),
    [
        ("my.clip_000012.png", "folder/my.clip.mkv", "my.clip_000012.mkv"),
        ("other_000012.png", "clip.mkv", "other_000012.png"),
        ("clip.png", "clip.mkv", "clip.png"),
        ("clip_000001", "clip.mkv", "clip_000001"),
        ("clip_a_1.png", "clip_a.webm", "clip_a_1.webm"),
    ],
)
def test_keys_of_videos(key: str, video: str, expected: str) -> None:
    assert frame_key_of_video(key, video) == expected


def test_two_frames_cannot_become_one(tmp_path: Path) -> None:
    old = write_pickled(tmp_path / "old.fsa", {"clip_000001.png": [], "clip_000001.jpg": []})
    with pytest.raises(AlignmentsError, match=r"both become 'clip_000001\.mp4'"):
        migrate(old, tmp_path / "new.fsa", video="clip.mp4")


def test_migration_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    path = ALIGNMENTS / "g6_2019-12.fsa"
    existing = write_pickled(tmp_path / "existing.fsa", {})
    with pytest.raises(UsageError, match="exists; choose a new name"):
        migrate(path, existing)
    assert fsa_root(existing) == {}
    with pytest.raises(UsageError, match=r"end in \.fsa"):
        migrate(path, tmp_path / "new.json")
    with pytest.raises(UsageError, match="choose one of g6, g7a"):
        migrate(path, tmp_path / "new.fsa", "g3")
    with pytest.raises(InputError, match="does not exist"):
        migrate(tmp_path / "missing.fsa", tmp_path / "new.fsa")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["existing.fsa"]


def test_faces_that_move_up_are_said(tmp_path: Path) -> None:
    bad = face(landmarks_xy=None)
    other = face(landmarks_xy=np.ones((98, 2)))
    root = {"a.png": [bad, face(), bad], "b.png": [face(), bad, bad, other], "c.png": [bad]}
    report = migrate(write_pickled(tmp_path / "old.fsa", root), tmp_path / "new.fsa")
    lines = [line.partition(": ")[2] for line in report.table().splitlines() if "left out" in line]
    moved = "it has no landmarks, so the faces after it move up by one"
    assert lines == [
        f"'a.png' face 0: {moved}",
        "'a.png' face 2: it has no landmarks",
        f"'b.png' face 1: {moved}",
        f"'b.png' face 2: {moved}",
        "'c.png' face 0: it has no landmarks",
    ]


@pytest.mark.parametrize(
    ("name", "to", "counted"),
    [
        ("clip_alignments_seed_list.fsa", "2.4", True),
        ("clip_alignments_v2_3_pngkeys.fsa", "2.4", True),
        ("clip_alignments_seed_list.fsa", "2.3", False),
        ("clip_alignments_seed_list.fsa", "2.2", False),
        ("clip_alignments_v2_4.fsa", "2.4", False),
    ],
)
def test_keys_whose_counting_the_new_file_does_not_tell(name: str, to: str, counted: bool, tmp_path: Path) -> None:
    report = migrate(VECTORS / "video" / name, tmp_path / "new.fsa", to)
    assert report.old_video_keys == (report.frames if counted else 0)


# ---- exchange


def test_export_is_what_the_export_job_writes(tmp_path: Path) -> None:
    path, report = export_json(ALIGNMENTS / "v2_4_numpy.fsa", tmp_path / "out.json")
    expected = ALIGNMENTS / "export_job_v2_3_0.json"
    assert path.read_bytes() == expected.read_bytes()
    assert report.faces == 18


@pytest.mark.parametrize("path", ALIGNMENTS_FILES[::3], ids=file_name)
def test_export_and_import_keep_every_landmark(path: Path, tmp_path: Path) -> None:
    old = Alignments.load(path)
    exported, _ = export_json(path, tmp_path / "out.json", frame_size=frame_size)
    made = import_json(exported, tmp_path / "new.fsa")
    check_current(fsa_root(tmp_path / "new.fsa"))
    assert made.frame_names == old.frame_names
    upright = old.faces.rotation == 0
    assert np.array_equal(made.faces.groups[0].points[upright], old.faces.groups[0].points[upright])
    assert np.array_equal(made.faces.box[upright], old.faces.box[upright])


def test_export_names_its_files(tmp_path: Path) -> None:
    path = tmp_path / "alignments.fsa"
    path.write_bytes((ALIGNMENTS / "g6_2019-12.fsa").read_bytes())
    assert [export_json(path)[0].name for _ in range(3)] == [
        "alignments.json",
        "alignments_1.json",
        "alignments_2.json",
    ]
    with pytest.raises(UsageError, match="exists"):
        export_json(path, tmp_path / "alignments.json")


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_export_of_any_number_of_frames_is_one_document(count: int, tmp_path: Path) -> None:
    root = {f"frame_{number}.png": [face()] * (number % 2) for number in range(count)}
    exported, _ = export_json(write_pickled(tmp_path / "a.fsa", root))
    text = exported.read_text()
    data = json.loads(text)
    assert list(data) == list(root)
    assert text == json.dumps(data, indent=2)


POINTS = (np.random.default_rng(2).random((68, 2)) * 500).tolist()
FORMS = {
    "exchange": {"a.png": [{"detected": [1, 2, 31, 42], "landmarks_2d": POINTS}], "b.png": []},
    "float box": {"a.png": [{"detected": [0.6, 2.2, 31.4, 41.7], "landmarks_2d": POINTS}], "b.png": []},
    "no box": {"a.png": [{"landmarks_2d": POINTS}], "b.png": []},
    "plain": {"a.png": [POINTS], "b.png": []},
    "one face": {"a.png": POINTS, "b.png": []},
}


@pytest.mark.parametrize("name", FORMS)
def test_landmarks_from_elsewhere(name: str, tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    source.write_text(json.dumps(FORMS[name]))
    made = import_json(source, tmp_path / "new.fsa")
    check_current(fsa_root(tmp_path / "new.fsa"))
    assert (made.version, made.frame_names, len(made.faces)) == (2.4, ["a.png", "b.png"], 1)
    assert np.array_equal(made.faces.groups[0].points[0], np.array(POINTS, np.float32))
    low, high = np.rint(np.min(POINTS, 0)), np.rint(np.max(POINTS, 0))
    expected = [1, 2, 30, 40] if "detected" in str(FORMS[name]) else [*low, *(high - low)]
    assert made.faces.box[0].tolist() == expected


@pytest.mark.parametrize("count", [4, 51, 98])
def test_other_sets_of_landmarks(count: int, tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    source.write_text(json.dumps({"a.png": [(POINTS + POINTS)[:count]]}))
    assert import_json(source, tmp_path / "new.fsa").faces.groups[0].points.shape == (1, count, 2)


WRONG = {
    "67 points": (
        {"a.png": [POINTS[:67]]},
        r"landmarks\.json, frame 'a\.png', face 0: it has 67 landmarks; sets of 68, 98",
    ),
    "no landmarks": ({"a.png": [{"detected": [1, 2, 3, 4]}]}, "face 0: it has no landmarks_2d"),
    "no list": ({"a.png": [{"landmarks_2d": {}}]}, "face 0: its landmarks are an object; a list of points"),
    "text": ({"a.png": ["points"]}, "face 0"),
    "texts": ({"a.png": [[["1", "2"]] * 68]}, "face 0"),
    "ragged": ({"a.png": [[[1, 2]] * 67 + [[1]]]}, "face 0"),
    "nothing": ({"a.png": [None]}, "face 0"),
    "nan": ({"a.png": [[[math.nan, 1]] * 68]}, "finite"),
    "huge": ({"a.png": [[[1e300, 1]] * 68]}, "finite"),
    "huger": ({"a.png": [[[10**400, 1]] * 68]}, "finite"),
    "box": ({"a.png": [{"detected": [1, 2, 3], "landmarks_2d": POINTS}]}, "its box"),
    "box of text": ({"a.png": [{"detected": ["1", 2, 3, 4], "landmarks_2d": POINTS}]}, "its box"),
    "nan box": ({"a.png": [{"detected": [math.nan, 2, 3, 4], "landmarks_2d": POINTS}]}, "its box"),
    "no frames": ([POINTS], "holds a list"),
    "frame": ({"a.png": {"x": []}}, "frame 'a.png': its faces are an object; a list of them is wanted"),
    "alignments": ({"a.png": {"faces": []}}, "is an alignments file already"),
    "old alignments": ({"a.png": [], "b.png": [{"x": 1, "landmarksXY": []}]}, "is an alignments file already"),
    "versioned": ({"__meta__": {"version": 2.4}, "__data__": {}}, "is an alignments file already"),
}


@pytest.mark.parametrize("name", WRONG)
def test_landmarks_that_are_none_are_refused_by_name(name: str, tmp_path: Path) -> None:
    data, message = WRONG[name]
    source = tmp_path / "landmarks.json"
    source.write_text(json.dumps(data))
    with pytest.raises(AlignmentsError, match=message):
        import_json(source, tmp_path / "new.fsa")
    assert not (tmp_path / "new.fsa").exists()


def test_import_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    source = tmp_path / "landmarks.json"
    with pytest.raises(InputError, match="does not exist"):
        import_json(source, tmp_path / "new.fsa")
    source.write_text("{")
    with pytest.raises(AlignmentsError, match="not proper JSON"):
        import_json(source, tmp_path / "new.fsa")
    source.write_text("[" * 100_000)
    with pytest.raises(AlignmentsError, match="not proper JSON"):
        import_json(source, tmp_path / "new.fsa")
    with pytest.raises(UsageError, match=r"end in \.fsa"):
        import_json(source, tmp_path / "new.json")
    existing = write_pickled(tmp_path / "existing.fsa", {})
    with pytest.raises(UsageError, match="exists"):
        import_json(source, existing)


# ---- turned frames


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("vector", ROTATIONS, ids=lambda vector: str(vector["before"]["r"]))
def test_rotation_equals_the_old_programs(vector: dict[str, Any], dtype: type) -> None:
    before, after = vector["before"], vector["after"]
    height, width = before["frame_dims"]
    box = np.array([before[key] for key in "xywh"], np.float64)
    points, box = legacy_rotation(np.array(before["landmarksXY"], dtype), box, before["r"], height, width)
    assert points.dtype == dtype
    assert points.tolist() == after["landmarksXY"]
    assert box.tolist() == [after[key] for key in "xywh"]


@pytest.mark.parametrize(("degrees", "height", "width"), [(45, 883, 196), (135, 203, 984), (315, 441, 1104)])
def test_points_half_way_between_two_pixels_go_where_plain_sums_put_them(degrees: int, height: int, width: int) -> None:
    """On a diagonal, ties hang on the last bit of a sum, and so on the order that its terms are added in."""
    angle = -degrees * (math.pi / 180)
    cos, sin = math.cos(angle), math.sin(angle)
    new_width = int(height * abs(sin) + width * abs(cos))
    new_height = int(height * abs(cos) + width * abs(sin))
    right = (1 - cos) * (width / 2) - sin * (height / 2) + (new_width / 2 - width / 2)
    low = sin * (width / 2) + (1 - cos) * (height / 2) + (new_height / 2 - height / 2)
    scale = 1 / (cos * cos - sin * -sin)
    (a, b), (d, e) = (cos * scale, -sin * scale), (sin * scale, cos * scale)
    c, f = -a * right - b * low, -d * right - e * low
    points = [(x, y) for x in range(-50, 900, 7) for y in range(-50, 900)]
    plain = [(round(x * a + y * b + c), round(x * d + y * e + f)) for x, y in points]
    moved, _ = legacy_rotation(np.array(points), np.array([0.0, 0, 1, 1]), degrees, height, width)
    np.testing.assert_array_equal(moved, plain)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_points_on_the_edge_are_at_0_and_not_at_minus_0(degrees: int) -> None:
    """They were integers, and `export` prints them."""
    height, width = 240, 320
    across, down = (width, height) if degrees == 180 else (height, width)
    corners = np.array([[x, y] for x in (0, across) for y in (0, down)], np.float32)
    moved, box = legacy_rotation(corners, np.array([0.0, 0, across, down]), degrees, height, width)
    assert sorted(moved.tolist()) == [[0, 0], [0, height], [width, 0], [width, height]]
    assert box.tolist() == [0, 0, width, height]
    assert not np.signbit(moved).any()
    assert not np.signbit(box).any()


@pytest.mark.parametrize("degrees", [*range(-360, 361, 15), 1, 89, 91, -179])
def test_rotation_equals_opencv_on_an_odd_frame(degrees: int) -> None:
    """The conversion in OpenCV's own calls, on a frame of odd, unequal sides."""
    height, width = 241, 317
    points = np.random.default_rng(degrees + 360).integers(-50, 400, (68, 2)).astype(np.int32)
    x, y, w, h = 11, 23, 97, 131
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1.0)
    new_width = int(height * abs(matrix[0, 1]) + width * abs(matrix[0, 0]))
    new_height = int(height * abs(matrix[0, 0]) + width * abs(matrix[0, 1]))
    matrix[0, 2] += new_width / 2 - width / 2
    matrix[1, 2] += new_height / 2 - height / 2
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.int32)
    moved = cv2.transform(np.concatenate([corners, points])[None], inverse)[0]
    got, box = legacy_rotation(points.astype(np.float32), np.array([x, y, w, h], np.float64), degrees, height, width)
    assert np.array_equal(got, moved[4:])
    low, high = moved[:4].min(0), moved[:4].max(0)
    assert box.tolist() == [*low, *(high - low)]
