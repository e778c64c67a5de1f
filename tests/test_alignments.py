"""Alignments files of every container and generation: read into columns, changed, written back."""

import gc
import json
import os
import pickle
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from gpu_extract.alignments import Alignments, Limits, document
from gpu_extract.alignments.face_table import face_table
from gpu_extract.alignments.packed import PackedArray, PackedList, pack_points, unpack
from gpu_extract.errors import AlignmentsChangedError, AlignmentsError, InputError, OutputError, UnsafePickleError
from tests.helpers import ALIGNMENTS, ALIGNMENTS_FILES, VECTORS, copied, face_entry, file_name, same, write_pickled

FACES = json.loads((VECTORS / "faces.json").read_text())
# g3 files here still have the `frame_dims` of g2, and g5 ones no mask: nothing tells them from g2 and g4.
GENERATIONS = {
    "g0_": "g0", "g1_": "g1", "g2_": "g2", "g3_": "g2", "g4_": "g4", "g5_": "g4", "g6_": "g6",
    "g7a": "g7a", "g7b": "g7b",
    "v2_0": "2.0", "v2_1": "2.1", "v2_2": "2.2", "v2_3": "2.3", "v2_4": "2.4", "v2_3_rewritten_by_head": "2.4",
}  # fmt: skip


def generation_of(path: Path) -> str:
    return GENERATIONS[max((start for start in GENERATIONS if path.name.startswith(start)), key=len)]


