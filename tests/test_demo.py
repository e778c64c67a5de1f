"""The demo draws what its alignments file says, and its contact sheet shows every face."""

from __future__ import annotations

import hashlib
import json
import pickle
import zlib
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from gpu_extract.demo import MARKER, _clear, run_demo
from gpu_extract.demo.cartoon import OMAR, RUTH, Expression, draw_face, face_landmarks, mean_face, place, similarity
from gpu_extract.demo.clip import (
    HEIGHT,
    WIDTH,
    Clip,
    draw_frames,
    face_record,
    make_clip,
    textured_background,
    write_video,
)
from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.jobs.sheet import contact_sheet, list_faces
from tests.helpers import read_image

av = pytest.importorskip("av")


def crop_from_frame(landmarks: np.ndarray, size: int) -> np.ndarray:
    """A plain least-squares similarity onto the mean face, with the padding of the real job for sizes of 16 n."""
    src, dst = landmarks[17:].astype(np.float64), mean_face()
    src_mean, dst_mean = src.mean(axis=0), dst.mean(axis=0)
    u, s, vh = np.linalg.svd((dst - dst_mean).T @ (src - src_mean) / 51)
    scale = s.sum() / src.var(axis=0).sum()
    matrix = np.column_stack([scale * (u @ vh), dst_mean - scale * (u @ vh) @ src_mean])
    padding = size * 3 // 16
    matrix *= size - 2 * padding
    matrix[:, 2] += padding
    return matrix


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return make_clip(tmp_path_factory.mktemp("clip"), frames=24)


def test_the_core_points_are_close_to_the_mean_face() -> None:
    for expression in (Expression(), Expression(open_mouth=0.9), Expression(blink=1.0)):
        landmarks = face_landmarks(expression)
        assert landmarks.shape == (68, 2)
        assert np.abs(landmarks[17:] - mean_face()).max() < 0.13
        assert np.abs(landmarks[17:] - mean_face()).mean() < 0.03
    assert np.allclose(face_landmarks(Expression())[0, 1], face_landmarks(Expression())[16, 1])


def test_similarity_turns_clockwise_about_the_centre() -> None:
    # A quarter turn clockwise carries "right of the centre" to "below the centre".
    matrix = similarity((30.0, 50.0), 100.0, 90.0)
    centre, right = place(np.array([[0.490127, 0.46], [0.990127, 0.46]]), matrix)
    assert np.allclose(centre, (30, 50))
    assert np.allclose(right, (30, 100))


@pytest.mark.parametrize("degrees", [0, 37, 180])
def test_features_are_drawn_where_the_landmarks_are(degrees: int) -> None:
    picture = np.full((300, 420, 3), (200, 60, 60), np.uint8)
    expression = Expression(open_mouth=0.9)
    landmarks = draw_face(picture, RUTH, expression, similarity((210, 150), 130, degrees))
    inner_mouth = cv2.fillPoly(np.zeros((300, 420), np.uint8), [np.rint(landmarks[60:68]).astype(np.int32)], 1)
    inside = picture[cv2.erode(inner_mouth, np.ones((7, 7))) > 0]
    assert len(inside) > 50
    assert not (inside == RUTH.skin).all(axis=1).any()
    bridge = landmarks[27].round().astype(int)
    assert tuple(picture[bridge[1], bridge[0]]) == RUTH.skin
    assert np.allclose(landmarks, place(face_landmarks(expression), similarity((210, 150), 130, degrees)))


def test_a_face_outside_the_picture_draws_nothing() -> None:
    picture = np.full((90, 120, 3), 9, np.uint8)
    draw_face(picture, OMAR, Expression(), similarity((-900, 2000), 80, 30))
    assert (picture == 9).all()


def test_frames_show_faces_that_come_and_go() -> None:
    counts = [len(faces) for _, faces in draw_frames(24)]
    assert set(counts) == {1, 2}
    angles, outside = [], 0
    for picture, faces in draw_frames(12):
        assert picture.shape == (HEIGHT, WIDTH, 3)
        for landmarks in faces:
            eyes = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)
            angles.append(abs(np.degrees(np.arctan2(eyes[1], eyes[0]))))
            outside += bool(((landmarks < 0) | (landmarks >= (WIDTH, HEIGHT))).any())
    assert max(angles) > 150
    assert outside >= 1


