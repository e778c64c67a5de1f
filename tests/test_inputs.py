"""Inputs that are no files, or that the disk does not give: a sentence, exit code 3, and no wait."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.run import journal
from gpu_extract.storage.inputs import open_input
from tests.helpers import extract_command, write_photographs

UNREADABLE = "/proc/self/mem"
"""A regular file whose first byte is an I/O error."""


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """`frames`, `a.fsa`, `faces`, `landmarks.json`, all named from their folder; to be copied with its times."""
    folder = tmp_path_factory.mktemp("whole")
    write_photographs(folder, landmarks)
    with contextlib.chdir(folder):
        assert main([*extract_command(Path("a.fsa"), Path("frames"), Path("faces"), "-q"), "-sz", "32"]) == 0
        assert main(["export", "a.fsa", "landmarks.json"]) == 0
    return folder


@pytest.fixture
def job(whole_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `whole_job`; the working folder, for sockets have short names."""
    shutil.copytree(whole_job, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def spoiled(path: Path, how: str) -> None:
    """Put something that is no file in a file's place."""
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "error":
        path.symlink_to(UNREADABLE)
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name if path.parent == Path.cwd() else os.path.relpath(path))


def elsewhere(words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpu_extract", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


COMMANDS: dict[str, tuple[str, list[str]]] = {
    "alignments of extract": ("a.fsa", extract_command(Path("a.fsa"), Path("frames"), Path("new"))),
    "alignments of verify": ("a.fsa", ["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces"]),
    "alignments of check": ("a.fsa", ["check", "-a", "a.fsa", "-fr", "frames"]),
    "alignments of migrate": ("a.fsa", ["migrate", "a.fsa", "new.fsa"]),
    "alignments of export": ("a.fsa", ["export", "a.fsa", "new.json"]),
    "alignments of no known kind": ("a.bin", ["check", "-a", "a.bin", "-fr", "frames"]),
    "landmarks": ("landmarks.json", ["import", "landmarks.json", "new.fsa"]),
    "journal of verify": (f"faces/{journal.NAME}", ["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces"]),
    "alignments of prune": ("a.fsa", ["prune", "-a", "a.fsa", "-fc", "faces"]),
    "alignments of reindex": ("a.fsa", ["reindex", "-a", "a.fsa"]),
    "alignments of masks": ("a.fsa", ["masks", "-a", "a.fsa", "--list"]),
    "journal of prune": (f"faces/{journal.NAME}", ["prune", "-a", "a.fsa", "-fc", "faces"]),
    "alignments of rename": ("a.fsa", ["rename", "faces", "-a", "a.fsa"]),
    "journal of rebuild": (f"faces/{journal.NAME}", ["rebuild", "faces", "new.fsa"]),
    "journal of rename": (f"faces/{journal.NAME}", ["rename", "faces"]),
    "config": ("given.toml", ["check", "-a", "a.fsa", "-fr", "frames", "--config", "given.toml"]),
    "config beside the file": ("gpu-extract.toml", ["config", "-a", "a.fsa"]),
}
WORDS = {
    "pipe": "is a named pipe",
    "folder": "is a directory",
    "device": "is a device",
    "socket": "is a socket",
    "error": "could not be read (input/output error)",
}


@pytest.mark.parametrize("how", WORDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_file_is_refused_without_a_wait(
    command: str, how: str, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, words = COMMANDS[command]
    for empty in ("given.toml", "gpu-extract.toml", "a.bin"):
        (job / empty).touch()
    spoiled(job / name, how)
    capsys.readouterr()
    code = main(words)
    told = capsys.readouterr().err
    if (command, how) == ("config beside the file", "folder"):
        assert code == 0
        return
    assert code == 3
    assert WORDS[how] in told
    assert Path(name).name in told
    assert told.count("\n") == 1
    assert not (job / "new").exists()


@pytest.mark.parametrize("how", ["pipe", "socket", "device", "folder", "error"])
def test_a_journal_to_resume_that_is_no_file(how: str, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoiled(job / "faces" / journal.NAME, how)
    capsys.readouterr()
    words = extract_command(Path("a.fsa"), Path("frames"), Path("faces"), "--resume", "-sz", "32")
    assert main(words) == (3 if how == "error" else 6)
    assert "unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize("what", ["a.fsa", "frames", "faces", f"faces/{journal.NAME}", "gpu-extract.toml"])
@pytest.mark.parametrize("call", ["open", "stat", "scandir"])
@pytest.mark.parametrize("command", ["extract", "resume", "verify", "check", "sheet"])
def test_an_error_of_the_disk_is_an_unreadable_input(
    command: str, call: str, what: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (job / "gpu-extract.toml").touch()
    common = ["-a", "a.fsa", "-fr", "frames"]
    words = {
        "extract": extract_command(Path("a.fsa"), Path("frames"), Path("new"), "-sz", "32"),
        "resume": extract_command(Path("a.fsa"), Path("frames"), Path("faces"), "-sz", "32", "--resume"),
        "verify": ["verify", *common, "-fc", "faces", "--progress", "none"],
        "check": ["check", *common],
        "sheet": ["sheet", "faces", "sheet.png"],
    }[command]
    before = (job / "a.fsa").read_bytes()
    real, refused = getattr(os, call), []

    def refusing(path: Any = ".", *rest: Any, **named: Any) -> Any:
        if not isinstance(path, int) and Path(os.path.abspath(os.fsdecode(path))) == job / what:  # noqa: PTH100
            refused.append(path)
            raise OSError(5, "Input/output error", path)
        return real(path, *rest, **named)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing)
        code = main(words)
    told = capsys.readouterr().err
    assert "unexpected" not in told
    assert (job / "a.fsa").read_bytes() == before
    if not refused:
        assert code == 0
    elif code != 0:
        assert code == 3
        assert Path(what).name in told
        assert "input/output error" in told.lower()
    else:
        assert (what, call) in {("faces", "open"), ("a.fsa", "stat")} or command == "resume", "it went unheard"


def refused(monkeypatch: pytest.MonkeyPatch, call: str, path: Path) -> None:
    """Have the disk give an error for calls on a descriptor of a file, in which the system names no file."""
    real = getattr(os, call)

    def refusing(what: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(what, int) and Path(f"/proc/self/fd/{what}").readlink() == path:
            raise OSError(5, "Input/output error")
        return real(what, *rest, **named)

    monkeypatch.setattr(os, call, refusing)


@pytest.mark.parametrize("call", ["fstat", "lseek", "pread", "ftruncate"])
def test_an_error_of_the_disk_names_the_journal(
    call: str, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = job / "faces" / journal.NAME
    path.write_bytes((path.read_bytes() if call != "pread" else b"") + b"12345678 ")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        refused(patch, call, path)
        code = main(extract_command(Path("a.fsa"), Path("frames"), Path("faces"), "--resume", "-sz", "32"))
    told = capsys.readouterr().err
    assert code == (6 if call == "ftruncate" else 3)
    assert journal.NAME in told
    assert "input/output error" in told.lower()


def test_an_error_of_the_disk_costs_one_frame(
    job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(monkeypatch, "fstat", job / "frames" / "f_000001.png")
    assert main(extract_command(Path("a.fsa"), Path("frames"), Path("new"), "-sz", "32", "--no-update")) == 4
    assert "f_000001.png: the file cannot be read: Input/output error." in capsys.readouterr().out


def test_a_pipe_does_not_keep_a_program_waiting(job: Path) -> None:
    spoiled(job / "a.fsa", "pipe")
    done = elsewhere(["check", "-a", "a.fsa", "-fr", "frames"])
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("00000.tar", ["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces"]),
        ("faces.jsonl", ["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces", "--metadata", "jsonl"]),
        ("f_000001_0.png", ["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces"]),
        ("sheet_2.png", ["sheet", "faces", "faces/sheet.png"]),
    ],
)
def test_a_pipe_among_the_faces_keeps_nobody_waiting(name: str, words: list[str], job: Path) -> None:
    (job / "faces" / name).touch()
    spoiled(job / "faces" / name, "pipe")
    done = elsewhere(words)
    assert done.returncode == 4
    assert name in done.stdout


def test_a_face_that_cannot_be_read_is_proved_wrong(job: Path) -> None:
    spoiled(job / "faces" / "f_000001_0.png", "error")
    assert main(["verify", "-a", "a.fsa", "-fr", "frames", "-fc", "faces", "--progress", "none"]) == 4


def test_a_pipe_among_the_faces_is_no_place_for_their_sheet(job: Path) -> None:
    os.mkfifo(job / "faces" / "sheet.png")
    done = elsewhere(["sheet", "faces", "faces/sheet.png"])
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)


def test_what_was_read_is_read_whatever_its_closing_says(job: Path) -> None:
    with open_input("a.fsa", "the file") as file:
        data = file.read()
        os.close(file.fileno())  # so that the next one fails
    assert file.closed
    assert data == (job / "a.fsa").read_bytes()


def test_a_missing_file_is_called_missing(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(job / "frames")
    (job / "a.fsa").unlink()
    assert main(["check", "-a", "a.fsa", "-fr", "frames"]) == 3
    assert "does not exist" in capsys.readouterr().err
