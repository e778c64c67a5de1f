"""What every layout of a faces folder keeps (`face_files/layout.py`): each face whole where it was said to be.

A new layout gets a line in `LAYOUTS`. How the folders and shards of each look is in `tests/test_layouts.py`.
"""

from __future__ import annotations

import errno
import itertools
import os
import tarfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from gpu_extract.errors import OutputError
from gpu_extract.face_files.layout import Layout, layout_for, layouts
from gpu_extract.face_files.layouts import by_frame, webdataset
from gpu_extract.tasks import FrameResult, FrameTask
from tests.contracts.faces import a_task, content, finished, positions

HIDDEN = ".part-"


def in_a_file(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def in_a_shard(folder: Path, name: str) -> bytes:
    shard, member = name.split("/")
    with tarfile.open(folder / shard) as tar:
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


class Backend(NamedTuple):
    name: str
    layout: str
    read: Callable[[Path, str], bytes] = in_a_file
    """A face's bytes, by the name that the layout gave it."""
    face_count: int = 1000
    """What the layout is told of the whole job."""
    stores_sidecars: bool = False

    def open(self, folder: Path, tasks: Iterable[FrameTask]) -> Layout:
        return layout_for(self.layout)(folder, positions(tasks), self.face_count)

    def __str__(self) -> str:
        return self.name


LAYOUTS = [
    Backend("flat", "flat"),
    Backend("by-frame-of-few", "by-frame"),
    Backend("by-frame-of-many", "by-frame", face_count=by_frame.MAX_ENTRIES + 1),
    Backend("webdataset", "webdataset", in_a_shard, stores_sidecars=True),
]


@pytest.fixture(params=LAYOUTS, ids=str)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Shards are small, and hold little in memory, so that a dozen frames make several."""
    monkeypatch.setattr(webdataset, "MAX_SAMPLES", 6)
    monkeypatch.setattr(webdataset, "MAX_BYTES", 8_000)
    monkeypatch.setattr(webdataset, "HELD_BYTES", 3_000)
    made: Backend = request.param
    return made


def some_tasks() -> list[FrameTask]:
    faces = [2, 1, 3, 0, 5, 1, 1, 4, 2, 2, 9, 1, 1]
    return [a_task(3 * i, count) for i, count in enumerate(faces)]


def entries(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


class Faces:
    """What a layout said to be whole; `check` whenever it said so."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend, self.folder = backend, folder
        self.whole: dict[int, FrameResult] = {}

    def add(self, results: list[FrameResult]) -> None:
        found = [result.task.position for result in results]
        assert found == sorted(found)
        assert not self.whole.keys() & set(found), "a frame became whole twice"
        for result in results:
            self.whole[result.task.position] = result
            for face in result.faces:
                k = result.task.index.tolist().index(face.index)
                assert self.backend.read(self.folder, face.file_name) == content(result.task, k)

    def names(self) -> dict[int, str]:
        """Row -> name of all faces that are whole."""
        return {face.row: face.file_name for result in self.whole.values() for face in result.faces}


def run(layout: Layout, faces: Faces, tasks: Iterable[FrameTask], fail: Iterable[int] = ()) -> None:
    """Store and commit frames, in the order given, of which faces in `fail` cannot be cut."""
    for task in tasks:
        faces.add(layout.commit(finished(layout, task, fail)))


def test_every_layout_has_a_line() -> None:
    assert {backend.layout for backend in LAYOUTS} == set(layouts())


class TestLayout:
    @pytest.mark.parametrize("order", ["ascending", "descending", "mixed"])
    def test_every_face_arrives_whole_where_it_was_said_to(self, backend: Backend, tmp_path: Path, order: str) -> None:
        tasks = some_tasks()
        orders = {"ascending": tasks, "descending": tasks[::-1], "mixed": tasks[1::2] + tasks[::2]}
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, orders[order])
        faces.add(layout.finish())
        layout.abandon()
        assert sorted(faces.whole) == positions(tasks).tolist()
        assert sorted(faces.names()) == sorted(itertools.chain(*(task.rows.tolist() for task in tasks)))
        assert len(set(faces.names().values())) == len(faces.names())
        assert {name.partition("/")[0] for name in faces.names().values()} == {path.name for path in tmp_path.iterdir()}

    def test_nothing_else_stays_behind(self, backend: Backend, tmp_path: Path) -> None:
        tasks = some_tasks()
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks[::-1])
        faces.add(layout.finish())
        layout.abandon()
        assert not [name for name in entries(tmp_path) if HIDDEN in name]
        holders = {name.partition("/")[0] if backend.read is in_a_shard else name for name in faces.names().values()}
        assert set(entries(tmp_path)) == holders

    def test_failures_hold_nothing_up(self, backend: Backend, tmp_path: Path) -> None:
        """Frames of which no face could be cut, or some could not, become whole like others."""
        tasks = some_tasks()
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks[:1], fail=[0, 1])
        run(layout, faces, tasks[1:], fail=[1])
        faces.add(layout.finish())
        assert sorted(faces.whole) == positions(tasks).tolist()
        assert faces.whole[0].faces == []
        wanted = [row for task in tasks[1:] for k, row in enumerate(task.rows.tolist()) if k != 1]
        assert sorted(faces.names()) == wanted

    def test_place_says_where_and_writes_nothing(self, backend: Backend, tmp_path: Path) -> None:
        task = a_task(4, 3, "b.c.png")
        layout = backend.open(tmp_path, [task])
        places = [layout.place(task, k, task.file_name(k)) for k in range(3)]
        assert entries(tmp_path) == []
        result = finished(layout, task)
        assert [face.file_name for face in result.faces] == places
        faces = Faces(backend, tmp_path)
        faces.add(layout.commit(result))
        faces.add(layout.finish())
        for place, name in zip(places, faces.names().values(), strict=True):
            assert name.endswith(place)
            assert name == place or layout.in_archives

    def test_many_threads_store_at_once(self, backend: Backend, tmp_path: Path) -> None:
        tasks = [a_task(i, 8) for i in range(40)]
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        results: list[FrameResult] = []
        together = threading.Barrier(4)

        def work(mine: list[FrameTask]) -> None:
            together.wait(30)
            for task in mine:
                results.append(finished(layout, task))

        threads = [threading.Thread(target=work, args=(tasks[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            faces.add(layout.commit(result))
        faces.add(layout.finish())
        assert len(faces.names()) == 320

    @pytest.mark.parametrize("stop", [0, 1, 5, 12])
    def test_what_never_became_whole_is_not_there_and_the_next_run_does_it(
        self, backend: Backend, tmp_path: Path, stop: int
    ) -> None:
        tasks = some_tasks()
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks[:stop])
        faces.add(layout.finish())
        layout.abandon()
        assert faces.whole.keys() <= set(positions(tasks[:stop]).tolist())
        assert bool(entries(tmp_path)) == any(result.faces for result in faces.whole.values())
        assert not [name for name in entries(tmp_path) if HIDDEN in name]

        rest = [task for task in tasks if task.position not in faces.whole]
        again = backend.open(tmp_path, rest)
        run(again, faces, rest)
        faces.add(again.finish())
        again.abandon()
        assert sorted(faces.whole) == positions(tasks).tolist()
        holds = layout_for(backend.layout).holder(tmp_path)
        for result in faces.whole.values():
            for face in result.faces:
                assert holds(face.file_name, face.nbytes)

    def test_it_tells_which_faces_an_earlier_run_has_stored(self, backend: Backend, tmp_path: Path) -> None:
        tasks = some_tasks()
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks)
        faces.add(layout.finish())
        sizes = {face.file_name: face.nbytes for result in faces.whole.values() for face in result.faces}
        holds = layout_for(backend.layout).holder(tmp_path)
        assert all(holds(name, nbytes) for name, nbytes in sizes.items())
        assert not holds("nobody_0.png", 5)
        assert not holds("00099.tar/nobody_0.png", 5)
        first = next(iter(faces.names().values()))
        victim = tmp_path / (first.partition("/")[0] if layout.in_archives else first)
        whole = victim.read_bytes()
        victim.write_bytes(whole[:-1025])  # in an archive, more than the blocks of zeros at its end
        assert not layout_for(backend.layout).holder(tmp_path)(first, sizes[first])
        victim.unlink()
        assert not layout_for(backend.layout).holder(tmp_path)(first, sizes[first])

    def test_an_empty_folder_holds_nothing(self, backend: Backend, tmp_path: Path) -> None:
        assert not layout_for(backend.layout).holder(tmp_path)("clip_000001_0.png", 0)

    def test_abandoning_is_harmless_at_any_time_and_twice(self, backend: Backend, tmp_path: Path) -> None:
        tasks = some_tasks()
        for number, stage in enumerate(("before anything", "in the middle", "at the end")):
            folder = tmp_path / str(number)
            folder.mkdir()
            layout, faces = backend.open(folder, tasks), Faces(backend, folder)
            if stage != "before anything":
                run(layout, faces, tasks[: 2 if stage == "in the middle" else None])
            if stage == "at the end":
                faces.add(layout.finish())
            layout.abandon()
            layout.abandon()
            assert not [name for name in entries(folder) if HIDDEN in name]
            faces.add([])
            for result in faces.whole.values():
                for face in result.faces:
                    assert backend.read(folder, face.file_name)

    @pytest.mark.parametrize(
        "name", ["a\0b_0.png", "../x_0.png", "a/b_0.png", "/etc/x_0.png", "..", ".", ""], ids=ascii
    )
    def test_a_name_that_is_no_part_of_a_path_is_refused(self, backend: Backend, tmp_path: Path, name: str) -> None:
        """By itself: other faces are stored as if nothing had happened."""
        folder = tmp_path / "faces"
        folder.mkdir()
        bad, good = a_task(0, 1), a_task(1, 2)
        layout, faces = backend.open(folder, [bad, good]), Faces(backend, folder)
        with pytest.raises(OSError, match="no name") as placed:
            layout.place(bad, 0, name)
        with pytest.raises(OSError, match="no name") as stored:
            layout.store(bad, 0, name, b"x", dict)
        assert placed.value.errno == stored.value.errno == errno.EINVAL
        run(layout, faces, [bad], fail=[0])
        run(layout, faces, [good])
        faces.add(layout.finish())
        assert sorted(faces.names()) == good.rows.tolist()
        assert [path.name for path in tmp_path.iterdir()] == ["faces"]

    def test_a_name_that_is_too_long_is_refused_by_itself_or_stored(self, backend: Backend, tmp_path: Path) -> None:
        long, good = a_task(0, 1, "n" * 260 + ".png"), a_task(1, 2)
        layout, faces = backend.open(tmp_path, [long, good]), Faces(backend, tmp_path)
        refused = []
        if not layout.in_archives:
            with pytest.raises(OSError, match="name too long") as raised:
                layout.store(long, 0, long.file_name(0), b"x", dict)
            assert raised.value.errno == errno.ENAMETOOLONG
            refused = [0]
        run(layout, faces, [long], fail=refused)
        run(layout, faces, [good])
        faces.add(layout.finish())
        assert len(faces.names()) == 3 - len(refused)
        assert not [name for name in entries(tmp_path) if HIDDEN in name]

    def test_odd_names_are_kept_apart(self, backend: Backend, tmp_path: Path) -> None:
        names = [
            "a.b.png",
            "a_b.png",
            "a%2Eb.png",
            ".png",
            "é" * 90 + ".x.png",
            "\udcff.png",
            "n" * 240 + ".png",
            "a b.p",
        ]
        tasks = [a_task(i, 1, name) for i, name in enumerate(names) if backend.face_count < 10_000 or name != ".png"]
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks)
        faces.add(layout.finish())
        assert len(set(faces.names().values())) == len(tasks)

    def test_what_is_known_of_a_face_is_asked_for_only_where_it_is_stored(
        self, backend: Backend, tmp_path: Path
    ) -> None:
        asked = []

        def sidecar() -> dict[str, Any]:
            asked.append(1)
            return {"box": [1.5, np.nan]}

        task = a_task(0, 1)
        layout = backend.open(tmp_path, [task])
        layout.store(task, 0, task.file_name(0), b"x", sidecar)
        layout.abandon()
        assert bool(asked) == backend.stores_sidecars

    def test_a_full_disk_is_an_error_that_leaves_nothing_half_written(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tasks = some_tasks()
        layout, faces = backend.open(tmp_path, tasks), Faces(backend, tmp_path)
        run(layout, faces, tasks[:3])
        before = {name: (tmp_path / name).read_bytes() for name in entries(tmp_path) if HIDDEN not in name}
        real = os.write

        def full(handle: int, data: Any) -> int:
            if len(data) > 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle, data)

        monkeypatch.setattr(os, "write", full)
        with pytest.raises((OSError, OutputError), match="No space left on device"):
            run(layout, faces, tasks[4:])
        monkeypatch.setattr(os, "write", real)
        layout.abandon()
        layout.abandon()
        assert {name: (tmp_path / name).read_bytes() for name in entries(tmp_path)} == before
