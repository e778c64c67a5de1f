"""`reindex`: the faces of each frame in another order, and everything else as it was."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsError, InputError, OutputError, UsageError
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.changes.renumbered import Renumbered
from gpu_extract.jobs.reindex import ORDERS, reindex
from gpu_extract.jobs.verify import verify
from gpu_extract.run import journal
from gpu_extract.storage.atomic import locked
from tests.helpers import VECTORS, copied, extract_command, files_in, write_pickled
from tests.stopper import killed_at_each_step

FRAMES = VECTORS / "frames"
NAME = "v2_3.fsa"
FILES = sorted(
    path.name
    for path in (VECTORS / "alignments").iterdir()
    if path.name[0] in "gv" and not any(part in path.name for part in ("from", "proto", "0.yml", "1.yml"))
)


def faces_of(root: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of faces of a file, by frame; they are the file's own."""
    frames = root.get("__data__", root)
    return {key: entry if isinstance(entry, list) else entry["faces"] for key, entry in frames.items()}


def place(face: dict[str, Any], by: str) -> float:
    x, y, w, h = (face[key] for key in "xywh")
    return float({"left-to-right": x, "top-to-bottom": y, "size": -w * h}[by])


@pytest.mark.parametrize(("name", "by"), [(name, ORDERS[i % len(ORDERS)]) for i, name in enumerate(FILES)])
def test_faces_of_any_generation_are_put_into_order(name: str, by: str, tmp_path: Path) -> None:
    file = copied(VECTORS / "alignments" / name, tmp_path)
    old, expected = file.read_bytes(), Alignments.load(file).root()
    moved = 0
    for key, faces in faces_of(expected).items():
        if name[:2] != "g0" or key != "f_000008.png":
            before = list(faces)
            faces.sort(key=lambda face: place(face, by))
            moved += sum(one is not other for one, other in zip(before, faces, strict=True))
    report = reindex(file, by=by)
    assert report.exit_code == (4 if name[:2] == "g0" else 0)
    assert len(report.faces_moved) == moved > 0
    assert report.backup is not None
    assert Path(report.backup).read_bytes() == old
    after = Alignments.load(file)
    np.testing.assert_equal(after.root(), expected)
    assert list(after.root()) == list(expected), "frames and their order stay"
    assert after.generation == Alignments.load(report.backup).generation
    written = file.read_bytes()
    again = reindex(file, by=by)
    assert (again.faces_moved, again.backup) == ([], None)
    assert file.read_bytes() == written


@pytest.mark.parametrize("name", [NAME, "g6_2019-12.fsa"])
def test_a_fresh_extraction_is_what_verify_wants_and_shows_the_same_faces(name: str, tmp_path: Path) -> None:
    file = copied(VECTORS / "alignments" / name, tmp_path)
    before, after = tmp_path / "before", tmp_path / "after"
    words = ("-q", "-sz", 64, "--replace-hashes")
    assert main(extract_command(file, FRAMES, before, *words)) == 4
    hashes = {
        key: [face.get("hash") for face in faces] for key, faces in faces_of(Alignments.load(file).root()).items()
    }
    report = reindex(file)
    assert report.notes == ["faces that were cut before have the old numbers; extract them again, into a new folder."]
    assert main(extract_command(file, FRAMES, before, *words, "--resume")) == 2, "the folder is another file's now"
    now = {key: [face.get("hash") for face in faces] for key, faces in faces_of(Alignments.load(file).root()).items()}
    for one in report.faces_moved:
        assert now[one["frame"]][one["new_index"]] == hashes[one["frame"]][one["index"]], "hashes go with their faces"
    assert main(extract_command(file, FRAMES, after, "-q", "-sz", 64)) == 4
    found = verify(file, FRAMES, after, progress="none", device="cpu")
    assert [one for one in found.differences if one["frame"] != "f_000099.png"] == []
    assert found.faces_agree == found.faces_expected
    hashed = name[0] == "g"
    assert (found.hashes_compared > 10) == hashed
    if hashed:  # without headers, whose numbers differ, the files are the same ones
        renamed = {f"{one['frame'][:-4]}_{one['index']}.png": one for one in report.faces_moved}
        new, old = files_in(after), files_in(before)
        for path, one in renamed.items():
            if path in old:
                assert new[f"{one['frame'][:-4]}_{one['new_index']}.png"] == old[path]