def test_every_face_of_the_clip_comes_out_upright(clip: Clip) -> None:
    # The crop of a decoded frame must look like the same person drawn straight into the crop.
    alignments = pickle.loads(zlib.decompress(clip.alignments.read_bytes()))
    with av.open(str(clip.video)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    assert len(frames) == clip.frames == 24 == len(alignments)
    assert list(alignments)[:2] == ["demo_000001.png", "demo_000002.png"]
    seen = 0
    for frame, faces in zip(frames, alignments.values(), strict=True):
        landmarks = faces[0]["landmarks_xy"]
        assert landmarks.dtype == np.float32
        crop = cv2.warpAffine(frame, crop_from_frame(landmarks, 128), (128, 128), flags=cv2.INTER_LINEAR)
        drawn = np.zeros((128, 128, 3), np.uint8)
        upright = np.array([[80.0, 0, 24], [0, 80, 24]])
        draw_face(drawn, RUTH, Expression(), upright)
        cheeks_and_chin = (slice(70, 76), slice(52, 76))
        assert np.abs(crop[cheeks_and_chin].mean((0, 1)) - drawn[cheeks_and_chin].mean((0, 1))).max() < 30
        flower = crop[10:28, 94:112].reshape(-1, 3).mean(axis=0)
        assert flower[0] > flower[2], "the blue flower is at the top right of the red hair"
        seen += 1
    assert seen == 24


def test_the_clip_is_the_same_every_time(clip: Clip, tmp_path: Path) -> None:
    again = make_clip(tmp_path, frames=24)
    assert again.alignments.read_bytes() == clip.alignments.read_bytes()
    with av.open(str(again.video)) as one, av.open(str(clip.video)) as two:
        for left, right in zip(one.decode(video=0), two.decode(video=0), strict=True):
            assert np.array_equal(left.to_ndarray(), right.to_ndarray())


def test_face_record_has_the_fields_of_late_2019() -> None:
    record = face_record(np.array([[-3.5, 7.0], [20.2, 90.9]]))
    assert list(record) == ["x", "w", "y", "h", "landmarks_xy", "hash", "mask"]
    assert (record["x"], record["y"], record["w"], record["h"]) == (-4, 7, 25, 84)


def test_write_video_counts_its_frames(tmp_path: Path) -> None:
    pictures = [textured_background(48, 64, seed) for seed in range(5)]
    assert write_video(tmp_path / "v.mp4", pictures, 25, {"crf": "30"}) == 5


def test_sheet_shows_every_face_in_its_cell(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for index, colour in enumerate(colours):
        cv2.imwrite(str(faces / f"clip_000001_{index}.png"), np.full((40, 40, 3), colour, np.uint8))
    (page,) = contact_sheet(faces, tmp_path / "sheet.png", columns=2, cell=32)
    sheet = read_image(page)
    step_x, step_y = 32 + 6, 32 + 16 + 6
    assert sheet.shape == (2 * step_y + 6, 2 * step_x + 6, 3)
    for place_, colour in enumerate(colours):
        y, x = 6 + place_ // 2 * step_y + 16, 6 + place_ % 2 * step_x + 16
        assert tuple(sheet[y, x]) == colour
    label = sheet[6 + 32 : 6 + 32 + 16, 6 : 6 + 32]
    assert (label < 200).any()


def test_faces_are_ordered_by_frame_then_index(tmp_path: Path) -> None:
    for name in ("b_000001_0.png", "a_000002_10.png", "a_000002_9.png", "a_000010_0.jpg", "note.txt"):
        (tmp_path / name).write_bytes(b"")
    names = [path.name for path in list_faces(tmp_path)]
    assert names == ["a_000002_9.png", "a_000002_10.png", "a_000010_0.jpg", "b_000001_0.png"]


def test_an_unreadable_face_keeps_its_cell(tmp_path: Path) -> None:
    (tmp_path / "x_0.png").write_bytes(b"")
    (tmp_path / "x_1.png").write_bytes(b"not a picture")
    (page,) = contact_sheet(tmp_path, tmp_path / "out.png", cell=64)
    assert read_image(page).shape == (64 + 16 + 12, 2 * 70 + 6, 3)


def test_many_faces_go_on_to_further_pages(tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    cv2.imwrite(str(faces / "x_0.png"), np.zeros((8, 12, 3), np.uint8))
    pages = contact_sheet([faces / "x_0.png"] * 1000, tmp_path / "sheet.png", columns=2, cell=128)
    assert [page.name for page in pages] == ["sheet.png", "sheet_2.png", "sheet_3.png", "sheet_4.png", "sheet_5.png"]
    assert all(read_image(page).shape[0] <= 16_000 for page in pages)


def test_sheet_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no face images"):
        contact_sheet(tmp_path / "empty", tmp_path / "sheet.png")
    with pytest.raises(InputError, match="not a folder"):
        contact_sheet(tmp_path / "nowhere", tmp_path / "sheet.png")
    cv2.imwrite(str(tmp_path / "x_0.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match="5000 columns"):
        contact_sheet(tmp_path, tmp_path / "sheet.png", columns=5000)
    with pytest.raises(OutputError, match="cannot be written"):
        contact_sheet(tmp_path, tmp_path / "nowhere" / "sheet.png")


def test_demo_leaves_faces_report_and_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gpu_extract.demo.clip.make_clip", partial(make_clip, frames=6))
        run_demo(tmp_path / "demo", size=64, progress="none", device="cpu")
    made = run_demo(tmp_path / "demo", size=64, progress="none", device="cpu")  # replaces the first
    assert made.report.exit_code == 0
    assert len(list_faces(made.faces)) == made.report.faces_written == 118
    assert json.loads(made.report_json.read_text())["faces_written"] == 118
    assert read_image(made.sheet).shape[0] > 500
    assert str(made.sheet) in made.table()
    name, faces = next(iter(pickle.loads(zlib.decompress(made.alignments.read_bytes())).items()))
    pixels = read_image(made.faces / f"{name[:-4]}_0.png")
    assert faces[0]["hash"] == hashlib.sha1(pixels.tobytes()).hexdigest()


def test_demo_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds thesis\.txt"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_demo_clears_what_an_earlier_demo_left(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for name in (MARKER, "demo.mp4", "demo_alignments_20200101_000000.fsa", "report.json", "faces/demo_000001_0.png"):
        (tmp_path / name).write_bytes(b"")
    _clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
