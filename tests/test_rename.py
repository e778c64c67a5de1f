"""`rename`: faces that were sorted or renamed get the names back that their run gave them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.face_files.header import header_text, parse_text, with_text
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.changes.renamed import Renamed, steps_of
from gpu_extract.jobs.prune import prune
from gpu_extract.jobs.rename import rename
from gpu_extract.jobs.verify import verify
from gpu_extract.run import journal
from tests.helpers import VECTORS, copied, extract_command, files_in, write_pickled
from tests.stopper import CHANGES, killed_at_each_step

FRAMES = VECTORS / "frames"
OLD, NEW = "g6_2019-12.fsa", "v2_3.fsa"
GENERATIONS = (
    *("g0_2018-05.json", "g1_2018-11.json", "g2_2018-12.p", "g3_2019-02.yml", "g4_2019-09.json", "g5_2019-10.json"),
    *(OLD, "g7a_2020-03.fsa", "g7b_2020-08.fsa", "v2_0.fsa"),
    *("v2_1.fsa", "v2_2.fsa", NEW, "v2_4_numpy.fsa", "v2_4_list.fsa"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An alignments file and its `faces` by name and options, each cut once; a test that changes them takes a copy."""
    found: dict[tuple[object, ...], Path] = {}

    def job_of(name: str, *options: object) -> Path:
        if (name, *options) not in found:
            root = tmp_path_factory.mktemp("made")
            file = copied(VECTORS / "alignments" / name, root)
            words = ("-q", "-sz", 64, "--replace-hashes", *options)
            assert main(extract_command(file, FRAMES, root / "faces", *words)) in (0, 4)
            found[name, *options] = root
        return found[name, *options]

    return job_of


class Job:
    """A copy of one, and what its faces were."""

    def __init__(self, made: Path, root: Path) -> None:
        shutil.copytree(made, root, dirs_exist_ok=True)
        self.root, self.faces = root, root / "faces"
        self.file = next(path for path in root.iterdir() if (VECTORS / "alignments" / path.name).exists())
        self.before = self.shown()

    def shown(self) -> dict[str, bytes]:
        return {name: data for name, data in files_in(self.faces).items() if not name.startswith(".")}

    def move(self, **moves: str) -> None:
        """By `f_000001_0="bin/name.png"`."""
        for old, new in moves.items():
            (self.faces / new).parent.mkdir(parents=True, exist_ok=True)
            assert not (self.faces / new).exists()
            (self.faces / f"{old}.png").rename(self.faces / new)

    def in_a_circle(self) -> None:
        """Every face gets the name of the next one."""
        names = sorted(path.name for path in self.faces.glob("*.png"))
        for name in names:
            (self.faces / name).rename(self.faces / f"{name}.x")
        for name, other in zip(names, names[1:] + names[:1], strict=True):
            (self.faces / f"{name}.x").rename(self.faces / other)

    def assert_agrees(self) -> None:
        assert self.shown() == self.before
        report = verify(self.file, FRAMES, self.faces, size=64, progress="none", device="cpu")
        assert [one for one in report.differences if one["frame"] != "f_000099.png"] == []


@pytest.fixture
def job(made: Callable[..., Path], tmp_path: Path) -> Job:
    return Job(made(NEW), tmp_path / "job")


@pytest.mark.parametrize("name", GENERATIONS)
def test_faces_of_any_generation_get_their_names_back(name: str, made: Callable[..., Path], tmp_path: Path) -> None:
    job = Job(made(name), tmp_path / "job")
    job.move(f_000001_0="a nose.png", f_000002_0="small/000001.png", f_000003_1="small/f_000003_1.png")
    job.move(f_000004_1="f_000001_0.png", f_000002_1="f_000002_0.png", f_000002_2="f_000002_1.png")
    sorted_so = job.shown()
    report = rename(job.faces)
    assert report.exit_code == 0
    assert {one["from"]: one["to"] for one in report.renamed} == {
        "a nose.png": "f_000001_0.png",
        "f_000001_0.png": "f_000004_1.png",
        "f_000002_0.png": "f_000002_1.png",
        "f_000002_1.png": "f_000002_2.png",
        "small/000001.png": "small/f_000002_0.png",
    }
    report = rename(job.faces, flat=True)
    assert {one["to"] for one in report.renamed} == {"f_000002_0.png", "f_000003_1.png"}
    job.assert_agrees()
    assert rename(job.faces, flat=True).renamed == []
    (job.faces / journal.NAME).unlink()
    (job.faces / "f_000001_0.png").rename(job.faces / "a nose.png")
    if name[0] == "g" or name == "v2_0.fsa":
        with pytest.raises(InputError, match=r"of 17 images .* none .* before version 2.1 .*; name .* with -a"):
            rename(job.faces)
    assert rename(job.faces, alignments=job.file).known_by == "the alignments file"
    job.assert_agrees()
    assert sorted_so != job.shown()


