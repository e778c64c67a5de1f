"""Sheets of faces in a chosen order, or of some of them, with landmarks; what is known of faces and what is not."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.errors import InputError, UsageError
from gpu_extract.face_files.quality import KINDS, Cut, qualities
from gpu_extract.jobs import sheet
from gpu_extract.jobs.sheet import contact_sheet
from tests.helpers import copied, extract_command, made_once, noise, read_image

NUMBERS = ("sharpness", "size", "side_px", "yaw", "pitch", "roll", "index")


@pytest.fixture(scope="session")
def extracted(tmp_path_factory: pytest.TempPathFactory, vectors: Path) -> Path:
    """Folders of the same faces by name: of version 2.3, with headers, and of 2019, without; both with lists."""

    def make(folder: Path) -> None:
        for name, stem, centering in (("new", "v2_3", "face"), ("old", "g6_2019-12", "legacy")):
            (folder / f"{name} run").mkdir(parents=True)
            alignments = copied(vectors / "alignments" / f"{stem}.fsa", folder / f"{name} run")
            options = ("-sz", "96", "--metadata", "jsonl", "--centering", centering)
            assert main(extract_command(alignments, vectors / "frames", folder / name, *options)) == 4

    return made_once(tmp_path_factory, "sheets", make)


@pytest.fixture
def faces(extracted: Path, tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "new", *, listed: bool = True) -> Path:
        folder = tmp_path / name
        shutil.copytree(extracted / name, folder)
        if not listed:
            (folder / "faces.jsonl").unlink()
        return folder

    return make


def rows_in(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in map(json.loads, (folder / "faces.jsonl").read_text().splitlines())}


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collects names and values of the labels that are written."""
    found: list[tuple[str, str]] = []
    write = sheet._write_label

    def record(strip: np.ndarray, text: str, value: str = "") -> None:
        found.append((text, value))
        write(strip, text, value)

    monkeypatch.setattr(sheet, "_write_label", record)
    return found


def test_headers_and_pixels_tell_what_the_list_tells(faces: Callable[..., Path]) -> None:
    """Also of a folder that is not centred as usual, which its journal says."""
    listed = faces()
    paths, rows = images(listed), rows_in(listed)
    cut = sheet._cut({listed})
    assert cut == Cut("face")
    by_list = list(qualities(paths, KINDS, cut, 2, landmarks=True))
    (listed / "faces.jsonl").unlink()
    by_themselves = list(qualities(paths, KINDS, cut, 2, landmarks=True))
    for path, one, other in zip(paths, by_list, by_themselves, strict=True):
        row = rows[path.name]
        assert one.values["sharpness"] == row["sharpness"]
        assert [one.values[name] for name in ("yaw", "pitch", "roll")] == (row["pose"] or [None] * 3)
        assert one.values["size"] == one.values["side_px"] == row["side_px"]
        for name in KINDS:
            if name in ("position", "hash_state"):
                assert other.values[name] is None
            else:
                assert other.values[name] == one.values[name], name
        assert one.landmarks is not None
        assert other.landmarks is not None
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-2)
        matrix, points = np.array(row["matrix"]), np.array(row["landmarks"])
        np.testing.assert_allclose(one.landmarks, points @ matrix[:, :2].T + matrix[:, 2], atol=1e-2)


