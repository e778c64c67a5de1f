"""`rebuild`: an alignments file from its faces, from which an extraction gives the same bytes again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.face_files.compared import compared
from gpu_extract.face_files.header import PREFIX, face_header, header_text, parse_text, with_text
from gpu_extract.jobs.rebuild import rebuild
from gpu_extract.jobs.verify import verify
from gpu_extract.run import journal
from tests.helpers import CLIP, VECTORS, copied, extract_command, file_name, files_in, read_image, write_pickled

FRAMES = VECTORS / "frames"
NEW = "v2_3.fsa"
HEADED = sorted(path.name for path in (VECTORS / "alignments").glob("v2_[1-4]*"))
LISTED = (
    *("g0_2018-05.json", "g1_2018-11.json", "g2_2018-12.p", "g3_2019-02.yml", "g4_2019-09.json", "g5_2019-10.json"),
    *("g6_2019-12.fsa", "g7a_2020-03.fsa", "g7b_2020-08.fsa", "v2_0.fsa"),
)


def extracted(alignments: Path, faces: Path, *options: object, frames: Path = FRAMES) -> dict[str, bytes]:
    """The faces of a run; the vectors have an entry without a frame."""
    words = ("-q", "-sz", 64, "--replace-hashes", *options)
    assert main(extract_command(alignments, frames, faces, *words)) in (0, 4)
    return shown(faces)


def shown(faces: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_in(faces).items() if name.endswith((".png", ".jpg"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of faces by alignments file and options, each cut once; a test that changes one takes a copy."""
    found: dict[tuple[object, ...], Path] = {}

    def faces_of(name: str, *options: object) -> Path:
        if (name, *options) not in found:
            root = tmp_path_factory.mktemp("made")
            extracted(copied(VECTORS / "alignments" / name, root), root / "faces", *options)
            found[name, *options] = root / "faces"
        return found[name, *options]

    return faces_of


@pytest.fixture
def faces(made: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy of the faces of version 2.3, without the journal."""
    shutil.copytree(made(NEW), tmp_path / "faces")
    (tmp_path / "faces" / journal.NAME).unlink()
    return tmp_path / "faces"


def with_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the header of a face says."""
    data = path.read_bytes()
    text = header_text(data)
    assert text is not None
    header = parse_text(text)
    change(header)
    path.write_bytes(with_text(data, str(header)))


@pytest.mark.parametrize("name", HEADED)
def test_a_lost_file_is_rebuilt_from_headers(name: str, made: Callable[..., Path], tmp_path: Path) -> None:
    report = rebuild(made(name), tmp_path / "new.fsa")
    assert (report.exit_code, report.faces_rebuilt, report.headers_the_same) == (0, 17, 17)
    assert extracted(tmp_path / "new.fsa", tmp_path / "again") == shown(made(name))
    old, new = Alignments.load(VECTORS / "alignments" / name), Alignments.load(tmp_path / "new.fsa")
    assert (new.version, new.traits.lists) == (old.version, old.traits.lists)
    rows = {
        (new.frame_names[f], i): row for row, (f, i) in enumerate(zip(new.faces.frame, new.faces.index, strict=True))
    }
    for row, (frame, index) in enumerate(zip(old.faces.frame, old.faces.index, strict=True)):
        if old.frame_names[frame] != "f_000099.png":
            before, after = old.record(row), new.record(rows[old.frame_names[frame], index])
            np.testing.assert_array_equal(before["landmarks_xy"], after["landmarks_xy"])
            assert {key: before[key] for key in "xywh"} == {key: after[key] for key in "xywh"}
            if not old.traits.lists:
                np.testing.assert_equal(after["mask"], before["mask"])
                assert after.get("identity") == before.get("identity")


@pytest.mark.parametrize("face", sorted((VECTORS / "png").glob("face_*.png")), ids=file_name)
def test_headers_that_the_programs_wrote_come_out_again(face: Path, tmp_path: Path) -> None:
    """But for their number, which is that of a second face; and two for a form that is no more written."""
    path = copied(face, tmp_path / "faces")
    with_header(path, lambda header: header["source"].update(face_index=0, original_filename="f_000002_0.png"))
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.faces_rebuilt, report.exit_code) == (1, 0)
    new = Alignments.load(tmp_path / "new.fsa")
    again = face_header(new.version, new.record(0), 0, "f_000002.png", 240, 320, is_video=False)
    stored = header_text(path.read_bytes())
    assert again is not None
    assert stored is not None
    found = compared(parse_text(stored), parse_text(again.removeprefix(PREFIX).decode()))
    assert (found.faults, found.more) == ([], [])
    # The first 2.2 did not say the frame's size; the matrices of these masks have two rows instead of three.
    other_form = face.name in ("face_v2_2.png", "face_v2_4_head.png")
    assert report.headers_the_same == (not other_form)


