"""What a list of faces says of their quality: the same on every way through, in shards, after every death."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.face_files import metadata
from gpu_extract.face_files.quality import measured
from gpu_extract.face_files.stored import content, stored_files
from gpu_extract.frames.images.decode import decode_image
from gpu_extract.geometry import crops, pose
from gpu_extract.geometry.mean_faces import table
from gpu_extract.kernels import sharpness
from gpu_extract.kernels.sharpness import reference
from gpu_extract.run.rows import LATER
from gpu_extract.tasks import FaceResult
from tests.helpers import CLIP, Job, by_the_long_way, face_entry, fsa_root, write_pickled

FRAMES = 7


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    """Two faces in each frame of the clip."""

    def make(*options: str, name: str = "run", version: float = 1.0) -> Job:
        faces = [(landmarks * 0.5 + (9 * number, 4 * number)).astype(np.float32) for number in range(2 * FRAMES)]
        entries: dict[str, Any] = {}
        for number in range(FRAMES):
            entries[f"clip_{number + 1:06d}.png"] = [face_entry(face) for face in faces[2 * number : 2 * number + 2]]
        root: dict[str, Any] = entries
        if version >= 2:
            data = {key: {"faces": faces, "video_meta": {}} for key, faces in entries.items()}
            root = {"__meta__": {"version": version}, "__data__": data}
        (tmp_path / name).mkdir()
        alignments = write_pickled(tmp_path / name / "a.fsa", root)
        return Job(alignments, CLIP, "-sz", "150", "--metadata", "jsonl", *options)

    return make


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "faces.jsonl").read_text().splitlines()]


def stored_sharpness(folder: Path) -> dict[str, float]:
    """By the names that a list of faces has: of the pixels that the files decode to, by the reference."""
    files = stored_files(folder)
    found = {}
    for row in rows_in(folder):
        place = files.get(row["file"]) or files[row["file"].rpartition("/")[2]]
        found[row["file"]] = reference(decode_image(content(place)).pixels)
    return found


WAYS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "webdataset": ("--output-layout", "webdataset"),
    "jpg": ("--format", "jpg", "--quality", "60"),
    "webp": ("--format", "webp"),
    "antialias": ("--antialias", "-sz", "16"),
}


@pytest.mark.parametrize("way", WAYS)
def test_sharpness_is_that_of_the_stored_face_on_every_way(way: str, job: Callable[..., Job]) -> None:
    run = job(*WAYS[way])
    assert run.run() == 0
    rows = rows_in(run.faces)
    assert len(rows) == 2 * FRAMES
    assert {row["file"]: row["sharpness"] for row in rows} == stored_sharpness(run.faces)
    assert len({row["sharpness"] for row in rows}) > FRAMES


def test_ways_without_c_write_the_same_list(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    native = job(name="native")
    assert native.run() == 0
    by_the_long_way(monkeypatch)
    long_way = job(name="long")
    assert long_way.run() == 0
    monkeypatch.setattr(sharpness, "_cutter", None)
    in_numpy = job(name="numpy")
    assert in_numpy.run() == 0
    lists = {(run.faces / "faces.jsonl").read_bytes() for run in (native, long_way, in_numpy)}
    assert len(lists) == 1
    journals = {(run.faces / ".gpu-extract.journal").read_bytes().count(b'"sharpness"') for run in (native, long_way)}
    assert journals == {FRAMES}


def test_a_run_without_a_list_measures_nothing(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    run = job()
    run.options = ("-sz", "150")
    monkeypatch.setattr(sharpness, "sharpness", None)
    assert run.run() == 0
    assert b"sharpness" not in (run.faces / ".gpu-extract.journal").read_bytes()


def without_sharpness(journal: Path) -> None:
    """Make a journal one of a version that did not measure."""
    lines = []
    for line in journal.read_bytes().splitlines():
        entry = json.loads(line[9:])
        entry.pop("sharpness", None)
        entry.pop("hash_states", None)
        text = json.dumps(entry, separators=(",", ":")).encode()
        lines.append(b"%08x %s\n" % (zlib.crc32(text), text))
    journal.write_bytes(b"".join(lines))


@pytest.mark.parametrize("layout", ["flat", "webdataset"])
@pytest.mark.parametrize("shards", [1, 3])
def test_what_goes_on_ends_with_the_list_of_what_never_stopped(
    shards: int, layout: str, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a run of a version that did not measure, whose faces are measured at the end."""
    whole, parts, of_before = (job("--output-layout", layout, name=name) for name in ("whole", "parts", "before"))
    if shards == 1:
        assert whole.run() == 0
    for run in (parts, of_before) if shards == 1 else (whole, parts, of_before):
        if shards == 1:
            shutil.copytree(whole.faces, run.faces)
            (run.faces / "faces.jsonl").unlink()
        for number in range(shards) if shards > 1 else ():
            assert run.run("--shard", f"{number}/{shards}") == 0
        if run is of_before:
            for journal in run.faces.glob(".gpu-extract.journal*"):
                without_sharpness(journal)
        if shards == 1:
            assert run.run("--resume") == 0
        else:
            paths = ["-a", str(run.alignments), "-fr", str(run.frames), "-fc", str(run.faces)]
            assert main(["merge", *paths, "--progress", "none", "--device", "cpu"]) == 0
    lists = [(run.faces / "faces.jsonl").read_bytes() for run in (whole, parts, of_before)]
    assert lists[0] == lists[1] == lists[2]
    assert None not in [row["sharpness"] for row in rows_in(whole.faces)]
    assert "new" in {row["hash_state"] for row in rows_in(whole.faces)}


