"""`reindex`: the faces of each frame in another order, and everything else as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsError, UsageError
from gpu_extract.jobs.reindex import ORDERS, reindex
from gpu_extract.jobs.verify import verify
from gpu_extract.storage.atomic import locked
from tests.helpers import VECTORS, copied, extract_command, files_in, write_pickled

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
