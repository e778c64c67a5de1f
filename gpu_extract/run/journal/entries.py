"""The lines of a journal: a CRC-32 in hex, a space, JSON."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from gpu_extract.run.fingerprint import Fingerprint
from gpu_extract.tasks import FaceResult

VERSION = 1
BEGINNING = b' {"journal":'
"""Of the first line, behind its checksum."""
_encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass
class Finished:
    """A frame whose faces are all on disk."""

    position: int
    faces: list[FaceResult] = field(default_factory=list)

    @property
    def key(self) -> int:
        """The frame's first row in the alignments file: positions shift when a folder gains a frame between runs."""
        return min((face.row for face in self.faces), default=-1 - self.position)


def line(entry: dict[str, Any]) -> bytes:
    """An entry as it stands in a journal."""
    return _as_line(json.dumps(entry, separators=(",", ":"), ensure_ascii=True).encode())


def parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line; None if the line is torn or altered."""
    if not line.endswith(b"\n") or line[8:9] != b" ":
        return None
    text = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(text):
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def _as_line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def first_entry(fingerprint: Fingerprint) -> dict[str, Any]:
    return {"journal": VERSION, "settings": fingerprint}


def frame_entry(frame: Finished) -> dict[str, Any]:
    rows = [[face.row, face.index, face.file_name, face.sha1, face.nbytes] for face in frame.faces]
    return {"frame": frame.position, "faces": rows, **_more(frame)}


def frame_line(frame: Finished) -> bytes:
    """The same as `line` makes of the frame's entry, in a third of the time."""
    faces = [f'[{face.row},{face.index},{_quoted(face.file_name)},"{face.sha1}",{face.nbytes}]' for face in frame.faces]
    more = "".join(f',"{key}":{_encode(values)}' for key, values in _more(frame).items())
    return _as_line(f'{{"frame":{frame.position},"faces":[{",".join(faces)}]{more}}}'.encode())


def _more(frame: Finished) -> dict[str, list[Any]]:
    """What else is noted of faces where a list of them is wanted; beside them, for versions that know nothing of it."""
    columns: dict[str, list[Any]] = {
        "sharpness": [face.sharpness for face in frame.faces],
        "hash_states": [face.hash_state for face in frame.faces],
    }
    return {key: values for key, values in columns.items() if any(value is not None for value in values)}


def finished(entry: dict[str, Any]) -> Finished:
    """The frame of its entry."""
    faces = entry["faces"]
    unknown = [None] * len(faces)
    columns = zip(faces, entry.get("sharpness", unknown), entry.get("hash_states", unknown), strict=True)
    return Finished(entry["frame"], [FaceResult(*[*face, *more]) for face, *more in columns])


def may_be_begun(data: bytes) -> bool:
    """Whether data without a whole line is what a crash left of the first one; anything else is not to be cut off."""
    written = data.rstrip(b"\0")
    checksum, begun = written[:8], written[8:][: len(BEGINNING)]
    return b"\n" not in data and not checksum.strip(b"0123456789abcdef") and BEGINNING.startswith(begun)
