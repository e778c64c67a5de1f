"""`sheet`: every face of a folder in labelled cells, to look over a run at a glance."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np

from gpu_extract import png_file
from gpu_extract.conditions import Condition, Value
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, FrameError, InputError, OutputError, UsageError, printable
from gpu_extract.face_files.quality import KINDS, Cut, Quality, qualities
from gpu_extract.face_files.stored import InShard, stored_files
from gpu_extract.frames.images.decode import read_file
from gpu_extract.geometry.mean_faces import CENTERINGS
from gpu_extract.geometry.rounding import Rounding
from gpu_extract.naming import FACE_EXTENSIONS, base_of, has_extension, of_this_machine
from gpu_extract.run import journal
from gpu_extract.run.threads import available_cores
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
VALUE = (160, 60, 0)
DOT, RING = (120, 255, 120), (0, 0, 0)  # of a landmark, so that it is seen on light and dark
SUBPIXEL_BITS, FINE_PX = 4, 512
GAP_TO_VALUE_PX = 4

AS_LABEL: dict[str, Callable[[float], str]] = {
    "sharpness": lambda value: f"{value:.3g}" if value < 1000 else f"{value:.0f}",
    "size": lambda value: f"{value:.0f} px",
    **dict.fromkeys(("yaw", "pitch", "roll"), lambda value: f"{value:+.1f}"),
}
"""Values that faces may be sorted by, and how a label has them."""
BY_NAME: dict[str | None, Callable[[Path], Any]] = {
    "name": lambda path: path.name,
    "frame": lambda path: _frame_and_index(path),
}
SORTS = (*AS_LABEL, *map(str, BY_NAME))


class Shown(NamedTuple):
    """A face on the sheet."""

    path: Path
    value: str = ""
    """What its label says beside its name."""
    landmarks: np.ndarray | None = None
    """[n, 2] float32 in pixels of the crop, if they are to be drawn."""


class Sheet(list[Path]):
    """What was drawn: the pages, in their order.

    Attributes:
        unreadable: faces whose cells are empty.
        notes: what else a person must know, in sentences.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[Path] = []
        self.notes: list[str] = []

    @property
    def exit_code(self) -> int:
        return EXIT_PARTIAL if self.unreadable else EXIT_OK

    def table(self) -> str:
        """The pages, what there is to say of them, and the faces that cannot be read."""
        lines = [*map(str, self), *self.notes]
        lines += [f"cannot be read: {path}" for path in self.unreadable[:LISTED]]
        more = len(self.unreadable) - LISTED
        return "\n".join(map(printable, [*lines, f"… and {more:,} more"] if more > 0 else lines))


