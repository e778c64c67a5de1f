"""What a notebook may give to the functions: each value is taken, or refused by the call with one sentence of ours."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu_extract
from gpu_extract.errors import DeviceError, GpuExtractError, InputError, UsageError
from gpu_extract.jobs.faces import FaceSource
from tests.helpers import face_entry, image_bytes, picture, write_pickled

SIZE = (76, 90)
VALUES: tuple[Any, ...] = (
    *(None, True, False, np.True_, -1, 0, 1, np.int64(-3), np.int64(64), 2**31, 10**30),
    *(1.5, float("nan"), float("inf"), np.float32(2), 1j, np.array([1, 2]), np.array(["auto", "cpu"])),
    *("", "x", "1", "a\0b", "\ud800", "tpu", b"", b"x", Path("x")),
    *((), (1,), [], [1], {}, {"a": 1}, {1}, slice(3), object()),
)
SWITCH, COUNT = {"True", "False"}, {"1", "np.int64(64)"}
TAKEN: dict[str, set[str]] = {
    "size": {"np.int64(64)"},
    "extract_every_n": COUNT,
    "min_size": {"0", *COUNT},
    "batch_mb": COUNT,
    "pinned_mb": COUNT,
    "workers": {"None", *COUNT},
    "processes": COUNT,
    "max_errors": {"None", *COUNT},
    "quality": {"None", *COUNT},
    "shard": {"None"},
    "metadata": {"None"},
    "devices": {"None"},
    "cancel": {"None"},
    "json": {"None", "'x'", "'1'", "'tpu'", "PosixPath('x')"},
    "cache": {"None", "'x'", "'1'", "'tpu'", "PosixPath('x')"},
    **dict.fromkeys(("align_eyes", "large", "antialias", "no_update", "replace_hashes", "resume"), SWITCH),
    **dict.fromkeys(("dry_run", "partial_ok"), SWITCH),
    "refresh_thumbs": {"False"},  # which cannot go with no_update
}
"""By argument, the values that mean something to it."""


@pytest.fixture
def images(tmp_path: Path, landmarks: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An alignments file and its folder of three images, each of two faces; the working directory is a new one."""
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(3):
        (folder / f"i_{n + 1:06d}.png").write_bytes(image_bytes(".png", picture(n, *SIZE)))
    small = (landmarks - landmarks.mean(axis=0)) * 0.25
    spots = [np.array((30, 36)), np.array((50, 30))]
    faces = {f"i_{n + 1:06d}.png": [face_entry((small + n + at).astype(np.float32)) for at in spots] for n in range(3)}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return write_pickled(tmp_path / "a.fsa", faces), folder


def outcome(call: Callable[[], Any]) -> str:
    """ "taken", or the name of the error of ours that refuses; what is said is a sentence in one line."""
    try:
        found = call()
    except GpuExtractError as error:
        return type(error).__name__ if str(error).endswith(".") else str(error)
    if isinstance(found, FaceSource):
        found.close()
    return "taken"


def expected(name: str, value: Any) -> str:
    if name in ("alignments", "frames") and repr(value) in ("'x'", "'1'", "'tpu'", "PosixPath('x')"):
        return "InputError"
    if name == "faces" and repr(value) in ("'x'", "'1'", "'tpu'", "PosixPath('x')"):
        return "taken"
    return "taken" if repr(value) in TAKEN.get(name, ()) else "UsageError"


@pytest.mark.parametrize("name", inspect.signature(gpu_extract.faces).parameters)
def test_each_argument_of_faces_is_taken_or_refused_by_the_call(name: str, images: tuple[Path, Path]) -> None:
    given = {"alignments": images[0], "frames": images[1]}
    for value in VALUES:
        arguments: dict[str, Any] = given | {name: value}
        assert outcome(partial(gpu_extract.faces, **arguments)) == expected(name, value), value


@pytest.mark.parametrize("name", inspect.signature(gpu_extract.extract).parameters)
def test_each_argument_of_extract_is_taken_or_refused_before_anything_is_written(
    name: str, images: tuple[Path, Path]
) -> None:
    given = {"alignments": images[0], "frames": images[1], "faces": "out", "no_update": True, "progress": "none"}
    for value in VALUES:
        arguments: dict[str, Any] = given | {"dry_run": True, name: value}
        if name == "dry_run" and value is False:
            arguments["faces"] = "wet"
        wanted = expected(name, value)
        assert outcome(partial(gpu_extract.extract, **arguments)) == wanted, value
    assert not Path("out").exists()
    assert images[0].exists()


