"""Files of version 2.0 and later: centerings, headers, sizes, formats – through the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.face_files.header import header_text, read_face
from tests.helpers import copied, extract_command, read_image, whole_by_opencv

CENTERINGS = ("legacy", "face", "head")
MODERN = ["v2_1", "v2_2", "v2_3", "v2_4_numpy", "v2_4_numpy_proto5_np1"]
MODERN += ["v2_4_from_g7b_by_v2_3_0", "v2_4_from_v2_0_by_v2_3_0"]
UNDER_NUMPY_2 = [
    "v2_4_list",
    "v2_4_list_nomask",
    "v2_4_numpy_proto4_np2",
    "v2_4_numpy_proto5_np2",
    "v2_3_rewritten_by_head",
]


def extract(folder: Path, alignments: Path, frames: Path, *options: str) -> tuple[int, Path]:
    """The exit code of a run over a copy of an alignments file, and its faces folder."""
    faces = folder / "faces"
    return main(extract_command(copied(alignments, folder), frames, faces, *options)), faces


def face_files(faces: Path) -> list[Path]:
    return sorted(path for path in faces.iterdir() if path.suffix == ".png")


def sha1(path: Path) -> str:
    return hashlib.sha1(read_image(path).tobytes()).hexdigest()


@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize("name", ["v2_0", "v2_3", "v2_4_list"])
def test_all_centerings_equal_the_vectors(
    name: str, centering: str, tmp_path: Path, vectors: Path, expected: Any
) -> None:
    """With today's files, too, where they are cut as by the programs before."""
    alignments = vectors / "alignments" / f"{name}.fsa"
    code, faces = extract(tmp_path, alignments, vectors / "frames", "--centering", centering, "--numerics", "numpy1")
    assert code == 4
    wanted = {
        f"{frame[:-4]}_{i}.png": face[centering]["sha1_pixels_bgr"]
        for frame, frame_faces in expected["v2_numpy1_geometry"]["geometry"].items()
        for i, face in enumerate(frame_faces)
    }
    assert len(wanted) == 17
    assert {path.name: sha1(path) for path in face_files(faces)} == wanted


@pytest.mark.parametrize("name", MODERN)
def test_auto_is_head_and_the_file_stays_untouched(name: str, tmp_path: Path, vectors: Path, expected: Any) -> None:
    alignments = vectors / "alignments" / f"{name}.fsa"
    extract(tmp_path, alignments, vectors / "frames")
    geometry = expected["v2_numpy1_geometry"]["geometry"]
    for path in face_files(tmp_path / "faces"):
        frame, index = path.stem.rsplit("_", 1)
        assert sha1(path) == geometry[f"{frame}.png"][int(index)]["head"]["sha1_pixels_bgr"]
    assert (tmp_path / alignments.name).read_bytes() == alignments.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alignments.name, "faces"])


def test_headers_equal_the_vectors(tmp_path: Path, vectors: Path, expected: Any) -> None:
    extract(tmp_path, vectors / "alignments" / "v2_4_list.fsa", vectors / "frames")
    for name, chunk in expected["head_tool_itxt"]["itxt"].items():
        data = (tmp_path / "faces" / name).read_bytes()
        assert header_text(data) == chunk["text"]
        kinds: list[str] = []
        at = 8
        while len(kinds) < 3:
            length = int.from_bytes(data[at : at + 4], "big")
            kinds.append(data[at + 4 : at + 8].decode())
            if kinds[-1] == "iTXt":
                assert data[at + 8 :].startswith(bytes.fromhex(chunk["prefix_hex"]))
            at += 12 + length
        assert kinds == chunk["chunk_order_start"]
    face = read_face(tmp_path / "faces" / "f_000002_1.png")
    assert face.header is not None
    assert face.header["source"]["face_index"] == 1


def todays_faces(expected: Any, **asked: int) -> dict[str, str]:
    """File name -> hash of its pixels, as today's program makes them."""
    options = {"size": 256, "min_size": 0, "extract_every_n": 1} | asked
    run = next(run for run in expected["head_tool"]["runs"] if run["options"] == options)
    return {name: file["sha1"] for name, file in run["output_files"].items()}


