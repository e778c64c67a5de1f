"""`masks`: stored masks as images, in the crop, in the frame and as they are; components drawn from landmarks."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.alignments.rotation import legacy_rotation
from gpu_extract.cli import main
from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.face_files.mask_file import MARK, encoded
from gpu_extract.geometry import crops, hulls
from gpu_extract.jobs.masks import list_masks, masks
from gpu_extract.kernels import channel, cpu, png, tables
from tests.helpers import CLIP, VECTORS, copied, extract_command, files_in, noise, whole_by_opencv, write_pickled

FRAMES = VECTORS / "frames"
HEIGHT, WIDTH = 240, 320
FILES = sorted(
    path.name
    for path in (VECTORS / "alignments").iterdir()
    if path.name[0] in "gv" and path.suffix != ".yml" and not path.stem.endswith("video_meta")
)
WITH_MASKS = [name for name in FILES if name[:2] in ("g6", "g7", "v2") and not name.endswith((".json", "nomask.fsa"))]
NAME = "v2_3.fsa"
KIND = "vgg-clear"


def file_of(name: str = NAME) -> Path:
    return VECTORS / "alignments" / name


def record_of(loaded: Alignments, frame: str, index: int) -> dict[str, Any]:
    rows = np.flatnonzero(loaded.faces.frame == loaded.frame_names.index(frame))
    return loaded.record(int(rows[index]))


def image(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None, path
    assert pixels.ndim == 2
    assert pixels.dtype == np.uint8
    return pixels


def sampled(mask: np.ndarray, i: np.ndarray, cubic: bool, height: int, width: int) -> np.ndarray:
    """The mask at i · (x, y, 1) by the formula of kernels/README.md, one tap after another, on a canvas of zeros."""
    x, y = np.arange(width), np.arange(height)[:, None]
    X, Y = (
        (np.rint((row[1] * y + row[2]) * 1024).astype(np.int64) + 16 + np.rint(row[0] * x * 1024).astype(np.int64)) >> 5
        for row in i
    )
    taps = 4 if cubic else 2
    weight = tables.weights(cubic)[(Y & 31) * 32 + (X & 31)].astype(np.int64)
    far = 2 * len(mask) + 8
    canvas = np.zeros((3 * far, 3 * far), np.int64)
    canvas[far : far + len(mask), far : far + len(mask)] = mask
    left, top = (np.clip(v >> 5, -far + 4, 2 * far - 4) - (taps // 2 - 1) + far for v in (X, Y))
    total = sum(weight[..., a, b] * canvas[top + a, left + b] for a in range(taps) for b in range(taps))
    found: np.ndarray = np.clip((total + 16384) >> 15, 0, 255).astype(np.uint8)
    return found


def crop_matrices(loaded: Alignments, size: int) -> dict[tuple[str, int], np.ndarray]:
    """crop_from_frame [2, 3] of every face, by frame and index."""
    found = {}
    traits, faces = loaded.traits, loaded.faces
    for group in faces.groups:
        cut = crops.crop_geometry(group.points, size, traits.centering, seed=traits.before_2)
        for row, matrix in zip(group.rows.tolist(), cut.crop_from_frame, strict=True):
            found[loaded.frame_names[faces.frame[row]], int(faces.index[row])] = matrix
    return found


@pytest.mark.parametrize("name", FILES)
def test_masks_of_every_generation_lie_where_the_formula_says(name: str, tmp_path: Path) -> None:
    loaded = Alignments.load(file_of(name))
    if name not in WITH_MASKS:
        with pytest.raises(InputError, match=rf"no face of {name} stores a mask '{KIND}'; it has none"):
            masks(file_of(name), tmp_path / "out", kind=KIND, size=40)
        assert not (tmp_path / "out").exists()
        return
    report = masks(file_of(name), tmp_path / "out", kind=KIND, size=40)
    assert (report.exit_code, report.images_written, len(report.lacking)) == (0, 12, 6)
    lacking = {(one["frame"], one["index"]) for one in report.lacking}
    matrices = crop_matrices(loaded, 40)
    for (frame, index), crop_from_frame in matrices.items():
        path = tmp_path / "out" / f"{frame[:-4]}_{index}.png"
        assert path.exists() != ((frame, index) in lacking)
        if path.exists():
            mask = record_of(loaded, frame, index)["mask"][KIND]
            stored = np.frombuffer(zlib.decompress(mask["mask"]), np.uint8).reshape(64, 64)
            m, c = np.array(mask["affine_matrix"], np.float64)[:2], tables.invert(crop_from_frame[None])[0]
            i = m[:, :1] * c[0] + m[:, 1:2] * c[1]
            i[:, 2] += m[:, 2]
            enlarged = np.hypot(*i[:, 0]) <= 1
            np.testing.assert_array_equal(image(path), sampled(stored, i, bool(enlarged), 40, 40))


def test_frames_hold_the_masks_of_all_faces_at_their_brightest(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    first, second = root["__data__"]["f_000002.png"]["faces"][:2]
    second["mask"][KIND]["affine_matrix"] = first["mask"][KIND]["affine_matrix"] + np.array([[0, 0, 9.5], [0, 0, -7]])
    second["mask"][KIND]["interpolator"] = 3
    file = write_pickled(tmp_path / "a.fsa", root)
    report = masks(file, tmp_path / "out", kind=KIND, within="frame", frames=FRAMES)
    assert report.exit_code == 4
    assert [(one["frame"], one["index"]) for one in report.errors] == [("f_000099.png", None)]
    assert (report.images_written, report.images_black) == (7, 1)
    loaded = Alignments.load(file)
    for frame in sorted(set(loaded.frame_names) - {"f_000099.png"}):
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for face in root["__data__"][frame]["faces"][:2]:
            mask = face["mask"][KIND]
            stored = np.frombuffer(zlib.decompress(mask["mask"]), np.uint8).reshape(64, 64)
            placed = sampled(stored, mask["affine_matrix"], mask["interpolator"] == 2, HEIGHT, WIDTH)
            expected = np.maximum(expected, placed)
        np.testing.assert_array_equal(image(tmp_path / "out" / frame), expected)
        assert expected.any() == (frame != "f_000005.png")


def test_masks_as_they_are_stored(tmp_path: Path) -> None:
    report = masks(file_of(), tmp_path / "out", kind="all", within="stored")
    assert report.images_written == 12
    loaded = Alignments.load(file_of())
    for path in (tmp_path / "out" / KIND).iterdir():
        frame, _, index = path.stem.rpartition("_")
        mask = record_of(loaded, f"{frame}.png", int(index))["mask"][KIND]
        assert image(path).tobytes() == zlib.decompress(mask["mask"])


def test_a_mask_lies_on_the_face_that_extract_cuts(tmp_path: Path) -> None:
    """A mask that is the frame itself, cut by its own matrix, looks as the face does."""
    frame = cv2.GaussianBlur(whole_by_opencv((FRAMES / "f_000001.png").read_bytes()), (0, 0), 3)
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "f_000001.png"), np.repeat(frame[:, :, 1:2], 3, axis=2))
    root = Alignments.load(file_of()).root()
    face = root["__data__"]["f_000001.png"]["faces"][0]
    matrix = np.array([[0.61, 0.08, 12.3], [-0.08, 0.61, 41.7]])
    seen = cv2.warpAffine(frame[:, :, 1], matrix, (256, 256), flags=cv2.INTER_LINEAR)
    data = {"mask": zlib.compress(seen.tobytes()), "affine_matrix": matrix, "stored_size": 256}
    face["mask"] = {"frame": face["mask"][KIND] | data}
    root["__data__"] = {"f_000001.png": {**root["__data__"]["f_000001.png"], "faces": [face]}}
    file = write_pickled(tmp_path / "a.fsa", root)
    words = ("-q", "-sz", 96, "-ae", "--no-update", "--centering", "face")
    assert main(extract_command(file, tmp_path / "frames", tmp_path / "faces", *words)) == 0
    masks(file, tmp_path / "out", kind="frame", size=96, align_eyes=True, centering="face")
    cut, mask = (image_of_any(tmp_path / place / "f_000001_0.png") for place in ("faces", "out"))
    inside = cv2.erode((cut > 0).astype(np.uint8), np.ones((7, 7)), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0
    assert inside.mean() > 0.8
    assert np.abs(cut.astype(int) - mask)[inside].max() <= 3, "one pixel beside it would be 20"
    masks(file, tmp_path / "whole", kind="frame", within="frame", frames=tmp_path / "frames")
    difference = image(tmp_path / "whole" / "f_000001.png").astype(int) - frame[:, :, 1]
    assert np.abs(difference[8:-8, 8:-8]).max() <= 3


def image_of_any(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels if pixels.ndim == 2 else pixels[:, :, 1]


# ---- drawn from landmarks


@pytest.mark.parametrize("count", [68, 98])
def test_components_are_the_hulls_of_the_parts(count: int) -> None:
    parts = json.loads((VECTORS.parent.parent / "gpu_extract" / "data" / "landmark_mask_parts.json").read_text())
    points = np.random.default_rng(count).uniform(2, 44, (count, 2))
    points[20:24] = [[10, 12], [30, 12], [30, 20], [10, 20]]  # level edges through the centres of pixels
    expected = np.zeros((37, 50), np.uint8)
    for spans in parts[f"LM_2D_{count}"].values():
        part = points[[i for first, last in spans for i in range(first, last)]].astype(np.float32)
        hull = cv2.convexHull(part)
        for y, x in np.ndindex(expected.shape):
            if cv2.pointPolygonTest(hull, (float(x), float(y)), False) >= 0:
                expected[y, x] = 255
    drawn = hulls.drawn(points.astype(np.float32).astype(np.float64), (0, 0, 50, 37))
    assert (drawn != expected).sum() <= 1, "a centre on an edge, as far as float32 tells"
    np.testing.assert_array_equal(hulls.drawn(points, (7, 3, 31, 30)), hulls.drawn(points, (0, 0, 50, 37))[3:30, 7:31])


def test_components_are_drawn_where_a_face_stores_none(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    face = root["__data__"]["f_000001.png"]["faces"][0]
    face["mask"]["components"] = face["mask"][KIND]
    file = write_pickled(tmp_path / "a.fsa", root)
    report = masks(file, tmp_path / "out", kind="components", size=64)
    assert (report.images_written, report.masks_drawn, report.lacking) == (18, 17, [])
    masks(file, tmp_path / "stored", kind=KIND, size=64)
    same = "f_000001_0.png"
    assert (tmp_path / "out" / same).read_bytes() == (tmp_path / "stored" / same).read_bytes()
    loaded = Alignments.load(file)
    matrix = crop_matrices(loaded, 64)["f_000002.png", 1]
    points = np.asarray(record_of(loaded, "f_000002.png", 1)["landmarks_xy"], np.float64)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_array_equal(image(tmp_path / "out" / "f_000002_1.png"), hulls.drawn(moved, (0, 0, 64, 64)))
    masks(file, tmp_path / "frame", kind="components", within="frame", frames=FRAMES)
    whole = (0, 0, WIDTH, HEIGHT)
    faces = [np.asarray(record_of(loaded, "f_000004.png", k)["landmarks_xy"], np.float64) for k in range(3)]
    expected = np.max([hulls.drawn(points, whole) for points in faces], axis=0)
    np.testing.assert_array_equal(image(tmp_path / "frame" / "f_000004.png"), expected)
    stored = masks(file, tmp_path / "own", kind="components", within="stored")
    assert (stored.images_written, len(stored.lacking)) == (1, 17)
    with pytest.raises(InputError, match=r"stores a mask 'extended'; it has components \(1\), vgg-clear \(12\)"):
        masks(file, tmp_path / "none", kind="extended")


def test_faces_of_turned_frames_need_the_frames_size(tmp_path: Path) -> None:
    file = file_of("g0_2018-05.json")
    report = masks(file, tmp_path / "out", kind="components", size=48)
    assert report.exit_code == 4
    assert [(one["frame"], one["index"]) for one in report.errors] == [("f_000008.png", 2)]
    assert "found in a turned frame, whose size is needed" in report.errors[0]["reason"]
    report = masks(file, tmp_path / "out", kind="components", size=48, frames=FRAMES)
    assert (report.exit_code, report.images_written) == (0, 18)
    loaded = Alignments.load(file)
    record = record_of(loaded, "f_000008.png", 2)
    box = np.array([record[key] for key in "xywh"], np.float64)
    upright, _ = legacy_rotation(np.array(record["landmarksXY"], np.float32), box, 90, HEIGHT, WIDTH)
    matrix = crops.crop_geometry(upright[None], 48, "legacy", seed=True).crop_from_frame[0]
    moved = upright.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_array_equal(image(tmp_path / "out" / "f_000008_2.png"), hulls.drawn(moved, (0, 0, 48, 48)))
    masks(file, tmp_path / "frame", kind="components", within="frame", frames=FRAMES)
    assert (
        hulls.drawn(upright.astype(np.float64), (0, 0, WIDTH, HEIGHT)) <= image(tmp_path / "frame" / "f_000008.png")
    ).all()


# ---- what may be wrong


def spoiled(mask: dict[str, Any], how: str) -> Any:
    data = mask["mask"]
    changes: dict[str, Any] = {
        "no dict": None,
        "empty": {"mask": b""},
        "cut off": {"mask": data[:-5]},
        "no zlib": {"mask": b"mask"},
        "no bytes": {"mask": [1, 2]},
        "too few": {"mask": zlib.compress(bytes(64 * 64 - 1))},
        "too many": {"mask": zlib.compress(bytes(1 << 20))},
        "no size": {"stored_size": None},
        "huge": {"stored_size": 1 << 20},
        "no matrix": {"affine_matrix": [[1, 0], [0, 1]]},
        "letters": {"affine_matrix": [["a"] * 3] * 2},
        "flat": {"affine_matrix": np.array([[1.0, 2, 3], [2, 4, 5]])},
        "not finite": {"affine_matrix": np.array([[1.0, 0, np.nan], [0, 1, 0]])},
    }
    return 7 if how == "no dict" else mask | changes[how]


@pytest.mark.parametrize("within", ["crop", "frame", "stored"])
def test_damaged_masks_are_named_and_end_no_other(within: str, tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    faces = [face for entry in root["__data__"].values() for face in entry["faces"] if face["mask"]]
    hows = [
        *("no dict", "empty", "cut off", "no zlib", "no bytes", "too few", "too many", "no size", "huge"),
        *("no matrix", "letters", "flat"),
    ]
    assert len(hows) == len(faces)
    for face, how in zip(faces, hows, strict=True):
        face["mask"][KIND] = spoiled(face["mask"][KIND], how)
    del root["__data__"]["f_000099.png"]
    file = write_pickled(tmp_path / "a.fsa", root)
    report = masks(file, tmp_path / "out", kind=KIND, within=within, size=32, frames=FRAMES)
    assert report.exit_code == 4
    assert len(report.errors) == 11
    for one, reason in zip(
        report.errors,
        [
            "its record is no dict",
            *["its compressed pixels are not 64 x 64 bytes"] * 2,
            "its compressed pixels are damaged",
            "it has no compressed pixels",
            *["its compressed pixels are not 64 x 64 bytes"] * 2,
            "its stored_size is None; 1 to 4096 pixels are understood",
            "its stored_size is 1048576; 1 to 4096 pixels are understood",
            "its affine_matrix is not 2 x 3 or 3 x 3 numbers",
            "its affine_matrix is not 2 x 3 or 3 x 3 numbers",
        ],
        strict=True,
    ):
        assert one["reason"] == reason
    assert report.images_written == (7 if within == "frame" else 0)


def test_a_matrix_without_an_inverse_is_no_way_to_the_frame(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    for face, how in zip(root["__data__"]["f_000002.png"]["faces"], ("flat", "not finite"), strict=False):
        face["mask"][KIND] = spoiled(face["mask"][KIND], how)
    report = masks(write_pickled(tmp_path / "a.fsa", root), tmp_path / "out", kind=KIND, size=32)
    assert [one["reason"] for one in report.errors] == ["its affine_matrix has no inverse"] * 2
    assert report.images_written == 10


def test_records_of_october_2019_and_of_today(tmp_path: Path) -> None:
    """A misspelt key, a size of the frame in the record, 3 x 3 matrices of plain numbers."""
    root = Alignments.load(file_of()).root()
    expected = tmp_path / "expected"
    masks(file_of(), expected, kind=KIND, within="frame", frames=FRAMES)
    for entry in root["__data__"].values():
        for face in entry["faces"]:
            for mask in face["mask"].values():
                mask["intepolator"] = mask.pop("interpolator")
                mask["frame_dims"] = (HEIGHT, WIDTH)
                mask["affine_matrix"] = [*mask["affine_matrix"].tolist(), [0.0, 0.0, 1.0]]
    masks(write_pickled(tmp_path / "a.fsa", root), tmp_path / "out", kind=KIND, within="frame", frames=FRAMES)
    assert files_in(tmp_path / "out") == files_in(expected)


def test_faces_without_a_crop_are_named(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    first, second = root["__data__"]["f_000002.png"]["faces"][:2]
    first["landmarks_xy"] = np.full((68, 2), 5, np.float32)
    second["landmarks_xy"] = np.full((68, 2), np.nan, np.float32)
    third = root["__data__"]["f_000003.png"]["faces"][0]
    third["landmarks_xy"] = third["landmarks_xy"][17:]
    file = write_pickled(tmp_path / "a.fsa", root)
    report = masks(file, tmp_path / "out", kind=KIND, size=32, centering="face")
    assert [(one["frame"], one["index"]) for one in report.errors] == [
        ("f_000002.png", 0),
        ("f_000002.png", 1),
        ("f_000003.png", 0),
    ]
    assert "do not define a crop" in report.errors[0]["reason"]
    assert "not finite" in report.errors[1]["reason"]
    assert "51 core landmarks only" in report.errors[2]["reason"]
    assert masks(file, tmp_path / "out", kind=KIND, size=32).images_written == 10
    assert masks(file, tmp_path / "own", kind=KIND, within="stored").images_written == 12


def test_nothing_but_a_mask_is_replaced(tmp_path: Path) -> None:
    file = copied(file_of(), tmp_path)
    out = tmp_path / "out"
    masks(file, out, kind=KIND, size=32)
    small = files_in(out)
    assert masks(file, out, kind=KIND, size=48).images_written == 12, "masks are replaced"
    masks(file, out, kind=KIND, size=32)
    assert files_in(out) == small
    (out / "notes.txt").write_text("mine")
    shutil.copy(FRAMES / "f_000003.png", out / "f_000003_0.png")
    before = files_in(tmp_path)
    with pytest.raises(OutputError, match=r"the mask would replace .*f_000003_0.png, which is none"):
        masks(file, out, kind=KIND, size=48)
    assert files_in(tmp_path) == before
    frames = tmp_path / "frames"
    shutil.copytree(FRAMES, frames)
    before = files_in(frames)
    with pytest.raises(OutputError, match=r"the mask would replace .*f_000001.png, which is none"):
        masks(file, frames, kind=KIND, within="frame", frames=frames)
    assert files_in(frames) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"masks cannot be written to .*file: "):
        masks(file, tmp_path / "file", kind=KIND)


def test_names_that_are_taken_or_cannot_be(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    faces = root["__data__"]["f_000001.png"]
    long = "f" * 252 + ".png"
    root["__data__"] = {"a.png": faces, "a.jpg": faces, ".part-b.png": faces, long: faces}
    report = masks(write_pickled(tmp_path / "a.fsa", root), tmp_path / "out", kind=KIND, size=32)
    assert sorted(files_in(tmp_path / "out")) == ["a_0.png"]
    reasons = {one["frame"]: one["reason"] for one in report.errors}
    assert reasons["a.jpg"] == "its file 'a_0.png' would replace that of 'a.png'; rename one frame"
    assert "begin with .part-" in reasons[".part-b.png"]
    assert "too long" in reasons[long]
    faces["faces"][0]["mask"]["../b"] = faces["faces"][0]["mask"][KIND]
    file = write_pickled(tmp_path / "a.fsa", root)
    with pytest.raises(InputError, match=r"masks '../b' of a.fsa cannot have a folder of that name"):
        masks(file, tmp_path / "all", kind="all")
    assert masks(file, tmp_path / "one", kind="../b", size=32).images_written == 1


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gpu_extract.jobs.masks.write_file", refuse)
    with pytest.raises(OutputError, match=r"the mask 'f_000001_0.png' cannot be written to .*No space left"):
        masks(file_of(), tmp_path / "out", kind=KIND, size=32)


# ---- frames


def test_masks_of_a_video_s_frames_without_a_look_at_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a frame was read")

    monkeypatch.setattr("gpu_extract.frames.sources.video.VideoSource.frames", refuse)
    file = VECTORS / "video" / "clip_alignments_v2_4.fsa"
    report = masks(file, tmp_path / "out", kind="components", within="frame", frames=CLIP)
    assert report.exit_code == 0
    assert image(tmp_path / "out" / "clip_000001.png").shape == (HEIGHT, WIDTH)
    with pytest.raises(InputError, match=r"no entry of v2_3.fsa names a frame of"):
        masks(file_of(), tmp_path / "out", kind=KIND, within="frame", frames=CLIP)


def test_keys_that_name_their_frames_by_a_rule(tmp_path: Path) -> None:
    root = Alignments.load(file_of()).root()
    root["__data__"] = {f"old/{key}": entry for key, entry in root["__data__"].items()}
    file = write_pickled(tmp_path / "a.fsa", root)
    wish: dict[str, Any] = {"kind": KIND, "within": "frame", "frames": FRAMES}
    with pytest.raises(InputError, match="names a frame of"):
        masks(file, tmp_path / "out", **wish)
    assert masks(file, tmp_path / "out", **wish, match_keys="path").images_written == 7
    masks(file_of(), tmp_path / "expected", **wish)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "expected")


# ---- the sampling and the files


def test_a_part_has_the_pixels_of_the_whole_also_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = noise(23, 31, 1)
    i = np.array([[0.043, -0.011, -2.6], [0.013, 0.037, -1.4]])
    for cubic in (False, True):
        whole = channel.warp(mask, i, cubic, (-5, -9, 700, 600))  # beyond one tile, either way
        assert whole.any()
        assert (whole == 0).any()
        part = channel.warp(mask, i, cubic, (411, 222, 640, 590))
        np.testing.assert_array_equal(part, whole[231:599, 416:645])
        if cv2.__version__.startswith("4."):  # what the programs compute
            flags = (cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
            np.testing.assert_array_equal(cv2.warpAffine(mask, i, (700, 600), flags=flags), whole[9:, 5:])
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "_sampler", None)
            np.testing.assert_array_equal(channel.warp(mask, i, cubic, (411, 222, 640, 590)), part)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (31, 23)])
def test_files_are_grey_and_say_what_made_them(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 256, shape, np.uint8), np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)]
    pictures.append((np.add.outer(np.arange(shape[0]) * 3, np.arange(shape[1])) % 256).astype(np.uint8))
    for mask in pictures:
        for built in (True, False):
            with monkeypatch.context() as patch:
                if not built:
                    patch.setattr(png, "_png", None)
                data = encoded(mask)
            assert MARK in data[:128]
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(decoded, mask)


# ---- words


def test_a_list_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = list_masks(file_of("g6_2019-12.fsa"))
    assert report.kinds == [{"kind": KIND, "faces": 12, "sizes": [64], "centerings": ["legacy"]}]
    assert (report.faces_without, report.faces_drawable, report.masks_folder) == (6, 18, None)
    assert main(["masks", "-a", str(file_of()), "--list", "--json", str(tmp_path / "list.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "file    18 faces of 8 frames",
        "        vgg-clear: 12 faces, 64 px, face",
        "without 6 faces that store no mask",
        "drawn   components can be, from the landmarks of 18 faces",
    ]
    assert json.loads((tmp_path / "list.json").read_text())["kinds"][0]["faces"] == 12
    assert main(["masks", "-a", str(file_of("g2_2018-12.json")), "--list"]) == 0
    with pytest.raises(InputError, match=r"no face of g2_2018-12.json stores a mask; --kind components draws masks"):
        masks(file_of("g2_2018-12.json"), tmp_path / "out", kind="all")


def test_words_that_are_not_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = file_of(), tmp_path / "out"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"within": "face"}, "within 'face' is not understood; crop, frame, stored are"),
        ({"kind": ""}, "kind must be the name of masks, or all"),
        ({"size": 8}, "size must be 16 to 4096 pixels"),
        ({"within": "frame"}, "a mask in the frame needs the frame's size"),
        ({"match_keys": "case"}, "match-keys compares keys with the names of frames"),
        ({"json": file}, "the report would replace the alignments"),
    ]
    for wish, sentence in wrong:
        with pytest.raises(UsageError, match=sentence):
            masks(file, out, **{"kind": KIND, **wish})
    assert main(["masks", "-a", str(file)]) == 2
    assert "needs -fc, a folder for the images, and --kind" in capsys.readouterr().err
    assert main(["masks", "-a", str(file), "-fc", "s3://bucket/masks", "--kind", KIND]) == 2
    assert main(["masks", "-a", str(tmp_path / "none.fsa"), "--list"]) == 3
    assert not out.exists()
