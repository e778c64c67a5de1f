"""What a job has made so far, as its server lists it: whole frames, a page at a time, from any place on."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from gpu_extract.client.server import Server, quoted
from gpu_extract.errors import InputError
from gpu_extract.storage.parts import MAX_NAME_BYTES, TEMPORARY_PREFIX

FACES_A_PAGE = 500
MOST_DEEP = 8


@dataclass
class Page:
    """Some frames of a list.

    Attributes:
        frames: the faces of each, with `file`, `frame`, `index`, `sha1`, `bytes`, and `archive` where one holds them.
        place: behind them.
        more: whether there is more at once.
    """

    frames: list[list[dict[str, Any]]] = field(default_factory=list)
    place: str = ""
    more: bool = False

    @property
    def sizes(self) -> dict[str, int | None]:
        """Of the files in which the faces are, in the order of the frames; None of those that hold many faces."""
        return {file_of(face): None if "archive" in face else face["bytes"] for frame in self.frames for face in frame}


def listed(server: Server, job: str, place: str) -> Page:
    """What stands behind a place; "" is the beginning, as is one of a list that was replaced.

    Raises:
        InputError: for a list that is not understood, or names of files that lead elsewhere.
        GpuExtractError: if the server refuses, or is away for too long.
    """
    query = f"?limit={FACES_A_PAGE}" + (f"&after={quoted(place)}" if place else "")
    answer = server.ask("GET", f"/v1/jobs/{quoted(job)}/faces{query}")
    faces = [_face(line) for line in answer.body.splitlines()]
    frames = [list(found) for _, found in groupby(faces, key=lambda face: face["frame"])]
    found = Page(frames, answer.headers.get("X-Next", ""), answer.headers.get("X-More") == "true")
    if found.more and found.place == place:
        raise InputError("the server's list of faces does not go on from where it is.")
    return found


def file_of(face: dict[str, Any]) -> str:
    """The file in which a face is."""
    name: str = face.get("archive", face["file"])
    return name


def _face(line: bytes) -> dict[str, Any]:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        face = json.loads(line)
        words, numbers = (face["file"], face["sha1"], face.get("archive", "")), (face["frame"], face["bytes"])
        if all(isinstance(word, str) for word in words) and all(isinstance(number, int) for number in numbers):
            found: dict[str, Any] = face
            check_inside(file_of(found))
            return found
    raise InputError("the server's list of faces is not understood.")


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
        raise InputError(f"the server has a face with the name {name[:200]!r}, which is refused.")