def test_what_files_of_later_programs_hold_goes_along(tmp_path: Path) -> None:
    root = Alignments.load(VECTORS / "alignments" / NAME).root()
    for faces in faces_of(root).values():
        for number, face in enumerate(faces):
            face["unheard of"] = {"number": number, "points": np.arange(number)}
    root["__data__"]["f_000002.png"]["note"] = "mine"
    file = write_pickled(tmp_path / "a.fsa", root)
    report = reindex(file)
    after = Alignments.load(file).root()
    for one in report.faces_moved:
        face = faces_of(after)[one["frame"]][one["new_index"]]
        assert face["unheard of"]["number"] == one["index"]
        assert ("vgg-clear" in face["mask"]) == (one["index"] < 2)
    assert after["__data__"]["f_000002.png"]["note"] == "mine"


def test_ties_keep_their_order_and_faces_that_are_nowhere_come_last(tmp_path: Path) -> None:
    root = Alignments.load(VECTORS / "alignments" / NAME).root()
    face = faces_of(root)["f_000001.png"][0]
    points = face["landmarks_xy"]
    left = points.min(axis=0)[0]

    def of(name: str, **changes: Any) -> dict[str, Any]:
        return {**face, "name": name, **changes}

    nowhere = {"landmarks_xy": None, "x": None}
    faces = [
        of("nowhere", **nowhere),
        of("later", x=50),
        of("tie 1", x=20),
        of("no box", x=float("nan"), landmarks_xy=points - np.float32(left - 30)),
        of("tie 2", x=20, w=1),
        "no face at all",
        of("first", x=-7.5),
    ]
    root["__data__"] = {"f_000001.png": {"faces": faces, "video_meta": {}}}
    file = write_pickled(tmp_path / "a.fsa", root)
    report = reindex(file)
    after = faces_of(Alignments.load(file).root())["f_000001.png"]
    assert [one if isinstance(one, str) else one["name"] for one in after] == [
        *("first", "tie 1", "tie 2", "no box", "later", "nowhere"),
        "no face at all",
    ]
    assert [one["index"] for one in report.faces_nowhere] == [0, 5]
    assert "last    2 faces without box and landmarks" in report.table()


def test_a_frame_with_a_turned_face_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied(VECTORS / "alignments" / "g0_2018-05.json", tmp_path)
    before = faces_of(Alignments.load(file).root())["f_000008.png"]
    assert main(["reindex", "-a", str(file), "--by", "size"]) == 4
    assert faces_of(Alignments.load(file).root())["f_000008.png"] == before
    assert "f_000008.png: a face was found in a turned frame" in capsys.readouterr().out


def test_a_new_file_leaves_the_old_one_alone(tmp_path: Path) -> None:
    file = copied(VECTORS / "alignments" / NAME, tmp_path)
    before = file.read_bytes()
    new = tmp_path / "new.fsa"
    report = reindex(file, new, by="size")
    assert (report.new, report.backup) == (str(new), None)
    assert file.read_bytes() == before
    reindex(file, by="size")
    assert new.read_bytes() == file.read_bytes()
    others = files_in(tmp_path)
    for name in ("new.fsa", NAME):
        with pytest.raises(UsageError, match=f"{name} exists; choose a new name"):
            reindex(file, tmp_path / name)
    with pytest.raises(UsageError, match=r"new.json is not a name for a file of the same kind; such files end in .fsa"):
        reindex(file, tmp_path / "new.json")
    with pytest.raises(UsageError, match="the report would replace the new file"):
        reindex(file, tmp_path / "other.fsa", json=tmp_path / "other.fsa")
    assert files_in(tmp_path) == others
    in_order = tmp_path / "same.fsa"
    assert reindex(new, in_order, by="size").faces_moved == []
    assert in_order.exists(), "who names a file gets one"


