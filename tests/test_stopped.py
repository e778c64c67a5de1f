"""What was stopped while it changed a faces folder is completed by its own command, and no other one goes between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_extract.cli import main
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.changes.renamed import Renamed
from gpu_extract.jobs.changes.renumbered import Renumbered
from gpu_extract.jobs.prune import prune
from gpu_extract.jobs.reindex import reindex
from gpu_extract.jobs.rename import rename
from gpu_extract.jobs.verify import verify
from gpu_extract.run import journal
from tests.helpers import VECTORS, copied, extract_command, files_in

FRAMES = VECTORS / "frames"
NAMES = ("g6_2019-12.fsa", "v2_3.fsa")
OPTIONS = ("-q", "-sz", 64, "--replace-hashes", "--metadata", "jsonl")
CIRCLE = ("f_000002_0.png", "f_000002_1.png", "f_000008_0.png")


class Stop(BaseException):
    """As a signal that nobody waits for."""


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    file = copied(VECTORS / "alignments" / request.param, root)
    assert main(extract_command(file, FRAMES, root / "faces", *OPTIONS)) == 4
    return root


class Job:
    """A copy of a run's alignments file and faces, changed by hand so that each command has something to do."""

    def __init__(self, made: Path, root: Path) -> None:
        shutil.copytree(made, root, dirs_exist_ok=True)
        self.faces = root / "faces"
        self.file = next(root / name for name in NAMES if (root / name).exists())

    def state(self) -> dict[str, bytes]:
        journals = {name: (self.faces / name).read_bytes() for name in journal.names(self.faces)}
        return files_in(self.faces) | journals | {"": self.file.read_bytes()}

    def start(self, command: str) -> None:
        if command == "prune":
            (self.faces / CIRCLE[0]).unlink()
            prune(self.file, self.faces)
        elif command == "reindex":
            reindex(self.file, faces=self.faces)
        else:
            for name in CIRCLE:
                (self.faces / name).rename(self.faces / f"{name}.x")
            for name, other in zip(CIRCLE, CIRCLE[1:] + CIRCLE[:1], strict=True):
                (self.faces / f"{name}.x").rename(self.faces / other)
            rename(self.faces)

    def words(self, command: str) -> list[str]:
        places = ["-a", str(self.file), "-fc", str(self.faces), "-q"]
        return {
            "prune": ["prune", *places],
            "prune --undo": ["prune", *places, "--undo"],
            "reindex": ["reindex", *places],
            "reindex --dry-run": ["reindex", *places, "--dry-run"],
            "rename": ["rename", str(self.faces), "-q"],
            "rename --dry-run": ["rename", str(self.faces), "-q", "--dry-run"],
            "rename --undo": ["rename", str(self.faces), "-q", "--undo"],
            "rebuild": ["rebuild", str(self.faces), str(self.file.parent / "new.fsa"), "-q"],
            "resume": extract_command(self.file, FRAMES, self.faces, *OPTIONS, "--resume"),
            "processes": extract_command(self.file, FRAMES, self.faces, *OPTIONS, "--resume", "--processes", 2),
            "merge": ["merge", *places, "-fr", str(FRAMES)],
        }[command]


def _stop(monkeypatch: pytest.MonkeyPatch, owner: type | object, name: str, at: int) -> None:
    """Have a call of a method stop the program, the `at`-th one."""
    plain: Callable[..., object] = getattr(owner, name)
    calls = 0

    def stopping(*arguments: object, **more: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Stop
        return plain(*arguments, **more)

    monkeypatch.setattr(owner, name, stopping)


@pytest.mark.parametrize("command", ["prune", "reindex", "rename"])
def test_only_its_own_command_goes_on_with_what_was_stopped(
    command: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, job = Job(made, tmp_path / "one"), Job(made, tmp_path / "other")
    undisturbed.start(command)
    record = {"prune": Pruned, "reindex": Renumbered, "rename": Renamed}[command]
    if command == "reindex":
        _stop(monkeypatch, record, "_name", 3)
    elif command == "prune":
        _stop(monkeypatch, record, "_finish", 1)
    else:
        _stop(monkeypatch, Path, "rename", 2 * len(CIRCLE) + 2)
    with pytest.raises(Stop):
        job.start(command)
    monkeypatch.undo()
    before = job.state()
    others = ("prune", "reindex", "rename", "reindex --dry-run", "rename --dry-run", "rename --undo", "prune --undo")
    for other in (*others, "rebuild", "resume", "processes", "merge"):
        if not other.startswith(command):
            assert main(job.words(other)) == 2, other
            said = capsys.readouterr().err
            assert (
                f"a {command} of {job.faces} was stopped; gpu-extract {command} with the same folder completes" in said
            )
            assert job.state() == before, other
    found = verify(job.file, FRAMES, job.faces, progress="none", device="cpu")
    assert any(f"gpu-extract {command} with the same folder completes it" in note for note in found.notes)
    assert main(job.words(command)) == 0
    after = verify(job.file, FRAMES, job.faces, progress="none", device="cpu")
    assert [one for one in after.differences if one["frame"] != "f_000099.png"] == []
    if command != "rename":  # whose record tells of the name that one file had for an instant
        assert job.state() == undisturbed.state()


def test_an_undoing_that_was_stopped_is_named_so(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(made, tmp_path / "job")
    job.start("rename")
    _stop(monkeypatch, Path, "rename", 2)
    with pytest.raises(Stop):
        rename(job.faces, undo=True)
    monkeypatch.undo()
    assert main(job.words("reindex")) == 2
    said = capsys.readouterr().err
    assert f"the undoing of a rename of {job.faces} was stopped; gpu-extract rename --undo with the same folder" in said
    assert main(job.words("rename --undo")) == 0
    assert main(job.words("rename")) == 0
    assert main(job.words("reindex")) == 0


def test_a_record_that_is_damaged_keeps_runs_out_but_nobody_who_only_reads(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Job(made, tmp_path / "job")
    (job.faces / journal.PRUNED).write_bytes(b"damaged")
    assert main(job.words("resume")) == 3
    assert ".gpu-extract.pruned is damaged, or of another version of this program; remove it" in capsys.readouterr().err
    found = verify(job.file, FRAMES, job.faces, progress="none", device="cpu")
    assert found.faces_agree == found.faces_expected > 0
    assert any(note.startswith(f"{job.faces / journal.PRUNED} is damaged") for note in found.notes)