def contact_sheet(
    faces: Path | str | Iterable[Path | str],
    out_png: Path | str,
    *,
    columns: int | None = None,
    cell: int | None = None,
    sort: str | None = None,
    reverse: bool = False,
    where: str | None = None,
    landmarks: bool = False,
) -> Sheet:
    """Draw the faces of a folder, or the given files, as one PNG or several pages.

    `cell` is the side of a face on the sheet in pixels and `columns` the number of faces in a row; both follow from
    the number of faces where they are not given. What does not fit into 16,000 rows goes on to further pages,
    `<stem>_2.png` and so on. A face that cannot be read gets an empty cell with its name, and is named in the result.

    Faces stand in the order of frames and of faces in them, or ascending by what `sort` names (one of `SORTS`), which
    their labels then show; `reverse` turns the order around. `where` is a condition (see `conditions`) about the values
    of `quality.KINDS`; faces of which it is unknown are left out like those of which it does not hold. `landmarks` asks
    to draw these. Values come from a list of faces (`extract --metadata`), else from the faces' headers and pixels, and
    the result's notes count those that are not known.

    Raises InputError where there is no face, none that the condition holds of, or none whose value is known to sort by;
    UsageError for impossible sizes, sorts, conditions or extensions; OutputError if a page cannot be written: it
    replaces nothing but an earlier sheet.
    """
    if sort is not None and sort not in SORTS:
        raise UsageError(f"faces cannot be sorted by {sort!r}; {', '.join(SORTS)} are understood.")
    if has_extension(os.fspath(out_png), FACE_EXTENSIONS) and Path(out_png).suffix.lower() != ".png":
        better = Path(out_png).with_suffix(".png")
        raise UsageError(f"a sheet is a PNG, and {out_png} is none by its name; call it {better}.")
    condition = None if where is None else Condition(where, KINDS)
    if isinstance(faces, str | Path):
        paths = [path for path in list_faces(faces) if not _is_earlier_sheet(path, Path(out_png))]
        if not paths:
            raise _without_faces(Path(faces))
    else:
        paths = [Path(face) for face in faces]
        if not paths:
            raise InputError("there are no face images to put on a sheet.")
    sheet = Sheet()
    shown = _chosen(paths, sort, condition, sheet.notes, reverse=reverse, landmarks=landmarks)
    columns, cell = _layout(len(shown), columns, cell)
    rows_per_page = max(1, (MAX_SIDE_PX - GAP_PX) // (cell + LABEL_PX + GAP_PX))
    per_page = rows_per_page * columns
    starts = range(0, len(shown), per_page)
    parts = {_page(Path(out_png), start // per_page): shown[start : start + per_page] for start in starts}
    for page in parts:
        check_output(page, WHAT, _is_sheet, paths)
    for page, part in parts.items():
        sheet.unreadable += _write_page(page, part, min(columns, len(shown)), cell, paths)
        sheet.append(page)
    return sheet


def _without_faces(folder: Path) -> InputError:
    """What to say of a folder that holds no face images itself: where they are, if it holds them otherwise."""
    for name, place in stored_files(folder).items():
        if not has_extension(name, FACE_EXTENSIONS) or (name == base_of(name) and isinstance(place, Path)):
            continue
        if isinstance(place, InShard):
            return InputError(
                f"the faces in {folder} are members of tar shards, which a sheet is not made of; gpu-extract report "
                "makes a page of them."
            )
        return InputError(
            f"{folder} holds face images only in the folders inside it; name one of them, such as {place.parent}, or "
            "make a page of all: gpu-extract report."
        )
    return InputError(f"{folder} holds no face images to put on a sheet; run extract into it first.")


def _chosen(
    paths: Sequence[Path],
    sort: str | None,
    condition: Condition | None,
    notes: list[str],
    *,
    reverse: bool,
    landmarks: bool,
) -> list[Shown]:
    """The faces to show, in their order; adds to `notes` what is not known of them."""
    if sort in BY_NAME:
        paths = sorted(paths, key=BY_NAME[sort])
    value = sort if sort in AS_LABEL else None
    names = ({value} if value else set()) | (condition.names if condition else set())
    found: list[tuple[Value, Shown]] = []
    if names or landmarks:
        undecided = 0
        looks = qualities(paths, names, _cut({path.parent for path in paths}), available_cores(), landmarks=landmarks)
        for path, quality in zip(paths, looks, strict=True):
            holds = condition.holds(quality.values) if condition else True
            undecided += holds is None
            if holds:
                found.append((quality.values.get(value or ""), _shown(path, quality, value)))
        if condition:
            _tell_of_condition(condition, len(found), undecided, notes)
    else:
        found = [(None, Shown(path)) for path in paths]
    if landmarks and (bare := sum(face.landmarks is None for _, face in found)):
        notes.append(f"{_faces(bare)[0]} drawn without landmarks: these are not known.")
    unknown: list[Shown] = []
    if value is not None:
        unknown = [face for of_face, face in found if of_face is None]
        found = sorted((one for one in found if one[0] is not None), key=_first)
        if not found:
            raise InputError(f"the {value} of these faces is not known; extract --metadata jsonl writes it down.")
        if unknown:
            are, their = _faces(len(unknown))
            notes.append(f"{are} last: {their} {value} is not known.")
    shown = [face for _, face in found]
    return [*(reversed(shown) if reverse else shown), *unknown]


def _tell_of_condition(condition: Condition, held: int, undecided: int, notes: list[str]) -> None:
    """Raises InputError where no face is left."""
    asked = " or ".join(sorted(condition.names)) or "nothing"
    if undecided:
        are, their = _faces(undecided)
        notes.append(f"{are} left out because {their} {asked} is not known.")
    if not held:
        why = f", and of {undecided:,} the {asked} is not known" if undecided else ""
        raise InputError(f"there is no face with {condition.text}{why}.")


def _faces(count: int) -> tuple[str, str]:
    """How a sentence about so many faces begins, and whose something is."""
    return ("1 face is", "its") if count == 1 else (f"{count:,} faces are", "their")


def _first(pair: tuple[Any, Shown]) -> Any:
    return pair[0]


def _shown(path: Path, quality: Quality, value: str | None) -> Shown:
    found = quality.values.get(value or "")
    label = AS_LABEL[value](found) if value is not None and isinstance(found, float) else ""
    return Shown(path, label, quality.landmarks)


def _cut(folders: set[Path]) -> Cut:
    """How the faces in a folder were cut, as its journal has it; as programs do it where there is none, or several."""
    stored = journal.begun(folders.pop()) if len(folders) == 1 else None
    if stored is None:
        return Cut()
    usual = Rounding()
    rounding = Rounding(stored.get("numerics", usual.numerics), stored.get("eye_angle", usual.eye_angle))
    centering = stored.get("centering")
    return Cut(centering if centering in CENTERINGS else "head", bool(stored.get("align_eyes")), rounding)


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
    folder = of_this_machine(folder, "sheet")
    if not is_folder(folder, "the faces folder"):
        raise InputError(f"{folder} is not a folder; give the folder that extract wrote the faces into.")
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
            f"and columns that fit into {MAX_SIDE_PX} px."
        )
    return columns, cell


def _write_page(page: Path, faces: Sequence[Shown], columns: int, cell: int, paths: Sequence[Path]) -> list[Path]:
    """Draw and write one page, over none of `paths`; returns the faces that cannot be read."""
    rows = math.ceil(len(faces) / columns)
    step_x, step_y = cell + GAP_PX, cell + LABEL_PX + GAP_PX
    sheet = np.full((rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), PAPER, np.uint8)
    unreadable = []
    for place, (path, value, landmarks) in enumerate(faces):
        face = _read(path)
        if face is None:
            unreadable.append(path)
        y, x = GAP_PX + place // columns * step_y, GAP_PX + place % columns * step_x
        square = _thumbnail(face, cell)
        if face is not None and landmarks is not None:
            _draw_landmarks(square, landmarks, face.shape[:2])
        sheet[y : y + cell, x : x + cell] = square
        _write_label(sheet[y + cell : y + cell + LABEL_PX, x : x + cell], path.stem, value)
    encoded, data = cv2.imencode(".png", sheet)
    if not encoded:
        raise OutputError(f"the contact sheet {page} cannot be written: OpenCV cannot encode the picture.")
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


def _draw_landmarks(square: np.ndarray, points: np.ndarray, shape: tuple[int, ...]) -> None:
    """Draw landmarks [n, 2], in pixels of the face of that (height, width), into its thumbnail [cell, cell, 3]."""
    cell = len(square)
    finer = max(1, FINE_PX // cell)  # small circles of OpenCV's are diamonds
    scale = cell / max(shape)
    offset = [(cell - max(1, round(side * scale))) // 2 for side in (shape[1], shape[0])]
    places = ((points.astype(np.float64) + 0.5) * scale + offset) * finer - 0.5
    places = places[np.isfinite(places).all(axis=1) & (np.abs(places) < 2 * finer * cell).all(axis=1)]
    radius = max(0.9, cell / 110)
    one = 1 << SUBPIXEL_BITS
    for of_dot, colour in ((radius + 0.8, RING), (radius, DOT)):
        covered = np.zeros((finer * cell, finer * cell), np.uint8)
        for x, y in np.rint(places * one).astype(int).tolist():
            cv2.circle(covered, (x, y), round(of_dot * finer * one), 255, cv2.FILLED, cv2.LINE_AA, SUBPIXEL_BITS)
        share = cv2.resize(covered, (cell, cell), interpolation=cv2.INTER_AREA)[:, :, None].astype(np.float32) / 255
        square[:] = np.rint(square * (1 - share) + np.array(colour, np.float32) * share)


def _write_label(strip: np.ndarray, text: str, value: str = "") -> None:
    """Write into `strip` [LABEL_PX, width, 3] a name and, on the right, a value.

    A long name loses its beginning, for the number is at its end.
    """
    font, scale, width = cv2.FONT_HERSHEY_SIMPLEX, 0.34, strip.shape[1]
    label = np.ascontiguousarray(strip)
    if value:
        left = max(0, width - cv2.getTextSize(value, font, scale, 1)[0][0])
        cv2.putText(label, value, (left, LABEL_PX - 4), font, scale, VALUE, 1, cv2.LINE_AA)
        width = left - GAP_TO_VALUE_PX
    text = "".join(letter if " " <= letter <= "~" else "?" for letter in text)  # the font knows ASCII only
    shown = text
    while len(shown) > 4 and cv2.getTextSize(shown, font, scale, 1)[0][0] > width:
        text = text[1:]
        shown = f"..{text}"
    if not value or cv2.getTextSize(shown, font, scale, 1)[0][0] <= width:
        cv2.putText(label, shown, (0, LABEL_PX - 4), font, scale, TEXT, 1, cv2.LINE_AA)
    strip[:] = label