def test_a_dry_run_only_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = copied(VECTORS / "alignments" / NAME, tmp_path)
    before = files_in(tmp_path)
    report = reindex(file, dry_run=True)
    reindex(file, tmp_path / "new.fsa", dry_run=True)
    assert files_in(tmp_path) == before
    assert "would get another number, left-to-right" in report.table()
    assert main(["reindex", "-a", str(file), "--json", str(tmp_path / "told.json")]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["faces_moved"] == report.faces_moved
    assert told["frames_reordered"] == 4
    assert capsys.readouterr().out.splitlines()[:2] == [
        "file    18 faces of 8 frames, 5 with several",
        "moved   9 faces of 4 frames got another number, left-to-right",
    ]


def test_a_file_that_is_in_use_or_is_none_is_refused(tmp_path: Path) -> None:
    file = copied(VECTORS / "alignments" / NAME, tmp_path)
    with locked(file), pytest.raises(AlignmentsError, match="is in use by another run"):
        reindex(file)
    with pytest.raises(AlignmentsError, match="holds landmarks for exchange"):
        reindex(copied(VECTORS / "alignments" / "export_job_v2_3_0.json", tmp_path))
    with pytest.raises(UsageError, match="by 'name' is not understood; left-to-right, top-to-bottom, size are"):
        reindex(file, by="name")
    assert main(["reindex", "-a", str(tmp_path / "none.fsa")]) == 3
    assert main(["reindex", "-a", "s3://bucket/a.fsa"]) == 2


def test_a_file_that_changes_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = copied(VECTORS / "alignments" / NAME, tmp_path)
    other = file.read_bytes() + b" "
    original = Alignments.reorder_faces

    def reorder(self: Alignments, rows: Any) -> None:
        original(self, rows)
        file.write_bytes(other)

    monkeypatch.setattr(Alignments, "reorder_faces", reorder)
    with pytest.raises(AlignmentsError, match="was changed by another program"):
        reindex(file)
    assert file.read_bytes() == other


def test_faces_do_not_change_their_frames() -> None:
    loaded = Alignments.load(VECTORS / "alignments" / NAME)
    rows = list(range(len(loaded.faces)))
    rows[0], rows[1] = rows[1], rows[0]
    with pytest.raises(ValueError, match="rows 0 to 0 are those of one frame"):
        loaded.reorder_faces(rows)


# ---- a folder that follows


class Job:
    """An alignments file, the frames of the vectors, and the faces that extract wrote of them."""

    def __init__(self, root: Path, name: str = NAME, *options: object, code: int = 4) -> None:
        self.root, self.faces, self.options = root, root / "faces", options
        self.file = copied(VECTORS / "alignments" / name, root)
        assert main(self.extract(self.faces)) == code

    def extract(self, faces: Path, *more: object) -> list[str]:
        words = ("-q", "-sz", 48, "--replace-hashes", *self.options, *more)
        return extract_command(self.file, FRAMES, faces, *words)

    def shown(self) -> dict[str, bytes]:
        return {name: data for name, data in files_in(self.faces).items() if name[0] != "."}

    def state(self) -> tuple[bytes, dict[str, bytes]]:
        return self.file.read_bytes(), files_in(self.faces)

    def assert_agrees(self) -> None:
        """Verify finds nothing, resume does nothing, and a fresh extraction gives the files and the journal."""
        report = verify(self.file, FRAMES, self.faces, progress="none", device="cpu")
        assert [one for one in report.differences if one["frame"] != "f_000099.png"] == []
        before = self.shown()
        assert main(self.extract(self.faces, "--resume")) == 4
        assert self.shown() == before
        fresh = self.root / "fresh"
        assert main(self.extract(fresh)) == 4
        found = {name: data for name, data in files_in(fresh).items() if name[0] != "."}
        assert {name: without_history(data) for name, data in found.items()} == {
            name: without_history(data) for name, data in before.items()
        }
        told, wanted = (journal.read(folder) for folder in (self.faces, fresh))
        assert told is not None
        assert wanted is not None
        assert told[0] == wanted[0]
        assert sorted(map(as_now, told[1])) == sorted(map(as_now, wanted[1]))


def without_history(data: bytes) -> bytes:
    """A list of faces without what became of the hashes that the file had before."""
    return re.sub(rb',"hash_state":"[a-z]+"', b"", data)


def as_now(frame: journal.Finished) -> str:
    return repr([replace(face, hash_state=None) for face in frame.faces])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (NAME, ("--metadata", "jsonl")),
        ("g6_2019-12.fsa", ("--metadata", "jsonl")),
        ("v2_4_list.fsa", ("-een", 2)),
        ("g3_2019-02.json", ("--format", "jpg")),
    ],
)
def test_a_folder_follows(name: str, options: tuple[object, ...], tmp_path: Path) -> None:
    job = Job(tmp_path, name, *options)
    report = reindex(job.file, by="size", faces=job.faces)
    assert report.exit_code == 0
    assert report.files_renumbered > 2
    assert report.notes == []
    assert not (job.faces / journal.REINDEXED).exists()
    job.assert_agrees()
    before = job.state()
    assert reindex(job.file, by="size", faces=job.faces).files_renumbered == 0
    assert job.state() == before


