"""A hardware decoder that a CPU plays: FFmpeg decodes in software, and pictures become surfaces of NV12 or P010.

The surfaces are tensors of the CPU, whose rows are longer than the picture and full of what is no sample. The kernels
that read them run in Triton's interpreter.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from gpu_extract import kernels
from gpu_extract.frames.video import hardware
from gpu_extract.frames.video.container import open_container
from gpu_extract.frames.video.planes import samples, words
from gpu_extract.kernels import reference, yuv
from gpu_extract.kernels.slab import WORD, fill
from tests.helpers import module_from

SLACK = 38  # samples that follow a row's
JUNK = 0xEE

Change = Callable[[int, av.VideoFrame], av.VideoFrame | None]
"""change(n, frame): what the decoder gives as the n-th picture since it was opened; None: nothing."""


class FakeHardware:
    """Opens videos in place of `hardware.open_hardware`.

    Args:
        room: how many surfaces there are; a picture more than those that are kept is an error.

    Attributes:
        alive: surfaces that are kept now.
        most: that were kept at a time.
        opened: how many times a video was.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.room, self.alive, self.most, self.opened = room, 0, 0, 0
        self.change: Change = lambda number, frame: frame
        self.refuses: Callable[[int], bool] = lambda number: False
        """Whether the n-th packet since it was opened is an error."""
        self.falls_back: Callable[[int], bool] = lambda number: False
        """Whether the n-th picture comes as the CPU decodes it, and no surface."""
        self._lock = threading.RLock()

    def open(self, path: Path, device: str, *, like_program: bool = False) -> Any:
        self.opened += 1
        return _Container(open_container(path, like_program=like_program), self)

    def surface(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A picture 4:2:0 as a decoder leaves it, with all that it says of itself but its fields and damage."""
        if hardware.has_film_grain(frame):  # which PyAV copies to such a frame only
            return frame.reformat(format=hardware.SURFACES[frame.format.name])
        height, width, is_deep = frame.height, frame.width, frame.format.name == "yuv420p10le"
        if is_deep:  # in the upper bits; what the lower ones hold is nobody's business
            y, u, v = (words(plane, plane.width, big_endian=False) << 6 | 0x2A for plane in frame.planes)
        else:
            y, u, v = (samples(plane)[:, : plane.width] for plane in frame.planes)
        memory = np.full((height * 3 // 2, width + SLACK), JUNK, y.dtype)
        self._count(memory)
        memory[:height, :width] = y
        memory[height:, 0:width:2], memory[height:, 1:width:2] = u, v
        made = av.VideoFrame.from_dlpack(
            [torch.from_numpy(plane[:, :width]) for plane in (memory[:height], memory[height:])],
            hardware.SURFACES[frame.format.name],
        )
        said = ("pts", "dts", "time_base", "duration", "pict_type", "key_frame")
        for name in (*said, "colorspace", "color_range", "color_primaries", "color_trc"):
            if (value := getattr(frame, name)) is not None:
                setattr(made, name, value)
        return made

    def _count(self, memory: np.ndarray) -> None:
        with self._lock:
            self.alive += 1
            self.most = max(self.most, self.alive)
            assert self.alive <= self.room, "the decoder has no surface left"
        weakref.finalize(memory, self._let_go)

    def _let_go(self) -> None:
        with self._lock:
            self.alive -= 1


class _Proxy:
    """All that something is and does, but for what a subclass does itself."""

    def __init__(self, real: Any, fake: FakeHardware) -> None:
        self.__dict__.update(real=real, fake=fake)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)


class _Container(_Proxy):
    @property
    def streams(self) -> Any:
        return _Streams(self.real.streams, self.fake)

    def demux(self, stream: Any) -> Iterator[Any]:
        packets: Iterator[Any] = self.real.demux(stream.real)
        return packets

    def seek(self, offset: int, *, stream: Any) -> None:
        self.real.seek(offset, stream=stream.real)


class _Streams(_Proxy):
    @property
    def video(self) -> list[Any]:
        return [_Stream(stream, self.fake) for stream in self.real.video]

    def __len__(self) -> int:
        return len(self.real)


class _Stream(_Proxy):
    def __init__(self, real: Any, fake: FakeHardware) -> None:
        super().__init__(real, fake)
        self.__dict__["codec_context"] = _Decoder(real.codec_context, fake)


class _Decoder(_Proxy):
    """Of film grain it tells, as those of devices do, and adds none."""

    def __init__(self, real: Any, fake: FakeHardware) -> None:
        super().__init__(real, fake)
        self.__dict__.update(packets=0, pictures=0)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value | {"export_side_data": "film_grain"} if name == "options" else value)

    def decode(self, packet: Any) -> list[Any]:
        number = self.__dict__["packets"]
        self.__dict__["packets"] += 1
        if self.fake.refuses(number):
            raise av.error.InvalidDataError(1, "Invalid data found when processing input")
        given = []
        for frame in self.real.decode(packet):
            picture = self.__dict__["pictures"]
            self.__dict__["pictures"] += 1
            if (changed := self.fake.change(picture, frame)) is not None:
                as_it_is = changed.is_corrupt or self.fake.falls_back(picture)  # no frame made here can be corrupt
                given.append(changed if as_it_is else self.fake.surface(changed))
        return given


def convert(
    slab: Any, sources: Any, surfaces: Any, tables: Any, coefficients: yuv.Coefficients, layout: yuv.Layout
) -> None:
    """The twin of `surfaces.convert` in NumPy, which reads what its tables on the device say, where they say it."""
    places, pictures = (table.tolist() for table in tables)
    for place, (luma, luma_pitch, chroma, chroma_pitch, height, width) in zip(places, pictures, strict=True):
        _, h, stride, x0, y0 = place
        w = stride * WORD // 3 & ~1
        rows = _memory(luma, luma_pitch, height, layout)[:, :width]
        pairs = _memory(chroma, chroma_pitch, height // 2, layout)[:, :width].reshape(height // 2, -1, 2)
        if layout.bits == 8:  # a pixel needs no chroma but its own
            rows, pairs = rows[y0 : y0 + h, x0 : x0 + w], pairs[y0 // 2 : (y0 + h) // 2, x0 // 2 : (x0 + w) // 2]
            x0 = y0 = 0
        pixels = reference.surface_to_bgr(rows, pairs, coefficients, layout)
        fill(slab.numpy(), np.array(place), pixels[y0 : y0 + h, x0 : x0 + w])
        slab += 0  # an operation of the device


def _memory(address: int, pitch: int, rows: int, layout: yuv.Layout) -> np.ndarray:
    """[rows, pitch] uint8, or uint16."""
    sample = ctypes.c_uint8 if layout.bits == 8 else ctypes.c_uint16
    return np.ctypeslib.as_array((sample * (rows * pitch)).from_address(address)).reshape(rows, pitch)


@contextmanager
def a_cpu_as_the_device(fake: FakeHardware, *, quick: bool = True) -> Iterator[pytest.MonkeyPatch]:
    """The fake behind `--decoder cuda --device cpu`, and the CUDA engines' kernels in Triton's interpreter.

    quick: instead of the kernels their twins in NumPy, which take a hundredth of the time.
    """
    folder = Path(kernels.__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in ("surfaces", "warp_affine"):
            patch.setattr(kernels, name, module_from(folder / f"{name}.py", f"{name}_of_fakes"), raising=False)
        if quick:
            from tests.test_device_failures import launch

            warp_affine, surfaces = vars(kernels)["warp_affine"], vars(kernels)["surfaces"]
            patch.setattr(warp_affine, "launch", launch)
            patch.setattr(warp_affine, "self_check", lambda device: True)
            patch.setattr(surfaces, "convert", convert)
        patch.setattr(hardware, "open_hardware", fake.open)
        patch.setattr(hardware, "device_obstacle", lambda device, decoder="h264": None)
        patch.setattr(hardware, "content", lambda frame: frame.format.name)
        yield patch
