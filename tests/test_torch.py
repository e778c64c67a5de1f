"""Faces as a dataset of PyTorch: each once an epoch, whoever divides them, and as the default collation takes them."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

import gpu_extract  # noqa: E402
from gpu_extract.errors import UsageError  # noqa: E402
from gpu_extract.torch import Faces  # noqa: E402
from tests.helpers import face_entry, write_clip, write_pickled  # noqa: E402

FRAMES, SIZE = 30, (76, 90)


@pytest.fixture
def clip(tmp_path: Path, landmarks: np.ndarray) -> tuple[Path, Path]:
    """Two faces a frame."""
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25).astype(np.float32)
    video = write_clip(tmp_path / "clip.mp4", FRAMES, SIZE, options={"g": "6"})
    faces = {
        f"clip_{n + 1:06d}.png": [face_entry(small + np.array((x, 30 + n / 3), np.float32)) for x in (30, 62)]
        for n in range(FRAMES)
    }
    return write_pickled(tmp_path / "a.fsa", faces), video


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def whole(clip: tuple[Path, Path]) -> list[gpu_extract.Face]:
    return list(gpu_extract.faces(*clip, size=48))


def counted(items: Iterable[Any]) -> Counter[tuple[str, int]]:
    """How often each face came, of batches."""
    return Counter(
        (frame, int(index)) for item in items for frame, index in zip(item["frame"], item["index"], strict=True)
    )


def test_a_face_is_a_dict_of_tensors(clip: tuple[Path, Path]) -> None:
    dataset = Faces(*clip, size=48)
    assert len(dataset) == 2 * FRAMES
    for item, face in zip(dataset, whole(clip), strict=True):
        assert (item["frame"], item["position"], item["index"]) == (face.frame, face.position, face.index)
        assert item["pixels"].dtype == torch.uint8
        assert np.array_equal(item["pixels"].numpy(), face.pixels)
        assert item["landmarks"].dtype == torch.float32
        assert np.allclose(item["landmarks"].numpy(), face.landmarks_in_crop, atol=1e-4)
        assert np.array_equal(item["crop_from_frame"].numpy(), face.crop_from_frame)


@pytest.mark.parametrize("batch", [None, 8])
def test_channels_as_they_are_asked_for(batch: int | None, clip: tuple[Path, Path]) -> None:
    faces = whole(clip)[:8]
    for rgb, first in ((False, True), (True, False), (True, True)):
        dataset = Faces(*clip, size=48, rgb=rgb, channels_first=first, batch=batch)
        found = iter(dataset)
        pixels = next(found)["pixels"] if batch else torch.stack([next(found)["pixels"] for _ in range(8)])
        found.close()  # type: ignore[attr-defined]
        expected = np.stack([face.rgb if rgb else face.pixels for face in faces])
        assert pixels.is_contiguous()
        assert np.array_equal(pixels.numpy(), expected.transpose(0, 3, 1, 2) if first else expected)


def test_the_default_collation_takes_them(clip: tuple[Path, Path]) -> None:
    loader = DataLoader(Faces(*clip, size=48, channels_first=True), batch_size=16)
    batches = list(loader)
    assert len(loader) == len(batches) == 4
    assert batches[0]["pixels"].shape == (16, 3, 48, 48)
    assert batches[0]["landmarks"].shape == (16, 68, 2)
    assert set(counted(batches).values()) == {1}
    assert len(counted(batches)) == 2 * FRAMES


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("batch", [None, 7])
def test_two_workers_give_each_face_once_every_epoch(batch: int | None, clip: tuple[Path, Path]) -> None:
    dataset = Faces(*clip, size=48, batch=batch)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=None if batch else 7, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    expected = {(face.frame, face.index): face for face in whole(clip)}
    for _ in range(2):
        batches = list(loader)
        seen = counted(batches)
        assert seen.keys() == expected.keys()
        assert set(seen.values()) == {1}
        for item in batches:
            for k, frame in enumerate(item["frame"]):
                assert np.array_equal(item["pixels"][k].numpy(), expected[frame, int(item["index"][k])].pixels)
    del loader


def test_a_worker_that_is_no_fork_plans_anew(clip: tuple[Path, Path]) -> None:
    dataset = Faces(*clip, size=48, batch=60, rank=1, world_size=2)
    other = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(next(iter(other))["pixels"], next(iter(dataset))["pixels"])


def test_processes_divide_the_faces(clip: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    named = [Faces(*clip, size=48, batch=9, rank=rank, world_size=3) for rank in range(3)]
    assert set(sum((counted(one) for one in named), Counter()).values()) == {1}
    assert sum(len(one.faces) for one in named) == 2 * FRAMES
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert counted(Faces(*clip, size=48, batch=9)) == counted(named[rank])


def test_the_default_group_says_who_one_is(clip: tuple[Path, Path], tmp_path: Path) -> None:
    from torch import distributed

    if not distributed.is_available():
        pytest.skip("this PyTorch was built without distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert len(Faces(*clip, size=48)) == 2 * FRAMES
        assert len(Faces(*clip, size=48, rank=0, world_size=2)) < 2 * FRAMES
    finally:
        distributed.destroy_process_group()


def test_a_transform_makes_what_is_wanted(clip: tuple[Path, Path]) -> None:
    found = list(Faces(*clip, size=48, extract_every_n=10, transform=lambda face: (face.index, face.hash)))
    assert found == [(face.index, face.hash) for face in gpu_extract.faces(*clip, size=48, extract_every_n=10)]


def test_tensors_go_to_a_device(clip: tuple[Path, Path]) -> None:
    """To the one that every PyTorch has beside the CPU."""
    for item in (next(iter(Faces(*clip, size=48, device="meta"))), next(iter(Faces(*clip, batch=5, device="meta")))):
        assert {value.device.type for value in item.values() if isinstance(value, torch.Tensor)} == {"meta"}


@pytest.mark.cuda
def test_tensors_go_to_a_gpu(clip: tuple[Path, Path]) -> None:
    batch = next(iter(Faces(*clip, size=48, batch=60, device="cuda")))
    assert batch["pixels"].is_cuda
    assert np.array_equal(batch["pixels"].cpu().numpy(), np.stack([face.pixels for face in whole(clip)]))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_leave_devices_to_the_process_that_trains(clip: tuple[Path, Path]) -> None:
    loader: DataLoader[Any] = DataLoader(
        Faces(*clip, size=48, device="meta"), num_workers=1, multiprocessing_context="fork"
    )
    with pytest.raises(UsageError, match="workers of a DataLoader do not share device meta"):
        next(iter(loader))


def test_a_batch_of_other_landmarks(clip: tuple[Path, Path], landmarks: np.ndarray) -> None:
    core = ((landmarks - landmarks.mean(axis=0)) * 0.25 + 40).astype(np.float32)[17:]
    root = {"clip_000001.png": [face_entry(core), face_entry((landmarks * 0.25).astype(np.float32))]}
    write_pickled(clip[0], root)
    assert [len(item["landmarks"]) for item in Faces(*clip, size=48)] == [51, 68]
    with pytest.raises(UsageError, match="faces of 51 and of 68 landmarks"):
        next(iter(Faces(*clip, size=48, batch=2)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"batch": 0}, "batch must be 1 or more, got 0"),
        ({"batch": True}, "batch must be 1 or more, got True"),
        ({"batch": 2, "transform": repr}, "let the DataLoader batch"),
        ({"rank": 1}, "rank and world_size go together"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to world_size - 1, got 2 of 2"),
        ({"size": 5}, "size must be 16 to 4096 pixels, got 5"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], sentence: str, clip: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=sentence):
        Faces(*clip, **wrong)
    with pytest.raises(TypeError, match="siz"):
        Faces(*clip, siz=64)
    with pytest.raises(TypeError, match="depends on the workers"):
        len(Faces(*clip, size=48, batch=4))


def test_the_door_leads_here(clip: tuple[Path, Path]) -> None:
    assert gpu_extract.torch.Faces is Faces