def test_a_face_that_is_gone_or_another_is_not_measured(tmp_path: Path, job: Callable[..., Job]) -> None:
    run = job()
    assert run.run() == 0
    rows = rows_in(run.faces)
    faces = [FaceResult(k, row["index"], row["file"], row["hash"], 1) for k, row in enumerate(rows)]
    assert [face.sharpness for face in measured(run.faces, faces, 2)] == [row["sharpness"] for row in rows]
    (run.faces / rows[0]["file"]).unlink()
    shutil.copy(run.faces / rows[3]["file"], run.faces / rows[1]["file"])
    (run.faces / rows[2]["file"]).write_bytes(b"no picture")
    found = [face.sharpness for face in measured(run.faces, faces, 2)]
    assert found == [None, None, None, *[row["sharpness"] for row in rows[3:]]]


def test_states_of_hashes(job: Callable[..., Job]) -> None:
    first = job(name="first")
    assert first.run() == 0
    assert {row["hash_state"] for row in rows_in(first.faces)} == {"new"}
    stored = Alignments.load(first.alignments)
    stored.set_hashes([3], ["0" * 40])
    stored.save()
    shutil.rmtree(first.faces)
    assert first.run() == 0
    for _ in range(2):
        assert [row["hash_state"] for row in rows_in(first.faces)] == ["same"] * 3 + ["changed"] + ["same"] * 10
        (first.faces / rows_in(first.faces)[3]["file"]).unlink()
        assert first.run("--resume", "--deleted", "leave-out") == 0
        assert {row["hash_state"] for row in rows_in(first.faces)} == {"same"}
        assert first.run("--resume", "--deleted", "restore") == 0
    with_headers = job(name="headers", version=2.3)
    assert with_headers.run() == 0
    assert {row["hash_state"] for row in rows_in(with_headers.faces)} == {"none"}


def test_sides_are_those_of_the_boxes(job: Callable[..., Job]) -> None:
    run = job()
    assert run.run() == 0
    for row in rows_in(run.faces):
        (a, _, _), (b, _, _) = row["matrix"]
        assert row["side_px"] == round(150 / math.hypot(a, b), 2)
        assert abs(row["side_px"] * 149 / 150 - row["roi_size"]) < 2