def others(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


@pytest.fixture
def g6(tmp_path: Path) -> Path:
    return copied(ALIGNMENTS / "g6_2019-12.fsa", tmp_path)


def face(**fields: Any) -> dict[str, Any]:
    return face_entry(np.arange(136, dtype=np.float32).reshape(68, 2), **fields)


# ---- reading


@pytest.mark.parametrize("path", ALIGNMENTS_FILES, ids=file_name)
def test_every_file_of_every_generation(path: Path) -> None:
    alignments = Alignments.load(path)
    generation = generation_of(path)
    assert alignments.generation == generation
    assert alignments.version == (1.0 if generation.startswith("g") else float(generation))
    assert alignments.traits.stores_hashes == (alignments.version < 2.1)
    assert alignments.container == path.suffix[1:]
    assert alignments.faces.invalid == {}
    if "video" in path.name:
        return  # made for the clip; its faces are checked with that
    assert alignments.frame_names == list(FACES)
    expected = [(name, index, one) for name, faces in FACES.items() for index, one in enumerate(faces)]
    names = [alignments.frame_names[frame] for frame in alignments.faces.frame]
    assert list(zip(names, alignments.faces.index.tolist(), strict=True)) == [entry[:2] for entry in expected]
    boxes = [[one[key] for key in "xywh"] for _, _, one in expected]
    points = np.array([one["landmarks"] for _, _, one in expected], np.float32)
    if generation in ("g0", "g1", "g2", "g3", "g4"):
        points = np.rint(points)
    (group,) = alignments.faces.groups
    assert group.points.dtype == np.float32
    turned = alignments.faces.rotation != 0
    assert np.flatnonzero(turned).tolist() == ([names.index("f_000008.png") + 2] if generation == "g0" else [])
    assert np.array_equal(group.rows, np.arange(len(expected)))
    assert np.array_equal(group.points[~turned], points[~turned])
    assert np.array_equal(alignments.faces.box[~turned], np.array(boxes)[~turned])


@pytest.mark.parametrize("path", ALIGNMENTS_FILES, ids=file_name)
def test_records_are_what_is_stored(path: Path) -> None:
    alignments = Alignments.load(path)
    root = document._read(path, Limits(), read_only=True)[0].root
    frames = unpack(root.get("__data__", root))
    stored = [one for entry in frames.values() for one in (entry if isinstance(entry, list) else entry["faces"])]
    for row, one in enumerate(stored):
        assert same(alignments.record(row), one)
        assert alignments.stored_hash(row) == one.get("hash")
    metas = [entry.get("video_meta", {}) if isinstance(entry, dict) else {} for entry in frames.values()]
    assert [alignments.frame_extra(frame).get("video_meta", {}) for frame in range(len(metas))] == metas
    assert same(alignments.root(), unpack(root))


def test_video_meta_of_a_video() -> None:
    alignments = Alignments.load(ALIGNMENTS / "g7a_2020-03_video_meta.fsa")
    assert alignments.frame_extra(0)["video_meta"] == {"pts_time": 0.0, "keyframe": True}


def test_lists_tell_files_of_2026_from_older_ones_of_the_same_version() -> None:
    assert Alignments.load(ALIGNMENTS / "v2_4_list.fsa").traits.lists
    assert not Alignments.load(ALIGNMENTS / "v2_4_numpy.fsa").traits.lists


def test_a_record_is_a_copy(g6: Path) -> None:
    alignments = Alignments.load(g6)
    alignments.record(0)["landmarks_xy"][:] = 0
    alignments.record(0)["mask"].clear()
    assert alignments.record(0)["landmarks_xy"].any()
    assert alignments.record(0)["mask"]


def test_loading_leaves_the_garbage_collector_as_it_was(g6: Path) -> None:
    Alignments.load(g6)
    assert gc.isenabled()
    with pytest.raises(InputError):
        Alignments.load(g6.with_name("missing.fsa"))
    assert gc.isenabled()


# ---- faces that cannot be cut, landmarks of all kinds

POINTS = np.random.default_rng(5).random((98, 2)) * 300
KINDS = {
    "68 float32": (POINTS[:68].astype("f4"), 68, "f4"),
    "68 float64": (POINTS[:68], 68, "f8"),
    "68 big-endian": (POINTS[:68].astype(">f4"), 68, "f4"),
    "68 int32": (POINTS[:68].astype("i4"), 68, "f8"),
    "68 int64": (POINTS[:68].astype("i8") << 24 | 1, 68, "f8"),
    "68 fortran int32": (np.asfortranarray(POINTS[:68].astype("i4")), 68, "f8"),
    "68 uint8": (POINTS[:68].astype("u1"), 68, "f8"),
    "68 float16": (POINTS[:68].astype("f2"), 68, "f4"),
    "68 fortran": (np.asfortranarray(POINTS[:68]), 68, "f8"),
    "68 lists": (POINTS[:68].tolist(), 68, "f4"),
    "68 tuples": (tuple(map(tuple, POINTS[:68].tolist())), 68, "f4"),
    "68 int tuples": (list(map(tuple, POINTS[:68].astype(int).tolist())), 68, "f4"),
    "68 int lists": (POINTS[:68].astype(int).tolist(), 68, "f4"),
    "98": (POINTS.astype("f4"), 98, "f4"),
    "51 lists": (POINTS[17:68].tolist(), 51, "f4"),
    "4 lists": (POINTS[:4].tolist(), 4, "f4"),
    "4 float32": (POINTS[:4].astype("f4"), 4, "f4"),
}


def test_landmarks_of_all_kinds_are_grouped(tmp_path: Path) -> None:
    faces = [face(landmarks_xy=points) for points, _, _ in KINDS.values()]
    for protocol in range(6):
        alignments = Alignments.load(write_pickled(tmp_path / "a.fsa", {"f.png": faces}, protocol))
        table = alignments.faces
        assert table.invalid == {}
        sorts = {(group.points.shape[1], group.points.dtype.str[1:]) for group in table.groups}
        assert sorts == {(68, "f4"), (68, "f8"), (98, "f4"), (51, "f4"), (4, "f4")}
        assert len(table.groups) == len(sorts)
        seen = []
        for group in table.groups:
            assert not group.points.flags.writeable
            assert np.all(np.diff(group.rows) > 0)
            for row, points in zip(group.rows.tolist(), group.points, strict=True):
                source, count, dtype = list(KINDS.values())[row]
                assert np.array_equal(points, np.asarray(source, dtype))
                assert points.shape == (count, 2)
                seen.append(row)
        assert sorted(seen) == list(range(len(KINDS)))


def nan_at(points: np.ndarray, value: float = np.nan) -> np.ndarray:
    points = np.array(points)
    points[33, 1] = value
    return points


INVALID = {
    "no landmarks": (None, "no landmarks"),
    "67 points": (POINTS[:67].astype("f4"), "67 landmarks; sets of 68, 98, 51, 4 are known"),
    "no points": ([], r"shape \[0\]"),
    "no points in an array": (np.empty((0, 2), "f4"), "0 landmarks"),
    "three coordinates": (np.zeros((68, 3), "f4"), r"shape \[68, 3\]"),
    "flat": (np.zeros(136, "f4"), r"shape \[136\]"),
    "flat list": ([1.5] * 136, r"shape \[136\]"),
    "scalar": (3, r"shape \[\]"),
    "text": ("68 points", "not numbers"),
    "texts": ([["1", "2"]] * 68, "not numbers"),
    "dict": ({"a": 1}, "not numbers"),
    "bytes": (b"1234", "not numbers"),
    "bool array": (np.zeros((68, 2), bool), "not numbers"),
    "ragged": ([[1, 2]] * 67 + [[1]], "not a list of points"),
    "none inside": ([[1, 2]] * 67 + [[1, None]], "not numbers"),
    "nan": (nan_at(POINTS[:68]), "not finite"),
    "nan in float32": (nan_at(POINTS[:68].astype("f4")), "not finite"),
    "nan in lists": (nan_at(POINTS[:68]).tolist(), "not finite"),
    "infinite": (nan_at(POINTS[:68], -np.inf), "not finite"),
    "too large for float32": (nan_at(POINTS[:68], 1e39).tolist(), "not finite"),
    "too large for any float": ([[10**400, 1]] * 68, "not numbers|not a list of points"),
}


def test_faces_that_cannot_be_cut_are_named_and_the_others_kept(tmp_path: Path) -> None:
    faces: list[Any] = [
        face(),
        *(face(landmarks_xy=points) for points, _ in INVALID.values()),
        None,
        7,
        ["x"],
        "face",
        face(),
    ]
    del faces[1]["landmarks_xy"]
    alignments = Alignments.load(write_pickled(tmp_path / "a.p", {"f.png": faces}))
    table = alignments.faces
    assert len(table) == len(faces)
    for row, (_, message) in enumerate(INVALID.values(), 1):
        assert re.search(message, table.invalid[row]), table.invalid[row]
    assert sorted(table.invalid) == list(range(1, len(faces) - 1))
    (group,) = table.groups
    assert group.rows.tolist() == [0, len(faces) - 1]
    assert alignments.record(len(faces) - 2) == {}
    assert alignments.stored_hash(len(faces) - 2) is None


def test_boxes_take_any_number_and_show_what_is_none(tmp_path: Path) -> None:
    values = [5, -7, 2.5, np.float32(1.5), np.int64(9), None, "12", True, 10**400, 10**20]
    faces = [face(x=value) for value in values]
    del faces[0]["x"]
    table = Alignments.load(write_pickled(tmp_path / "a.fsa", {"f.png": faces})).faces
    nan = float("nan")
    assert np.array_equal(table.box[:, 0], [nan, -7, 2.5, 1.5, 9, nan, nan, nan, nan, 1e20], equal_nan=True)
    assert np.array_equal(table.box[:, 1:], [[3, 2, 4]] * len(values))
    assert table.invalid == {}


def test_rotations(tmp_path: Path) -> None:
    faces = [face(r=value) for value in (0, 90, -270, 45.0, None, 361, "90", 0.5, float("nan"))]
    table = Alignments.load(write_pickled(tmp_path / "a.fsa", {"f.png": faces})).faces
    assert table.rotation.tolist() == [0, 90, -270, 45, 0, 0, 0, 0, 0]
    assert table.rotation.dtype == np.int16
    assert sorted(table.invalid) == [5, 6, 7, 8]
    assert "rotation r is 361" in table.invalid[5]
    assert table.groups[0].rows.tolist() == [0, 1, 2, 3, 4]


def test_a_table_of_nothing() -> None:
    for counts in ([], [0, 0]):
        table = face_table([], counts)
        assert len(table) == 0
        assert table.box.shape == (0, 4)
        assert (table.groups, table.invalid) == ([], {})


def test_columns_of_frames_with_and_without_faces(tmp_path: Path) -> None:
    root = {"b": [face(), face()], "a": [], "c": {"faces": [face()], "video_meta": {}}, "é/ü": []}
    alignments = Alignments.load(write_pickled(tmp_path / "a.fsa", root))
    assert alignments.frame_names == ["b", "a", "c", "é/ü"]
    assert alignments.faces.frame.tolist() == [0, 0, 2]
    assert alignments.faces.index.tolist() == [0, 1, 0]
    assert (alignments.faces.frame.dtype, alignments.faces.index.dtype) == (np.dtype(np.int32), np.dtype(np.int32))


# ---- writing


@pytest.mark.parametrize("path", ALIGNMENTS_FILES, ids=file_name)
def test_load_save_load_gives_equal_data(path: Path, tmp_path: Path) -> None:
    path = copied(path, tmp_path)
    before = path.read_bytes()
    first = Alignments.load(path)
    root = first.root()
    first.set_field(0, "x", first.record(0)["x"])
    backup = first.save()
    assert backup is not None
    assert backup.read_bytes() == before
    again = Alignments.load(path)
    assert same(again.root(), root)
    assert again.generation == first.generation
    assert others(path) == [backup.name]
    raw = path.read_bytes()
    if path.suffix == ".fsa":
        assert raw[:2] == b"\x78\x9c"
        raw = zlib.decompress(raw)
    if path.suffix in (".fsa", ".p", ".pickle"):
        assert same(pickle.loads(raw), root)
        assert raw[1] == (3 if "proto3" in path.name else 4)
    else:
        assert raw == before  # the old program's own bytes


def test_hashes_stand_where_old_files_have_them(tmp_path: Path) -> None:
    without = [face(), face(thumb=None)]
    for one in without:
        del one["hash"]
    path = write_pickled(tmp_path / "a.fsa", {"f.png": without})
    alignments = Alignments.load(path)
    alignments.set_hashes([1, 0], ["b" * 40, "a" * 40])
    assert [alignments.stored_hash(row) for row in (0, 1)] == ["a" * 40, "b" * 40]
    alignments.save()
    faces = pickle.loads(zlib.decompress(path.read_bytes()))["f.png"]
    assert list(faces[0]) == ["x", "w", "y", "h", "landmarks_xy", "hash", "mask"]
    assert list(faces[1]) == ["x", "w", "y", "h", "landmarks_xy", "hash", "mask", "thumb"]
    assert [one["hash"] for one in faces] == ["a" * 40, "b" * 40]


@pytest.mark.parametrize("name", ["g0_2018-05.json", "g1_2018-11.yml", "g4_2019-09.json", "g6_2019-12.fsa", "v2_0.fsa"])
def test_hashes_are_stored_and_everything_else_is_kept(name: str, tmp_path: Path) -> None:
    path = copied(ALIGNMENTS / name, tmp_path)
    alignments = Alignments.load(path)
    before = [alignments.record(row) for row in range(len(alignments.faces))]
    rows = [0, 3, 17]
    alignments.set_hashes(rows, [f"{row:040d}" for row in rows])
    alignments.save()
    again = Alignments.load(path)
    for row, record in enumerate(before):
        got = again.record(row)
        if row in rows:
            assert got.pop("hash") == f"{row:040d}"
            record.pop("hash", None)
        assert same(got, record)


@pytest.mark.parametrize("name", ["v2_1.fsa", "v2_3.fsa", "v2_4_list.fsa", "v2_4_from_g7b_by_v2_3_0.fsa"])
def test_newer_files_take_no_hashes(name: str, tmp_path: Path) -> None:
    path = copied(ALIGNMENTS / name, tmp_path)
    before = path.read_bytes()
    alignments = Alignments.load(path)
    with pytest.raises(AlignmentsError, match="hold no hashes"):
        alignments.set_hashes([0], ["a" * 40])
    assert alignments.save() is None
    assert path.read_bytes() == before
    assert others(path) == []


def test_hashes_and_rows_must_match(g6: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        Alignments.load(g6).set_hashes([0, 1], ["a" * 40])


UNKNOWN = {"note": "ünknown", "nested": [{"a": (1, 2.5, None, True)}, b"\x00\xff"], "array": np.arange(6, dtype=">i2")}


@pytest.mark.parametrize("extension", [".fsa", ".p"])
def test_unknown_keys_survive(tmp_path: Path, extension: str) -> None:
    one = face(**UNKNOWN)
    root = {
        "__meta__": {"version": 2.0, "by": "me"},
        "other": 1,
        "__data__": {"f.png": {"faces": [one], "seen": 1, "video_meta": {"pts_time": 0.5}}},
    }
    path = write_pickled(tmp_path / f"a{extension}", root)
    expected = pickle.loads(pickle.dumps(root, 4))  # 5, the default of Python 3.14, keeps the order of bytes
    alignments = Alignments.load(path)
    alignments.set_hashes([0], ["a" * 40])
    alignments.save()
    one["hash"] = "a" * 40
    expected["__data__"]["f.png"]["faces"][0]["hash"] = "a" * 40
    raw = path.read_bytes()
    assert same(pickle.loads(zlib.decompress(raw) if extension == ".fsa" else raw), expected)


def test_faces_that_share_a_dict_get_one_each(tmp_path: Path) -> None:
    one, frame = face(), [face()]
    path = write_pickled(tmp_path / "a.fsa", {"a": [one, one], "b": [one], "c": frame, "d": frame})
    alignments = Alignments.load(path)
    alignments.set_hashes(range(5), ["abcde"[row] * 40 for row in range(5)])
    alignments.save()
    assert [Alignments.load(path).stored_hash(row) for row in range(5)] == [letter * 40 for letter in "abcde"]
    shared = {"faces": [face()]}
    path = write_pickled(tmp_path / "b.fsa", {"__meta__": {"version": 2.0}, "__data__": {"a": shared, "b": shared}})
    alignments = Alignments.load(path)
    alignments.set_hashes([1], ["a" * 40])
    alignments.save()
    assert [Alignments.load(path).stored_hash(row) for row in range(2)] == [None, "a" * 40]


def test_fields_can_be_set(tmp_path: Path) -> None:
    path = copied(ALIGNMENTS / "v2_4_list.fsa", tmp_path)
    alignments = Alignments.load(path)
    alignments.set_field(2, "thumb", [1, 2, 3])
    backup = alignments.save()
    assert backup is not None
    assert re.fullmatch(r"v2_4_list_bk_\d{4}-\d\d-\d\d_\d\d\.\d\d\.\d\d\.fsa", backup.name)
    assert Alignments.load(path).record(2)["thumb"] == [1, 2, 3]


@pytest.mark.parametrize("name", ["g6_2019-12.json", "g6_2019-12.yml", "g6_2019-12.p"])
def test_arrays_become_lists_in_text_files(name: str, tmp_path: Path) -> None:
    path = copied(ALIGNMENTS / name, tmp_path)
    alignments = Alignments.load(path)
    alignments.set_field(0, "thumb", np.arange(5, dtype=np.uint8))
    alignments.save()
    assert np.array_equal(Alignments.load(path).record(0)["thumb"], range(5))


def test_bytes_do_not_fit_json(tmp_path: Path) -> None:
    path = copied(ALIGNMENTS / "g6_2019-12.json", tmp_path)
    before = path.read_bytes()
    alignments = Alignments.load(path)
    alignments.set_field(0, "mask", {"a": {"mask": b"x"}})
    with pytest.raises(AlignmentsError, match="JSON file cannot hold bytes"):
        alignments.save()
    assert path.read_bytes() == before


def test_saving_without_a_change_does_nothing(g6: Path) -> None:
    before = g6.stat().st_mtime_ns
    assert Alignments.load(g6).save() is None
    assert g6.stat().st_mtime_ns == before
    assert others(g6) == []


def test_saving_twice_makes_two_copies(g6: Path) -> None:
    alignments = Alignments.load(g6)
    for value in "ab":
        alignments.set_hashes([0], [value * 40])
        assert alignments.save() is not None
    assert len(others(g6)) == 2
    assert Alignments.load(g6).stored_hash(0) == "b" * 40


def test_a_file_that_cannot_be_read_back_is_saved_all_the_same(g6: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])

    def refuse(path: Path) -> bytes:
        raise InputError(f"{path} could not be read.")

    with monkeypatch.context() as patch:
        patch.setattr(document, "digest_of", refuse)
        assert alignments.save() is not None
    assert Alignments.load(g6).stored_hash(0) == "a" * 40
    alignments.set_hashes([0], ["b" * 40])
    with pytest.raises(AlignmentsChangedError):
        alignments.save()


def test_a_file_that_changed_meanwhile_is_not_overwritten(g6: Path) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])
    changed = (ALIGNMENTS / "g7b_2020-08.fsa").read_bytes()
    g6.write_bytes(changed)
    with pytest.raises(AlignmentsChangedError, match=r"not overwritten; .* is in g6_2019-12_unsaved_\d{8}_\d{6}\.fsa"):
        alignments.save()
    assert g6.read_bytes() == changed
    (kept,) = others(g6)
    assert Alignments.load(g6.with_name(kept)).stored_hash(0) == "a" * 40


