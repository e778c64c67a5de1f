"""Power cuts at every call of a run: what `--resume` makes of any state equals what was never cut off."""

from __future__ import annotations

import ctypes
import errno
import random
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.face_files.layouts import by_frame, webdataset
from gpu_extract.run import journal
from gpu_extract.storage import durable
from tests.helpers import extract_command, files_in, photograph
from tests.power_cut import Disk, Recorder

FRAMES = 7
LAYOUTS = ("flat", "by-frame", "webdataset")


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`frames` and `source.fsa` beside `run`, the folder that a run writes into."""
    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 3)
    monkeypatch.setattr(webdataset, "MAX_SAMPLES", 4)
    (tmp_path / "frames").mkdir()
    entries: dict[str, Any] = {}
    for number in range(FRAMES):
        name = f"f_{number:06d}.png"
        cv2.imwrite(str(tmp_path / "frames" / name), photograph(240, 320, number))
        entries[name] = [face_record(landmarks + np.float32(k)) for k in range(1 + number % 2)]
    write_alignments(tmp_path / "source.fsa", entries)
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "source.fsa", tmp_path / "run" / "a.fsa")
    return tmp_path


def command(job: Path, *options: str) -> list[str]:
    run = job / "run"
    words = extract_command(run / "a.fsa", job / "frames", run / "faces", "-sz", "32", "--workers", "1", "-q")
    return [*words, *options]


def settle_every_third(patch: pytest.MonkeyPatch) -> None:
    """In place of every few seconds."""
    asked = iter(range(10**9))

    def settle_when_due(self: journal.Journal) -> None:
        if next(asked) % 3 == 2:
            self.settle()

    patch.setattr(journal.Journal, "settle_when_due", settle_when_due)


def laid_out(files: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def recorded(job: Path, patch: pytest.MonkeyPatch, *options: str) -> tuple[Disk, list[tuple[Any, ...]]]:
    """The disk before a run, and the calls of that run."""
    disk = Disk(job / "run")
    recorder = Recorder(job / "run", patch)
    recorder._by_path |= disk.names
    with recorder.recording():
        assert main(command(job, *options)) == 0
    return disk, recorder.calls


def replay(job: Path, disk: Disk, calls: list[tuple[Any, ...]], options: tuple[str, ...], step: int) -> int:
    """Cut before every `step`-th call, and after the last; returns the number of states."""
    run = job / "run"
    whole, new = files_in(run / "faces"), (run / "a.fsa").read_bytes()
    old = (job / "source.fsa").read_bytes()
    assert new != old
    states = 0
    for number in range(len(calls) + 1):
        for turn, how in enumerate(("zeros", "forgotten", "mixed", "mixed")):
            if (number + turn) % step == 0:
                laid_out(disk.after_a_cut(how, random.Random(number * 4 + turn)), run)
                assert (run / "a.fsa").read_bytes() in (old, new), (number, how)
                assert main(command(job, "--resume", *options)) == 0, (number, how)
                assert files_in(run / "faces") == whole, (number, how, calls[max(0, number - 3) : number])
                assert (run / "a.fsa").read_bytes() == new, (number, how)
                states += 1
        if number < len(calls):
            disk.do(calls[number])
    assert disk.names["/".join((str(run), "a.fsa"))].data == new, "the recorder has missed a call"
    return states


@pytest.mark.parametrize("options", [("--format", "png"), ("--format", "jpg", "--metadata", "jsonl")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_power_cut_at_any_call(
    layout: str, options: tuple[str, ...], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at_calls(13, (*options, "--output-layout", layout), job, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--format", "png"), ("--format", "webp", "--metadata", "jsonl")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_power_cut_at_every_call(
    layout: str, options: tuple[str, ...], job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_at_calls(1, (*options, "--output-layout", layout), job, monkeypatch)


def cut_at_calls(step: int, options: tuple[str, ...], job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_every_third(monkeypatch)
    disk, calls = recorded(job, monkeypatch, *options)
    kinds = {call[0] for call in calls}
    assert {"open", "write", "rename", "flush", "flush folder"} <= kinds
    assert ("flush all" in kinds) == ("webdataset" not in options)
    assert replay(job, disk, calls, options, step) > 100 / step


def test_a_power_cut_at_any_call_of_a_resumed_run(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first cut has taken is not vouched for by the second run before it was made again."""
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "settle_when_due", lambda self: None)
        disk, calls = recorded(job, monkeypatch)
    settle_every_third(monkeypatch)
    second = max(i for i, call in enumerate(calls) if call[0] == "flush all")
    for call in calls[:second]:
        disk.do(call)
    laid_out(disk.after_a_cut("zeros", random.Random(0)), job / "run")
    disk, calls = recorded(job, monkeypatch, "--resume")
    assert replay(job, disk, calls, (), 7) > 5


def test_where_the_system_cannot_flush_all_is_proved(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_syncfs", lambda: None)
    run = job / "run"
    assert main(command(job)) == 0
    whole = files_in(run / "faces")
    assert b"settled" not in (run / "faces" / journal.NAME).read_bytes()
    (name,) = [name for name in whole if "000003_0" in name]
    (run / "faces" / name).write_bytes(bytes(len(whole[name])))
    assert main(command(job, "--resume")) == 0
    assert files_in(run / "faces") == whole


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_to_flush(
    code: int, job: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int) -> int:
        ctypes.set_errno(code)
        return -1

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_syncfs", lambda: refuse)
        assert main(command(job)) == 6
    assert "cannot be saved" in capsys.readouterr().err
    assert (job / "run" / "a.fsa").read_bytes() == (job / "source.fsa").read_bytes()
    assert main(command(job, "--resume")) == 0
