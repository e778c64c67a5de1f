"""The service: jobs from their arrival to their end, whatever dies on the way."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.errors import InputError, OutputError
from gpu_extract.jobs.extract import extract
from gpu_extract.options import ServiceSettings
from gpu_extract.run import journal
from tests.helpers import clip_made_once, face_entry, files_in, image_bytes, noise, write_pickled
from tests.serving import Service

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from gpu_extract.service import steps
from gpu_extract.service.access import Tokens
from gpu_extract.service.attempt import Ended
from gpu_extract.service.folders import Data, JobFolder
from gpu_extract.service.office import Office
from gpu_extract.service.problems import Problem
from gpu_extract.service.requests import JobRequest
from gpu_extract.service.web import events
from gpu_extract.storage.beneath import open_beneath

JSON = {"Content-Type": "application/json"}
FRAMES, SIZE = 60, (76, 90)
LONG = 5000  # frames that take more than half a second
KILLS = int(os.environ.get("SERVICE_KILLS", "4"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """A clip of 60 frames and its alignments file, and a long one for what takes a while."""
    folder = tmp_path_factory.mktemp("root")
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    for name, count in (("clip", FRAMES), ("long", LONG)):
        clip_made_once(tmp_path_factory, folder / f"{name}.mp4", count, SIZE)
        entries = {f"{name}_{number + 1:06d}.png": [face_entry(small)] for number in range(count)}
        write_pickled(folder / f"{name}.fsa", entries)
    return folder


@pytest.fixture(scope="module")
def truth(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, bytes], bytes]]:
    """What a run of the command line makes: its face files and the alignments file."""
    made: dict[str, tuple[dict[str, bytes], bytes]] = {}

    def of(name: str) -> tuple[dict[str, bytes], bytes]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            alignments = folder / f"{name}.fsa"
            alignments.write_bytes((root / f"{name}.fsa").read_bytes())
            extract(alignments, root / f"{name}.mp4", folder / "faces", size=48, device="cpu")
            made[name] = files_in(folder / "faces"), alignments.read_bytes()
        return made[name]

    return of


@pytest.fixture
def service(tmp_path: Path, root: Path) -> Iterator[Callable[..., Service]]:
    """`service(*options)` starts one."""
    made: list[Service] = []

    def start(*options: str, **environment: str) -> Service:
        made.append(Service(tmp_path / f"data{len(made)}", {"here": root}, ("--devices=cpu", *options), environment))
        return made[-1].start()

    yield start
    for one in made:
        with one:
            pass


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Service]:
    """One that refuses things, or gives away what `one` has made."""
    with Service(tmp_path_factory.mktemp("shared") / "data", {"here": root}, ("--devices=cpu",)).start() as here:
        here.submit("made", "clip.fsa", "clip.mp4", options={"size": 48})
        here.wait("made")
        (here.data / "jobs" / "made" / "faces" / "link.png").symlink_to("/etc/passwd")
        yield here


def assert_made(service: Service, job: str, truth: tuple[dict[str, bytes], bytes]) -> None:
    folder = service.data / "jobs" / job
    files, alignments = truth
    assert files_in(folder / "faces") == files
    assert journal.names(folder / "faces") == [journal.NAME]
    found = next(path for path in (folder / "in").iterdir() if path.suffix == ".fsa" and "_2" not in path.stem)
    assert found.read_bytes() == alignments
    assert service.ask("GET", f"/v1/jobs/{job}/alignments").body == alignments


def test_a_job_makes_what_the_command_line_makes(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    made = here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    assert made.status == 201
    assert made.headers["location"] == "/v1/jobs/one"
    found = here.wait("one")
    assert (found["state"], found["exit_code"], found["error"]) == ("succeeded", 0, None)
    assert (found["frames"], found["of"], found["faces"]) == (FRAMES, FRAMES, FRAMES)
    assert_made(here, "one", truth("clip"))
    report = here.ask("GET", "/v1/jobs/one/report").json
    assert report["faces_written"] == FRAMES
    assert str(here.data) not in json.dumps(report)
    assert report["confinement"]
    assert here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48}).status == 200
    other = here.submit("one", "clip.fsa", "clip.mp4", options={"size": 64})
    assert other.status == 409
    assert other.headers["content-type"] == "application/problem+json"
    assert [job["id"] for job in here.ask("GET", "/v1/jobs").json["jobs"]] == ["one"]
    assert here.ask("DELETE", "/v1/jobs/one").status == 204
    assert here.ask("GET", "/v1/jobs/one").status == 404
    assert not (here.data / "jobs" / "one").exists()


def test_several_shards_make_the_same(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service("--devices=cpu,cpu")
    here.submit("three", "clip.fsa", "clip.mp4", options={"size": 48}, shards=3)
    found = here.wait("three")
    assert found["state"] == "succeeded"
    assert [(step["kind"], step["shard"]) for step in found["shards"]] == [
        ("cut", "0/3"),
        ("cut", "1/3"),
        ("cut", "2/3"),
        ("merge", None),
    ]
    assert_made(here, "three", truth("clip"))
    here.submit("auto", "clip.fsa", "clip.mp4", options={"size": 48})  # too little work for two
    assert here.wait("auto")["state"] == "succeeded"
    assert_made(here, "auto", truth("clip"))


def test_events_tell_of_each_face_once_also_to_whoever_comes_back(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48})
    faces, place, kinds = [], "", set()
    with here.events("one") as events:
        for got, kind, data in events:
            kinds.add(kind)
            if kind == "face":
                faces.append(data["file"])
            if got and len(faces) > 200:
                place = got
                break
    assert here.job("one")["state"] == "running", "faces come before the end"
    last = {}
    with here.events("one", place) as events:
        for _, kind, data in events:
            kinds.add(kind)
            if kind == "face":
                faces.append(data["file"])
            last[kind] = data
    assert sorted(faces) == sorted(f"long_{number + 1:06d}_0.png" for number in range(LONG))
    assert kinds == {"face", "progress", "state"}
    assert last["state"]["state"] == "succeeded"
    assert last["progress"]["frames"] == last["progress"]["of"] == LONG
    first = faces[0]
    answer = here.ask("GET", f"/v1/jobs/one/faces/{first}")
    assert answer.body == (here.data / "jobs" / "one" / "faces" / first).read_bytes()
    same = here.ask("GET", f"/v1/jobs/one/faces/{first}", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


def test_whoever_followed_shards_is_told_to_begin_anew_after_the_merge(service: Callable[..., Service]) -> None:
    here = service("--devices=cpu,cpu")
    for number in range(20):  # until one is followed before it has ended: it may be faster than who asks for it
        name = f"two-{number}"
        here.submit(name, "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
        with here.events(name) as events:
            place = next(got for got, kind, _ in events if kind == "face" and got)
            if here.job(name)["state"] == "running":
                break
    here.wait(name)
    faces, seen = [], []
    with here.events(name, place) as events:
        for _, kind, data in events:
            seen.append(kind)
            if kind == "face":
                faces.append(data["file"])
    assert seen[0] == "anew"
    assert len(set(faces)) == len(faces) == FRAMES


def test_faces_as_lines_and_as_an_archive(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    options = {"size": 48, "output_layout": "by-frame", "metadata": "jsonl"}
    here.submit("one", "clip.fsa", "clip.mp4", options=options)
    here.wait("one")
    lines, place, pages = [], "", 0
    while True:
        page = here.ask("GET", f"/v1/jobs/one/faces?limit=25&after={place}")
        lines += [json.loads(line) for line in page.body.splitlines()]
        pages, place = pages + 1, page.headers["x-next"]
        if page.headers["x-more"] == "false":
            break
    assert pages == 3
    assert len({line["file"] for line in lines}) == FRAMES
    folder = here.data / "jobs" / "one" / "faces"
    with tarfile.open(fileobj=io.BytesIO(here.ask("GET", "/v1/jobs/one/faces.tar").body)) as archive:
        names = archive.getnames()
        assert sorted(names) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        assert names[-1] == journal.NAME
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None
            assert file.read() == (folder / entry.name).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "../request.json",
        "%2e%2e/request.json",
        ".gpu-extract.journal",
        "..%2f..%2f..%2fservice.sqlite",
        "a%00.png",
        "link.png",
    ],
)
def test_no_other_file_is_given_away(shared: Service, path: str) -> None:
    assert shared.ask("GET", f"/v1/jobs/made/faces/{path}").status == 404


def test_a_check_plans_and_cuts_nothing(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("check", "clip.fsa", "clip.mp4", options={"size": 48, "dry_run": True})
    assert here.wait("check")["state"] == "succeeded"
    report = here.ask("GET", "/v1/jobs/check/report").json
    assert (report["faces_planned"], report["dry_run"]) == (FRAMES, True)
    assert report["bytes_estimated"] > 0
    assert not list((here.data / "jobs" / "check").glob("faces/*"))


def test_a_job_can_be_cancelled_and_resumed(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48})
    while here.job("one")["faces"] < 50:
        time.sleep(0.02)
    began = time.monotonic()
    assert here.ask("POST", "/v1/jobs/one/cancel").status == 202
    found = here.wait("one")
    assert found["state"] == "cancelled"
    assert time.monotonic() - began < 5
    assert 0 < found["faces"] < LONG
    assert here.ask("POST", "/v1/jobs/one/cancel").status == 202
    assert here.job("one")["state"] == "cancelled"
    assert here.ask("POST", "/v1/jobs/one/resume").status == 202
    assert here.wait("one")["state"] == "succeeded"
    assert_made(here, "one", truth("long"))


def test_a_job_that_waits_is_cancelled_at_once(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("first", "long.fsa", "long.mp4", options={"size": 48})
    here.submit("second", "clip.fsa", "clip.mp4", options={"size": 48})
    assert here.job("second")["position"] == 1
    here.ask("POST", "/v1/jobs/second/cancel")
    assert here.job("second")["state"] == "cancelled"
    here.ask("POST", "/v1/jobs/first/cancel")


def test_bad_input_fails_with_the_sentence_of_the_command_line(service: Callable[..., Service], root: Path) -> None:
    here = service()
    (root / "broken.fsa").write_bytes(b"no alignments at all")
    here.submit("one", "broken.fsa", "clip.mp4")
    found = here.wait("one")
    assert found["state"] == "failed"
    assert found["exit_code"] == 7
    assert "broken.fsa" in found["error"]
    assert str(here.data) not in found["error"]
    assert found["shards"][0]["attempt"] == 1


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"options": {"size": 5}}, "16 to 4096"),
        ({"options": {"faces": "/etc"}}, "service's"),
        ({"options": {"device": "cuda:0"}}, "service's"),
        ({"options": {"nonsense": 1}}, "no option"),
        ({"alignments": {"root": "here", "path": "../a.fsa"}}, "inside a root"),
        ({"alignments": {"root": "here", "path": "none.fsa"}}, "none.fsa"),
        ({"alignments": {"root": "there", "path": "clip.fsa"}}, "root"),
        ({"frames": {"upload": "0" * 32}}, "pload"),
        ({"alignments": {"path": "clip.fsa"}}, "alignments"),
        ({"shards": 0}, "shards"),
        ({"more": 1}, "more"),
    ],
)
def test_a_request_that_cannot_be_had_is_refused(shared: Service, body: dict[str, Any], word: str) -> None:
    here = shared
    whole = {"alignments": {"root": "here", "path": "clip.fsa"}, "frames": {"root": "here", "path": "clip.mp4"}}
    answer = here.ask("PUT", "/v1/jobs/one", whole | body)
    assert answer.status in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert word in answer.json["detail"], answer.json
    assert here.ask("GET", "/v1/jobs/one").status == 404
    assert not (here.data / "jobs" / "one").exists()


def test_links_and_pipes_of_a_root_lead_nowhere(shared: Service, root: Path, tmp_path: Path) -> None:
    here = shared
    (tmp_path / "secret.fsa").write_bytes(b"secret")
    for name in ("out.fsa", "pipe.fsa"):
        (root / name).unlink(missing_ok=True)
    (root / "out.fsa").symlink_to(tmp_path / "secret.fsa")
    os.mkfifo(root / "pipe.fsa")
    try:
        for name in ("out.fsa", "pipe.fsa", "clip.mp4/x.fsa"):
            assert here.submit("one", name, "clip.mp4").status == 422
        listed = here.ask("GET", "/v1/roots/here").json["entries"]
        assert {"clip.fsa", "clip.mp4"} <= {entry["name"] for entry in listed}
        assert "pipe.fsa" not in {entry["name"] for entry in listed}
    finally:
        (root / "out.fsa").unlink()
        (root / "pipe.fsa").unlink()


def kill_children(service: Service, times: int) -> None:
    """Kill the process of each of so many attempts, as soon as it is there."""
    killed: set[int] = set()
    until = time.monotonic() + 60
    while len(killed) < times:
        assert time.monotonic() < until
        for pid in set(service.pids()) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)


def test_a_child_that_is_killed_is_tried_again(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    kill_children(here, 2)
    found = here.wait("one")
    assert found["state"] == "succeeded"
    assert found["shards"][0]["attempt"] == 3
    assert_made(here, "one", truth("clip"))


def test_three_kills_of_one_step_are_enough(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    kill_children(here, 3)
    found = here.wait("one")
    assert found["state"] == "failed"
    assert "signal 9 3 times" in found["error"]
    here.ask("POST", "/v1/jobs/one/resume")
    assert here.wait("one")["state"] == "succeeded"
    assert_made(here, "one", truth("clip"))


def test_the_service_is_killed_and_goes_on_where_it_was(
    service: Callable[..., Service], truth: Callable[..., Any]
) -> None:
    here = service("--devices=cpu,cpu")
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48}, shards=3)
    here.submit("two", "clip.fsa", "clip.mp4", options={"size": 48})
    while here.job("one")["faces"] < 100:
        time.sleep(0.02)
    here.kill()
    until = time.monotonic() + 10
    while here.pids():
        assert time.monotonic() < until, "children outlive their service"
        time.sleep(0.05)
    here.start()
    for job, name in (("one", "long"), ("two", "clip")):
        assert here.wait(job)["state"] == "succeeded"
        assert_made(here, job, truth(name))


def test_killed_at_random_moments(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    """The service, its children, or both; SERVICE_KILLS says how often."""
    here = service("--devices=cpu,cpu")
    chance = random.Random(KILLS)
    for number in range(max(1, KILLS // 4)):
        job = f"job-{number}"
        here.submit(job, "long.fsa", "long.mp4", options={"size": 48}, shards=chance.choice([1, 2, 3]))
        for _ in range(min(4, KILLS)):
            time.sleep(chance.uniform(0.0, 1.5))
            who = chance.choice(["child", "service", "both"])
            pids = here.pids()
            if who != "child":
                here.kill()
            if who != "service":
                for pid in pids:
                    if pid in here.pids():
                        os.kill(pid, signal.SIGKILL)
            if who != "child":
                here.start()
        found = here.wait(job, seconds=120)
        while found["state"] == "failed":  # three kills of one step are enough, as they should be
            assert "signal 9" in found["error"]
            here.ask("POST", f"/v1/jobs/{job}/resume")
            found = here.wait(job, seconds=120)
        assert found["state"] == "succeeded"
        assert_made(here, job, truth("long"))
        assert here.pids() == []
        here.ask("DELETE", f"/v1/jobs/{job}")


@pytest.mark.parametrize("how", ["torn", pytest.param("gone", marks=pytest.mark.slow)])
def test_the_folders_are_the_truth_when_the_table_is_lost(service: Callable[..., Service], how: str) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.submit("two", "long.fsa", "long.mp4", options={"size": 48})
    here.wait("one")
    here.ask("POST", "/v1/jobs/two/cancel")
    here.wait("two")
    here.submit("three", "clip.fsa", "clip.mp4", options={"size": 48})
    before = here.wait("three")
    listed = [(job["id"], job["state"]) for job in here.ask("GET", "/v1/jobs").json["jobs"]]
    assert here.stop() == 0
    table = here.data / "service.sqlite"
    if how == "gone":
        for path in here.data.glob("service.sqlite*"):
            path.unlink()
    else:
        table.write_bytes(b"\0" * 200 + table.read_bytes()[200:4000])
    here.start()
    assert [(job["id"], job["state"]) for job in here.ask("GET", "/v1/jobs").json["jobs"]] == listed
    assert here.job("three")["faces"] == before["faces"]
    here.ask("POST", "/v1/jobs/two/resume")
    assert here.wait("two")["state"] == "succeeded"


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE step DROP COLUMN waits",
        pytest.param("ALTER TABLE job ADD COLUMN colour TEXT", marks=pytest.mark.slow),
    ],
)
def test_the_table_of_another_version_is_made_again(service: Callable[..., Service], change: str) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.wait("one")
    assert here.stop() == 0
    table = sqlite3.connect(here.data / "service.sqlite")
    table.execute(change)
    table.close()
    here.start()
    assert [(job["id"], job["state"]) for job in here.ask("GET", "/v1/jobs").json["jobs"]] == [("one", "succeeded")]
    assert list(here.data.glob("service.damaged-*"))


@pytest.mark.parametrize(
    ("outcome", "table"),
    [
        ('{"state": "succ', "there"),
        pytest.param('{"state": "succ', "lost", marks=pytest.mark.slow),
        pytest.param('{"state": "happy", "x": 1}', "lost", marks=pytest.mark.slow),
        ("[" * 100_000, "lost"),
    ],
    ids=["torn", "torn, without the table", "foreign", "deep"],
)
def test_a_damaged_outcome_is_a_failure_that_can_be_resumed(
    service: Callable[..., Service], truth: Callable[..., Any], outcome: str, table: str
) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.wait("one")
    assert here.stop() == 0
    (here.data / "jobs" / "one" / "outcome.json").write_text(outcome)
    if table == "lost":
        (here.data / "service.sqlite").unlink()
    else:  # as a kill leaves it between the folder's word and the table's
        rows = sqlite3.connect(here.data / "service.sqlite", isolation_level=None)
        rows.execute("UPDATE job SET state = 'running'")
        rows.close()
    here.start()
    found = here.job("one")
    assert (found["state"], found["exit_code"]) == ("failed", InputError.exit_code)
    assert "cannot be read" in found["error"]
    assert here.ask("POST", "/v1/jobs/one/resume").status == 202
    assert here.wait("one")["state"] == "succeeded"
    assert_made(here, "one", truth("clip"))


@pytest.mark.parametrize("when", ["it waits", "nothing runs"])
def test_a_job_whose_folder_is_removed_by_hand_is_gone_and_holds_nobody_up(
    service: Callable[..., Service], when: str
) -> None:
    here = service()
    here.submit("first", "long.fsa", "long.mp4", options={"size": 48})
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.submit("two", "clip.fsa", "clip.mp4", options={"size": 48})
    if when == "nothing runs":
        here.kill()
    shutil.rmtree(here.data / "jobs" / "one")
    if when == "nothing runs":
        here.start()
    assert here.wait("two")["state"] == "succeeded"
    assert here.ask("GET", "/v1/jobs/one").status == 404
    assert here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48}).status == 201
    assert here.wait("one")["state"] == "succeeded"


def test_a_request_of_a_later_version_is_read_without_what_is_new(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.wait("one")
    here.stop()
    rows = sqlite3.connect(here.data / "service.sqlite", isolation_level=None)
    rows.execute("UPDATE job SET request = json_set(request, '$.colour', 1)")
    rows.close()
    here.start()
    assert [job["id"] for job in here.ask("GET", "/v1/jobs").json["jobs"]] == ["one"]
    assert here.ask("GET", "/v1/jobs/one").status == 200


def test_a_folder_that_cannot_be_looked_at_is_not_taken_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that belongs to somebody else: what is "nothing" is put aside at the next start, and removed."""
    data = Data(tmp_path)
    data.make()
    real = Path.stat

    def refusing(path: Path, **how: Any) -> os.stat_result:
        if path.name == "request.json":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, **how)

    (data.job("theirs").path / "faces").mkdir(parents=True)
    (data.job("begun").path / "faces").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refusing)
        data.put_aside_rest()
        assert {job for job, _ in data.jobs()} == {"theirs", "begun"}
    assert data.job("theirs").path.is_dir()
    data.put_aside_rest()
    assert not data.job("begun").path.exists()