def test_numbers_of_numpy_are_as_good_as_others(images: tuple[Path, Path], tmp_path: Path) -> None:
    numbers: dict[str, Any] = {"size": np.int32(48), "extract_every_n": np.uint8(2), "workers": np.int64(1)}
    report = gpu_extract.extract(*images, tmp_path / "out", no_update=True, progress="none", **numbers)
    assert (report.exit_code, report.faces_written, report.size) == (0, 4, 48)
    plain: dict[str, Any] = {"size": 48, "extract_every_n": 2, "resume": True}
    again = gpu_extract.extract(*images, tmp_path / "out", no_update=True, progress="none", **plain)
    assert (again.exit_code, again.faces_written) == (0, 4)
    with gpu_extract.faces(*images, **numbers) as source:
        assert [face.pixels.shape for face in source] == [(48, 48, 3)] * 4


def test_an_event_cancels_and_nothing_else_does(images: tuple[Path, Path], tmp_path: Path) -> None:
    anything: Any = "now"
    with pytest.raises(UsageError, match=r"cancel must be an event, such as threading\.Event\(\), got 'now'\."):
        gpu_extract.extract(*images, tmp_path / "out", no_update=True, progress="none", cancel=anything)
    event = threading.Event()
    event.set()
    with pytest.raises(GpuExtractError, match=r"cancelled\."):
        gpu_extract.extract(*images, tmp_path / "out", no_update=True, progress="none", cancel=event)


def test_a_face_is_named_by_its_place_or_by_its_frame_and_index(images: tuple[Path, Path]) -> None:
    with gpu_extract.faces(*images, size=48) as source:
        key = source.frames[1]
        for which in (2, np.int64(2), (key, 0), (1, 0), (np.uint8(1), np.int64(0)), -4, np.array(2)):
            found: Any = which
            assert source[found].name == "i_000002_0"
        wrong: Any
        by_place = {*COUNT, "-1", "0", "np.int64(-3)", f"{2**31}", f"{10**30}"}
        for wrong in (
            *(value for value in VALUES if repr(value) not in by_place),
            *((1,), (1, 0, 0), (key,), (key, None), (key, 0.0), (key, True), (key, "0"), (1.0, 0), (None, 0)),
            *((b"x", 0), (Path(key), 0), (slice(2), 0), (key, slice(2)), (key, np.array([0, 1])), slice(None)),
        ):
            with pytest.raises(TypeError, match="a face is named by its place among all, or by its frame's key"):
                source[wrong]
        for wrong in (6, -7, 2**31, 10**30, -(10**30)):
            with pytest.raises(IndexError, match="there are 6 faces, from 0 to 5"):
                source[wrong]
        for wrong in ((key, 2), (key, -1), (3, 0), (-1, 0), (10**30, 0), ("", 0), ("a\0", 0), ("\ud800", 0)):
            with pytest.raises(KeyError, match=r"no planned frame has|has no face"):
                source[wrong]
    with pytest.raises(ValueError, match="these faces are closed"):
        source[0]


def test_of_no_faces_none_can_be_had(images: tuple[Path, Path]) -> None:
    with gpu_extract.faces(*images, min_size=1000) as source:
        assert (len(source), list(source)) == (0, [])
        with pytest.raises(IndexError, match=r"there are no faces\."):
            source[0]


def test_a_part_that_cannot_be(images: tuple[Path, Path]) -> None:
    with gpu_extract.faces(*images, size=48) as source:
        assert len(source.part(np.int64(0), np.int64(3))) == 2  # type: ignore[arg-type]
        for number, count in ((3, 3), (-1, 3), (0, 0), (True, 3), (0.0, 3), (None, 3), ("", 3), (0, 10**30), (0, b"3")):
            part: Any = (number, count)
            with pytest.raises(UsageError, match="shard must be I/N with I from 0 to N - 1"):
                source.part(*part)
        for workers in (0, -1, True, 1.0, "2", 10**30):
            with pytest.raises(UsageError, match="workers must be"):
                source.part(0, 2, workers=workers)  # type: ignore[arg-type]


