"""`prune`: faces that were deleted from the faces folder leave the alignments file, and the folder follows."""

from __future__ import annotations

import copy
import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsError, InputError, UsageError
from gpu_extract.face_files.header import read_header
from gpu_extract.jobs.changes.pruned import Pruned
from gpu_extract.jobs.prune import prune
from gpu_extract.jobs.verify import verify
from gpu_extract.reports.pruning import PruneReport
from gpu_extract.run import journal
from tests.helpers import CLIP, VECTORS, copied, extract_command, files_in, write_pickled
from tests.stopper import CHANGES, killed_at_each_step

FRAMES = VECTORS / "frames"
OLD, NEW = "g6_2019-12.fsa", "v2_3.fsa"
EVERY = sorted(
    path.name
    for path in (VECTORS / "alignments").iterdir()
    if path.name[0] in "gv" and not any(part in path.name for part in ("from", "video", "numpy_proto"))
)
GONE = ("f_000002_0.png", "f_000003_1.png", "f_000001_0.png")


class Job:
    """An alignments file, the frames of the vectors, and the faces that extract wrote of them."""

    def __init__(self, root: Path, name: str = NEW, *options: object, code: int = 4) -> None:
        self.root, self.frames, self.faces, self.options = root, FRAMES, root / "faces", options
        self.file = copied(VECTORS / "alignments" / name, root)
        assert main(self.extract(self.faces)) == code  # the vectors have an entry without a frame

    def extract(self, faces: Path, *more: object) -> list[str]:
        words = ("-q", "-sz", 64, "--replace-hashes", *self.options, *more)
        return extract_command(self.file, self.frames, faces, *words)

    def delete(self, *names: str) -> None:
        for name in names:
            (self.faces / name).unlink()

    def prune(self, **wish: Any) -> Any:
        return prune(self.file, self.faces, **wish)

    def rows(self) -> list[tuple[str, int]]:
        loaded = Alignments.load(self.file)
        return [
            (loaded.frame_names[frame], index)
            for frame, index in zip(loaded.faces.frame.tolist(), loaded.faces.index.tolist(), strict=True)
        ]

    def all_bytes(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(self.root.rglob("*")) if path.is_file()}

    def assert_agrees(self) -> None:
        """Verify finds nothing, resume brings nothing back, and a fresh extraction gives the files that are there."""
        report = verify(self.file, self.frames, self.faces, progress="none", device="cpu")
        assert [one for one in report.differences if one["frame"] != "f_000099.png"] == []
        assert report.faces_agree == report.faces_expected
        before = self.shown()
        assert main(self.extract(self.faces, "--resume")) == 4
        assert self.shown() == before
        fresh = self.root / "fresh"
        assert main(self.extract(fresh)) == 4
        assert {name: data for name, data in files_in(fresh).items() if name[0] != "."} == before
        told, wanted = (journal.read(folder) for folder in (self.faces, fresh))
        assert told is not None
        assert wanted is not None
        assert told[0] == wanted[0]
        assert sorted(map(repr, told[1])) == sorted(map(repr, wanted[1]))
        shutil.rmtree(fresh)

    def shown(self) -> dict[str, bytes]:
        return {name: data for name, data in files_in(self.faces).items() if name[0] != "."}


def gone(report: PruneReport) -> list[tuple[str, int]]:
    """Faces that left the file; not that of the entry without a frame, which without a journal counts as deleted."""
    return [(face["frame"], face["index"]) for face in report.deleted if face["frame"] != "f_000099.png"]


@pytest.mark.parametrize("name", EVERY)
def test_faces_that_were_deleted_leave_a_file_of_any_generation(name: str, tmp_path: Path) -> None:
    job = Job(tmp_path, name)
    before, keys = Alignments.load(job.file).root(), job.rows()
    old = job.file.read_bytes()
    job.delete(*GONE)
    report = job.prune()
    assert report.exit_code == 0
    assert [(face["frame"], face["index"]) for face in report.deleted] == [
        ("f_000001.png", 0),
        ("f_000002.png", 0),
        ("f_000003.png", 1),
    ]
    assert report.frames_emptied == ["f_000001.png"]
    assert (report.faces_before, report.faces_after) == (len(keys), len(keys) - 3)
    assert report.backup is not None
    assert Path(report.backup).read_bytes() == old
    after = Alignments.load(job.file).root()
    frames = before.get("__data__", before)
    for key, indices in {"f_000001.png": (0,), "f_000002.png": (0,), "f_000003.png": (1,)}.items():
        faces = frames[key] if isinstance(frames[key], list) else frames[key]["faces"]
        for index in indices:
            del faces[index]
    assert list(frames) == list(after.get("__data__", after)), "frames and their order stay"
    np.testing.assert_equal(after, before)
    job.assert_agrees()
    again = job.prune()
    assert again.deleted == []
    assert again.backup is None
    assert again.exit_code == 0


