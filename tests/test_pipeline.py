"""The pipeline with sources and engines that fail, stall and reorder on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpu_extract.engines.base import Crops, Ticket
from gpu_extract.errors import DeviceError, OutputError
from gpu_extract.frames import Frame, FrameFailure
from gpu_extract.geometry.crops import CropGeometry
from gpu_extract.patch import Patch, Region, group_regions
from gpu_extract.run import batches
from gpu_extract.run.pipeline import Pipeline
from gpu_extract.run.plan import Plan
from gpu_extract.tasks import FaceResult, Failure, FrameResult, FrameTask
from tests.contracts.fakes import FakeEngine, FakeSource

SIZE = 20


def make_plan(faces_per_frame: Sequence[int]) -> Plan:
    """Frames 0, 2, 4 … with so many faces each."""
    count = sum(faces_per_frame)
    return Plan(
        size=SIZE,
        frame_names=[f"f_{2 * i:06d}.png" for i in range(len(faces_per_frame))],
        positions=np.arange(len(faces_per_frame)) * 2,
        rows=np.arange(count),
        starts=np.concatenate([[0], np.cumsum(faces_per_frame)]),
        index=np.concatenate([np.arange(n) for n in faces_per_frame]).astype(np.int32),
        frame_of=np.arange(len(faces_per_frame), dtype=np.int32),
        geometry=CropGeometry(np.zeros((count, 2, 3)), np.zeros(count, bool), np.ones(count, bool)),
        region=np.tile(np.array([0, 0, 9, 7]), (count, 1)),
        extension=".png",
    )


def fake_source(**faults: Any) -> FakeSource:
    """An endless one, in which frames 8, 18, 28 … are torn."""
    return FakeSource(torn=range(8, 10_000, 10), **faults)


def finish(task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
    assert (crop == (task.position % 251, 0, 0)).all()  # BGR of the frame's first pixel
    result.add_seconds("encode", 0.001)
    return FaceResult(int(task.rows[k]), int(task.index[k]), task.file_name(k), str(int(crop[0, 0, 0])), 1)


ENGINES = pytest.mark.parametrize("inline", [True, False], ids=["inline", "batched"])


def run(pipeline: Pipeline) -> list[FrameResult]:
    results = list(pipeline)
    assert not [t for t in threading.enumerate() if t.name.startswith("gpu-extract")]
    return results


@ENGINES
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_every_face_arrives_once_for_any_number_of_workers(inline: bool, workers: int) -> None:
    plan = make_plan([1, 5, 3, 40, 2] * 9)
    source, engine = fake_source(), FakeEngine(inline)
    results = run(Pipeline(plan, source, engine, finish, workers))
    assert sorted(r.task.position for r in results) == plan.positions.tolist()
    torn = [r for r in results if r.task.position % 10 == 8]
    assert [f.reason for r in torn for f in r.failures] == ["torn"] * len(torn)
    written = sorted(face.row for r in results for face in r.faces)
    expected = [row for i in range(45) if i * 2 % 10 != 8 for row in plan.task(i).rows]
    assert written == expected
    assert engine.out == 0


@ENGINES
def test_a_frame_that_cannot_be_read_is_an_entry_not_the_end(inline: bool) -> None:
    results = run(Pipeline(make_plan([2] * 12), fake_source(unreadable=[4, 6]), FakeEngine(inline), finish, 2))
    failed = {r.task.position: r.failures for r in results if r.failures}
    assert sorted(failed) == [4, 6, 8, 18]
    assert failed[4] == [Failure("f_000004.png", None, "this frame cannot be read.")]
    assert sum(len(r.faces) for r in results) == 2 * 8


@ENGINES
def test_a_face_without_a_crop_is_a_failure_and_never_finished(inline: bool) -> None:
    """Its pose is looked for when its frame's turn comes; what the engine makes of its matrix is nobody's face."""
    plan = make_plan([3] * 4)
    honest = plan.task

    def task(i: int) -> FrameTask:
        made = honest(i)
        return replace(made, failed={1: Failure(made.name, 1, "no pose")}) if i == 2 else made

    plan.task = task  # type: ignore[method-assign]
    finished = []

    def spy(task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
        finished.append((task.position, k))
        return finish(task, k, crop, result)

    results = run(Pipeline(plan, fake_source(), FakeEngine(inline), spy, 2))
    assert [failure for r in results for failure in r.failures] == [Failure("f_000004.png", 1, "no pose")]
    assert sorted(finished) == [(i * 2, k) for i in range(4) for k in range(3) if (i, k) != (2, 1)]


@ENGINES
def test_frames_that_never_come_are_reported(inline: bool) -> None:
    results = run(Pipeline(make_plan([1] * 9), fake_source(ends_at=8), FakeEngine(inline), finish, 2))
    reasons = [f.reason for r in results for f in r.failures]
    assert reasons == ["the source ended before this frame"] * 5
    assert len(results) == 9


@ENGINES
@pytest.mark.parametrize("where", ["source", "engine", "finish"])
def test_an_error_reaches_the_caller_and_all_threads_end(inline: bool, where: str) -> None:
    def failing(task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
        if where == "finish" and task.position >= 20:
            raise OutputError("the disk is full.")
        return finish(task, k, crop, result)

    source = fake_source(breaks_at=30 if where == "source" else None)
    engine = FakeEngine(inline, fails_after=25 if where == "engine" else 10**9)
    wanted: dict[str, Any] = {"source": ValueError, "engine": DeviceError, "finish": OutputError}
    with pytest.raises(wanted[where]):
        run(Pipeline(make_plan([3] * 200), source, engine, failing, 3))
    assert source.read < 200


@ENGINES
def test_leaving_the_loop_early_joins_all_threads(inline: bool) -> None:
    pipeline = iter(Pipeline(make_plan([3] * 500), fake_source(), FakeEngine(inline), finish, 3))
    next(pipeline)
    pipeline.close()


@ENGINES
def test_stop_finishes_what_is_in_flight(inline: bool) -> None:
    source = fake_source()
    pipeline = Pipeline(make_plan([1] * 1000), source, FakeEngine(inline, delay=0.001), finish, 2)
    results = []
    for result in pipeline:
        results.append(result)
        if len(results) == 5:
            pipeline.stop()
    assert len(results) == source.read < 1000
    assert all(r.faces or r.failures for r in results)


@ENGINES
def test_what_waits_is_bounded(inline: bool) -> None:
    """A slow consumer of frames holds the reader back: memory does not grow with the length of the video."""
    source, engine = fake_source(), FakeEngine(inline)
    release = threading.Event()

    def stuck(task: FrameTask, k: int, crop: np.ndarray, result: FrameResult) -> FaceResult | Failure:
        release.wait(10)
        return finish(task, k, crop, result)

    pipeline = iter(Pipeline(make_plan([1] * 2000), source, engine, stuck, 2))
    consumer = threading.Thread(target=lambda: list(pipeline))
    consumer.start()
    time.sleep(0.5)
    read = source.read
    release.set()
    consumer.join()
    assert read < 200  # batched: three batches of 6,000 bytes of 189 each, inline: a few a worker
    assert engine.most_out <= 5
    assert source.read == 2000


class Counting(FakeEngine):
    """Notes how many crops each of its batches has."""

    def __init__(self, batch_bytes: int) -> None:
        super().__init__(inline=False, batch_bytes=batch_bytes)
        self.sizes: list[int] = []

    def submit(self, patches: Sequence[Patch], crops: Crops) -> Ticket:
        self.sizes.append(len(crops))
        return super().submit(patches, crops)


def test_a_batch_waits_for_further_frames_until_it_is_full_or_none_will_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 3600.0)
    engine = Counting(1 << 20)
    results = run(Pipeline(make_plan([2] * 20), FakeSource(), engine, finish, 2))
    assert sum(len(r.faces) for r in results) == 40
    assert engine.sizes == [40]
    engine = Counting(3 * (189 + 2 * 1520))  # a frame and two crops with their tables, three times
    run(Pipeline(make_plan([2] * 20), FakeSource(), engine, finish, 2))
    assert engine.sizes == [6] * 6 + [4]


def test_a_batch_does_not_wait_forever() -> None:
    """The source goes on only when its first frame is done."""
    done = threading.Event()

    class Patient(FakeSource):
        def frames(self, wanted: np.ndarray) -> Iterator[Frame | FrameFailure]:
            for frame in super().frames(wanted):
                assert self.read == 1 or done.wait(60)
                yield frame

    engine = Counting(1 << 20)
    for result in Pipeline(make_plan([3] * 4), Patient(), engine, finish, 2):
        done.set()
        assert len(result.faces) == 3
    assert engine.sizes[0] == 3


def test_regions_are_grouped_where_that_loads_no_more() -> None:
    apart = np.array([[0, 0, 10, 10], [80, 40, 95, 60]])
    regions, which = group_regions(apart, 50, 90)
    assert regions == [Region(0, 0, 10, 10), Region(80, 40, 90, 50)]
    assert which.tolist() == [0, 1]
    near = np.array([[-5, 3, 20, 20], [4, 5, 24, 25]])
    regions, which = group_regions(near, 50, 90)
    assert regions == [Region(0, 3, 24, 25)]
    assert which.tolist() == [0, 0]


def test_a_region_outside_the_frame_is_one_pixel() -> None:
    regions, _ = group_regions(np.array([[-50, -60, -10, -20], [500, 10, 600, 20]]), 30, 40)
    assert regions == [Region(0, 0, 1, 1), Region(39, 10, 40, 20)]


@ENGINES
@pytest.mark.parametrize("which", range(1, 9))
def test_a_thread_that_the_system_refuses(inline: bool, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever it is: a sentence, and those that were started end."""
    threads = 4 if inline else 8
    start, asked = threading.Thread.start, iter(range(1, 100))

    def start_or_refuse(thread: threading.Thread) -> None:
        if next(asked) == which:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)
    began = time.monotonic()
    pipeline = Pipeline(make_plan([3] * 400), fake_source(), FakeEngine(inline), finish, 3)
    if which <= threads:
        with pytest.raises(DeviceError, match=f"the system grants {which - 1} of the {threads} threads"):
            run(pipeline)
    else:
        assert len(run(pipeline)) == 400
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpu-extract")]
    assert time.monotonic() - began < 5
