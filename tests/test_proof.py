"""Whether frames are those that a file was made from: other frames are found out, ordinary use is let alone."""

from __future__ import annotations

import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import gpu_extract
from gpu_extract.alignments import Alignments
from gpu_extract.jobs.runs import proof
from gpu_extract.run.progress import Event, FrameDone, Note

SENTENCE = "these do not look like the frames this file was made from"
WITHOUT_FRAME = "f_000099.png"
USUAL_SIZES = proof.USUAL_SIZES


def edited(name: str, folder: Path, vectors: Path, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    """A file of the vectors without its entry that has no frame, after a change of its content."""
    root = Alignments.load(vectors / "alignments" / name).root()
    entries = root.get("__data__", root)
    del entries[WITHOUT_FRAME]
    if change is not None:
        change(entries)
    path = folder / name
    path.write_bytes(zlib.compress(pickle.dumps(root)))
    return path


def faces_of(entries: dict[str, Any]) -> list[dict[str, Any]]:
    return [face for entry in entries.values() for face in (entry["faces"] if isinstance(entry, dict) else entry)]


def hashes(path: Path) -> list[str | None]:
    loaded = Alignments.load(path)
    return [loaded.stored_hash(row) for row in range(len(loaded.faces))]


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that no program uses as a rule, and no large ones: all 566 of them take seconds in every test."""
    assert {40, 301, 544} < set(proof.ANY_SIZE)
    monkeypatch.setattr(proof, "ANY_SIZE", (40, 301, 544))
    monkeypatch.setattr(proof, "USUAL_SIZES", tuple(size for size in USUAL_SIZES if size <= 256))


@pytest.fixture
def right(vectors: Path) -> Path:
    return vectors / "frames"


@pytest.fixture
def other(vectors: Path, tmp_path: Path) -> Path:
    """Frames of the same names and sizes that show something else."""
    folder = tmp_path / "other"
    folder.mkdir()
    for path in (vectors / "frames").iterdir():
        image = cv2.imread(str(path))
        assert image is not None
        noise = np.random.default_rng(1).integers(0, 256, (9, 13, 3), np.uint8)
        cv2.imwrite(str(folder / path.name), cv2.resize(noise, image.shape[1::-1], interpolation=cv2.INTER_CUBIC))
    return folder


def extract(alignments: Path, frames: Path, tmp_path: Path, **options: Any) -> gpu_extract.Report:
    faces = tmp_path / "faces"
    given: dict[str, Any] = {"progress": "none", "size": 64, "device": "cpu", **options}
    return gpu_extract.extract(alignments, frames, faces, **given)


@pytest.mark.parametrize("size", [256, 64])
def test_other_frames_keep_the_stored_hashes(
    size: int, vectors: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever of the usual sizes they are cut."""
    monkeypatch.setattr(proof, "USUAL_SIZES", USUAL_SIZES)
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    before = path.read_bytes()
    report = extract(path, other, tmp_path, size=size)
    assert report.exit_code == 4
    assert report.faces_written == 17
    assert report.hashes_kept == 16  # one face lies outside its picture: black is no evidence
    assert report.hashes_updated == 0
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("g6_2019-12_2*"))
    assert SENTENCE in report.notes[-1]
    assert "--replace-hashes" in report.notes[-1]
    assert "16 stored ones kept" in report.table()


def test_who_asks_for_it_gets_the_new_hashes(vectors: Path, other: Path, tmp_path: Path) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    before = hashes(path)
    report = extract(path, other, tmp_path, replace_hashes=True)
    assert report.exit_code == 0
    assert report.hashes_changed == 17
    assert not set(hashes(path)) & set(before)


def test_it_is_said_on_the_first_faces(
    vectors: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "ENOUGH", 5)
    events: list[Event] = []
    extract(edited("g6_2019-12.fsa", tmp_path, vectors), other, tmp_path, progress=events.append, workers=1)
    told = [i for i, event in enumerate(events) if isinstance(event, Note)]
    assert len(told) == 1
    assert SENTENCE in str(events[told[0]])
    assert sum(isinstance(event, FrameDone) for event in events[told[0] :]) >= 3, "while there is most to do"


