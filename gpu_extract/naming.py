"""Names of frames and of face files: which extensions there are, and how a name falls into stem and extension."""

from __future__ import annotations

from pathlib import PurePosixPath

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
    return PurePosixPath(name).stem


def split_name(name: str) -> tuple[str, str]:
    """("clip", ".mp4") of "clip.mp4"; the dot of a name that only begins with one starts no extension."""
    stem, dot, extension = name.rpartition(".")
    return (stem, dot + extension) if stem else (name, "")


def base_of(name: str) -> str:
    """A name without the folders before it, which either system's separators end."""
    return name.rpartition("/")[2].rpartition("\\")[2]


def face_extension(name: str) -> str:
    """Extension of a frame's face files: the frame's own where it is an image's, else PNG."""
    extension = PurePosixPath(name).suffix
    return extension if extension.lower() in IMAGE_EXTENSIONS else VIDEO_FACE_EXTENSION
