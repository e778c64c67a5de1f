"""A job's faces, brought into a folder here while the job makes them, as if it ran here: the journal comes last."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from gpu_extract.client.archive import EndedError, Member, members
from gpu_extract.client.arrived import Arrived
from gpu_extract.client.inbox import Inbox
from gpu_extract.client.listing import Page, check_inside, file_of, listed
from gpu_extract.client.server import CutError, Server, quoted
from gpu_extract.errors import InputError
from gpu_extract.run import journal
from gpu_extract.storage.atomic import write_whole
from gpu_extract.storage.inputs import open_input

FILES_AT_ONCE = 500
READ_BYTES = 1 << 18
MOST_BEHIND = 1 << 16
"""What an archive's end is filled up with."""
METADATA = ("faces.jsonl", "faces.parquet")
"""Beside the faces, where the job was to write it."""
JOURNAL_BYTES, JOURNAL_BYTES_A_FACE = 64 << 20, 8 << 10
"""More than any journal has."""


class Fetching:
    """The faces of one job on their way into a folder.

    All methods raise InputError for faces that are not what the server says of them, OutputError if the disk refuses,
    and what `Server` raises if the server refuses or is away for too long. After each the same can be done again.

    Args:
        arrived: the files that are in the folder.
        on_frame: told of each frame, as its faces are listed, once they are here.

    Attributes:
        faces: how many are here, or were.
    """

    def __init__(
        self,
        server: Server,
        job: str,
        folder: Path,
        arrived: Arrived,
        on_frame: Callable[[list[dict[str, Any]]], None] = lambda faces: None,
    ) -> None:
        self._server, self._job, self._folder = server, job, folder
        self._arrived, self._inbox, self._on_frame = arrived, Inbox(folder, arrived), on_frame
        self._place = ""
        self.faces = 0

    def catch_up(self) -> bool:
        """Bring what the job has made since the last time; returns whether that was anything."""
        found, more = False, True
        while more:
            page = listed(self._server, self._job, self._place)
            self._bring(page)
            found |= bool(page.frames)
            self._place, more = page.place, page.more
        self._arrived.settle_when_due()
        return found

    def finish(self, source_name: str | None = None) -> None:
        """Bring what comes last, of a job that has ended well: metadata, and the journal when all faces are here.

        Args:
            source_name: of the folder of frames here, where they were uploaded: the server has another name for it.
        """
        whole = False
        while not whole:
            try:
                with self._sent([*METADATA, journal.NAME]) as found:
                    for member in found:
                        if member.name == journal.NAME:
                            self._take_journal(member, source_name)
                            whole = True
                        elif member.name in METADATA:
                            self._inbox.put(member)
                        else:
                            raise _not_asked_for(member)
                if not whole:
                    raise InputError("the server has no journal of these faces; the job's folder there is not whole.")
            except CutError as error:
                self._server.wait_out(error)

    def _bring(self, page: Page) -> None:
        wanted = {file: size for file, size in page.sizes.items() if self._inbox.lacks(file, size)}
        frames = iter(page.frames)
        frame = self._told_until(wanted, frames, next(frames, None))
        while wanted:
            self._inbox.check_room(wanted.values())
            asked = list(islice(wanted, FILES_AT_ONCE))
            try:
                with self._sent(asked) as found:
                    for member in found:
                        self._take(member, wanted)
                        frame = self._told_until(wanted, frames, frame)
                        self._arrived.settle_when_due()
                if missing := next((name for name in asked if name in wanted), None):
                    raise InputError(
                        f"the server did not send {missing[:200]!r}, which it listed; the job there is not whole."
                    )
            except CutError as error:
                self._server.wait_out(error)

    def _told_until(
        self,
        wanted: dict[str, int | None],
        frames: Iterator[list[dict[str, Any]]],
        frame: list[dict[str, Any]] | None,
    ) -> list[dict[str, Any]] | None:
        """Tell of frames from `frame` on whose faces are here; returns the first that is not whole."""
        while frame is not None and not any(file_of(face) in wanted for face in frame):
            self.faces += len(frame)
            self._on_frame(frame)
            frame = next(frames, None)
        return frame

    def _take(self, member: Member, wanted: dict[str, int | None]) -> None:
        if member.name not in wanted:
            raise _not_asked_for(member)
        size = wanted[member.name]
        if size not in (None, member.size):
            raise InputError(
                f"the server sends {member.name[:200]!r} with {member.size:,} bytes instead of {size:,}; that is "
                "refused."
            )
        self._inbox.put(member)
        del wanted[member.name]

    @contextmanager
    def _sent(self, names: list[str]) -> Iterator[Iterator[Member]]:
        """Files of the job, in one answer.

        Raises:
            CutError: if it is cut.
        """
        path, headers = f"/v1/jobs/{quoted(self._job)}/faces.tar", {"Content-Type": "application/json"}
        with self._server.stream("POST", path, body=json.dumps(names).encode(), headers=headers) as answer:
            gathered = io.BufferedReader(answer, READ_BYTES)
            try:
                yield self._heard(members(gathered))
                gathered.read(MOST_BEHIND)  # an answer that was read to its end leaves its connection
            except EndedError as error:
                raise CutError("the connection ended") from error
            finally:
                gathered.detach()

    def _heard(self, found: Iterator[Member]) -> Iterator[Member]:
        """A disk that is slow here is no silence there."""
        for member in found:
            self._server.heard()
            yield member
            self._server.heard()

    def _take_journal(self, member: Member, source_name: str | None) -> None:
        if member.size > JOURNAL_BYTES + JOURNAL_BYTES_A_FACE * self.faces:
            raise InputError(f"the journal of the server's faces has {member.size:,} bytes, which is refused.")
        with self._inbox.aside(member) as path:
            for _ in self._lines(path, source_name):  # before anything is changed
                pass
            self._arrived.settle()
            write_whole(self._folder / journal.NAME, self._lines(path, source_name))

    def _lines(self, path: Path, source_name: str | None) -> Iterator[bytes]:
        """A journal's lines, once each was looked at.

        Raises:
            InputError: if it is not whole, or names a face that did not come.
        """
        missing: dict[int, list[str]] = {}
        with open_input(path, journal.WHAT) as file:
            first = journal.parse(file.readline(journal.LONGEST_FIRST_LINE))
            if first is None or first.get("journal") != journal.VERSION:
                raise _torn()
            if source_name is not None:
                first["settings"]["frames"] = source_name
            yield journal.line(first)
            for line in file:
                entry = journal.parse(line)
                if entry is None:
                    raise _torn()
                if "void" in entry:
                    missing.clear()
                for key in entry.get("revoked", ()):
                    missing.pop(key, None)
                for key, frame in journal.frames_of([entry]).items():
                    missing[key] = [
                        face.file_name for face in frame.faces if not self._has(face.file_name, face.nbytes)
                    ]
                    if not missing[key]:
                        del missing[key]
                yield line
        if missing:
            name = next(iter(missing.values()))[0]
            raise InputError(
                f"the server did not send {name[:200]!r}, which its journal names; the job there is not whole."
            )

    def _has(self, name: str, size: int) -> bool:
        check_inside(name)
        first = name.partition("/")[0]
        in_archive = first != name and first in self._arrived
        return not self._inbox.lacks(first if in_archive else name, None if in_archive else size)


def _not_asked_for(member: Member) -> InputError:
    return InputError(f"the server sends {member.name[:200]!r}, which was not asked for; that is refused.")


def _torn() -> InputError:
    return InputError("the journal of the server's faces is not whole, or of another version of this program.")