@pytest.mark.parametrize("size", [64, 96, 256, 333])
@pytest.mark.parametrize("options", [{}, {"align_eyes": True}, {"format": "jpg"}], ids=["plain", "eyes", "jpg"])
def test_another_size_or_option_is_no_fault(
    size: int, options: dict[str, Any], vectors: Path, right: Path, tmp_path: Path
) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    report = extract(path, right, tmp_path, size=size, **options)
    assert report.exit_code == 0
    assert report.hashes_kept == 0
    assert not any(SENTENCE in note for note in report.notes)


@pytest.mark.parametrize("stored_size", [40, 301, 544])
def test_hashes_of_an_unusual_size_prove_the_frames_too(
    stored_size: int, vectors: Path, right: Path, tmp_path: Path
) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    assert extract(path, right, tmp_path, size=stored_size).hashes_changed == 17
    shutil.rmtree(tmp_path / "faces")
    assert extract(path, right, tmp_path).exit_code == 0


def test_landmarks_corrected_by_hand_are_no_fault(vectors: Path, right: Path, tmp_path: Path) -> None:
    """All but two faces moved, at the file's own size: the two prove the frames, and the others get new hashes."""

    def move(entries: dict[str, Any]) -> None:
        for face in faces_of(entries)[:-2]:
            face["landmarks_xy"] = face["landmarks_xy"] + np.float32(1.5)

    path = edited("g6_2019-12.fsa", tmp_path, vectors, move)
    report = extract(path, right, tmp_path, size=256)
    assert report.exit_code == 0
    assert report.hashes_changed == 14  # one lies outside its picture and stays black


def test_a_thumbnail_proves_frames_whose_hashes_do_not_fit(vectors: Path, right: Path, tmp_path: Path) -> None:
    """As with a copy of the video that was compressed again."""

    def stale(entries: dict[str, Any]) -> None:
        for i, face in enumerate(faces_of(entries)):
            face["hash"] = f"{i:040x}"

    for name in ("g7b_2020-08.fsa", "v2_0.fsa"):
        path = edited(name, tmp_path, vectors, stale)
        report = extract(path, right, tmp_path)
        assert report.exit_code == 0
        assert report.hashes_changed == report.faces_written
        shutil.rmtree(tmp_path / "faces")


@pytest.mark.parametrize("name", ["v2_3.fsa", "v2_4_list.fsa", "v2_4_from_g7b_by_v2_3_0.fsa"])
def test_files_without_hashes_are_told_by_their_thumbnails(
    name: str, vectors: Path, right: Path, other: Path, tmp_path: Path
) -> None:
    path = edited(name, tmp_path, vectors)
    report = extract(path, right, tmp_path)
    assert report.exit_code == 0
    shutil.rmtree(tmp_path / "faces")
    report = extract(path, other, tmp_path)
    assert report.exit_code == 4
    (said,) = [note for note in report.notes if SENTENCE in note]
    assert "--replace-hashes" not in said


def test_a_file_that_stores_nothing_of_its_faces_is_believed(vectors: Path, other: Path, tmp_path: Path) -> None:
    path = edited("g1_2018-11.json", tmp_path, vectors).rename(tmp_path / "a.p")
    path.write_bytes(zlib.decompress(path.read_bytes()))
    assert extract(path, other, tmp_path).exit_code == 0


def test_a_resumed_run_of_other_frames_keeps_them_as_well(vectors: Path, other: Path, tmp_path: Path) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    extract(path, other, tmp_path)
    (tmp_path / "faces" / "f_000003.png").unlink(missing_ok=True)
    report = extract(path, other, tmp_path, resume=True)
    assert report.exit_code == 4
    assert report.hashes_kept == 16


