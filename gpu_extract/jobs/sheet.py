"""`sheet`: every face of a folder in labelled cells, to look over a run at a glance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from gpu_extract.errors import InputError, OutputError, UsageError
from gpu_extract.naming import FACE_EXTENSIONS

MAX_SIDE_PX = 16_000  # taller pictures are refused by many viewers; a page holds what fits
GAP_PX, LABEL_PX = 6, 16
PAPER, TEXT, MISSING = (250, 250, 250), (60, 60, 60), (210, 210, 235)


def contact_sheet(
    faces: Path | str | Iterable[Path | str],
    out_png: Path | str,
    *,
    columns: int | None = None,
    cell: int | None = None,
) -> list[Path]:
    """Draw the faces of a folder, or the given files, as one PNG; returns its path, or those of its pages.

    `cell` is the side of a face on the sheet in pixels and `columns` the number of faces in a row; both follow from
    the number of faces where they are not given. What does not fit into 16,000 rows goes on to further pages,
    `<stem>_2.png` and so on. A face that cannot be read gets an empty cell with its name.

    Raises InputError where there is no face, UsageError for impossible sizes, OutputError if a page cannot be written.
    """
    paths = list_faces(faces) if isinstance(faces, str | Path) else [Path(face) for face in faces]
    if not paths:
        raise InputError(f"{faces} holds no face images to put on a sheet; run extract into it first")
    columns, cell = _layout(len(paths), columns, cell)
    rows_per_page = max(1, (MAX_SIDE_PX - GAP_PX) // (cell + LABEL_PX + GAP_PX))
    per_page = rows_per_page * columns
    pages = []
    for start in range(0, len(paths), per_page):
        page = Path(out_png)
        if start:
            page = page.with_stem(f"{page.stem}_{start // per_page + 1}")
        _write_page(page, paths[start : start + per_page], min(columns, len(paths)), cell)
        pages.append(page)
    return pages


def list_faces(folder: Path | str) -> list[Path]:
    """The face images of a folder, ordered by frame and by face index (face 10 after face 9)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that extract wrote the faces into")
    found = [path for path in folder.iterdir() if path.suffix.lower() in FACE_EXTENSIONS and path.is_file()]
    return sorted(found, key=_frame_and_index)


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


def _write_page(page: Path, paths: Sequence[Path], columns: int, cell: int) -> None:
    rows = math.ceil(len(paths) / columns)
    step_x, step_y = cell + GAP_PX, cell + LABEL_PX + GAP_PX
    sheet = np.full((rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), PAPER, np.uint8)
    for place, path in enumerate(paths):
        y, x = GAP_PX + place // columns * step_y, GAP_PX + place % columns * step_x
        sheet[y : y + cell, x : x + cell] = _thumbnail(path, cell)
        _write_label(sheet[y + cell : y + cell + LABEL_PX, x : x + cell], path.stem)
    encoded, data = cv2.imencode(".png", sheet)
    try:
        if not encoded:
            raise OSError("the picture could not be encoded")
        page.write_bytes(data.tobytes())
    except OSError as error:
        raise OutputError(f"the contact sheet {page} cannot be written: {error}") from error


def _thumbnail(path: Path, cell: int) -> np.ndarray:
    """The face fitted into a [cell, cell, 3] square."""
    square = np.full((cell, cell, 3), MISSING, np.uint8)
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        face = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError:
        face = None
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
