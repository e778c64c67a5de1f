"""The whole job against the vectors, through the command line: files, pixels, hashes, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from tests.helpers import Job, copied, face_entry, image_bytes, read_image

MIRRORED = "f_000007_0.png"
"""Mirrored landmarks, where the reference fits with a transposed factor (docs/formats.md#crops)."""
MISSING_FRAME = "f_000099.png"
"""In every alignments file of the vectors, without a frame."""
SEED_FILES = ["g6_2019-12.fsa", "g6_2019-12.p", "g6_2019-12.pickle", "g6_2019-12_proto3.fsa", "g7a_2020-03.fsa"]
SEED_FILES += ["g7b_2020-08.fsa"]
LIST_FILES = ["g6_2019-12.json", "g6_2019-12.yml"]  # float landmarks in lists: the same float32 values
INTEGER_FILES = [
    f"g{g}.{x}" for g in ("0_2018-05", "1_2018-11", "3_2019-02", "5_2019-10") for x in ("json", "p", "yml")
]
INTEGER_FILES += ["g2_2018-12.json", "g2_2018-12.p", "g4_2019-09.json"]


class Run(Job):
    """One run over copies of the vectors."""

    def __init__(self, folder: Path, alignments: Path, frames: Path, *options: str) -> None:
        super().__init__(copied(alignments, folder), frames, *options)
        self.exit_code = self.run()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Run]:
    return lambda alignments, frames, *options: Run(tmp_path, alignments, frames, *options)


def seed_run(expected: Any, **options: Any) -> dict[str, Any]:
    for entry in expected["seed_folder"]["runs"]:
        if all(entry["options"][name] == value for name, value in options.items()):
            found: dict[str, Any] = entry
            return found
    raise AssertionError(f"no run with {options}")


@pytest.mark.parametrize("name", SEED_FILES + LIST_FILES)
def test_seed_files_give_the_expected_hashes(name: str, run: Any, vectors: Path, expected: Any) -> None:
    made = run(vectors / "alignments" / name, vectors / "frames", "--engine", "exact")
    assert made.exit_code == 4  # one entry of the file has no frame
    wanted = seed_run(expected, size=256, align_eyes=False, large=False, extract_every_n=1)
    hashes = made.hashes()
    assert sorted(wanted["output_files"]) == sorted(made.files())
    different = [n for n, file in wanted["output_files"].items() if hashes[n] != file["sha1"]]
    assert different == [MIRRORED]
    assert all(pixels.shape == (256, 256, 3) for pixels in made.pixels().values())
    saved = Alignments.load(made.alignments)
    for row in range(len(saved.faces.frame)):
        frame = saved.frame_names[saved.faces.frame[row]]
        if frame != MISSING_FRAME:
            assert saved.stored_hash(row) == hashes[f"{frame[:-4]}_{saved.faces.index[row]}.png"]
    backups = [path for path in made.alignments.parent.iterdir() if path.stem.startswith(Path(name).stem + "_20")]
    assert [path.read_bytes() for path in backups] == [made.before]
    assert made.report["backup"] == str(backups[0])
    assert made.report["hashes_updated"] == made.report["faces_written"] == 17


@pytest.mark.parametrize("name", INTEGER_FILES)
def test_integer_files_give_the_expected_hashes(name: str, run: Any, vectors: Path, expected: Any) -> None:
    # The vectors' hashes are not those of their integers, so nothing of the file comes out of these frames.
    made = run(vectors / "alignments" / name, vectors / "frames", "--replace-hashes")
    wanted = expected["seed_folder_integer_landmarks"]["output_files"]
    hashes = made.hashes()
    assert sorted(wanted) == sorted(made.files())
    corrected = {MIRRORED}
    if name.startswith("g0"):
        corrected.add("f_000008_2.png")  # found in a turned frame, which the reference ignores (defect 10)
    assert {n for n, file in wanted.items() if hashes[n] != file["sha1"]} == corrected
    saved = Alignments.load(made.alignments)
    assert {saved.stored_hash(row) for row in range(17)} <= {*hashes.values(), None}