def test_a_nested_folder_and_shards_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_extract.face_files.layouts.by_frame.MAX_ENTRIES", 5)
    (tmp_path / "nested").mkdir()
    nested = Job(tmp_path / "nested", NAME, "--output-layout", "by-frame")
    assert any("/" in name for name in nested.shown())
    assert reindex(nested.file, faces=nested.faces).files_renumbered > 3
    nested.assert_agrees()
    (tmp_path / "shards").mkdir()
    shards = Job(tmp_path / "shards", NAME, "--shard", "0/2", code=0)
    reindex(shards.file, faces=shards.faces)
    shards.options = ()
    assert main(shards.extract(shards.faces, "--shard", "0/2", "--resume")) == 0
    assert main(shards.extract(shards.faces, "--shard", "1/2")) in (0, 4)
    common = ["-a", str(shards.file), "-fr", str(FRAMES), "-fc", str(shards.faces), "--device", "cpu", "-q"]
    assert main(["merge", *common]) == 4
    shards.assert_agrees()


def test_faces_that_are_alike_change_places_too(tmp_path: Path) -> None:
    job = Job.__new__(Job)
    job.root, job.faces, job.options = tmp_path, tmp_path / "faces", ()
    root = Alignments.load(VECTORS / "alignments" / NAME).root()
    faces = faces_of(root)["f_000003.png"]
    same = dict(faces[1])
    faces[:] = [faces[0], same, dict(same), faces[2], dict(same)]
    job.file = write_pickled(tmp_path / "a.fsa", root)
    assert main(job.extract(job.faces)) == 4
    count = len(job.shown())
    reindex(job.file, by="left-to-right", faces=job.faces)
    reindex(job.file, by="top-to-bottom", faces=job.faces)
    assert len(job.shown()) == count
    job.assert_agrees()


def test_a_face_that_was_deleted_stays_deleted(tmp_path: Path) -> None:
    job = Job(tmp_path)
    (job.faces / "f_000002_2.png").unlink()
    report = reindex(job.file, faces=job.faces)
    assert report.notes == ["1 face that gets another number is not in the folder where the run put it."]
    assert not (job.faces / "f_000002_0.png").exists()
    assert main(job.extract(job.faces, "--resume")) == 4
    assert not (job.faces / "f_000002_0.png").exists()
    assert main(["prune", "-a", str(job.file), "-fc", str(job.faces), "-q"]) == 0
    job.assert_agrees()


def test_a_folder_that_cannot_follow_is_refused(tmp_path: Path) -> None:
    job = Job(tmp_path)
    whole = (job.faces / "f_000003_0.png").read_bytes()
    other = (job.faces / "f_000001_0.png").read_bytes()

    def refused(kind: type[Exception], sentence: str, **wish: Any) -> None:
        before = job.state()
        with pytest.raises(kind, match=sentence):
            reindex(job.file, **{"faces": job.faces, **wish})
        assert job.state() == before

    refused(InputError, "there is no faces folder", faces=tmp_path / "none")
    refused(UsageError, "it cannot go with a new file", new=tmp_path / "new.fsa")
    (job.faces / "f_000003_0.png").write_bytes(other)
    refused(InputError, "f_000003_0.png does not show what the run wrote, so nothing was changed")
    (job.faces / "f_000003_0.png").write_bytes(b"")
    refused(InputError, "f_000003_0.png does not show what the run wrote")
    (job.faces / "f_000003_0.png").write_bytes(whole)
    (job.faces / "f_000003_2.png").rename(job.faces / "away.png")
    (job.faces / "f_000003_2.png").mkdir()
    refused(InputError, "f_000003_2.png is in the way: f_000003_0.png is to get that name")
    (job.faces / "f_000003_2.png").rmdir()
    (job.faces / "away.png").rename(job.faces / "f_000003_2.png")
    with journal.locked(job.faces), pytest.raises(OutputError, match="another run is writing into"):
        reindex(job.file, faces=job.faces)
    Pruned().save(job.faces)
    refused(UsageError, "a prune of .* was stopped; gpu-extract prune with the same folder completes it")
    Pruned.remove(job.faces)
    kept = (job.faces / journal.NAME).read_bytes()
    (job.faces / journal.NAME).unlink()
    refused(InputError, "has no journal of a run of v2_3.fsa as it is now, so its faces cannot follow")
    (job.faces / journal.NAME).write_bytes(kept)
    (tmp_path / "tar").mkdir()
    tar = Job(tmp_path / "tar", NAME, "--output-layout", "webdataset")
    with pytest.raises(UsageError, match="are members of tar shards, which cannot be renumbered"):
        reindex(tar.file, faces=tar.faces)
    reindex(job.file)
    refused(InputError, "as it is now, so its faces cannot follow")


