"""Files on their way to the server, as tus 1.0 has them: whatever cuts the way, what came is kept and the rest follows.

An upload is two files of one folder: `<id>` with its bytes, and `<id>.json` with what was said of it. The length of the
first *is* the offset; nothing else knows it, so nothing can be wrong about it after a kill. An upload is there if and
only if its JSON is.
"""

from __future__ import annotations

import asyncio
import errno
import filecmp
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gpu_extract.errors import InputError, OutputError
from gpu_extract.service.names import safe_name
from gpu_extract.service.part import Part, held, missing
from gpu_extract.service.problems import Problem
from gpu_extract.storage.atomic import write_free, write_whole
from gpu_extract.storage.descriptors import close_quietly, open_beyond_standard
from gpu_extract.storage.inputs import open_input

WHAT = "the upload"
UNFINISHED_SECONDS = 24 * 3600.0
UNUSED_SECONDS = 24 * 3600.0
WRITE_BYTES = 1 << 20
"""That are gathered before they are written: a server hands over some 64 KiB at a time."""
MOST_UPLOADS = 500
"""Of one owner: each has a file to itself, however short."""
MODE = 0o600
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """What was said of an upload when it was announced.

    Attributes:
        id: 32 hex digits of ours.
        owner: the caller's name.
        name: of a file, harmless as one; see `safe_name`.
        length: bytes it will have.
        created: seconds since 1970.
        metadata: as the client said it, to be told so again.
    """

    id: str
    owner: str
    name: str
    length: int
    created: float
    metadata: str = ""