@pytest.mark.parametrize("name", [OLD, NEW])
def test_a_circle_and_its_undoing(name: str, made: Callable[..., Path], tmp_path: Path) -> None:
    job = Job(made(name), tmp_path / "job")
    job.in_a_circle()
    circle = job.shown()
    assert set(circle) == set(job.before)
    report = rename(job.faces)
    assert len(report.renamed) == 17
    assert report.undo == f"gpu-extract rename {job.faces} --undo"
    job.assert_agrees()
    assert main(report.undo.split()[1:]) == 0
    assert job.shown() == circle
    with pytest.raises(InputError, match="there is nothing to undo: no rename is recorded"):
        rename(job.faces, undo=True)


def test_a_dry_run_changes_nothing_and_tells_all(job: Job, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job.move(f_000001_0="bin/a.png")
    before = files_in(job.faces)
    command = ["rename", str(job.faces), "--flat", "--dry-run", "--json", str(tmp_path / "report.json")]
    assert main(command) == 0
    assert files_in(job.faces) == before
    said = capsys.readouterr().out
    assert "17 images" in said
    assert "1 file would get their names back\n        bin/a.png -> f_000001_0.png" in said
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["renamed"] == [{"from": "bin/a.png", "to": "f_000001_0.png"}]
    assert (told["files_right"], told["dry_run"], told["undo"]) == (16, True, None)


def test_duplicates_stay_and_are_named(job: Job) -> None:
    shutil.copy(job.faces / "f_000001_0.png", job.faces / "a copy.png")
    job.move(f_000002_0="b.png")
    shutil.copy(job.faces / "b.png", job.faces / "c.png")
    shutil.copy(job.faces / "b.png", job.faces / "a.png")
    report = rename(job.faces)
    assert report.exit_code == 4
    assert report.duplicates == [
        {"file": "a copy.png", "of": "f_000001_0.png"},
        {"file": "b.png", "of": "a.png"},
        {"file": "c.png", "of": "a.png"},
    ]
    assert [one["from"] for one in report.renamed] == ["a.png"]
    for name in ("a copy.png", "b.png", "c.png"):
        (job.faces / name).unlink()
    job.assert_agrees()


def changed(data: bytes, **fields: Any) -> bytes:
    """A face with another header."""
    text = header_text(data)
    assert text is not None
    header = parse_text(text)
    header["source"].update(fields)
    return with_text(data, str(header))


def test_files_that_differ_and_want_one_name_stay(job: Job) -> None:
    data = (job.faces / "f_000002_0.png").read_bytes()
    job.move(f_000002_0="b.png")
    (job.faces / "a.png").write_bytes(changed(data, source_is_video=True))
    report = rename(job.faces)
    assert report.exit_code == 4
    assert [one["file"] for one in report.contradictions] == ["a.png", "b.png"]
    assert report.renamed == []
    assert "2 files with one name to have, and not the same in them; left" in report.table()
    (job.faces / "b.png").rename(job.faces / "f_000002_0.png")
    assert rename(job.faces).duplicates == [{"file": "a.png", "of": "f_000002_0.png"}]


def test_names_that_others_keep_are_not_taken(job: Job) -> None:
    job.move(f_000001_0="a.png", f_000002_0="f_000001_0.png.png", f_000003_0="b.png")
    job.move(f_000002_1="f_000003_0.png")
    (job.faces / "f_000001_0.png").write_bytes(b"mine")
    (job.faces / "f_000002_1.png").mkdir()
    before = job.shown()
    report = rename(job.faces)
    assert report.exit_code == 4
    assert report.in_the_way == [{"file": "a.png", "name": "f_000001_0.png"}]
    assert [one["file"] for one in report.unreadable] == ["f_000001_0.png"]
    # A folder has the name of f_000002_1, so that stays, and whose name it has stays, too.
    assert report.notes == [
        "f_000003_0.png is left as it is: f_000002_1.png was taken meanwhile, or the file itself.",
        "b.png is left as it is: f_000003_0.png was taken meanwhile, or the file itself.",
    ]
    assert [one["to"] for one in report.renamed] == ["f_000002_0.png"]
    after = job.shown()
    assert sorted(after.values()) == sorted(before.values())
    assert after["a.png"] == before["a.png"]


def test_foreign_damaged_and_hidden_files_stay(job: Job) -> None:
    cv2.imwrite(str(job.faces / "holiday.png"), np.full((64, 64, 3), 77, np.uint8))
    (job.faces / "f_000002_1.png").write_bytes(job.before["f_000002_1.png"][:-90])
    (job.faces / "notes.txt").write_text("mine")
    job.move(f_000003_0=".trash/a.png", f_000004_0="_duplicates/a.png")
    evil = changed(job.before["f_000001_0.png"], original_filename=".part-x.png")
    (job.faces / "evil.png").write_bytes(evil)
    up = changed(job.before["f_000001_0.png"], original_filename="../up.png")
    (job.faces / "z.png").write_bytes(up)
    report = rename(job.faces)
    assert report.exit_code == 4
    assert report.extra == ["holiday.png"]
    assert [one["file"] for one in report.unreadable] == ["evil.png", "f_000002_1.png"]
    assert "damaged or cut off" in report.unreadable[1]["reason"]
    assert report.renamed == [{"from": "z.png", "to": "up.png"}], "a name, and no way out of the folder"
    assert not (job.faces.parent / "up.png").exists()
    assert (job.faces / ".trash" / "a.png").exists()
    assert (job.faces / "_duplicates" / "a.png").exists()


def test_nested_folders_of_a_large_run(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_extract.face_files.layouts.by_frame.MAX_ENTRIES", 14)
    job = Job(made(NEW, "--output-layout", "by-frame"), tmp_path / "job")
    for number, name in enumerate(sorted(job.before)):
        (job.faces / name).rename(job.faces / f"{number}.png")
    assert rename(job.faces, dry_run=True).renamed[0] == {"from": "0.png", "to": "f_000001_0.png"}
    assert rename(job.faces, flat=True).exit_code == 0
    assert job.shown() == job.before


def test_equal_crops_may_have_any_of_their_names(tmp_path: Path, landmarks: np.ndarray) -> None:
    from tests.helpers import face_entry

    (tmp_path / "frames").mkdir()
    shutil.copy(FRAMES / "f_000001.png", tmp_path / "frames")
    write_pickled(tmp_path / "a.fsa", {"f_000001.png": [face_entry(landmarks) for _ in range(3)]})
    command = extract_command(tmp_path / "a.fsa", tmp_path / "frames", tmp_path / "faces", "-sz", 64, "-q")
    assert main(command) == 0
    before = files_in(tmp_path / "faces")
    (tmp_path / "faces" / "f_000001_0.png").rename(tmp_path / "faces" / "a.png")
    (tmp_path / "faces" / "f_000001_2.png").rename(tmp_path / "faces" / "b.png")
    shutil.copy(tmp_path / "faces" / "b.png", tmp_path / "faces" / "c.png")
    report = rename(tmp_path / "faces")
    assert [(one["from"], one["to"]) for one in report.renamed] == [
        ("a.png", "f_000001_0.png"),
        ("b.png", "f_000001_2.png"),
    ]
    assert [one["file"] for one in report.duplicates] == ["c.png"]
    (tmp_path / "faces" / "c.png").unlink()
    (tmp_path / "faces" / journal.RENAMED).unlink()
    assert files_in(tmp_path / "faces") == before


def test_by_the_alignments_file_names_are_today_s(job: Job) -> None:
    root = Alignments.load(job.file).root()
    faces = root["__data__"]["f_000003.png"]["faces"]
    faces[0], faces[1] = faces[1], faces[0]
    faces[2]["landmarks_xy"] += np.float32(1)
    write_pickled(job.file, root)
    report = rename(job.faces, alignments=job.file)
    assert [(one["from"], one["to"]) for one in report.renamed] == [
        ("f_000003_0.png", "f_000003_1.png"),
        ("f_000003_1.png", "f_000003_0.png"),
    ]
    assert report.unproven == ["f_000003_2.png"]
    assert len(rename(job.faces).renamed) == 2, "the headers say what they were called"


def test_a_folder_of_another_file_is_refused(job: Job, made: Callable[..., Path]) -> None:
    root = Alignments.load(job.file).root()
    for frame in root["__data__"].values():
        for face in frame["faces"]:
            face["landmarks_xy"] += np.float32(2)
    write_pickled(job.file, root)
    with pytest.raises(InputError, match=r"of 17 images .* none is one of the 18 faces of v2_3.fsa: it is the folder"):
        rename(job.faces, alignments=job.file)
    damaged = job.root / "damaged"
    damaged.mkdir()
    (damaged / "f_000001_0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for file in (None, job.file):
        with pytest.raises(InputError, match=r"of 1 image .* none .* f_000001_0.png: the PNG file ends"):
            rename(damaged, alignments=file)
    bare = made("g1_2018-11.json", "--no-update")
    shutil.copytree(bare / "faces", job.root / "bare")
    (job.root / "bare" / journal.NAME).unlink()
    with pytest.raises(InputError, match=r"no face of g1_2018-11.json has a hash"):
        rename(job.root / "bare", alignments=bare / "g1_2018-11.json")


def test_after_a_rename_prune_and_resume_go_on(job: Job) -> None:
    job.in_a_circle()
    (job.faces / "f_000002_1.png").unlink()  # shows f_000002_0
    rename(job.faces)
    assert [(one["frame"], one["index"]) for one in prune(job.file, job.faces).deleted] == [("f_000002.png", 0)]
    report = verify(job.file, FRAMES, job.faces, progress="none", device="cpu")
    assert [one for one in report.differences if one["frame"] != "f_000099.png"] == []
    shown = job.shown()
    assert main(extract_command(job.file, FRAMES, job.faces, "-sz", 64, "-q", "--resume")) == 4
    assert job.shown() == shown


def test_refusals(job: Job, tmp_path: Path, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no face"):
        rename(tmp_path / "empty")
    with pytest.raises(UsageError, match="undo and dry-run exclude each other"):
        rename(job.faces, undo=True, dry_run=True)
    with pytest.raises(UsageError, match="dry-run must be true or false"):
        rename(job.faces, dry_run=1)  # type: ignore[arg-type]
    assert main(["rename", str(tmp_path / "none")]) == 3
    assert main(["rename", "s3://bucket/faces"]) == 2
    assert main(["rename", str(job.faces), "-a", str(tmp_path / "none.fsa")]) == 3
    with pytest.raises(UsageError, match="members of tar shards"):
        rename(made(NEW, "--output-layout", "webdataset") / "faces")
    with journal.locked(job.faces), pytest.raises(OutputError, match="another run is writing"):
        rename(job.faces)
    (job.faces / "f_000002_0.png").unlink()
    monkeypatch.setattr(Pruned, "bring_forward", lambda *_: (_ for _ in ()).throw(OutputError("full")))
    with pytest.raises(OutputError, match="full"):
        prune(job.file, job.faces)
    with pytest.raises(UsageError, match=r"a prune of .* was stopped; gpu-extract prune .* completes it"):
        rename(job.faces)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="is read-only; nothing was renamed"):
        rename(job.faces)


def test_a_record_that_is_damaged_is_named(job: Job) -> None:
    job.move(f_000001_0="a.png")
    rename(job.faces)
    record = job.faces / journal.RENAMED
    for data in (b"", b"{}", record.read_bytes()[:-9], zlib.compress(b"[]"), zlib.compress(b'{"renamed": 99}')):
        record.write_bytes(data)
        with pytest.raises(InputError, match=r"\.gpu-extract\.renamed is damaged, or of another version"):
            rename(job.faces, undo=True)


def test_undo_leaves_alone_what_was_changed_since(job: Job) -> None:
    job.move(f_000001_0="a.png", f_000002_0="b.png", f_000003_0="c.png")
    rename(job.faces)
    (job.faces / "f_000001_0.png").write_bytes(b"mine")
    (job.faces / "b.png").write_bytes(b"mine, too")
    report = rename(job.faces, undo=True)
    assert report.exit_code == 4
    assert report.notes == [
        "f_000001_0.png is left as it is: it was changed or taken away meanwhile.",
        "f_000002_0.png is left as it is: b.png is taken.",
    ]
    assert (job.faces / "c.png").read_bytes() == job.before["f_000003_0.png"]
    assert (job.faces / "f_000002_0.png").read_bytes() == job.before["f_000002_0.png"]


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_disk_that_refuses_is_an_output_error_and_the_next_goes_on(
    call: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.in_a_circle()
    real, calls = getattr(os, call), []

    def refusing(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if call == "fsync" or len(calls) == 3:
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing)
        with pytest.raises(OutputError, match="no space left on device"):
            rename(job.faces)
    assert sorted(job.shown().values()) == sorted(job.before.values())
    rename(job.faces)
    job.assert_agrees()


def test_steps_take_free_names_only() -> None:
    """Chains from their free end on, circles by way of a third name, whatever their order."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        names = [*(f"{number}.png" for number in range(12)), "3 (renaming).png"]
        sources = rng.permutation(names)[: rng.integers(1, 10)].tolist()
        stay = [name for name in names if name not in sources][: rng.integers(0, 3)]
        targets = [name for name in rng.permutation(names).tolist() if name not in stay][: len(sources)]
        moves = {source: target for source, target in zip(sources, targets, strict=True) if source != target}
        still = set(sources) - moves.keys()
        moves = {source: target for source, target in moves.items() if target not in still}
        while blocked := [s for s, t in moves.items() if t in set(sources) - moves.keys()]:
            for source in blocked:
                del moves[source]
        held = {name: name for name in (*sources, *stay, "4 (renaming).png")}
        for source, target in steps_of(moves, set(held)):
            assert target not in held
            held[target] = held.pop(source)
        assert {name: now for now, name in held.items()} == {name: moves.get(name, name) for name in held.values()}


# ---- whatever stops it


@pytest.mark.parametrize("name", [OLD, pytest.param(NEW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["rename", "undo"])
def test_killed_at_any_step_nothing_is_lost_and_the_next_completes_it(
    name: str, way: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    """Each operation of the file system is once the one before which it is killed."""
    job = Job(made(name), tmp_path / "job")
    for path in sorted(job.faces.glob("*.png"))[5:]:
        path.unlink()
    new = job.shown()
    job.move(f_000003_0="bin/f_000001_0.png", f_000001_0="f_000002_0 (renaming).png")
    job.move(f_000002_0="y.png", f_000002_1="f_000002_0.png", f_000002_2="f_000002_1.png")
    (job.faces / "y.png").rename(job.faces / "f_000002_2.png")
    old = job.shown()
    kept = tmp_path / "kept"
    shutil.copytree(job.faces, kept / "rename")
    rename(job.faces, flat=True)
    assert job.shown() == new
    shutil.copytree(job.faces, kept / "undo")

    def restored() -> None:
        shutil.rmtree(job.faces)
        shutil.copytree(kept / way, job.faces)

    operations = (*CHANGES, "mkdir", "fsync")
    for step, _ in killed_at_each_step(
        "rename", restored, job.faces, operations=operations, flat=True, undo=way == "undo"
    ):
        assert sorted(job.shown().values()) == sorted(new.values()), step
        record = Renamed.load(job.faces)
        if way == "undo":
            if record is not None and record.state == "undoing":
                with pytest.raises(UsageError, match="--undo completes it"):
                    rename(job.faces, flat=True)
            if record is not None:
                rename(job.faces, undo=True)
            assert job.shown() == old, step
        else:
            assert rename(job.faces, flat=True).exit_code == 0
            assert job.shown() == new, step
            if record is not None and step % 3 == 0:
                rename(job.faces, undo=True)
                assert job.shown() == old, step
        assert not list(job.faces.rglob(".*.tmp")), step
    assert step > 10