@pytest.mark.parametrize("with_journal", [True, False])
@pytest.mark.parametrize("name", LISTED)
def test_a_file_of_before_headers_is_rebuilt_from_the_list_of_faces(
    name: str, with_journal: bool, made: Callable[..., Path], tmp_path: Path
) -> None:
    source = made(name, "--metadata", "jsonl")
    shutil.copytree(source, tmp_path / "faces")
    (tmp_path / "faces" / "bin").mkdir()
    shutil.move(tmp_path / "faces" / "f_000003_1.png", tmp_path / "faces" / "bin" / "nose.png")
    if not with_journal:
        (tmp_path / "faces" / journal.NAME).unlink()
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=FRAMES)
    assert (report.exit_code, report.faces_rebuilt, report.faces_proven) == (0, 17, 17)
    assert report.generation == ("2.0" if name == "v2_0.fsa" else "g6")
    if with_journal:
        assert extracted(tmp_path / "new.fsa", tmp_path / "again") == shown(source)
        assert main(["verify", "-a", str(tmp_path / "new.fsa"), "-fr", str(FRAMES), "-fc", str(source), "-q"]) == 0


def test_level_eyes_and_another_centre_are_found_out_from_the_list(made: Callable[..., Path], tmp_path: Path) -> None:
    options = ("--metadata", "jsonl", "--align-eyes")
    shutil.copytree(made("g6_2019-12.fsa", *options), tmp_path / "faces")
    (tmp_path / "faces" / journal.NAME).unlink()
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert report.faces_proven == 17
    assert "the faces were cut with level eyes; extract needs --align-eyes to cut them again." in report.notes
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", "--align-eyes") == shown(tmp_path / "faces")
    report = rebuild(made("g6_2019-12.fsa", "--metadata", "jsonl", "--centering", "face"), tmp_path / "face.fsa")
    assert any("extract needs --centering face" in note for note in report.notes)
    again = extracted(tmp_path / "face.fsa", tmp_path / "face", "--centering", "face")
    assert again == shown(made("g6_2019-12.fsa", "--metadata", "jsonl", "--centering", "face"))


def test_faces_that_are_no_png_are_known_by_the_list(made: Callable[..., Path], tmp_path: Path) -> None:
    faces = made(NEW, "--metadata", "jsonl", "--format", "jpg")
    report = rebuild(faces, tmp_path / "new.fsa", frames=FRAMES)
    assert (report.faces_rebuilt, report.faces_listed, report.faces_proven) == (17, 17, 17)
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", "--format", "jpg") == shown(faces)


@pytest.mark.parametrize("with_journal", [True, False])
def test_another_rounding_is_found_out_from_the_list(
    with_journal: bool, made: Callable[..., Path], tmp_path: Path
) -> None:
    words = ("--metadata", "jsonl", "--format", "jpg")
    shutil.copytree(made("v2_4_list.fsa", *words), tmp_path / "faces")
    if not with_journal:
        (tmp_path / "faces" / journal.NAME).unlink()
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert report.notes == ["the crops were rounded otherwise; extract needs --numerics numpy2 to cut them again."]
    again = extracted(tmp_path / "new.fsa", tmp_path / "again", *words, "--numerics", "numpy2")
    assert again == shown(tmp_path / "faces")
    assert extracted(tmp_path / "new.fsa", tmp_path / "usual", *words) != again


