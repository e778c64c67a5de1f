"""A job's faces, brought into a folder here as if the run had been here: every file whole, the journal last."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpu_extract.client.archive import EndedError, Member, members
from gpu_extract.client.server import CutError, Server, quoted
from gpu_extract.errors import InputError, OutputError
from gpu_extract.storage.atomic import write_all, write_whole
from gpu_extract.storage.descriptors import closing, open_beyond_standard
from gpu_extract.storage.durable import sync_file_system
from gpu_extract.storage.parts import MAX_NAME_BYTES, TEMPORARY_PREFIX, temporary_name

if TYPE_CHECKING:
    from gpu_extract.run.journal import Finished

LISTED = 10_000
MOST_DEEP = 8
METADATA = ("faces.jsonl", "faces.parquet")
"""Beside the faces, where the job was to write it."""
JOURNAL_BYTES, JOURNAL_BYTES_A_FACE = 64 << 20, 8 << 10
"""More than any journal has."""
SETTLE_SECONDS = 5.0
TELL_SECONDS = 10.0
GO_ON = "when that is solved, run the same command again to go on"


class Listed(NamedTuple):
    """The files of a job, in the archive's order."""

    sizes: dict[str, int | None]
    """By name; None of files that hold many faces."""
    faces: int


def fetch(
    server: Server,
    job: str,
    folder: Path,
    *,
    begun: int = 0,
    settled: Callable[[int], None] = lambda count: None,
    source_name: str | None = None,
) -> None:
    """Bring the faces of a job that has ended well; go on where an earlier try was cut.

    Args:
        folder: which is there, and empty or of an earlier try.
        begun: files, from the beginning, that an earlier try had on the disk.
        settled: told how many are, now and then.
        source_name: of the folder of frames here, where they were uploaded: the server has another name for it.

    Raises:
        InputError: for faces that are not what the server says of them, or are no faces.
        OutputError: if the disk refuses.
        GpuExtractError: if the server refuses, or is away for too long.
    """
    from gpu_extract.run import journal

    listed = _listed(server, job)
    names = list(listed.sizes)
    at = _first_to_fetch(folder, listed, begun)
    _check_room(folder, listed, names[at:])
    inbox = _Inbox(folder, listed, names, at, settled, server.note)
    while inbox.journal is None:
        try:
            with server.stream("GET", f"/v1/jobs/{quoted(job)}/faces.tar?skip={inbox.at}") as answer:
                for member in members(answer):
                    server.heard()
                    inbox.take(member)
                    server.heard()
            if inbox.journal is None:
                raise InputError("the server's archive of faces has no journal; the job's folder there is not whole.")
        except EndedError:
            server.wait_out(CutError("the connection ended"))
        except CutError as error:
            server.wait_out(error)
    lines = inbox.journal.splitlines(keepends=True)
    entries = [entry for entry in map(journal.parse, lines) if entry is not None]
    if len(entries) != len(lines) or not entries or entries[0].get("journal") != journal.VERSION:
        raise InputError("the journal of the server's faces is not whole, or of another version of this program.")
    _check_all_there(folder, listed, journal.frames_of(entries[1:]).values())
    if source_name is not None:
        entries[0]["settings"]["frames"] = source_name
        lines[0] = journal.line(entries[0])
    _settle(folder)
    write_whole(folder / journal.NAME, lines)
    settled(len(names))


def _listed(server: Server, job: str) -> Listed:
    sizes: dict[str, int | None] = {}
    faces, place = 0, ""
    while True:
        query = f"?limit={LISTED}" + (f"&after={quoted(place)}" if place else "")
        answer = server.ask("GET", f"/v1/jobs/{quoted(job)}/faces{query}")
        for line in answer.body.splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                face = json.loads(line)
                if "archive" in face:
                    sizes[str(face["archive"])] = None
                else:
                    sizes[str(face["file"])] = int(face["bytes"])
                faces += 1
                continue
            raise InputError("the server's list of faces is not understood.")
        place = answer.headers.get("X-Next", "")
        if answer.headers.get("X-More") != "true":
            break
    for name in sizes:
        check_inside(name)
    return Listed(sizes, faces)


def check_inside(name: str) -> None:
    """Refuse the name of a face that would not lie where faces lie.

    Raises:
        InputError: for a path that leads elsewhere, or takes the name of a file of ours.
    """
    parts = name.split("/")
    harmless = len(parts) <= MOST_DEEP and all(
        part not in ("", ".", "..") and "\0" not in part and len(os.fsencode(part)) <= MAX_NAME_BYTES for part in parts
    )
    if (
        not harmless
        or parts[-1].startswith((TEMPORARY_PREFIX, ".gpu-extract."))
        or any(part.startswith(".") for part in parts[:-1])
    ):
        raise InputError(f"the server has a face with the name {name[:200]!r}, which is refused; nothing is written.")


