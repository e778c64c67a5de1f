"""Hostile alignments files: the readers under mutated files, and a whole run under hostile names and numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.run import journal
from tests.helpers import VECTORS, extract_command, face_entry, files_in, module_from, read_image, whole_by_opencv

PROGRAM = Path(__file__).with_name("fuzz_alignments.py")


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """The module `fuzz_alignments`."""
    return module_from(PROGRAM)


def fuzzed(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Run the program under its limits of time, memory and system calls; what it counted."""
    command = [sys.executable, str(PROGRAM), "--save", str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr[-3000:]} {[str(path) for path in tmp_path.iterdir()]}"
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["slowest_seconds"] < 5
    assert found["peak_mib"] < 1024
    assert found["accepted"] > found["executions"] // 10, "mutations must leave files that are read to their end"
    assert found["refused"] > found["executions"] // 10
    assert min(found["by_extension"].values()) > found["executions"] // 50
    return found


def test_mutated_files_and_attacks(tmp_path: Path) -> None:
    """Every attack is refused or harmless; those that are read to their end are named here."""
    found = fuzzed(tmp_path, "--count", "3000", "--seed", "2026")
    assert found["executions"] == 3000
    assert found["attacks"] > 100
    assert set(found["harmless_attacks"]) == {
        *("array too small.p", "array too small.fsa", "float of a megabyte.json", "huge exponent.json"),
        *("lone surrogate.json", "nul.json", "bom.json", "many keys.json"),
        *("sexagesimal.yml", "binary.yml", "duplicate keys.yml"),
    }
    assert not Path("/tmp/gpu-extract-was-here").exists()


@pytest.mark.slow
def test_200_000_mutated_files(tmp_path: Path) -> None:
    found = fuzzed(tmp_path, "--count", "200000", "--seed", str(os.getpid()))
    print(found)
    assert found["executions"] == 200_000


def test_the_guard_stops_what_data_must_not_do() -> None:
    """The watch is worth something only if it sees the attacks succeed on Python's own unpickler."""
    code = (
        "import sys, pathlib, pickle; sys.path[:0] = [{tests!r}, {root!r}]\n"
        "import fuzz_alignments as f\n"
        "data = f.attacks()[{name!r}]\n"
        "f.guard(pathlib.Path('/nowhere'))\n"
        "pickle.loads(data)"
    )
    for name in ("system.p", "import.p"):
        text = code.format(tests=str(PROGRAM.parent), root=str(PROGRAM.parent.parent), name=name)
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
        assert done.returncode == 77, name
        assert "FORBIDDEN: pickle.find_class" in done.stderr
    text = code.replace("pickle.loads(data)", "open('/tmp/gpu-extract-was-here', 'w')")
    text = text.format(tests=str(PROGRAM.parent), root=str(PROGRAM.parent.parent), name="eval.p")
    assert subprocess.run([sys.executable, "-c", text], capture_output=True).returncode == 77


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([[[1, 2]] * 68, [[1.5, float("nan")]] * 68, [[0.0, 1e300]] * 51, [[1, 2]] * 67, [], {}]),
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["x", "y", "w", "h", "r", "hash", "mask", "thumb", "landmarks_xy", "landmarksXY", "identity"])
faces = st.one_of(st.dictionaries(fields, trees, max_size=6), trees)
entries = st.one_of(st.lists(faces, max_size=3), st.fixed_dictionaries({"faces": st.lists(faces, max_size=3)}), trees)
frames = st.dictionaries(st.text(max_size=12), entries, max_size=3)
roots = st.one_of(
    frames, st.fixed_dictionaries({"__meta__": st.one_of(trees, st.just({"version": 2.3})), "__data__": frames}), trees
)


@pytest.mark.parametrize("extension", [".p", ".json", ".yml"])
def test_trees_of_any_shape(extension: str, fuzz: ModuleType) -> None:
    executor = fuzz.Executor()
    rng = fuzz.random.Random(1)

    @settings(max_examples=150, deadline=5000, suppress_health_check=list(HealthCheck), database=None)
    @given(roots)
    def check(root: Any) -> None:
        data = fuzz.serialized(root, extension, rng)
        if data is not None:
            executor(extension, data)

    check()
    assert executor.accepted > 10
    assert executor.refused > 10