def test_what_was_stopped_is_for_the_next_reindex_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path)
    monkeypatch.setattr(Renumbered, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        reindex(job.file, faces=job.faces)
    monkeypatch.undo()
    before = job.state()
    for words in (["prune"], ["prune", "--dry-run"], ["prune", "--undo"], ["reindex", "--dry-run"]):
        assert main([*words, "-a", str(job.file), "-fc", str(job.faces), "-q"]) == 2
    (tmp_path / "other").mkdir()
    other = copied(VECTORS / "alignments" / "g3_2019-02.json", tmp_path / "other")
    with pytest.raises(InputError, match=r"was stopped, and .*g3_2019-02.json is not its alignments file"):
        reindex(other, faces=job.faces)
    assert job.state() == before
    (job.faces / "f_000003_2.png").write_bytes(b"changed")
    report = reindex(job.file, faces=job.faces)
    assert report.exit_code == 4
    assert report.notes == [
        "an earlier reindex was stopped before it was done; it was completed first.",
        "f_000003_0.png was changed or taken away meanwhile and is not renumbered.",
        "f_000003_2.png was changed or taken away meanwhile and is not renumbered.",
    ]
    assert (job.faces / "f_000003_0.png.moved").exists(), "its new name is taken by what was changed"
    for data in (b"", b"{}", zlib.compress(b"[]"), zlib.compress(b'{"reindexed": 99}')):
        (job.faces / journal.REINDEXED).write_bytes(data)
        with pytest.raises(InputError, match=r"\.gpu-extract\.reindexed is damaged, or of another version"):
            reindex(job.file, faces=job.faces)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        (NAME, ["f_000003.png"]),
        pytest.param(NAME, [], marks=pytest.mark.slow),
        pytest.param("g6_2019-12.fsa", [], marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_step_it_is_completed_by_the_next(name: str, frames: list[str], tmp_path: Path) -> None:
    """Each operation that changes the file system is once the one before which it is killed."""
    (tmp_path / "job").mkdir()
    job = Job.__new__(Job)
    job.root, job.faces, job.options = tmp_path / "job", tmp_path / "job" / "faces", ("--metadata", "jsonl")
    root = Alignments.load(VECTORS / "alignments" / name).root()
    entries = root.get("__data__", root)
    for key in set(entries) - set(frames or entries):
        del entries[key]
    job.file = write_pickled(job.root / "a.fsa", root)
    assert main(job.extract(job.faces)) in (0, 4)
    old = job.file.read_bytes()
    shutil.copytree(job.root, tmp_path / "kept")
    reindex(job.file, faces=job.faces)
    new = job.state()

    def restored() -> None:
        shutil.rmtree(job.root)
        shutil.copytree(tmp_path / "kept", job.root)

    for step, done in killed_at_each_step("reindex", restored, job.file, faces=str(job.faces)):
        assert job.file.read_bytes() in (old, new[0]), step
        if not done:
            assert reindex(job.file, faces=job.faces).exit_code == 0, step
        assert job.state() == new, step
        assert not list(job.root.rglob(".*.tmp")), step
    assert step > 15


def test_killed_at_any_step_and_without_its_folder_the_file_is_whole_and_can_be_put_into_order(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    job = Job(tmp_path / "job")
    old = job.file.read_bytes()
    shutil.copytree(job.root, tmp_path / "kept")
    reindex(job.file, faces=job.faces)
    new, states = job.file.read_bytes(), set()

    def restored() -> None:
        shutil.rmtree(job.root)
        shutil.copytree(tmp_path / "kept", job.root)

    for step, _ in killed_at_each_step("reindex", restored, job.file, faces=str(job.faces)):
        shutil.rmtree(job.faces)
        states.add(job.file.read_bytes())
        copies = [path.read_bytes() for path in job.root.glob(f"{job.file.stem}_*{job.file.suffix}")]
        assert job.file.read_bytes() == old or old in copies, step
        with pytest.raises(InputError, match="there is no faces folder"):
            reindex(job.file, faces=job.faces)
        reindex(job.file)
        assert job.file.read_bytes() == new, step
        assert not list(job.root.rglob(".*.tmp")), step
    assert states == {old, new}
