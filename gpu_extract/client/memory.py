"""What a submission must remember, so that the same command goes on where it was cut: small files of the user's.

They lie in `gpu-extract` of the user's folder of states: the faces folder is to hold what a run here would have left.
One is of each faces folder that a submission fills, one of each file that was uploaded. No token is in any.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gpu_extract.client.packing import Packed
from gpu_extract.errors import AlignmentsError, InputError, OutputError
from gpu_extract.storage.atomic import locked, write_whole
from gpu_extract.storage.inputs import open_input

NAME = "gpu-extract"
KEPT_SECONDS = 30 * 86400.0
WHAT = "the record of a submission"


@dataclass
class Record:
    """How far a submission is.

    Attributes:
        command: what was asked for, by which the same command knows itself again.
        job: its id on the server.
        sent: whether the server has it.
        before: BLAKE2b, in hex, of the alignments file as it was sent; None where it was not sent from here.
        frames_folder: the name of the folder of images that was sent from here.
        begun: whether faces were put into the folder.
        brought: whether all of them are there, with the journal.
        backup: of the alignments file, once it was made.
        unsaved: where the new alignments file was put since the old one was changed meanwhile.
        after: as `before`, of the file that was saved.
        report: of the run, once all is done.
    """

    command: dict[str, Any]
    job: str
    sent: bool = False
    before: str | None = None
    frames_folder: str | None = None
    begun: bool = False
    brought: bool = False
    backup: str | None = None
    unsaved: str | None = None
    after: str | None = None
    report: dict[str, Any] | None = field(default=None)


class Memory:
    """The user's folder of what is remembered.

    Raises:
        OutputError: if it cannot be made.
    """

    def __init__(self) -> None:
        usual = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 (no home, no error)
        self._folder = Path(usual) / NAME
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self._folder}, where submit remembers how far it is, cannot be made ({error.strerror}); set "
                "XDG_STATE_HOME to a folder that can be written."
            ) from error

    @contextmanager
    def alone(self, faces: Path) -> Iterator[None]:
        """Keep a second submission out of a faces folder, and forget what is old.

        Raises:
            OutputError: if there is one.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._of_faces(faces)))
            except AlignmentsError:
                raise OutputError(
                    f"another gpu-extract submit works on {faces}; wait for it, or name another folder."
                ) from None
            self._forget_what_is_old()
            yield

    def record(self, faces: Path) -> Record | None:
        """How far the submission is that fills a folder; None where there is none, or its record is torn."""
        found = _read(self._of_faces(faces))
        if found is None or not found.keys() <= {field.name for field in fields(Record)}:
            return None
        with suppress(TypeError):
            return Record(**found)
        return None

    def keep(self, faces: Path, record: Record) -> None:
        """
        Raises:
            OutputError: if the disk refuses.
        """
        write_whole(self._of_faces(faces), [json.dumps(asdict(record)).encode()])

    def forget(self, faces: Path) -> None:
        for path in (self._of_faces(faces), self.log(faces)):
            path.unlink(missing_ok=True)

    def log(self, faces: Path) -> Path:
        """Where `Arrived` keeps what has come into a folder."""
        return self._of_faces(faces).with_suffix(".log")

    def upload(self, url: str, path: Path, known_by: list[Any]) -> str | None:
        """The upload that was begun of a file or folder; None where there is none.

        Args:
            known_by: by what it is known as it is now, see `identity`.
        """
        found = _read(self._of_upload(url, path))
        return found["upload"] if found is not None and found.get("file") == known_by else None

    def keep_upload(self, url: str, path: Path, known_by: list[Any], upload: str) -> None:
        """
        Raises:
            OutputError: if the disk refuses.
        """
        write_whole(self._of_upload(url, path), [json.dumps({"file": known_by, "upload": upload}).encode()])

    def _of_faces(self, faces: Path) -> Path:
        return self._folder / f"submission-{_digest(os.path.realpath(faces))}.json"

    def _of_upload(self, url: str, path: Path) -> Path:
        return self._folder / f"upload-{_digest(url, os.path.realpath(path))}.json"

    def _forget_what_is_old(self) -> None:
        now = time.time()
        for path in (*self._folder.glob("*.json"), *self._folder.glob("*.log")):
            with suppress(OSError):
                if path.stat().st_mtime + KEPT_SECONDS < now:
                    path.unlink()


def identity(path: Path) -> list[Any]:
    """By what a file is known again: its name, size and time; a folder of images by those of all.

    Raises:
        InputError: if it cannot be looked at.
    """
    if path.is_dir():
        return Packed(path).identity
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return [path.name, status.st_size, status.st_mtime_ns]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    with open_input(path, WHAT) as file, suppress(ValueError):
        found = json.load(file)
        return found if isinstance(found, dict) else None
    return None


def _digest(*words: str) -> str:
    return hashlib.blake2b("\0".join(words).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
