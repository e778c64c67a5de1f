"""What a job writes beside faces and alignments replaces nothing but its own kind, and is whole at every instant."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.errors import OutputError
from gpu_extract.jobs import sheet
from gpu_extract.reports.base import COMMANDS
from gpu_extract.run import journal
from gpu_extract.storage import atomic
from tests.helpers import extract_command, write_photographs


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Path:
    """`frames`, `a.fsa`, `faces` of a run over both, `landmarks.json`, `notes.json` and an empty `empty.json`."""
    return made_job(tmp_path, landmarks)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """As `job`, for tests after which it is as it was."""
    return made_job(tmp_path_factory.mktemp("untouched"), landmarks)


def made_job(tmp_path: Path, landmarks: np.ndarray) -> Path:
    write_photographs(tmp_path, landmarks)
    shutil.copy(tmp_path / "a.fsa", tmp_path / "other.fsa")
    options = ("-q", "-sz", 32, "--metadata", "jsonl")
    assert main(extract_command(tmp_path / "a.fsa", tmp_path / "frames", tmp_path / "faces", *options)) == 0
    assert main(["export", str(tmp_path / "a.fsa"), str(tmp_path / "landmarks.json")]) == 0
    (tmp_path / "notes.json").write_text('{"exit_code": 0, "notes": ["a person\'s"], "frames": 3}')
    (tmp_path / "gpu-extract.toml").write_text("size = 64\n")
    (tmp_path / "symbolic.json").symlink_to(tmp_path / "frames" / "f_000001.png")
    os.link(tmp_path / "frames" / "f_000002.png", tmp_path / "hard.json")
    os.link(tmp_path / "a.fsa", tmp_path / "hard-a.json")
    return tmp_path


def words(job: Path, command: str) -> list[str]:
    both = ["-a", str(job / "a.fsa"), "-fr", str(job / "frames")]
    quiet = ["--progress", "none", "--device", "cpu"]
    return {
        "extract": ["extract", *both, "-fc", str(job / "new"), "-sz", "32", "--no-update", *quiet],
        "dry": ["extract", *both, "-fc", str(job / "new"), "--dry-run", *quiet],
        "verify": ["verify", *both, "-fc", str(job / "faces"), *quiet],
        "prune": ["prune", *both[:2], "-fc", str(job / "faces")],
        "reindex": ["reindex", *both[:2]],
        "masks": ["masks", *both[:2], "-fc", str(job / "masks"), "--kind", "components"],
        "rebuild": ["rebuild", str(job / "faces"), str(job / "new.fsa"), "--dry-run"],
        "rename": ["rename", str(job / "faces"), "-a", str(job / "a.fsa")],
        "check": ["check", *both],
        "doctor": ["doctor", "--device", "cpu"],
        "config": ["config", *both],
    }[command]


REPORTING = ("extract", "dry", "verify", "prune", "reindex", "masks", "rebuild", "rename", "check", "doctor", "config")
PRECIOUS = (
    "a.fsa",
    "other.fsa",
    "frames/f_000001.png",
    "faces/f_000001_0.png",
    f"faces/{journal.NAME}",
    "landmarks.json",
    "notes.json",
    "gpu-extract.toml",
    "symbolic.json",
    "hard.json",
    "hard-a.json",
)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", REPORTING)
@pytest.mark.parametrize("target", PRECIOUS)
def test_a_report_replaces_nothing_but_a_report(
    command: str, target: str, untouched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(untouched)
    code = main([*words(untouched, command), "--json", str(untouched / target)])
    assert code in (2, 6)
    assert everything(untouched) == before
    assert "the report would replace" in capsys.readouterr().err
    assert not (untouched / "new").exists()


@pytest.mark.parametrize("command", REPORTING)
def test_a_report_replaces_an_earlier_one_and_an_empty_file(command: str, job: Path) -> None:
    target = job / "report.json"
    for before in (None, b"", None):
        if before is not None:
            target.write_bytes(before)
        assert main([*words(job, command), "--json", str(target)]) == 0
        assert json.loads(target.read_text())
        shutil.rmtree(job / "new", ignore_errors=True)


def test_reports_of_all_commands_know_each_other(job: Path) -> None:
    target = job / "report.json"
    for command in (*REPORTING[:1], *REPORTING[2:], "check", "verify", "prune"):
        assert main([*words(job, command), "--json", str(target)]) == 0
        told = json.loads(target.read_text())
        assert told["schema"].partition("/")[0] == command in COMMANDS


def test_reports_of_before_they_had_a_schema_are_known_by_most_of_their_keys(job: Path) -> None:
    target = job / "report.json"
    for command in ("doctor", "prune"):
        assert main([*words(job, command), "--json", str(target)]) == 0
        told = json.loads(target.read_text())
        del told["schema"], told[next(reversed(told))]
        target.write_text(json.dumps(told | {"of_then": 1}))
        assert main([*words(job, command), "--json", str(target)]) == 0
        for schema in ("mine/1", command, f"{command}/", f"{command}/x", 1, None):
            target.write_text(json.dumps(told | {"schema": schema}))
            assert main([*words(job, command), "--json", str(target)]) == 6
        target.unlink()


def test_every_report_that_has_a_schema_is_one() -> None:
    schemas = (Path(__file__).parent.parent / "docs" / "schemas").iterdir()
    assert {path.stem.rpartition("-")[0] for path in schemas} == set(COMMANDS)


def test_a_report_never_takes_the_place_of_what_the_run_has_made(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("f_000001_0.png", journal.NAME):
        (job / "new").mkdir()
        assert main([*words(job, "extract"), "--json", str(job / "new" / name)]) == 6
        assert "the report would replace" in capsys.readouterr().err
        assert (job / "new" / name).read_bytes()[:1] != b"{"
        assert (job / "new" / "f_000001_0.png").read_bytes() == (job / "faces" / "f_000001_0.png").read_bytes()
        shutil.rmtree(job / "new")


@pytest.mark.parametrize("target", PRECIOUS)
def test_a_sheet_replaces_nothing_but_a_sheet(
    target: str, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(job)
    assert main(["sheet", str(job / "faces"), str(job / target)]) == 6
    assert "the contact sheet would replace" in capsys.readouterr().err
    assert everything(job) == before
    if (job / target).suffix == ".png":  # the second page meets it
        monkeypatch.setattr(sheet, "MAX_SIDE_PX", 200)
        shutil.copy(job / target, job / "pages_2.png")
        assert main(["sheet", str(job / "faces"), str(job / "pages.png"), "--cell", "120", "--columns", "1"]) == 6
        assert (job / "pages_2.png").read_bytes() == (job / target).read_bytes()
        assert not (job / "pages.png").exists()


def test_a_sheet_replaces_a_sheet_and_is_no_face(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = job / "faces" / "sheet.png"
    for _ in range(2):
        assert main(["sheet", str(job / "faces"), str(target)]) == 0
        first = target.read_bytes()
    assert cv2.imread(str(target)) is not None
    assert main(["sheet", str(job / "faces"), str(job / "out.png")]) == 0
    capsys.readouterr()
    target.unlink()
    assert main(["sheet", str(job / "faces"), str(target)]) == 0
    assert target.read_bytes() == first


def test_a_sheet_of_a_sheet_does_not_replace_it(job: Path) -> None:
    (page,) = sheet.contact_sheet(job / "faces", job / "sheet.png")
    before = page.read_bytes()
    os.link(page, job / "also.png")
    for target in (page, job / "also.png"):
        with pytest.raises(OutputError, match="is read here"):
            sheet.contact_sheet([page], target)
    assert page.read_bytes() == before


@pytest.mark.parametrize("command", ["export", "migrate", "import"])
@pytest.mark.parametrize("target", PRECIOUS)
def test_files_for_other_programs_are_new(command: str, target: str, job: Path) -> None:
    before = everything(job)
    source = "landmarks.json" if command == "import" else "a.fsa"
    assert main([command, str(job / source), str(job / target)]) == 2
    assert everything(job) == before


@pytest.mark.parametrize("command", ["export", "migrate", "import"])
def test_a_file_that_came_up_meanwhile_is_not_replaced(
    command: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the new one is written another program, or the same command elsewhere, makes a file of that name."""
    given, name = {
        "export": ("a.fsa", "new.json"),
        "migrate": ("a.fsa", "new.fsa"),
        "import": ("landmarks.json", "new.fsa"),
    }[command]
    new, real = job / name, atomic.write_all

    def write(descriptor: int, chunk: bytes) -> None:
        new.write_bytes(b"somebody's")
        real(descriptor, chunk)

    monkeypatch.setattr(atomic, "write_all", write)
    assert main([command, str(job / given), str(new)]) == 2
    assert "exists; choose a new name." in capsys.readouterr().err
    assert new.read_bytes() == b"somebody's"
    assert not list(new.parent.glob(".*.tmp"))


