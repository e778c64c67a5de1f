"""What a program is started with and cannot choose: closed descriptors, narrow output, signals, limits."""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.storage import descriptors
from tests.helpers import extract_command, files_in, image_bytes, photograph

GPU_EXTRACT = [sys.executable, "-m", "gpu_extract"]


def in_a_shell(words: list[str], redirections: str = "", first: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as a shell would with these redirections."""
    line = f"{first} exec {shlex.join([*GPU_EXTRACT, *words])} {redirections}"
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def complained_of(tmp_path: Path, landmarks: np.ndarray) -> Path:
    """`frames`, JPEGs that end in the middle of a face, of which libjpeg complains; and `a.fsa`."""
    (tmp_path / "frames").mkdir()
    entries = {}
    for number in range(6):
        data = image_bytes(".jpg", photograph(240, 320, number))
        middle = len(data) // 2
        name = f"f_{number:06d}.jpg"
        (tmp_path / "frames" / name).write_bytes(data[:middle] + b"\xff\xd9" + data[middle:])
        entries[name] = [face_record(landmarks)]
    write_alignments(tmp_path / "a.fsa", entries)
    return tmp_path


@pytest.mark.parametrize("layout", ["flat", "webdataset"])
def test_no_warning_of_a_library_lands_in_a_file(layout: str, complained_of: Path) -> None:
    def run(name: str, redirections: str) -> tuple[dict[str, bytes], bytes, str]:
        faces = complained_of / name
        words = extract_command(complained_of / "a.fsa", complained_of / "frames", faces, "--no-update", "-sz", "64")
        done = in_a_shell([*words, "--output-layout", layout, "--workers", "1"], redirections)
        assert done.returncode == 0
        return files_in(faces), (faces / ".gpu-extract.journal").read_bytes(), done.stderr

    files, journal, told = run("plain", "")
    assert "Corrupt JPEG data" in told, "the library has nothing to say: the test tests nothing"
    for number, closed in enumerate(("2>&-", ">&- 2>&-", "<&- >&- 2>&-")):
        assert run(f"closed {number}", closed) == (files, journal, ""), closed


def test_an_error_is_not_said_on_standard_output_when_standard_error_is_closed(tmp_path: Path) -> None:
    done = in_a_shell(["check", "-a", str(tmp_path / "none.fsa"), "-fr", str(tmp_path)], "2>&-")
    assert (done.returncode, done.stdout) == (3, "")


NO_ROOM, NO_READER = "> /dev/full", "| true"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["extract", "--help"], ["config"], ["config", "--json", "-"]]
)
def test_standard_output_that_takes_no_more(words: list[str], unbuffered: str) -> None:
    done = in_a_shell(words, NO_ROOM, f"PYTHONUNBUFFERED={unbuffered}")
    assert done.returncode == 6
    assert done.stderr.endswith("No space left on device.\n")
    assert done.stderr.count("\n") == 1
    done = in_a_shell(words, NO_READER, f"set -o pipefail; PYTHONUNBUFFERED={unbuffered}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("lost", ["2> /dev/full", "2>&1 > /dev/null | true"])
@pytest.mark.parametrize("progress", ["bar", "plain"])
def test_standard_error_that_takes_no_more_changes_nothing(progress: str, lost: str, complained_of: Path) -> None:
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces", "-sz", "32")
    words[words.index("none")] = progress
    missing = ["check", "-a", str(complained_of / "no.fsa"), "-fr", str(complained_of / "frames")]
    for unbuffered in ("", "1"):
        first = f"set -o pipefail; PYTHONUNBUFFERED={unbuffered}"
        assert in_a_shell(words, lost, first).returncode == 0
        assert len(files_in(complained_of / "faces")) == 6
        shutil.rmtree(complained_of / "faces")
        assert in_a_shell(missing, lost, first).returncode == 3


def test_a_reader_that_is_gone_does_not_make_a_fault_good(complained_of: Path) -> None:
    next((complained_of / "frames").iterdir()).unlink()
    words = ["check", "-a", str(complained_of / "a.fsa"), "-fr", str(complained_of / "frames")]
    for more in ([], ["--json", "-"]):
        assert in_a_shell([*words, *more], NO_READER, "set -o pipefail;").returncode == 4


def test_a_library_call_holds_closed_descriptors_too(tmp_path: Path) -> None:
    code = f"""
import os
os.close(0), os.close(2)
from gpu_extract.storage.descriptors import open_beyond_standard
descriptor = open_beyond_standard({str(tmp_path / "file")!r}, os.O_WRONLY | os.O_CREAT)
print(descriptor > 2, os.readlink("/proc/self/fd/2"), os.get_inheritable(descriptor))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "/dev/null", "False"]