@pytest.mark.parametrize("name", [OLD, NEW, "g3_2019-02.json", "v2_4_list.fsa", "v2_1.fsa"])
def test_without_a_journal_faces_are_known_by_their_headers_or_hashes(name: str, tmp_path: Path) -> None:
    job = Job(tmp_path, name)
    (job.faces / journal.NAME).unlink()
    job.delete(*GONE)
    shutil.move(job.faces / "f_000002_2.png", job.faces / "a nose.png")
    (job.faces / "bin" / "small").mkdir(parents=True)
    shutil.move(job.faces / "f_000003_2.png", job.faces / "bin" / "small")
    shutil.copy(job.faces / "f_000004_0.png", job.faces / "bin" / "f_000004_0 (copy).png")
    report = job.prune()
    deleted = [face["frame"] for face in report.deleted]
    # Without a journal nothing tells that the last one was never cut, for want of a frame.
    assert deleted == ["f_000001.png", "f_000002.png", "f_000003.png", "f_000099.png"]
    assert report.extra == []
    assert report.known_by == f"the {'hashes' if name[0] == 'g' else 'headers'} of the files"
    names = set(job.shown())
    assert {"a nose.png", "bin/small/f_000003_1.png", "f_000002_0.png", "bin/f_000004_0 (copy).png"} <= names
    if name[0] == "v":
        for file, index in (("a nose.png", 1), ("bin/small/f_000003_1.png", 1), ("f_000002_0.png", 0)):
            source = read_header(job.faces / file)["source"]  # type: ignore[index]
            frame = "f_000003" if "000003" in file else "f_000002"
            assert (source["face_index"], source["original_filename"]) == (index, f"{frame}_{index}.png")
    assert job.prune().deleted == []


@pytest.mark.parametrize("name", [OLD, NEW])
def test_what_somebody_renamed_or_sorted_is_known_beside_a_journal_too(name: str, tmp_path: Path) -> None:
    job = Job(tmp_path, name)
    job.delete(*GONE)
    (job.faces / "bin").mkdir()
    for number, path in enumerate(sorted(job.faces.glob("*.png"))):
        shutil.move(path, job.faces / "bin" / f"{number:06d}.png")
    report = job.prune()
    assert len(report.deleted) == 3
    assert report.exit_code == 0
    assert job.prune().deleted == []
    before = job.shown()
    assert main(job.extract(job.faces, "--resume")) == 4
    assert job.shown() == before


def test_files_that_somebody_numbered_already_are_what_the_journal_names(tmp_path: Path) -> None:
    for name in (OLD, NEW):
        root = tmp_path / name[0]
        root.mkdir()
        job = Job(root, name)
        job.delete("f_000003_0.png")
        for index in (1, 2):
            (job.faces / f"f_000003_{index}.png").rename(job.faces / f"f_000003_{index - 1}.png")
        report = job.prune()
        assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000003.png", 0)]
        job.assert_agrees()


@pytest.mark.parametrize("options", [("-een", 2), ("--min-size", 60), ("-l",)], ids=["every-n", "min-size", "large"])
@pytest.mark.parametrize("name", [OLD, NEW])
def test_what_a_run_never_cut_was_not_deleted(name: str, options: tuple[object, ...], tmp_path: Path) -> None:
    job = Job(tmp_path, name, *options)
    cut = sorted(path.name for path in job.faces.glob("*.png"))
    count = len(job.rows())
    assert 3 < len(cut) < count
    assert job.prune().deleted == [], "nothing was deleted"
    job.delete(cut[0])
    report = job.prune()
    assert len(report.deleted) == 1
    assert report.faces_never_cut == count - len(cut)
    assert len(job.rows()) == count - 1
    job.assert_agrees()


def test_faces_that_failed_stay(tmp_path: Path) -> None:
    """The entry of a frame that is not there has a face, which no run cuts."""
    job = Job(tmp_path)
    job.delete(*GONE)
    job.prune()
    assert ("f_000099.png", 0) in job.rows()


