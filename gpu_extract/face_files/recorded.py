"""Faces that a run recorded, known again whatever their files are called: by header, or the hash of their pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from gpu_extract import png_file
from gpu_extract.errors import InputError
from gpu_extract.face_files.origin import origin_of
from gpu_extract.face_files.stored import pixel_hash
from gpu_extract.naming import base_of
from gpu_extract.storage.parts import check_name
from gpu_extract.tasks import FaceResult


class Recorded:
    """What a journal knows of the files of its folder. Thread-safe."""

    def __init__(self, faces: Iterable[FaceResult]) -> None:
        self._by_base: dict[str, str] = {}
        self._by_hash: dict[str, list[str]] = defaultdict(list)
        for face in faces:
            self._by_base[base_of(face.file_name)] = face.file_name
            self._by_hash[face.sha1].append(face.file_name)

    def places(self, data: bytes) -> list[str]:
        """Where the run put the face that a file shows, relative to the folder.

        Returns:
            Several places where faces cannot be told apart, none where nothing tells; a name that the run did not
            record where the header is of another one.

        Raises:
            InputError: if the file is damaged.
            OSError: if its header says a name that no file can have.
        """
        origin = origin_of(data) if data.startswith(png_file.SIGNATURE) else None
        if origin is None:
            return self._by_hash.get(pixel_hash(data), [])
        if not png_file.is_whole(data):
            raise InputError("it is damaged or cut off.")
        check_name(origin.name)
        return [self._by_base.get(origin.name, origin.name)]
