"""Jobs whose inputs and outputs lie in buckets: the same results, whatever is lost on the way; nothing overwritten."""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_extract
from gpu_extract.cli import main
from gpu_extract.errors import AlignmentsChangedError, GpuExtractError, OutputError, UsageError
from gpu_extract.face_files.layouts import flat
from gpu_extract.jobs.runs import outbox, processes
from gpu_extract.naming import Url, located, url_of
from gpu_extract.options import Settings
from gpu_extract.run import journal
from gpu_extract.run.shard import Shard
from gpu_extract.storage import parts
from gpu_extract.stores import cache, open_store
from gpu_extract.stores.base import ChangedError
from gpu_extract.stores.probe import probe
from tests.fake_s3 import FakeS3
from tests.helpers import by_the_long_way, files_in
from tests.staged import FRAMES, Place, Whole, assert_same, files_in_all, make_job, merged, run

NEEDS_OBSTORE = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="needs obstore")
KINDS = [pytest.param("s3", marks=NEEDS_OBSTORE), "file"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: FakeS3 = request.getfixturevalue("s3")
        return in_bucket(server)
    root = tmp_path / "store"

    def put(name: str, data: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return Place(f"file://{root}", lambda prefix: files_in_all(root / prefix), put)


def in_bucket(server: FakeS3) -> Place:
    return Place(
        "s3://bucket",
        lambda prefix: server.below(f"bucket/{prefix}"),
        lambda name, data: server.objects.__setitem__(f"bucket/{name}", data),
    )


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Whole]:
    return partial(make_job, tmp_path / "whole", landmarks)


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
def test_a_run_between_buckets_is_the_run_on_the_disk(place: Place, job: Callable[..., Whole], layout: str) -> None:
    whole = job(output_layout=layout, metadata="jsonl")
    whole.put_into(place)
    report = run(whole, place)
    assert report.exit_code == 0
    assert report.faces_folder == place.url("faces")
    assert (report.backup or "").startswith(place.url("in/a_"))
    assert_same(place, whole)


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_a_copy_of_the_prefix_is_a_faces_folder(place: Place, job: Callable[..., Whole], tmp_path: Path) -> None:
    whole = job(metadata="jsonl")
    whole.put_into(place)
    run(whole, place)
    words = ["-a", whole.alignments, "-fr", whole.frames, "-fc", tmp_path / "store" / "faces", "--progress", "none"]
    assert main(["verify", *map(str, words)]) == 0


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("kind", ["video", "folder"])
def test_names_are_kept_as_they_are(place: Place, job: Callable[..., Whole], kind: str) -> None:
    whole = job(kind, "ein Täg%20#1+&=?", metadata="jsonl")
    whole.put_into(place)
    assert run(whole, place).exit_code == 0
    assert_same(place, whole)


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("layout", ["flat", "by-frame"])
def test_shards_of_many_machines_merged_are_the_run(
    place: Place, job: Callable[..., Whole], layout: str, tmp_path: Path
) -> None:
    whole = job(output_layout=layout, metadata="jsonl")
    whole.put_into(place)
    for number in (2, 0, 2):
        report = run(whole, place, shard=f"{number}/3", resume=True, cache=tmp_path / f"machine {number}")
        assert report.exit_code == 0
    unfinished = merged(whole, place)
    assert unfinished.exit_code == 4
    assert unfinished.shards_missing == ["1/3"]
    assert place.objects("in")["a.fsa"] == whole.before
    assert run(whole, place, shard="1/3").exit_code == 0
    assert merged(whole, place, cache=tmp_path / "another machine").exit_code == 0
    assert_same(place, whole)
    everything = place.objects("faces"), place.objects("in")
    assert merged(whole, place).exit_code == 0
    assert (place.objects("faces"), place.objects("in")) == everything


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_shards_in_archives(place: Place, job: Callable[..., Whole]) -> None:
    whole = job(output_layout="webdataset")
    whole.put_into(place)
    for number in range(2):
        assert run(whole, place, shard=f"{number}/2").exit_code == 0
    assert merged(whole, place).exit_code == 0
    assert place.objects("in")["a.fsa"] == whole.after
    assert [name for name in place.faces("faces") if name.endswith(".tar")]


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_run_in_processes_is_staged_once(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    whole.put_into(place)
    assert run(whole, place, processes=2).exit_code == 0
    assert_same(place, whole)


@NEEDS_OBSTORE
def test_shards_of_processes_are_not_lost_with_their_machine(
    s3: FakeS3, job: Callable[..., Whole], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(outbox, "RECEIPTS_SECONDS", 0.0)
    monkeypatch.setattr(processes, "SHARD_SECONDS", 1e-6)
    monkeypatch.setattr(processes, "MOST_SHARDS_EACH", 2)
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    lost = False

    def lose(method: str, key: str) -> int | None:
        nonlocal lost
        status = 403 if lost else None
        lost = lost or "journal" in key
        return status

    s3.before = lose
    with pytest.raises(GpuExtractError):
        run(whole, place, processes=2)
    s3.before = lambda method, key: None
    (receipt,) = [name for name in place.objects("faces") if journal.shard_of(name)]
    done = {face.file_name for frame in place.told("faces", receipt).finished.values() for face in frame.faces}
    assert done
    s3.requests.clear()
    assert run(whole, place, processes=2, resume=True, cache=tmp_path / "elsewhere").exit_code == 0
    assert not [key for method, key in s3.requests if method == "PUT" and key.removeprefix("bucket/faces/") in done]
    assert_same(place, whole)


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_only_some_places_may_be_in_a_bucket(place: Place, job: Callable[..., Whole], tmp_path: Path) -> None:
    whole = job()
    whole.put_into(place)
    here = tmp_path / "here"
    report = gpu_extract.extract(place.url("in/a.fsa"), whole.frames, here, **whole.settings)
    assert report.exit_code == 0
    assert files_in(here) == whole.files
    assert place.objects("in")["a.fsa"] == whole.after
    whole.alignments.write_bytes(whole.before)
    assert gpu_extract.extract(whole.alignments, whole.frames, place.url("there"), **whole.settings).exit_code == 0
    assert place.faces("there") == whole.files
    assert whole.alignments.read_bytes() == whole.after


@pytest.mark.parametrize("place", KINDS, indirect=True)
@pytest.mark.parametrize("shard", [None, "0/1"])
def test_what_was_interrupted_goes_on_elsewhere(
    place: Place, job: Callable[..., Whole], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str | None
) -> None:
    whole = job()
    whole.put_into(place)
    cancel = threading.Event()
    frames: list[str] = []
    write_file = parts.write_file

    def write_slowly(folder: Path, name: str, data: bytes) -> None:
        time.sleep(0.04)
        write_file(folder, name, data)

    def listen(event: Any) -> None:
        if isinstance(event, gpu_extract.FrameDone):
            frames.append(event.frame)
            if len(frames) == 4:
                cancel.set()

    by_the_long_way(monkeypatch)
    monkeypatch.setattr(flat, "write_file", write_slowly)
    first = run(whole, place, shard=shard, progress=listen, cancel=cancel, workers=1)
    assert first.exit_code == 130
    name = journal.name_of(None if shard is None else Shard.of(shard))
    done = len(place.told("faces", name).finished)
    assert 4 <= done < FRAMES
    frames.clear()
    cancel.clear()
    monkeypatch.setattr(flat, "write_file", write_file)
    second = run(whole, place, shard=shard, resume=True, progress=listen, cache=tmp_path / "elsewhere")
    assert second.exit_code == 0
    assert len(frames) == FRAMES - done
    assert merged(whole, place).exit_code == 0
    assert_same(place, whole)


@NEEDS_OBSTORE
@pytest.mark.parametrize("part", ["whole", "shard", "merge"])
def test_a_machine_may_be_lost_at_any_request(s3: FakeS3, job: Callable[..., Whole], part: str, tmp_path: Path) -> None:
    """From some request on, the bucket hears nothing more of it; another machine does the same again."""
    whole = job(metadata="jsonl")
    place = in_bucket(s3)

    def prepare() -> None:
        s3.objects.clear()
        s3.before = lambda method, key: None
        whole.put_into(place)
        if part == "merge":
            for number in range(2):
                run(whole, place, shard=f"{number}/2")

    def work(machine: str) -> gpu_extract.Report:
        if part == "merge":
            return merged(whole, place, cache=tmp_path / machine)
        shard = "0/1" if part == "shard" else None
        return run(whole, place, shard=shard, resume=True, cache=tmp_path / machine)

    total = left = 0

    def count(method: str, key: str) -> None:
        nonlocal total
        total += 1

    def lose(method: str, key: str) -> int | None:
        nonlocal left
        left -= 1
        return 403 if left < 0 else None

    prepare()
    s3.before = count
    assert work("all").exit_code == 0
    assert total > 12
    for lost_at in range(0, total, 1 if os.environ.get("RUN_SLOW") == "1" else 8):
        prepare()
        left = lost_at
        s3.before = lose
        with pytest.raises(GpuExtractError):
            work(f"lost at {lost_at}")
        for name in place.objects("faces"):
            if name == journal.NAME or journal.shard_of(name):
                faces = [face for frame in place.told("faces", name).finished.values() for face in frame.faces]
                assert all(len(place.objects("faces")[face.file_name]) == face.nbytes for face in faces)
        s3.before = lambda method, key: None
        for name in list(place.objects("faces")):
            if "probe" in name:
                del s3.objects[f"bucket/faces/{name}"]
        assert work(f"after {lost_at}").exit_code == 0
        if part == "shard":
            assert merged(whole, place).exit_code == 0
        assert_same(place, whole)


@NEEDS_OBSTORE
def test_a_journal_comes_after_all_that_it_names(s3: FakeS3, job: Callable[..., Whole]) -> None:
    whole = job(metadata="jsonl")
    place = in_bucket(s3)
    whole.put_into(place)
    seen = []

    def look(method: str, key: str) -> None:
        if method == "PUT" and ".journal" in key:
            seen.append((key, place.faces("faces")))

    s3.before = look
    run(whole, place)
    assert [(key, faces) for key, faces in seen] == [("bucket/faces/.gpu-extract.journal", whole.files)]
    names = [key for method, key in s3.requests if method == "PUT"]
    assert names.index("bucket/faces/.gpu-extract.run") < min(
        names.index(f"bucket/faces/{name}") for name in whole.files
    )
    assert names[-1] == "bucket/in/a.fsa"


@NEEDS_OBSTORE
def test_of_two_merges_one_saves_and_the_other_finds_it_saved(s3: FakeS3, job: Callable[..., Whole]) -> None:
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    for number in range(2):
        run(whole, place, shard=f"{number}/2")
    together = threading.Barrier(2)

    def wait(method: str, key: str) -> None:
        if method == "PUT" and key == "bucket/in/a.fsa":
            together.wait(20)

    s3.before = wait
    codes: list[int] = []

    def one(machine: Path) -> None:
        codes.append(merged(whole, place, cache=machine, cancel=threading.Event()).exit_code)

    threads = [threading.Thread(target=one, args=(whole.folder / f"cache {i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert_same(place, whole)


@NEEDS_OBSTORE
@pytest.mark.parametrize("command", ["merge", "extract"])
def test_an_alignments_file_that_changed_meanwhile_is_left_alone(
    s3: FakeS3, job: Callable[..., Whole], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    if command == "merge":
        for number in range(2):
            run(whole, place, shard=f"{number}/2")

    def change(method: str, key: str) -> None:
        if method == "PUT" and key == "bucket/in/a.fsa":
            s3.objects[key] = b"another program's"

    s3.before = change
    words = ["-a", place.url("in/a.fsa"), "-fr", place.url("in/clip.mp4"), "-fc", place.url("faces")]
    more = ["--device", "cpu", "--progress", "none", *(["-sz", "32"] if command == "extract" else [])]
    assert main([command, *words, *more]) == AlignmentsChangedError.exit_code == 7
    inside = place.objects("in")
    assert inside.pop("a.fsa") == b"another program's"
    inside.pop("clip.mp4")
    (name,) = inside
    assert name.startswith("a_unsaved_")
    assert inside[name] == whole.after
    assert f"what was to be saved is in {name}" in capsys.readouterr().err


@NEEDS_OBSTORE
@pytest.mark.parametrize("honoured", [set(), {"If-Match"}, {"If-None-Match"}])
def test_an_endpoint_that_ignores_conditions_is_refused_before_any_work(
    s3: FakeS3, job: Callable[..., Whole], honoured: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    before = dict(s3.objects)
    s3.honours = honoured
    with pytest.raises(OutputError, match=r"nothing is written to s3://bucket/faces, .*ignored.*conditional puts"):
        run(whole, place)
    with pytest.raises(OutputError, match="nothing is written to s3://bucket/in,"):
        gpu_extract.extract(place.url("in/a.fsa"), whole.frames, whole.folder / "here", **whole.settings)
    with pytest.raises(OutputError, match="nothing is written"):
        merged(whole, place)
    assert s3.objects == before
    assert not [key for _, key in s3.requests if "clip.mp4" in key]
    assert main(["doctor", "--store", "s3://bucket/faces"]) == 6
    said = capsys.readouterr().out
    assert "ignored" in said
    assert "nothing is written there" in said
    assert s3.objects == before
    report = gpu_extract.extract(
        place.url("in/a.fsa"), whole.frames, whole.folder / "here", no_update=True, **whole.settings
    )
    assert report.exit_code == 0


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_doctor_proves_conditions(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", place.url("some/where")]) == 0
    said = capsys.readouterr().out
    assert "create-only (If-None-Match) honoured, unchanged-only (If-Match) honoured" in said
    assert not place.objects("some")
    assert main(["doctor", "--store", "some/where"]) == 2


@NEEDS_OBSTORE
def test_a_video_is_fetched_once_for_all_shards_in_ranges_of_one_version(
    s3: FakeS3, job: Callable[..., Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RANGE_BYTES", 1000)
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    for number in range(2):
        run(whole, place, shard=f"{number}/2")
    ranges = -(-whole.frames.stat().st_size // 1000)
    assert ranges > 3
    assert s3.requests.count(("GET", "bucket/in/clip.mp4")) == ranges
    merged(whole, place)
    assert s3.requests.count(("GET", "bucket/in/clip.mp4")) == ranges
    assert_same(place, whole)


@NEEDS_OBSTORE
def test_a_video_that_changes_while_it_is_fetched_is_noticed(
    s3: FakeS3, job: Callable[..., Whole], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "RANGE_BYTES", 1000)
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)

    def change(method: str, key: str) -> None:
        if method == "GET" and s3.requests.count((method, key)) == 3:
            s3.objects["bucket/in/clip.mp4"] += b"more"

    s3.before = change
    with pytest.raises(ChangedError, match=r"s3://bucket/in/clip.mp4 was changed while it was read; run the command"):
        run(whole, place)
    s3.before = lambda method, key: None
    place.put("in/clip.mp4", whole.frames.read_bytes())
    assert run(whole, place).exit_code == 0
    assert_same(place, whole)


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_what_is_somebody_elses_is_not_written_over(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    whole.put_into(place)
    place.put("faces/holiday.png", b"mine")
    for options in ({}, {"resume": True}, {"shard": "0/2"}):
        with pytest.raises(OutputError, match=r"faces is not empty \(it holds 'holiday.png'\)"):
            run(whole, place, **options)
    assert place.objects("faces") == {"holiday.png": b"mine"}
    run(whole, place, "others", shard="0/2")
    before = place.objects("others")
    with pytest.raises(UsageError, match="size was 32 and is now 48"):
        run(whole, place, "others", shard="1/2", size=48)
    with pytest.raises(OutputError, match="others holds a shard of 2, and this is 0/3"):
        run(whole, place, "others", shard="0/3")
    with pytest.raises(OutputError, match="others holds an earlier try of shard 0/2; add --resume"):
        run(whole, place, "others", shard="0/2")
    with pytest.raises(OutputError, match=r"others holds shards of a run \(1 of 2\)"):
        run(whole, place, "others")
    assert place.objects("others") == before


@NEEDS_OBSTORE
def test_a_shard_that_two_machines_cut_has_one_receipt(s3: FakeS3, job: Callable[..., Whole]) -> None:
    whole = job()
    place = in_bucket(s3)
    whole.put_into(place)
    receipt = "bucket/faces/.gpu-extract.journal.0-of-2"
    run(whole, place, shard="0/2")
    first = s3.objects.pop(receipt)

    def other_is_first(method: str, key: str) -> None:
        if method == "PUT" and key == receipt:
            s3.objects[receipt] = first

    s3.before = other_is_first
    assert run(whole, place, shard="0/2").exit_code == 0
    assert s3.objects[receipt] == first


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_faces_that_were_deleted_stay_out(place: Place, job: Callable[..., Whole], s3: FakeS3, tmp_path: Path) -> None:
    whole = job()
    whole.put_into(place)
    run(whole, place)
    name = min(whole.files)
    if place.root.startswith("s3"):
        del s3.objects[f"bucket/faces/{name}"]
    else:
        (tmp_path / "store" / "faces" / name).unlink()
    again = run(whole, place, resume=True)
    assert again.faces_left_out == 1
    assert name not in place.faces("faces")
    assert run(whole, place, resume=True, deleted="restore").exit_code == 0
    assert place.faces("faces") == whole.files


def test_a_journal_cannot_lead_out_of_its_folder(tmp_path: Path, job: Callable[..., Whole]) -> None:
    whole = job()
    root = tmp_path / "store"
    place = Place(f"file://{root}", lambda prefix: files_in_all(root / prefix), lambda name, data: None)
    entries = [{"journal": 1, "settings": {}}, {"frame": 0, "faces": [[0, 0, "../../x.png", "0" * 40, 4]]}]
    (root / "faces").mkdir(parents=True)
    (root / "faces" / journal.NAME).write_bytes(b"".join(map(journal.line, entries)))
    (root / "in").mkdir()
    (root / "in" / "a.fsa").write_bytes(whole.before)
    with pytest.raises(OutputError, match="which leads out of it"):
        merged(whole, place)


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_what_is_missing_is_named_by_its_address(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    with pytest.raises(GpuExtractError, match=r"in/a\.fsa does not exist; check its name and bucket"):
        run(whole, place)
    place.put("in/a.fsa", whole.before)
    with pytest.raises(GpuExtractError, match=r"in/clip\.mp4 do not exist, as one object or several"):
        run(whole, place)
    place.put("in/clip.mp4", whole.frames.read_bytes())
    with pytest.raises(GpuExtractError, match=f"there is no faces folder {place.url('faces')}"):
        merged(whole, place)
    place.put("in/a.fsa", b"nothing of the kind")
    with pytest.raises(GpuExtractError) as caught:
        run(whole, place)
    assert "at-work" not in str(caught.value)


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_dry_run_writes_nothing(place: Place, job: Callable[..., Whole]) -> None:
    whole = job()
    whole.put_into(place)
    before = place.objects("")
    assert run(whole, place, dry_run=True).faces_planned == len(whole.files)
    assert place.objects("") == before


def test_nothing_is_left_at_work(tmp_path: Path, job: Callable[..., Whole]) -> None:
    whole = job()
    root = tmp_path / "store"
    left = tmp_path / "cache" / "gpu-extract" / "at-work" / "of-a-killed-process"
    left.mkdir(parents=True)
    report = gpu_extract.extract(whole.alignments, whole.frames, f"file://{root}/faces", **whole.settings)
    assert report.exit_code == 0
    assert not list(left.parent.iterdir())


def test_addresses() -> None:
    assert url_of("s3://bucket/a/b.fsa") == Url("s3", "bucket", "a/b.fsa")
    assert str(located("S3://bucket/a//".removesuffix("/"))) == "s3://bucket/a"
    assert url_of("a/b") is None
    assert located("a//b") == Path("a/b")
    for wrong in ("s3://", "s3://b", "s3:///k", "s3://b/a//c", "gs://b/../c", "http://host/x", "file://x/y"):
        with pytest.raises(UsageError, match="is not understood: "):
            url_of(wrong)
    settings = Settings(alignments="s3://b/a.fsa", frames="clip.mp4", faces="az://c/faces/")  # type: ignore[arg-type]
    assert {name: str(url) for name, url in settings.urls.items()} == {
        "alignments": "s3://b/a.fsa",
        "faces": "az://c/faces",
    }


def test_without_obstore_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.stores import bucket

    monkeypatch.setattr(bucket, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"s3://b/a needs obstore; install gpu-extract\[cloud\]"):
        open_store(Url("s3", "b", "a"))


def test_commands_that_bring_nothing_refuse_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-a", "s3://b/a.fsa", "-fr", "clip.mp4"]) == 2
    assert main(["verify", "-a", "a.fsa", "-fr", "clip.mp4", "-fc", "s3://b/faces"]) == 2
    said = capsys.readouterr().err
    assert "check reads paths of this machine only; copy s3://b/a.fsa here first." in said
    assert "verify reads paths of this machine only; copy s3://b/faces here first." in said


@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_the_contract_of_stores(place: Place, tmp_path: Path) -> None:
    url = url_of(place.url("some/prefix"))
    assert url is not None
    store = open_store(url)
    key = url.below("one").key
    assert store.head(key) is None
    assert store.read(key) is None
    first = store.create(key, b"12345")
    assert first is not None
    assert store.create(key, b"other") is None
    found = store.read(key)
    assert found is not None
    data, entry = found
    assert (data, entry.size, entry.key) == (b"12345", 5, key)
    assert store.head(key) == entry
    assert store.read_range(entry, 1, 4) == b"234"
    second = store.replace(key, b"67890", entry.version)
    assert second is not None
    assert store.replace(key, b"x", entry.version) is None
    with pytest.raises(ChangedError):
        store.read_range(entry, 1, 4)
    assert store.replace(url.below("none").key, b"x", second) is None
    (tmp_path / "big").write_bytes(os.urandom(6 << 20))
    store.put(url.below("deep/big").key, tmp_path / "big")
    store.put(url.below("two").key, b"2")
    listed = [entry for page in store.entries(url.key) for entry in page]
    assert {entry.key: entry.size for entry in listed} == {
        url.below("deep/big").key: 6 << 20,
        key: 5,
        url.below("two").key: 1,
    }
    after = [entry.key for page in store.entries(url.key, key) for entry in page]
    assert after == [url.below("two").key]
    assert probe(store, url).all
    store.remove(key)
    store.remove(key)
    assert store.head(key) is None