def test_owners_have_kernels_of_their_own(tmp_path: Path) -> None:
    """What one process compiled the next one runs."""
    data = Data(tmp_path)
    assert data.kernels_of("anna") == data.kernels_of("anna") != data.kernels_of("../bob")
    assert data.kernels_of("../bob").parent == tmp_path / "cache" / "triton"
    assert data.kernels_of("../bob").is_dir()


def test_a_large_file_of_faces_is_sent_in_blocks(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48, "output_layout": "webdataset"})
    here.wait("one")
    large = random.Random(3).randbytes(5_000_001)
    (here.data / "jobs" / "one" / "faces" / "00009.tar").write_bytes(large)
    answer = here.ask("GET", "/v1/jobs/one/faces/00009.tar")
    assert (answer.status, answer.body) == (200, large)
    assert answer.headers["content-length"] == "5000001"
    etag = answer.headers["etag"]
    assert here.ask("GET", "/v1/jobs/one/faces/00009.tar", headers={"If-None-Match": etag}).status == 304
    assert here.ask("HEAD", "/v1/jobs/one/faces/00009.tar").headers["content-length"] == "5000001"


def test_what_is_sent_to_nobody_any_more_is_closed(service: Callable[..., Service]) -> None:
    """Whoever goes away in the middle of a download leaves no file open, which would hold what is removed."""
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 512})
    here.wait("one")
    assert here.process is not None
    opened = Path(f"/proc/{here.process.pid}/fd")
    before = len(list(opened.iterdir()))
    for path in ("faces.tar", "alignments") * 15:
        with socket.create_connection(("127.0.0.1", here.port)) as client:
            client.sendall(f"GET /v1/jobs/one/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            client.recv(1000)
    until = time.monotonic() + 5
    while len(list(opened.iterdir())) > before + 2:
        assert time.monotonic() < until, sorted(path.readlink() for path in opened.iterdir())
        time.sleep(0.05)


def test_a_service_whose_table_cannot_be_read_is_not_ready(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "database" not in office.faults()

    def execute(query: str, values: Any = ()) -> Any:
        if query.startswith("SELECT"):
            raise OutputError("the table of jobs cannot be read: database disk image is malformed.")
        return []

    monkeypatch.setattr(office.table._database, "execute", execute)
    assert "database" in office.faults()


def test_a_clock_that_is_set_back_keeps_no_job_waiting(office: Office) -> None:
    office.create(asked("clip"), "anna", "one")
    (step,) = office.table.steps("one")
    now = time.time()
    office.table.set_step(step, not_before=now + 50)
    assert office.table.claim("cpu", ["cut"], now) is None
    office.table.set_step(step, not_before=now + 5 * 3600)
    assert office.table.claim("cpu", ["cut"], now) is not None


def test_a_job_whose_folder_is_gone_can_be_cancelled(office: Office) -> None:
    made, _ = office.create(asked("clip"), "anna", "one")
    shutil.rmtree(office.data.job("one").path)
    office.cancel(made)
    assert office.known("one") is None


def test_a_link_that_is_made_in_a_root_while_its_job_waits_leads_nowhere(
    service: Callable[..., Service], root: Path, tmp_path: Path
) -> None:
    here = service()
    (root / "later").mkdir()
    shutil.copy(root / "clip.mp4", root / "later")
    (tmp_path / "outside").mkdir()
    shutil.copy(root / "clip.mp4", tmp_path / "outside")
    here.submit("first", "long.fsa", "long.mp4", options={"size": 48})
    here.submit("one", "clip.fsa", "later/clip.mp4", options={"size": 48})
    shutil.rmtree(root / "later")
    (root / "later").symlink_to(tmp_path / "outside")
    try:
        found = here.wait("one")
    finally:
        (root / "later").unlink()
    assert (found["state"], found["faces"]) == ("failed", 0)
    assert "leads out of the roots" in found["error"]


def test_what_a_process_writes_over_its_jobs_request_changes_nothing(
    service: Callable[..., Service], truth: Callable[..., Any], tmp_path: Path
) -> None:
    here = service()
    here.submit("first", "long.fsa", "long.mp4", options={"size": 48})
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    (tmp_path / "precious").mkdir()
    path = here.data / "jobs" / "one" / "request.json"
    changed = {"frames": "/etc/hosts", "packed": str(tmp_path / "precious" / "frames.tar"), "owner": "somebody"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    assert here.wait("one")["state"] == "succeeded"
    assert_made(here, "one", truth("clip"))
    assert (tmp_path / "precious").is_dir()


def test_a_signal_ends_it_at_once_with_streams_open(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48})
    ended = []

    def follow() -> None:
        with here.events("one") as events:
            ended.append(sum(1 for _ in events))

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    while here.job("one")["faces"] < 50:
        time.sleep(0.02)
    refused = here.ask("GET", "/v1/jobs/one/events")
    assert (refused.status, "retry-after" in refused.headers) == (429, True)
    began = time.monotonic()
    assert here.stop() == 0
    assert time.monotonic() - began < 10
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    assert here.pids() == []
    here.start()
    found = here.wait("one")
    assert found["state"] == "succeeded"
    assert_made(here, "one", truth("long"))


def test_a_lost_terminal_ends_it_as_sigterm_does(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48})
    while here.job("one")["faces"] < 50:
        time.sleep(0.02)
    assert here.stop(signal.SIGHUP) == 0
    assert here.pids() == []
    assert "Traceback" not in here.said
    here.start()
    assert here.wait("one")["state"] == "succeeded"
    assert_made(here, "one", truth("long"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_its_first_second_ends_it(number: signal.Signals, tmp_path: Path) -> None:
    """Whatever is being imported or made then, none is lost."""
    command = [sys.executable, "-m", "gpu_extract", "serve", "--config", "", f"--data={tmp_path}", "--port=0"]
    for tenths in range(1, 10):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(tenths / 10)
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=12)
        finally:
            process.kill()
        assert process.returncode in (0, 128 + number, -number), (tenths, err)
        assert "Traceback" not in err


def test_a_root_that_is_not_there_is_named_at_the_start(service: Callable[..., Service], tmp_path: Path) -> None:
    here = service(f"--root=gone={tmp_path / 'nowhere'}")
    until = time.monotonic() + 10
    while f"These roots are no folders at the moment: {tmp_path / 'nowhere'} (gone)." not in here.said:
        assert time.monotonic() < until, here.said
        time.sleep(0.02)
    assert "(here)" not in here.said


def test_two_services_do_not_share_a_folder(service: Callable[..., Service], root: Path) -> None:
    here = service()
    with pytest.raises(AssertionError, match="another service works in"):
        Service(here.data, {"here": root}).start()


def test_a_data_folder_that_cannot_be_made(root: Path) -> None:
    with pytest.raises(AssertionError, match="/proc/none/uploads cannot be made"):
        Service(Path("/proc/none"), {"here": root}).start()


def test_health_and_readiness(service: Callable[..., Service]) -> None:
    here = service("--reserve-mb=999999999")
    assert here.ask("GET", "/healthz").json["status"] == "alive"
    ready = here.ask("GET", "/readyz")
    assert (ready.status, ready.json["reasons"]) == (503, ["disk"])
    assert "gpu_extract_disk_free_bytes" in here.ask("GET", "/metrics").body.decode()


def test_a_device_that_is_not_there(service: Callable[..., Service], truth: Callable[..., Any]) -> None:
    here = service("--devices=cuda:0")
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    found = here.wait("one")
    assert (found["state"], found["exit_code"]) == ("failed", 5)
    assert here.ask("GET", "/readyz").json["reasons"] == ["no device worker"]
    other = service("--devices=cuda:0", "--fallback-cpu")
    other.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    assert other.wait("one")["state"] == "succeeded"
    assert_made(other, "one", truth("clip"))
    mixed = service("--devices=cuda:0,cpu")
    for number in range(2):  # one of them comes to the GPU first
        mixed.submit(f"job-{number}", "clip.fsa", "clip.mp4", options={"size": 48}, shards=1)
    for number in range(2):
        assert mixed.wait(f"job-{number}")["state"] == "succeeded"


def test_the_queue_has_an_end(service: Callable[..., Service]) -> None:
    here = service("--queue=2")
    for number in range(2):
        assert here.submit(f"job-{number}", "long.fsa", "long.mp4", options={"size": 48}).status == 201
    refused = here.submit("job-2", "clip.fsa", "clip.mp4")
    assert (refused.status, "retry-after" in refused.headers) == (429, True)
    for number in range(2):
        here.ask("POST", f"/v1/jobs/job-{number}/cancel")


def test_a_job_that_takes_too_long_is_ended(service: Callable[..., Service]) -> None:
    here = service("--max-seconds=1")
    here.submit("one", "long.fsa", "long.mp4", options={"size": 1024})
    found = here.wait("one")
    assert found["state"] == "failed"
    assert "longer than the 1 s" in found["error"]


def test_a_list_in_pages(service: Callable[..., Service]) -> None:
    here = service("--devices=cuda:0")
    for number in range(7):
        here.submit(f"job-{number}", "clip.fsa", "clip.mp4")
    names, after = [], ""
    while after is not None:
        page = here.ask("GET", f"/v1/jobs?limit=3{f'&after={after}' if after else ''}").json
        names += [job["id"] for job in page["jobs"]]
        after = page["next"]
    assert names == [f"job-{number}" for number in reversed(range(7))]
    assert here.ask("GET", "/v1/jobs?after=nonsense").status == 422


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ('"\\ud800"', "size must be a whole number"),
        ("NaN", "size must be a whole number"),
        ("1e400", "size must be a whole number"),
        ("[" * 900 + "]" * 900, "size must be a whole number"),
        ("9" * 4000, "size must be 16 to"),
        ("9" * 5000, "parsing the body"),
        ("[" * 100_000, "parsing the body"),
        ('"' + "x" * 500_000 + '"', "size must be a whole number"),
        ("48, ]", "the body is no JSON"),
        ('48, "\\ud800": 1', "\\ud800 is no option"),
    ],
)
def test_hostile_json_is_refused_with_a_sentence(shared: Service, size: str, said: str) -> None:
    places = '"alignments": {"root": "here", "path": "clip.fsa"}, "frames": {"root": "here", "path": "clip.mp4"}'
    answer = shared.ask("PUT", "/v1/jobs/no", f'{{{places}, "options": {{"size": {size}}}}}'.encode(), JSON)
    assert answer.status in (400, 422)
    assert said in answer.json["detail"]
    assert len(answer.body) < 8192


