"""A video decoded by a CUDA device, whose pictures stay there as surfaces.

FFmpeg takes a stream apart, the device makes the samples. Those are the CPU's where a standard fixes every one of them
and nothing is wrong with the stream: so whatever may make a difference is an obstacle, the first picture is compared
with the CPU's before it is believed, and each later one must come when the packets announce it. What cannot be seen
here is damage inside a packet, of which the device says nothing.

The device's decoder writes on the stream that CUDA takes where none is named; whoever reads a surface on another one
has that wait.
"""

from __future__ import annotations

import ctypes
import queue
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.video.stream import VideoStream

from gpu_extract.errors import DeviceError, InputError
from gpu_extract.frames.base import clip_region
from gpu_extract.frames.video.bitstream import DoubtError, sequences
from gpu_extract.frames.video.container import READ_ERRORS, open_container
from gpu_extract.frames.video.planes import samples
from gpu_extract.kernels import yuv
from gpu_extract.kernels.cutter import Planes
from gpu_extract.kernels.slab import WORD, slab_layout
from gpu_extract.patch import Patch, Region, Surface

CODECS = ("h264", "hevc", "vp9", "av1")
"""Of which the standard says every sample."""
CODECS_OF_10_BITS = ("hevc", "vp9", "av1")
"""Of H.264, few devices know more than 8."""
SURFACES = {"yuv420p": "nv12", "yuvj420p": "nv12", "yuv420p10le": "p010le"}
"""By the format of a software frame what a surface of the same samples holds; P010 has them in the upper bits of 16."""
MOST_SURFACES = 32
"""That are given out and not let go of; the device thread has four batches, of some frames each."""

AV1_ON_CPU = "libdav1d"
DRIVERS_DECODER = {"linux": "libnvcuvid.so.1", "win32": "nvcuvid.dll"}
POLL_SECONDS = 0.2
INSTEAD = "choose --decoder cpu"


def obstacle(stream: VideoStream, device: str) -> str | None:
    """Why a stream cannot be decoded on a device to the pixels that the CPU gives; None if nothing is known of it."""
    context = stream.codec_context
    codec = context.codec.canonical_name
    if codec not in CODECS:
        return f"decoders of {codec} need not give the same samples, as those of {', '.join(CODECS)} must"
    if context.pix_fmt not in SURFACES or (SURFACES[context.pix_fmt] != "nv12" and codec not in CODECS_OF_10_BITS):
        proven = f"4:2:0 of 8 bits is proven equal, and of 10 bits in {', '.join(CODECS_OF_10_BITS)}"
        return f"its pixel format is {context.pix_fmt}, and only {proven}"
    if context.width % 2 or context.height % 2:
        return f"its sides are odd ({context.width} × {context.height})"
    return device_obstacle(device, context.codec.name)


def device_obstacle(device: str, decoder: str = "h264") -> str | None:
    """Why a device cannot run one of FFmpeg's decoders and keep its pictures; None if it can."""
    if not device.startswith("cuda"):
        return f"that needs a CUDA device, and the device is {device}"
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f"{package} is not installed"
    if not hasattr(av.VideoFrame, "sw_format"):
        return f"PyAV {av.__version__} does not tell what a surface holds, as 18 does"
    if "cuda" not in hwdevices_available():
        return "this PyAV was built without CUDA"
    try:
        with _current(device):
            context = av.CodecContext.create(decoder, "r", hwaccel=_accelerator(device))
    except (av.error.FFmpegError, RuntimeError, AssertionError) as error:
        return f"FFmpeg cannot use {device} ({_reason(error)})"
    if not context.is_hwaccel:
        return f"PyAV decodes it with {decoder}, which knows no CUDA"
    name = DRIVERS_DECODER.get(sys.platform)
    try:  # FFmpeg misses it at the first packet, and then blames that
        ctypes.CDLL(name)
    except OSError:
        return f"{name} of the driver is not here (in a container, NVIDIA_DRIVER_CAPABILITIES must name video)"
    return None


def decoder_of(codec: str) -> str:
    """Which of FFmpeg's decoders takes streams of one of the `CODECS`: its own only where no other works on a CPU."""
    return AV1_ON_CPU if codec == "av1" and AV1_ON_CPU in av.codecs_available else codec