class Uploads:
    """The folder of uploads. Methods may be called from any thread; all but `append` wait for the disk.

    Args:
        folder: of its own; made where it is not there.
        reserve_bytes: of the disk that uploads leave free.
        most_bytes: an upload may have.
        unfinished_seconds: after its last byte that an unfinished upload is kept.
        unused_seconds: after its last byte or its last claim that a finished one is kept.

    Raises:
        OutputError: if the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        reserve_bytes: int,
        most_bytes: int,
        unfinished_seconds: float = UNFINISHED_SECONDS,
        unused_seconds: float = UNUSED_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.reserve_bytes, self.most_bytes = folder, reserve_bytes, most_bytes
        self.unfinished_seconds, self.unused_seconds = unfinished_seconds, unused_seconds
        self._clock = clock
        self._creating = threading.Lock()
        self.received = 0
        """Bytes, since this was made."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder of uploads {folder} cannot be made: {error.strerror}.") from error

    # ---- one upload

    def create(
        self, owner: str, length: int, name: str, *, metadata: str = "", most_owned: int | None = None
    ) -> Upload:
        """Announce an upload; from then on its bytes are promised.

        Args:
            name: as a user gave it.
            most_owned: bytes that the owner's uploads may have together.

        Raises:
            Problem: 413 for one that is never taken, 429 for one too many of the owner's, 507 where there is no room.
        """
        if length > self.most_bytes:
            raise Problem(413, f"The file has {length:,} bytes; at most {self.most_bytes:,} are taken.")
        if most_owned is not None and length > most_owned:
            raise Problem(413, f"The file has {length:,} bytes; your uploads may have {most_owned:,} together.")
        # Two that are announced at once must not be promised the same room.
        with self._creating:
            there = self.all()
            self._check_owned([upload for upload in there if upload.owner == owner], length, most_owned)
            self._check_room(there, length)
            upload = Upload(secrets.token_hex(16), owner, safe_name(name), length, self._clock(), metadata)
            self._write(upload)
        return upload

    def find(self, upload_id: str, owner: str | None = None) -> Upload:
        """
        Args:
            owner: whose it must be; None for anybody's.

        Raises:
            Problem: 404 where there is none, 503 where what is there cannot be read.
        """
        upload = self._read(upload_id) if _ID.fullmatch(upload_id) else None
        if upload is None or owner not in (None, upload.owner):
            raise missing()
        return upload

    def offset(self, upload: Upload) -> int:
        """Bytes that came.

        Raises:
            Problem: 404 if it was removed meanwhile.
        """
        came = _status(self._bytes_of(upload.id))
        if came is None:
            raise missing()
        return came.st_size

    def expires(self, upload: Upload) -> float:
        """When the janitor takes it if nothing happens to it, in seconds since 1970."""
        came, claimed = _status(self._bytes_of(upload.id)), _status(self._words_of(upload.id))
        if came is None or claimed is None:
            return upload.created
        if came.st_size < upload.length:
            return came.st_mtime + self.unfinished_seconds
        return max(came.st_mtime, claimed.st_mtime) + self.unused_seconds

    async def append(self, upload: Upload, offset: int, chunks: AsyncIterable[bytes]) -> int:
        """Write what comes behind what came, and return the new offset. What was written stays, however this ends.

        Where the upload is complete it is on the disk when this returns.

        Raises:
            Problem: 404 if it was removed, 409 for a wrong offset, 413 for bytes beyond the announced length, 423 while
                something else is written to it, 507 if the disk refuses.
        """
        with Part(self._bytes_of(upload.id), upload.length) as part:
            if offset != part.offset:
                raise Problem(
                    409,
                    f"The upload is at {part.offset:,}, not at {offset:,}; ask for its offset and go on from there.",
                )
            begun = part.offset
            gathered = bytearray()
            try:
                async for chunk in chunks:
                    gathered += chunk
                    if len(gathered) >= WRITE_BYTES or len(gathered) > upload.length - part.offset:
                        data, gathered = bytes(gathered), bytearray()
                        await asyncio.to_thread(part.write, data)
            finally:
                try:
                    if gathered:
                        await asyncio.to_thread(part.write, bytes(gathered))
                finally:
                    self.received += part.offset - begun
            if part.offset == upload.length:
                await asyncio.to_thread(part.sync)
            return part.offset

    def terminate(self, upload: Upload) -> None:
        """
        Raises:
            Problem: 423 while something is written to it.
        """
        with held(self._bytes_of(upload.id)):
            # In this order: bytes of which nothing was said are litter, an announced upload without bytes is at 0.
            self._words_of(upload.id).unlink(missing_ok=True)
            self._bytes_of(upload.id).unlink(missing_ok=True)

    # ---- finished ones

    def finished(self, upload_id: str) -> Path:
        """The file of a finished upload.

        Raises:
            Problem: 404 where there is no upload, 409 where some of it is missing.
        """
        upload = self.find(upload_id)
        if (offset := self.offset(upload)) < upload.length:
            raise Problem(
                409, f"The upload of {upload.name} is not finished: {offset:,} of {upload.length:,} bytes are here."
            )
        return self._bytes_of(upload_id)

    def claim(self, upload_id: str, folder: Path, owner: str | None = None) -> Path:
        """A finished upload under its own name in a folder, where it stays when the upload expires.

        The bytes are not copied where the file system has links, and are on the disk; the name is so when the folder is
        flushed. Claiming twice is claiming once.

        Args:
            owner: whose it must be; None takes anybody's.

        Raises:
            Problem: as `finished`; 409 where another file has the name.
            OutputError: if the folder cannot take it.
        """
        name = self.find(upload_id, owner).name
        source, target = self.finished(upload_id), folder / name
        try:
            with open_input(source, WHAT) as file:
                # A server that was killed behind the last byte never had it put on the disk.
                os.fsync(file.fileno())
            os.utime(self._words_of(upload_id))  # not the bytes': who works with them watches their time
            _link_or_copy(source, target)
        except FileExistsError:
            raise Problem(409, f"Two files are named {target.name}; rename one and send it again.") from None
        except OSError as error:
            raise OutputError(f"{target} could not be made ({error.strerror}).") from error
        return target

    # ---- all

    def all(self) -> list[Upload]:
        """By age, as far as they can be read."""
        found = []
        for path in self.folder.glob("*.json"):
            with suppress(Problem):
                if _ID.fullmatch(path.stem) and (upload := self._read(path.stem)) is not None:
                    found.append(upload)
        return sorted(found, key=lambda upload: (upload.created, upload.id))

    def promised(self) -> int:
        """Bytes that were announced and have not come."""
        return self._promised(self.all())

    def expire(self) -> list[Upload]:
        """Remove what nobody went on with, or used; returns what was removed. What is written to now is kept."""
        now = self._clock()
        gone = []
        for upload in self.all():
            if self.expires(upload) <= now:
                with suppress(Problem):
                    self.terminate(upload)
                    gone.append(upload)
        self._remove_litter(now)
        return gone

    def _promised(self, uploads: list[Upload]) -> int:
        came = ((upload, _status(self._bytes_of(upload.id))) for upload in uploads)
        return sum(upload.length - status.st_size for upload, status in came if status is not None)

    def _check_owned(self, owned: list[Upload], length: int, most_owned: int | None) -> None:
        if len(owned) >= MOST_UPLOADS:
            raise Problem(429, f"You have {len(owned)} uploads, and may have no more; remove one, or let them expire.")
        taken = sum(upload.length for upload in owned)
        if most_owned is not None and taken + length > most_owned:
            raise Problem(
                429,
                f"Your uploads have {taken:,} bytes and may have {most_owned:,}, which {length:,} more exceed; remove "
                "one, or let them expire.",
            )

    def _check_room(self, there: list[Upload], length: int) -> None:
        free = shutil.disk_usage(self.folder).free - self.reserve_bytes - self._promised(there)
        if length > free:
            raise Problem(
                507,
                f"The file has {length:,} bytes, and the server has room for {max(0, free):,}; try again when uploads "
                "that are on their way, or old jobs, are gone.",
            )

    def _bytes_of(self, upload_id: str) -> Path:
        return self.folder / upload_id

    def _words_of(self, upload_id: str) -> Path:
        return self.folder / f"{upload_id}.json"

    def _write(self, upload: Upload) -> None:
        path = self._bytes_of(upload.id)
        try:
            close_quietly(open_beyond_standard(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
            write_whole(self._words_of(upload.id), [json.dumps(asdict(upload)).encode()])
        except (OSError, OutputError) as error:
            with suppress(OSError):
                path.unlink()
            raise Problem(507, "The server could not make a file for the upload; try again later.") from error

    def _read(self, upload_id: str) -> Upload | None:
        """None where there is none, or no JSON of ours.

        Raises:
            Problem: 503 where the system does not let us look, which is not to be taken for nothing.
        """
        try:
            with open_input(self._words_of(upload_id), WHAT) as file:
                words = json.loads(file.read())
            return Upload(**{field.name: words[field.name] for field in fields(Upload)})
        except FileNotFoundError:
            return None
        except InputError as error:
            if not isinstance(error.__cause__, OSError) or isinstance(error.__cause__, FileNotFoundError):
                return None
            raise _unreadable(error.__cause__) from error
        except OSError as error:
            raise _unreadable(error) from error
        except (ValueError, KeyError, TypeError):
            return None

    def _remove_litter(self, now: float) -> None:
        """What a kill left: bytes of which nothing was said, words without bytes, and what is not whole."""
        for path in list(self.folder.iterdir()):
            upload_id = path.name.removesuffix(".json")
            with suppress(OSError, Problem):  # what cannot be looked at stays
                if _ID.fullmatch(upload_id) and self._read(upload_id) and _status(self._bytes_of(upload_id)):
                    continue
                if path.stat().st_mtime + self.unfinished_seconds <= now:
                    path.unlink()


def _unreadable(error: OSError) -> Problem:
    why = (error.strerror or str(error)).lower()
    return Problem(503, f"What the server knows of the upload cannot be read at the moment ({why}); try again later.")


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        if not (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
            raise
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with open_input(source, WHAT) as file:
        write_free(target, iter(lambda: file.read(WRITE_BYTES), b""))