def test_headers_and_list_together(made: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(made(NEW, "--metadata", "jsonl"), tmp_path / "faces")
    bare = read_image(tmp_path / "faces" / "f_000002_1.png")
    cv2.imwrite(str(tmp_path / "faces" / "f_000002_1.png"), bare)
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.version, report.faces_listed, report.headers_the_same) == (2.3, 1, 16)
    assert "1 face known by the list only, which holds no masks." in report.notes
    again = extracted(tmp_path / "new.fsa", tmp_path / "again")
    np.testing.assert_array_equal(read_image(tmp_path / "again" / "f_000002_1.png"), bare)
    assert {name for name, data in again.items() if data != shown(tmp_path / "faces")[name]} == {"f_000002_1.png"}


def test_frames_without_a_face_are_listed(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rebuild", str(faces), str(tmp_path / "new.fsa"), "-fr", str(FRAMES)]
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 0
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["gaps"] == [{"first": "f_000005.png", "last": "f_000006.png", "count": 2}]
    assert (told["frames"], told["faces_rebuilt"]) == (8, 17)
    said = capsys.readouterr().out
    assert "2 frames in 1 stretch without a face\n        f_000005.png to f_000006.png" in said
    assert said.splitlines()[-1].startswith("next    gpu-extract verify -a ")
    new = Alignments.load(tmp_path / "new.fsa")
    assert new.frame_names == [f"f_{number:06d}.png" for number in range(1, 9)]
    assert verify(tmp_path / "new.fsa", FRAMES, faces, progress="none", device="cpu").exit_code == 0
    report = rebuild(faces, tmp_path / "without.fsa")
    assert report.gaps == told["gaps"], "the numbers of the keys tell it, too"
    assert report.frames == 6


def test_frames_of_a_run_of_every_other_frame_are_no_gaps(made: Callable[..., Path], tmp_path: Path) -> None:
    assert rebuild(made(NEW, "-een", 2), tmp_path / "new.fsa").gaps == [
        {"first": "f_000005.png", "last": "f_000005.png", "count": 1}
    ]


def test_the_run_s_journal_knows_the_file_again(tmp_path: Path) -> None:
    """Where the lost file had the entries of the source and no others, a resumed run has nothing to do."""
    file = copied(VECTORS / "alignments" / NEW, tmp_path)
    root = Alignments.load(file).root()
    del root["__data__"]["f_000099.png"]
    for number in (5, 6):
        root["__data__"].setdefault(f"f_{number:06d}.png", {"faces": [], "video_meta": {}})
    write_pickled(file, {**root, "__data__": dict(sorted(root["__data__"].items()))})
    extracted(file, tmp_path / "faces")
    file.unlink()
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=FRAMES)
    assert report.as_the_run
    before = files_in(tmp_path / "faces")
    extracted(tmp_path / "new.fsa", tmp_path / "faces", "--resume")
    assert files_in(tmp_path / "faces") == before


def test_a_face_whose_neighbour_is_gone_moves_up_and_is_named(faces: Path, tmp_path: Path) -> None:
    (faces / "f_000003_0.png").unlink()
    report = rebuild(faces, tmp_path / "new.fsa")
    assert [(one["file"], one["was"], one["index"]) for one in report.closed_up] == [
        ("f_000003_1.png", 1, 0),
        ("f_000003_2.png", 2, 1),
    ]
    assert (report.exit_code, report.headers_the_same) == (0, 14)
    assert "14 of them come out again to the byte, others in another form or with another number" in report.table()
    again = extracted(tmp_path / "new.fsa", tmp_path / "again")
    for was, index in ((1, 0), (2, 1)):
        one, other = faces / f"f_000003_{was}.png", tmp_path / "again" / f"f_000003_{index}.png"
        np.testing.assert_array_equal(read_image(one), read_image(other))
    assert len(again) == 16