def test_each_argument_of_the_dataset_is_taken_or_refused_by_the_call(images: tuple[Path, Path]) -> None:
    pytest.importorskip("torch")
    from gpu_extract.torch import Faces

    taken = {
        **dict.fromkeys(("rgb", "channels_first"), SWITCH),
        "transform": {"None"},
        "batch": {"None", *COUNT},
        "rank": {"None"},
        "world_size": {"None"},
        "size": TAKEN["size"],
    }
    for name, values in taken.items():
        for value in VALUES:
            arguments: Any = {name: value}
            wanted = "taken" if repr(value) in values else "UsageError"
            found = outcome(partial(Faces, *images, **arguments))
            assert found == wanted, (name, value)
    for value in VALUES:
        wanted = "taken" if repr(value) in COUNT else "UsageError"
        found = outcome(partial(Faces, *images, rank=0, world_size=value))
        assert found == wanted, value
    assert len(Faces(*images, rank=np.int64(1), world_size=np.int64(3))) == 2  # type: ignore[arg-type]


def test_a_device_for_tensors_is_known_and_there(images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from gpu_extract.torch import Faces

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    value: Any
    for value in ("tpu", "", "cuda:x", "a\0", None, 1.5, [], b"cpu", 10**30):
        with pytest.raises(UsageError, match="is not understood; PyTorch knows cpu, cuda, cuda:N and others"):
            Faces(*images, device=value)
    with pytest.raises(DeviceError, match="device cuda:7 was asked for but no CUDA device is visible"):
        Faces(*images, device="cuda:7")
    if not torch.backends.mps.is_available():
        with pytest.raises(DeviceError, match="device mps was asked for but cannot be used"):
            Faces(*images, device="mps")
    assert next(iter(Faces(*images, size=48, device=torch.device("cpu"))))["pixels"].shape == (48, 48, 3)


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE"])
def test_an_environment_that_names_no_process_is_refused(
    variable: str, images: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from gpu_extract.torch import Faces

    for text in ("x", "", "-1", "1.0", "²"):
        monkeypatch.setenv(variable, text)
        with pytest.raises(UsageError, match=f"{variable} must be a whole number, got '{text}'"):
            Faces(*images)


@pytest.mark.parametrize("path", [None, 3, "", b"x", "a\0b", "\ud800"])
def test_a_path_that_is_none_is_refused_wherever_one_is_asked_for(path: Any, images: tuple[Path, Path]) -> None:
    from gpu_extract.jobs.prune import prune
    from gpu_extract.jobs.report import face_report
    from gpu_extract.jobs.verify import verify

    calls: list[Callable[[], Any]] = [
        lambda: prune(path, images[1]),
        lambda: face_report(path),
        lambda: verify(images[0], images[1], path),
        lambda: gpu_extract.Alignments.load(path),
        lambda: gpu_extract.read_face(path),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"is no path; give a text or a pathlib\.Path\."):
            call()
    with pytest.raises(InputError):
        gpu_extract.faces(Path("x"), images[1])


@pytest.mark.parametrize("value", [0, True, b"x", [], "a\0b", "\ud800"])
def test_a_report_has_no_place_under_what_is_no_path(value: Any, images: tuple[Path, Path], tmp_path: Path) -> None:
    from gpu_extract.jobs.prune import prune
    from gpu_extract.jobs.reindex import reindex
    from gpu_extract.jobs.rename import rename

    calls: list[Callable[[], Any]] = [
        lambda: prune(images[0], tmp_path, json=value),
        lambda: reindex(images[0], json=value),
        lambda: rename(tmp_path, json=value),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="json must be a text, got "):
            call()


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_what_is_neither_true_nor_false_is_no_answer_to_a_question(
    value: Any, images: tuple[Path, Path], tmp_path: Path
) -> None:
    """A program that has "no" in a variable undoes nothing, and is not sure of it."""
    from gpu_extract.jobs.prune import prune
    from gpu_extract.jobs.rename import rename

    for name in ("frames_too", "yes", "undo", "dry_run"):
        with pytest.raises(UsageError, match=f"{name.replace('_', '-')} must be true or false, got {value!r}"):
            prune(images[0], tmp_path, **{name: value})
    for name in ("flat", "undo", "dry_run"):
        with pytest.raises(UsageError, match=f"{name.replace('_', '-')} must be true or false, got {value!r}"):
            rename(tmp_path, **{name: value})