def test_a_change_that_keeps_size_and_time_is_noticed_too(g6: Path) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])
    status = g6.stat()
    changed = g6.read_bytes()[::-1]
    with g6.open("r+b") as file:
        file.write(changed)
    os.utime(g6, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(AlignmentsChangedError):
        alignments.save()
    assert g6.read_bytes() == changed
    assert len(others(g6)) == 1


def test_a_change_while_the_new_file_is_written_is_noticed(g6: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])
    content = alignments.content

    def slow_content() -> Iterator[bytes]:
        g6.write_bytes(b"changed")
        return content()

    monkeypatch.setattr(alignments, "content", slow_content)
    with pytest.raises(AlignmentsChangedError):
        alignments.save()
    assert g6.read_bytes() == b"changed"


def test_a_copied_back_or_touched_file_is_the_same_file(g6: Path) -> None:
    alignments = Alignments.load(g6)
    content = g6.read_bytes()
    g6.unlink()
    g6.write_bytes(content)
    alignments.set_hashes([0], ["a" * 40])
    assert alignments.save() is not None


def test_a_file_that_is_gone_is_written_again(g6: Path) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])
    g6.unlink()
    assert alignments.save() is None
    assert Alignments.load(g6).stored_hash(0) == "a" * 40


def test_a_full_disk_leaves_the_file_and_can_be_tried_again(g6: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alignments = Alignments.load(g6)
    alignments.set_hashes([0], ["a" * 40])
    before = g6.read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="no space left"):
        alignments.save()
    monkeypatch.undo()
    assert g6.read_bytes() == before
    assert others(g6) == []
    assert alignments.save() is not None
    assert Alignments.load(g6).stored_hash(0) == "a" * 40