def test_nothing_is_opened_where_all_is_open() -> None:
    streams = sys.stdout, sys.stderr
    before = sorted(Path("/proc/self/fd").iterdir())
    descriptors.hold_standard_streams()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("words", [["extract", "--help"], ["config"], ["doctor"]])
def test_output_that_knows_ascii_only(words: list[str]) -> None:
    done = in_a_shell(words, first="PYTHONIOENCODING=ascii PYTHONUTF8=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@pytest.mark.parametrize(("number", "step"), [(signal.SIGINT, 4), (signal.SIGTERM, 8), (signal.SIGHUP, 12)])
def test_a_signal_in_the_first_tenths_of_a_second(number: signal.Signals, step: int, complained_of: Path) -> None:
    """No traceback of imports, and the documented exit code, whatever is being loaded; one handler serves all three."""
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces")
    told = set()
    for hundredths in range(0, 60, step):
        shutil.rmtree(complained_of / "faces", ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", STARTED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        while not takes(process.pid, signal.SIGHUP):  # the last that is taken
            assert process.poll() is None
        time.sleep(hundredths / 100)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        if process.returncode in (0, 4, -number):  # done, or Python had begun to take itself down
            assert hundredths > 0
            break
        assert process.returncode == 128 + number, err
        assert "Traceback" not in err
        assert err.count("\n") - err.count("Corrupt JPEG") <= 1, err
        told.add(process.returncode)
    assert told


def takes(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


STARTED = f"""
import sys
sys.path[:0] = {[path for path in sys.path if path]!r}
sys.argv[0] = "gpu-extract"
from gpu_extract.__main__ import main
print("started", flush=True)
sys.exit(main())
"""
"""The console script, from the moment that Python itself is up."""


def test_nohup_is_respected(complained_of: Path) -> None:
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces")
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' HUP; echo ready; exec {shlex.join([*GPU_EXTRACT, *words])} >/dev/null"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout as ready:
        assert ready.readline() == b"ready\n"
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    assert process.returncode == 0


THREADLESS = """
import sys, threading, time
start, left = threading.Thread.start, int(sys.argv.pop(1))
def start_or_refuse(thread):
    global left
    left -= 1
    if left == 0:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_or_refuse
from gpu_extract.cli import main
code = main()
assert [thread for thread in threading.enumerate() if thread is not threading.main_thread()] == []
sys.exit(code if left <= 0 else 100 + code)
"""
"""The command line, whose n-th thread the system refuses; 100 more where it starts fewer."""


@pytest.mark.parametrize(
    "command",
    ["extract", "verify", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dry run", "thumbs", "bar"))],
)
def test_whichever_thread_the_system_refuses(command: str, tmp_path: Path, vectors: Path) -> None:
    frames = tmp_path / "clip.mp4"
    shutil.copy(vectors / "video" / "clip.mp4", frames)
    points = np.array([[9 + i, 40 + i * i % 91] for i in range(68)], np.float32)
    entries = {f"clip_{number:06d}.png": [face_record(points)] for number in (1, 2)}
    write_alignments(tmp_path / "a.fsa", entries)
    faces = tmp_path / "faces"
    assert main(extract_command(tmp_path / "a.fsa", frames, faces, "--no-update", "-sz", "32")) == 0
    words = extract_command(tmp_path / "a.fsa", frames, tmp_path / "new", "-sz", "32", "--workers", "2", "-q")
    if command == "verify":
        words = ["verify", *words[1 : words.index("-sz")], "--workers", "2"]
        words[words.index("-fc") + 1] = str(faces)
    elif command == "dry run":
        words.append("--dry-run")
    elif command == "thumbs":
        write_alignments(tmp_path / "a.fsa", entries)
        words.append("--refresh-thumbs")
    elif command == "bar":
        words[words.index("none")] = "bar"
        words.remove("-q")
    ended = []
    for which in range(1, 12):
        shutil.rmtree(tmp_path / "new", ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", THREADLESS, str(which), *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        ended.append(done.returncode)
        if done.returncode >= 100:
            break
        assert done.returncode == 5, done.stderr
        assert "the system grants" in done.stderr
        assert "Traceback" not in done.stderr
    assert ended[-1] in (100, 104)
    assert len(ended) > 3


COUNTING = """
import os, sys
from gpu_extract.__main__ import main
code = main()
assert {"numpy", "cv2"} <= sys.modules.keys()
print(len(os.listdir("/proc/self/task")), code)
"""


def test_libraries_start_no_threads_when_they_are_loaded(complained_of: Path) -> None:
    """Where the system refuses one, OpenBLAS sends the process SIGINT, and it ended as if a person had stopped it."""
    faces = complained_of / "faces"
    assert in_a_shell(extract_command(complained_of / "a.fsa", complained_of / "frames", faces)).returncode == 0
    words = ["sheet", "-q", str(faces), str(complained_of / "sheet.png")]
    command = [sys.executable, "-c", COUNTING, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("1 0\n", "")


def limited(which: int, amount: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line under a limit of the system."""
    return subprocess.run(
        [*GPU_EXTRACT, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(which, (amount, amount)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.mark.parametrize("megabytes", [200, 400, 500, 640, 700])
@pytest.mark.parametrize("command", ["extract", "verify", "sheet", "check", "doctor"])
def test_too_little_memory_is_a_sentence(command: str, megabytes: int, complained_of: Path) -> None:
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces")
    words = {
        "extract": words,
        "verify": ["verify", *words[1:]],
        "sheet": ["sheet", str(complained_of / "frames"), str(complained_of / "sheet.png")],
        "check": ["check", *words[1:5]],
        "doctor": ["doctor"],
    }[command]
    done = limited(resource.RLIMIT_AS, megabytes << 20, words)
    assert done.returncode == 5 or (command == "check" and done.returncode == 0)
    assert done.stderr.count("\n") == (done.returncode != 0)
    assert not (complained_of / "faces").exists()


@pytest.mark.parametrize("layout", ["flat", "webdataset"])
def test_too_few_files_are_a_sentence(layout: str, complained_of: Path) -> None:
    """Whatever cannot be opened: a module, a folder of plug-ins, a frame, a face."""
    ended = []
    for amount in range(5, 12):
        faces = complained_of / str(amount)
        words = extract_command(complained_of / "a.fsa", complained_of / "frames", faces, "--no-update", "-sz", "32")
        done = limited(resource.RLIMIT_NOFILE, amount, [*words, "-q", "--output-layout", layout])
        ended.append(done.returncode)
        assert ended[-1] in (0, 4, 5, 6), done.stderr
        assert ended[-1] == 0 or "too many open files" in done.stderr.lower() or "cannot be listed" in done.stderr
    # A folder of faces can do with five where no two threads happen to open a file at once.
    assert ended[0] != 0 or layout == "flat"
    assert ended[-1] == 0


@pytest.mark.parametrize("no_update", [True, False])
@pytest.mark.parametrize("amount", [0, 1, 100, 3000])
def test_files_that_must_not_grow(amount: int, no_update: bool, complained_of: Path) -> None:
    before = (complained_of / "a.fsa").read_bytes()
    options = ["--no-update"] if no_update else []
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces", *options)
    done = limited(resource.RLIMIT_FSIZE, amount, [*words, "-sz", "128"])
    assert done.returncode == 6, done.stderr
    assert [path.name for path in complained_of.iterdir() if path.name not in ("a.fsa", "frames", "faces")] == []
    assert (complained_of / "a.fsa").read_bytes() == before
    assert main([*words, "-sz", "128", "--resume"]) == 0


def test_a_file_with_another_name(complained_of: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file that is replaced and not written into stays as it was under its other names: that is said."""
    words = extract_command(complained_of / "a.fsa", complained_of / "frames", complained_of / "faces", "-sz", "32")
    (complained_of / "also.fsa").hardlink_to(complained_of / "a.fsa")
    before = (complained_of / "also.fsa").read_bytes()
    assert main([*words, "--no-update"]) == 0
    assert "hard link" not in capfd.readouterr().out
    shutil.rmtree(complained_of / "faces")
    assert main([*words, "--dry-run"]) == 0
    assert "has another name (hard links): when it is saved, the old file stays" in capfd.readouterr().out
    words[words.index("none")] = "plain"
    assert main(words) == 0
    told = capfd.readouterr()
    for text in (told.out, told.err):
        assert "has another name (hard links): when it is saved, the old file stays" in text
    assert (complained_of / "also.fsa").read_bytes() == before != (complained_of / "a.fsa").read_bytes()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    for descriptor in (master, slave):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_a_lost_terminal_ends_a_run_in_good_order(terminal: tuple[int, int], tmp_path: Path) -> None:
    """Both what the kernel sends and what the program then meets when it writes."""
    master, slave = terminal
    (tmp_path / "frames").mkdir()
    rng = np.random.default_rng(0)
    points = (rng.uniform(100, 140, (68, 2))).astype(np.float32)
    entries = {}
    for number in range(400):
        name = f"f_{number:06d}.png"
        cv2.imwrite(str(tmp_path / "frames" / name), rng.integers(0, 255, (240, 320, 3), np.uint8))
        entries[name] = [face_record(points)] * 3
    write_alignments(tmp_path / "a.fsa", entries)
    words = extract_command(tmp_path / "a.fsa", tmp_path / "frames", tmp_path / "faces", "-sz", "512")
    words[words.index("none")] = "bar"
    process = subprocess.Popen([*GPU_EXTRACT, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    journal = tmp_path / "faces" / ".gpu-extract.journal"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.01)
    os.close(slave)
    os.close(master)
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == 129
    words[words.index("bar")] = "none"
    assert in_a_shell([*words, "--resume"]).returncode == 0
