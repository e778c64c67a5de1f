"""Thumbnails of a page of faces: small JPEGs, bounded in bytes, for faces that a browser cannot show or is slow to."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from gpu_extract.errors import InputError
from gpu_extract.face_files.stored import InShard, Place, content
from gpu_extract.frames.images.decode import decode_image
from gpu_extract.jobs.gallery.entries import Entry, State
from gpu_extract.jobs.gallery.particulars import Particulars
from gpu_extract.naming import has_extension
from gpu_extract.storage.parts import write_file

KINDS = ("auto", "always", "never")
MOST_BYTES = 4096  # a block of most file systems: 100,000 of them take 0.4 GB at most
TRIES = ((112, 80), (112, 60), (112, 40), (80, 40), (48, 40))
"""Sides in pixels and JPEG qualities; a tile of the page is 96 to 128 pixels wide."""
LARGEST_PX = 256
"""Faces up to this size are shown as they are: to decode one takes a browser no longer than its next frame leaves."""
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def is_hidden(entry: Entry) -> bool:
    """Whether a browser cannot show a face's file."""
    return isinstance(entry.place, InShard) or not has_extension(entry.name, SHOWN_BY_BROWSERS)


def write_miniatures(
    folder: Path, entries: Sequence[Entry], found: Sequence[Particulars], kind: str, threads: ThreadPoolExecutor
) -> None:
    """Write `000.jpg`, `001.jpg`, … for those of some faces that want one, and note in their state that they have it.

    Args:
        folder: is made if any do.
        kind: "auto", "always" or "never".

    Raises:
        OSError: if one cannot be written.
    """
    wanted = [k for k, (entry, about) in enumerate(zip(entries, found, strict=True)) if _wants_one(entry, about, kind)]
    if not wanted:
        return
    folder.mkdir(parents=True)
    for k, made in zip(wanted, threads.map(_miniature, [entries[k].place for k in wanted]), strict=True):
        if isinstance(made, bytes):
            write_file(folder, f"{k:03d}.jpg", made)
            found[k].state |= State.SMALL
        else:
            found[k].state |= State.UNREADABLE
            found[k].fault = made


def _wants_one(entry: Entry, about: Particulars, kind: str) -> bool:
    if kind == "never" or entry.place is None or about.state & State.UNREADABLE:
        return False
    return kind == "always" or is_hidden(entry) or (about.size is not None and max(about.size) > LARGEST_PX)


def _miniature(place: Place | None) -> bytes | str:
    """A JPEG of at most `MOST_BYTES`, or why there is none."""
    try:
        pixels = decode_image(content(place)).pixels if place is not None else None
    except InputError as error:
        return str(error)
    if pixels is None:
        return "it has no file"
    for side, quality in TRIES:
        done, encoded = cv2.imencode(".jpg", _fitted(pixels, side), [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(encoded) <= MOST_BYTES:
            return encoded.tobytes()
    return "no small picture could be made of it"


def _fitted(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels [H, W, 3] made so small that neither side is longer."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