def has_one_siting(container: InputContainer, stream: VideoStream) -> bool:
    """Whether a stream says once and for all where its chroma lies, on which BGR of more than 8 bits depends.

    No surface tells it. Reads all packets.
    """
    context = stream.codec_context
    if context.codec.canonical_name == "vp9":  # whose packets never say it
        return True

    def packets() -> Iterator[memoryview]:
        for packet in container.demux(stream):
            if packet.has_sidedata("new_extradata"):
                raise DoubtError("the container has other parameters from here on")
            if packet.size:
                yield memoryview(packet)

    try:
        return len(sequences(context.codec.canonical_name, context.extradata or b"", packets())) == 1
    except (DoubtError, *READ_ERRORS):
        return False


def open_hardware(path: Path, device: str, *, like_program: bool = False) -> InputContainer:
    """`open_container`, with decoders that work on a device and keep their pictures there.

    Raises:
        DeviceError: if that cannot be.
    """
    try:
        with _current(device):
            return open_container(path, like_program=like_program, hwaccel=_accelerator(device))
    except (InputError, RuntimeError) as error:
        raise DeviceError(f"'{path}' cannot be opened on {device} ({_reason(error)}); {INSTEAD}.") from error


def _accelerator(device: str) -> HWAccel:
    """In the context that torch works in, or neither could read the other's memory."""
    context: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
    number = int(device.partition(":")[2] or 0)
    return HWAccel("cuda", device=number, allow_software_fallback=False, options=context, is_hw_owned=True)


@contextmanager
def _current(device: str) -> Iterator[None]:
    """With torch's context of a device there, and current on this thread."""
    import torch

    with torch.cuda.device(device):
        torch.cuda.synchronize()  # CUDA makes the context at the first call that needs it
        yield


class Hardware:
    """A device as the decoder of one video: what its pictures must be, and how many may be kept at a time.

    Args:
        first: the first picture, decoded by the CPU.
        planes: that picture's, with the formula for all.
        times: [N] int64, ascending, of all pictures that are shown.
    """

    def __init__(self, path: Path, device: str, first: av.VideoFrame, planes: Planes, times: np.ndarray) -> None:
        self._path, self._device = path, device
        self._is_proven = False
        self._kind = SURFACES.get(first.format.name), *_kind(first)
        self._formula = planes.coefficients, planes.layout
        self._times = times
        self._due: Iterator[int] = iter(())
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()  # a lock might be held where a surface goes
        for _ in range(MOST_SURFACES):
            self._room.put(None)

    def container(self, *, like_program: bool) -> InputContainer:
        """The video at its beginning, see `open_hardware`."""
        return open_hardware(self._path, self._device, like_program=like_program)

    def begin(self) -> None:
        """All pictures are to come, from the first one on."""
        self._due = iter(self._times.tolist())

    def came(self, frames: Sequence[av.VideoFrame]) -> None:
        """To be told of every picture.

        Raises:
            DeviceError: if one is damaged, or is not the next one that the packets announce.
        """
        for frame in frames:
            if frame.is_corrupt:
                raise self.fault("a picture is marked as damaged")
            if frame.pts != next(self._due, None):
                raise self.fault("another picture came than its packets announce")

    def end(self) -> None:
        """No more pictures will come; raises DeviceError if one is missing."""
        if next(self._due, None) is not None:
            raise self.fault("pictures are missing")

    def surface(self, frame: av.VideoFrame, closed: Callable[[], bool]) -> Surface:
        """A picture as it lies on the device; waits until there are few enough of them.

        Args:
            closed: ends the wait when it is true.

        Raises:
            DeviceError: if it is not of the kind of the first one, or the CPU would add something to it.
        """
        from torch.utils.dlpack import from_dlpack

        held = content(frame)
        if held is None or (held, *_kind(frame)) != self._kind:
            raise self.fault("a picture has another size, format or other colours than the first one")
        if has_film_grain(frame):
            raise self.fault("a picture comes with film grain, which FFmpeg adds on a CPU only")
        while True:
            try:
                self._room.get(timeout=POLL_SECONDS)
                break
            except queue.Empty:
                if closed():
                    break
        try:
            luma, chroma = (from_dlpack(plane.__dlpack__()) for plane in frame.planes)
        except (RuntimeError, TypeError, ValueError) as error:
            raise self.fault(f"a picture cannot be reached ({_reason(error)})") from error
        surface = Surface(luma, chroma, *self._formula)
        weakref.finalize(surface, self._room.put, None).atexit = False
        return surface

    def compare(self, surface: Surface, first: av.VideoFrame) -> None:
        """Raises DeviceError unless a surface is the CPU's first picture, in every sample and as BGR."""
        try:
            is_equal = _samples_of(surface) == _samples_of_software(first)
        except RuntimeError as error:  # of torch
            raise self.fault(f"its first picture cannot be read ({_reason(error)})") from error
        try:
            is_equal = is_equal and np.array_equal(_converted(surface), _bgr(first, self._formula))
        except Exception as error:  # compiling runs a C compiler and ptxas and writes a cache: much can be missing
            why = f"the kernel for its pictures cannot be made: {type(error).__name__}: {_reason(error)}"
            raise self.fault(why) from error
        if not is_equal:
            raise self.fault("its first picture does not come out as on the CPU")
        self._is_proven = True

    def fault(self, what: str) -> DeviceError:
        """What ends a run: before anything was cut where the first picture was not seen to be right."""
        if not self._is_proven:
            return refused(self._path, self._device, what)
        return DeviceError(
            f"{self._device} cannot be trusted with '{self._path.name}' any further: {what}; the faces written so far "
            "are whole, run the same command with --resume --decoder cpu to continue."
        )


