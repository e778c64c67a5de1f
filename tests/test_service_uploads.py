"""Uploads: what came is kept, whatever cuts the way, and nothing else is ever written."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gpu_extract.errors import OutputError
from gpu_extract.service import uploads as module
from gpu_extract.service.access import Tokens
from gpu_extract.service.names import MOST_BYTES, safe_name
from gpu_extract.service.problems import Problem
from gpu_extract.service.uploads import MOST_UPLOADS, Upload, Uploads

ROOT = Path(__file__).parent.parent
KiB, MiB, GB = 1 << 10, 1 << 20, 10**9


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=128 * MiB)


async def in_pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


def append(uploads: Uploads, upload: Upload, offset: int, data: bytes) -> int:
    return asyncio.run(uploads.append(upload, offset, in_pieces(data)))


def made(uploads: Uploads, data: bytes, name: str = "clip.mp4", owner: str = "anna") -> Upload:
    upload = uploads.create(owner, len(data), name)
    assert append(uploads, upload, 0, data) == len(data)
    return upload


@contextmanager
def refused(status: int, said: str | None = None) -> Iterator[None]:
    with pytest.raises(Problem, match=said) as caught:
        yield
    assert caught.value.status == status


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the folder


def test_an_upload_comes_in_pieces_of_any_size(uploads: Uploads) -> None:
    data = os.urandom(3 * MiB + 17)
    upload = uploads.create("anna", len(data), "clip.mp4")
    assert uploads.find(upload.id) == upload
    offset = 0
    for size in (0, 1, 999, MiB, 2 * MiB):
        assert uploads.offset(upload) == offset
        with refused(409, "is not finished"):
            uploads.finished(upload.id)
        offset = append(uploads, upload, offset, data[offset : offset + size])
    offset = append(uploads, upload, offset, data[offset:])
    assert uploads.finished(upload.id).read_bytes() == data
    assert append(uploads, upload, offset, b"") == len(data)
    assert uploads.finished(upload.id).stat().st_mode & 0o777 == 0o600


def test_an_empty_file_is_finished_when_it_is_announced(uploads: Uploads) -> None:
    assert uploads.finished(uploads.create("anna", 0, "empty").id).read_bytes() == b""


@pytest.mark.parametrize("offset", [0, 9, 11, 10**17])
def test_a_wrong_offset_is_refused_and_writes_nothing(uploads: Uploads, offset: int) -> None:
    upload = uploads.create("anna", 100, "x")
    append(uploads, upload, 0, b"a" * 10)
    with refused(409, "at 10, not at"):
        append(uploads, upload, offset, b"b" * 10)
    assert (uploads.folder / upload.id).read_bytes() == b"a" * 10


@pytest.mark.parametrize("size", [101, 5000, 3 * MiB])
def test_of_more_bytes_than_were_announced_those_within_the_length_stay(uploads: Uploads, size: int) -> None:
    upload = uploads.create("anna", 100, "x")
    data = os.urandom(size)
    with refused(413, "More came than the 100 bytes"):
        append(uploads, upload, 0, data)
    assert uploads.finished(upload.id).read_bytes() == data[:100]
    with refused(413):
        append(uploads, upload, 100, b"more")
    assert uploads.finished(upload.id).stat().st_size == 100


def test_what_came_before_the_connection_was_cut_stays(uploads: Uploads) -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield b"a" * 70_000
        raise ConnectionResetError

    upload = uploads.create("anna", MiB, "x")
    with pytest.raises(ConnectionResetError):
        asyncio.run(uploads.append(upload, 0, cut()))
    assert uploads.offset(upload) == 70_000
    append(uploads, upload, 70_000, b"b" * (MiB - 70_000))


def test_one_at_a_time_writes_to_an_upload(uploads: Uploads) -> None:
    upload, other = uploads.create("anna", 100, "x"), uploads.create("anna", 10, "y")

    async def both() -> None:
        going, go_on = asyncio.Event(), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"a" * 10
            going.set()
            await go_on.wait()
            yield b"b" * 10

        first = asyncio.create_task(uploads.append(upload, 0, slow()))
        await going.wait()
        with refused(423):
            await uploads.append(upload, 0, in_pieces(b"c" * 100))
        with refused(423):
            uploads.terminate(upload)
        assert await uploads.append(other, 0, in_pieces(b"d" * 10)) == 10
        go_on.set()
        assert await first == 20

    asyncio.run(both())
    assert (uploads.folder / upload.id).read_bytes() == b"a" * 10 + b"b" * 10


def test_a_request_that_is_cancelled_writes_into_no_other_file(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is slower than the end of its request, whose descriptor's number somebody else gets."""
    begun, pwrite = threading.Event(), os.pwrite

    def slow(handle: int, data: bytes, offset: int) -> int:
        begun.set()
        time.sleep(0.1)
        return pwrite(handle, data[: 1 << 18], offset)

    monkeypatch.setattr(os, "pwrite", slow)
    upload = uploads.create("anna", 2 * MiB, "x")

    async def cancelled() -> None:
        task = asyncio.create_task(uploads.append(upload, 0, in_pieces(b"a" * 2 * MiB, MiB)))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with open(tmp_path / "other", "wb"):
            await asyncio.sleep(0.6)

    asyncio.run(cancelled())
    assert (tmp_path / "other").read_bytes() == b""
    assert set((uploads.folder / upload.id).read_bytes()) == set(b"a")