# ---- files that are refused

LAUGHS = b"a0: &a0 [x]\n"
for n in range(1, 20):
    LAUGHS += b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))

TEXT = {
    "empty.json": (b"", r"it is empty \(0 bytes\)"),
    "cut.json": (b'{"a": [', "not proper JSON"),
    "deep.json": (b"[" * 100_000, "nests too deep"),
    "less_deep.json": (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", "nests deeper than 64"),
    "latin.json": ('{"é": []}'.encode("latin1"), "not proper JSON"),
    "digits.json": (b'{"a": [' + b"9" * 5000 + b"]}", "not proper JSON"),
    "list.json": (b"[]", "holds a list, not frames"),
    "number.json": (b"5", "holds a int"),
    "null_frame.json": (b'{"a": null}', "'a' is neither a list of faces nor a dict"),
    "no_faces.json": (b'{"a": {"video_meta": {}}}', "neither a list of faces"),
    "frames.json": (b'{"__meta__": {"version": 2.3}, "__data__": []}', "its frames are a list"),
    "newer.json": (b'{"__meta__": {"version": 3.0}, "__data__": {}}', "version 3.0; versions 1.0 to 2.4"),
    "next.json": (b'{"__meta__": {"version": 2.5}, "__data__": {}}', "version 2.5; versions 1.0 to 2.4"),
    "whole.json": (b'{"__meta__": {"version": 3}, "__data__": {}}', "version 3; versions 1.0 to 2.4"),
    "older.json": (b'{"__meta__": {"version": 0.5}, "__data__": {}}', "version 0.5"),
    "named.json": (b'{"__meta__": {"version": "2.3"}, "__data__": {}}', "a number is wanted"),
    "nan.json": (b'{"__meta__": {"version": NaN}, "__data__": {}}', "a number is wanted"),
    "empty.yml": (b"", r"it is empty \(0 bytes\)"),
    "comment.yml": (b"# nothing else\n", "holds 0 YAML documents"),
    "two.yml": (b"a: []\n---\nb: []\n", "2 YAML documents"),
    "broken.yml": (b"a: [1, 2\nb: }", "not proper YAML"),
    "binary.yaml": (b"\x80\x04}.", "not proper YAML"),
    "object.yml": (b"!!python/object/apply:os.system ['id']", "YAML tag .*python/object/apply:os.system"),
    "object_scalar.yml": (b"a: !!python/name:os.system ''", "python/name:os.system"),
    "object_key.yml": (b"a:\n  - !!python/object:os.x {a: 1}\n", "python/object:os.x"),
    "less_deep.yml": (b"[" * 80 + b"]" * 80, "nests deeper than 64 levels"),
    "deep.yml": (b"[" * 100_000, "nests deeper than 64 levels"),
    "deep_mappings.yml": (b"{a: " * 5_000, "nests deeper than 64 levels"),
    "deep_blocks.yml": (b"- " * 5_000, "nests deeper than 64 levels"),
    "alias.yml": (b"a: *b\n", "not proper YAML|before its anchor"),
    "itself.yml": (b"a: &a [*a]\n", "before its anchor"),
    "laughs.yml": (LAUGHS, "more than"),
    "keys.yml": (b"? [1, 2]\n: []\n", "neither text nor a small integer"),
    "numbers.yml": (b"1: []\n", "one of its frames is called 1"),
    "dates.yml": (b"a: 2020-01-01\n", "timestamp"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXT)
def test_text_files_that_are_no_alignments(name: str, tmp_path: Path) -> None:
    content, message = TEXT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AlignmentsError, match=message) as caught:
        Alignments.load(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


ROOTS = {
    "list": ([], "holds a list"),
    "array": (np.zeros(3), "not plain data|holds a PackedArray"),
    "frames by number": ({1: []}, "called 1"),
    "frame is text": ({"a": "faces"}, "neither a list"),
    "faces is a dict": ({"a": {"faces": {}}}, "neither a list"),
    "version is an array": ({"__meta__": {"version": np.zeros(2)}, "__data__": {}}, "a number is wanted"),
}


@pytest.mark.parametrize("name", ROOTS)
def test_pickles_that_are_no_alignments(name: str, tmp_path: Path) -> None:
    root, message = ROOTS[name]
    with pytest.raises(AlignmentsError, match=message):
        Alignments.load(write_pickled(tmp_path / "a.fsa", root))


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Alignments.load(tmp_path / "missing.fsa")
    (tmp_path / "folder.fsa").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        Alignments.load(tmp_path / "folder.fsa")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(AlignmentsError, match=r"known are \.fsa, \.json, \.p, \.pickle, \.yaml, \.yml"):
        Alignments.load(tmp_path / "notes.txt")


def test_a_pickle_that_is_no_data_is_refused() -> None:
    with pytest.raises(UnsafePickleError, match=r"reject_builtins_eval\.fsa asks for builtins\.eval"):
        Alignments.load(ALIGNMENTS / "reject_builtins_eval.fsa")


def test_landmarks_for_exchange_are_recognised() -> None:
    with pytest.raises(AlignmentsError, match="gpu-extract import"):
        Alignments.load(ALIGNMENTS / "export_job_v2_3_0.json")


def test_limits(g6: Path) -> None:
    with pytest.raises(AlignmentsError, match="at most 1000 are read"):
        Alignments.load(g6, limits=Limits(max_bytes=1000))
    with pytest.raises(AlignmentsError, match="more than 10 values"):
        Alignments.load(g6, limits=Limits(free_values=10, values_per_byte=0))


@pytest.mark.parametrize("extension", [".fsa", ".p", ".json", ".yml"])
def test_files_cut_anywhere_are_refused(extension: str, tmp_path: Path) -> None:
    whole = next(path for path in ALIGNMENTS_FILES if path.suffix == extension).read_bytes()
    path = tmp_path / f"cut{extension}"
    for cut in range(0, len(whole) - 8, max(1, len(whole) // 12)):
        path.write_bytes(whole[:cut])
        try:
            alignments = Alignments.load(path)
        except AlignmentsError:
            continue
        assert extension == ".yml", "only block YAML is whole wherever a line ends"
        assert len(alignments.faces) <= 18


def test_an_empty_file_of_frames(tmp_path: Path) -> None:
    for name, content in (("a.json", b"{}"), ("a.yml", b"{}\n"), ("a.p", pickle.dumps({}))):
        (tmp_path / name).write_bytes(content)
        alignments = Alignments.load(tmp_path / name)
        assert (alignments.frame_names, len(alignments.faces)) == ([], 0)


# ---- packed values


def test_packing_keeps_types_and_values() -> None:
    floats = POINTS[:68].tolist()
    for points in (
        floats,
        list(map(tuple, floats)),
        POINTS[:68].astype("f4").tolist(),
        POINTS[:68].astype(int).tolist(),
    ):
        packed = pack_points(points)
        assert type(packed) is PackedList
        assert same(packed.unpack(), points)
    for points in (
        [[1, 2.0]] * 68,
        [[True, False]] * 68,
        [[1, 2]] * 3,
        [[1, 2]] * 67 + [(1, 2)],
        [[1 << 40, 0]] * 68,
        ["ab"] * 68,
    ):
        assert pack_points(points) is points


def test_arrays_of_objects_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        PackedArray.of(np.array([None]))


# ---- faults while saving


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("call", ["open", "write", "fsync", "link", "rename", "unlink"])
def test_a_fault_while_saving_leaves_the_old_file_or_the_new_one(
    g6: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    alignments = Alignments.load(g6)
    before = g6.read_bytes()
    alignments.set_hashes([0], ["a" * 40])
    owner, name = (Path, {"rename": "replace"}.get(call, call)) if call in ("rename", "unlink") else (os, call)
    real, calls = getattr(owner, name), 0

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > number:
            raise OSError(5, "Input/output error")
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, failing)
    failed = False
    try:
        alignments.save()
    except (OutputError, InputError):
        failed = True
    monkeypatch.undo()
    after = Alignments.load(g6)
    assert after.stored_hash(0) == "a" * 40 or g6.read_bytes() == before
    if not failed:
        assert after.stored_hash(0) == "a" * 40
    if after.stored_hash(0) == "a" * 40:
        copies = [entry for entry in others(g6) if re.fullmatch(r"g6_2019-12_\d{8}_\d{6}\.fsa", entry)]
        assert [g6.with_name(entry).read_bytes() for entry in copies] == [before]


def test_killed_while_saving_the_file_loads_and_its_copy_exists(g6: Path) -> None:
    before = g6.read_bytes()
    code = (
        "import itertools; from gpu_extract.alignments import Alignments\n"
        f"alignments = Alignments.load({str(g6)!r})\n"
        "print('up', flush=True)\n"
        "for number in itertools.count():\n"
        "    alignments.set_hashes(range(18), [f'{number:040d}'] * 18)\n"
        "    alignments.save()\n"
    )
    changed = 0
    for attempt in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(0.013 * attempt)
            run.kill()
        alignments = Alignments.load(g6)
        hashes = {alignments.stored_hash(row) for row in range(18)}
        if g6.read_bytes() != before:
            changed += 1
            assert len(hashes) == 1
            copies = [g6.with_name(entry) for entry in others(g6) if entry.startswith("g6_2019-12_")]
            assert any(copy.read_bytes() == before for copy in copies)
            assert all(len(Alignments.load(copy).faces) == 18 for copy in copies)
    assert changed
