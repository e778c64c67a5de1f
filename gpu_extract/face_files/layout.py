"""How face files lie in the faces folder, one module of `layouts/` a layout.

A module offers `LAYOUT`, a subclass of `Layout`; its name is the module's, with hyphens. Adding a layout
is adding a module.

    flat         <frame>_<index>.png, as the reference writes them
    by-frame     flat up to 10,000 faces; beyond that no folder holds more than 10,000 entries
    webdataset   numbered tar shards; each sample an image and a JSON of what is known of it
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gpu_extract import plugins
from gpu_extract.errors import UsageError
from gpu_extract.naming import stem_of

if TYPE_CHECKING:
    import numpy as np

    from gpu_extract.tasks import FrameResult, FrameTask

LAYOUTS = "gpu_extract.face_files.layouts"

Sidecar = Callable[[], dict[str, Any]]
"""What is known of a face, as plain JSON values; called only by layouts that store it."""


class Layout(ABC):
    """Takes encoded faces from many threads and puts them where they belong.

    Attributes:
        in_archives: faces are members of archives, where everything that has one name before its extension is one
            sample; else they are files, whose names are what the file system makes of them.
        flushes: what `commit` and `finish` return survives a power cut.
    """

    in_archives: ClassVar[bool] = False
    flushes: ClassVar[bool] = False

    def __init__(self, folder: Path, positions: np.ndarray, face_count: int, archive_prefix: str = "") -> None:
        """
        Args:
            folder: the faces folder; it is there already.
            positions: [N] int64 ascending, the frames that `commit` will be given (not those of an earlier run).
            face_count: faces of the whole job, those of an earlier run and of other shards among them.
            archive_prefix: how the names of archives begin, where others write some into the same folder.
        """
        self._folder = folder

    @abstractmethod
    def place(self, task: FrameTask, k: int, name: str) -> str:
        """Where `store` puts a face, relative to the folder; for archives, its name inside whichever holds it.

        Raises:
            OSError: EINVAL if the frame's name cannot be part of a path.
        """

    @abstractmethod
    def store(self, task: FrameTask, k: int, name: str, data: bytes, sidecar: Sidecar) -> str:
        """Take the k-th face of a frame; called from many threads at once.

        Args:
            name: the file's name in a flat folder.
            data: the file's bytes.

        Returns:
            Where the face is (or, until `commit`, will be), relative to the folder.

        Raises:
            OSError: if it cannot be written; EINVAL, EILSEQ or ENAMETOOLONG speak of this name only.
        """

    def inside(self, task: FrameTask) -> str | None:
        """The folder of a frame's files, which `store` would write under their flat names, with nothing beside them.

        Returns:
            Relative to the faces folder, "" or with a slash at its end, and it is there; None where faces are stored
            in any other way.

        Raises:
            OSError: if it cannot be made.
        """
        return None

    def stem(self, frame_name: str) -> str:
        """How the names of a frame's face files begin, before `_<index>`."""
        return stem_of(frame_name)

    def beside(self, task: FrameTask, k: int, place: str, sidecar: Sidecar) -> tuple[str, bytes] | None:
        """Name and content of what `store` puts beside the face's file at `place`; None where that is nothing."""
        return None

    def commit(self, result: FrameResult) -> list[FrameResult]:
        """A frame is done; called from one thread, in the order of completion, once for each frame, failed or not.

        Returns:
            Frames whose files are now whole under their final names, in the order of their positions.

        Raises:
            OutputError: if the files cannot be written.
        """
        return [result]

    def finish(self) -> list[FrameResult]:
        """The end of a run, complete or stopped early; returns the frames that became whole by it.

        What `commit` and `finish` never return is not on the disk, and the next run does it again.

        Raises:
            OutputError: if the files cannot be written.
        """
        return []

    def abandon(self) -> None:
        """The end after an error: remove what is unfinished, close what is open. Harmless after `finish`."""
        return

    @classmethod
    def holder(cls, folder: Path) -> Callable[[str, int], bool]:
        """Tells of faces that an earlier run stored whether they are still there, whole as far as sizes tell.

        Returns:
            holds(file_name, nbytes): the name relative to the folder, as `store` or `commit` left it, and the bytes
            of the face's file.
        """

        inside = os.fspath(folder)

        def holds(file_name: str, nbytes: int) -> bool:
            try:
                # A Path for each would take twice as long.
                return os.stat(f"{inside}/{file_name}").st_size == nbytes  # noqa: PTH116
            except OSError:
                return False

        return holds


def layouts() -> list[str]:
    """Names of the layouts, sorted."""
    return [name.replace("_", "-") for name in plugins.names(LAYOUTS)]


def layout_for(name: str) -> type[Layout]:
    """The class of the layout of that name.

    Raises:
        UsageError: if there is none of that name.
    """
    if name not in layouts():
        raise UsageError(f"output layout {name!r} is not understood; {', '.join(layouts())} are.")
    layout: type[Layout] = plugins.module(LAYOUTS, name.replace("-", "_")).LAYOUT
    return layout