def test_sorted_copied_and_contradicting_files(faces: Path, tmp_path: Path) -> None:
    (faces / "small").mkdir()
    shutil.copy(faces / "f_000002_0.png", faces / "small" / "a copy.png")
    shutil.move(faces / "f_000002_1.png", faces / "small" / "b.png")
    shutil.copy(faces / "f_000004_0.png", faces / "a f_000004_0.png")
    with_header(faces / "a f_000004_0.png", lambda header: header["alignments"]["landmarks_xy"][3].__setitem__(0, 7.5))
    shutil.copy(faces / "f_000004_1.png", faces / "richer.png")
    with_header(faces / "richer.png", lambda header: header["alignments"]["identity"].update({"other": [0.5, 1.5]}))
    report = rebuild(faces, tmp_path / "new.fsa")
    assert report.exit_code == 4
    assert report.duplicates == [
        {"file": "small/a copy.png", "of": "f_000002_0.png"},
        {"file": "f_000004_1.png", "of": "richer.png"},
    ]
    assert report.contradictions == [{"file": "a f_000004_0.png", "of": "f_000004_0.png"}]
    assert report.faces_rebuilt == 17
    new = Alignments.load(tmp_path / "new.fsa").root()["__data__"]
    assert new["f_000004.png"]["faces"][1]["identity"]["other"] == [0.5, 1.5]
    table = report.table()
    assert "2 files with a face that another file shows" in table
    assert "1 file with other landmarks for a face of another file" in table


def test_faces_of_hidden_frames_are_known_by_the_journal(tmp_path: Path) -> None:
    root = Alignments.load(VECTORS / "alignments" / NEW).root()
    root["__data__"] = {
        ".hidden.png": root["__data__"]["f_000002.png"],
        "f_000003.png": root["__data__"]["f_000003.png"],
    }
    (tmp_path / "frames").mkdir()
    for name, of in ((".hidden.png", "f_000002.png"), ("f_000003.png", "f_000003.png")):
        shutil.copyfile(FRAMES / of, tmp_path / "frames" / name)
    file = write_pickled(tmp_path / "a.fsa", root)
    before = extracted(file, tmp_path / "faces", frames=tmp_path / "frames")
    assert ".hidden_0.png" in before
    (tmp_path / "faces" / ".not_of_it_0.png").write_bytes(before[".hidden_0.png"])
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=tmp_path / "frames")
    assert (report.faces_rebuilt, report.duplicates, report.as_the_run) == (6, [], True)
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", frames=tmp_path / "frames") == before


def test_programs_of_several_versions_give_the_newest(made: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(made("v2_1.fsa"), tmp_path / "faces")
    for name in ("f_000003_0.png", "f_000003_1.png"):
        shutil.copy(made("v2_4_list.fsa") / name, tmp_path / "faces" / name)
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.version, report.headers_the_same, report.exit_code) == (2.4, 2, 0)
    assert any("several versions (15 of 2.1, 2 of 2.4 (lists))" in note for note in report.notes)
    new = Alignments.load(tmp_path / "new.fsa")
    assert new.traits.lists
    face = new.record(0)
    assert face["mask"]["vgg-clear"]["stored_centering"] == "face"
    assert list(face) == ["x", "y", "w", "h", "landmarks_xy", "mask", "identity", "thumb"]
    again, before = extracted(tmp_path / "new.fsa", tmp_path / "again"), shown(tmp_path / "faces")
    assert again["f_000003_0.png"] == before["f_000003_0.png"]
    assert again.keys() == before.keys()


def test_what_a_crop_of_2_4_was_rounded_like_is_the_journal_s(made: Callable[..., Path], tmp_path: Path) -> None:
    for name, numpy_2 in (("v2_4_numpy_proto4_np2.fsa", True), ("v2_4_numpy.fsa", False)):
        shutil.copytree(made(name), tmp_path / name / "faces")
        rebuild(tmp_path / name / "faces", tmp_path / name / "new.fsa")
        assert Alignments.load(tmp_path / name / "new.fsa").traits.numpy_2 is numpy_2
        (tmp_path / name / "faces" / journal.NAME).unlink()
        report = rebuild(tmp_path / name / "faces", tmp_path / name / "other.fsa")
        assert any("--numerics" in note for note in report.notes)


