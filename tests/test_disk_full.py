"""Full disks, read-only inputs, dry runs, and runs that end at the first errors."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.run import journal
from gpu_extract.run.journal import Finished
from tests.helpers import Job, Tmpfs, by_the_long_way, copied, extract_command, mount, noise, tmpfs_at

FRAMES = 60
LAYOUTS = pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])


def in_layouts(codes: tuple[int, ...], *left_to_soak: tuple[str, int]) -> pytest.MarkDecorator:
    """Every layout with every error; some pairs that prove nothing which the others do not are for `make soak`."""
    pairs = [(layout, code) for layout in ("flat", "by-frame", "webdataset") for code in codes]
    return pytest.mark.parametrize(
        ("layout", "code"),
        [
            pytest.param(
                *pair,
                id=f"{pair[0]}-{errno.errorcode[pair[1]]}",
                marks=[pytest.mark.slow] if pair in left_to_soak else [],
            )
            for pair in pairs
        ],
    )


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Tmpfs]]:
    with ExitStack() as made:
        numbers = itertools.count()
        yield lambda kib: made.enter_context(tmpfs_at(tmp_path / f"disk{next(numbers)}", kib))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """The same folder once more, where nobody can write into it."""
    made: list[Path] = []

    def make(folder: Path) -> Path:
        view = tmp_path / f"ro{len(made)}"
        view.mkdir()
        if not mount("--bind", str(folder), str(view)):
            pytest.skip("file systems cannot be mounted here")
        made.append(view)
        assert mount("-o", "remount,bind,ro", str(view))
        return view

    yield make
    for view in made:
        subprocess.run(["umount", "-l", str(view)], check=True)


def job_in(root: Path, inputs: Path) -> Job:
    return Job(copied(inputs / "a.fsa", root), inputs / "frames", "-sz", "96")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """Frames of noise: faces as large as PNGs get, some 27 KB at 96 px."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "one.png"), noise(480, 640))
    entries = {}
    for number in range(FRAMES):
        name = f"f_{number:06d}.png"
        os.link(folder / "one.png", folder / "frames" / name)
        entries[name] = [face_record(landmarks + np.float32(number + 7 * k)) for k in range(2)]
    write_alignments(folder / "a.fsa", entries)
    return folder