PLACE = '{"root": "here", "path": "clip.fsa"}'


@pytest.mark.parametrize(
    ("alignments", "rest", "said"),
    [
        ('{"root": "here", "path": "\\ud800"}', "", "alignments.path: input should be a valid string"),
        ('{"root": "here", "path": "clip.fsa", "size": 1}', "", "alignments.size: extra inputs are not permitted."),
        ('{"root": "here"}', "", "alignments.path: field required."),
        ('{"upload": 1}', "", "alignments.upload: input should be a valid string."),
        ('"clip.fsa"', "", "alignments: input should be a valid dictionary"),
        (PLACE, ', "shards": 0', "shards: input should be greater than or equal to 1."),
        (PLACE, ', "shards": 1001', "shards: input should be less than or equal to 1000."),
        (PLACE, ', "shards": "some"', "shards: input should be 'auto'."),
        (PLACE, ', "shards": null', "shards: input should be a valid integer."),
        (PLACE, ', "options": {"align-eyes": true, "align_eyes": false}', "the option align_eyes is given twice"),
    ],
)
def test_of_a_wrong_value_that_is_told_which_is_wrong_in_it(
    shared: Service, alignments: str, rest: str, said: str
) -> None:
    body = f'{{"alignments": {alignments}, "frames": {{"root": "here", "path": "clip.mp4"}}{rest}}}'
    answer = shared.ask("PUT", "/v1/jobs/no", body.encode(), JSON)
    assert (answer.status, answer.json["detail"][: len(said)]) == (422, said)


