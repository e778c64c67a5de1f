"""`sheet`: every face of a folder in labelled cells, to look over a run at a glance."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from gpu_extract import png_file
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, FrameError, InputError, OutputError, UsageError, printable
from gpu_extract.frames.images.decode import read_file
from gpu_extract.naming import FACE_EXTENSIONS
from gpu_extract.storage.inputs import is_folder, open_input, unreadable
from gpu_extract.storage.outputs import check_output, write_output

MAX_SIDE_PX = 16_000  # taller pictures are refused by many viewers; a page holds what fits
GAP_PX, LABEL_PX = 6, 16
WHAT = "the contact sheet"
MARK = png_file.chunk_bytes(b"tEXt", b"Software\0gpu-extract sheet")
"""Stands behind the header of every sheet, and says that the next sheet may replace it."""
MARKED_BYTES = 128
LISTED = 20
PAPER, TEXT, MISSING = (250, 250, 250), (60, 60, 60), (210, 210, 235)


class Sheet(list[Path]):
    """What was drawn: the pages, in their order.

    Attributes:
        unreadable: faces whose cells are empty.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[Path] = []

    @property
    def exit_code(self) -> int:
        return EXIT_PARTIAL if self.unreadable else EXIT_OK

    def table(self) -> str:
        """The pages, and the faces that cannot be read."""
        lines = [str(page) for page in self]
        lines += [f"cannot be read: {path}" for path in self.unreadable[:LISTED]]
        more = len(self.unreadable) - LISTED
        return "\n".join(map(printable, [*lines, f"… and {more:,} more"] if more > 0 else lines))


