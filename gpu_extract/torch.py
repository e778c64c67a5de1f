"""Faces for PyTorch: a dataset that is decoded and cut while a model is trained on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from gpu_extract.engines.pick import resolve_device
from gpu_extract.errors import DeviceError, UsageError
from gpu_extract.face_files.face import Face
from gpu_extract.jobs.faces import FaceSource, faces
from gpu_extract.options import LARGEST, whole
from gpu_extract.run.threads import available_cores


class Faces(IterableDataset[Any]):
    """The faces of an alignments file, in the order of the video; nothing is written.

    A face is a dict that the default collation of a `DataLoader` takes:

        pixels           uint8 [S, S, 3], BGR as face files have it, or as asked for below
        landmarks        float32 [n, 2], (x, y) in the crop
        crop_from_frame  float64 [2, 3]
        frame            str, the frame's key in the alignments file
        position, index  int, of the frame, and of the face in it

    Workers of a `DataLoader`, and processes of a distributed run, divide the faces among them: each face comes once in
    an epoch. Each takes frames in a row, so the faces of one batch are neighbours.

    Args:
        alignments, frames, options: as `gpu_extract.faces` has them.
        rgb: the pixels are RGB.
        channels_first: they are [3, S, S].
        transform: makes of a `Face` what is given instead of the dict.
        batch: give dicts of so many faces at once, the last one perhaps of fewer: tensors have one axis more, in front,
            and `frame` is a list. For a `DataLoader` with `batch_size=None`, or for none.
        device: of the tensors. Frames are decoded and faces cut on the CPU; then they are moved there.
        rank, world_size: of this process in a distributed run; by default those of the default group of
            `torch.distributed` or, before there is one, those that `torchrun` puts into the environment.

    Raises:
        GpuExtractError: as `gpu_extract.faces`.
    """

    def __init__(
        self,
        alignments: str | os.PathLike[str],
        frames: str | os.PathLike[str],
        *,
        rgb: bool = False,
        channels_first: bool = False,
        transform: Callable[[Face], Any] | None = None,
        batch: int | None = None,
        device: torch.device | str = "cpu",
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value in (("rgb", rgb), ("channels_first", channels_first)):
            if not isinstance(value, bool):
                raise UsageError(f"{name} must be true or false, got {value!r}.")
        if transform is not None and not callable(transform):
            raise UsageError(f"transform must be a function of a face, got {transform!r}.")
        if batch is not None and not 1 <= (whole(batch) or 0) <= LARGEST:
            raise UsageError(f"batch must be 1 or more, got {batch!r}.")
        if batch is not None and transform is not None:
            raise UsageError("batch makes dicts of tensors, and transform something else; let the DataLoader batch.")
        self._rgb, self._channels_first = rgb, channels_first
        self._transform, self._batch, self._device = transform, batch, _device_of(device)
        self._faces = faces(alignments, frames, device="cpu", **options)
        rank, world_size = _place(rank, world_size)
        if world_size > 1:
            self._faces = self._faces.part(rank, world_size)
        self._divides_cores = options.get("workers") is None

    @property
    def faces(self) -> FaceSource:
        """Those of this process; the failures of workers stay with them."""
        return self._faces

    def __len__(self) -> int:
        """Faces of this process.

        Raises:
            TypeError: with `batch`: how many there are depends on the workers.
        """
        if self._batch is not None:
            raise TypeError("how many batches there are depends on the workers, each of which ends with a smaller one.")
        return len(self._faces)

    def __iter__(self) -> Iterator[Any]:
        found = iter(self._part())
        if self._batch is None:
            for face in found:
                yield self._item(face)
            return
        while batch := list(islice(found, self._batch)):
            yield self._items(batch)

    def _part(self) -> FaceSource:
        worker = get_worker_info()
        if worker is None:
            return self._faces
        if self._device.type != "cpu":
            raise UsageError(
                f"workers of a DataLoader do not share device {self._device}; move what they give in the loop that "
                "trains, or take num_workers=0."
            )
        threads = max(1, available_cores() // worker.num_workers) if self._divides_cores else None
        return self._faces.part(worker.id, worker.num_workers, workers=threads)

    def _item(self, face: Face) -> Any:
        if self._transform is not None:
            return self._transform(face)
        return {
            "pixels": self._moved(self._arranged(face.pixels)),
            "landmarks": self._moved(face.landmarks_in_crop.astype(np.float32)),
            "crop_from_frame": self._moved(face.crop_from_frame),
            "frame": face.frame,
            "position": face.position,
            "index": face.index,
        }

    def _items(self, batch: Sequence[Face]) -> dict[str, Any]:
        landmarks = [face.landmarks_in_crop.astype(np.float32) for face in batch]
        counts = sorted({len(points) for points in landmarks})
        if len(counts) > 1:
            raise UsageError(
                f"a batch has faces of {counts[0]} and of {counts[-1]} landmarks, which do not stack; give a transform "
                "instead of batch."
            )
        return {
            "pixels": self._moved(self._arranged(np.stack([face.pixels for face in batch]))),
            "landmarks": self._moved(np.stack(landmarks)),
            "crop_from_frame": self._moved(np.stack([face.crop_from_frame for face in batch])),
            "frame": [face.frame for face in batch],
            "position": self._moved(np.array([face.position for face in batch])),
            "index": self._moved(np.array([face.index for face in batch])),
        }

    def _arranged(self, pixels: np.ndarray) -> np.ndarray:
        """[..., S, S, 3] BGR as it was asked for."""
        if self._rgb:
            pixels = pixels[..., ::-1]
        if self._channels_first:
            pixels = np.moveaxis(pixels, -1, -3)
        return np.ascontiguousarray(pixels)

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


def _device_of(device: torch.device | str) -> torch.device:
    """
    Raises:
        UsageError: if it is none that PyTorch knows.
        DeviceError: if it is not there.
    """
    try:
        found = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        found = None
    if found is None:
        raise UsageError(f"device {device!r} is not understood; PyTorch knows cpu, cuda, cuda:N and others.")
    if found.type == "cuda":  # which is asked without being begun: a process that used it may not fork
        resolve_device(str(found))
    elif found.type != "cpu":
        try:
            torch.empty(0, device=found)
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            why = (str(error).splitlines() or [""])[0].removesuffix(".")
            raise DeviceError(f"device {found} was asked for but cannot be used: {why}.") from error
    return found


def _place(rank: Any, world_size: Any) -> tuple[int, int]:
    """This process in a distributed run; (0, 1) outside of one."""
    if (rank is None) != (world_size is None):
        raise UsageError("rank and world_size go together.")
    if rank is None:
        if distributed.is_available() and distributed.is_initialized():
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
        else:
            rank, world_size = _whole_of_environment("RANK", 0), _whole_of_environment("WORLD_SIZE", 1)
    number, count = whole(rank), whole(world_size)
    if number is None or count is None or not 0 <= number < count:
        raise UsageError(f"rank must be 0 to world_size - 1, got {rank!r} of {world_size!r}.")
    return number, count


def _whole_of_environment(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UsageError(f"{variable} must be a whole number, got {text!r}.")
    return int(text)