def verified(run: Job) -> list[str]:
    report = run.root / "verify.json"
    paths = ["-a", str(run.alignments), "-fr", str(run.frames), "-fc", str(run.faces)]
    main(["verify", *paths, "--json", str(report), "--progress", "none", "--device", "cpu"])
    return [one["kind"] for one in json.loads(report.read_text())["differences"]]


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_verify_knows_the_columns_and_lists_of_before_without_them(format: str, job: Callable[..., Job]) -> None:
    run = job("--format", format)
    assert run.run() == 0
    path = run.faces / "faces.jsonl"
    rows, text = rows_in(run.faces), path.read_text()
    assert verified(run) == []
    path.write_bytes(b"".join(metadata.json_line({k: v for k, v in row.items() if k not in LATER}) for row in rows))
    assert verified(run) == []
    for old, new in (('"sharpness":', '"sharpness":1'), ('"side_px":', '"side_px":1'), ('"new"', '"old"')):
        path.write_text(text.replace(old, new, 1))
        assert verified(run) == ["metadata"]
    path.write_text(text + "[]\n")
    assert verified(run) == ["metadata"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_list_of_before_is_written_as_it_was_read(kind: str, tmp_path: Path) -> None:
    """As `prune` does, which compares them."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    row = {"file": "a_0.png", "frame": "a.png", "position": 0, "index": 0, "hash": "0" * 40, "size": 9, "roi_size": 3}
    row |= {"matrix": [[1.0, 0.0, 0.0]] * 2, "roi": [[1.0, 2.0]] * 4, "box": [1.0] * 4, "landmarks": [[1.0, 2.0]]}
    new = row | {"sharpness": None, "side_px": 2.5, "pose": None, "hash_state": "new"}
    for rows in ([row] * 2, [new, new | {"pose": [1.0, -2.0, 0.5], "sharpness": 1.25}], []):
        metadata.write_metadata(tmp_path, kind, rows)
        assert list(metadata.rows_of(tmp_path, kind)) == rows


def turned(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Points [26, 3] of the head as a camera has them (x right, y down, z away), turned as `pose.angles` says."""
    y, p, r = np.radians((yaw, pitch, roll))
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    found: np.ndarray = -table("mean_face_head_3d26") @ (about_z @ about_y @ about_x).T
    return found


@pytest.mark.parametrize("angles", [(0, 0, 0), (35, 0, 0), (-35, 0, 0), (0, 25, 0), (0, -25, 0), (20, -10, 5)])
def test_angles_of_a_head_that_was_turned(angles: tuple[float, float, float]) -> None:
    head = turned(*angles) + np.array([0.3, -4, 57])
    seen = head[:, :2] / head[:, 2:] * 4 + 0.5
    points = np.zeros((1, 68, 2))
    points[0, pose.POSE_POINTS] = seen
    found = pose.angles(points, np.array([[[1.0, 0, 0], [0, 1, 0]]]))
    np.testing.assert_allclose(found, [angles], atol=0.01)
    place = pose.POSE_POINTS.index
    across = seen[place(33), 0] - (seen[place(36), 0] + seen[place(45), 0]) / 2
    if angles[0]:
        assert (across > 0) == (angles[0] > 0), "the nose goes where the face looks"


def test_roll_is_that_in_the_frame_and_nothing_else_depends_on_it(landmarks: np.ndarray) -> None:
    level = crops.head_pose(landmarks[None])[0]
    assert (np.abs(level[:2]) < 10).all()
    for degrees in (30, 90, 179, -120):
        a = np.radians(degrees)
        turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        moved = ((landmarks - (160, 120)) @ turn.T * 1.7 + (400, 300)).astype(np.float32)
        found = crops.head_pose(moved[None])[0]
        np.testing.assert_allclose(found[:2], level[:2], atol=0.02)
        assert abs((found[2] - level[2] - degrees + 180) % 360 - 180) < 0.02
        assert -180 <= found[2] <= 180


def test_faces_of_one_run_that_have_a_pose_and_such_that_have_none(job: Callable[..., Job]) -> None:
    run = job(version=2.3)
    root = fsa_root(run.alignments)
    for entry in list(root["__data__"].values())[::2]:
        corners = entry["faces"][1]["landmarks_xy"][[17, 26, 54, 48]]
        entry["faces"][1]["landmarks_xy"] = np.ascontiguousarray(corners)
    write_pickled(run.alignments, root)
    assert run.run() == 0
    poses = [row["pose"] for row in rows_in(run.faces)]
    assert [pose is None for pose in poses] == [k % 4 == 1 for k in range(2 * FRAMES)]
    known = np.array([pose for pose in poses if pose])
    assert (np.ptp(known, axis=0) < 0.1).all(), "the same head everywhere"


def test_heads_without_a_pose(landmarks: np.ndarray) -> None:
    mirrored = landmarks * (-1, 1) + (320, 0)
    assert np.isnan(crops.head_pose(mirrored[None].astype(np.float32))).all()
    for count in (4, 51):
        assert np.isnan(crops.head_pose(np.random.default_rng(1).random((3, count, 2)))).all()
    assert crops.head_pose(np.zeros((0, 68, 2))).shape == (0, 3)
    assert np.isnan(crops.head_pose(np.zeros((1, 68, 2), np.float32))).all()
    of_98 = np.zeros((1, 98, 2), np.float32)
    of_98[0, table("map_98_to_68")] = landmarks
    np.testing.assert_array_equal(crops.head_pose(of_98), crops.head_pose(landmarks[None]))