def test_json_that_is_sent_as_something_else_is_told_so(shared: Service) -> None:
    """As curl -d does by itself."""
    body = f'{{"alignments": {PLACE}, "frames": {PLACE}}}'.encode()
    for kind, path in (("application/x-www-form-urlencoded", "no"), ("text/plain; charset=utf-8", "made/faces.tar")):
        method = "PUT" if path == "no" else "POST"
        answer = shared.ask(method, f"/v1/jobs/{path}", body, {"Content-Type": kind})
        assert answer.status == 415
        assert answer.json["detail"] == f"the content type is {kind}; application/json is wanted."


def test_a_path_of_a_root_may_be_as_long_as_it_likes(shared: Service) -> None:
    answer = shared.ask("GET", f"/v1/roots/here/{'a/' * 3000}")
    assert answer.status == 422
    assert answer.json["detail"].startswith("the root here has no 'a/a/")


def test_nobody_is_led_to_another_scheme(shared: Service) -> None:
    """The service does not know whether a proxy in front of it has come by https."""
    assert shared.ask("GET", "/v1/jobs/").status == 404


def test_what_a_machine_refuses_is_told_without_its_paths(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.wait("one")
    folder = here.data / "jobs" / "one"
    (folder / "report.json").write_text("{")
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("log.txt")
    report, log = here.ask("GET", "/v1/jobs/one/report"), here.ask("GET", "/v1/jobs/one/log")
    assert report.status == 503
    assert report.json["detail"].startswith("report.json is not whole: ")
    assert (log.status, log.body) == (200, b"")
    (folder / "log.txt").unlink()
    (folder / "log.txt").mkdir()
    assert here.ask("GET", "/v1/jobs/one/log").body == b""


def test_a_job_that_is_being_cancelled_is_not_said_to_go_on(office: Office) -> None:
    job, _ = office.create(asked("clip"), "anna", "one")
    step = office.table.claim("cpu", ("cut",), time.time())
    assert step is not None
    office.cancel(job)
    with pytest.raises(Problem, match="still ending") as refused:
        office.resume(job)
    assert (refused.value.status, refused.value.headers) == (409, {"Retry-After": "5"})
    office._endings.follow(step, Ended(143, ""), "", stopped=True, device="cpu")
    office.resume(job)
    assert office.table.job("one").state == "queued"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "code"),
    [(sqlite3.OperationalError, sqlite3.SQLITE_IOERR_READ), (sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT)],
)
def test_a_step_ends_also_where_the_table_could_not_be_read_for_a_while(
    office: Office, monkeypatch: pytest.MonkeyPatch, kind: type[sqlite3.DatabaseError], code: int
) -> None:
    """Or its job would run for ever."""
    monkeypatch.setattr("gpu_extract.service.foreman.END_AGAIN_SECONDS", 0.01)
    looks: list[str] = []
    read = office.table.job

    def job(name: str) -> Any:
        if looks and len(looks) < 6:
            looks.append(name)
            with office.table._database._lock:
                error = kind("the disk refuses")
                error.sqlite_errorcode = code
                raise error if office.table._database._open.in_transaction else OutputError("the disk refuses")
        return read(name)

    def run(*_: object) -> Ended:
        looks.append("begun")
        return Ended(0, "")

    monkeypatch.setattr(office.table, "job", job)
    monkeypatch.setattr(office.foreman, "run", run)
    office.create(asked("clip"), "anna", "one")
    office.start()
    until = time.monotonic() + 20
    while (found := read("one")) is None or not found.has_ended:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert (found.state, len(looks)) == ("succeeded", 6)
    assert office.table.running() == []


