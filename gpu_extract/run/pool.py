"""Threads for much of one kind, such as the files of a folder; one a core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from gpu_extract.run.threads import available_cores


class Pool(ThreadPoolExecutor):
    """Threads that do no more where the block they are for ends by an error, or is interrupted.

    A plain executor does all that it was given before the block is left, and a folder may hold a million files.
    """

    def __init__(self) -> None:
        super().__init__(available_cores())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=kind is not None)
