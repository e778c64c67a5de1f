"""Re-extract aligned faces from an alignments file and the frames it was made from.

>>> import gpu_extract
>>> report = gpu_extract.extract("alignments.fsa", "clip.mp4", "faces/", size=256)
>>> report.faces_written, report.exit_code
>>> for face in gpu_extract.faces("alignments.fsa", "clip.mp4", size=256):
...     face.pixels, face.landmarks_in_crop
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpu_extract.alignments import Alignments
    from gpu_extract.errors import (
        AlignmentsChangedError,
        AlignmentsError,
        DeviceError,
        FrameError,
        GpuExtractError,
        InputError,
        InterruptedRunError,
        OutputError,
        UnsafePickleError,
        UsageError,
    )
    from gpu_extract.faces.face import Face
    from gpu_extract.faces.header import FaceFile, read_face
    from gpu_extract.jobs.extract import extract
    from gpu_extract.jobs.faces import FaceSource, faces
    from gpu_extract.reports.extraction import Report
    from gpu_extract.run.progress import Finished, FrameDone, Note, Planned

_HOME = {
    "Alignments": "alignments",
    "AlignmentsChangedError": "errors",
    "AlignmentsError": "errors",
    "DeviceError": "errors",
    "Face": "faces.face",
    "FaceFile": "faces.header",
    "FaceSource": "jobs.faces",
    "Finished": "run.progress",
    "FrameDone": "run.progress",
    "FrameError": "errors",
    "GpuExtractError": "errors",
    "InputError": "errors",
    "InterruptedRunError": "errors",
    "Note": "run.progress",
    "OutputError": "errors",
    "Planned": "run.progress",
    "Report": "reports.extraction",
    "UnsafePickleError": "errors",
    "UsageError": "errors",
    "extract": "jobs.extract",
    "faces": "faces",
    "read_face": "faces.header",
}

__all__ = [
    "Alignments",
    "AlignmentsChangedError",
    "AlignmentsError",
    "DeviceError",
    "Face",
    "FaceFile",
    "FaceSource",
    "Finished",
    "FrameDone",
    "FrameError",
    "GpuExtractError",
    "InputError",
    "InterruptedRunError",
    "Note",
    "OutputError",
    "Planned",
    "Report",
    "UnsafePickleError",
    "UsageError",
    "extract",
    "faces",
    "read_face",
]

_ROOMS = ("faces", "torch")
"""Rooms that are there without an import of their own."""


def __getattr__(name: str) -> object:
    """Names are loaded when first used: `gpu-extract --help` must not wait for NumPy."""
    if name not in _HOME and name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = importlib.import_module(f"{__name__}.{_HOME.get(name, name)}")
    if name in _ROOMS:
        return home
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Faces(ModuleType):
    """The room `faces`, called as the function that has the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from gpu_extract.jobs.faces import faces

        return faces(*arguments, **options)


class _Door(ModuleType):
    """This package. Whoever imports something from the room `faces` sets it as an attribute here."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "faces" and isinstance(value, ModuleType):
            value.__class__ = _Faces
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
