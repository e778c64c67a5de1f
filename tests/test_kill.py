"""Runs that are killed, and disks that fail, at every moment: the alignments file is old or new, and whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.run import journal
from gpu_extract.storage import atomic
from tests.helpers import by_the_long_way

FRAMES = 120
ENTRIES_ELSEWHERE = 6000  # without a frame here: they make the file take a while to save
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("g7b_2020-08.fsa", "v2_0.fsa")]
CONTAINERS = pytest.mark.parametrize(
    "name", ["g6_2019-12.fsa", "g2_2018-12.json", "g2_2018-12.p", "g3_2019-02.yml", *SLOW]
)
"""One of each format; later versions of `.fsa` are saved by the same steps and left to `make soak`."""


class Job:
    """A folder of frames with alignments, what a run makes of it, and a place to do it again."""

    def __init__(self, folder: Path, vectors: Path, landmarks: np.ndarray) -> None:
        self.frames = folder / "frames"
        self.frames.mkdir()
        entries: dict[str, list[dict[str, Any]]] = {}
        for number in range(1, FRAMES + 1):
            name = f"f_{number:06d}.png"
            shutil.copy(vectors / "frames" / f"f_{1 + number % 4:06d}.png", self.frames / name)
            entries[name] = [face_record(landmarks + np.float32(number % 9 + k)) for k in range(2)]
        elsewhere = {f"g_{number:06d}.png": [face_record(landmarks)] for number in range(ENTRIES_ELSEWHERE)}
        self.source = folder / "source.fsa"
        write_alignments(self.source, entries | elsewhere)
        self.old = self.source.read_bytes()
        self.root = folder / "plain"
        self.start()
        assert main(self.command()) == 4
        self.new = self.alignments.read_bytes()
        assert self.new != self.old
        self.images = self.faces_there()
        self.root = folder / "killed"

    def start(self) -> None:
        """The folder as before any run."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir()
        shutil.copy(self.source, self.alignments)

    @property
    def alignments(self) -> Path:
        return self.root / "a.fsa"

    @property
    def faces(self) -> Path:
        return self.root / "faces"

    def command(self) -> list[str]:
        given = ["extract", "-a", str(self.alignments), "-fr", str(self.frames), "-fc", str(self.faces), "-sz", "96"]
        return [*given, "--resume", "-q", "--device", "cpu"]

    def run(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gpu_extract", *self.command()]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def faces_there(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.faces.glob("*.png") if path.name[0] != "."}

    def check(self) -> bool:
        """Everything that must hold after any end of a run; returns whether the new file is in place."""
        found = self.alignments.read_bytes()
        assert found in (self.old, self.new)
        assert len(Alignments.load(self.alignments).faces) == 2 * FRAMES + ENTRIES_ELSEWHERE
        backups = [path.read_bytes() for path in self.root.glob("a_*.fsa")]
        assert all(backup in (self.old, self.new) for backup in backups)
        if found == self.new:
            assert self.old in backups
        if self.faces.exists():
            assert self.images.items() >= self.faces_there().items(), "half an image under its final name"
        return found == self.new


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, vectors: Path, vector_faces: Any) -> Job:
    return Job(tmp_path_factory.mktemp("kill"), vectors, vector_faces["f_000001.png"][0]["landmarks"])


def seconds_of(job: Job) -> float:
    job.start()
    began = time.monotonic()
    assert job.run().wait() == 4
    return time.monotonic() - began


def kill_at_random(job: Job, count: int, generator: random.Random) -> dict[str, int]:
    """Kill runs: half of them at any moment, half once they save. Returns how many were killed when."""
    whole = seconds_of(job)
    killed = {"any moment": 0, "while saving": 0, "after saving": 0, "too late": 0}
    job.start()
    for number in range(count):
        if number % 2:
            job.start()
        process = job.run()
        if number % 2 == 0:
            time.sleep(generator.uniform(0.0, whole))
        else:
            while process.poll() is None and not list(job.root.glob(".a.fsa.*.tmp")):
                time.sleep(0.0005)
            time.sleep(generator.uniform(0.0, 0.25) ** 2)
        too_late = process.poll() is not None
        process.kill()
        process.wait()
        saved = job.check()
        killed["too late" if too_late else "after saving" if saved else ("any moment", "while saving")[number % 2]] += 1
        if saved:
            job.start()
    assert main(job.command()) == 4
    assert job.check()
    assert job.faces_there() == job.images
    assert not [path.name for path in job.root.iterdir() if path.name.endswith((".tmp", ".lock"))]
    return killed


def test_kill_at_random_moments(job: Job) -> None:
    killed = kill_at_random(job, 8, random.Random(20260101))
    assert sum(killed.values()) == 8
    assert killed["any moment"] + killed["while saving"] >= 4


