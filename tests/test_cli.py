"""What a user meets when something is wrong: one sentence, the right exit code, and a whole alignments file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import gpu_extract
from gpu_extract import plugins
from gpu_extract.cli import main
from gpu_extract.cli.parser import COMMANDS, command_of
from tests.helpers import read_image

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def alignments(tmp_path: Path, vectors: Path) -> Path:
    copy = tmp_path / "alignments.fsa"
    shutil.copy(vectors / "alignments" / "g6_2019-12.fsa", copy)
    return copy


def sentence(err: str) -> str:
    """The one line that went to standard error."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("gpu-extract: ")
    return lines[0]


def test_usage_errors(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    frames, faces = vectors / "frames", tmp_path / "faces"
    base = ("extract", "-a", alignments, "-fr", frames, "-fc", faces)
    for words, text in [
        ((), "COMMAND"),
        (("extract",), "required: -a/--alignments"),
        (("fly",), "invalid choice: 'fly'"),
        ((*base, "-sz", "15"), "size must be 16 to 4096 pixels, got 15"),
        ((*base, "-sz", "4097"), "got 4097"),
        ((*base, "-sz", "big"), "invalid int value: 'big'"),
        ((*base, "-een", "0"), "extract-every-n must be 1 or more"),
        ((*base, "--workers", "0"), "workers must be 1 or more"),
        ((*base, "--engine", "fast"), "invalid choice: 'fast'"),
        ((*base, "--device", "tpu"), "device 'tpu' is not understood"),
        ((*base, "--bogus"), "unrecognized arguments: --bogus; see gpu-extract extract --help."),
    ]:
        code, _, err = cli(*words)
        assert code == 2, words
        assert text in sentence(err)
    assert not faces.exists()


def test_missing_inputs(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    faces = tmp_path / "faces"
    code, _, err = cli("extract", "-a", tmp_path / "none.fsa", "-fr", vectors / "frames", "-fc", faces)
    assert code == 3
    assert "none.fsa" in sentence(err)
    code, _, err = cli("extract", "-a", alignments, "-fr", tmp_path / "none", "-fc", faces)
    assert code == 3
    assert "none" in sentence(err)
    (tmp_path / "empty").mkdir()
    code, _, err = cli("extract", "-a", alignments, "-fr", tmp_path / "empty", "-fc", faces)
    assert code == 3
    sentence(err)
    (tmp_path / "notes.mp4").write_text("this is no video")
    code, _, err = cli("extract", "-a", alignments, "-fr", tmp_path / "notes.mp4", "-fc", faces)
    assert code == 3
    sentence(err)
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "video" / "clip.mp4", "-fc", faces)
    assert code == 3
    assert "names a frame of" in sentence(err)
    assert not faces.exists()


def test_a_device_that_is_not_there(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    base = ("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", tmp_path / "faces")
    code, _, err = cli(*base, "--device", "cuda:99")
    assert code == 5
    assert "cuda:99 was asked for but" in sentence(err)
    assert not (tmp_path / "faces").exists()


def test_the_faces_folder_must_be_empty_and_writable(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "keep.txt").write_text("mine")
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", full)
    assert code == 6
    assert "is not empty (it holds 'keep.txt')" in sentence(err)
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", full / "keep.txt")
    assert code == 6
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", full / "keep.txt" / "faces")
    assert code == 6
    assert (full / "keep.txt").read_text() == "mine"
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", "/proc/faces")
    assert code == 6
    sentence(err)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_faces_folder(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    code, _, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", locked)
    assert code == 6
    assert "permission denied" in sentence(err)


def test_hostile_alignments_are_rejected_and_untouched(cli: Cli, tmp_path: Path, vectors: Path) -> None:
    bomb = tmp_path / "bomb.fsa"
    bomb.write_bytes(zlib.compress(bytes(300 << 20), 9))
    evil = tmp_path / "evil.fsa"
    shutil.copy(vectors / "alignments" / "reject_builtins_eval.fsa", evil)
    torn = tmp_path / "torn.fsa"
    torn.write_bytes((vectors / "alignments" / "g6_2019-12.fsa").read_bytes()[:-500])
    text = tmp_path / "text.json"
    text.write_text("[1, 2, 3]")
    for path, words in [(bomb, ""), (evil, "eval"), (torn, ""), (text, "")]:
        before = path.read_bytes()
        code, _, err = cli("extract", "-a", path, "-fr", vectors / "frames", "-fc", tmp_path / "faces")
        assert code == 7, path
        assert words in sentence(err)
        assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bomb.fsa", "evil.fsa", "text.json", "torn.fsa"]


def test_a_frame_key_cannot_lead_out_of_the_faces_folder(
    cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any
) -> None:
    face = {"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": vector_faces["f_000001.png"][0]["landmarks"].tolist()}
    keys = ["../../x.png", "/tmp/x.png", "a/f_000001.png", "f_000001.png\x00.png", "C:\\x.png", "CON.png", "n" * 4000]
    source = tmp_path / "in" / "alignments.json"
    source.parent.mkdir()
    source.write_text(json.dumps({key: [face] for key in [*keys, "f_000001.png"]}))
    faces = tmp_path / "out" / "faces"
    report = tmp_path / "report.json"
    code, _, _ = cli(
        "extract", "-a", source, "-fr", vectors / "frames", "-fc", faces, "--json", report, "-q", "--no-update"
    )
    assert code == 4
    found = json.loads(report.read_text())
    assert found["faces_written"] == 1
    assert found["alignments_without_frame"] == len(keys)
    assert sorted(error["frame"] for error in found["errors"]) == sorted(keys)
    everything = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    visible = {name for name in everything if not Path(name).name.startswith(".")}
    assert visible == {"in/alignments.json", "out/faces/f_000001_0.png", "report.json"}


def odd_images(folder: Path, good: np.ndarray) -> dict[str, bool]:
    """Image files of unusual kinds, by whether they can be read."""
    from PIL import Image  # type: ignore[import-not-found,unused-ignore]

    rgb = Image.fromarray(good[:, :, ::-1])
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=exif)
    cv2.imwrite(str(folder / "deep.png"), good.astype(np.uint16) * 257)
    (folder / "empty.png").write_bytes(b"")
    (folder / "torn.png").write_bytes((folder / "alpha.png").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    unreadable = {"empty.png", "torn.png", "text.png", "folder.png"}
    return {path.name: path.name not in unreadable for path in folder.iterdir()}


def test_odd_images_are_cut_or_named(cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    pytest.importorskip("PIL")
    frames = tmp_path / "frames"
    frames.mkdir()
    kinds = odd_images(frames, read_image(vectors / "frames" / "f_000001.png"))
    face = {"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": vector_faces["f_000001.png"][0]["landmarks"].tolist()}
    source, report = tmp_path / "alignments.json", tmp_path / "report.json"
    source.write_text(json.dumps({name: [face] for name in kinds}))
    code, out, _ = cli("extract", "-a", source, "-fr", frames, "-fc", tmp_path / "faces", "--json", report)
    assert code == 4
    found = json.loads(report.read_text())
    failed = {error["frame"] for error in found["errors"]}
    assert failed == {name for name, readable in kinds.items() if not readable}
    assert found["faces_written"] == sum(kinds.values())
    for error in found["errors"]:
        assert error["reason"] in out
    saved = json.loads(source.read_text())
    assert {name for name, faces in saved.items() if faces[0].get("hash")} == set(kinds) - failed


def test_bad_landmarks_are_entries(cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    good = vector_faces["f_000001.png"][0]["landmarks"].tolist()
    nan = [[float("nan"), 1.0], *good[1:]]
    faces = [
        {"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": landmarks}
        for landmarks in (nan, good, [[5, 5]] * 68, good[:67], "text", [[1e30, -1e30]] * 34 + good[34:])
    ]
    source, report = tmp_path / "alignments.json", tmp_path / "report.json"
    source.write_text(json.dumps({"f_000001.png": faces}))
    code, _, _ = cli("extract", "-a", source, "-fr", vectors / "frames", "-fc", tmp_path / "faces", "--json", report)
    assert code == 4
    found = json.loads(report.read_text())
    assert {error["index"] for error in found["errors"]} >= {0, 2, 3, 4}
    assert found["faces_written"] + found["faces_failed"] == 6
    assert (tmp_path / "faces" / "f_000001_1.png").exists()


def test_json_on_standard_output_is_only_json(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    base = ("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", tmp_path / "faces")
    _, out, err = cli(*base, "--json", "-")
    assert json.loads(out)["faces_written"] == 17
    assert "17 written" in err


def test_python_says_the_same_words(alignments: Path, tmp_path: Path, vectors: Path) -> None:
    report = gpu_extract.extract(alignments, vectors / "frames", tmp_path / "faces", progress="none", size=32)
    assert report.faces_written == 17
    with pytest.raises(gpu_extract.UsageError, match="size must be"):
        gpu_extract.extract(alignments, vectors / "frames", tmp_path / "faces", size=3)


def test_the_module_runs_and_knows_its_version() -> None:
    run = subprocess.run([sys.executable, "-m", "gpu_extract", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"gpu-extract {gpu_extract.__version__}"


def test_the_program_looks_for_garbage_seldom_and_not_at_its_end() -> None:
    code = "import gc, sys; sys.argv = ['gpu-extract', '--version']\nfrom gpu_extract.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: print(gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "True 20000 True"


def test_help_loads_nothing_heavy() -> None:
    """Start-up: `--help` must not wait for NumPy, OpenCV, PyAV or torch."""
    code = "import sys; from gpu_extract.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'cv2', 'av', 'torch', 'kornia', 'yaml'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_doctor(cli: Cli) -> None:
    code, out, _ = cli("doctor", "--device", "cpu")
    assert code == 0
    assert "chosen    exact on cpu" in out
    code, out, _ = cli("doctor", "--json", "-")
    assert {"versions", "devices", "engines", "codecs", "chosen"} <= set(json.loads(out))


def test_a_cpu_run_does_not_import_torch(alignments: Path, tmp_path: Path, vectors: Path) -> None:
    code = "import sys, gpu_extract\n"
    arguments = ", ".join(repr(str(path)) for path in (alignments, vectors / "frames", tmp_path / "faces"))
    code += f"gpu_extract.extract({arguments}, device='cpu')\n"
    code += "print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"


def test_migrate_export_import_and_sheet(cli: Cli, tmp_path: Path, vectors: Path) -> None:
    old, new = vectors / "alignments" / "g0_2018-05.json", tmp_path / "new.fsa"
    code, _, err = cli("migrate", old, new)
    assert code == 7
    assert "turned by 90 degrees" in sentence(err)
    code, out, _ = cli("migrate", old, new, "-fr", vectors / "frames")
    assert code == 0
    assert "1 face turned back into its frame" in out
    code, _, err = cli("migrate", old, new, "-fr", vectors / "frames")
    assert code == 2
    assert "exists" in sentence(err)
    code, out, _ = cli("export", new, tmp_path / "landmarks.json")
    assert code == 0
    code, out, _ = cli("import", tmp_path / "landmarks.json", tmp_path / "again.fsa")
    assert code == 0
    assert "18 faces of 8 frames, version 2.4" in out
    hashes = []
    for name in (new, tmp_path / "again.fsa"):
        faces = tmp_path / name.stem
        code, _, _ = cli("extract", "-a", name, "-fr", vectors / "frames", "-fc", faces, "-sz", "64")
        assert code == 4
        pictures = sorted(faces.glob("*.png"))
        hashes.append([read_image(path).tobytes() for path in pictures])
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 17
    code, out, _ = cli("sheet", tmp_path / "new", tmp_path / "sheet.png")
    assert code == 0
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_hostile_frame_names_do_not_reach_the_terminal_raw(
    cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any
) -> None:
    face = {"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": vector_faces["f_000001.png"][0]["landmarks"].tolist()}
    source = tmp_path / "alignments.json"
    source.write_text(json.dumps({"\x1b[2Jclear.png": [face], "f_000001.png": [face], "é.png": [face]}))
    _, out, err = cli("extract", "-a", source, "-fr", vectors / "frames", "-fc", tmp_path / "faces", "-sz", "32")
    assert "\x1b" not in out + err
    assert "\\x1b[2Jclear.png" in out
    assert "é.png" in out


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    cli: Cli, alignments: Path, tmp_path: Path, vectors: Path
) -> None:
    before = alignments.read_bytes()
    base = ("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", tmp_path / "faces")
    for target in (tmp_path / "none" / "report.json", tmp_path):
        code, _, err = cli(*base, "--json", target)
        assert code == 6
        assert "the report cannot be written" in sentence(err)
    assert not (tmp_path / "faces").exists()
    assert alignments.read_bytes() == before


def test_quiet_still_says_what_failed(cli: Cli, alignments: Path, tmp_path: Path, vectors: Path) -> None:
    code, out, err = cli("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", tmp_path / "faces", "-q")
    assert code == 4
    assert out == ""
    assert "1 face failed: f_000099.png" in sentence(err)


def test_the_demo_replaces_only_a_demo(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "demo.mp4").write_text("precious")
    code, _, err = cli("demo", mine)
    assert code == 6
    assert "not of an earlier demo" in sentence(err)
    assert (mine / "demo.mp4").read_text() == "precious"


def test_refreshing_thumbnails_needs_a_file_to_change(
    cli: Cli, alignments: Path, tmp_path: Path, vectors: Path
) -> None:
    base = ("extract", "-a", alignments, "-fr", vectors / "frames", "-fc", tmp_path / "faces")
    code, _, err = cli(*base, "--refresh-thumbs", "--no-update")
    assert code == 2
    assert "cannot go with no-update" in sentence(err)


def test_51_points_have_no_head(cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any) -> None:
    points = vector_faces["f_000001.png"][0]["landmarks"]
    faces = [{"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": p.tolist()} for p in (points, points[17:])]
    source, report = tmp_path / "alignments.json", tmp_path / "report.json"
    source.write_text(json.dumps({"f_000001.png": faces}))
    base = ("extract", "-a", source, "-fr", vectors / "frames", "-fc", tmp_path / "faces", "--json", report)
    code, _, _ = cli(*base, "--centering", "head", "--no-update")
    assert code == 4
    found = json.loads(report.read_text())
    assert found["faces_written"] == 1
    assert [error["index"] for error in found["errors"]] == [1]
    assert "51 core landmarks" in found["errors"][0]["reason"]


def test_two_entries_for_one_frame_are_counted_face_by_face(
    cli: Cli, tmp_path: Path, vectors: Path, vector_faces: Any
) -> None:
    face = {"x": 0, "y": 0, "w": 1, "h": 1, "landmarks_xy": vector_faces["f_000001.png"][0]["landmarks"].tolist()}
    source, report = tmp_path / "alignments.json", tmp_path / "report.json"
    source.write_text(json.dumps({"clip_000001.png": [face, face], "clip_000001.mp4": [face] * 3}))
    base = ("extract", "-a", source, "-fr", vectors / "video" / "clip.mp4", "-fc", tmp_path / "faces", "--json", report)
    code, _, _ = cli(*base, "--no-update")
    assert code == 4
    found = json.loads(report.read_text())
    assert (found["faces_written"], found["faces_failed"]) == (2, 3)


def test_every_module_of_a_command_is_listed_once() -> None:
    modules = plugins.names("gpu_extract.cli.commands")
    assert sorted(COMMANDS) == sorted(name.removesuffix("_") for name in modules)
    assert [command_of(name).name for name in COMMANDS] == list(COMMANDS)
