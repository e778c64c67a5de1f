"""The journals of a job as a list of events that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_extract.run import journal
from gpu_extract.run.journal import Finished, frame_entry, line
from gpu_extract.run.shard import Shard
from gpu_extract.service import feed
from gpu_extract.tasks import FaceResult


def frame(position: int, faces: int = 1) -> bytes:
    made = [FaceResult(position * 1000 + k, k, f"clip_{position}_{k}.png", f"{position:040x}", 9) for k in range(faces)]
    return line(frame_entry(Finished(position, made)))


def begin(folder: Path, shard: Shard | None = None) -> Path:
    path = folder / journal.name_of(shard)
    path.write_bytes(line(journal.first_entry({"size": 48})))
    return path


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def all_from(folder: Path, shards: int, place: str, most: int) -> tuple[list[str], str]:
    found = feed.read(folder, shards, place, most)
    names = [face["file"] for face in found.faces]
    while found.more:
        found = feed.read(folder, shards, found.place, most)
        assert found.faces, "more was promised"
        names += [face["file"] for face in found.faces]
    return names, found.place


def test_a_folder_without_a_journal_has_nothing(tmp_path: Path) -> None:
    found = feed.read(tmp_path / "none", 1, "", 10)
    assert (found.faces, found.place, found.anew, found.more) == ([], "", False, False)
    assert feed.count(tmp_path / "none", None) == (0, 0)


@pytest.mark.parametrize("most", [1, 3, 50])
def test_each_face_once_however_it_is_read(tmp_path: Path, most: int) -> None:
    path = begin(tmp_path)
    names, place = [], ""
    for position in range(9):
        add(path, frame(position, position % 3))
        new, place = all_from(tmp_path, 1, place, most)
        names += new
    assert names == [f"clip_{position}_{k}.png" for position in range(9) for k in range(position % 3)]
    assert feed.count(tmp_path, None) == (9, 9)


def test_a_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = begin(tmp_path)
    whole = frame(1)
    add(path, frame(0) + whole[:-7])
    names, place = all_from(tmp_path, 1, "", 10)
    assert names == ["clip_0_0.png"]
    add(path, whole[-7:])
    assert all_from(tmp_path, 1, place, 10)[0] == ["clip_1_0.png"]


def test_a_frame_of_ten_thousand_faces_is_one_line(tmp_path: Path) -> None:
    path = begin(tmp_path)
    add(path, frame(0, 10_000) + frame(1))
    assert len(frame(0, 10_000)) > feed.READ_BYTES
    names, _ = all_from(tmp_path, 1, "", 50)
    assert len(set(names)) == len(names) == 10_001
    assert feed.count(tmp_path, None) == (2, 10_001)


def test_shards_are_read_side_by_side_and_anew_once_they_are_merged(tmp_path: Path) -> None:
    paths = [begin(tmp_path, Shard(number, 2)) for number in range(2)]
    add(paths[1], frame(5))
    names, place = all_from(tmp_path, 2, "", 10)
    add(paths[0], frame(0))
    add(paths[1], frame(6))
    more, place = all_from(tmp_path, 2, place, 10)
    assert names + more == ["clip_5_0.png", "clip_0_0.png", "clip_6_0.png"]
    assert feed.count(tmp_path, Shard(1, 2)) == (2, 2)
    assert feed.shards_begun(tmp_path) == 2
    merged = begin(tmp_path)
    add(merged, frame(0) + frame(5) + frame(6))
    for path in paths:
        path.unlink()
    found = feed.read(tmp_path, 2, place, 10)
    assert found.anew
    assert [face["file"] for face in found.faces] == ["clip_0_0.png", "clip_5_0.png", "clip_6_0.png"]
    assert not feed.read(tmp_path, 2, found.place, 10).anew


@pytest.mark.parametrize(
    ("text", "proper"),
    [
        *(("", True), ("a1:5", True), ("a1:5,b2:0", True), ("a1", False), (":5", False), ("a1:5,", False)),
        *(("../x:1", False), ("A1:5", False), ("a1:-5", False), ("a1:5\n", False), ("a1:" + "9" * 30, False)),
        ("a1:5," * 30_000 + "a1:5", False),
    ],
)
def test_places_that_clients_may_say(text: str, proper: bool) -> None:
    assert feed.is_place(text) == proper


def test_a_place_beyond_the_end_has_nothing(tmp_path: Path) -> None:
    path = begin(tmp_path)
    add(path, frame(0))
    found = feed.read(tmp_path, 1, f"{path.stat().st_ino:x}:{10**9}", 10)
    assert (found.faces, found.more) == ([], False)


@pytest.mark.parametrize("newest", [0, 1, 7, 200, 5_000])
def test_the_newest_faces_are_told_to_the_last_and_no_line_is_torn(tmp_path: Path, newest: int) -> None:
    add(begin(tmp_path), b"".join(map(frame, range(1000))))
    names, _ = all_from(tmp_path, 1, feed.near_end(tmp_path, 1, newest), 50)
    assert names == [f"clip_{position}_0.png" for position in range(1000)][1000 - len(names) :]
    assert min(newest, 1000) <= len(names) <= min(1000, 4 * newest)


def test_the_newest_faces_of_each_shard_are_told(tmp_path: Path) -> None:
    for number in range(2):
        add(begin(tmp_path, Shard(number, 2)), b"".join(map(frame, range(300))))
    names, _ = all_from(tmp_path, 2, feed.near_end(tmp_path, 2, 10), 50)
    assert names.count("clip_299_0.png") == 2
    assert 20 <= len(names) < 80


def test_a_last_line_that_is_still_being_written_is_told_when_it_is_whole(tmp_path: Path) -> None:
    path = begin(tmp_path)
    whole = frame(2)
    add(path, frame(0) + frame(1) + whole[:-30])
    place = feed.near_end(tmp_path, 1, 0)
    add(path, whole[-30:])
    assert all_from(tmp_path, 1, place, 50)[0][-1] == "clip_2_0.png"


def test_before_there_is_a_journal_the_newest_are_the_first(tmp_path: Path) -> None:
    assert feed.near_end(tmp_path, 1, 200) == ""


def test_a_place_inside_a_line_is_the_beginning(tmp_path: Path) -> None:
    path = begin(tmp_path)
    lines = [frame(number, 50) for number in range(100)]
    add(path, b"".join(lines))
    assert path.stat().st_size > feed.READ_BYTES
    found = feed.read(tmp_path, 1, f"{path.stat().st_ino:x}:{path.stat().st_size // 3}", 10)
    assert (found.anew, found.more) == (True, True)
    assert found.faces[0]["file"] == "clip_0_0.png"
