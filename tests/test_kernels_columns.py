"""Columns of faces in C: against looking at the faces one by one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments.face_table import FaceTable, face_table, survey
from gpu_extract.alignments.generation import generation_of, holds_lists_only
from gpu_extract.alignments.packed import DTYPES, PackedArray, PackedList
from gpu_extract.kernels import columns

pytestmark = pytest.mark.skipif(not columns.is_available(), reason="columns were not built in C here")


def packed(values: np.ndarray, kind: type, **more: Any) -> Any:
    return kind(values.tobytes(), values.dtype, values.shape, **more)


def face(row: int, kind: type = PackedList, dtype: Any = np.float32, n: int = 68, **more: Any) -> dict[str, Any]:
    points = (np.arange(2 * n).reshape(n, 2) + 7 * row).astype(dtype)
    return {"x": row, "w": 5, "y": -row, "h": 1.5 * row, "landmarks_xy": packed(points, kind)} | more


def same(one: FaceTable, other: FaceTable) -> None:
    for name in ("frame", "index", "box", "rotation"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert one.invalid == other.invalid
    assert len(one.groups) == len(other.groups)
    for mine, others in zip(one.groups, other.groups, strict=True):
        np.testing.assert_array_equal(mine.rows, others.rows)
        assert mine.points.dtype == others.points.dtype
        np.testing.assert_array_equal(mine.points, others.points)


def check(faces: list[Any]) -> columns.Columns | None:
    found = survey(faces)
    same(face_table(faces, [len(faces)], found), face_table(faces, [len(faces)]))
    assert generation_of(1.0, [], faces, found) == generation_of(1.0, [], faces)
    assert holds_lists_only(faces, found) == holds_lists_only(faces)
    return found


@pytest.mark.parametrize("kind", [PackedList, PackedArray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.float16, ">f4"])
@pytest.mark.parametrize("n", [68, 51, 98, 4, 5])
def test_faces_that_are_alike_are_found_at_once(kind: type, dtype: Any, n: int) -> None:
    found = check([face(row, kind, dtype, n) for row in range(1, 9)])
    assert found is not None
    assert found.box is not None
    assert found.points is not None
    np.testing.assert_array_equal(found.box[2], (3, -3, 5, 4.5))
    assert (found.points.kind, found.points.dtype, found.points.shape) == (kind, np.dtype(dtype), (n, 2))
    assert found.points.finite == (np.dtype(dtype) in (np.float32, np.float64))
    assert found.keys == {"x", "y", "w", "h", "landmarks_xy"}


def test_a_column_that_is_not_alike_is_none() -> None:
    good = [face(row) for row in range(4)]
    array = packed(np.zeros((68, 2), np.float32), PackedArray)
    fortran = packed(np.zeros((68, 2), np.float32), PackedArray, fortran=True)
    for bad in (None, [[1, 2]] * 68, packed(np.zeros((51, 2), np.float32), PackedList), array, fortran, "text"):
        for at in range(4):
            faces = [{**one, "landmarks_xy": bad} if row == at else one for row, one in enumerate(good)]
            found = check(faces)
            assert found is not None
            assert found.points is None
            assert found.box is not None
    for value in (True, None, "5", 10**400, np.float32(3), np.int64(4)):
        for key in "xywh":
            found = check([*good, face(9) | {key: value}])
            assert found is not None
            assert found.box is None
            assert found.points is not None
    for key in good[0]:
        for at in (0, 3):
            faces = [{k: v for k, v in one.items() if row != at or k != key} for row, one in enumerate(good)]
            found = check(faces)
            assert found is not None
            assert (found.box is None, found.points is None) == (key in "xywh", key == "landmarks_xy")


def test_what_is_no_list_of_dicts_has_no_columns() -> None:
    for faces in ([], [None], [face(1), [1]], [face(1), None, face(2)]):
        assert check(faces) is None
    assert check([{}]) is not None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [PackedList, PackedArray])
def test_a_face_that_is_not_finite_is_told(bad: float, dtype: type, kind: type) -> None:
    for at in ((0, 0), (40, 1), (67, 1)):
        faces = [face(row, kind, dtype) for row in range(5)]
        points: np.ndarray = np.ones((68, 2), dtype)
        points[at] = bad
        faces[3]["landmarks_xy"] = packed(points, kind)
        found = check(faces)
        assert found is not None
        assert found.points is not None
        assert not found.points.finite
        assert list(face_table(faces, [5], found).invalid) == [3]


def test_the_largest_and_smallest_numbers_are_finite() -> None:
    for dtype in (np.float32, np.float64):
        limits = np.finfo(dtype)
        points = np.zeros((68, 2), dtype)
        points[:4, 0] = limits.max, limits.min, limits.smallest_subnormal, -limits.tiny
        found = survey([face(0, PackedArray) | {"landmarks_xy": packed(points, PackedArray)}])
        assert found is not None
        assert found.points is not None
        assert found.points.finite
    wide = np.full((68, 2), 1e300)  # finite as they stand, and not in float32, which lists are taken as
    faces = [face(0) | {"landmarks_xy": packed(wide, PackedList)}]
    check(faces)
    assert list(face_table(faces, [1], survey(faces)).invalid) == [0]


def test_keys_in_any_order_and_of_any_number() -> None:
    rng = random.Random(5)
    faces = []
    for row in range(300):
        one = face(row, hash="0" * 40, mask={}, r=rng.choice([0, 90, None])) | {
            f"k{rng.randrange(200)}": 1 for _ in range(rng.randrange(90))
        }
        items = list(one.items())
        rng.shuffle(items)
        faces.append({"".join(list(key)): value for key, value in items})  # keys that are equal and not the same object
    found = check(faces)
    assert found is not None
    assert found.keys == set().union(*faces)
    assert found.box is not None
    assert found.points is not None


def test_boxes_can_be_written_to_and_float_types_are_known_by_identity() -> None:
    found = survey([face(1)])
    assert found is not None
    assert found.box is not None
    assert found.box.flags.writeable
    assert DTYPES["f4"] is np.zeros(1, np.float32).dtype
    assert DTYPES["f8"] is np.zeros(1, np.float64).dtype


def test_references_are_counted() -> None:
    objects: list[Any] = [{}, {}, []]
    assert columns.most_references(objects) == 1
    assert columns.most_references([]) == 0
    shared = [*objects, objects[1]]
    assert columns.most_references(objects) == 2 + 1
    assert columns.most_references(shared) == 3


def test_without_the_extension_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_columns", None)
    assert survey([face(1)]) is None
    assert columns.most_references([{}]) is None
    assert not columns.is_available()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 4, 51, 68, 98, columns.MOST_POINTS])
@pytest.mark.parametrize("built", [True, False])
def test_sums_over_landmarks(dtype: type, n: int, built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    points: np.ndarray = (rng.normal(0, 100, (37, n, 2)) + rng.uniform(-3000, 3000, (37, 1, 2))).astype(dtype)
    weights = rng.normal(0, 1, (5, n))
    anchor = n // 3
    if not built:
        monkeypatch.setattr(columns, "_columns", None)
    for some in (points, points[:0], points[::2], points[:, ::-1]):
        found = columns.sums(some, anchor, weights)
        moved = some.astype(np.float64) - some[:, anchor, None].astype(np.float64)
        wanted = np.array([[[sum(w * one) for one in moved[..., d]] for d in (0, 1)] for w in weights])
        np.testing.assert_allclose(found.weighted, wanted, rtol=1e-6, atol=2e-2)
        squares = (weights[0] * (moved**2).sum(axis=2)).sum(axis=1)
        np.testing.assert_allclose(found.squares, squares, rtol=1e-5, atol=20)
        np.testing.assert_array_equal(found.reach, np.abs(some).max(axis=(1, 2), initial=0))


def test_sums_take_no_buffers_that_do_not_go_together() -> None:
    extension: Any = columns._columns  # type: ignore[attr-defined]
    points, weights = np.zeros((3, 5, 2)), np.zeros((2, columns.MOST_POINTS))
    good = [points, True, 5, 0, weights, np.empty((3, 2, 2)), np.empty(3), np.empty(3)]
    extension.sums(*good)
    for place, bad in (
        (0, np.zeros((3, 5, 1))), (1, False), (2, 0), (2, -5), (2, 10**12), (3, 5), (3, -1), (4, np.zeros((2, 5))),
        (4, np.zeros(0)), (5, np.empty(3)), (6, np.empty(2)), (7, np.empty(4)), (7, np.empty(3, np.float32)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not go together"):
            extension.sums(*good[:place], bad, *good[place + 1 :])