@settings(max_examples=200, deadline=5000, database=None)
@given(st.binary(max_size=300), st.sampled_from([".fsa", ".p", ".json", ".yml"]))
def test_any_bytes(data: bytes, extension: str) -> None:
    """Through files, as a user has them."""
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    path = folder / f"gpu-extract-fuzz-{os.getpid()}{extension}"
    try:
        path.write_bytes(data)
        code = main(["check", "-q", "-a", str(path), "-fr", str(VECTORS / "frames")])
        assert code in (3, 7, 4)
    finally:
        path.unlink()


class Folder:
    """Frames under given names, and one run over them."""

    def __init__(self, root: Path, landmarks: np.ndarray, image: bytes) -> None:
        self.root, self.landmarks, self.image = root, landmarks, image
        self.frames, self.alignments = root / "in" / "frames", root / "in" / "a.json"
        self.frames.mkdir(parents=True)
        self.faces, self.json = root / "out" / "faces", root / "report.json"

    def face(self, landmarks: Any = None) -> dict[str, Any]:
        return face_entry(self.landmarks.tolist() if landmarks is None else landmarks)

    def run(self, entries: dict[str, list[dict[str, Any]]], *options: str) -> tuple[int, dict[str, Any]]:
        self.alignments.write_text(json.dumps(entries))
        given = ("-sz", "32", "--json", self.json, *options)
        code = main(extract_command(self.alignments, self.frames, self.faces, *given))
        report: dict[str, Any] = json.loads(self.json.read_text())
        assert code == report["exit_code"]
        return code, report

    def written(self) -> list[str]:
        return sorted(files_in(self.faces))

    def elsewhere(self) -> set[str]:
        """Names in the whole tree but the faces."""
        return {
            path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if self.faces not in path.parents
        }


@pytest.fixture
def folder(tmp_path: Path, vectors: Path, landmarks: np.ndarray) -> Folder:
    return Folder(tmp_path, landmarks, (vectors / "frames" / "f_000001.png").read_bytes())