@pytest.mark.parametrize(
    "options", [{"centering": "head"}, {"centering": "face", "align_eyes": True}, {"format": "jpg"}]
)
def test_hashes_of_an_earlier_run_with_another_option_prove_the_frames_too(
    options: dict[str, Any], vectors: Path, right: Path, tmp_path: Path
) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    assert extract(path, right, tmp_path, size=128, **options).hashes_changed >= 16
    shutil.rmtree(tmp_path / "faces")
    assert extract(path, right, tmp_path, size=96).exit_code == 0


def test_hashes_of_an_earlier_antialiased_run_do(vectors: Path, right: Path, tmp_path: Path) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    assert extract(path, right, tmp_path, size=64, antialias=True).hashes_changed >= 16
    shutil.rmtree(tmp_path / "faces")
    assert extract(path, right, tmp_path, size=96).exit_code == 0


def test_frames_that_cannot_be_read_are_no_other_frames(vectors: Path, right: Path, tmp_path: Path) -> None:
    path = edited("g6_2019-12.fsa", tmp_path, vectors)
    empty = tmp_path / "empty"
    empty.mkdir()
    for frame in right.iterdir():
        (empty / frame.name).touch()
    report = extract(path, empty, tmp_path)
    assert report.exit_code == 4
    assert not any(SENTENCE in note for note in report.notes)


def blank(frames: Path, colour: tuple[int, int, int], folder: Path) -> Path:
    """Frames of which the first half shows one colour and nothing else, as titles and fades do."""
    shutil.copytree(frames, folder)
    names = sorted(folder.iterdir())
    for path in names[: len(names) // 2]:
        image = cv2.imread(str(path))
        assert image is not None
        cv2.imwrite(str(path), np.full_like(image, colour))
    return folder


BLACK, WHITE, BLUE = (0, 0, 0), (255, 255, 255), (192, 64, 32)


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        pytest.param("g6_2019-12.fsa", BLACK, id="hashes-black"),
        pytest.param("g6_2019-12.fsa", WHITE, id="hashes-white", marks=pytest.mark.slow),
        pytest.param("g6_2019-12.fsa", BLUE, id="hashes-blue"),
        pytest.param("v2_3.fsa", BLACK, id="thumbnails-black", marks=pytest.mark.slow),
        pytest.param("v2_3.fsa", WHITE, id="thumbnails-white"),
        pytest.param("v2_3.fsa", BLUE, id="thumbnails-blue"),
    ],
)
def test_blank_frames_prove_nothing_and_cast_no_doubt(
    name: str, colour: tuple[int, int, int], vectors: Path, right: Path, other: Path, tmp_path: Path
) -> None:
    def inside(entries: dict[str, Any]) -> None:
        """What lies outside a picture is black, and a second colour."""
        for key, entry in entries.items():
            image = cv2.imread(str(right / key))
            assert image is not None
            middle, room = np.array(image.shape[1::-1]) / 2, min(image.shape[:2])
            for face in entry["faces"] if isinstance(entry, dict) else entry:
                points = np.asarray(face["landmarks_xy"], np.float64)
                points = (points - points.mean(0)) / np.ptp(points) * room / 5 + middle
                face["landmarks_xy"] = points.astype(np.float32)

    path = edited(name, tmp_path, vectors, inside)
    same, another = (blank(frames, colour, tmp_path / f"blank_{frames.name}") for frames in (right, other))
    assert extract(path, same, tmp_path, refresh_thumbs=name.startswith("v2"), replace_hashes=True).exit_code == 0
    before = path.read_bytes()
    for size in (64, 96):
        for frames, code in ((same, 0), (another, 4)):
            shutil.rmtree(tmp_path / "faces")
            path.write_bytes(before)
            report = extract(path, frames, tmp_path, size=size)
            assert report.exit_code == code, (size, frames, report.notes)
            assert (path.read_bytes() == before) or code == 0