def test_uploads_are_where_they_were_after_a_restart(uploads: Uploads) -> None:
    upload = uploads.create("anna", 100, "été 1.mp4", metadata="filename w6l0w6k=")
    append(uploads, upload, 0, b"a" * 30)
    again = Uploads(uploads.folder, reserve_bytes=0, most_bytes=1)
    assert again.all() == [upload]
    assert again.offset(upload) == 30
    assert again.promised() == 70


@pytest.mark.parametrize(
    "upload_id", ["", ".", "..", "../x", "x" * 32, "A" * 32, "a" * 31, "a" * 33, "a" * 32 + "\n", "٣" * 32]
)
def test_what_is_no_id_of_ours_is_not_looked_for(uploads: Uploads, upload_id: str) -> None:
    (uploads.folder.parent / "x.json").write_text("{}")
    with refused(404):
        uploads.find(upload_id)


@pytest.mark.parametrize("words", ["", "{", "[]", "3", "{}", '{"id": 1}', "\xff"])
def test_words_that_are_not_ours_are_no_upload(uploads: Uploads, words: str) -> None:
    upload_id = "0" * 32
    (uploads.folder / f"{upload_id}.json").write_bytes(words.encode("latin-1"))
    (uploads.folder / upload_id).touch()
    with refused(404):
        uploads.find(upload_id)
    assert uploads.all() == []
    uploads.create("anna", 1, "x")


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_an_upload_of_which_nothing_can_be_read_now_is_not_said_to_be_gone(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told so sends all of it again; and the janitor takes nothing that he cannot look at."""
    now = time.time()
    uploads = Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=GB, clock=lambda: now)
    upload = uploads.create("anna", 10, "x")
    append(uploads, upload, 0, b"a" * 10)
    opened = os.open

    def refuse(path: Any, *arguments: Any, **named: Any) -> int:
        if str(path).endswith(".json"):
            raise OSError(code, os.strerror(code), path)
        return opened(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with refused(503, r"^What the server knows of the upload cannot be read at the moment \([a-z/ ]+\);"):
            uploads.find(upload.id)
        now += 1e6
        assert uploads.expire() == []
    now -= 1e6
    assert uploads.find(upload.id) == upload
    assert uploads.finished(upload.id).read_bytes() == b"a" * 10


# ---- room


def disk_with(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Disk(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(free))


def test_what_was_promised_to_others_is_not_promised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path / "uploads", reserve_bytes=1000, most_bytes=GB)
    disk_with(11_000, monkeypatch)
    first = uploads.create("anna", 6000, "x")
    with refused(507, "room for 4,000"):
        uploads.create("ben", 4001, "y")
    append(uploads, first, 0, b"a" * 5000)
    disk_with(6000, monkeypatch)
    with refused(507, "room for 4,000"):
        uploads.create("ben", 4001, "y")
    uploads.create("ben", 4000, "y")
    with refused(507, "room for 0"):
        uploads.create("ben", 1, "z")
    uploads.terminate(first)
    uploads.create("ben", 1000, "z")


def test_two_that_are_announced_at_once_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uploads = Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=GB)
    disk_with(10_000, monkeypatch)
    outcomes: list[int] = []

    def announce() -> None:
        try:
            uploads.create("anna", 3000, "x")
            outcomes.append(201)
        except Problem as problem:
            outcomes.append(problem.status)

    threads = [threading.Thread(target=announce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [201] * 3 + [507] * 5


def test_an_owner_has_so_many_bytes_and_so_many_uploads(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    with refused(413, "134,217,728 are taken"):
        uploads.create("anna", 128 * MiB + 1, "x")
    with refused(413, "may have 1,000 together"):
        uploads.create("anna", 1001, "x", most_owned=1000)
    uploads.create("anna", 600, "x", most_owned=1000)
    uploads.create("ben", 600, "x", most_owned=1000)
    with refused(429, "remove one"):
        uploads.create("anna", 401, "x", most_owned=1000)
    uploads.create("anna", 400, "x", most_owned=1000)
    monkeypatch.setattr(module, "MOST_UPLOADS", 2)
    with refused(429, "You have 2 uploads"):
        uploads.create("anna", 0, "x")
    assert MOST_UPLOADS > 100


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_disk_that_refuses_keeps_what_it_took(uploads: Uploads, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if offset >= 150_000:
            raise OSError(code, os.strerror(code))
        return pwrite(handle, data[: 150_000 - offset], offset)

    data = os.urandom(MiB)
    upload = uploads.create("anna", MiB, "x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with refused(507, "what came is kept"):
            append(uploads, upload, 0, data)
    assert uploads.offset(upload) == 150_000
    append(uploads, upload, 150_000, data[150_000:])
    assert uploads.finished(upload.id).read_bytes() == data


def test_a_full_disk_keeps_what_it_took_and_has_room_later(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        uploads = Uploads(disk / "uploads", reserve_bytes=0, most_bytes=GB)
        data = os.urandom(3 * MiB)
        upload = uploads.create("anna", len(data), "x")
        (disk / "other").write_bytes(bytes(2 * MiB))
        with refused(507, "no space left|No space left"):
            append(uploads, upload, 0, data)
        offset = uploads.offset(upload)
        assert 0 < offset < len(data)
        with refused(507):
            uploads.create("anna", MiB, "y")
        with open(disk / "filler", "wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(KiB)):
                pass
        with refused(507):
            uploads.create("anna", 0, "z")
        assert uploads.all() == [upload]
        (disk / "other").unlink()
        (disk / "filler").unlink()
        append(uploads, upload, offset, data[offset:])
        assert uploads.finished(upload.id).read_bytes() == data
        assert names(uploads.folder) == [upload.id, f"{upload.id}.json"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_finished_upload_is_on_the_disk_before_that_is_said(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    upload = uploads.create("anna", 20, "x")
    synced.clear()
    append(uploads, upload, 0, b"a" * 10)
    assert synced == []
    append(uploads, upload, 10, b"a" * 10)
    assert synced == [20]


def test_what_is_said_of_an_upload_is_on_the_disk_before_its_first_byte(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, chunks: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            uploads.create("anna", 20, "x")
    assert uploads.all() == []
    assert uploads.promised() == 0


# ---- claims


def test_a_claim_is_a_link_and_stays_when_the_upload_goes(uploads: Uploads, tmp_path: Path) -> None:
    upload = made(uploads, b"faces" * 100)
    job = tmp_path / "in"
    job.mkdir()
    before = uploads.finished(upload.id).stat().st_mtime_ns
    path = uploads.claim(upload.id, job)
    assert path == job / "clip.mp4"
    assert path.samefile(uploads.finished(upload.id))
    assert path.stat().st_mtime_ns == before
    assert uploads.claim(upload.id, job) == path
    uploads.terminate(upload)
    assert path.read_bytes() == b"faces" * 100
    with refused(404):
        uploads.claim(upload.id, job)


def no_links(source: object, target: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_where_there_are_no_links_a_claim_is_a_copy(
    uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(3 * MiB + 1)
    upload = made(uploads, data)
    job = tmp_path / "in"
    job.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", no_links)
        path = uploads.claim(upload.id, job)
    assert path.read_bytes() == data
    assert not path.samefile(uploads.finished(upload.id))
    assert uploads.claim(upload.id, job) == path
    assert names(job) == ["clip.mp4"]


@pytest.mark.parametrize("links", [True, False])
def test_a_claim_replaces_nothing(
    uploads: Uploads, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = made(uploads, b"ours")
    (tmp_path / "clip.mp4").write_bytes(b"them")
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with refused(409, "Two files are named clip.mp4"):
        uploads.claim(upload.id, tmp_path)
    assert (tmp_path / "clip.mp4").read_bytes() == b"them"


def test_a_claim_needs_a_finished_upload_and_a_folder(uploads: Uploads, tmp_path: Path) -> None:
    upload = uploads.create("anna", 10, "clip.mp4")
    with refused(409, "clip.mp4 is not finished: 0 of 10 bytes"):
        uploads.claim(upload.id, tmp_path)
    with pytest.raises(OutputError, match="could not be made"):
        uploads.claim(made(uploads, b"x").id, tmp_path / "nowhere")


# ---- the janitor


def test_uploads_expire_when_nobody_goes_on_with_them(tmp_path: Path) -> None:
    now = time.time()
    uploads = Uploads(
        tmp_path / "uploads",
        reserve_bytes=0,
        most_bytes=GB,
        unfinished_seconds=100,
        unused_seconds=1000,
        clock=lambda: now,
    )
    unfinished, finished, used = uploads.create("anna", 10, "x"), made(uploads, b"y"), made(uploads, b"z", "z")
    now += 90
    append(uploads, unfinished, 0, b"a")
    os.utime(uploads.folder / unfinished.id, (now, now))
    now += 90
    assert uploads.expire() == []
    now += 20
    assert uploads.expire() == [unfinished]
    path = uploads.claim(used.id, tmp_path)
    os.utime(uploads.folder / f"{used.id}.json", (now, now))
    now += 850
    assert uploads.expire() == [finished]
    now += 500
    assert uploads.expire() == [used]
    assert names(uploads.folder) == []
    assert path.read_bytes() == b"z"


def test_what_is_written_to_does_not_expire(tmp_path: Path) -> None:
    now = time.time()
    uploads = Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=GB, unfinished_seconds=100, clock=lambda: now)
    upload = uploads.create("anna", 10, "x")

    async def slow() -> AsyncIterator[bytes]:
        nonlocal now
        now += 1000
        assert await asyncio.to_thread(uploads.expire) == []
        yield b"a" * 10

    assert asyncio.run(uploads.append(upload, 0, slow())) == 10


def test_what_a_kill_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    now = time.time()
    uploads = Uploads(tmp_path / "uploads", reserve_bytes=0, most_bytes=GB, unfinished_seconds=100, clock=lambda: now)
    upload, bereft = uploads.create("anna", 10, "x"), uploads.create("anna", 10, "x")
    (uploads.folder / bereft.id).unlink()
    for name in ("0" * 32, f"{'1' * 32}.json", f".{'2' * 32}.json.12-abcdef01.tmp"):
        (uploads.folder / name).touch()
    uploads.expire()
    assert len(names(uploads.folder)) == 6
    assert uploads.promised() == 10
    now += 99
    append(uploads, upload, 0, b"a")
    os.utime(uploads.folder / upload.id, (now, now))
    now += 10
    uploads.expire()
    assert names(uploads.folder) == [upload.id, f"{upload.id}.json"]


# ---- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("clip 1 (été).MP4", "clip 1 (été).MP4"),
        ("Screen Recording at 10.11.12\u202fAM.mov", "Screen Recording at 10.11.12\u202fAM.mov"),
        ("e\u0301te\u0301\u3000映画.mkv", "e\u0301te\u0301\u3000映画.mkv"),
        ("-rf", "-rf"),
        ("a..b", "a..b"),
        ("../../etc/passwd", "passwd"),
        ("C:\\clips\\a.mp4", "a.mp4"),
        ("a/", "upload"),
        ("", "upload"),
        (" ", "upload"),
        (".", "upload"),
        ("..", "upload"),
        ("...mp4", "mp4"),
        (".gpu-extract.journal", "gpu-extract.journal"),
        ("a\0b\nc\x1b[2Jd\x7f.mp4", "a_b_c_[2Jd_.mp4"),
        ("\u202e4pm.exe", "_4pm.exe"),
        ("a\u2028b\udc80", "a_b_"),
        ("NUL", "_NUL"),
        ("con .mp4", "_con .mp4"),
        ("lpt1.tar.gz", "_lpt1.tar.gz"),
        ("console.mp4", "console.mp4"),
    ],
)
def test_a_name_is_kept_where_it_is_harmless(text: str, name: str) -> None:
    assert safe_name(text) == name
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "text", ["é" * 300 + ".mp4", "x" * 199 + "é.mp4", "a." + "b" * 500, "映" * 100, "." * 9 + "x" * 400]
)
def test_a_long_name_keeps_its_extension(text: str) -> None:
    name = safe_name(text)
    assert MOST_BYTES - 3 <= len(name.encode()) <= MOST_BYTES
    assert text.endswith(".mp4") == name.endswith(".mp4")
    assert safe_name(name) == name


# ---- over HTTP

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from tests.door import Answer, ask, door, served  # noqa: E402

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def announce(port: int, length: int, name: str = "clip.mp4", **headers: str) -> str:
    """The upload's path."""
    said = {**TUS, "Upload-Length": str(length), "Upload-Metadata": f"filename {encoded(name)},filetype", **headers}
    answer = ask(port, "POST", "/v1/uploads", said)
    assert answer.status == 201, answer.body
    return str(answer.headers["Location"])


def send(port: int, path: str, offset: int, data: Any) -> Answer:
    return ask(port, "PATCH", path, {**BYTES, "Upload-Offset": str(offset)}, data)


def offset_of(port: int, path: str) -> int:
    answer = ask(port, "HEAD", path, TUS)
    assert answer.status == 200
    return int(answer.headers["Upload-Offset"])


@pytest.fixture
def port(uploads: Uploads) -> Iterator[int]:
    with served(door(uploads, idle_seconds=0.5)) as port:
        yield port


def test_the_way_of_an_upload_in_words_of_tus(port: int, uploads: Uploads) -> None:
    spoken = ask(port, "OPTIONS", "/v1/uploads")
    assert spoken.status == 204
    assert spoken.headers["Tus-Version"] == "1.0.0"
    assert spoken.headers["Tus-Extension"] == "creation,termination,expiration"
    assert spoken.headers["Tus-Max-Size"] == str(128 * MiB)
    path = announce(port, 20, "été.mp4")
    looked = ask(port, "HEAD", path, TUS)
    assert looked.status == 200
    assert looked.headers["Upload-Length"] == "20"
    assert looked.headers["Upload-Metadata"] == f"filename {encoded('été.mp4')},filetype"
    assert looked.headers["Cache-Control"] == "no-store"
    expires = parsedate_to_datetime(looked.headers["Upload-Expires"]).timestamp()
    assert abs(expires - time.time() - 24 * 3600) < 60
    sent = send(port, path, 0, b"a" * 15)
    assert (sent.status, sent.headers["Upload-Offset"]) == (204, "15")
    assert "Upload-Expires" in sent.headers
    [listed] = ask(port, "GET", "/v1/uploads").json
    assert (listed["name"], listed["owner"], listed["length"], listed["offset"]) == ("été.mp4", "local", 20, 15)
    sent = send(port, path, 15, iter([b"b" * 5]))
    assert (sent.status, sent.headers["Upload-Offset"]) == (204, "20")
    assert "Upload-Expires" not in sent.headers
    assert uploads.finished(path.rpartition("/")[2]).read_bytes() == b"a" * 15 + b"b" * 5
    gone = ask(port, "DELETE", path, TUS)
    assert gone.status == 204
    for answer in (looked, sent, gone, spoken, ask(port, "HEAD", path, TUS), send(port, path, 0, b"")):
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert ask(port, "DELETE", path, TUS).status == 404
    assert names(uploads.folder) == []


@pytest.mark.parametrize("said", [None, "", "0.2.2", "1.0.0, 1.0.0", "x" * 1000])
def test_another_version_of_tus_is_refused(port: int, said: str | None) -> None:
    path = announce(port, 20)
    headers = {"Upload-Length": "1"} if said is None else {"Upload-Length": "1", "Tus-Resumable": said}
    for method, where in (("POST", "/v1/uploads"), ("HEAD", path), ("PATCH", path), ("DELETE", path)):
        answer = ask(port, method, where, headers)
        assert answer.status == 412
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert len(ask(port, "GET", "/v1/uploads").json) == 1


@pytest.mark.parametrize("length", ["", "-1", "1.5", "1e3", "0x10", " ", "9" * 19, "9" * 4500, "\xb2"])
def test_a_length_or_offset_that_is_no_number_is_refused(port: int, length: str) -> None:
    answer = ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Length": length})
    assert answer.status == 400
    assert "whole number" in answer.detail
    path = announce(port, 20)
    assert ask(port, "PATCH", path, {**BYTES, "Upload-Offset": length}, b"a").status == 400
    assert ask(port, "PATCH", path, BYTES, b"a").status == 400
    assert offset_of(port, path) == 0


def test_a_length_must_be_said_and_be_one_that_is_taken(port: int) -> None:
    assert ask(port, "POST", "/v1/uploads", TUS).status == 400
    assert ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Defer-Length": "1"}).status == 400
    assert ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Length": str(128 * MiB + 1)}).status == 413


@pytest.mark.parametrize(
    "said", ["filename !!!", "filename YQ", "filename /w==", "filename YQ== YQ==", "a " + "A" * 5000]
)
def test_metadata_that_is_none_is_refused(port: int, said: str) -> None:
    answer = ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Length": "1", "Upload-Metadata": said})
    assert answer.status == 400
    assert "Upload-Metadata" in answer.detail
    assert ask(port, "GET", "/v1/uploads").json == []


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (f"filename {encoded('../../x')}", "x"),
        (f"filename {encoded(chr(0))}", "_"),
        (f" a , filename {encoded('y')},", "y"),
        ("filename", "upload"),
        ("", "upload"),
        (",,,", "upload"),
        (f"filename {encoded('z' * 3000)}", "z" * 200),
    ],
)
def test_names_in_metadata_are_made_harmless(port: int, said: str, name: str) -> None:
    answer = ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Length": "1", "Upload-Metadata": said})
    assert answer.status == 201
    [listed] = ask(port, "GET", "/v1/uploads").json
    assert listed["name"] == name