def test_damaged_files_give_what_their_headers_hold(faces: Path, tmp_path: Path) -> None:
    whole = (faces / "f_000002_0.png").read_bytes()
    (faces / "f_000002_0.png").write_bytes(whole[:-90])
    (faces / "f_000002_1.png").write_bytes(b"")
    at = whole.index(b"landmarks_xy")
    (faces / "f_000003_0.png").write_bytes(whole[:at] + b"X" + whole[at + 1 :])
    cv2.imwrite(str(faces / "holiday.png"), np.full((64, 64, 3), 77, np.uint8))
    (faces / "notes.txt").write_text("mine")
    report = rebuild(faces, tmp_path / "new.fsa")
    assert report.exit_code == 4
    assert report.damaged == ["f_000002_0.png"]
    assert [one["file"] for one in report.unreadable] == ["f_000002_1.png", "f_000003_0.png"]
    assert "checksum is wrong" in report.unreadable[1]["reason"]
    assert report.extra == ["holiday.png"]
    assert report.faces_rebuilt == 15


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header: header.pop("source"), "not that of a face"),
        (lambda header: header["source"].update(alignments_version=2.0), "version 2.0; versions 2.1 to 2.4"),
        (lambda header: header["source"].update(alignments_version="2.3"), "version '2.3'"),
        (lambda header: header["source"].update(alignments_version=9.9), "version 9.9"),
        (lambda header: header["source"].update(face_index=-1), "which face of its frame"),
        (lambda header: header["source"].update(source_filename="faces/"), "which frame it is from"),
        (lambda header: header["alignments"].pop("landmarks_xy"), "no landmarks"),
        (lambda header: header["alignments"].update(landmarks_xy=[[1.0, 2.0]]), "landmarks in its header are none"),
        (
            lambda header: header["alignments"].update(landmarks_xy=[[1e300, 2.0]] * 68),
            "landmarks in its header are none",
        ),
        (lambda header: header["alignments"].pop("w"), "no 'w'"),
        (lambda header: header["alignments"].update(x=None), "not a finite number"),
        (lambda header: header["alignments"].update(mask=[1]), "mask in its header is no dict"),
        (lambda header: header["alignments"].update(mask={"nose": {}}), "mask 'nose' in its header lacks"),
        (lambda header: header["alignments"]["mask"]["vgg-clear"].update(affine_matrix="no"), "matrix of the mask"),
        (lambda header: header["alignments"]["mask"]["vgg-clear"].update(mask=3), "no mask"),
        (lambda header: header["alignments"].update(identity={"vggface2": "x"}), "identity 'vggface2'"),
    ],
)
def test_headers_that_are_none_are_named(
    change: Callable[[dict[str, Any]], Any], reason: str, made: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("f_000002_0.png", "f_000002_1.png"):
        shutil.copy(made(NEW) / name, tmp_path / "faces")
    with_header(tmp_path / "faces" / "f_000002_1.png", change)
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.exit_code, report.faces_rebuilt) == (4, 1)
    assert reason in report.unreadable[0]["reason"]


def test_forms_of_other_times_are_taken(made: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    shutil.copy(made(NEW) / "f_000002_0.png", tmp_path / "faces" / "x.png")
    with_header(tmp_path / "faces" / "x.png", lambda header: header["source"].pop("source_frame_dims"))
    with_header(
        tmp_path / "faces" / "x.png", lambda header: header["source"].update(source_filename="D:\\a\\f_000002.png")
    )
    with_header(tmp_path / "faces" / "x.png", lambda header: header["alignments"].update(nose=1))
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.exit_code, report.faces_rebuilt, report.headers_the_same) == (0, 1, 0)
    assert Alignments.load(tmp_path / "new.fsa").frame_names == ["f_000002.png"]
    assert "1 header with 'nose', for which alignments files have no place." in report.notes


def test_faces_of_two_videos_want_one_to_be_named(made: Callable[..., Path], tmp_path: Path) -> None:
    file = copied(VECTORS / "video" / "clip_alignments_v2_4.fsa", tmp_path)
    video = extracted(file, tmp_path / "faces", frames=CLIP)
    shutil.copytree(tmp_path / "faces", tmp_path / "video")
    for name in ("f_000002_0.png", "f_000002_1.png"):
        shutil.copy(made(NEW) / name, tmp_path / "faces")
    held = rf"faces of several sources: clip.mp4 \({len(video)}\), images \(2\); name one with --source"
    with pytest.raises(UsageError, match=held):
        rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    with pytest.raises(UsageError, match="holds no face of walk"):
        rebuild(tmp_path / "faces", tmp_path / "new.fsa", source="walk")
    for source in ("clip", "clip.mp4"):
        report = rebuild(tmp_path / "faces", tmp_path / f"{source}.fsa", source=source)
        assert (report.source, report.faces_rebuilt) == ("clip.mp4", len(video))
    assert rebuild(tmp_path / "faces", tmp_path / "images.fsa", source="images").version == 2.3
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=CLIP)
    assert (report.source, report.faces_rebuilt) == ("clip.mp4", len(video))
    assert report.notes[0] == "2 files of other sources left out."
    assert all(key.endswith(".mp4") for key in Alignments.load(tmp_path / "new.fsa").frame_names)
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", frames=CLIP) == video


