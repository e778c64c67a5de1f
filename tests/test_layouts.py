"""Layouts: every face arrives whole where it was said to, in any order of completion, and nothing else stays behind."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.errors import OutputError, UsageError
from gpu_extract.face_files.layout import layout_for, layouts
from gpu_extract.face_files.layouts import by_frame, webdataset
from gpu_extract.storage.parts import temporary_name, write_file
from gpu_extract.tasks import Failure, FrameResult, FrameTask
from tests.contracts.faces import a_task, content, finished, positions

HIDDEN = ".part-"


def samples(shard: Path) -> list[tuple[str, bytes, dict[str, Any]]]:
    """A shard as loaders read it: members grouped by what precedes the first dot of their names."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
            match = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name)
            assert match
            file = tar.extractfile(member)
            assert file
            found.setdefault(match[1], {})[match[2]] = file.read()
    for fields in found.values():
        assert set(fields) == {"png", "json"}
    return [(key, fields["png"], json.loads(fields["json"])) for key, fields in found.items()]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_layouts_are_discovered(tmp_path: Path) -> None:
    assert layouts() == ["by-frame", "flat", "webdataset"]
    for name in layouts():
        layout_for(name)(tmp_path, np.arange(3), 3).abandon()
    with pytest.raises(UsageError, match="'by_frame' is not understood; by-frame, flat, webdataset are"):
        layout_for("by_frame")


@pytest.mark.parametrize("name", ["flat", "by-frame"])
def test_few_faces_lie_flat(tmp_path: Path, name: str) -> None:
    tasks = [a_task(2, 3), a_task(0, 1), a_task(7, 2)]
    layout = layout_for(name)(tmp_path, np.array([0, 2, 7]), by_frame.MAX_ENTRIES)
    for task in tasks:
        result = finished(layout, task, fail=[1])
        assert layout.commit(result) == [result]
        assert [face.file_name for face in result.faces] == [task.file_name(k) for k in range(len(task)) if k != 1]
    assert layout.finish() == []
    layout.abandon()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {task.file_name(k): content(task, k) for task in tasks for k in range(len(task)) if k != 1}


def test_many_faces_lie_by_frame(tmp_path: Path) -> None:
    tasks = [a_task(0, 2), a_task(9_999, 1), a_task(10_000, 2, "b.c.jpg"), a_task(123_456, 3, "d.jpg", first=9_998)]
    layout = layout_for("by-frame")(tmp_path, positions(tasks), by_frame.MAX_ENTRIES + 1)
    for task in tasks:
        result = finished(layout, task)
        layout.commit(result)
        for k, face in enumerate(result.faces):
            assert (tmp_path / face.file_name).read_bytes() == content(task, k)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "00000/clip_000001/clip_000001_0.png",
        "00000/clip_000001/clip_000001_1.png",
        "00000/clip_010000/clip_010000_0.png",
        "00001/b.c/b.c_0.png",
        "00001/b.c/b.c_1.png",
        "00012/d/000/d_9998.png",
        "00012/d/000/d_9999.png",
        "00012/d/001/d_10000.png",
    ]


def test_no_folder_outgrows_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_frame, "MAX_ENTRIES", 6)
    tasks = [a_task(i, 1 + 5 * i % 17) for i in range(30)]
    layout = layout_for("by-frame")(tmp_path, positions(tasks), sum(map(len, tasks)))
    for task in tasks:
        layout.commit(finished(layout, task))
    sizes = {path: len(list(path.iterdir())) for path in [tmp_path, *tmp_path.rglob("*")] if path.is_dir()}
    assert max(sizes.values()) <= 6
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == sum(map(len, tasks))