@pytest.mark.parametrize(
    "cursor", ["[" * 10_000, f'[1{"0" * 400}, "a"]', '[1.0, "\\ud800"]', '["nan", "a"]', "[null, null]", "{}", "\xff"]
)
def test_a_cursor_that_nobody_gave_is_refused(shared: Service, cursor: str) -> None:
    after = base64.urlsafe_b64encode(cursor.encode("latin-1")).decode()
    assert shared.ask("GET", f"/v1/jobs?after={after}").status == 422


def test_what_is_not_there_is_told_in_a_sentence(shared: Service) -> None:
    assert "nothing at /v2/jobs" in shared.ask("GET", "/v2/jobs").json["detail"]
    answer = shared.ask("PATCH", "/v1/jobs", {})
    assert (answer.status, answer.headers["allow"]) == (405, "HEAD, GET, POST")
    assert "PATCH is nothing that /v1/jobs knows" in answer.json["detail"]


def test_health_may_be_asked_for_without_the_words(shared: Service) -> None:
    for path in ("/healthz", "/readyz"):
        answer = shared.ask("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")


def test_names_that_are_no_text_can_be_told_of(tmp_path: Path, landmarks: np.ndarray) -> None:
    frames = tmp_path / "root" / "frames"
    frames.mkdir(parents=True)
    odd = os.fsdecode(b"odd\xff_000001.png")
    for number in range(2):
        (frames / f"f_{number:06d}.png").write_bytes(image_bytes(".png", noise(*SIZE, seed=number)))
    (frames / odd).write_bytes(b"no image")
    (tmp_path / "root" / os.fsdecode(b"folder\xfe")).mkdir()
    names = sorted(path.name for path in frames.iterdir())
    write_pickled(tmp_path / "root" / "a.fsa", {name: [face_entry(landmarks * np.float32(0.25))] for name in names})
    with Service(tmp_path / "data", {"here": tmp_path / "root"}, ("--devices=cpu",)).start() as here:
        listed = here.ask("GET", "/v1/roots/here").json["entries"]
        assert [one["name"] for one in listed] == ["frames", "a.fsa"]
        assert len(here.ask("GET", "/v1/roots/here/frames").json["entries"]) == 2
        here.submit("one", "a.fsa", "frames", options={"size": 48})
        found = here.wait("one")
        assert found["state"] == "partial"
        assert "odd\\udcff_000001.png" in found["error"]
        assert here.ask("GET", "/v1/jobs/one/report").json["errors"][0]["frame"] == odd
        with here.events("one") as events:
            assert [kind for _, kind, _ in events].count("face") == 2