@pytest.mark.parametrize("options", [["-sz", "128"], ["-sz", "200"], [], ["-sz", "512"], ["-een", "3"]])
def test_todays_files_are_cut_as_by_todays_program(
    options: list[str], tmp_path: Path, vectors: Path, expected: Any
) -> None:
    alignments = vectors / "alignments" / "v2_4_list.fsa"
    code, faces = extract(tmp_path, alignments, vectors / "frames", *options, "--json", str(tmp_path / "report"))
    assert code == 4
    named = {"-sz": "size", "-een": "extract_every_n"}
    asked = {named[flag]: int(value) for flag, value in zip(options[::2], options[1::2], strict=True)}
    assert {path.name: sha1(path) for path in face_files(faces)} == todays_faces(expected, **asked)
    report = json.loads((tmp_path / "report").read_text())
    assert report["numerics"] == "numpy2"
    assert any("NumPy 2" in note and "--numerics" in note for note in report["notes"])


@pytest.mark.parametrize("name", UNDER_NUMPY_2)
def test_the_generation_chooses_the_reciprocal(name: str, tmp_path: Path, vectors: Path, expected: Any) -> None:
    """Files that NumPy 2 pickled are of programs that ran under it."""
    extract(tmp_path, vectors / "alignments" / f"{name}.fsa", vectors / "frames")
    assert {path.name: sha1(path) for path in face_files(tmp_path / "faces")} == todays_faces(expected)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_all_centerings_equal_todays_program(centering: str, tmp_path: Path, vectors: Path, expected: Any) -> None:
    for key, geometry in expected["head_tool"]["geometry"].items():
        size = key.removeprefix("size")
        where = tmp_path / size
        where.mkdir()
        extract(
            where, vectors / "alignments" / "v2_4_list.fsa", vectors / "frames", "-sz", size, "--centering", centering
        )
        wanted = {
            f"{frame[:-4]}_{i}.png": face[centering]["sha1_pixels_bgr"]
            for frame, frame_faces in geometry.items()
            for i, face in enumerate(frame_faces)
            if frame != "f_000099.png"  # which is not there
        }
        assert {path.name: sha1(path) for path in face_files(where / "faces")} == wanted


@pytest.mark.parametrize("percent", [50, 100, 200])
def test_min_size_keeps_true_indices(percent: int, tmp_path: Path, vectors: Path, expected: Any) -> None:
    run = next(
        r for r in expected["head_tool"]["runs"] if r["options"]["min_size"] == percent and r["options"]["size"] == 256
    )
    least = max(4, int(256 * percent / 100))
    _, faces = extract(
        tmp_path, vectors / "alignments" / "v2_4_list.fsa", vectors / "frames", "--min-size", str(percent)
    )
    assert run["min_size_px"] == least
    kept = {path.stem for path in face_files(faces)}
    long_enough = {
        f"{frame[:-4]}_{i}" for frame, sizes in run["roi_sizes"].items() for i, px in enumerate(sizes) if px >= least
    }
    # The reference gives a level face's length as 0, and measures between pixel centres: one short at scale 1.
    corrected = {"f_000003_0", "f_000003_1", "f_000003_2", "f_000008_0"}
    assert long_enough <= kept <= long_enough | corrected
    for path in face_files(faces):
        face = read_face(path)
        assert face.header is not None
        assert (
            path.stem == f"{Path(face.header['source']['source_filename']).stem}_{face.header['source']['face_index']}"
        )


def test_large_is_min_size_100(tmp_path: Path, vectors: Path) -> None:
    alignments = vectors / "alignments" / "v2_3.fsa"
    _, large = extract(tmp_path / "a", alignments, vectors / "frames", "--large")
    _, percent = extract(tmp_path / "b", alignments, vectors / "frames", "--min-size", "100")
    assert [path.name for path in face_files(large)] == [path.name for path in face_files(percent)]
    assert face_files(large)