def test_keep_present_takes_out_what_was_never_cut(tmp_path: Path) -> None:
    job = Job(tmp_path, NEW, "-een", 2)
    there = len(list(job.faces.glob("*.png")))
    with pytest.raises(UsageError, match=r"would leave v2_3.fsa; if that is right, add --yes"):
        job.prune(keep="present")
    report = job.prune(keep="present", yes=True, frames_too=True)
    assert report.faces_after == there == len(job.rows())
    assert not any(key == "f_000099.png" for key in Alignments.load(job.file).frame_names)
    assert "f_000005.png" in Alignments.load(job.file).frame_names, "it was empty before"


def test_frames_without_a_face_leave_on_request(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    job.prune(frames_too=True)
    names = Alignments.load(job.file).frame_names
    assert "f_000001.png" not in names
    assert "f_000005.png" in names
    job.assert_agrees()


def test_all_faces_of_a_frame(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*(f"f_000008_{index}.png" for index in range(4)))
    report = job.prune()
    assert report.frames_emptied == ["f_000008.png"]
    assert len(report.deleted) == 4
    assert report.files_renumbered == 0
    job.assert_agrees()


def test_shards_before_their_merge(tmp_path: Path) -> None:
    job = Job(tmp_path, NEW, "--shard", "0/2", code=0)
    cut = sorted(path.name for path in job.faces.glob("*.png"))
    job.delete(cut[0])
    report = job.prune()
    assert len(report.deleted) == 1
    assert report.faces_never_cut == report.faces_before - len(cut)
    job.options = ()
    for shard in ("0/2", "1/2"):
        resume = ("--resume",) if shard == "0/2" else ()
        assert main(job.extract(job.faces, "--shard", shard, *resume)) in (0, 4)
    common = ["-a", str(job.file), "-fr", str(job.frames), "-fc", str(job.faces), "--device", "cpu", "-q"]
    assert main(["merge", *common]) == 4
    job.assert_agrees()


def test_merged_shards_and_what_they_say_of_failures(tmp_path: Path) -> None:
    job = Job(tmp_path, NEW, "--processes", 2)
    job.delete(*GONE)
    job.prune()
    job.options = ()
    report = verify(job.file, job.frames, job.faces, progress="none", device="cpu")
    assert {one["frame"] for one in report.differences} == {"f_000099.png"}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_list_of_faces_follows(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    job = Job(tmp_path, NEW, "--metadata", kind)
    before = job.all_bytes()
    job.delete(*GONE)
    job.prune()
    job.assert_agrees()
    job.prune(undo=True)
    after = job.all_bytes()
    changed = {Path(name).name for name in before if before[name] != after.get(name)}
    assert changed - {journal.FAILURES} == set(GONE)  # the run in between has told of its faces what failed


def test_folders_of_a_large_run_stay_those_of_a_large_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And become one folder where so few are left that a fresh run would make one."""
    monkeypatch.setattr("gpu_extract.face_files.layouts.by_frame.MAX_ENTRIES", 14)
    job = Job(tmp_path, NEW, "--output-layout", "by-frame")
    nested = sorted(path.relative_to(job.faces).as_posix() for path in job.faces.rglob("*.png"))
    assert len(nested) == 17
    assert all("/" in name for name in nested)
    job.delete(nested[1])
    job.prune()
    assert all("/" in name for name in job.shown())
    job.assert_agrees()
    for path in sorted(job.faces.rglob("*.png"))[:3]:
        path.unlink()
    job.prune()
    assert not any("/" in name for name in job.shown())
    job.assert_agrees()


def test_undo_brings_everything_back(tmp_path: Path) -> None:
    for name in (OLD, NEW, "g2_2018-12.p", "g3_2019-02.yml"):
        root = tmp_path / name
        root.mkdir()
        job = Job(root, name)
        job.delete(*GONE)
        before = job.all_bytes()
        report = job.prune()
        assert report.undo == f"gpu-extract prune -a {job.file} -fc {job.faces} --undo"
        assert main(report.undo.split()[1:]) == 0
        after = job.all_bytes()
        assert after.pop(str(report.backup)) == before[str(job.file)]
        assert after == before
        with pytest.raises(InputError, match="there is nothing to undo"):
            job.prune(undo=True)
        assert len(job.prune().deleted) == 3
        job.assert_agrees()


def test_undo_refuses_what_is_not_the_file_that_it_left(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    report = job.prune()
    pruned = job.file.read_bytes()
    root = Alignments.load(job.file).root()
    root["__data__"]["f_000002.png"]["faces"][0]["x"] += 1
    write_pickled(job.file, root)
    before = job.all_bytes()
    with pytest.raises(AlignmentsError, match="it was changed since, or is another one; nothing was undone") as caught:
        job.prune(undo=True)
    assert str(report.backup) in str(caught.value)
    assert job.all_bytes() == before
    job.file.write_bytes(pruned)
    Path(report.backup).unlink()
    with pytest.raises(InputError, match="is not beside it any more; nothing was undone"):
        job.prune(undo=True)


def test_undo_leaves_files_alone_that_were_changed_since(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    job.prune()
    (job.faces / "f_000002_0.png").write_bytes(b"mine")
    report = job.prune(undo=True)
    assert report.exit_code == 4
    assert "f_000002_0.png was changed or taken away" in report.notes[0]
    assert (job.faces / "f_000002_0.png").read_bytes() == b"mine"


def test_a_dry_run_changes_nothing_and_tells_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    (job.faces / "notes.txt").write_text("mine")
    before = job.all_bytes()
    target = tmp_path.parent / f"{tmp_path.name}.json"
    command = ["prune", "-a", str(job.file), "-fc", str(job.faces), "--dry-run", "--json", str(target)]
    assert main(command) == 0
    assert job.all_bytes() == before
    said = capsys.readouterr().out
    assert "3 faces would leave the file" in said
    assert "1 frame is left without a face; it stays" in said
    told = json.loads(target.read_text())
    target.unlink()
    assert told["dry_run"]
    assert len(told["deleted"]) == 3
    assert told["extra"] == ["notes.txt"]
    assert told["backup"] is None
    assert told["frames_emptied"] == ["f_000001.png"]
    done = job.prune()
    assert done.deleted == told["deleted"]
    assert done.files_renumbered == told["files_renumbered"]


def test_extra_files_are_listed_and_left(tmp_path: Path) -> None:
    job = Job(tmp_path)
    cv2.imwrite(str(job.faces / "holiday.png"), np.full((64, 64, 3), 77, np.uint8))
    (job.faces / ".DS_Store").write_bytes(b"")
    (job.faces / ".trash").mkdir()
    shutil.move(job.faces / "f_000002_0.png", job.faces / ".trash")
    report = job.prune()
    assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000002.png", 0)], (
        "what is hidden is away"
    )
    assert report.extra == ["holiday.png", ".trash/f_000002_0.png"]
    assert (job.faces / "holiday.png").exists()


@pytest.mark.parametrize("name", [OLD, NEW])
def test_files_that_cannot_be_read_count_as_there_unless_one_says_otherwise(name: str, tmp_path: Path) -> None:
    job = Job(tmp_path, name)
    job.delete("f_000004_1.png")
    (job.faces / "f_000002_1.png").write_bytes(b"")
    whole = (job.faces / "f_000003_0.png").read_bytes()
    (job.faces / "f_000003_0.png").write_bytes(whole[:-200])
    report = job.prune()
    assert report.exit_code == 4
    assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000004.png", 1)]
    assert [one["file"] for one in report.unreadable] == ["f_000002_1.png", "f_000003_0.png"]
    report = job.prune(unreadable="delete")
    assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000002.png", 1), ("f_000003.png", 0)]
    assert (job.faces / "f_000003_0.png.damaged").read_bytes() == whole[:-200]
    assert "f_000002_1.png cannot be read and is set aside as f_000002_1.png.damaged." in report.notes
    job.prune(undo=True)
    assert (job.faces / "f_000003_0.png").read_bytes() == whole[:-200]


def test_a_damaged_file_whose_name_says_nothing_is_asked_for(tmp_path: Path) -> None:
    job = Job(tmp_path)
    (job.faces / "f_000002_1.png").rename(job.faces / "nose.png")
    (job.faces / "nose.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = job.all_bytes()
    with pytest.raises(InputError, match=r"1 file .* cannot be read.*\(nose.png\); restore or remove it,"):
        job.prune()
    assert job.all_bytes() == before
    assert len(job.prune(unreadable="delete").deleted) == 1


def test_a_face_whose_landmarks_were_edited_since_is_not_deleted(tmp_path: Path) -> None:
    job = Job(tmp_path)
    root = Alignments.load(job.file).root()
    for index in (0, 1):
        root["__data__"]["f_000003.png"]["faces"][index]["landmarks_xy"] += np.float32(1)
    write_pickled(job.file, root)
    job.delete("f_000003_0.png", "f_000002_1.png")
    report = job.prune()
    assert report.unproven == ["f_000003_1.png"]
    assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000002.png", 1), ("f_000003.png", 0)]
    said = read_header(job.faces / "f_000003_0.png")
    assert said is not None
    assert said["source"]["face_index"] == 0


def test_a_run_of_another_state_of_the_file_still_says_what_it_never_cut(tmp_path: Path) -> None:
    """One landmark was moved since; of every second frame nothing was ever there."""
    job = Job(tmp_path, NEW, "-een", 2)
    root = Alignments.load(job.file).root()
    root["__data__"]["f_000008.png"]["faces"][0]["landmarks_xy"] += np.float32(1)
    write_pickled(job.file, root)
    count = len(job.rows())
    job.delete("f_000003_0.png")
    report = job.prune()
    assert [(face["frame"], face["index"]) for face in report.deleted] == [("f_000003.png", 0)]
    assert len(job.rows()) == count - 1
    assert verify(job.file, job.frames, job.faces, progress="none", device="cpu").counts["altered"] == 0


def test_faces_of_one_hash_are_told_apart_by_their_names_or_not_at_all(tmp_path: Path) -> None:
    job = Job(tmp_path, OLD)
    root = Alignments.load(job.file).root()
    root["f_000003.png"] = [dict(root["f_000003.png"][0]) for _ in range(3)]
    write_pickled(job.file, root)
    shutil.rmtree(job.faces)
    assert main(job.extract(job.faces)) == 4
    (job.faces / journal.NAME).unlink()
    job.delete("f_000003_1.png")
    assert gone(job.prune(dry_run=True)) == [("f_000003.png", 1)]
    (job.faces / "f_000003_0.png").rename(job.faces / "nose.png")
    report = job.prune()
    assert gone(report) == [], "the file may be that of either"
    (job.faces / "nose.png").unlink()
    assert gone(job.prune()) == [("f_000003.png", 0), ("f_000003.png", 1)]


@pytest.mark.parametrize("name", [OLD, NEW])
def test_a_folder_of_another_run_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one, two = Job(tmp_path / "one", name), Job(tmp_path / "two", name)
    root = Alignments.load(two.file).root()
    for frame in root.get("__data__", root).values():
        for face in frame if isinstance(frame, list) else frame["faces"]:
            face["landmarks_xy"] = face["landmarks_xy"] + np.float32(2)
    write_pickled(two.file, root)
    shutil.rmtree(two.faces)
    assert main(two.extract(two.faces)) == 4
    before = one.all_bytes()
    sentence = r"of 17 images in .* none is one of the 18 faces of" if name == NEW else "1[0-9] of the 17 images"
    with pytest.raises(InputError if name == NEW else UsageError, match=sentence):
        prune(one.file, two.faces, yes=name == NEW)
    for path in list(one.faces.glob("f_00000[1-3]*"))[:5]:
        shutil.copy(path, two.faces / f"one {path.name}")
    (two.faces / journal.NAME).unlink()
    with pytest.raises(UsageError, match=r"1[0-9] of the 22 images in .* are none of the 18 faces in .*add --yes"):
        prune(one.file, two.faces)
    assert one.all_bytes() == before


def test_an_empty_folder_takes_nothing_out(tmp_path: Path) -> None:
    job = Job(tmp_path)
    for path in job.faces.glob("*.png"):
        path.unlink()
    before = job.all_bytes()
    with pytest.raises(InputError, match="holds no face; a folder that was emptied, or is the wrong one"):
        job.prune(yes=True)
    assert job.all_bytes() == before


def test_where_most_is_missing_a_yes_is_wanted(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*sorted(path.name for path in job.faces.glob("*.png"))[:9])
    with pytest.raises(UsageError, match=r"9 of 17 faces are not in .*, and would leave v2_3.fsa; .* add --yes"):
        job.prune()
    assert "asks for --yes" in job.prune(dry_run=True).notes[-1]
    assert len(job.prune(yes=True).deleted) == 9
    job.assert_agrees()


def test_files_without_hashes_and_without_a_journal_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, "g1_2018-11.json", "--no-update")
    job.delete(*GONE)
    report = job.prune()
    assert len(report.deleted) == 3, "the journal knows them"
    (job.faces / journal.NAME).unlink()
    with pytest.raises(InputError, match=r"no face of g1_2018-11.json has a hash, and .* has no journal"):
        job.prune()


def test_landmarks_for_exchange_have_no_faces_to_take_out(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(AlignmentsError, match=r"holds landmarks for exchange.*gpu-extract import"):
        prune(copied(VECTORS / "alignments" / "export_job_v2_3_0.json", tmp_path), tmp_path / "faces")


def test_tar_shards_are_refused(tmp_path: Path) -> None:
    job = Job(tmp_path, NEW, "--output-layout", "webdataset")
    with pytest.raises(UsageError, match="members of tar shards"):
        job.prune()


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (("-een", 2), "only frames that are 2 apart have faces there"),
        (("--min-size", 100), "faces that are missing are smaller than any that is there"),
    ],
)
def test_a_folder_without_a_journal_that_looks_like_a_part_is_asked_about(
    options: tuple[object, ...], pattern: str, tmp_path: Path, landmarks: np.ndarray
) -> None:
    job = Job(tmp_path, "v2_3.fsa")
    frames = tmp_path / "frames"
    frames.mkdir()
    root = Alignments.load(job.file).root()
    face = root["__data__"]["f_000001.png"]["faces"][0]
    entries: dict[str, dict[str, Any]] = {}
    centre = landmarks.mean(0)
    for number in range(1, 32):
        key = f"g_{number:06d}.png"
        shutil.copy(FRAMES / "f_000001.png", frames / key)
        scale = np.float32(0.2 if number % 3 == 0 else 1)
        points = (landmarks - centre) * scale + centre + np.float32(number / 8)
        entries[key] = {"faces": [{**face, "landmarks_xy": points}], "video_meta": {}}
    write_pickled(job.file, {**root, "__data__": entries})
    shutil.rmtree(job.faces)
    job.frames = frames
    job.options = ("-sz", 128, *options)
    assert main(job.extract(job.faces)) == 0
    (job.faces / journal.NAME).unlink()
    with pytest.raises(UsageError, match=f"no journal tells what the run of .* was to cut.*{pattern}.*add --yes"):
        job.prune()
    assert job.prune(yes=True).deleted


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete("f_000003_0.png", "f_000003_1.png")
    cv2.imwrite(str(job.faces / "f_000003_0.png"), np.full((64, 64, 3), 77, np.uint8))
    before = job.all_bytes()
    report = job.prune()
    assert [face["index"] for face in report.deleted] == [1], "a file of that name may be the face, edited"
    assert report.unproven == ["f_000003_0.png"]
    assert before[str(job.faces / "f_000003_0.png")] == (job.faces / "f_000003_0.png").read_bytes()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete("f_000003_0.png")
    shutil.copy(job.faces / "f_000004_0.png", job.faces / "f_000003_0.png")
    before = job.all_bytes()
    with pytest.raises(InputError, match=r"f_000003_0.png is in the way: f_000003_1.png is to get that name"):
        job.prune()
    assert job.all_bytes() == before


def test_another_run_that_is_at_work_is_waited_for(tmp_path: Path) -> None:
    from gpu_extract.errors import OutputError

    job = Job(tmp_path)
    job.delete(*GONE)
    with journal.locked(job.faces), pytest.raises(OutputError, match="another run is writing into"):
        job.prune()


def test_a_file_that_changes_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    original, folder = Pruned.save, job.shown()
    other = job.file.read_bytes() + b" "

    def save(self: Pruned, folder: Path) -> None:
        original(self, folder)
        job.file.write_bytes(other)

    monkeypatch.setattr(Pruned, "save", save)
    with pytest.raises(AlignmentsError, match="was changed by another program"):
        job.prune()
    assert job.file.read_bytes() == other
    assert job.shown() == folder
    assert not (job.faces / journal.PRUNED).exists()


def test_words_that_are_not_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(tmp_path)
    with pytest.raises(UsageError, match="keep 'all' is not understood; undeleted and present are"):
        job.prune(keep="all")
    with pytest.raises(UsageError, match="unreadable 'all' is not understood; keep and delete are"):
        job.prune(unreadable="all")
    with pytest.raises(UsageError, match="undo and dry-run exclude each other"):
        job.prune(undo=True, dry_run=True)
    assert main(["prune", "-a", str(job.file)]) == 2
    assert "-fc/--faces" in capsys.readouterr().err
    assert main(["prune", "-a", str(job.file), "-fc", str(tmp_path / "none")]) == 3
    assert main(["prune", "-a", str(tmp_path / "none.fsa"), "-fc", str(job.faces)]) == 3
    assert main(["prune", "-a", str(job.file), "-fc", "s3://bucket/faces"]) == 2


def test_faces_of_a_video(tmp_path: Path) -> None:
    job = Job.__new__(Job)
    job.root, job.frames, job.faces, job.options = tmp_path, CLIP, tmp_path / "faces", ()
    job.file = copied(VECTORS / "video" / "clip_alignments_v2_4.fsa", tmp_path)
    assert main(job.extract(job.faces)) in (0, 4)
    names = sorted(path.name for path in job.faces.glob("*.png"))
    (job.faces / journal.NAME).unlink()
    job.delete(names[0])
    assert len(job.prune().deleted) == 1
    report = verify(job.file, job.frames, job.faces, size=64, progress="none", device="cpu")
    assert report.counts["missing"] == report.counts["header"] == report.counts["extra"] == 0


def test_a_record_that_is_damaged_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    job.prune()
    record = job.faces / journal.PRUNED
    for data in (b"", b"{}", record.read_bytes()[:-9], zlib.compress(b"[]"), zlib.compress(b'{"pruned": 99}')):
        record.write_bytes(data)
        for way in ({}, {"undo": True}, {"dry_run": True}):
            with pytest.raises(InputError, match=r"\.gpu-extract\.pruned is damaged, or of another version"):
                job.prune(**way)


def test_undo_after_a_resumed_run(tmp_path: Path) -> None:
    """It notes in the journal what has to do with no face."""
    job = Job(tmp_path)
    job.delete(*GONE)
    before = journal.read(job.faces)
    job.prune()
    with (job.faces / journal.NAME).open("ab") as file:
        file.write(journal.line({"frames_seen": 9}) + journal.line({"settled": 3}))
    assert job.prune(undo=True).exit_code == 0
    assert journal.read(job.faces) == before
    assert main(job.extract(job.faces, "--resume")) == 4
    assert len(job.prune().deleted) == 3


def test_undo_leaves_a_journal_alone_that_has_new_faces(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    job.prune()
    with (job.faces / journal.NAME).open("ab") as file:
        file.write(journal.line({"revoked": [3]}))
    now = (job.faces / journal.NAME).read_bytes()
    report = job.prune(undo=True)
    assert report.exit_code == 4
    assert report.notes == [f"{journal.NAME} was written into meanwhile and is left as it is."]
    assert (job.faces / journal.NAME).read_bytes() == now


# ---- whatever stops it


@pytest.mark.parametrize("name", [OLD, pytest.param(NEW, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["prune", "undo"])
def test_killed_at_any_step_it_is_completed_by_the_next(name: str, way: str, tmp_path: Path) -> None:
    """Each operation of the file system is once the one before which it is killed."""
    (tmp_path / "job").mkdir()
    job = Job(tmp_path / "job", name, "--metadata", "jsonl")
    job.delete("f_000002_0.png", "f_000003_1.png")
    kept = tmp_path / "kept"
    shutil.copytree(job.root, kept / "old")
    old = job.file.read_bytes(), job.shown(), (job.faces / journal.NAME).read_bytes()
    job.prune()
    new = job.file.read_bytes(), job.shown(), (job.faces / journal.NAME).read_bytes()
    shutil.copytree(job.root, kept / "new")

    def restored() -> None:
        shutil.rmtree(job.root)
        shutil.copytree(kept / ("old" if way == "prune" else "new"), job.root)

    operations = (*CHANGES, "open", "fsync")
    for step, done in killed_at_each_step(
        "prune", restored, job.file, job.faces, operations=operations, undo=way == "undo"
    ):
        found = job.file.read_bytes()
        assert found in (old[0], new[0]), step
        if done:
            wanted = new if way == "prune" else old
        elif way == "undo" and not (job.faces / journal.PRUNED).exists():
            wanted = old
        elif step % 2 and (found == new[0] or way == "undo"):
            job.prune(undo=True)
            wanted = old
        else:
            job.prune()
            wanted = new
        assert (job.file.read_bytes(), job.shown(), (job.faces / journal.NAME).read_bytes()) == wanted, step
        assert not list(job.root.rglob(".*.tmp")), step
    assert step > 20


@pytest.mark.parametrize(("way", "frames_too"), [("prune", False), ("prune", True), ("undo", True)])
@pytest.mark.parametrize("name", [OLD, NEW, pytest.param("g3_2019-02.json", marks=pytest.mark.slow)])
def test_killed_at_any_step_and_without_its_folder_a_prune_can_be_undone(
    name: str, way: str, frames_too: bool, tmp_path: Path
) -> None:
    """What it remembered was in the folder; then the copy beside the alignments file tells by itself what it is."""
    (tmp_path / "job").mkdir()
    job = Job(tmp_path / "job", name)
    job.delete(*GONE)
    old, states = job.file.read_bytes(), set()
    wish: dict[str, Any] = {"frames_too": frames_too} if way == "prune" else {"undo": True}
    if way == "undo":
        job.prune(frames_too=frames_too)
    shutil.copytree(job.root, tmp_path / "kept")

    def restored() -> None:
        shutil.rmtree(job.root)
        shutil.copytree(tmp_path / "kept", job.root)

    for step, _ in killed_at_each_step("prune", restored, job.file, job.faces, **wish):
        shutil.rmtree(job.faces)
        before = job.all_bytes()
        with pytest.raises(InputError, match="there is no faces folder"):
            job.prune()
        if job.file.read_bytes() == old:
            with pytest.raises(
                InputError, match=f"no copy of {job.file} from before a prune is beside it; nothing was"
            ):
                job.prune(undo=True, yes=True)
        else:
            with pytest.raises(
                UsageError, match=f"is {job.file} with 3 faces more, as before its last prune, .*, add --yes"
            ):
                job.prune(undo=True)
            changed = {path for path, data in job.all_bytes().items() if before.get(path) != data}
            assert changed == set(), step
            report = job.prune(undo=True, yes=True)
            assert report.undone, step
            assert report.exit_code == 0
            assert report.notes[-1].startswith("the faces folder is gone; the file is again what its copy ")
        states.add(before[str(job.file)] == old)
        assert job.file.read_bytes() == old, step
        assert not list(job.root.rglob(".*.tmp")), step
    assert states == {False, True}
    assert step > 10


def test_without_its_folder_the_last_of_several_prunes_is_undone(tmp_path: Path) -> None:
    job = Job(tmp_path)
    states = [job.file.read_bytes()]
    for name in GONE:
        # The other two have other numbers once the first is gone.
        job.delete(name if (job.faces / name).exists() else "f_000003_0.png")
        job.prune()
        states.append(job.file.read_bytes())
    shutil.rmtree(job.faces)
    for state in reversed(states[:-1]):
        job.prune(undo=True, yes=True)
        assert job.file.read_bytes() == state
    with pytest.raises(InputError, match="no copy of"):
        job.prune(undo=True, yes=True)


def test_without_its_folder_nothing_is_undone_by_a_copy_that_differs_in_more_than_faces(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.delete(*GONE)
    report = job.prune()
    shutil.rmtree(job.faces)
    root = Alignments.load(Path(report.backup)).root()
    for change in ("frame", "face", "more", "damaged"):
        changed = copy.deepcopy(root)
        if change == "frame":
            changed["__data__"]["f_000009.png"] = {"faces": []}
        elif change == "face":
            changed["__data__"]["f_000008.png"]["faces"][0]["x"] += 1
        elif change == "more":
            changed["__meta__"]["mine"] = 1
        write_pickled(Path(report.backup), changed)
        if change == "damaged":
            Path(report.backup).write_bytes(b"mine")
        before = job.all_bytes()
        with pytest.raises(InputError, match=r"no copy of .* from before a prune is beside it; nothing was undone"):
            job.prune(undo=True, yes=True)
        assert job.all_bytes() == before, change


@pytest.mark.parametrize("back", [False, True])
def test_equal_faces_of_a_frame_are_whole_where_a_prune_is_completed(
    back: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one then has the very bytes that the first had before."""
    job = Job.__new__(Job)
    job.root, job.frames, job.faces, job.options = tmp_path, FRAMES, tmp_path / "faces", ()
    root = Alignments.load(VECTORS / "alignments" / NEW).root()
    faces = root["__data__"]["f_000003.png"]["faces"]
    faces[:] = [faces[0], *(dict(faces[1]) for _ in range(3))]
    job.file = write_pickled(tmp_path / "a.fsa", root)
    assert main(job.extract(job.faces)) == 4
    before = job.shown()
    job.delete("f_000003_0.png")
    if back:
        job.prune()

    def killed(*_: object, **__: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(Pruned, "_finish", killed)
        with pytest.raises(KeyboardInterrupt):
            job.prune(undo=back)
    job.prune(undo=back)
    if back:
        assert job.shown().keys() == before.keys() - {"f_000003_0.png"}
        assert all(data == before[name] for name, data in job.shown().items())
    else:
        job.assert_agrees()