def refused(path: Path, device: str, why: str) -> DeviceError:
    """What is said before anything is decoded."""
    return DeviceError(f"'{path}' cannot be decoded by {device}: {why}; {INSTEAD}.")


def to_bgr(surface: Surface, region: Region | None) -> Patch:
    """BGR of a surface in this process's memory; as `yuv.to_bgr` of a software frame."""
    height, width = surface.luma.shape
    inside = clip_region(region or Region(0, 0, width, height), height, width)
    patch = surface.patch(inside)
    h, w = patch.pixels.shape[:2]
    corners = patch.x0, patch.y0, patch.x0 + w, patch.y0 + h
    y, u, v = planes = _planes(surface)
    strides = y.strides[0], u.strides[0], v.strides[0]
    pixels = yuv.to_bgr(planes, strides, *corners, surface.coefficients, surface.layout, (height, width))
    return patch._replace(pixels=pixels)


def content(frame: av.VideoFrame) -> str | None:
    """The format of what a surface holds; None for a frame that is none."""
    held = getattr(frame, "sw_format", None)
    return held.name if frame.format.name == "cuda" and held is not None else None


def has_film_grain(frame: av.VideoFrame) -> bool:
    """Whether a picture is to be given film grain. A frame's own `side_data` would keep it, and its surface, until
    the garbage collector comes.
    """
    return "FILM_GRAIN_PARAMS" in SideDataContainer(frame)  # type: ignore[call-arg]  # which its stub leaves out


def _kind(frame: av.VideoFrame) -> tuple[Any, ...]:
    """What all pictures of a stream have in common."""
    tags = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    return frame.height, frame.width, *tags, frame.interlaced_frame


def _planes(surface: Surface) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y, U and V in this process's memory, as in a software frame: [h, w] uint8, of more bits uint16."""
    shift = 16 - surface.layout.bits if surface.layout.bits > 8 else 0
    luma, chroma = (tensor.cpu().numpy() >> shift for tensor in (surface.luma, surface.chroma))
    u, v = (np.ascontiguousarray(chroma[..., i]) for i in range(2))
    return luma, u, v


def _samples_of(surface: Surface) -> list[bytes]:
    return [plane.tobytes() for plane in _planes(surface)]


def _samples_of_software(frame: av.VideoFrame) -> list[bytes]:
    nbytes = -(-frame.format.components[0].bits // 8)
    return [samples(plane)[:, : plane.width * nbytes].tobytes() for plane in frame.planes]


def _bgr(frame: av.VideoFrame, formula: tuple[yuv.Coefficients, yuv.Layout]) -> np.ndarray:
    y, u, v = frame.planes
    strides = y.line_size, u.line_size, v.line_size
    return yuv.to_bgr((y, u, v), strides, 0, 0, frame.width, frame.height, *formula)


def _converted(surface: Surface) -> np.ndarray:
    """[H, W, 3] BGR by the kernel that engines use."""
    import torch

    from gpu_extract.kernels import surfaces

    height, width = surface.luma.shape
    sources, nbytes = slab_layout([(height, width)])
    table = surfaces.surface_table([surfaces.Surface(surface.luma, surface.chroma)], surface.layout)
    device = surface.luma.device
    slab = torch.empty(nbytes, dtype=torch.uint8, device=device)
    there = torch.from_numpy(sources).to(device), torch.from_numpy(table).to(device)
    surfaces.convert(slab, sources, table, there, surface.coefficients, surface.layout)
    rows = slab.cpu().numpy()[:-WORD].reshape(height, -1)[:, : 3 * width]
    return rows.reshape(height, width, 3)


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