@pytest.mark.parametrize(
    ("form", "options"), [("jpg", ["--quality", "80"]), ("webp", []), ("webp", ["--quality", "70"])]
)
def test_formats(form: str, options: list[str], tmp_path: Path, vectors: Path) -> None:
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    extract(tmp_path, alignments, vectors / "frames", "--format", form, *options)
    files = [path for path in (tmp_path / "faces").iterdir() if path.suffix == f".{form}"]
    assert len(files) == 17
    saved = tmp_path / alignments.name
    from gpu_extract.alignments import Alignments

    stored = Alignments.load(saved)
    hashes = {sha1(path) for path in files}
    assert {stored.stored_hash(row) for row in range(17)} == hashes


def test_layouts_and_metadata(tmp_path: Path, vectors: Path) -> None:
    import tarfile

    alignments = vectors / "alignments" / "v2_3.fsa"
    _, flat = extract(tmp_path / "flat", alignments, vectors / "frames", "--metadata", "jsonl")
    _, shards = extract(tmp_path / "tar", alignments, vectors / "frames", "--output-layout", "webdataset")
    rows = [json.loads(line) for line in (flat / "faces.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [path.name for path in face_files(flat)]
    assert all(row["hash"] == sha1(flat / row["file"]) for row in rows)
    with tarfile.open(shards / "00000.tar") as tar:
        names = tar.getnames()
        images = [name for name in names if name.endswith(".png")]
        assert images == [row["file"] for row in rows]
        for row in rows:
            image = tar.extractfile(row["file"])
            beside = tar.extractfile(row["file"].replace(".png", ".json"))
            assert image is not None
            assert beside is not None
            assert image.read() == (flat / row["file"]).read_bytes()
            assert json.load(beside)["hash"] == row["hash"]


def test_antialias_smooths_only_what_shrinks(tmp_path: Path, vectors: Path) -> None:
    alignments = vectors / "alignments" / "g6_2019-12.fsa"
    _, plain = extract(tmp_path / "plain", alignments, vectors / "frames", "-sz", "64")
    _, smooth = extract(tmp_path / "smooth", alignments, vectors / "frames", "-sz", "64", "--antialias")
    same = {path.name for path in face_files(plain) if sha1(path) == sha1(smooth / path.name)}
    assert "f_000002_2.png" in same  # a tiny face, enlarged
    assert "f_000008_1.png" not in same  # 326 px cut to 64


@pytest.mark.parametrize("name", ["g7b_2020-08", "v2_3", "v2_4_list"])
def test_thumbnails_are_refreshed_when_asked(name: str, tmp_path: Path, vectors: Path) -> None:
    from gpu_extract.alignments import Alignments

    alignments = vectors / "alignments" / f"{name}.fsa"
    code, _ = extract(tmp_path, alignments, vectors / "frames", "--refresh-thumbs")
    assert code == 4
    before, after = Alignments.load(alignments), Alignments.load(tmp_path / alignments.name)
    side = 80 if name.startswith("g7b") else 96
    for row in range(17):
        thumb = np.array(after.record(row)["thumb"], np.uint8).reshape(-1)
        assert whole_by_opencv(thumb.tobytes()).shape == (side, side, 3)
        old = before.record(row)
        if old.get("thumb") is not None:
            assert isinstance(after.record(row)["thumb"], type(old["thumb"]))
    assert any(path.name != alignments.name and path.suffix == ".fsa" for path in tmp_path.iterdir())


def test_sets_of_51_and_98_landmarks(tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    from gpu_extract.geometry import mean_faces

    points = vector_faces["f_000001.png"][0]["landmarks"]
    as_98 = np.zeros((98, 2), np.float32)
    as_98[mean_faces.table("map_98_to_68")] = points
    files = {}
    for name, landmarks in (("68", points), ("51", points[17:]), ("98", as_98)):
        face = {"x": 0, "y": 0, "w": 9, "h": 9, "landmarks_xy": landmarks.tolist()}
        source = tmp_path / f"{name}.json"
        source.write_text(json.dumps({"f_000001.png": [face]}))
        code, faces = extract(tmp_path / name, source, vectors / "frames")
        assert code == 0
        files[name] = sha1(faces / "f_000001_0.png")
    assert files["68"] == files["51"] == files["98"]