class _Inbox:
    """What comes of an archive, put where it belongs."""

    def __init__(
        self,
        folder: Path,
        listed: Listed,
        names: list[str],
        at: int,
        settled: Callable[[int], None],
        note: Callable[[str], None],
    ) -> None:
        self._folder, self._sizes, self._faces = folder, listed.sizes, listed.faces
        self._place = {name: number for number, name in enumerate(names)}
        self._count, self._settled, self._note = len(names), settled, note
        self.at = at
        self.journal: bytes | None = None
        self._settled_at = self._told_at = time.monotonic()
        self._folders: set[Path] = set()

    def take(self, member: Member) -> None:
        """Write a member, or keep it where it is the journal.

        Raises:
            InputError: if it is none of what was listed, or not as it was.
            OutputError: if the disk refuses.
        """
        from gpu_extract.run import journal

        if member.name == journal.NAME:
            if member.size > JOURNAL_BYTES + JOURNAL_BYTES_A_FACE * self._faces:
                raise InputError(f"the journal of the server's faces has {member.size:,} bytes, which is refused.")
            self.journal = b"".join(_checked(member))
        elif member.name in METADATA and member.name not in self._place:
            self._write(member)
        else:
            place = self._place.get(member.name, -1)
            if place < self.at:
                raise InputError(f"the server sends {member.name[:200]!r}, which it did not list; that is refused.")
            # What an earlier attempt of the job left is replaced by the last one that its journal names.
            size = self._sizes[member.name]
            if size is not None and member.size != size:
                raise InputError(
                    f"the server sends {member.name[:200]!r} with {member.size:,} bytes instead of {size:,}; "
                    "that is refused."
                )
            self._write(member)
            self.at = place + 1
        self._now_and_then()

    def _write(self, member: Member) -> None:
        *folders, name = member.name.split("/")
        folder = self._folder.joinpath(*folders)
        temporary = folder / temporary_name(name)
        blocks = _checked(member)
        try:
            self._make(folder)
            with suppress(FileNotFoundError):
                temporary.unlink()
            handle = open_beyond_standard(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        except OSError as error:
            raise self._refused(error) from error
        try:
            with closing(handle):
                for block in blocks:
                    try:
                        write_all(handle, block)
                    except OSError as error:
                        raise self._refused(error) from error
            try:
                temporary.rename(folder / name)
            except OSError as error:
                raise self._refused(error) from error
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _make(self, folder: Path) -> None:
        if folder in self._folders or folder == self._folder:
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        if folder.is_symlink():
            raise OutputError(f"{folder} is a link, which no run makes; name another faces folder.")
        self._folders.add(folder)

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"the faces folder {self._folder} takes no more ({error.strerror}); {GO_ON}.")

    def _now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._settled_at >= SETTLE_SECONDS:
            if _settle(self._folder):
                self._settled(self.at)
            self._settled_at = time.monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            self._note(f"{self.at:,} of {self._count:,} files are here.")


def _checked(member: Member) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for block in member.blocks():
        digest.update(block)
        yield block
    if member.sha256 not in (None, digest.hexdigest()):
        raise InputError(f"{member.name[:200]!r} was altered on its way; run the same command again.")


def _first_to_fetch(folder: Path, listed: Listed, begun: int) -> int:
    """The first file that is not here as it was listed; those behind what was settled may have been lost."""
    for number, (name, size) in enumerate(listed.sizes.items()):
        if number >= begun:
            break
        try:
            status = (folder / name).stat()
        except OSError:
            return number
        if size not in (None, status.st_size):
            return number
    return min(begun, len(listed.sizes))


def _check_room(folder: Path, listed: Listed, names: list[str]) -> None:
    wanted = sum(listed.sizes[name] or 0 for name in names)
    try:
        found = os.statvfs(folder)
    except OSError:
        return
    free = found.f_bavail * found.f_frsize
    if wanted > free:
        raise OutputError(
            f"the faces need {wanted / 1e6:,.0f} MB, and the disk of {folder} has {free / 1e6:,.0f}; {GO_ON}."
        )


def _check_all_there(folder: Path, listed: Listed, frames: Iterable[Finished]) -> None:
    """
    Raises:
        InputError: if a face of the journal did not come.
    """
    for frame in frames:
        for face in frame.faces:
            name = face.file_name
            check_inside(name)
            first = name.partition("/")[0]
            try:
                if first != name and listed.sizes.get(first, 0) is None:
                    whole = (folder / first).is_file()
                else:
                    whole = (folder / name).stat().st_size == face.nbytes
            except OSError:
                whole = False
            if not whole:
                raise InputError(
                    f"the server did not send {name[:200]!r}, which its journal names; the job there is not whole."
                )


def _settle(folder: Path) -> bool:
    try:
        return sync_file_system(folder)
    except OSError as error:
        raise OutputError(f"the faces in {folder} cannot be saved ({error.strerror}); {GO_ON}.") from error