HOSTILE_NAMES = [
    *(
        "a\nb.png",
        "\x1b[2Jc.png",
        "\udcff\udcfe.png",
        "CON.png",
        "nul.PNG",
        "C:\\x.png",
        "\\\\server\\share.png",
        "..png",
    ),
    *(
        "...png",
        ".png",
        " .png",
        "-rf.png",
        "--.png",
        "~.png",
        "$HOME.png",
        "%2E%2E.png",
        "*.png",
        "a?.png",
        "|cat.png",
    ),
    *(
        "\u202egnp.png",
        "\u0130.png",
        "\ufeff.png",
        "e\u0301.png",
        "\u00e9.png",
        "aux .png",
        "x.png.png",
        "x.PNG",
        "x.png",
    ),
    *(".gpu-extract.journal.png", "faces.jsonl.png", "00000.tar.png", "'\"`.png", "a" * 240 + ".png"),
]
RESERVED = ".part-x.png"  # its face would have the name that x.png's has until it is whole
TOO_LONG = "b" * 251 + ".png"  # the frame fits into a file system; its face's name does not


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
def test_hostile_names_of_real_frames(layout: str, folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [*HOSTILE_NAMES, TOO_LONG, RESERVED]:
        (folder.frames / name).write_bytes(folder.image)
    never = ["../../x.png", "/tmp/x.png", "a/b.png", "x.png\0.png", "n" * 4000, "", ".", "..", "\ud800.png"]
    keys = [*HOSTILE_NAMES, TOO_LONG, RESERVED, *never]
    code, report = folder.run({key: [folder.face()] for key in keys}, "--output-layout", layout)
    assert code == 4
    refused = {TOO_LONG, RESERVED} if layout != "webdataset" else {"x.png"}  # x.PNG's sample has the same name
    assert {error["frame"] for error in report["errors"]} == {*never, *refused}
    assert report["faces_written"] == len(keys) - len(never) - len(refused)
    assert folder.elsewhere() == {"in", "in/a.json", "in/frames", "out", "out/faces", "report.json"} | {
        path.relative_to(folder.root).as_posix()
        for path in [*folder.frames.iterdir(), *folder.root.glob("in/a_*.json")]
    }
    if layout != "webdataset":
        assert len(folder.written()) == len(HOSTILE_NAMES)
        assert all("/" not in name for name in folder.written())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    verified = ["verify", "-a", str(folder.alignments), "-fr", str(folder.frames), "-fc", str(folder.faces), "-q"]
    assert main([*verified, "--json", str(folder.json)]) == 4
    differences = json.loads(folder.json.read_text())["differences"]
    assert {(one["kind"], one["frame"]) for one in differences} == {
        *(("unproven", key) for key in never),
        *((("missing", TOO_LONG), ("unproven", RESERVED)) if layout != "webdataset" else [("unproven", "x.png")]),
    }


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
def test_two_frames_whose_faces_would_have_one_name(layout: str, folder: Folder) -> None:
    """`a.png` and `a.jpg` with one format for all: the first keeps its file, the other is named in the report."""
    pixels = whole_by_opencv(folder.image)
    (folder.frames / "a.png").write_bytes(folder.image)
    cv2.imwrite(str(folder.frames / "a.jpg"), 255 - pixels)
    cv2.imwrite(str(folder.frames / "b.jpg"), pixels)
    entries = {"a.png": [folder.face()] * 2, "a.jpg": [folder.face()], "b.jpg": [folder.face()]}
    code, report = folder.run(entries, "--format", "png", "--output-layout", layout)
    assert code == 4
    assert report["errors"] == [
        {"frame": "a.png", "index": 0, "reason": "its file 'a_0.png' would replace that of 'a.jpg'; rename one frame"}
    ]
    assert (report["faces_written"], report["faces_failed"]) == (3, 1)
    saved = Alignments.load(folder.alignments)
    assert [saved.stored_hash(row) is None for row in range(4)] == [True, False, False, False]
    if layout == "flat":
        assert folder.written() == ["a_0.png", "a_1.png", "b_0.png"]
        kept = read_image(folder.faces / "a_0.png")
        assert abs(float(kept.mean()) + float(read_image(folder.faces / "a_1.png").mean()) - 255) < 60


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
def test_with_formats_of_their_own_both_are_written(layout: str, folder: Folder) -> None:
    """But not into an archive, where both images would be of one sample."""
    pixels = whole_by_opencv(folder.image)
    (folder.frames / "a.png").write_bytes(folder.image)
    cv2.imwrite(str(folder.frames / "a.jpg"), pixels)
    entries = {"a.png": [folder.face()], "a.jpg": [folder.face()]}
    code, report = folder.run(entries, "--output-layout", layout)
    if layout == "webdataset":
        assert [error["frame"] for error in report["errors"]] == ["a.png"]
    else:
        assert code == 0
        assert folder.written() == ["a_0.jpg", "a_0.png"]


@pytest.mark.parametrize("folds", [False, True])
def test_names_that_differ_in_case_or_accents_only(
    folds: bool, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file system takes them for one name, as on memory cards, the second would replace the first."""
    composed = "\u00e9.png"
    names = ["A.png", "a.png", composed, unicodedata.normalize("NFD", composed), "b.PNG", "b.png"]
    for name in names:
        (folder.frames / name).write_bytes(folder.image)
    monkeypatch.setattr(journal.Journal, "folds_case", lambda self: folds)
    code, report = folder.run({name: [folder.face()] for name in names})
    assert code == (4 if folds else 0)
    assert report["faces_written"] == (3 if folds else 6)
    assert len(folder.written()) == report["faces_written"]
    assert sorted(error["frame"] for error in report["errors"]) == (["a.png", "b.png", composed] if folds else [])


def test_this_file_system_does_not_fold_case(tmp_path: Path) -> None:
    record = journal.Journal.create(tmp_path, {})
    try:
        assert record.folds_case() == (tmp_path / journal.NAME.upper()).exists()
    finally:
        record.close()


def test_landmarks_out_of_range(folder: Folder) -> None:
    good = folder.landmarks
    cases: dict[str, Any] = {
        "nan": np.where(np.arange(136).reshape(68, 2) == 7, np.nan, good),
        "inf": np.where(np.arange(136).reshape(68, 2) == 7, np.inf, good),
        "float32 overflow": good * np.float64(1e37),
        "huge": good.astype(np.float64) * 1e30,
        "far": good + 1e9,
        "farther": good + 1e15,
        "just outside": good + 5000,
        "before": good - 1e6,
        "a million pixels wide": (good - good.mean(0)) * (1e6 / np.ptp(good[:, 0])),
        "a billion pixels wide": (good - good.mean(0)) * (1e9 / np.ptp(good[:, 0])),
        "a pixel wide": good.mean(0) + (good - good.mean(0)) * (1 / np.ptp(good[:, 0])),
        "a millionth": good.mean(0) + (good.astype(np.float64) - good.mean(0)) * 1e-6,
        "one point": np.full((68, 2), 9.0),
        "a line": np.stack([np.arange(68.0), np.zeros(68)], 1),
        "zeros": np.zeros((68, 2)),
        "mirrored": good * [-1, 1] + [320, 0],
    }
    frames = {}
    for name in cases:
        (folder.frames / f"{name}.png").write_bytes(folder.image)
        frames[f"{name}.png"] = [folder.face(cases[name].tolist()), folder.face()]
    code, report = folder.run(frames, "-sz", "256")
    assert code == 4
    failed = {error["frame"] for error in report["errors"]}
    assert failed >= {"nan.png", "inf.png", "one point.png", "zeros.png"}
    assert not failed & {"far.png", "just outside.png", "a million pixels wide.png", "a pixel wide.png", "mirrored.png"}
    assert all(error["index"] == 0 for error in report["errors"])
    assert report["faces_written"] + report["faces_failed"] == 2 * len(cases)
    assert report["seconds"] < 20
    for path in folder.faces.glob("*.png"):
        pixels = read_image(path)
        assert pixels.shape == (256, 256, 3)
        if path.name.startswith(("just outside", "far", "before")) and path.stem.endswith("_0"):
            assert not pixels.any()


@pytest.mark.parametrize("layout", ["by-frame", "webdataset"])
def test_ten_thousand_faces_in_a_frame(layout: str, folder: Folder) -> None:
    count = 10_001
    (folder.frames / "f.png").write_bytes(folder.image)
    write_alignments(folder.alignments.with_suffix(".fsa"), {"f.png": [face_record(folder.landmarks)] * count})
    folder.alignments = folder.alignments.with_suffix(".fsa")
    given = ("-sz", "16", "-q", "--output-layout", layout)
    assert main(extract_command(folder.alignments, folder.frames, folder.faces, *given)) == 0
    saved = Alignments.load(folder.alignments)
    hashes = {saved.stored_hash(row) for row in range(count)}
    assert len(hashes) == 1
    assert None not in hashes
    written = folder.written()
    if layout == "by-frame":
        assert len(written) == count
        assert {name.rpartition("/")[0] for name in written} == {"00000/f/000", "00000/f/001"}
    else:
        assert written == ["00000.tar"]


def test_faces_that_are_all_bad(folder: Folder) -> None:
    (folder.frames / "f.png").write_bytes(folder.image)
    bad: list[Any] = [None, 5, "x", [], {}, {"landmarks_xy": {}}, {"landmarks_xy": [[1]] * 68}, {"landmarks_xy": "68"}]
    code, report = folder.run({"f.png": bad})
    assert code == 4
    assert (report["faces_written"], report["faces_failed"]) == (0, len(bad))
    assert [error["index"] for error in report["errors"]] == list(range(len(bad)))


def test_hostile_text_elsewhere_in_the_file(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown keys and values travel through a save untouched, whatever they say."""
    (folder.frames / "f.png").write_bytes(folder.image)
    odd = {"../../etc": "\u202e\0\x1b[2J", "deep": [[[[[[{}]]]]]], "n": -(2**60), "f": 1e-300, "hash": "../x" * 1000}
    code, _ = folder.run({"f.png": [folder.face() | odd]})
    assert code == 0
    saved = json.loads(folder.alignments.read_text())["f.png"][0]
    assert {key: saved[key] for key in odd if key != "hash"} == {key: odd[key] for key in odd if key != "hash"}
    assert len(saved["hash"]) == 40
    assert "\x1b" not in capsys.readouterr().out