@pytest.mark.parametrize("size", [128, 512])
@pytest.mark.parametrize("every", [1, 3])
def test_sizes_and_every_n(size: int, every: int, run: Any, vectors: Path, expected: Any) -> None:
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    made = run(alignments, vectors / "frames", "-sz", str(size), "-een", str(every))
    wanted = seed_run(expected, size=size, align_eyes=False, large=False, extract_every_n=1)["output_files"]
    if every == 3:
        names = seed_run(expected, size=256, align_eyes=False, large=False, extract_every_n=3)["output_files"]
        wanted = {name: wanted[name] for name in names}
    hashes = made.hashes()
    assert sorted(wanted) == sorted(hashes)
    assert [n for n, file in wanted.items() if hashes[n] != file["sha1"]] == [MIRRORED]
    assert made.report["frames_without_alignments"] == (1 if every == 1 else 0)


@pytest.mark.parametrize(("size", "kept"), [(128, {"f_000003_0", "f_000003_1"}), (256, set())])
def test_large_keeps_true_indices_and_level_faces(
    size: int, kept: set[str], run: Any, vectors: Path, expected: Any
) -> None:
    """The reference numbers survivors (defect 4) and drops level faces and those at scale 1 (defects 2 and 3)."""
    made = run(vectors / "alignments" / "g6_2019-12.fsa", vectors / "frames", "-l", "-sz", str(size))
    entry = seed_run(expected, size=size, align_eyes=False, large=False, extract_every_n=1)
    large = {
        f"{frame[:-4]}_{i}"
        for frame, sizes in entry["roi_sizes"].items()
        for i, length in enumerate(sizes)
        if length >= size
    }
    assert {name[:-4] for name in made.files()} == large | kept
    hashes = made.hashes()
    for name in made.files():
        assert hashes[name] == entry["output_files"][name]["sha1"] or name == MIRRORED
    saved = Alignments.load(made.alignments)
    original = Alignments.load(vectors / "alignments" / "g6_2019-12.fsa")
    for row in range(len(saved.faces.frame)):
        name = f"{saved.frame_names[saved.faces.frame[row]][:-4]}_{saved.faces.index[row]}.png"
        assert saved.stored_hash(row) == (hashes[name] if name in hashes else original.stored_hash(row))
    assert made.report["faces_filtered"] == 17 - len(made.files())


@pytest.mark.parametrize("size", [128, 256, 512])
def test_align_eyes(size: int, run: Any, vectors: Path, expected: Any, tmp_path: Path) -> None:
    """Equal to the reference built with glibc; its own builds differ in a float32 arctan2."""
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    made = run(alignments, vectors / "frames", "-ae", "-sz", str(size))
    wanted = seed_run(expected, size=size, align_eyes=True, large=False, extract_every_n=1)["output_files"]
    hashes = made.hashes()
    assert sorted(wanted) == sorted(hashes)
    assert [n for n, file in wanted.items() if hashes[n] != file["sha1"]] == [MIRRORED]


@pytest.mark.parametrize("clip", ["clip.mp4", "clip_rgb.mkv"])
@pytest.mark.parametrize("every", [1, 3])
def test_videos(clip: str, every: int, run: Any, vectors: Path, expected: Any) -> None:
    stem = Path(clip).stem
    alignments = vectors / "video" / f"{stem}_alignments_seed_list.fsa"
    made = run(alignments, vectors / "video" / clip, "-een", str(every))
    wanted = expected["video"]["runs"][f"seed_{stem}_n{every}"]["output_files"]
    hashes = made.hashes()
    assert sorted(wanted) == sorted(hashes)
    assert [n for n, file in wanted.items() if hashes[n] != file["sha1"]] == [f"{stem}_000007_0.png"]  # mirrored


@pytest.mark.parametrize("key_generation", ["v2_3_pngkeys", "v2_4"])
def test_both_generations_of_video_keys_match(key_generation: str, run: Any, vectors: Path) -> None:
    made = run(vectors / "video" / f"clip_alignments_{key_generation}.fsa", vectors / "video" / "clip.mp4")
    assert made.report["faces_written"] == 13
    assert all(name.endswith(".png") for name in made.files())
    assert made.alignments.read_bytes() == made.before
    assert any("hold no hashes" in note for note in made.report["notes"])


