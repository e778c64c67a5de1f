"""Keys and frames: exact names, names that nearly match, and what is never guessed."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.frames import FrameSource, open_frames
from gpu_extract.jobs.check import check
from gpu_extract.jobs.exchange import export
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.migrate import migrate
from gpu_extract.jobs.verify import verify
from gpu_extract.run import fingerprint
from gpu_extract.run.keys import Matched, match_keys
from tests.contracts.fakes import FakeSource
from tests.helpers import VECTORS, face_entry, files_in, write_clip

NUMBERS = range(1, 6)
NFC, NFD = (unicodedata.normalize(form, "café_{:06d}.png") for form in ("NFC", "NFD"))
PAIRS = {
    "extension": ("f_{:06d}.png", "f_{:06d}.jpg"),
    "extension of a video": ("clip_{:06d}.mp4", "clip_{:06d}.png"),
    "no extension": ("f.{:06d}", "f.{:06d}.png"),
    "case": ("F_{:06d}.PNG", "f_{:06d}.png"),
    "case of the extension": ("f_{:06d}.PNG", "f_{:06d}.png"),
    "padding": ("f_{}.png", "f_{:06d}.png"),
    "padding, shorter": ("f_{:06d}.png", "f_{:03d}.png"),
    "padding inside": ("shot01_{}_left.png", "shot1_{:04d}_left.png"),
    "stem": ("old_{:06d}.png", "new name_{:06d}.png"),
    "stem, none": ("clip_{:06d}.png", "{:06d}.png"),
    "unicode": (NFC, NFD),
    "unicode, back": (NFD, NFC),
    "path": ("D:\\work\\frames\\f_{:06d}.png", "f_{:06d}.png"),
    "path of POSIX": ("/home/user/frames/f_{:06d}.png", "f_{:06d}.png"),
    "case,extension": ("F_{:06d}.PNG", "f_{:06d}.jpg"),
    "padding,extension,stem": ("clip_{:06d}.mp4", "{:04d}.png"),
    "path,unicode,case": (f"C:\\x\\{NFD.upper()}".replace(":06D", ":06d").replace(".PNG", ".png"), NFC),
}


def listed(form: str, numbers: Sequence[int] = NUMBERS) -> list[str]:
    return [form.format(number) for number in numbers]


def matched(keys: list[str], frames: Sequence[str], rules: str = "exact") -> tuple[list[int], Matched]:
    made = match_keys(keys, FakeSource(frames), rules)
    return made.position.tolist(), made


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_takes_away_what_it_says(name: str) -> None:
    rules = {"no extension": "extension"}.get(
        name, name.partition(" of ")[0].partition(", ")[0].removesuffix(" inside")
    )
    keys, frames = map(listed, PAIRS[name])
    frames = [*frames, "poster.png"]
    position, made = matched(keys, frames)
    assert position == [-1] * 5
    (note,) = made.notes
    assert note.startswith("5 keys have no frame of exactly that name: 5 keys would match frames that differ only in ")
    assert f"such as '{keys[0]}' and '{frames[0]}'; if these are the frames, add --match-keys {rules}." in note
    assert made.nearly in note
    assert f"'{frames[4]}' differs only in " in made.reason(4)
    assert f"(--match-keys {rules})" in made.reason(4)
    for accepted in (rules, "any"):
        position, made = matched(keys, frames, accepted)
        assert position == [0, 1, 2, 3, 4]
        assert made.failures == {}
        assert "5 keys matched frames that differ in " in made.notes[0]
        assert f"such as '{keys[0]}' and '{frames[0]}'" in made.notes[0]
    for other in {"path", "unicode", "case", "padding", "extension", "stem"} - {*rules.split(",")}:
        # Who drops the extension drops its case, and who drops what stands before the number drops all of that.
        covered = (other, name) in {
            ("extension", "case of the extension"),
            ("stem", "unicode"),
            ("stem", "unicode, back"),
        }
        assert matched(keys, frames, other)[0] == ([0, 1, 2, 3, 4] if covered else [-1] * 5), other


def test_exact_names_need_no_rule_and_no_note() -> None:
    keys = listed("f_{:06d}.png")
    for rules in ("exact", "any", "case"):
        position, made = matched(keys, keys, rules)
        assert position == [0, 1, 2, 3, 4]
        assert (made.notes, made.failures, made.nearly, made.by_rule) == ([], {}, "", {})
        assert made.names is keys


def test_strangers_are_no_near_miss() -> None:
    position, made = matched(["a.png", "b_7.png", "", "/", "\udcff.png"], ["x.png", "y_1.png"], "any")
    assert position == [-1] * 5
    assert (made.notes, made.nearly) == ([], "")
    assert {made.reason(i) for i in range(5)} == {"the source has no such frame"}


def test_exact_names_go_first_and_the_rest_is_named() -> None:
    keys = [*listed("f_{:06d}.png", (1, 2)), *listed("f_{:06d}.jpg", (3, 4, 5)), "zz.png"]
    frames = listed("f_{:06d}.png")
    position, made = matched(keys, frames)
    assert position == [0, 1, -1, -1, -1, -1]
    assert made.notes[0].startswith("4 keys have no frame of exactly that name: 3 keys would match")
    assert "'f_000004.png' differs only in the extension (--match-keys extension)" in made.reason(3)
    assert made.reason(5) == "the source has no such frame"
    position, made = matched(keys, frames, "extension")
    assert position == [0, 1, 2, 3, 4, -1]
    assert made.by_rule == {2: 2, 3: 3, 4: 4}


def test_each_key_hears_of_its_own_rule() -> None:
    keys, frames = ["A.png", "b.jpg"], ["a.png", "b.png"]
    _, made = matched(keys, frames)
    assert "--match-keys case,extension." in made.notes[0]
    assert made.reason(0).endswith("differs only in upper and lower case (--match-keys case)")
    assert made.reason(1).endswith("differs only in the extension (--match-keys extension)")
    position, made = matched(keys, frames, "case")
    assert position == [0, -1]
    assert "1 key matched" in made.notes[0]
    assert "add --match-keys case,extension." in made.notes[1]


@pytest.mark.parametrize(
    ("keys", "frames", "rules", "position", "reason"),
    [
        (["a.png"], ["a.bmp", "a.jpg"], "extension", [-1], "several frames may be meant, such as 'a.bmp' and 'a.jpg'"),
        (["A.png", "a.PNG"], ["a.png"], "case", [-1, -1], "the nearest frame 'a.png' is also that of the key 'a.PNG'"),
        (["a.jpg", "a.png"], ["a.png"], "any", [-1, 0], "the nearest frame 'a.png' is also that of the key 'a.png'"),
        (["a_1.png", "b_2.png"], ["c_1.png", "c_2.png"], "stem", [-1, -1], "only the number is that of a frame"),
        (["x_1.png"], [f"{s}_1.{'png' if s == 'e' else 'jpg'}" for s in "abcde"], "stem", [-1], "several frames may"),
        (["x/a.png", "y/a.png"], ["a.png"], "path", [-1, -1], "is also that of the key 'y/a.png'"),
    ],
)
def test_what_is_not_certain_is_not_guessed(
    keys: list[str], frames: list[str], rules: str, position: list[int], reason: str
) -> None:
    found, made = matched(keys, frames, rules)
    assert found == position
    assert reason in made.reason(0)
    assert any("cannot be matched for certain" in note for note in made.notes)
    found, made = matched(keys, frames)
    assert -1 in found
    assert "would match" not in made.nearly
    assert reason in made.reason(0)


def test_a_narrower_rule_settles_what_a_wide_one_leaves_open() -> None:
    keys, frames = ["A.png"], ["a.jpg", "a.png"]
    assert matched(keys, frames, "any")[0] == [-1]
    assert "--match-keys case." in matched(keys, frames)[1].notes[0]
    assert matched(keys, frames, "case")[0] == [1]


def test_frames_that_count_from_0_are_mentioned() -> None:
    for keys, warned in ((listed("clip_{:06d}.png"), True), (listed("clip_{:06d}.png", range(5)), False)):
        _, made = matched(keys, listed("{:04d}.png", range(5)))
        assert ("(mind that the frames count from 0 and the keys from 1)" in made.notes[0]) is warned


def test_time_grows_with_the_number_of_names_only() -> None:
    """Every key against every frame would be 2e9 comparisons; and one number in many stems must not be one bucket."""
    many = range(1, 40_001)
    for form in ("F_{:06d}.PNG", "g_{:06d}.jpg"):
        position, made = matched(listed(form, many), _Quick(listed("f_{:06d}.png", many)))
        assert position[:1] == [-1]
        assert "40,000 keys would match" in made.notes[0]
    stems = [f"{stem}_{number}.png" for stem in range(10_000) for number in range(2)]
    assert matched([f"x{name}" for name in stems], _Quick(stems))[1].nearly.startswith("20,000 keys cannot be matched")


class _Quick(list[str]):
    """A list that finds its items as a source does."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(names)
        self._places = {name: i for i, name in enumerate(names)}

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def index(self, name: str, *_: Any) -> int:
        return self._places[name]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "new name.mp4", 8)