@pytest.mark.parametrize("name", ["..", "a/b", "/etc/x", "a\0b", ".", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "faces").mkdir()
    with pytest.raises(OSError, match="no name") as raised:
        write_file(tmp_path / "faces", name, b"x")
    assert raised.value.errno == errno.EINVAL
    assert list(tmp_path.rglob("*")) == [tmp_path / "faces"]


def test_a_frame_named_like_the_parent_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    layout = layout_for("by-frame")(tmp_path / "faces", np.arange(1), 10**6)
    task = a_task(0, 1, "..")
    with pytest.raises(OSError, match="no name of a folder") as raised:
        layout.store(task, 0, task.file_name(0), b"x", dict)
    assert raised.value.errno == errno.EINVAL
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_temporary_names(tmp_path: Path) -> None:
    assert temporary_name("a_0.png") == ".part-a_0.png"
    for name in ("é" * 120 + "_0.png", "n" * 251 + ".png"):
        short = temporary_name(name)
        assert short.startswith(HIDDEN)
        assert len(os.fsencode(short)) <= 255
        assert short == temporary_name(name) != temporary_name("x" + name[1:])
        write_file(tmp_path, name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(OSError, match="name too long") as raised:
        write_file(tmp_path, "n" * 256, b"")
    assert raised.value.errno == errno.ENAMETOOLONG
    assert len(list(tmp_path.iterdir())) == 2


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_file(tmp_path, "old.png", b"old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path, "old.png", b"new")
    monkeypatch.undo()
    assert shards(tmp_path) == {"old.png": b"old"}


def some_tasks() -> list[FrameTask]:
    faces = [2, 1, 3, 0, 5, 1, 1, 4, 2, 2, 9, 1, 1]
    return [a_task(3 * i, count) for i, count in enumerate(faces)]


def run(folder: Path, order: Iterable[int], tasks: list[FrameTask], fail: Iterable[int] = ()) -> list[FrameResult]:
    """Stores frames in one order and commits them in it; returns what became whole."""
    layout = layout_for("webdataset")(folder, positions(tasks), sum(map(len, tasks)))
    whole: list[FrameResult] = []
    for i in order:
        whole += layout.commit(finished(layout, tasks[i], fail if tasks[i].position == 12 else ()))
    whole += layout.finish()
    layout.abandon()
    return whole


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_SAMPLES", 6)
    monkeypatch.setattr(webdataset, "MAX_BYTES", 8_000)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("held", [0, 3_000, 1 << 20])
def test_shards_do_not_depend_on_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(webdataset, "HELD_BYTES", held)
    tasks = some_tasks()
    rng = np.random.default_rng(5)
    orders = [list(range(len(tasks))), list(range(len(tasks)))[::-1], rng.permutation(len(tasks)).tolist()]
    made = []
    for i, order in enumerate(orders):
        folder = tmp_path / str(i)
        folder.mkdir()
        whole = run(folder, order, tasks)
        assert sorted(result.task.position for result in whole) == positions(tasks).tolist()
        made.append(shards(folder))
        for result in whole:
            for k, face in enumerate(result.faces):
                shard, name = face.file_name.split("/")
                with tarfile.open(folder / shard) as tar:
                    file = tar.extractfile(name)
                    assert file
                    assert file.read() == content(result.task, k)
    assert made[0] == made[1] == made[2]
    assert list(made[0]) == [f"{i:05d}.tar" for i in range(len(made[0]))]

    read = [samples(tmp_path / "0" / name) for name in made[0]]
    flat = list(itertools.chain(*read))
    assert [(s[2]["position"], s[2]["index"]) for s in flat] == [
        (task.position, index) for task in tasks for index in task.index.tolist()
    ]
    assert flat[0][2] == {"position": 0, "index": 0, "frame": "clip_000001.png", "box": [1.5, None]}
    for one_shard in read:
        frames = {sample[2]["position"] for sample in one_shard}
        assert len(frames) == 1 or len(one_shard) <= 6
        assert len(frames) == 1 or sum(len(sample[1]) for sample in one_shard) <= 8_000
    assert len({position for shard in read for position in {s[2]["position"] for s in shard}}) == 12
    assert sum(len({s[2]["position"] for s in shard}) for shard in read) == 12  # no frame lies in two shards


@pytest.mark.usefixtures("small_shards")
def test_failures_hold_nothing_up(tmp_path: Path) -> None:
    tasks = some_tasks()
    layout = layout_for("webdataset")(tmp_path, positions(tasks), 99)
    failed = FrameResult(tasks[0], failures=[Failure(tasks[0].name, None, "unreadable")])
    assert layout.commit(failed) == [failed]
    whole = []
    for task in tasks[1:]:
        whole += layout.commit(finished(layout, task, fail=[0, 3] if len(task) == 5 else ()))
    assert whole
    whole += layout.finish()
    layout.abandon()
    written = [(s[2]["position"], s[2]["index"]) for name in shards(tmp_path) for s in samples(tmp_path / name)]
    want = [(t.position, i) for t in tasks[1:] for i in t.index.tolist() if not (len(t) == 5 and i in (0, 3))]
    assert written == want


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("stop", range(1, 14))
def test_stopped_and_resumed_gives_the_same_shards(tmp_path: Path, stop: int) -> None:
    tasks = some_tasks()
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    run(tmp_path / "once", range(len(tasks)), tasks)
    layout = layout_for("webdataset")(tmp_path / "twice", positions(tasks), 99)
    whole = []
    for task in tasks[:stop]:
        whole += layout.commit(finished(layout, task))
    whole += layout.finish()
    layout.abandon()
    assert not [name for name in shards(tmp_path / "twice") if name.startswith(HIDDEN)]
    done = {result.task.position for result in whole}
    run(tmp_path / "twice", range(len(tasks) - len(done)), [task for task in tasks if task.position not in done])
    assert shards(tmp_path / "once") == shards(tmp_path / "twice")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("reported", [0, 1, 4, 8])
def test_killed_before_it_could_report(tmp_path: Path, reported: int) -> None:
    """A run dies after renaming its last shard, between the reports of that shard's frames, with another one open."""
    tasks = some_tasks()
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    run(tmp_path / "once", range(len(tasks)), tasks)
    layout = layout_for("webdataset")(tmp_path / "twice", positions(tasks), 99)
    whole = []
    for task in tasks[:10]:
        whole += layout.commit(finished(layout, task))
    left_open = {name: data for name, data in shards(tmp_path / "twice").items() if name.startswith(HIDDEN)}
    assert len(left_open) == 1
    assert len(whole) == 8
    layout.abandon()
    for name, data in left_open.items():
        (tmp_path / "twice" / name).write_bytes(data)

    rest = tasks[reported:]
    again = run(tmp_path / "twice", range(len(rest)), rest)
    assert shards(tmp_path / "once") == shards(tmp_path / "twice")
    assert [result.task.position for result in again] == positions(rest).tolist()
    places = {face.row: face.file_name for result in again for face in result.faces}
    places |= {face.row: face.file_name for result in whole for face in result.faces}
    for task in tasks:
        for k in range(len(task)):
            shard, name = places[int(task.rows[k])].split("/")
            with tarfile.open(tmp_path / "once" / shard) as tar:
                assert name in tar.getnames()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["missing", "cut off", "no archive"])
def test_a_damaged_shard_is_written_again_and_those_after_it(tmp_path: Path, damage: str) -> None:
    tasks = some_tasks()
    whole = {face.row: face.file_name for result in run(tmp_path, range(len(tasks)), tasks) for face in result.faces}
    before = shards(tmp_path)
    bad = tmp_path / "00002.tar"
    if damage == "missing":
        bad.unlink()
    else:
        bad.write_bytes(before["00002.tar"][:1024] if damage == "cut off" else b"x" * 2000)
    holds = layout_for("webdataset").holder(tmp_path)
    left = [task for task in tasks if not all(holds(whole[row], 1) for row in task.rows.tolist())]
    assert 0 < len(left) < len(tasks)
    assert {whole[int(task.rows[0])].split("/")[0] for task in left} == set(before) - {"00000.tar", "00001.tar"}
    run(tmp_path, range(len(left)), left)
    assert shards(tmp_path) == before


def test_faces_of_a_damaged_shard_are_not_guessed(tmp_path: Path) -> None:
    shard = tmp_path / "00000.tar"
    run(tmp_path, range(len(some_tasks())), some_tasks())
    shard.write_bytes(shard.read_bytes()[:1024])
    with pytest.raises(OutputError, match=r"00000\.tar of the earlier run is cut off"):
        list(webdataset.faces_in_shard(shard))
    shard.write_bytes(b"x" * 2000)
    with pytest.raises(OutputError, match=r"00000\.tar of the earlier run cannot be read"):
        list(webdataset.faces_in_shard(shard))


def test_keys_survive_dots_and_odd_names(tmp_path: Path) -> None:
    names = ["a.b.png", "a_b.png", "a%2Eb.png", ".png", "é" * 90 + ".x.png", "\udcff.png", "n" * 240 + ".png"]
    tasks = [a_task(i, 1, name) for i, name in enumerate(names)]
    run(tmp_path, range(len(tasks)), tasks)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]
    read = samples(tmp_path / "00000.tar")
    assert [sample[2]["frame"] for sample in read] == names
    assert [sample[1] for sample in read] == [content(task, 0) for task in tasks]
    assert read[0][0] == "a%2Eb_0"


def test_tar_members_are_what_tarfile_writes() -> None:
    wanted = io.BytesIO()
    with tarfile.open(fileobj=wanted, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a_0.png")
        info.size = 700
        tar.addfile(info, io.BytesIO(bytes(range(100)) * 7))
        ours = webdataset.tar_member("a_0.png", bytes(range(100)) * 7)
        assert wanted.getvalue() == ours
    assert len(ours) == 512 + 1024


def test_a_full_disk_is_an_error_that_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = some_tasks()
    layout = layout_for("webdataset")(tmp_path, positions(tasks), 99)
    layout.commit(finished(layout, tasks[0]))
    real = os.write

    def full(handle: int, data: Any) -> int:
        if len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    second = finished(layout, tasks[1])
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"the shard 00000\.tar cannot be written to .*: No space left on device"):
        layout.commit(second)
    monkeypatch.undo()
    layout.abandon()
    layout.abandon()
    assert list(tmp_path.iterdir()) == []
