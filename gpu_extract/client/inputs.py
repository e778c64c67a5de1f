"""The inputs of a job on their way to its server: each is sent once, and goes on where it was cut."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gpu_extract.client.memory import Memory, identity
from gpu_extract.client.packing import Packed
from gpu_extract.client.remote import Client, InRoot, in_root
from gpu_extract.client.uploads import begin
from gpu_extract.client.wish import Place
from gpu_extract.errors import InputError
from gpu_extract.storage.atomic import digest_of


class Inputs:
    """The alignments file and the frames of a job; None where only its result is wanted."""

    def __init__(self, client: Client, memory: Memory, alignments: Place | None, frames: Place | None) -> None:
        self._client, self._memory = client, memory
        self.alignments, self.frames = alignments, frames

    @property
    def words(self) -> dict[str, Any]:
        """By which the same inputs are known again."""
        return {
            "alignments": _named(self.alignments),
            "frames": _named(self.frames),
            "frames_are": identity(self.frames) if isinstance(self.frames, Path) else None,
        }

    @property
    def frames_folder(self) -> str | None:
        """The name of the folder of images, where it is one of this machine."""
        return self.frames.name if isinstance(self.frames, Path) and self.frames.is_dir() else None

    def digest(self) -> str | None:
        """BLAKE2b, in hex, of the alignments file as it is now; None where it is none of this machine."""
        return digest_of(self.alignments).hex() if isinstance(self.alignments, Path) else None

    def sent(self, before: str | None) -> dict[str, Any]:
        """Both as a request has them, once they are on the server.

        Args:
            before: the digest that the alignments file is to have.

        Raises:
            InputError: if it has another one, or one of both changes meanwhile.
        """
        alignments = self._sent(self.alignments)
        if self.digest() != before:
            raise InputError(f"{self.alignments} changed while it was uploaded; run the same command again.")
        return {"alignments": alignments, "frames": self._sent(self.frames)}

    def forget_folder(self) -> None:
        """What a server has of a folder is the job's by now, and would lie there twice for a day."""
        if isinstance(self.frames, Path) and self.frames.is_dir():
            known = self._memory.upload(self._client.url, self.frames, identity(self.frames))
            if known is not None:
                self._client.forget(known)

    def _sent(self, place: Place | None) -> dict[str, Any]:
        if isinstance(place, InRoot):
            return in_root(place)
        assert place is not None
        return {"upload": self._upload(place)}

    def _upload(self, path: Path) -> str:
        url = self._client.url
        packed = Packed(path) if path.is_dir() else None
        known_by = identity(path) if packed is None else packed.identity
        known = self._memory.upload(url, path, known_by)
        if known is None:
            name, size = (path.name, known_by[1]) if packed is None else (packed.name, packed.size)
            known = begin(self._client.server, name, size)
            self._memory.keep_upload(url, path, known_by, known)
        found = self._client.upload(path, known) if packed is None else self._client.send(packed, known)
        if found != known:
            self._memory.keep_upload(url, path, known_by, found)
        return found


def _named(place: Place | None) -> str:
    return str(place) if isinstance(place, InRoot) else os.path.realpath(str(place))