@pytest.mark.parametrize(
    ("form", "rules"),
    [
        ("old_{:06d}.png", "stem"),
        ("NEW name_{:06d}.mp4", "case"),
        ("new name_{}.png", "padding"),
        ("new name_{:06d}.jpg", "extension"),
        ("C:\\new name_{:06d}.mp4", "path"),
        ("frame_{:04d}.jpg", "padding,extension,stem"),
        ("{}.webp", "padding,extension,stem"),
    ],
)
def test_frames_of_a_video(form: str, rules: str, clip: Path) -> None:
    keys = listed(form)
    with open_frames(clip) as source:
        made = match_keys(keys, source)
        assert (
            f"'{keys[0]}' and 'new name_000001.mp4'; if these are the frames, add --match-keys {rules}" in made.nearly
        )
        for accepted in (rules, "any"):
            assert match_keys(keys, source, accepted).position.tolist() == [0, 1, 2, 3, 4]


def test_many_keys_of_a_video_are_found_as_each_is_alone(clip: Path) -> None:
    rng = np.random.default_rng(3)
    with open_frames(clip) as source:
        keys = [source.name_of(i) for i in range(40)]
        keys += [f"new name_{number:06d}.png" for number in (999_998, 999_999, 1_000_000, 1_000_001)]
        keys += [f"new name_{number}.mkv" for number in (10**18 - 2, 10**18 - 1, 10**18, 10**18 + 1)]
        keys += ["new name_000041.MP4", "new name_000042.MP4", "new name_000043.mp4", "new name_0000044.MP4"]
        keys += ["new name_000000.png", "new name_000001.png", "new name_000001.txt", "other_000002.png", "", ".png"]
        for order in (
            range(40),
            range(7, 30),
            range(0),
            range(len(keys)),
            rng.permutation(len(keys)),
            rng.integers(0, len(keys), 300),
        ):
            some = [keys[i] for i in order]
            assert source.indices_of(some) == [source.index_of(key) for key in some]
        found = source.indices_of(keys)
    assert found[:40] == [*range(40)]
    assert found[40:48] == [999_997, 999_998, 999_999, 1_000_000, 10**18 - 3, 10**18 - 2, None, None]


