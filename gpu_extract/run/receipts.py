"""The journals of a run's shards, taken together: what they cover, and their end in one journal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpu_extract.errors import OutputError
from gpu_extract.run.fingerprint import Fingerprint
from gpu_extract.run.journal import (
    NAME,
    Finished,
    Journal,
    exists,
    first_entry,
    frame_entry,
    line,
    name_of,
    receipts,
)
from gpu_extract.run.shard import Shard
from gpu_extract.storage.atomic import write_whole
from gpu_extract.tasks import Failure


class Receipts:
    """All journals of a folder, locked; a context manager.

    Raises:
        UsageError: if one has other settings than the run that takes them.
        OutputError: if one cannot be read, or a shard is being cut.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._stack = ExitStack()
        self.of_shard: dict[Shard, Journal] = {}
        self.whole: Journal | None = None
        """Of a run that took some shards over already."""

    def __enter__(self) -> Self:
        try:
            if exists(self._folder):
                self.whole = Journal.resume(self._folder, self._fingerprint)
                self._stack.callback(self.whole.close)
            for shard in receipts(self._folder):
                self.of_shard[shard] = journal = Journal.resume(self._folder, self._fingerprint, shard)
                self._stack.callback(journal.close)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def journals(self) -> list[Journal]:
        return [*self.of_shard.values(), *([] if self.whole is None else [self.whole])]

    @property
    def count(self) -> int | None:
        """In how many shards the run was divided; None where nothing tells."""
        return max((shard.count for shard in self.of_shard), default=None)

    @property
    def finished(self) -> dict[int, Finished]:
        """Frames by their keys, from all journals.

        Raises:
            OutputError: if two have one frame and do not agree.
        """
        found: dict[int, Finished] = {}
        for journal in self.journals:
            for key, frame in journal.finished.items():
                other = found.setdefault(key, frame)
                if _hashes(other) != _hashes(frame):
                    raise OutputError(
                        f"two journals in {self._folder} have other hashes for frame number {frame.position + 1}; "
                        "they are not of one run."
                    )
        return found

    @property
    def reports(self) -> dict[Shard, dict[str, Any]]:
        """Of the shards that went over all their frames."""
        return {shard: journal.report for shard, journal in self.of_shard.items() if journal.report is not None}

    @property
    def reports_of_all(self) -> list[dict[str, Any]]:
        """These, and that of an earlier merge, which speaks for the receipts that it did not come to remove."""
        merged = None if self.whole is None else self.whole.report
        if self.whole is None or merged is None:
            return [*self.reports.values()]
        known = self.whole.finished.keys()
        new = [journal.report for journal in self.of_shard.values() if not journal.finished.keys() <= known]
        return [merged, *(report for report in new if report is not None)]

    @property
    def failures(self) -> list[Failure]:
        """Frames and faces that shards could not cut."""
        errors = [error for report in self.reports_of_all for error in report["errors"]]
        return [Failure(error["frame"], error["index"], error["reason"]) for error in errors]

    def adopt(self, report: dict[str, Any] | None = None) -> None:
        """Make one journal of all and remove the others. Killed at any time, it can be done again.

        Args:
            report: what a later merge must know beside the frames.

        Raises:
            OutputError: if the disk refuses; the receipts then are as they were.
        """
        write_whole(self._folder / NAME, map(line, self._entries(report)))
        for shard in self.of_shard:
            (self._folder / name_of(shard)).unlink(missing_ok=True)

    def _entries(self, report: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        finished = sorted(self.finished.values(), key=lambda frame: frame.position)
        unsettled: set[int] = set().union(*(journal.unsettled for journal in self.journals))
        yield first_entry(self._fingerprint)
        settled = [frame for frame in finished if frame.key not in unsettled]
        yield from map(frame_entry, settled)
        if settled:
            yield {"settled": len(settled)}
        yield from (frame_entry(frame) for frame in finished if frame.key in unsettled)
        seen = [journal.frames_seen for journal in self.journals if journal.frames_seen is not None]
        if seen:
            yield {"frames_seen": max(seen)}
        if report is not None:
            yield {"report": report}


def _hashes(frame: Finished) -> list[tuple[int, str]]:
    return sorted((face.row, face.sha1) for face in frame.faces)
