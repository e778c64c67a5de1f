"""Names of frames and of face files: extensions, stems, and addresses of what lies elsewhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from gpu_extract.errors import UsageError

SCHEMES = ("s3", "gs", "az", "file")
"""Of addresses: buckets of S3 and what speaks like it, of Google, containers of Azure; a folder, as if it were one."""
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
"""Of images that are frames, and of face files that are written like their frame."""
FACE_EXTENSIONS = (*IMAGE_EXTENSIONS, ".webp")
"""Of face files, whoever wrote them."""
ADMITTED_EXTENSIONS = (".dib", ".jfif", ".jpe", ".webp")
"""Of images that can be read, but count among a folder's frames only where a key names them."""
UNREAD_EXTENSIONS = (
    *(
        ".apng",
        ".arw",
        ".avif",
        ".cr2",
        ".cr3",
        ".dng",
        ".dpx",
        ".exr",
        ".gif",
        ".hdr",
        ".heic",
        ".heif",
        ".j2k",
        ".jp2",
    ),
    *(".jxl", ".nef", ".orf", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".raf", ".rw2", ".svg", ".tga"),
)
"""Of images that are not read, which whoever looks for a frame should hear of."""
TO_PNG = "convert it to PNG"
"""What to do about such an image."""
VIDEO_EXTENSIONS = frozenset((".avi", ".flv", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv", ".ts", ".vob"))
"""Of videos, and of the keys of their frames in files since version 2.4."""
VIDEO_FACE_EXTENSION = ".png"
"""Of the faces of a video's frames."""


def has_extension(name: str, extensions: tuple[str, ...] | frozenset[str]) -> bool:
    """Whether a name ends in one of the extensions, any case; `.png` itself does, too."""
    return name.lower().endswith(tuple(extensions))


def stem_of(name: str) -> str:
    """A frame key without its extension; `.png` alone is all stem, as `os.path.splitext` has it."""
    return _parts(name)[0]


def split_name(name: str) -> tuple[str, str]:
    """("clip", ".mp4") of "clip.mp4"; the dot of a name that only begins with one starts no extension."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def base_of(name: str) -> str:
    """A name without the folders before it, which either system's separators end."""
    return name.rpartition("/")[2].rpartition("\\")[2]


def _parts(name: str) -> tuple[str, str]:
    """Stem and extension of a key's last part; a dot at either end of it starts no extension. Asked for every face."""
    last = PurePosixPath(name).name if "/" in name or name == "." else name
    dot = last.rfind(".")
    return (last[:dot], last[dot:]) if 0 < dot < len(last) - 1 else (last, "")


def face_extension(name: str) -> str:
    """Extension of a frame's face files: the frame's own where it is an image's, else PNG."""
    extension = _parts(name)[1]
    return extension if extension.lower() in IMAGE_EXTENSIONS else VIDEO_FACE_EXTENSION


@dataclass(frozen=True)
class Url(os.PathLike[str]):
    """The address of an object, or of all whose keys begin alike: `scheme://bucket/key`."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def folder(self) -> Url:
        """The address without its last part."""
        return Url(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def beside(self, name: str) -> Url:
        """The address with another last part."""
        return self.folder.below(name)

    def below(self, name: str) -> Url:
        return Url(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)


def url_of(text: str | os.PathLike[str]) -> Url | None:
    """The address that a text is; None where it is a path.

    Raises:
        UsageError: for an address that is none of ours, and for what is no path either.
    """
    if isinstance(text, Url):
        return text
    path_of(text)
    match = _ADDRESS.fullmatch(os.fspath(text))
    if match is None:
        return None
    scheme, rest = match[1].lower(), match[2]
    bucket, _, key = rest.partition("/")
    key = key.removesuffix("/")
    fault = None
    if scheme not in SCHEMES:
        fault = f"addresses begin with {', '.join(f'{known}://' for known in SCHEMES)}"
    elif (not bucket) != (scheme == "file"):
        fault = "a bucket is wanted behind the slashes" if not bucket else "three slashes are wanted before a folder"
    elif any(part in ("", ".", "..") for part in key.split("/")):
        fault = "a key is wanted behind the bucket, without parts that are empty, . or .."
    if fault is not None:
        raise UsageError(f"{os.fspath(text)} is not understood: {fault}.")
    return Url(scheme, bucket, key)


def can_be_path(value: Any) -> bool:
    """Whether a system could have a file of that name: no empty text, none with a NUL, nothing but text and paths."""
    try:
        text = os.fspath(value)
        return isinstance(text, str) and 0 not in (os.fsencode(text) or b"\0")
    except (TypeError, ValueError):
        return False


def path_of(place: str | os.PathLike[str]) -> Path:
    """
    Raises:
        UsageError: for what is no path.
    """
    if not can_be_path(place):
        raise UsageError(f"{place!r} is no path; give a text or a pathlib.Path.")
    return Path(place)


def located(place: str | os.PathLike[str]) -> Path:
    """A path; or a `Url` in its place, which `jobs.runs.staging` makes a path of before anything is opened.

    Raises:
        UsageError: for an address that is none of ours.
    """
    return cast(Path, url_of(place) or Path(place))


def of_this_machine(place: str | os.PathLike[str], command: str) -> Path:
    """The path of a command that brings nothing from elsewhere.

    Raises:
        UsageError: for an address.
    """
    if (url := url_of(place)) is not None:
        raise UsageError(f"{command} reads paths of this machine only; copy {url} here first.")
    return Path(place)