def test_keys_that_count_from_0_have_no_frame_in_a_video(clip: Path) -> None:
    """Each would get its neighbour's."""
    with open_frames(clip) as source:
        made = match_keys(listed("old_{:06d}.png", range(5)), source, "any")
    assert made.position.tolist() == [-1] * 5
    assert made.reason(3) == "keys like it count from 0, but the frames from 1"


Given = Callable[..., tuple[Path, Path]]


@pytest.fixture
def given(tmp_path: Path, landmarks: np.ndarray) -> Given:
    """An alignments file with these keys, and a folder with vector frames under these names."""

    def make(keys: Sequence[str], frames: Sequence[str], **fields: Any) -> tuple[Path, Path]:
        file, folder = tmp_path / "alignments.json", tmp_path / "frames"
        face = face_entry(landmarks.tolist(), **fields)
        file.write_text(json.dumps({key: [face] for key in keys}), "utf-8")
        folder.mkdir()
        for i, name in enumerate(frames):
            shutil.copy(VECTORS / "frames" / f"f_{i + 1:06d}.png", folder / name)
        return file, folder

    return make


def test_a_run_where_nothing_matches_says_why(given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, frames = given(listed("F_{}.PNG"), listed("f_{:06d}.png"))
    command = ["extract", "-a", str(file), "-fr", str(frames), "-fc", str(tmp_path / "faces"), "-sz", "64"]
    assert main(command) == 3
    said = capsys.readouterr().err
    assert said == (
        f"gpu-extract: no entry of alignments.json names a frame of {frames} exactly, but 5 keys would match frames "
        "that differ only in upper and lower case and leading zeros, such as 'F_1.PNG' and 'f_000001.png'; if these "
        "are the frames, add --match-keys case,padding.\n"
    )
    assert not (tmp_path / "faces").exists()
    assert main([*command, "--match-keys", "padding,case,padding"]) == 0
    assert "note    5 keys matched frames that differ in upper and lower case" in capsys.readouterr().out
    assert main(["verify", *command[1:7]]) == 0, "the journal knows the rule"


def test_faces_by_a_rule_are_those_of_exact_keys(given: Given, tmp_path: Path) -> None:
    file, frames = given(["d\\f_1.PNG", "f_000002.png"], listed("f_{:06d}.png"))
    exact = tmp_path / "exact.json"
    exact.write_text(file.read_text("utf-8").replace("d\\\\f_1.PNG", "f_000001.png"), "utf-8")
    extract(exact, frames, tmp_path / "1", size=64, progress="none", metadata="jsonl")
    report = extract(file, frames, tmp_path / "2", size=64, progress="none", match_keys="any", metadata="jsonl")
    assert (report.faces_written, report.frames_without_alignments, report.alignments_without_frame) == (2, 3, 0)
    faces = [{name: data for name, data in files_in(tmp_path / n).items() if "0.png" in name.lower()} for n in "12"]
    assert sorted(faces[1]) == ["f_000002_0.png", "f_1_0.PNG"], "the key's name, without its folder"
    assert sorted(faces[0].values()) == sorted(faces[1].values())
    hashes = [[entry[0]["hash"] for entry in json.loads(path.read_text()).values()] for path in (exact, file)]
    assert hashes[0] == hashes[1]


def test_some_keys_match(given: Given, tmp_path: Path) -> None:
    file, frames = given(["f_000001.png", "f_000002.jpg"], listed("f_{:06d}.png"))
    for dry_run in (True, False):
        report = extract(file, frames, tmp_path / "faces", size=64, progress="none", dry_run=dry_run)
        assert "add --match-keys extension" in report.notes[0]
    assert report.exit_code == 4
    assert report.faces_written == 1
    (error,) = report.errors
    assert error["frame"] == "f_000002.jpg"
    assert "'f_000002.png' differs only in the extension (--match-keys extension)" in error["reason"]
    found = verify(file, frames, tmp_path / "faces", progress="none")
    assert [one["reason"] for one in found.differences] == [error["reason"]]
    assert report.notes[0] in found.notes


def test_check_says_the_same_sentence(given: Given) -> None:
    file, frames = given(listed("f_{:06d}.jpg"), listed("f_{:06d}.png"))
    found = check(file, frames)
    assert found.exit_code == 4
    assert len(found.alignments_without_frame) == len(found.frames_without_alignments) == 5
    assert "5 keys would match frames that differ only in the extension" in found.notes[0]
    found = check(file, frames, match_keys="extension")
    assert (found.exit_code, found.alignments_without_frame, found.frames_without_alignments) == (0, [], [])
    assert "5 keys matched frames" in found.notes[0]


def test_a_file_migrated_by_a_rule_has_the_names_of_the_frames(given: Given, tmp_path: Path, clip: Path) -> None:
    file, frames = given(listed("f_{}.jpg"), listed("f_{:06d}.png"))
    report = migrate(file, tmp_path / "same.fsa", frames=frames)
    assert "add --match-keys padding,extension" in report.notes[0]
    assert Alignments.load(tmp_path / "same.fsa").frame_names == listed("f_{}.jpg")
    report = migrate(file, tmp_path / "new.fsa", frames=frames, match_keys="padding,extension")
    assert report.frames_renamed == 5
    assert "5 keys matched frames" in report.notes[0]
    assert Alignments.load(tmp_path / "new.fsa").frame_names == listed("f_{:06d}.png")
    for to, extension in (("2.4", "mp4"), ("2.3", "png")):
        migrate(file, tmp_path / f"{to}.fsa", frames=clip, match_keys="any", to=to)
        assert Alignments.load(tmp_path / f"{to}.fsa").frame_names == listed(f"new name_{{:06d}}.{extension}")
    export(file, tmp_path / "out.json", frames=frames, match_keys="any")
    assert [*json.loads((tmp_path / "out.json").read_text())] == listed("f_{:06d}.png")


def test_sizes_of_turned_faces_come_from_frames_by_a_rule(
    given: Given, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, frames = given(["F_1.PNG"], ["f_1.png"])
    entry = json.loads(file.read_text("utf-8"))
    (face,) = entry["F_1.PNG"]
    entry["F_1.PNG"] = [{"r": 90, "x": 1, "y": 1, "w": 9, "h": 9, "landmarksXY": face["landmarks_xy"]}]
    file.write_text(json.dumps(entry))
    command = ["migrate", str(file), str(tmp_path / "new.fsa"), "-fr", str(frames)]
    assert main(command) == 3
    assert "'f_1.png' differs only in upper and lower case (--match-keys case)" in capsys.readouterr().err
    assert main([*command, "--match-keys", "case"]) == 0
    assert main(["export", str(file), "--match-keys", "case"]) == 2
    assert "name the frames too" in capsys.readouterr().err
    assert main(["export", str(file), "-fr", str(frames), "--match-keys", "cas"]) == 2


def test_images_of_other_formats_are_frames_where_a_key_names_them(given: Given, tmp_path: Path) -> None:
    file, frames = given(["b.png", "a.webp", "c.webp"], ["b.png", "a.webp", "c.webp", "d.webp"])
    report = extract(file, frames, tmp_path / "faces", size=64, progress="none")
    assert (report.faces_written, report.frames_without_alignments) == (3, 0)
    assert "2 images of a format that is not listed ('a.webp') came after all other frames." in report.notes
    assert check(file, frames).exit_code == 0
    report = extract(file, frames, tmp_path / "second", size=64, progress="none", extract_every_n=2)
    assert sorted(name for name in files_in(tmp_path / "second") if name.endswith(".png")) == ["b_0.png", "c_0.png"]


def test_images_of_other_formats_by_a_rule(given: Given) -> None:
    file, frames = given(["a.png", "b.jpg", "c.heic", "d.png"], ["b.png", "b.webp", "a.webp", "c.heic", "d.exr"])
    found = check(file, frames)
    assert "2 keys would match frames that differ only in the extension" in found.notes[0]
    assert (
        "the frames of 2 keys are not read: 'c.heic' is there, but HEIC images are not read; convert it to PNG, and "
        in (found.notes[1])
    )
    found = check(file, frames, match_keys="extension")
    assert found.alignments_without_frame == ["c.heic", "d.png"]
    with open_frames(frames) as source:
        made = match_keys(["a.png", "b.jpg", "c.heic", "d.png"], source, "extension")
        assert made.reason(2) == "'c.heic' is there, but HEIC images are not read; convert it to PNG"
        assert made.reason(3) == "'d.exr' is there, but EXR images are not read; convert it to PNG"
        assert [source.name_of(i) for i in made.position.tolist() if i >= 0] == ["a.webp", "b.png"]


def test_an_old_journal_resumes_and_another_rule_does_not(given: Given, tmp_path: Path) -> None:
    before = {"size": 64}
    assert fingerprint.differences(before, before | {"match_keys": "exact"}) == []
    assert fingerprint.differences(before, before | {"match_keys": "case"}) == [
        "match_keys was 'exact' and is now 'case'"
    ]


def test_a_source_without_a_list_has_nothing_beside(clip: Path) -> None:
    source: FrameSource
    with open_frames(clip) as source:
        assert source.names() is None
        assert source.beside() == {}
        source.admit([])
        with pytest.raises(ValueError, match="nothing lies beside"):
            source.admit(["a.webp"])