def test_keys_of_either_extension_are_one_frame_s(tmp_path: Path) -> None:
    """Programs that took faces over from old files did not know that they were a video's."""
    file = copied(VECTORS / "video" / "clip_alignments_v2_4.fsa", tmp_path)
    before = extracted(file, tmp_path / "faces", frames=CLIP)
    stem = max(before, key=lambda name: int(name[-5]))[:-6]
    changes: list[dict[str, Any]] = [
        {"source_is_video": False},
        {},
        {"source_is_video": False, "source_frame_dims": None},
    ]
    for number, fields in enumerate(changes):
        if (face := tmp_path / "faces" / f"{stem}_{number}.png").exists():
            told: dict[str, Any] = {"source_filename": f"{stem}.png", **fields}
            with_header(face, lambda header, told=told: header["source"].update(told))  # type: ignore[misc]
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=CLIP)
    assert (report.faces_rebuilt, report.closed_up) == (len(before), [])
    again = extracted(tmp_path / "new.fsa", tmp_path / "again", frames=CLIP)
    assert again.keys() == before.keys()
    for name in before:
        np.testing.assert_array_equal(read_image(tmp_path / "again" / name), read_image(tmp_path / "faces" / name))


def test_a_video_s_frames_get_the_keys_of_its_file(tmp_path: Path) -> None:
    """Up to version 2.3 they end in .png."""
    file = copied(VECTORS / "video" / "clip_rgb_alignments_v2_3_pngkeys.fsa", tmp_path)
    video = VECTORS / "video" / "clip_rgb.mkv"
    before = extracted(file, tmp_path / "faces", frames=video)
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa", frames=video)
    assert report.gaps == [{"first": "clip_rgb_000005.png", "last": "clip_rgb_000006.png", "count": 2}]
    new = Alignments.load(tmp_path / "new.fsa")
    assert new.frame_names == [f"clip_rgb_{number:06d}.png" for number in range(1, 8)]
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", frames=video) == before


def test_other_frames_are_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the faces in .* is from .*clip.mp4: .*'f_000001.png', its own like"):
        rebuild(faces, tmp_path / "new.fsa", frames=CLIP)
    (tmp_path / "frames").mkdir()
    for number in (2, 3, 7):
        shutil.copy(FRAMES / f"f_{number:06d}.png", tmp_path / "frames")
    report = rebuild(faces, tmp_path / "new.fsa", frames=tmp_path / "frames")
    assert report.frames_not_in_source == ["f_000001.png", "f_000004.png", "f_000008.png"]
    assert "3 entries of frames that the source has not; their faces stay" in report.table()
    assert not (tmp_path / "none.fsa").exists()


