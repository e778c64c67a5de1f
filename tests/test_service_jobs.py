"""The service: jobs from their arrival to their end, whatever dies on the way."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.jobs.extract import extract
from gpu_extract.run import journal
from tests.helpers import face_entry, files_in, write_clip, write_pickled
from tests.serving import Service

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

FRAMES, SIZE = 60, (76, 90)
KILLS = int(os.environ.get("SERVICE_KILLS", "4"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, landmarks: np.ndarray) -> Path:
    """A clip of 60 frames and its alignments file, and one of 1,500 for what takes a while."""
    folder = tmp_path_factory.mktemp("root")
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    for name, count in (("clip", FRAMES), ("long", 1500)):
        write_clip(folder / f"{name}.mp4", count, SIZE, options={"g": "6", "bf": "0"})
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
    assert sorted(faces) == sorted(f"long_{number + 1:06d}_0.png" for number in range(1500))
    assert kinds == {"face", "progress", "state"}
    assert last["state"]["state"] == "succeeded"
    assert last["progress"]["frames"] == last["progress"]["of"] == 1500
    first = faces[0]
    answer = here.ask("GET", f"/v1/jobs/one/faces/{first}")
    assert answer.body == (here.data / "jobs" / "one" / "faces" / first).read_bytes()
    same = here.ask("GET", f"/v1/jobs/one/faces/{first}", headers={"If-None-Match": answer.headers["etag"]})
    assert (same.status, same.body) == (304, b"")


def test_whoever_followed_shards_is_told_to_begin_anew_after_the_merge(service: Callable[..., Service]) -> None:
    here = service("--devices=cpu,cpu")
    here.submit("two", "clip.fsa", "clip.mp4", options={"size": 48}, shards=2)
    with here.events("two") as events:
        place = next(got for got, kind, _ in events if kind == "face" and got)
    here.wait("two")
    faces, seen = [], []
    with here.events("two", place) as events:
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
    assert here.ask("DELETE", "/v1/jobs/one").status in (204, 409)
    found = here.wait("one")
    assert found["state"] == "cancelled"
    assert time.monotonic() - began < 5
    assert 0 < found["faces"] < 1500
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


@pytest.mark.parametrize("how", ["gone", "torn"])
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


def test_two_services_do_not_share_a_folder(service: Callable[..., Service], root: Path) -> None:
    here = service()
    with pytest.raises(AssertionError, match="another service works in"):
        Service(here.data, {"here": root}).start()


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


@pytest.mark.slow
def test_a_thousand_jobs_and_a_kill_in_the_middle(service: Callable[..., Service]) -> None:
    here = service("--devices=cpu,cpu", "--queue=2000")
    began = time.monotonic()
    for number in range(1000):
        assert (
            here.submit(f"job-{number}", "clip.fsa", "clip.mp4", options={"size": 16, "extract_every_n": 30}).status
            == 201
        )
    assert time.monotonic() - began < 30
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
