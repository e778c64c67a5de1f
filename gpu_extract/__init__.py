"""Re-extract aligned faces from an alignments file and the frames it was made from.

>>> import gpu_extract
>>> report = gpu_extract.extract("alignments.fsa", "clip.mp4", "faces/", size=256)
>>> report.faces_written, report.exit_code
>>> for face in gpu_extract.faces("alignments.fsa", "clip.mp4", size=256):
...     face.pixels, face.landmarks_in_crop
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from gpu_extract.face_files.face import Face
    from gpu_extract.face_files.header import FaceFile, read_face
    from gpu_extract.jobs.extract import extract
    from gpu_extract.jobs.faces import FaceSource, faces
    from gpu_extract.reports.extraction import Report
    from gpu_extract.run.progress import Finished, FrameDone, Note, Planned

_HOME = {
    "Alignments": "alignments",
    "AlignmentsChangedError": "errors",
    "AlignmentsError": "errors",
    "DeviceError": "errors",
    "Face": "face_files.face",
    "FaceFile": "face_files.header",
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
    "faces": "jobs.faces",
    "read_face": "face_files.header",
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


def __getattr__(name: str) -> object:
    """Names are loaded when first used: `gpu-extract --help` must not wait for NumPy."""
    import importlib

    if name == "torch":  # a room that is there without an import of its own
        return importlib.import_module(f"{__name__}.torch")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