def test_kornia_stays_inside_its_band(run: Any, vectors: Path, tmp_path: Path) -> None:
    """On the vectors, which are noisier than photographs: 3 levels at most."""
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    exact = run(alignments, vectors / "frames")
    bulk = Run(tmp_path / "kornia", alignments, vectors / "frames", "--engine", "kornia", "-ae")
    level = Run(tmp_path / "exact", alignments, vectors / "frames", "-ae")
    assert bulk.report["engine"] == "kornia"
    assert exact.files().keys() == bulk.files().keys()
    worst, off = 0, []
    cut = bulk.pixels()
    for name, pixels in level.pixels().items():
        difference = np.abs(pixels.astype(int) - cut[name])
        worst = max(worst, int(difference.max()))
        off.append((difference > 1).mean())
    assert worst <= 3
    assert np.mean(off) < 1e-4


@pytest.mark.parametrize("workers", ["1", "3", "8"])
def test_the_number_of_workers_changes_nothing(workers: str, run: Any, vectors: Path, expected: Any) -> None:
    made = run(vectors / "alignments" / "g6_2019-12.fsa", vectors / "frames", "--workers", workers)
    wanted = seed_run(expected, size=256, align_eyes=False, large=False, extract_every_n=1)["output_files"]
    hashes = made.hashes()
    assert [n for n, file in wanted.items() if hashes[n] != file["sha1"]] == [MIRRORED]


def test_no_update_leaves_the_file_alone(run: Any, vectors: Path) -> None:
    made = run(vectors / "alignments" / "g2_2018-12.json", vectors / "frames", "--no-update", "--replace-hashes")
    assert made.alignments.read_bytes() == made.before
    assert sorted(p.name for p in made.alignments.parent.iterdir()) == ["faces", "g2_2018-12.json", "report.json"]
    assert made.report["hashes_updated"] == 0


def test_a_second_run_has_nothing_to_save(run: Any, vectors: Path, tmp_path: Path) -> None:
    first = run(vectors / "alignments" / "g2_2018-12.json", vectors / "frames", "--replace-hashes")
    second = Run(tmp_path / "second", first.alignments, vectors / "frames")
    assert second.report["hashes_updated"] == 17
    assert second.report["hashes_changed"] == 0
    assert second.report["backup"] is None
    assert second.alignments.read_bytes() == second.before


def test_the_report_has_its_keys(run: Any, vectors: Path) -> None:
    made = run(vectors / "alignments" / "g6_2019-12.fsa", vectors / "frames", "-een", "3")
    stable = {
        "frames_expected": 3,
        "frames_decoded": 3,
        "frames_without_alignments": 0,
        "alignments_without_frame": 1,
        "faces_written": 7,
        "faces_filtered": 0,
        "faces_failed": 1,
        "errors": [{"frame": MISSING_FRAME, "index": None, "reason": "the source has no such frame"}],
        "engine": "exact",
        "device": "cpu",
        "alignments_version": 1.0,
        "hashes_updated": 7,
        "exit_code": 4,
    }
    report = made.report
    assert {key: report[key] for key in stable} == stable
    assert report["bytes_written"] == sum(map(len, made.files().values()))
    assert report["seconds"] > 0
    assert report["frames_per_second"] > 0
    assert {"load", "warp", "encode", "hash", "write", "read"} <= set(report["stage_seconds"])
    assert "numpy" in report["versions"]


def test_a_jpeg_folder_gives_jpeg_faces_hashed_as_they_decode(
    tmp_path: Path, vectors: Path, landmarks: np.ndarray
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    image = read_image(vectors / "frames" / "f_000001.png")
    for name in ("a b.jpg", "ä.jpeg", "c.bmp", "d.tif"):
        (frames / name).write_bytes(image_bytes(Path(name).suffix, image))
    face = face_entry(landmarks.tolist())
    source = tmp_path / "alignments.json"
    source.write_text(json.dumps({name: [face] for name in ("a b.jpg", "ä.jpeg", "c.bmp", "d.tif")}))
    made = Run(tmp_path / "run", source, frames, "-sz", "97")
    assert made.exit_code == 0
    assert sorted(made.files()) == ["a b_0.jpg", "c_0.bmp", "d_0.tif", "ä_0.jpeg"]
    saved = json.loads(made.alignments.read_text("utf-8"))
    for key, faces in saved.items():
        name = f"{Path(key).stem}_0{Path(key).suffix}"
        assert faces[0]["hash"] == made.hashes()[name]