def test_a_job_of_shards_that_were_merged_can_be_resumed(
    service: Callable[..., Service], truth: Callable[..., Any]
) -> None:
    here = service("--devices=cpu,cpu")
    here.submit("two", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
    assert here.wait("two")["state"] == "succeeded"
    assert here.ask("POST", "/v1/jobs/two/resume").status == 202
    found = here.wait("two")
    assert (found["state"], found["error"]) == ("succeeded", None)
    assert_made(here, "two", truth("clip"))
    assert here.stop() == 0
    for path in here.data.glob("service.sqlite*"):  # and whoever made the table anew knows of the merge, too
        path.unlink()
    (here.data / "jobs" / "two" / "outcome.json").unlink()
    here.start()
    assert here.wait("two")["state"] == "succeeded"
    assert_made(here, "two", truth("clip"))


def test_a_job_that_is_resumed_counts_as_open(service: Callable[..., Service]) -> None:
    here = service("--queue=1")
    here.submit("one", "long.fsa", "long.mp4", options={"size": 48})
    here.ask("POST", "/v1/jobs/one/cancel")
    here.wait("one")
    assert here.submit("two", "long.fsa", "long.mp4", options={"size": 48}).status == 201
    assert here.ask("POST", "/v1/jobs/one/resume").status == 429
    here.ask("POST", "/v1/jobs/two/cancel")


def test_many_streams_that_come_at_once_are_no_more_than_some(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "long.fsa", "long.mp4", options={"size": 256})
    sockets = [socket.create_connection(("127.0.0.1", here.port), timeout=20) for _ in range(12)]
    for one in sockets:
        one.sendall(b"GET /v1/jobs/one/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answers = [one.recv(12) for one in sockets]
    assert sorted(answers) == [b"HTTP/1.1 200"] * 4 + [b"HTTP/1.1 429"] * 8
    for one in sockets:
        one.close()
    until = time.monotonic() + 20
    while here.ask("GET", "/metrics").body.decode().count("gpu_extract_sse_clients 0.0") != 1:
        assert time.monotonic() < until, "streams that ended are counted"
        time.sleep(0.1)
    here.ask("POST", "/v1/jobs/one/cancel")


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_one_id_is_made_cancelled_resumed_and_removed_by_many_at_once(
    service: Callable[..., Service], truth: Callable[..., Any], seconds: int
) -> None:
    here = service("--devices=cpu,cpu")
    until = time.monotonic() + seconds
    bad: list[Any] = []

    def work(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < until:
            what = chance.choice(["make", "make", "cancel", "resume", "remove", "", "faces", "alignments"])
            if what == "make":
                answer = here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
            elif what == "remove":
                answer = here.ask("DELETE", "/v1/jobs/one")
            else:
                method = "POST" if what in ("cancel", "resume") else "GET"
                answer = here.ask(method, f"/v1/jobs/one/{what}".removesuffix("/"))
            if answer.status >= 500:
                bad.append((what, answer.body))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad
    assert "Traceback" not in here.said
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
    while here.wait("one")["state"] != "succeeded":
        here.ask("POST", "/v1/jobs/one/resume")
    assert_made(here, "one", truth("clip"))
    assert (here.data / "jobs" / "one" / "outcome.json").is_file()
    assert [path.name for path in (here.data / "jobs").iterdir()] == ["one"]
    assert here.pids() == []


def test_what_a_kill_left_of_jobs_that_were_made_or_removed_goes(service: Callable[..., Service]) -> None:
    here = service()
    here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48})
    here.wait("one")
    here.kill()
    jobs = here.data / "jobs"
    (jobs / "one" / "request.json").unlink()  # as it is removed
    (jobs / "never" / "in").mkdir(parents=True)  # as it is made
    here.start()
    assert here.ask("GET", "/v1/jobs").json["jobs"] == []
    assert all(path.name.startswith(".removed-") for path in jobs.iterdir())
    assert here.submit("one", "clip.fsa", "clip.mp4", options={"size": 48}).status == 201
    assert here.wait("one")["state"] == "succeeded"


@pytest.fixture
def office(tmp_path: Path, root: Path) -> Iterator[Office]:
    """Whose lanes do not run."""
    made = Office(ServiceSettings(data=tmp_path / "data", root={"here": str(root)}, devices="cpu"), NoUploads())
    yield made
    made.drain()
    made.close(1)


class NoUploads:
    def claim(self, upload_id: str, folder: Path, owner: str) -> Path:
        raise AssertionError


def asked(name: str) -> JobRequest:
    places = {"alignments": {"root": "here", "path": f"{name}.fsa"}, "frames": {"root": "here", "path": f"{name}.mp4"}}
    return JobRequest.model_validate({**places, "options": {"size": 48}})


def test_whoever_is_refused_has_no_job(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OutputError("the table of jobs cannot be written: database or disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(office.table, "add", full)
        with pytest.raises(OutputError, match="disk is full"):
            office.create(asked("clip"), "anna", "one")
    assert office.known("one") is None
    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "begin", lambda folder, *_: full_at(folder.path / "request.json"))
        with pytest.raises(OutputError, match=r"^request\.json could not"):  # not where this machine has it
            office.create(asked("clip"), "anna", "one")
    assert office.create(asked("clip"), "anna", "one")[1]


def test_an_alignments_file_without_room_is_refused_before_it_is_copied(office: Office, root: Path) -> None:
    """A sparse one costs its sender nothing, and would fill the disk of all others."""
    with open(root / "vast.fsa", "wb") as file:
        file.truncate(1 << 50)
    places = {"alignments": {"root": "here", "path": "vast.fsa"}, "frames": {"root": "here", "path": "clip.mp4"}}
    try:
        with pytest.raises(Problem, match=r"has 1,125,899,906,842,624 bytes, and the server has room for") as refused:
            office.create(JobRequest.model_validate(places), "anna", "one")
    finally:
        (root / "vast.fsa").unlink()
    assert refused.value.status == 507
    assert office.known("one") is None
    assert not (office.data.path / "jobs" / "one").exists()


def test_a_service_that_is_to_end_waits_for_no_copy(
    office: Office, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_extract.service.requests.COPY_BYTES", 64)
    copied = []

    def opened_as_it_ends(path: str) -> Any:
        copied.append(path)
        office.drain()
        return open_beneath(root, path)

    monkeypatch.setattr("gpu_extract.service.requests.open_beneath", lambda _, path: opened_as_it_ends(path))
    with pytest.raises(Problem, match="about to end") as refused:
        office.create(asked("clip"), "anna", "one")
    assert (refused.value.status, copied) == (503, ["clip.fsa"])
    assert office.known("one") is None


def test_a_folder_whose_new_name_needs_room_that_there_is_not_is_removed_where_it_is(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = office.create(asked("clip"), "anna", "one")
    office.cancel(made)

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        office.remove(made)
    assert office.known("one") is None
    assert list((office.data.path / "jobs").iterdir()) == []


def full_at(path: Path) -> None:
    raise OutputError(f"{path} could not be written (no space left on device); what was there before is untouched.")


def test_a_job_can_be_removed_where_only_that_makes_room(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = office.create(asked("clip"), "anna", "one")
    office.cancel(made)
    remove = office.table.remove

    def refused_while_it_is_there(job: str) -> None:
        if list((office.data.path / "jobs").iterdir()):
            raise OutputError("the table of jobs cannot be written: database or disk is full.")
        remove(job)

    monkeypatch.setattr(office.table, "remove", refused_while_it_is_there)
    office.remove(made)
    assert office.known("one") is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, "No space left on device"), 6), (InputError("gone."), 3), (RuntimeError("a bug"), 1)],
)
def test_a_step_that_cannot_begin_is_no_step_that_runs(
    office: Office, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(office.foreman, "run", run)
    office.create(asked("clip"), "anna", "one")
    office.start()
    until = time.monotonic() + 20
    while (step := office.table.steps("one")[0]).ended_with is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    found = office.known("one")
    assert found is not None
    assert step.ended_with == code
    assert found.state == ("queued" if code == 6 else "failed")
    assert found.note if code == 6 else found.error


def test_an_error_of_ours_behind_a_steps_end_fails_its_job(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def go_on(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(office.foreman, "run", lambda *_: Ended(0, ""))
    monkeypatch.setattr(office._endings, "_go_on", go_on)
    office.create(asked("clip"), "anna", "one")
    office.start()
    until = time.monotonic() + 20
    while (found := office.known("one")) is None or not found.has_ended:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert (found.state, found.error) == ("failed", "an error of the service; its log has it.")
    assert office.table.running() == []


def test_a_job_that_was_made_is_on_the_disk_and_its_inputs_before_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    fsync, rename = os.fsync, Path.rename

    def noted(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        flushed.append(Path(f"rename to {target.name}"))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    office.create(asked("clip"), "anna", "one")
    folder = office.data.job("one").path
    before, after = flushed[: (cut := flushed.index(Path("rename to request.json")))], flushed[cut + 1 :]
    assert sorted(before) == [folder / "in", folder / "in" / "clip.fsa"]
    assert sorted(after) == [folder.parent, folder, folder / "request.json"]


def made_by(office: Office, *jobs: str) -> None:
    for job in jobs:
        office.create(asked("clip"), "anna", job)


def ended_by(office: Office, job: str, state: str) -> None:
    (step,) = office.table.steps(job)
    with office.table.change():
        office._endings.follow(step, Ended(0 if state == "succeeded" else 3, ""), "no", stopped=False, device="cpu")


def listed(office: Office) -> dict[str, str]:
    return {job.id: job.state for job in office.table.jobs(after=None, limit=100)}


def test_a_table_that_is_behind_is_brought_up_to_the_folders(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut takes from the table what was not flushed: at most all that it may lose is taken from it here."""
    made_by(office, "ends", "fails", "waits", "cancelled", "goes")
    ended_by(office, "goes", "succeeded")
    behind = tmp_path / "behind.sqlite"
    with sqlite3.connect(behind) as copy, sqlite3.connect(office.data.table) as table:
        table.backup(copy)
    made_by(office, "comes", "came")
    ended_by(office, "ends", "succeeded")
    ended_by(office, "fails", "failed")
    ended_by(office, "came", "succeeded")
    for job in ("cancelled", "goes"):
        found = office.known(job)
        assert found is not None
        office.cancel(found) if job == "cancelled" else office.remove(found)
    before = listed(office)
    office.drain()
    office.close(1)
    for path in office.data.path.glob("service.sqlite*"):
        path.unlink()
    behind.rename(office.data.table)
    again = Office(office.settings, NoUploads())
    try:
        monkeypatch.setattr(again, "lanes", [])
        again.start()
        assert listed(again) == before
        assert before == {
            "ends": "succeeded",
            "fails": "failed",
            "waits": "queued",
            "cancelled": "cancelled",
            "comes": "queued",
            "came": "succeeded",
        }
        assert {step.kind: step.state for step in again.table.steps("comes")} == {"cut": "waiting"}
    finally:
        again.close(1)


def test_what_no_folder_tells_of_is_flushed_at_once(office: Office) -> None:
    """A job whose process ends as it is cancelled, one that is resumed, and which steps a job has."""
    flushed: list[str] = []
    made_by(office, "one", "two")
    office.table.claim("cpu", ["cut"], time.time())
    connection = office.table._database._file
    assert connection is not None
    connection.set_trace_callback(lambda words: flushed.append(words) if "synchronous" in words else None)
    known = [office.known(job) for job in ("one", "two")]
    for found in known:
        assert found is not None
        office.cancel(found)
    assert known[1] is not None
    office.resume(known[1])
    assert flushed == ["PRAGMA synchronous = FULL"] * 3
    flushed.clear()
    office.create(asked("clip"), "anna", "three")
    assert flushed == ["PRAGMA synchronous = NORMAL"]


def test_a_request_of_which_only_the_name_is_left_is_of_no_job(office: Office) -> None:
    folder = office.data.path / "jobs" / "torn"
    folder.mkdir()
    (folder / "request.json").touch()
    assert office.known("torn") is None
    office._recovery.take_up()
    assert not folder.exists()
    assert office.create(asked("clip"), "anna", "torn")[1]


def test_jobs_of_one_token_that_come_at_once_are_no_more_than_it_may_have(office: Office) -> None:
    told: list[int] = []

    def make(number: int) -> None:
        try:
            told.append(201 if office.create(asked("clip"), "anna", f"job-{number}", 5)[1] else 200)
        except Problem as problem:
            told.append(problem.status)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(201) <= 5
    assert set(told) <= {201, 429}
    for number in range(20, 25):  # and none fewer, once they are counted
        make(number)
    assert told.count(201) == 5


def test_one_id_that_is_asked_for_by_many_at_once_is_one_job(office: Office) -> None:
    new: list[bool] = []
    threads = [
        threading.Thread(target=lambda: new.append(office.create(asked("clip"), "anna", "one")[1])) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new) == [False] * 11 + [True]


@pytest.mark.parametrize("small", ["alignments", "frames", "neither"])
def test_a_job_that_is_evidently_short_is_not_planned_first(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr(steps, "SHORT_ALIGNMENTS_BYTES", 1 << 20 if small == "alignments" else 10)
    monkeypatch.setattr(steps, "SHORT_FRAMES_BYTES", 1 << 20 if small == "frames" else 10)
    here = Office(ServiceSettings(data=tmp_path / "data", root={"here": str(root)}, devices="cpu,cpu"), NoUploads())
    try:
        here.create(asked("clip"), "anna", "one")
        assert [step.kind for step in here.table.steps("one")] == ["check" if small == "neither" else "cut"]
        check = asked("clip").model_copy(update={"options": {"size": 48, "dry_run": True}})
        here.create(check, "anna", "two")
        assert [step.kind for step in here.table.steps("two")] == ["check"]
        here.table.remove("one")
        (here.data.job("one").inputs / "clip.fsa").unlink()  # also of one whose inputs were lost there is a row
        here._recovery.take_up()
        assert here.known("one") is not None
    finally:
        here.drain()
        here.close(1)


def cpu_seconds(pid: int | None = None) -> float:
    """Of all processes of the machine, or of one with those that it has waited for."""
    if pid is None:
        times = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        ticks = sum(map(int, times[:8])) - int(times[3]) - int(times[4])  # without those in which nothing ran
    else:
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def flush_seconds(folder: Path) -> float:
    """What a flush of a small file takes, as the median of some."""
    found = []
    for number in range(21):
        with open(folder / f"flushed-{number}", "wb", buffering=0) as file:
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(file.fileno())
            found.append(time.perf_counter() - began)
    return sorted(found)[10]


@pytest.mark.slow
def test_a_thousand_jobs_and_a_kill_in_the_middle(service: Callable[..., Service], tmp_path: Path) -> None:
    here = service("--devices=cpu,cpu", "--queue=2000")
    assert here.process is not None
    flush = flush_seconds(tmp_path)
    ours = (here.process.pid, os.getpid())
    began, all_before, ours_before = time.monotonic(), cpu_seconds(), sum(map(cpu_seconds, ours))
    for number in range(1000):
        assert (
            here.submit(
                f"job-{number}", "clip.fsa", "clip.mp4", options={"size": 16, "extract_every_n": 30}, shards=1
            ).status
            == 201
        )
    seconds = time.monotonic() - began
    others = cpu_seconds() - all_before - (sum(map(cpu_seconds, ours)) - ours_before)
    # Where others take the cores, or the disk, that is no fault of the queue.
    if others < 0.1 * seconds * len(os.sched_getaffinity(0)) and max(flush, flush_seconds(tmp_path)) < 0.002:
        assert seconds < 10
    while True:
        counts = here.ask("GET", "/v1/devices").json["jobs"]
        if counts.get("succeeded", 0) >= 500:
            break
        time.sleep(0.2)
    here.kill()
    here.start()
    while (counts := here.ask("GET", "/v1/devices").json["jobs"]).get("succeeded", 0) < 1000:
        assert set(counts) <= {"queued", "running", "succeeded"}
        time.sleep(0.5)
    with sqlite3.connect(here.data / "service.sqlite") as table:
        attempts = table.execute("SELECT sum(attempt) FROM step").fetchone()[0]
    assert attempts <= 1002


def test_a_token_that_is_made_later_closes_the_door(service: Callable[..., Service]) -> None:
    here = service()
    assert here.ask("GET", "/v1/jobs").status == 200
    secret = Tokens.make(here.data / "tokens.toml", "anna", ["read"])
    assert here.ask("GET", "/v1/jobs").status == 401
    assert here.ask("GET", "/v1/jobs", headers={"Authorization": f"Bearer {secret}"}).status == 200
    assert here.ask("GET", "/v1/jobs?state=nonsense", headers={"Authorization": f"Bearer {secret}"}).status == 422


def test_a_stream_that_nobody_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are sent until the way is full; how long that may last is shortened for the test."""
    monkeypatch.setattr(events, "STALLED_SECONDS", 0.05)
    ended = []

    async def body() -> AsyncIterator[bytes]:
        yield b"data"

    async def never(message: object) -> None:
        await asyncio.sleep(60)

    async def receive() -> dict[str, str]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    stream = events._EventStream(body(), lambda: ended.append(True))
    asyncio.run(asyncio.wait_for(stream({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, never), 5))
    assert ended == [True]