@pytest.fixture(scope="module")
def plain(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """The files of an undisturbed run, by layout."""
    found: dict[str, dict[str, bytes]] = {}

    def files(layout: str) -> dict[str, bytes]:
        if layout not in found:
            job = job_in(tmp_path_factory.mktemp("plain"), inputs)
            assert job.run("--output-layout", layout) == 0
            found[layout] = job.files()
        return found[layout]

    return files


@LAYOUTS
def test_a_disk_that_fills_up(
    layout: str, inputs: Path, tmp_path: Path, tmpfs: Any, plain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = plain(layout)
    disk = tmpfs(1400)
    job = job_in(tmp_path, inputs)
    job.faces = disk.folder / "faces"
    capsys.readouterr()
    assert job.run("--output-layout", layout) == 6
    said = capsys.readouterr().err
    assert "No space left on device; when that is solved, run the same command with --resume to continue." in said
    assert said.count("\n") == 1
    assert job.alignments.read_bytes() == job.before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.fsa", "disk0"]
    disk.grow(8000)
    assert job.run("--output-layout", layout, "--resume") == 0
    assert job.files() == wanted
    assert Alignments.load(job.alignments).stored_hash(0)


@in_layouts(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(("by-frame", errno.ENOSPC), ("by-frame", errno.EIO), ("webdataset", errno.EDQUOT)),
)
def test_writes_that_fail(
    layout: str,
    code: int,
    inputs: Path,
    tmp_path: Path,
    plain: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a full disk has it: part of a write succeeds, all later ones fail."""
    wanted = plain(layout)
    job = job_in(tmp_path, inputs)
    real, left = os.write, [700_000]

    def write(descriptor: int, data: Any) -> int:
        if str(job.faces) not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            return real(descriptor, data)
        room = min(left[0], len(data))
        left[0] -= room
        if room == 0:
            raise OSError(code, os.strerror(code))
        return real(descriptor, bytes(data)[:room])

    with monkeypatch.context() as patch:
        by_the_long_way(patch)
        patch.setattr(os, "write", write)
        capsys.readouterr()
        assert job.run("--output-layout", layout) == 6
        assert os.strerror(code) in capsys.readouterr().err
        assert not [name for name in job.files() if name.startswith(".")]
        assert job.run("--output-layout", layout, "--resume") == 6
    assert job.alignments.read_bytes() == job.before
    assert job.run("--output-layout", layout, "--resume") == 0
    assert job.files() == wanted


@in_layouts((errno.ENOSPC, errno.EIO), ("flat", errno.EIO), ("by-frame", errno.ENOSPC))
def test_a_disk_that_is_gone(
    layout: str,
    code: int,
    inputs: Path,
    tmp_path: Path,
    plain: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From some call on every one fails, those that clear up too: what is told is what failed first."""
    wanted = plain(layout)
    real = {name: getattr(os, name) for name in ("write", "close", "fsync", "rename", "replace", "unlink")}
    left = [0]

    def where(what: Any) -> str:
        return os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else os.fspath(what)  # noqa: PTH115

    def failing(name: str) -> Callable[..., Any]:
        def call(what: Any, *rest: Any, **named: Any) -> Any:
            gone = where(what).startswith(str(tmp_path))
            left[0] -= gone
            if not gone or left[0] >= 0:
                return real[name](what, *rest, **named)
            if name == "close":
                real[name](what)
            raise OSError(code, os.strerror(code))

        return call

    for calls in (3, 4, 5, 6, 7, 50, 90):
        job = job_in(tmp_path / str(calls), inputs)
        with monkeypatch.context() as patch:
            by_the_long_way(patch)
            for name in real:
                patch.setattr(os, name, failing(name))
            left[0] = calls
            capsys.readouterr()
            ended = job.run("--output-layout", layout)
        said = capsys.readouterr().err
        assert left[0] < 0, "it had no need of that many calls"
        assert ended == 6, said
        assert str(tmp_path) in said
        assert said.count("\n") == 1
        assert "--resume" in said or "The lock" in said
        assert job.alignments.read_bytes() == job.before
        assert job.run("--output-layout", layout, "--resume") == 0
        assert job.files() == wanted


@LAYOUTS
@pytest.mark.parametrize("how", ["removed", "renamed", "replaced by an empty one", "replaced by a file", "unmounted"])
def test_a_folder_that_goes_away_while_the_run_writes_into_it(
    how: str,
    layout: str,
    inputs: Path,
    tmp_path: Path,
    plain: Any,
    tmpfs: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the run may still write through what it has open: its hashes are not saved, and nobody is told of faces
    that are not there. Back in its place, the folder is gone on with."""
    wanted = plain(layout)
    job = job_in(tmp_path, inputs)
    if how == "unmounted":
        job.faces = tmpfs(20_000).folder / "faces"
    aside, real, calls = tmp_path / "aside", journal.Journal.add, []

    def add(self: journal.Journal, *frames: Finished) -> None:
        real(self, *frames)
        calls.append(frames)
        if len(calls) > 1:
            return
        while how == "removed" and job.faces.exists():  # others write into it meanwhile
            shutil.rmtree(job.faces, ignore_errors=True)
        if how == "removed":
            return
        if how == "unmounted":
            subprocess.run(["umount", "-l", str(job.faces.parent)], check=True)
        else:
            job.faces.rename(aside)
        if how == "replaced by an empty one":
            job.faces.mkdir()
        elif how == "replaced by a file":
            job.faces.write_bytes(b"")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", add)
        capsys.readouterr()
        assert job.run("--output-layout", layout) == 6
    assert capsys.readouterr().err == (
        f"gpu-extract: the faces folder {job.faces} was renamed, replaced or removed while the run wrote into it; when "
        "that is solved, run the same command with --resume to continue.\n"
    )
    assert job.alignments.read_bytes() == job.before
    if how.startswith("replaced"):
        job.faces.rename(tmp_path / "other")
    if aside.exists():
        aside.rename(job.faces)
    assert job.run("--output-layout", layout, "--resume") == 0
    assert job.files() == wanted
    if how == "unmounted":
        assert mount("-t", "tmpfs", "tmpfs", str(job.faces.parent)), "for whoever unmounts it"


def test_a_disk_too_full_to_save_on(
    inputs: Path, tmp_path: Path, tmpfs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmpfs(200)
    job = job_in(disk.folder, inputs)
    job.faces, job.json = tmp_path / "faces", tmp_path / "report.json"
    filler = disk.folder / "filler"
    filler.write_bytes(bytes(os.statvfs(disk.folder).f_bavail * 4096 - 8192))
    assert job.run() == 6
    assert "when that is solved, run the same command with --resume to continue." in capsys.readouterr().err
    assert job.alignments.read_bytes() == job.before
    assert sorted(path.name for path in disk.folder.iterdir()) == ["a.fsa", "filler"]
    filler.unlink()
    assert job.run("--resume") == 0
    assert Alignments.load(job.alignments).stored_hash(0)


def test_what_cannot_fit_is_not_begun(
    inputs: Path, tmp_path: Path, tmpfs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmpfs(400)
    job = job_in(tmp_path, inputs)
    job.faces = disk.folder / "faces"
    assert job.run() == 6
    said = capsys.readouterr().err
    assert "would not fit into" in said
    assert "which has 0 MB free; free some space, or choose a smaller --size or --format jpg." in said
    assert list(job.faces.iterdir()) == []
    assert job.run("-sz", "32", "-een", "10") == 0


def test_only_what_is_left_must_fit(inputs: Path, tmp_path: Path, tmpfs: Any) -> None:
    """A resumed run on a nearly full disk counts what it still has to write, not what lies there already."""
    disk = tmpfs(8000)
    job = job_in(tmp_path, inputs)
    job.faces = disk.folder / "faces"
    assert job.run() == 0
    for path in job.faces.glob("f_00000[01]_*.png"):
        path.unlink()
    free = os.statvfs(disk.folder).f_bavail * 4096
    (disk.folder / "filler").write_bytes(bytes(free - 200_000))
    assert job.run("--resume", "--deleted", "restore") == 0
    assert job.report["faces_written"] == 2 * FRAMES


def test_a_report_that_cannot_be_written_is_noticed_before_the_run(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_in(tmp_path, inputs)
    job.json = tmp_path / "missing" / "report.json"
    assert job.run("-een", "20") == 6
    assert "the report cannot be written to" in capsys.readouterr().err
    assert not job.faces.exists()
    assert job.alignments.read_bytes() == job.before


@pytest.mark.parametrize("target", ["alignments", "frames"])
def test_the_report_never_replaces_an_input(
    target: str, inputs: Path, tmp_path: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_in(tmp_path, inputs)
    clip = tmp_path / "clip.mp4"
    shutil.copy(vectors / "video" / "clip.mp4", clip)
    job.frames = clip
    job.json = tmp_path / ".." / tmp_path.name / ("a.fsa" if target == "alignments" else "clip.mp4")
    before = job.json.read_bytes()
    assert job.run() == 2
    assert f"the report would replace the {target}" in capsys.readouterr().err
    assert job.json.read_bytes() == before


def test_read_only_inputs(
    inputs: Path, tmp_path: Path, read_only: Any, plain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = plain("flat")
    view = read_only(inputs)
    job = job_in(tmp_path, inputs)
    job.frames, job.alignments = view / "frames", view / "a.fsa"
    assert job.run() == 6
    assert (
        "cannot be updated, its folder is read-only; add --no-update to leave it as it is." in capsys.readouterr().err
    )
    assert not job.faces.exists()
    assert job.run("--no-update") == 0
    assert job.files() == wanted
    command = ["-a", str(job.alignments), "-fr", str(job.frames)]
    assert main(["verify", *command, "-fc", str(read_only(job.faces)), "--progress", "none"]) == 0
    assert main(["check", *command]) == 0


def test_read_only_inputs_of_a_version_without_hashes(vectors: Path, tmp_path: Path, read_only: Any) -> None:
    view = read_only(vectors)
    command = extract_command(view / "alignments" / "v2_4_list.fsa", view / "frames", tmp_path / "faces", "-q")
    assert main(command) == 4
    assert len(list((tmp_path / "faces").glob("*.png"))) == 17


def test_files_without_write_permission(inputs: Path, tmp_path: Path, plain: Any) -> None:
    wanted = plain("flat")
    job = job_in(tmp_path, inputs)
    copy = tmp_path / "frames"
    shutil.copytree(inputs / "frames", copy)
    for path in [*copy.iterdir(), job.alignments]:
        path.chmod(0o444)
    copy.chmod(0o555)
    job.frames = copy
    assert job.run() == 0
    assert job.files() == wanted
    assert job.alignments.stat().st_mode & 0o777 == 0o444
    assert Alignments.load(job.alignments).stored_hash(0)


def everything(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


def test_a_dry_run_writes_nothing_and_tells(
    inputs: Path, tmp_path: Path, plain: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    size_of_all = sum(map(len, plain("flat").values()))
    job = job_in(tmp_path / "job", inputs)
    job.json = tmp_path / "report.json"
    before = everything(job.root)
    capsys.readouterr()
    assert job.run("--dry-run") == 0
    assert everything(job.root) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"plan    {2 * FRAMES} faces of {FRAMES} frames, 96 px"
    assert lines[2].startswith("space   about ")
    assert lines[3].startswith("time    about ")
    assert lines[-2] == "nothing was written"
    report = job.report
    assert report["dry_run"]
    assert (report["faces_planned"], report["frames_expected"], report["faces_written"]) == (2 * FRAMES, FRAMES, 0)
    assert 0.8 < report["bytes_estimated"] / size_of_all < 1.25
    assert 0 < report["seconds_estimated"] < 60


@pytest.mark.parametrize("options", [("--output-layout", "webdataset"), ("--format", "jpg"), ("--resume",)], ids=str)
def test_a_dry_run_of_anything_writes_nothing(options: tuple[str, ...], inputs: Path, tmp_path: Path) -> None:
    job = job_in(tmp_path, inputs)
    if options == ("--resume",):
        assert job.run("-een", "20") == 0
    job.json = tmp_path / "told" / "report.json"  # a folder of its own: a report is written beside itself and renamed
    job.json.parent.mkdir()
    told = {str(job.json), str(job.json.parent)}
    before = {path: state for path, state in everything(tmp_path).items() if path not in told}
    assert job.run("--dry-run", *options) == 0
    assert {path: state for path, state in everything(tmp_path).items() if path not in told} == before


def test_a_dry_run_refuses_a_folder_that_the_run_would_refuse(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_in(tmp_path, inputs)
    assert job.run("-een", "20") == 0
    before = everything(tmp_path)
    ways: tuple[tuple[str, ...], ...] = ((), ("--shard", "0/2"))
    for dry in (("--dry-run",), ()):
        for words in ways:
            assert job.run(*dry, *words) == 6
        assert not dry or everything(tmp_path) == before
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-extract: ")]
    assert len(told) == 4
    assert told[:2] == told[2:]
    assert all("holds a" in line for line in told)


@pytest.fixture
def torn(inputs: Path, tmp_path: Path) -> Job:
    """A job of which frames 10, 20, 30, 40 and 50 cannot be read."""
    job = job_in(tmp_path, inputs)
    frames = tmp_path / "frames"
    shutil.copytree(inputs / "frames", frames)
    for number in range(10, FRAMES, 10):
        (frames / f"f_{number:06d}.png").write_bytes(b"torn")
    job.frames = frames
    return job


@pytest.mark.parametrize(
    ("options", "least", "words"),
    [
        (("--on-error", "stop"), 1, "stopped at the first error after"),
        (("--max-errors", "1"), 1, "stopped by too many errors after"),
        (("--max-errors", "3"), 3, "stopped by too many errors after"),
    ],
)
def test_errors_that_end_a_run(options: tuple[str, ...], least: int, words: str, torn: Job) -> None:
    assert torn.run("--workers", "1", *options) == 4
    report = torn.report
    assert report["stopped"]
    assert least <= len(report["errors"]) <= least + 1  # one more may have been in flight
    assert report["frames_decoded"] < FRAMES - 5
    assert words in report["notes"][-1]
    assert report["notes"][-1].endswith("run the same command with --resume to continue.")
    assert torn.alignments.read_bytes() == torn.before
    good = torn.root / "frames"
    for path in good.glob("*.png"):
        shutil.copy(good / "f_000001.png", path) if path.read_bytes() == b"torn" else None
    assert torn.run("--resume", *options) == 0
    assert torn.report["faces_written"] == 2 * FRAMES


@pytest.mark.parametrize("options", [(), ("--on-error", "skip"), ("--max-errors", "6")])
def test_errors_that_do_not(options: tuple[str, ...], torn: Job) -> None:
    assert torn.run(*options) == 4
    report = torn.report
    assert not report["stopped"]
    assert len(report["errors"]) == 5
    assert report["faces_written"] == 2 * FRAMES - 10
    assert Alignments.load(torn.alignments).stored_hash(0)


def test_a_fault_that_is_known_before_the_start_counts(inputs: Path, tmp_path: Path) -> None:
    job = job_in(tmp_path, inputs)
    loaded = Alignments.load(job.alignments)
    loaded.set_field(3, "landmarks_xy", np.full((68, 2), 7, np.float32))
    loaded.save()
    before = job.alignments.read_bytes()
    assert job.run("--on-error", "stop") == 4
    assert job.report["errors"] == [
        {"frame": "f_000001.png", "index": 1, "reason": "its landmarks do not define a crop (all in one place)"}
    ]
    assert job.report["faces_written"] == 0
    assert job.alignments.read_bytes() == before
    assert job.run("--resume") == 4
    assert job.report["faces_written"] == 2 * FRAMES - 1
