"""Plans: poses are found when a frame is cut, and everything is as if they had been found before."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.geometry import crops, mean_faces, pose
from gpu_extract.geometry.mean_faces import Centering
from gpu_extract.geometry.rounding import Rounding
from gpu_extract.kernels import antialias, tables
from gpu_extract.run.plan import (
    NO_CROP,
    Plan,
    PlanOptions,
    crop_all,
    make_plan,
    subset,
    upright_landmarks,
    with_own_crops,
    without_shared_files,
)
from tests.contracts.fakes import FakeSource

HEIGHT, WIDTH = 270, 480


def planned(alignments: Alignments, **options: Any) -> Plan:
    """A plan over a source that has each entry of the file, in the file's order."""
    source = FakeSource(alignments.frame_names, (HEIGHT, WIDTH))
    plan = make_plan(alignments, source, PlanOptions(**options))
    assert source.read == 0
    return plan


def landmarks(alignments: Alignments, row: int) -> np.ndarray:
    """Of one face, [n, 2], upright."""
    sizes = dict.fromkeys(range(len(alignments.frame_names)), (HEIGHT, WIDTH))
    group = next(group for group in alignments.faces.groups if row in group.rows)
    return upright_landmarks(alignments, row, group.points[group.rows == row][0], sizes)


def written(folder: Path, frames: list[list[np.ndarray]], version: float = 2.3) -> Alignments:
    """A file with these landmarks, loaded."""
    entries = {
        f"f_{i:06d}.png": {"faces": [{"x": 0, "y": 0, "w": 9, "h": 9, "landmarks_xy": p.tolist()} for p in faces]}
        for i, faces in enumerate(frames)
    }
    path = folder / "alignments.json"
    path.write_text(json.dumps({"__meta__": {"version": version}, "__data__": entries}))
    return Alignments.load(path)


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that called the solver."""
    calls: list[str] = []
    solve = cv2.solvePnP

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(threading.current_thread().name)
        return solve(*args, **kwargs)

    monkeypatch.setattr(cv2, "solvePnP", counted)
    return calls


@pytest.mark.parametrize("name", ["g0_2018-05.json", "g6_2019-12.fsa", "v2_3.fsa", "v2_4_list.fsa"])
@pytest.mark.parametrize("centering", mean_faces.CENTERINGS)
@pytest.mark.parametrize("align_eyes", [False, True])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_crops_equal_those_made_at_once(
    name: str, centering: Centering, align_eyes: bool, smooth: bool, ahead: bool, vectors: Path
) -> None:
    alignments = Alignments.load(vectors / "alignments" / name)
    plan = planned(alignments, size=88, centering=centering, align_eyes=align_eyes, antialias=smooth, fit_ahead=ahead)
    assert plan.face_count == len(alignments.faces)
    for task in plan.tasks():
        assert task.failed == {}
        for k, row in enumerate(task.rows.tolist()):
            cut = crops.crop_geometry(
                landmarks(alignments, row)[None], 88, centering, seed=alignments.version < 2, align_eyes=align_eyes
            )
            np.testing.assert_array_equal(task.crop_from_frame[k], cut.crop_from_frame[0])
            assert task.cubic[k] == cut.cubic[0]
            region = (antialias if smooth else tables).source_region(cut.crop_from_frame, cut.cubic, 88)
            np.testing.assert_array_equal(task.region[k], region[0])
            assert (task.region[k] > tables.EVERYWHERE[0]).all()


def test_landmark_sets_of_all_sizes_in_one_frame(tmp_path: Path, vector_faces: Any) -> None:
    whole = vector_faces["f_000001.png"][0]["landmarks"]
    as_98 = np.zeros((98, 2), np.float32)
    as_98[mean_faces.table("map_98_to_68")] = whole
    square = whole[[36, 45, 54, 48]]
    sets = [whole, whole[17:], square, as_98, whole + np.float32(3)]
    alignments = written(tmp_path, [sets, sets[::-1]])
    plan = planned(alignments, size=64, centering="head")
    for task, points in zip(plan.tasks(), (sets, sets[::-1]), strict=True):
        for matrix, face in zip(task.crop_from_frame, points, strict=True):
            centering: Centering = "legacy" if len(face) == 51 else "head"
            one = crops.crop_geometry(face[None], 64, centering, seed=False).crop_from_frame[0]
            np.testing.assert_array_equal(matrix, one)


def test_poses_are_solved_once_and_only_for_frames_that_are_cut(vectors: Path, solved: list[str]) -> None:
    alignments = Alignments.load(vectors / "alignments" / "v2_3.fsa")
    plan = planned(alignments, centering="head", extract_every_n=3, min_box_px=40)
    left = subset(plan, np.arange(plan.frame_count) == 1)
    crop_all(alignments, PlanOptions(centering="head"), {})
    assert solved == []
    worker = threading.Thread(target=left.task, args=(0,), name="worker")
    worker.start()
    worker.join()
    assert solved == ["worker"] * left.face_count
    assert 0 < left.face_count < plan.face_count
    np.testing.assert_array_equal(left.task(0).crop_from_frame, plan.task(1).crop_from_frame)
    assert len(solved) == 2 * left.face_count
    for _ in range(2):
        assert [task.failed for task in plan.tasks()] == [{}] * plan.frame_count
    assert len(solved) == left.face_count + plan.face_count


def test_legacy_crops_need_no_pose(vectors: Path, solved: list[str]) -> None:
    plan = planned(Alignments.load(vectors / "alignments" / "v2_3.fsa"), centering="legacy", align_eyes=True)
    assert plan.fits == []
    assert np.isfinite(plan.geometry.crop_from_frame).all()
    assert len(list(plan.tasks())) == plan.frame_count
    assert solved == []


@pytest.mark.parametrize("centering", mean_faces.CENTERINGS)
def test_faces_that_are_fitted_with_their_frames_are_planned_as_those_fitted_ahead(
    tmp_path: Path, vector_faces: Any, centering: Centering
) -> None:
    good = [face["landmarks"] for frame in vector_faces.values() for face in frame]
    bad = [without_pose(), np.full((68, 2), 7, np.float32), good[0] * [-1, 1] + [400, 0], good[0] * 1e-7]
    alignments = written(tmp_path, [[good[0], *bad], [bad[1]], good[1:5], []])
    ahead = planned(alignments, centering=centering)
    later = planned(alignments, centering=centering, fit_ahead=False)
    assert np.isnan(later.geometry.crop_from_frame[:, 0, 0]).sum() >= 5
    for column in ("rows", "starts", "index", "positions", "frame_of"):
        np.testing.assert_array_equal(getattr(later, column), getattr(ahead, column))
    assert later.failures == ahead.failures
    own = with_own_crops(later)
    for task, wanted in zip(own.tasks(), ahead.tasks(), strict=True):
        np.testing.assert_array_equal(task.crop_from_frame, wanted.crop_from_frame)
        np.testing.assert_array_equal(task.cubic, wanted.cubic)
        np.testing.assert_array_equal(task.region, wanted.region)
    assert np.isnan(later.geometry.crop_from_frame[:, 0, 0]).sum() >= 5
    measured = planned(alignments, centering=centering, fit_ahead=False, min_box_px=1)
    assert np.isfinite(measured.geometry.crop_from_frame[:, 0, 0]).all()


def without_pose() -> np.ndarray:
    """A face [68, 2] whose pose points all fall on the camera's axis."""
    points = np.zeros((68, 2))
    free = [i for i in range(17, 68) if i not in pose.POSE_POINTS]
    points[free] = crops.mean_face(68, seed=False)[np.array(free) - 17] - 0.5
    for _ in range(100):
        face = points.astype(np.float32)
        matrix = crops.umeyama(crops.core(face[None]), crops.mean_face(68, seed=False))[0]
        if (matrix[:, 2].astype(np.float32) == 0.5).all():
            return face
        points[free] += np.linalg.solve(matrix[:, :2], matrix[:, 2] - 0.5)
    raise AssertionError("no such face was found")