def test_a_list_of_a_version_without_the_columns_serves_too(faces: Callable[..., Path]) -> None:
    folder = faces("old")
    before = [quality.values for quality in qualities(images(folder), NUMBERS, Cut(), 2)]
    rows = rows_in(folder).values()
    old = [{k: v for k, v in row.items() if k not in ("sharpness", "side_px", "pose", "hash_state")} for row in rows]
    (folder / "faces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert [quality.values for quality in qualities(images(folder), NUMBERS, Cut(), 2)] == before


def test_what_was_changed_after_the_list_is_looked_at(faces: Callable[..., Path]) -> None:
    folder = faces("old")
    first, *rest = images(folder)
    cv2.imwrite(str(first), noise(96, 96))
    written = (folder / "faces.jsonl").stat().st_mtime_ns
    os.utime(first, ns=(written + 1, written + 1))
    rows = rows_in(folder)
    found = list(qualities([first, *rest], ["sharpness", "size"], Cut(), 2))
    assert found[0].values["size"] is None, "it may be another face"
    assert found[0].values["sharpness"] != rows[first.name]["sharpness"]
    assert [one.values["size"] for one in found[1:]] == [rows[path.name]["side_px"] for path in rest]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]\n", b'{"file":3}\n', b'{"file":"f_000001_0.png","size":"x"}\n', b"\xff"]
)
def test_a_damaged_list_is_none(content: bytes, faces: Callable[..., Path]) -> None:
    folder = faces()
    wanted = [quality.values for quality in qualities(images(folder), NUMBERS, Cut("face"), 2)]
    (folder / "faces.jsonl").write_bytes(content)
    assert [quality.values for quality in qualities(images(folder), NUMBERS, Cut("face"), 2)] == wanted


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", ["sharpness", "size", "yaw", "pitch", "roll", "name", "frame"])
def test_faces_stand_in_the_order_that_is_asked_for(
    name: str, reverse: bool, faces: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = faces()
    labels = shown(monkeypatch)
    made = contact_sheet(folder, tmp_path / "sheet.png", sort=name, reverse=reverse, cell=32)
    rows = rows_in(folder)

    def value_of(row: dict[str, Any]) -> Any:
        angles = dict(zip(("yaw", "pitch", "roll"), row["pose"] or [None] * 3, strict=True))
        place = (row["position"], row["index"])
        return {"size": row["side_px"], "name": row["file"], "frame": place, **angles}.get(name, row["sharpness"])

    values = [value_of(rows[f"{label}.png"]) for label, _ in labels]
    known = [value for value in values if value is not None]
    assert known == sorted(known, reverse=reverse)
    assert values[: len(known)] == known, "the unknown come last"
    assert len(values) == 17
    without = len(values) - len(known)
    assert made.notes == ([f"1 face is last: its {name} is not known."] if without else [])
    assert without == (name in ("yaw", "pitch", "roll"))
    if name in ("sharpness", "size"):
        assert [float(text.removesuffix(" px")) for _, text in labels] == pytest.approx(known, rel=0.05, abs=0.5)
    elif name in ("name", "frame"):
        assert {text for _, text in labels} == {""}
    else:
        assert [text for _, text in labels] == [f"{value:+.1f}" for value in known] + [""] * without


def test_only_faces_of_which_the_condition_holds(
    faces: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = faces()
    labels = shown(monkeypatch)
    where = 'size < 300 and (sharpness > 100 or not frame == "f_000003.png") and yaw > -1'
    made = contact_sheet(folder, tmp_path / "sheet.png", where=where, landmarks=True)
    wanted = {
        row["file"]
        for row in rows_in(folder).values()
        if row["side_px"] < 300
        and (row["sharpness"] > 100 or row["frame"] != "f_000003.png")
        and row["pose"]
        and row["pose"][0] > -1
    }
    assert {f"{label}.png" for label, _ in labels} == wanted
    assert 0 < len(wanted) < 17
    assert all("left out" in note for note in made.notes)


def test_what_is_not_known_is_said(faces: Callable[..., Path], tmp_path: Path) -> None:
    folder, page = faces("old", listed=False), tmp_path / "sheet.png"
    with pytest.raises(InputError, match="the yaw of these faces is not known; extract --metadata"):
        contact_sheet(folder, page, sort="yaw")
    with pytest.raises(InputError, match="no face with size < 9, and of 17 the size is not known"):
        contact_sheet(folder, page, where="size < 9")
    assert not page.exists()
    made = contact_sheet(folder, page, sort="sharpness", landmarks=True)
    assert made.notes == ["17 faces are drawn without landmarks: these are not known."]
    assert made.notes[0] in made.table()
    made = contact_sheet(folder, page, where="size < 9 or sharpness >= 0")
    assert made.notes == []
    (folder / "x_0.png").write_bytes(b"no picture")
    made = contact_sheet(folder, page, sort="sharpness", where="sharpness < 9 or sharpness >= 9")
    assert made.notes == ["1 face is left out because its sharpness is not known."]
    made = contact_sheet(folder, page, sort="sharpness")
    assert made.notes == ["1 face is last: its sharpness is not known."]
    assert [path.name for path in made.unreadable] == ["x_0.png"]


def test_a_sheet_is_a_png(faces: Callable[..., Path], tmp_path: Path) -> None:
    folder = faces()
    with pytest.raises(UsageError, match=r"a sheet is a PNG, and .*out.jpg is none by its name; call it .*out.png"):
        contact_sheet(folder, tmp_path / "out.jpg")
    assert not list(tmp_path.glob("out*"))
    assert contact_sheet(folder, tmp_path / "out.PNG").exit_code == 0


def test_mistakes(faces: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, page = faces(), tmp_path / "sheet.png"
    with pytest.raises(UsageError, match="'colour'; sharpness, size, yaw, pitch, roll, name, frame are understood"):
        contact_sheet(folder, page, sort="colour")
    with pytest.raises(InputError, match="there is no face with size > 1e6"):
        contact_sheet(folder, page, where="size > 1e6")
    assert main(["sheet", str(folder), str(page), "--where", "size << 3"]) == 2
    assert "from character 7 on, at '< 3'" in capsys.readouterr().err
    assert (
        main(["sheet", str(folder), str(page), "--sort", "size", "--reverse", "--where", "size>9", "--landmarks"]) == 0
    )
    assert capsys.readouterr().out.splitlines()[0] == str(page)


def test_landmarks_are_drawn_where_they_are() -> None:
    """On a plain face, light or dark, of any shape: each dot has a bright middle and a dark ring."""
    points = np.array([[5.0, 7], [30, 20], [59, 39]], np.float32)
    for level in (0, 128, 255):
        for cell, shape in ((240, (60, 60)), (120, (60, 60)), (240, (40, 60)), (64, (60, 60))):
            square = np.full((cell, cell, 3), level, np.uint8)
            sheet._draw_landmarks(square, points, shape)
            scale = cell / max(shape)
            down = (cell - round(shape[0] * scale)) // 2
            changed = np.abs(square.astype(int) - level).max(axis=2) > 3
            for x, y in (points + 0.5) * scale - 0.5 + (0, down):
                column, row = round(float(x)), round(float(y))
                assert square[row, column, 1] > 150, (level, cell)
                assert square[row, column].max() - int(square[row, column].min()) > 60
                changed[max(0, row - 5) : row + 6, max(0, column - 5) : column + 6] = False
            assert not changed.any()
            assert level == 0 or square.min() < level - 60


def test_landmarks_that_are_nowhere_near_are_no_trouble() -> None:
    square = np.full((64, 64, 3), 9, np.uint8)
    sheet._draw_landmarks(square, np.array([[1e30, 5], [np.nan, 3], [-1e9, np.inf]], np.float32), (96, 96))
    assert (square == 9).all()


def test_the_page_has_landmarks_and_values(faces: Callable[..., Path], tmp_path: Path) -> None:
    folder = faces()
    plain, drawn = (
        read_image(contact_sheet(folder, tmp_path / f"{draws}.png", cell=96, columns=4, landmarks=draws)[0])
        for draws in (False, True)
    )
    values = read_image(contact_sheet(folder, tmp_path / "values.png", cell=96, columns=4, sort="sharpness")[0])
    assert plain.shape == drawn.shape == values.shape
    differs = (plain != drawn).any(axis=2)
    for place in range(17):
        y, x = 6 + place // 4 * 118, 6 + place % 4 * 102
        assert differs[y : y + 96, x : x + 96].any()
        assert not differs[y + 96 : y + 112, x : x + 96].any()
    labels = values[102:118].astype(int)
    assert (labels[:, :, 0] - labels[:, :, 2] > 60).any()


def test_a_label_keeps_its_value_and_shortens_the_name() -> None:
    def label(width: int, text: str, value: str) -> np.ndarray:
        strip = np.full((sheet.LABEL_PX, width, 3), 250, np.uint8)
        sheet._write_label(strip, text, value)
        return strip

    wide = label(200, "clip_000001_0", "+12.5")
    assert (wide[:, 150:] < 200).any()
    narrow = label(40, "a name that is far too long_0", "+12.5")
    bare = label(40, "", "+12.5")
    np.testing.assert_array_equal(narrow[:, 15:], bare[:, 15:])


def test_faces_in_inner_folders_and_in_shards_are_told_from_none(tmp_path: Path) -> None:
    inner = tmp_path / "faces" / "00000"
    inner.mkdir(parents=True)
    with pytest.raises(InputError, match="run extract into it first"):
        contact_sheet(tmp_path / "faces", tmp_path / "sheet.png")
    cv2.imwrite(str(inner / "x_0.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match=f"only in the folders inside it; name one of them, such as {inner}"):
        contact_sheet(tmp_path / "faces", tmp_path / "sheet.png")
    with tarfile.open(tmp_path / "faces" / "00000.tar", "w") as shard:
        shard.add(inner / "x_0.png", "x_0.png")
    shutil.rmtree(inner)
    with pytest.raises(InputError, match="members of tar shards"):
        contact_sheet(tmp_path / "faces", tmp_path / "sheet.png")
    (tmp_path / "faces" / "00000.tar").unlink()
    cv2.imwrite(str(tmp_path / "x_0.png"), np.zeros((8, 8, 3), np.uint8))
    contact_sheet([tmp_path / "x_0.png"], tmp_path / "faces" / "sheet.png")
    with pytest.raises(InputError, match="run extract into it first"):
        contact_sheet(tmp_path / "faces", tmp_path / "faces" / "sheet.png")
    with pytest.raises(InputError, match="there are no face images"):
        contact_sheet([], tmp_path / "sheet.png")
