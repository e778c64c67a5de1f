"""Headers compared by what they say, not by how they say it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from gpu_extract.face_files.compared import compared, same

MASK = {"mask": b"x", "affine_matrix": [[1.5, 0.0, 2.0], [0.0, 1.5, 3.0]], "interpolator": 2, "stored_size": 128}
HEADER: dict[str, Any] = {
    "alignments": {
        "x": 1,
        "y": 2,
        "w": 3,
        "h": 4,
        "landmarks_xy": [[0.1, 0.2], [3.0, 4.0]],
        "mask": {"components": MASK | {"stored_centering": "face"}},
        "identity": {"net": [0.1, -0.2]},
    },
    "source": {
        "alignments_version": 2.4,
        "original_filename": "clip_000001_0.png",
        "face_index": 0,
        "source_filename": "clip_000001.mp4",
        "source_is_video": True,
        "source_frame_dims": [74, 98],
    },
}


def changed(**fields: Any) -> dict[str, Any]:
    """HEADER with other values; a field's name says whose it is, `None` in a list takes it away."""
    header = copy.deepcopy(HEADER)
    for name, value in fields.items():
        part = "source" if name in HEADER["source"] else "alignments"
        if value == [None]:
            del header[part][name]
        else:
            header[part][name] = value
    return header


@pytest.mark.parametrize(
    "stored",
    [
        changed(source_frame_dims=(74, 98)),
        changed(source_frame_dims=None, source_is_video=False),
        changed(source_frame_dims=[None]),
        changed(alignments_version=2.3),
        changed(source_filename="clip_000001.png"),
        changed(x=1.0),
        changed(landmarks_xy=((np.float32(0.1).item(), np.float32(0.2).item()), (3, 4))),
        changed(identity={"net": np.array([0.1, -0.2], np.float32).tolist()}),
        changed(mask={"components": MASK}),
        changed(mask={"components": MASK | {"affine_matrix": [*MASK["affine_matrix"], [0, 0, 1]]}}),  # type: ignore[misc]
    ],
)
def test_the_same_values_in_other_forms(stored: dict[str, Any]) -> None:
    found = compared(stored, HEADER)
    assert (found.faults, found.more) == ([], [])


@pytest.mark.parametrize(
    ("stored", "fault"),
    [
        ({"source": HEADER["source"]}, "has no 'alignments'"),
        ({"alignments": 3, "source": HEADER["source"]}, "has no 'alignments'"),
        (changed(x=2), "has another x"),
        (changed(w=[None]), "has no w"),
        (changed(landmarks_xy=[[0.1, 0.2], [3.0, 4.001]]), "has another landmarks_xy"),
        (changed(landmarks_xy=[[0.1, 0.2]]), "has another landmarks_xy"),
        (changed(landmarks_xy=[[0.1, 10**400], [3.0, 4.0]]), "has another landmarks_xy"),
        (changed(mask={}), "lacks the mask 'components'"),
        (changed(mask=[None]), "lacks the mask 'components'"),
        (changed(mask={"components": 1}), "has another mask 'components'"),
        (changed(mask={"components": MASK | {"mask": b"y"}}), "has another mask 'components'"),
        (changed(mask={"components": MASK | {"affine_matrix": 7}}), "has another mask 'components'"),
        (changed(identity={"net": [0.1, 0.2]}), "has another identity 'net'"),
        (changed(face_index=1), "says face_index 1, not 0"),
        (changed(face_index=[None]), "says face_index None, not 0"),
        (changed(source_filename="clip_000002.mp4"), "says source_filename 'clip_000002.mp4', not 'clip_000001.mp4'"),
        (changed(source_filename="clip_000001.jpg"), "says source_filename 'clip_000001.jpg', not 'clip_000001.mp4'"),
        (changed(original_filename="x.png"), "says original_filename 'x.png', not 'clip_000001_0.png'"),
        (changed(source_frame_dims=(98, 74)), "says source_frame_dims (98, 74), not [74, 98]"),
        (changed(source_is_video=False), "says source_is_video False"),
    ],
)
def test_other_values(stored: dict[str, Any], fault: str) -> None:
    assert compared(stored, HEADER).faults == [fault]


def test_what_only_the_stored_header_holds() -> None:
    header = changed(
        mask=HEADER["alignments"]["mask"] | {"own": MASK}, identity=HEADER["alignments"]["identity"] | {"b": [1]}
    )
    header["alignments"]["note"] = header["source"]["note"] = 1
    found = compared(header, HEADER)
    assert (found.faults, found.more) == ([], ["mask 'own'", "identity 'b'", "'note'", "'note'"])


def test_images_of_two_formats_are_two_frames() -> None:
    assert compared(changed(source_filename="a.png"), changed(source_filename="a.jpg")).faults


def test_same_is_as_fine_as_float32() -> None:
    assert same(1, 1 + 2.0**-24)
    assert not same(1, 1 + 2.0**-21)
    assert not same([1], [1, 2])
    assert not same([1], 1)
    assert same("a", "a")
    assert not same("1", 1)
