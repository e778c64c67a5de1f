"""`cluster ray` on a Ray of this machine: two nodes with a GPU each, both made up, of which one is lost."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.run import journal
from tests.helpers import Job, face_entry, files_in, image_bytes, noise, write_pickled

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    pytest.mark.filterwarnings("ignore"),
]
SHARDS = 6
FRAMES = 240
SIZE = (540, 960)
PATIENCE = 240.0


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    entries = {}
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(FRAMES):
        name = f"f_{number:06d}.png"
        (frames / name).write_bytes(image_bytes(".png", noise(*SIZE, seed=number % 9)))
        entries[name] = [face_entry((landmarks + number % 50).astype(np.float32))]

    def make(name: str) -> Job:
        (tmp_path / name).mkdir()
        return Job(write_pickled(tmp_path / name / "a.fsa", entries), frames, "-sz", "256")

    return make


@pytest.fixture
def cluster() -> Iterator[Any]:
    made = importlib.import_module("ray.cluster_utils").Cluster()
    try:
        add_node(made, num_gpus=0)
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any, num_gpus: int = 1) -> Any:
    """Ray's own way of waiting for a node gives up after 30 seconds, of which a busy machine may take as many."""
    node = cluster.add_node(wait=False, num_cpus=1, num_gpus=num_gpus)
    cluster.wait_for_nodes(PATIENCE)
    return node


def started(job: Job, cluster: Any, *options: str) -> subprocess.Popen[str]:
    paths = ["-a", str(job.alignments), "-fr", str(job.frames), "-fc", str(job.faces), *job.options]
    where = ["--address", cluster.address, "--shards", str(SHARDS), "--gpus", "1", "--cpus", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "gpu_extract", "cluster", "ray", *paths, *where, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_receipts(job: Job, count: int, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE
    while len(list(job.faces.glob(f"{journal.NAME}.*"))) < count:
        assert time.monotonic() < until
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def assert_as_undivided(divided: Job, whole: Job) -> None:
    assert files_in(divided.faces) == files_in(whole.faces)
    assert divided.alignments.read_bytes() == whole.alignments.read_bytes()
    assert journal.names(divided.faces) == [journal.NAME]


def test_a_machine_is_lost_and_then_the_driver(job: Callable[..., Job], cluster: Any) -> None:
    whole, divided = job("whole"), job("divided")
    assert whole.run() == 0
    first, second = (add_node(cluster) for _ in range(2))
    driver = started(divided, cluster)
    wait_for_receipts(divided, 2, driver)
    unfinished = [path for path in divided.faces.glob(f"{journal.NAME}.*") if '"report"' not in path.read_text()]
    assert len(unfinished) == 2, "one on either node"
    cluster.remove_node(second, allow_graceful=False)
    wait_for_receipts(divided, 3, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()

    driver = started(divided, cluster)
    time.sleep(1)
    third = add_node(cluster)
    code, out, err = finished(driver)
    assert code == 0, err
    assert f"{SHARDS} of {SHARDS} shards are cut." in err
    assert f"faces   {FRAMES} written" in out
    assert_as_undivided(divided, whole)
    code, out, _ = finished(started(divided, cluster))
    assert code == 0
    assert f"faces   {FRAMES} written" in out
    assert_as_undivided(divided, whole)
    for node in (first, third):
        cluster.remove_node(node)


def test_bad_input_ends_all_with_its_sentence(job: Callable[..., Job], cluster: Any) -> None:
    divided = job("divided")
    divided.alignments.write_bytes(b"nothing that is known")
    node = add_node(cluster)
    code, out, err = finished(started(divided, cluster))
    assert (code, out) == (7, "")
    assert f"/{SHARDS}: " in err
    assert "Traceback" not in err
    driver = started(job("other"), cluster)
    wait_for_receipts(Job(divided.root.parent / "other" / "a.fsa", divided.frames), 1, driver)
    driver.send_signal(signal.SIGTERM)
    code, _, err = finished(driver)
    assert code == 143
    assert "interrupted" in err
    cluster.remove_node(node)


def test_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["-a", "a", "-fr", "f", "-fc", str(tmp_path / "o"), "--shards", "2", "--address", address]
    assert main(["cluster", "ray", *words]) == 5
    assert "no Ray cluster answers" in capsys.readouterr().err