def test_an_export_that_names_no_file_takes_the_next_free_name(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic.write_all

    def write(descriptor: int, chunk: bytes) -> None:
        (job / "a.json").touch()
        real(descriptor, chunk)

    monkeypatch.setattr(atomic, "write_all", write)
    for _ in range(2):
        assert main(["export", str(job / "a.fsa")]) == 0
    assert [path.stat().st_size > 0 for path in sorted(job.glob("a*.json"))] == [False, True, True]


def stopped_while_writing(patch: pytest.MonkeyPatch, why: type[BaseException]) -> None:
    real = atomic.write_all

    def half(descriptor: int, chunk: bytes) -> None:
        real(descriptor, chunk[: len(chunk) // 2])
        raise why

    patch.setattr(atomic, "write_all", half)


@pytest.mark.parametrize("command", ["verify", "check", "config"])
def test_a_report_is_whole_at_every_instant(command: str, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = job / "report.json"
    for before in (None, b"old"):
        if before is not None:
            assert main([*words(job, command), "--json", str(target)]) == 0
            before = target.read_bytes()
        with monkeypatch.context() as patch:
            stopped_while_writing(patch, KeyboardInterrupt)
            assert main([*words(job, command), "--json", str(target)]) == 130
        assert (target.read_bytes() if target.exists() else None) == before


def test_a_sheet_is_whole_at_every_instant(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_while_writing(monkeypatch, KeyboardInterrupt)
    assert main(["sheet", str(job / "faces"), str(job / "sheet.png")]) == 130
    assert not list(job.glob("*sheet*"))


def test_reports_go_into_pipes_and_streams(job: Path) -> None:
    os.mkfifo(job / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((job / "pipe").read_bytes()))
    reader.start()
    assert main([*words(job, "check"), "--json", str(job / "pipe")]) == 0
    reader.join()
    assert json.loads(got[0])
    log = job / "log"
    log.write_bytes(b"earlier\n")
    with log.open("ab") as file:
        command = [sys.executable, "-m", "gpu_extract", *words(job, "check"), "-q", "--json", "/dev/stdout"]
        subprocess.run(command, stdout=file, check=True)
    earlier, _, report = log.read_bytes().partition(b"\n")
    assert earlier == b"earlier"
    assert json.loads(report)
    assert main([*words(job, "check"), "--json", "/dev/null"]) == 0


def test_a_report_on_narrow_standard_output_is_json(job: Path) -> None:
    (job / "frames" / "f_000001.png").rename(job / "frames" / "f_ü.png")
    command = [sys.executable, "-m", "gpu_extract", *words(job, "check"), "-q", "--json", "-"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    assert json.loads(done.stdout)["frames_without_alignments"] == ["f_ü.png"]


@pytest.mark.parametrize("spoil", ["empty", "no picture", "unreadable", "pipe", "dangling"])
def test_a_sheet_names_the_faces_that_it_cannot_show(
    spoil: str, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = job / "faces" / "f_000001_0.png"
    whole = bad.read_bytes()
    bad.unlink()
    made: dict[str, Callable[[], Any]] = {
        "empty": bad.touch,
        "no picture": lambda: bad.write_bytes(b"no picture"),
        "unreadable": lambda: bad.write_bytes(whole),
        "pipe": lambda: os.mkfifo(bad),
        "dangling": lambda: bad.symlink_to("nowhere.png"),
    }
    made[spoil]()
    if spoil == "unreadable":
        refuse_to_open(monkeypatch, bad)
    assert main(["sheet", str(job / "faces"), str(job / "sheet.png")]) == 4
    told = capsys.readouterr()
    assert f"cannot be read: {bad}" in told.out
    assert main(["sheet", "-q", str(job / "faces"), str(job / "sheet.png")]) == 4
    assert f"cannot be read: {bad}" in capsys.readouterr().err


def refuse_to_open(patch: pytest.MonkeyPatch, path: Path) -> None:
    real = os.open

    def refusing(name: Any, *rest: Any, **named: Any) -> int:
        if not isinstance(name, int) and Path(os.fsdecode(name)) == path:
            raise OSError(5, "Input/output error", name)
        return real(name, *rest, **named)

    patch.setattr(os, "open", refusing)


def test_a_killed_run_leaves_an_old_report_or_a_new_one(job: Path) -> None:
    """With a real signal, at the moment of the write."""
    code = f"""
import os, signal
from gpu_extract.storage import atomic
real = atomic.write_all
def die(descriptor, chunk):
    real(descriptor, chunk[:20])
    os.kill(os.getpid(), signal.SIGKILL)
atomic.write_all = die
from gpu_extract.cli import main
main({[*words(job, "check"), "--json", str(job / "report.json")]!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (job / "report.json").exists()