@pytest.mark.slow
def test_kill_at_200_random_moments(job: Job) -> None:
    killed = kill_at_random(job, 320, random.Random(os.getpid()))
    print(killed)
    assert sum(killed.values()) - killed["too late"] >= 200


STEPS = ("open", "write", "fsync", "link", "rename", "replace", "unlink", "utime", "fchmod", "fchown", "close")


class Faulty:
    """Stands before the file functions of `os`; at the n-th call that touches a folder's files something happens."""

    def __init__(
        self, patch: pytest.MonkeyPatch, folder: Path, at: int, what: Callable[[str, tuple[Any, ...]], None]
    ) -> None:
        self.folder, self.at, self.what = str(folder), at, what
        self.calls: list[str] = []
        by_the_long_way(patch)
        for name in STEPS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _touches(self, first: Any) -> bool:
        if isinstance(first, int):
            with contextlib.suppress(OSError):
                first = Path(f"/proc/self/fd/{first}").readlink()
        return str(first).startswith(self.folder)

    def _wrapped(self, name: str, real: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._touches(arguments[0]):
                self.calls.append(name)
                number = len(self.calls) - 1
                if number == self.at:
                    if name == "close":
                        real(*arguments)  # a failing close has closed
                    self.what(name, arguments)
            return real(*arguments, **named)

        return call


def saved_bytes(path: Path) -> bytes:
    loaded = Alignments.load(path)
    change(loaded)
    loaded.save()
    return path.read_bytes()


def change(loaded: Alignments) -> None:
    rows = np.arange(len(loaded.faces))
    loaded.set_hashes(rows, [f"{row:040x}" for row in rows])


def save_with(path: Path, at: int, what: Callable[[str, tuple[Any, ...]], None]) -> tuple[list[str], str]:
    """Load, change and save a file with a fault at the n-th step; returns the steps, and the error's text."""
    with pytest.MonkeyPatch.context() as patch:
        faulty = Faulty(patch, path.parent, at, what)
        try:
            with atomic.locked(path):
                loaded = Alignments.load(path)
                change(loaded)
                loaded.save()
        except Exception as error:
            return faulty.calls, f"{type(error).__name__}: {error}"
    return faulty.calls, ""


@CONTAINERS
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_an_error_at_every_step_of_saving(name: str, code: int, vectors: Path, tmp_path: Path) -> None:
    """A failing system call at each step: the file is old or new, the error is a sentence, nothing is left over."""
    path = tmp_path / name
    source = vectors / "alignments" / name
    old = Path(shutil.copy(source, path)).read_bytes()
    steps, said = save_with(path, -1, lambda *_: None)
    assert not said
    new = path.read_bytes()
    assert new != old
    assert {"open", "write", "fsync", "link", "replace", "close"} <= set(steps)
    for at in range(len(steps)):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        shutil.copy(source, path)

        def fail(step: str, arguments: tuple[Any, ...]) -> None:
            if step == "write" and code != errno.EIO:
                raise OSError(code, os.strerror(code))
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        _, said = save_with(path, at, fail)
        assert not said or said.startswith(("OutputError: ", "InputError: ")), said
        found = path.read_bytes()
        assert found in (old, new)
        assert found == new or said or steps[at] == "open", f"step {at}, {steps[at]}: not saved, and not said"
        backups = [other.read_bytes() for other in tmp_path.glob(f"{path.stem}_*{path.suffix}")]
        assert all(backup == old for backup in backups)
        assert found == old or backups
        if steps[at] not in ("unlink", "close"):
            assert not list(tmp_path.glob(".*.tmp")), (at, steps[at])


@CONTAINERS
@pytest.mark.parametrize("torn", [False, True], ids=["before the call", "in the middle of it"])
def test_death_at_every_step_of_saving(name: str, torn: bool, vectors: Path, tmp_path: Path) -> None:
    """The process ends before each system call, or half-way through each write; the next run clears up and saves."""
    path = tmp_path / name
    source = vectors / "alignments" / name
    old = Path(shutil.copy(source, path)).read_bytes()
    steps, _ = save_with(path, -1, lambda *_: None)
    new = path.read_bytes()
    write = os.write

    def die(step: str, arguments: tuple[Any, ...]) -> None:
        if torn and step == "write":
            write(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
        os._exit(9)

    for at, step in enumerate(steps):
        if torn and step != "write":
            continue
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        shutil.copy(source, path)
        child = os.fork()
        if child == 0:
            save_with(path, at, die)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, (at, step)
        found = path.read_bytes()
        assert found in (old, new)
        backups = [other.read_bytes() for other in tmp_path.glob(f"{path.stem}_*{path.suffix}")]
        assert all(backup == old for backup in backups)
        assert found == old or backups
        _, said = save_with(path, -1, lambda *_: None)
        assert not said
        assert Alignments.load(path).stored_hash(0) == "0" * 40
        assert not [other.name for other in tmp_path.iterdir() if other.name.endswith((".tmp", ".lock"))]


@pytest.fixture
def small(tmp_path: Path, vectors: Path) -> list[str]:
    """A command over a copy of the vectors."""
    shutil.copy(vectors / "alignments" / "g6_2019-12.fsa", tmp_path / "a.fsa")
    given = ["extract", "-a", str(tmp_path / "a.fsa"), "-fr", str(vectors / "frames"), "-fc", str(tmp_path / "faces")]
    return [*given, "-q", "--device", "cpu"]


def stopped_before_saving(command: list[str], tmp_path: Path) -> subprocess.Popen[str]:
    """A run that waits, with all faces cut, for SIGCONT before it saves."""
    code = (
        "import os, signal, sys\n"
        "from gpu_extract.jobs.runs import extraction as job\n"
        "real = job.save\n"
        "def save(*given):\n"
        f"    open({str(tmp_path / 'reached')!r}, 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    real(*given)\n"
        "job.save = save\n"
        "from gpu_extract.cli import main\n"
        "sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    state = Path(f"/proc/{process.pid}/stat")
    while not (tmp_path / "reached").exists() or state.read_text().rpartition(")")[2].split()[0] != "T":
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def test_the_second_run_on_a_file_refuses(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = stopped_before_saving(small, tmp_path)
    try:
        other = [*small[:-3], "-fc", str(tmp_path / "other"), "-q"]
        before = (tmp_path / "a.fsa").read_bytes()
        assert main(other) == 7
        said = capsys.readouterr().err
        assert f"is in use by another run (process {process.pid}); wait until it has finished." in said
        assert (tmp_path / "a.fsa").read_bytes() == before
        assert not (tmp_path / "other").exists()
        assert main([*other, "--no-update"]) == 4, "reading it is no harm"
    finally:
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=20)
    assert process.returncode == 4
    assert not (tmp_path / "a.fsa.lock").exists()


def test_the_lock_of_a_killed_run_is_stale(small: list[str], tmp_path: Path) -> None:
    process = stopped_before_saving(small, tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / "a.fsa.lock").exists()
    assert main([*small, "--resume"]) == 4
    assert Alignments.load(tmp_path / "a.fsa").stored_hash(0)
    assert not (tmp_path / "a.fsa.lock").exists()


@pytest.mark.parametrize("change_back", [False, True], ids=["changed", "rewritten with the same bytes"])
def test_a_file_that_changed_since_it_was_loaded(change_back: bool, small: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.fsa"
    process = stopped_before_saving(small, tmp_path)
    edited = Alignments.load(path)
    edited.set_field(0, "x", 4711)
    content = path.read_bytes() if change_back else b"".join(edited.content())
    path.write_bytes(content)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=20)
    if change_back:
        assert process.returncode == 4
        assert Alignments.load(path).stored_hash(0)
        return
    assert process.returncode == 7
    assert "was changed by another program since it was loaded, so it was not overwritten" in err
    assert path.read_bytes() == content
    (kept,) = tmp_path.glob("a_unsaved_*.fsa")
    assert kept.name in err
    hashes = Alignments.load(kept)
    assert hashes.stored_hash(0)
    assert hashes.record(0)["x"] != 4711
    assert main([*small, "--resume"]) == 4, "the faces are there; their hashes go into the changed file"
    merged = Alignments.load(path)
    assert merged.record(0)["x"] == 4711
    assert merged.stored_hash(0) == hashes.stored_hash(0)


def test_a_file_that_vanished_is_written_again(small: list[str], tmp_path: Path) -> None:
    process = stopped_before_saving(small, tmp_path)
    (tmp_path / "a.fsa").unlink()
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=20)
    assert process.returncode == 4
    assert Alignments.load(tmp_path / "a.fsa").stored_hash(0)


def test_every_finished_frame_is_in_the_journal(small: list[str], tmp_path: Path) -> None:
    """What the journal says is on disk: each line's files, whole."""
    process = stopped_before_saving(small, tmp_path)
    process.kill()
    process.communicate()
    found = journal.read(tmp_path / "faces")
    assert found is not None
    faces = [face for frame in found[1] for face in frame.faces]
    assert len(faces) == 17
    for face in faces:
        assert (tmp_path / "faces" / face.file_name).stat().st_size == face.nbytes
        assert cv2.imread(str(tmp_path / "faces" / face.file_name)) is not None
    assert json.loads(json.dumps(found[0])) == found[0]


@pytest.mark.parametrize(("document", "least"), [("reliability", 30), ("confinement", 15)])
def test_a_document_of_promises_names_tests_that_exist(document: str, least: int) -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"`(test_\w+)\.(test_\w+)`", (root / "docs" / f"{document}.md").read_text("utf-8"))
    assert len(named) > least
    for module, name in named:
        assert f"def {name}(" in (root / "tests" / f"{module}.py").read_text("utf-8"), f"{module}.{name}"
