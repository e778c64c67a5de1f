"""`doctor`: what would be used on this machine, and why."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from typing import Any, ClassVar

from gpu_extract.engines import base, pick
from gpu_extract.engines.installed import torch_fault
from gpu_extract.errors import EXIT_OK, DeviceError, OutputError, UsageError
from gpu_extract.face_files.encoder import extensions
from gpu_extract.naming import url_of
from gpu_extract.reports.base import JsonReport, versions
from gpu_extract.run.threads import available_cores
from gpu_extract.stores import open_store
from gpu_extract.stores.probe import probe

BUILT = "built"
OPENCV_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
"""Packages that are all the one module cv2, so that whichever was installed last lies over the others."""
STAND_INS = {
    "cutter": "Python's threads",
    "sampler": "OpenCV",
    "png": "NumPy",
    "yuv": "FFmpeg",
    "scanlines": "OpenCV",
    "jpeg": "OpenCV",
    "opcodes": "Python",
    "columns": "Python",
    "inflate": "zlib",
}
"""Parts in C, and what does the same work, to the same bytes, where they were not built."""
CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "prores", "ffv1", "mjpeg")


@dataclass
class Findings(JsonReport):
    """All that `doctor` knows; every field is a key of the JSON."""

    SCHEMA: ClassVar[str] = "doctor/1"

    versions: dict[str, str]
    machine: str
    cores: int
    devices: list[str]
    engines: list[dict[str, Any]]
    chosen: str
    native: dict[str, str]
    """By part of our C: "built", or what stands in for it."""
    opencv: list[str]
    """The installed packages that are OpenCV; more than one are one too many."""
    decoders: dict[str, str]
    """Of devices that decode videos: which codecs, or why none."""
    png: dict[str, str]
    codecs: list[str]
    codecs_missing: list[str]
    limits: dict[str, int]
    pixels: str | None = None
    """Which videos come out as on x86-64, where this is another processor."""
    store: str | None = None
    """Which conditions a bucket honours, where one was named."""
    exit_code: int = 0

    def table(self) -> str:
        lines = ["versions  " + ", ".join(f"{name} {version}" for name, version in self.versions.items())]
        lines.append(f"machine   {self.machine}, {self.cores} cores for this process")
        lines.append("devices   " + "; ".join(self.devices))
        for engine in self.engines:
            state = "can run" if engine["obstacle"] is None else f"cannot: {engine['obstacle']}"
            lines.append(f"engine    {engine['kind']:<7}{engine['module']:<14}on {engine['device']:<7}{state}")
        lines.append(f"chosen    {self.chosen}")
        lines.append(f"native    {self._native()}")
        if len(self.opencv) > 1:
            lines.append(
                f"opencv    {' and '.join(self.opencv)} are installed together, and each is the module cv2; "
                f"pip uninstall {' '.join(self.opencv)}, then install one"
            )
        lines += [f"decoder   {device}: {what}" for device, what in self.decoders.items()]
        lines.append("png       " + ", ".join(f"{what}: {how}" for what, how in self.png.items()))
        lines.append("decodes   " + ", ".join(self.codecs))
        if self.codecs_missing:
            lines.append("lacks     " + ", ".join(self.codecs_missing))
        if self.pixels is not None:
            lines.append(f"pixels    {self.pixels}")
        lines.append("limits    " + ", ".join(f"{name} {value}" for name, value in self.limits.items()))
        if self.store is not None:
            lines.append(f"store     {self.store}")
        return "\n".join(lines)

    def _native(self) -> str:
        missing = [f"{part} ({how} in its place)" for part, how in self.native.items() if how != BUILT]
        if not missing:
            return f"{', '.join(self.native)}: our own C"
        return f"not built, for want of a compiler: {', '.join(missing)}; slower, the same bytes"


def examine(engine: str = "auto", device: str = "auto", store: str | None = None) -> Findings:
    """Look at the machine; `chosen` says what `extract` would take for this engine and device, or why it cannot.

    Args:
        store: an address below which an object is put, to see which conditions are honoured there; it is removed.
    """
    devices = _devices()
    places = ["cpu", *(line.split(" ")[0] for line in devices if line.startswith("cuda:"))]
    found = [
        {
            "kind": module.KIND,
            "module": module.__name__.rpartition(".")[2],
            "device": place,
            "obstacle": module.obstacle(place),
        }
        for place in places
        for module in pick.modules()
    ]
    exit_code = 0
    try:
        picked, passed_over = pick.pick_engine(engine, device)
        with picked:
            chosen = f"{picked.name} on {picked.device}: {picked.implementation}"
        if passed_over:
            chosen += f" (not {'; not '.join(map(str, passed_over))})"
    except DeviceError as error:
        chosen, exit_code = str(error), error.exit_code
    honoured = None
    if store is not None:
        honoured, store_code = _store(store)
        exit_code = exit_code or store_code
    present, missing = _codecs()
    return Findings(
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}",
        cores=available_cores(),
        devices=devices,
        engines=found,
        chosen=chosen,
        native=_native(),
        opencv=_opencv(),
        decoders={place: _decoder(place) for place in places},
        png=_png(),
        codecs=present,
        codecs_missing=missing,
        limits=asdict(base.MemoryLimits()),
        pixels=_pixels(),
        store=honoured,
        exit_code=exit_code,
    )


def _devices() -> list[str]:
    if fault := torch_fault():
        return [f"cpu only ({fault})"]
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}, but no driver or device answers" if built else "torch is a CPU build"
        return [f"cpu only ({why})"]
    names = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return ["cpu", *names]


def _decoder(place: str) -> str:
    """What `--decoder` can have decoded there."""
    if place == "cpu":
        return "every video"
    from gpu_extract.frames.video.hardware import CODECS, CODECS_OF_10_BITS, decoder_of, device_obstacle

    obstacles = {codec: device_obstacle(place, decoder_of(codec)) for codec in CODECS}
    able = [codec for codec, obstacle in obstacles.items() if obstacle is None]
    if not able:
        return f"none, {obstacles[CODECS[0]]}"
    deep = ", ".join(codec for codec in able if codec in CODECS_OF_10_BITS)
    return f"{', '.join(able)} of 4:2:0 and 8 bits" + (f"; of 10 bits {deep}" if deep else "")


def _store(address: str) -> tuple[str, int]:
    """What a bucket was seen to do, and the exit code that it comes to."""
    url = url_of(address)
    if url is None:
        raise UsageError(f"store {address!r} is no address; those of buckets begin with s3://, gs:// or az://.")
    found = probe(open_store(url), url)
    verdict = "extract and merge can write there" if found.all else "nothing is written there"
    return f"{url}: {found}; {verdict}", EXIT_OK if found.all else OutputError.exit_code


def _native() -> dict[str, str]:
    from gpu_extract.kernels import columns, cpu, cutter, inflate, jpeg, opcodes, png, scanlines, yuv

    parts = {"cutter": cutter, "sampler": cpu, "png": png, "yuv": yuv, "scanlines": scanlines, "jpeg": jpeg}
    parts |= {"opcodes": opcodes, "columns": columns, "inflate": inflate}
    return {name: BUILT if parts[name].is_available() else stand_in for name, stand_in in STAND_INS.items()}


def _opencv() -> list[str]:
    names = {found.name for found in distributions()}
    return [build for build in OPENCV_BUILDS if build in names]


def _png() -> dict[str, str]:
    from gpu_extract.frames.images import plain_png as reader
    from gpu_extract.kernels import png as writer

    return {
        "write": "own" if writer.is_available() else "own, in NumPy (the C extension was not built)",
        "read": "own, OpenCV for unusual files" if reader.is_available() else "OpenCV",
        "also writes": " ".join(extension for extension in extensions() if extension != ".png"),
    }


def _pixels() -> str | None:
    """What a processor other than x86-64 makes of videos."""
    from gpu_extract.frames.video import processor, yuv

    if processor.is_x86():
        return None
    alike = ", ".join(yuv.formats_like_x86()) or "none"
    return f"of videos with even sides, {alike}: as on x86-64; other 4:2:0 and 4:2:2: a few levels away, other hashes"


def _codecs() -> tuple[list[str], list[str]]:
    import av

    present = [name for name in CODECS if name in av.codecs_available]
    return present, [name for name in CODECS if name not in present]
