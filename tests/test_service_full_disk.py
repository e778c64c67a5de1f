"""The service on a disk that is full to its last byte: the door answers, old jobs make room, and nothing is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.run import journal
from tests.helpers import Tmpfs, clip_made_once, face_entry, files_in, tmpfs_at, write_pickled
from tests.serving import Service

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

MIB = 1 << 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("root")
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    for name, count in (("clip", 60), ("long", 5000)):
        clip_made_once(tmp_path_factory, folder / f"{name}.mp4", count, (76, 90))
        entries = {f"{name}_{number + 1:06d}.png": [face_entry(small)] for number in range(count)}
        write_pickled(folder / f"{name}.fsa", entries)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Tmpfs]:
    with tmpfs_at(tmp_path / "disk", 64 << 10) as made:
        yield made


@pytest.fixture
def start(disk: Tmpfs, root: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def started(*options: str) -> Service:
        made.append(Service(disk.folder / "data", {"here": root}, options or ("--devices=cpu",)))
        return made[-1].start()

    yield started
    for one in made:
        with one:
            pass


def fill(disk: Tmpfs) -> Path:
    """A file that takes what is left, to the last byte."""
    path = disk.folder / f"filler-{time.monotonic_ns()}"
    with open(path, "wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    assert os.statvfs(disk.folder).f_bavail == 0
    return path


def states(here: Service) -> dict[str, str]:
    return {job["id"]: job["state"] for job in here.ask("GET", "/v1/jobs").json["jobs"]}


def until(what: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    "how", ["killed", *(pytest.param(how, marks=pytest.mark.slow) for how in ("ended", "no table"))]
)
def test_a_service_starts_on_a_full_disk_and_what_is_removed_makes_room(
    start: Callable[..., Service], disk: Tmpfs, how: str
) -> None:
    here = start()
    for name, size in (("done", 512), ("old", 48)):
        here.submit(name, "clip.fsa", "clip.mp4", options={"size": size})
        here.wait(name)
    assert sum(map(len, files_in(here.data / "jobs" / "done" / "faces").values())) > 3 * MIB
    here.submit("runs", "long.fsa", "long.mp4", options={"size": 48})
    until(lambda: here.job("runs")["faces"] > 10)
    here.submit("waits", "clip.fsa", "clip.mp4", options={"size": 48})
    if how == "ended":
        assert here.stop() == 0
    else:
        here.kill()
        until(lambda: here.pids() == [])
    if how == "no table":
        for path in here.data.glob("service.sqlite*"):
            path.unlink()
    filler = fill(disk)
    here.start()
    assert here.ask("GET", "/healthz").status == 200
    ready = here.ask("GET", "/readyz")
    assert (ready.status, ready.json["reasons"]) == (503, ["disk"])
    assert set(states(here)) == {"done", "old", "waits", "runs"}
    assert states(here)["old"] == "succeeded"
    assert here.ask("GET", "/v1/jobs/old/alignments").status == 200
    assert here.ask("GET", "/v1/jobs/old/faces.tar").status == 200
    assert here.submit("more", "clip.fsa", "clip.mp4").status == 507
    assert here.ask("GET", "/v1/jobs/more").status == 404
    assert here.ask("POST", "/v1/jobs/runs/cancel").status == 202
    until(lambda: states(here)["runs"] == "cancelled")
    assert here.ask("POST", "/v1/jobs/runs/resume").status == 507
    assert here.ask("DELETE", "/v1/jobs/done").status == 204
    assert here.ask("DELETE", "/v1/jobs/runs").status == 204
    assert set(states(here)) == {"old", "waits"}
    assert here.wait("waits")["state"] == "succeeded"
    filler.unlink()
    until(lambda: here.ask("GET", "/readyz").status == 200)
    assert here.stop() == 0
    here.start()
    assert states(here) == {"old": "succeeded", "waits": "succeeded"}


def test_a_job_that_runs_is_cancelled_on_a_full_disk_and_removed(start: Callable[..., Service], disk: Tmpfs) -> None:
    """And where its own faces are what fills the disk, that makes the room."""
    here = start()
    here.submit("runs", "long.fsa", "long.mp4", options={"size": 48})
    until(lambda: here.job("runs")["faces"] > 10)
    (child,) = here.pids()
    os.kill(child, signal.SIGSTOP)
    filler = fill(disk)
    assert here.ask("POST", "/v1/jobs/runs/cancel").status == 202
    os.kill(child, signal.SIGCONT)
    assert here.wait("runs")["state"] == "cancelled"
    assert here.submit("next", "clip.fsa", "clip.mp4", options={"size": 48}).status == 507
    assert here.ask("DELETE", "/v1/jobs/runs").status == 204
    assert states(here) == {}
    filler.unlink()
    until(lambda: here.submit("next", "clip.fsa", "clip.mp4", options={"size": 48}).status == 201)
    assert here.wait("next")["state"] == "succeeded"


def test_a_cancelled_job_is_told_to_its_folder_when_there_is_room(start: Callable[..., Service], disk: Tmpfs) -> None:
    here = start()
    here.submit("runs", "long.fsa", "long.mp4", options={"size": 48})
    here.submit("waits", "clip.fsa", "clip.mp4", options={"size": 48})
    until(lambda: here.job("runs")["faces"] > 10)
    (child,) = here.pids()
    os.kill(child, signal.SIGSTOP)
    filler = fill(disk)
    assert here.ask("POST", "/v1/jobs/waits/cancel").status == 202
    assert here.wait("waits")["state"] == "cancelled"
    assert not (here.data / "jobs" / "waits" / "outcome.json").exists()
    assert here.ask("POST", "/v1/jobs/runs/cancel").status == 202
    os.kill(child, signal.SIGCONT)
    assert here.wait("runs")["state"] == "cancelled"  # and what it takes away may make the room
    filler.unlink()
    until(lambda: all((here.data / "jobs" / name / "outcome.json").exists() for name in ("waits", "runs")))
    here.kill()
    here.start()
    assert states(here) == {"runs": "cancelled", "waits": "cancelled"}
    here.ask("POST", "/v1/jobs/runs/resume")
    assert here.wait("runs")["state"] == "succeeded"


def test_a_merge_waits_for_room(start: Callable[..., Service], disk: Tmpfs) -> None:
    """The disk fills up between the last shard's end and the merge."""
    here = start("--devices=cpu,cpu")
    here.submit("whole", "clip.fsa", "clip.mp4", options={"size": 48}, shards=1)
    here.wait("whole")
    here.submit("two", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
    (first, second) = (here.data / "jobs" / "two" / "faces" / f".gpu-extract.journal.{one}-of-2" for one in (0, 1))
    until(lambda: first.exists() and second.exists())
    until(lambda: [step["state"] for step in here.job("two")["shards"]][:2] == ["done", "done"])
    for pid in here.pids():
        os.kill(pid, signal.SIGKILL)  # a merge that was quicker than this test
    filler = fill(disk)
    time.sleep(1)
    found = here.job("two")
    assert found["state"] in ("queued", "finishing"), found
    assert here.ask("GET", "/readyz").json["reasons"] == ["disk"]
    filler.unlink()
    found = here.wait("two")
    assert (found["state"], found["error"]) == ("succeeded", None)
    folders = [here.data / "jobs" / name / "faces" for name in ("whole", "two")]
    assert files_in(folders[0]) == files_in(folders[1])
    assert journal.names(folders[1]) == [journal.NAME]
    files = [here.ask("GET", f"/v1/jobs/{name}/alignments").body for name in ("whole", "two")]
    assert files[0] == files[1]