def test_a_file_that_is_there_is_never_replaced(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.fsa"
    new.write_bytes(b"mine")
    assert main(["rebuild", str(faces), str(new)]) == 2
    assert "exists; choose a new name" in capsys.readouterr().err
    new.unlink()
    new.symlink_to("nowhere")
    assert main(["rebuild", str(faces), str(new)]) == 2
    new.unlink()
    real = Alignments.__init__

    def slow(self: Alignments, *arguments: Any) -> None:
        real(self, *arguments)
        new.write_bytes(b"another's")

    monkeypatch.setattr(Alignments, "__init__", slow)
    with pytest.raises(UsageError, match="exists; choose a new name"):
        rebuild(faces, new)
    assert new.read_bytes() == b"another's"


def test_a_full_disk_leaves_no_file(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = files_in(tmp_path)
    with pytest.raises(OutputError, match="no space left on device"):
        rebuild(faces, tmp_path / "new.fsa")
    assert files_in(tmp_path) == before


def test_a_dry_run_writes_nothing(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_in(tmp_path)
    assert main(["rebuild", str(faces), str(tmp_path / "new.fsa"), "--dry-run"]) == 0
    assert files_in(tmp_path) == before
    assert "new.fsa would hold 17 faces of 6 frames, generation 2.3" in capsys.readouterr().out


def test_folders_of_nothing_that_tells(made: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for words, code in ((["s3://b/faces", "a.fsa"], 2), (["none", "a.fsa"], 3), (["faces", "a.json"], 2)):
        assert main(["rebuild", *(str(tmp_path / word) if "s3" not in word else word for word in words)]) == code
    with pytest.raises(InputError, match="holds no face"):
        rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    shutil.copy(made("g6_2019-12.fsa") / "f_000002_0.png", tmp_path / "faces")
    with pytest.raises(InputError, match=r"of 1 image .* none .* carry no header.*extract --metadata writes"):
        rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    (tmp_path / "faces" / "f_000002_0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"of 1 image .* none .* f_000002_0.png: the PNG file ends"):
        rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    with pytest.raises(OutputError, match="could not be written"):
        rebuild(made(NEW), tmp_path / "no such folder" / "new.fsa")
    assert not (tmp_path / "new.fsa").exists()


def test_lists_that_are_damaged_or_of_other_faces(made: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(made("g6_2019-12.fsa", "--metadata", "jsonl"), tmp_path / "faces")
    listed = tmp_path / "faces" / "faces.jsonl"
    text = listed.read_text()
    for damage in (
        text[:-30],
        text.replace('"matrix"', '"matrices"', 1),
        text.replace('"box":[', '"box":[1,', 1),
        "7\n",
    ):
        listed.write_text(damage)
        with pytest.raises(InputError, match="tells where it is from"):
            rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    listed.write_text(text)
    cv2.imwrite(str(tmp_path / "faces" / "f_000002_0.png"), np.full((64, 64, 3), 77, np.uint8))
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.exit_code, report.unproven, report.faces_rebuilt) == (4, ["f_000002_0.png"], 16)
    moved = [json.loads(line) for line in text.splitlines()]
    for row in moved[:4]:
        row["landmarks"][40][0] += 1
    listed.write_text("".join(json.dumps(row) + "\n" for row in moved))
    report = rebuild(tmp_path / "faces", tmp_path / "other.fsa")
    assert report.faces_proven < report.faces_listed
    assert any("the landmarks do not give the matrix of the list" in note for note in report.notes)


def test_double_precision_and_equal_faces_of_a_list(tmp_path: Path, landmarks: np.ndarray) -> None:
    """Landmarks of float64, some of whole numbers, and two faces of one frame whose crops are the same."""
    from tests.helpers import face_entry

    faces = [landmarks.astype(np.float64) + 1 / 3, np.rint(landmarks).astype(np.int32), landmarks, landmarks]
    (tmp_path / "frames").mkdir()
    shutil.copy(FRAMES / "f_000001.png", tmp_path / "frames")
    write_pickled(tmp_path / "a.fsa", {"f_000001.png": [face_entry(points) for points in faces]})
    before = extracted(tmp_path / "a.fsa", tmp_path / "faces", "--metadata", "jsonl", frames=tmp_path / "frames")
    assert len(before) == 4
    report = rebuild(tmp_path / "faces", tmp_path / "new.fsa")
    assert (report.faces_rebuilt, report.faces_proven, report.duplicates) == (4, 4, [])
    kinds = [Alignments.load(tmp_path / "new.fsa").record(row)["landmarks_xy"].dtype for row in range(4)]
    assert kinds[0] == np.float64
    assert extracted(tmp_path / "new.fsa", tmp_path / "again", frames=tmp_path / "frames") == before


def test_parquet_and_shards(made: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    report = rebuild(made("g6_2019-12.fsa", "--metadata", "parquet"), tmp_path / "old.fsa")
    assert (report.faces_rebuilt, report.faces_proven) == (17, 17)
    report = rebuild(made(NEW, "--output-layout", "webdataset"), tmp_path / "new.fsa")
    assert (report.faces_rebuilt, report.headers_the_same) == (17, 17)


def test_the_signature_and_the_words(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="dry-run must be true or false"):
        rebuild(faces, tmp_path / "new.fsa", dry_run="no")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the report would replace the new alignments file"):
        rebuild(faces, tmp_path / "new.fsa", json=tmp_path / "new.fsa")