def test_what_is_sent_must_be_of_the_right_type_and_to_the_right_place(port: int) -> None:
    path = announce(port, 20)
    for kind in ("application/json", "application/octet-stream", ""):
        answer = ask(port, "PATCH", path, {**TUS, "Content-Type": kind, "Upload-Offset": "0"}, b"a")
        assert answer.status == 415
    conflict = send(port, path, 5, b"a")
    assert conflict.status == 409
    assert "at 0, not at 5" in conflict.detail
    for place in ("0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "x"):
        assert send(port, f"/v1/uploads/{place}", 0, b"a").status == 404
    assert offset_of(port, path) == 0


def test_more_than_was_announced_is_refused_over_http(port: int, uploads: Uploads) -> None:
    path = announce(port, 20)
    answer = send(port, path, 0, b"a" * 300_000)
    assert answer.status == 413
    assert offset_of(port, path) == 20


def test_uploads_are_their_owners_and_an_admins(uploads: Uploads, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    secrets = {
        name: Tokens.make(file, name, [scope], bytes=limit)
        for name, scope, limit in (
            ("anna", "submit", 100),
            ("ben", "submit", None),
            ("root", "admin", None),
            ("eve", "read", None),
        )
    }
    with served(door(uploads, Tokens.load(file))) as port:
        of = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
        path = announce(port, 90, **of["anna"])
        assert ask(port, "POST", "/v1/uploads", {**TUS, **of["anna"], "Upload-Length": "11"}).status == 429
        assert ask(port, "POST", "/v1/uploads", {**TUS, **of["anna"], "Upload-Length": "101"}).status == 413
        assert ask(port, "POST", "/v1/uploads", {**TUS, **of["eve"], "Upload-Length": "1"}).status == 403
        stranger = ask(port, "POST", "/v1/uploads", {**TUS, "Upload-Length": "1"})
        assert stranger.status == 401
        for method in ("HEAD", "PATCH", "DELETE"):
            headers = {**BYTES, "Upload-Offset": "0"}
            answer = ask(port, method, path, {**headers, **of["ben"]}, b"x" if method == "PATCH" else None)
            assert answer.status == 404
            assert ask(port, method, path, headers).status == 401
        assert ask(port, "GET", "/v1/uploads", of["ben"]).json == []
        for name in ("anna", "root"):
            assert [upload["owner"] for upload in ask(port, "GET", "/v1/uploads", of[name]).json] == ["anna"]
            assert ask(port, "HEAD", path, {**TUS, **of[name]}).status == 200
        assert ask(port, "DELETE", path, {**TUS, **of["root"]}).status == 204


def begun(port: int, path: str, length: int, data: bytes, offset: int = 0) -> socket.socket:
    """A connection whose PATCH has said it brings more than it does."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    words = {**BYTES, "Host": "localhost", "Upload-Offset": str(offset), "Content-Length": str(length)}
    head = "".join(f"{name}: {value}\r\n" for name, value in words.items())
    connection.sendall(f"PATCH {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
    return connection


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_two_requests_that_write_at_once_the_second_is_told_to_wait(uploads: Uploads) -> None:
    with served(door(uploads)) as port:
        path = announce(port, 4 * MiB)
        file = uploads.folder / path.rpartition("/")[2]
        with closing(begun(port, path, 4 * MiB, b"a" * (2 * MiB))) as connection:
            wait_for(lambda: file.stat().st_size >= MiB)
            answer = send(port, path, file.stat().st_size, b"b" * 1000)
            assert answer.status == 423
            assert ask(port, "DELETE", path, TUS).status == 423
            connection.sendall(b"a" * (2 * MiB))
            assert connection.recv(100).startswith(b"HTTP/1.1 204")
        assert set(file.read_bytes()) == set(b"a")


def test_a_client_that_falls_silent_gives_the_upload_back(port: int, uploads: Uploads) -> None:
    path = announce(port, 1000)
    with closing(begun(port, path, 1000, b"a" * 400)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 408")
    assert offset_of(port, path) == 400
    assert send(port, path, 400, b"b" * 600).status == 204


def test_a_cut_connection_keeps_what_came(uploads: Uploads) -> None:
    with served(door(uploads)) as port:
        data = os.urandom(4 * MiB)
        path = announce(port, len(data))
        file = uploads.folder / path.rpartition("/")[2]
        with closing(begun(port, path, len(data), data[: 2 * MiB + 12345])):
            wait_for(lambda: file.stat().st_size >= MiB)
        wait_for(lambda: send(port, path, len(data), b"").status == 409)  # not 423: the request has ended
        offset = offset_of(port, path)
        assert file.read_bytes() == data[:offset]
        assert send(port, path, offset, data[offset:]).status == 204
        assert file.read_bytes() == data


def test_slow_clients_hold_nothing_but_themselves(uploads: Uploads) -> None:
    with served(door(uploads)) as port:
        slow = [begun(port, announce(port, 1000), 1000, b"a") for _ in range(60)]
        try:
            begin = time.monotonic()
            data = os.urandom(4 * MiB)
            path = announce(port, len(data))
            assert send(port, path, 0, data).status == 204
            assert time.monotonic() - begin < 5
        finally:
            for connection in slow:
                connection.close()


# ---- kills and cuts


class Process:
    """A server in a process of its own, to be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.door", str(self.folder), str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment)
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            return ask(self.port, "GET", "/v1/healthz").status == 200
        except OSError:
            return False

    def most_memory(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * KiB for line in status.splitlines() if line.startswith("VmHWM"))

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "uploads")
    yield process
    process.kill()


def test_a_server_that_is_killed_at_any_moment_goes_on_with_equal_bytes(process: Process) -> None:
    data = os.urandom(64 * MiB)
    path = announce(process.port, len(data))
    file = process.folder / path.rpartition("/")[2]
    for share in (0.1, 0.5, 0.9):
        offset = offset_of(process.port, path)
        with closing(begun(process.port, path, len(data) - offset, b"", offset)) as connection:
            connection.sendall(data[offset : int(len(data) * share)])
            process.kill()
        came = file.stat().st_size
        assert file.read_bytes() == data[:came]
        process.start()
        assert offset_of(process.port, path) == came
    assert came > 0.5 * len(data)
    assert send(process.port, path, came, data[came:]).status == 204
    assert file.read_bytes() == data
    assert process.most_memory() < 150 * MiB


class CuttingProxy:
    """Hands bytes on, and cuts the connection behind so many of them."""

    def __init__(self, target: int, after: int) -> None:
        self._target, self._after = target, after
        self.cuts = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                near = self._server.accept()[0]
            except OSError:
                return
            with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as far:
                answers = threading.Thread(target=self._hand_back, args=(far, near))
                answers.start()
                left = self._after
                with suppress(OSError):
                    while left and (data := near.recv(min(left, 1 << 18))):
                        far.sendall(data)
                        left -= len(data)
                self.cuts += not left
                for end in (near, far):
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                answers.join()

    @staticmethod
    def _hand_back(far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while data := far.recv(1 << 16):
                near.sendall(data)
            near.shutdown(socket.SHUT_RDWR)


def send_through(port: int, path: str, source: Path, before_each: Callable[[int], None] = lambda offset: None) -> int:
    """What a client does: send the rest, and after a cut ask how much came. Returns how often it had to send."""
    length = source.stat().st_size
    for times in range(1000):
        try:
            offset = offset_of(port, path)
            if offset == length:
                return times
            before_each(offset)
            with open(source, "rb") as file:
                file.seek(offset)
                words = {**BYTES, "Upload-Offset": str(offset), "Content-Length": str(length - offset)}
                ask(port, "PATCH", path, words, file)
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)
    raise AssertionError("the upload did not end")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_an_upload_comes_through_a_proxy_that_cuts(process: Process, tmp_path: Path) -> None:
    source = tmp_path / "clip"
    source.write_bytes(os.urandom(64 * MiB))
    with CuttingProxy(process.port, 15 * MiB) as proxy:
        path = announce(proxy.port, 64 * MiB)
        send_through(proxy.port, path, source)
        assert proxy.cuts >= 4
    assert sha256_of(process.folder / path.rpartition("/")[2]) == sha256_of(source)


@pytest.mark.slow
def test_ten_gigabytes_come_through_cuts_and_kills_in_little_memory(process: Process, tmp_path: Path) -> None:
    source = tmp_path / "clip"
    with open(source, "wb") as file:
        for begin in range(0, 10 * GB, GB):
            file.seek(begin)
            file.write(os.urandom(MiB))
        file.truncate(10 * GB)
    memory: list[int] = []
    kills: list[threading.Timer] = []

    def kill() -> None:
        process.kill()
        process.start()

    def kill_twice(offset: int) -> None:
        memory.append(process.most_memory())
        if len(kills) < 2 and offset > (len(kills) + 1) * 3 * GB:
            kills.append(threading.Timer(0.5, kill))
            kills[-1].start()

    with CuttingProxy(process.port, 700 * 10**6) as proxy:
        path = announce(proxy.port, 10 * GB)
        send_through(proxy.port, path, source, kill_twice)
        assert proxy.cuts >= 10
    for timer in kills:
        timer.join()
    memory.append(process.most_memory())
    assert len(kills) == 2
    assert sha256_of(process.folder / path.rpartition("/")[2]) == sha256_of(source)
    print(f"{max(memory) / MiB:.0f} MiB at most")
    assert max(memory) < 100 * MiB