def contact_sheet(
    faces: Path | str | Iterable[Path | str],
    out_png: Path | str,
    *,
    columns: int | None = None,
    cell: int | None = None,
) -> Sheet:
    """Draw the faces of a folder, or the given files, as one PNG or several pages.

    `cell` is the side of a face on the sheet in pixels and `columns` the number of faces in a row; both follow from
    the number of faces where they are not given. What does not fit into 16,000 rows goes on to further pages,
    `<stem>_2.png` and so on. A face that cannot be read gets an empty cell with its name, and is named in the result.

    Raises InputError where there is no face, UsageError for impossible sizes, OutputError if a page cannot be written:
    it replaces nothing but an earlier sheet.
    """
    if isinstance(faces, str | Path):
        paths = [path for path in list_faces(faces) if not _is_earlier_sheet(path, Path(out_png))]
    else:
        paths = [Path(face) for face in faces]
    if not paths:
        raise InputError(f"{faces} holds no face images to put on a sheet; run extract into it first")
    columns, cell = _layout(len(paths), columns, cell)
    rows_per_page = max(1, (MAX_SIDE_PX - GAP_PX) // (cell + LABEL_PX + GAP_PX))
    per_page = rows_per_page * columns
    starts = range(0, len(paths), per_page)
    sheet = Sheet()
    parts = {_page(Path(out_png), start // per_page): paths[start : start + per_page] for start in starts}
    for page in parts:
        check_output(page, WHAT, _is_sheet, paths)
    for page, part in parts.items():
        sheet.unreadable += _write_page(page, part, min(columns, len(paths)), cell)
        sheet.append(page)
    return sheet


def _page(out_png: Path, number: int) -> Path:
    return out_png.with_stem(f"{out_png.stem}_{number + 1}") if number else out_png


def _is_earlier_sheet(path: Path, out_png: Path) -> bool:
    """Whether a file among the faces is the sheet, or a page of it, that an earlier call left there."""
    stem, number = path.stem.removeprefix(out_png.stem), path.suffix.lower()
    if not path.stem.startswith(out_png.stem) or number != ".png" or not (stem == "" or stem[0] == "_"):
        return False
    try:
        with open_input(path, "the face") as file:
            return _is_sheet(file)
    except (OSError, InputError):
        return False


def _is_sheet(file: BinaryIO) -> bool:
    return MARK in file.read(MARKED_BYTES)


def list_faces(folder: Path | str) -> list[Path]:
    """The face images of a folder, ordered by frame and by face index (face 10 after face 9)."""
    folder = Path(folder)
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"{folder} is not a folder; give the folder that extract wrote the faces into")
    try:
        with os.scandir(folder) as entries:
            found = [folder / entry.name for entry in entries if not entry.is_dir()]
    except OSError as error:
        raise unreadable(folder, "the faces folder", error) from error
    return sorted((path for path in found if path.suffix.lower() in FACE_EXTENSIONS), key=_frame_and_index)


def _frame_and_index(path: Path) -> tuple[str, int, str]:
    frame, _, index = path.stem.rpartition("_")
    return (frame, int(index), path.name) if index.isascii() and index.isdigit() else (path.stem, -1, path.name)


def _layout(count: int, columns: int | None, cell: int | None) -> tuple[int, int]:
    """Columns and cell side: about 4 to 3, cells from 160 px for a handful of faces to 64 px for thousands."""
    if cell is None:
        cell = 160 if count <= 40 else 112 if count <= 400 else 80 if count <= 2000 else 64
    if columns is None:
        columns = min(count, 40, max(4, math.ceil(math.sqrt(count * 4 / 3))))
    if columns < 1 or not 16 <= cell <= 1024 or columns * (cell + GAP_PX) + GAP_PX > MAX_SIDE_PX:
        raise UsageError(
            f"a sheet of {columns} columns of {cell} px cannot be drawn; take cells of 16 to 1024 px "
            f"and columns that fit into {MAX_SIDE_PX} px"
        )
    return columns, cell


def _write_page(page: Path, paths: Sequence[Path], columns: int, cell: int) -> list[Path]:
    """Draw and write one page; returns the faces that cannot be read."""
    rows = math.ceil(len(paths) / columns)
    step_x, step_y = cell + GAP_PX, cell + LABEL_PX + GAP_PX
    sheet = np.full((rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), PAPER, np.uint8)
    unreadable = []
    for place, path in enumerate(paths):
        face = _read(path)
        if face is None:
            unreadable.append(path)
        y, x = GAP_PX + place // columns * step_y, GAP_PX + place % columns * step_x
        sheet[y : y + cell, x : x + cell] = _thumbnail(face, cell)
        _write_label(sheet[y + cell : y + cell + LABEL_PX, x : x + cell], path.stem)
    encoded, data = cv2.imencode(".png", sheet)
    if not encoded:
        raise OutputError(f"the contact sheet {page} cannot be written: OpenCV cannot encode the picture")
    first = next(png_file.chunks(data[:MARKED_BYTES].tobytes()))  # IHDR, which nothing may precede
    write_output(page, data[: first.end].tobytes() + MARK + data[first.end :].tobytes(), WHAT, _is_sheet, paths)
    return unreadable


def _read(path: Path) -> np.ndarray | None:
    """A face's pixels, [H, W, 3] BGR; None if it cannot be read."""
    try:
        data = np.frombuffer(read_file(path), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (FrameError, cv2.error):
        return None


def _thumbnail(face: np.ndarray | None, cell: int) -> np.ndarray:
    """The face fitted into a [cell, cell, 3] square, or a square crossed out where there is none."""
    square = np.full((cell, cell, 3), MISSING, np.uint8)
    if face is None:
        cv2.line(square, (0, 0), (cell, cell), TEXT, 1, cv2.LINE_AA)
        cv2.line(square, (cell, 0), (0, cell), TEXT, 1, cv2.LINE_AA)
        return square
    height, width = face.shape[:2]
    scale = cell / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    y, x = (cell - h) // 2, (cell - w) // 2
    smaller = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    square[y : y + h, x : x + w] = cv2.resize(face, (w, h), interpolation=smaller)
    return square


def _write_label(strip: np.ndarray, text: str) -> None:
    """Write `text` into `strip` [LABEL_PX, width, 3]; a long text loses its beginning, the number is at the end."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.34
    text = "".join(letter if " " <= letter <= "~" else "?" for letter in text)  # the font knows ASCII only
    shown = text
    while len(shown) > 4 and cv2.getTextSize(shown, font, scale, 1)[0][0] > strip.shape[1]:
        text = text[1:]
        shown = f"..{text}"
    label = np.ascontiguousarray(strip)
    cv2.putText(label, shown, (0, LABEL_PX - 4), font, scale, TEXT, 1, cv2.LINE_AA)
    strip[:] = label