def test_a_face_without_a_pose_fails_at_planning(tmp_path: Path) -> None:
    mean = np.concatenate([np.full((17, 2), 0.5), crops.mean_face(68, seed=False)]).astype(np.float32)
    good, bad, same = mean * 100 + 30, without_pose(), np.full((68, 2), 7, np.float32)
    alignments = written(tmp_path, [[good, bad, good], [same], [bad]])
    for align_eyes in (False, True):
        plan = planned(alignments, centering="head", align_eyes=align_eyes)
        assert [(failure.frame, failure.index, failure.reason) for failure in plan.failures] == [
            ("f_000000.png", 1, NO_CROP),
            ("f_000001.png", 0, NO_CROP),
            ("f_000002.png", 0, NO_CROP),
        ]
        assert [(task.name, task.index.tolist(), task.failed) for task in plan.tasks()] == [
            ("f_000000.png", [0, 2], {})
        ]
    assert crop_all(alignments, PlanOptions(centering="head"), {}).usable.tolist() == [True, False, True, False, False]
    assert crop_all(alignments, PlanOptions(), {}).usable.tolist() == [True, True, True, False, True]


def test_a_pose_that_fails_against_all_expectation_is_named(
    vectors: Path, vector_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alignments = Alignments.load(vectors / "alignments" / "v2_3.fsa")
    offsets = pose.offsets
    unlucky = vector_faces["f_000002.png"][1]["landmarks"]

    def failing(points: np.ndarray, matrices: np.ndarray, centering: Centering, rounding: Rounding) -> np.ndarray:
        found = offsets(points, matrices, centering, rounding)
        found[(points == unlucky).all(axis=(1, 2))] = np.nan
        return found

    plan = planned(alignments, centering="head")
    whole = list(planned(alignments, centering="head").tasks())
    monkeypatch.setattr(pose, "offsets", failing)
    for _ in range(2):
        for task, before in zip(plan.tasks(), whole, strict=True):
            bad = [1] if task.name == "f_000002.png" else []
            assert list(task.failed) == bad
            assert [(f.frame, f.index, f.reason) for f in task.failed.values()] == [
                (task.name, k, NO_CROP) for k in bad
            ]
            good = np.delete(np.arange(len(task)), bad)
            np.testing.assert_array_equal(task.crop_from_frame[good], before.crop_from_frame[good])
            np.testing.assert_array_equal(task.region[good], before.region[good])
            assert np.isnan(task.crop_from_frame[bad, :, 2]).all()


@pytest.mark.parametrize("centering", mean_faces.CENTERINGS)
def test_the_filter_by_size_equals_measuring_every_face(
    tmp_path: Path, vector_faces: Any, centering: Centering, solved: list[str]
) -> None:
    """Faces of all sizes around the wanted one, of which some reach it by rounding only."""
    least, size = 100, 256
    face = vector_faces["f_000001.png"][0]["landmarks"].astype(np.float64)
    box = crops.box_px(crops.crop_geometry(face[None], size, centering, seed=False).crop_from_frame, size)[0]
    scales = np.concatenate([np.linspace(0.98, 1.02, 200), np.linspace(0.2, 4, 40)]) * least / box
    faces = [(face * s + 0.37 * i).astype(np.float32) for i, s in enumerate(scales)]
    plan = planned(written(tmp_path, [faces]), size=size, centering=centering, min_box_px=least)
    assert len(solved) < len(faces) / 2
    cut = crops.crop_geometry(np.stack(faces), size, centering, seed=False)
    large = crops.box_px(cut.crop_from_frame, size) >= least - crops.FILTER_TOLERANCE_PX
    by_rounding = crops.roi_size(crops.roi(cut.crop_from_frame, size)) >= least
    assert (by_rounding & ~large).any()
    np.testing.assert_array_equal(plan.rows, np.flatnonzero(large | by_rounding))
    assert plan.faces_filtered == (~(large | by_rounding)).sum() > 0


def test_poses_stay_with_their_faces_in_smaller_plans(tmp_path: Path, vector_faces: Any) -> None:
    faces = [face["landmarks"] for frame in vector_faces.values() for face in frame][:6]
    alignments = written(tmp_path, [faces[:2], faces[2:3], [], faces[3:]])
    whole = list(planned(alignments, centering="face").tasks())
    plan = planned(alignments, centering="face")
    plan.task(2)
    late = subset(plan, [False, True, True])
    for task, before in zip(late.tasks(), whole[1:], strict=True):
        assert task.name == before.name
        np.testing.assert_array_equal(task.crop_from_frame, before.crop_from_frame)
        np.testing.assert_array_equal(task.region, before.region)


def test_frames_that_share_files_are_found_before_their_poses(tmp_path: Path, vector_faces: Any) -> None:
    face = vector_faces["f_000001.png"][0]["landmarks"]
    alignments = written(tmp_path, [[face], [face + 5]])
    alignments.frame_names[:] = ["a.png", "a.jpg"]
    plan = without_shared_files(planned(alignments, centering="head", extension=".png"))
    assert [task.name for task in plan.tasks()] == ["a.png"]
    assert [failure.frame for failure in plan.failures] == ["a.jpg"]
    assert np.isfinite(plan.task(0).crop_from_frame).all()
