"""Files with one row a face: `faces.jsonl`, or `faces.parquet` where pyarrow is installed.

Rows are dicts of plain JSON values, which `run.rows` makes. A file is written whole at the end of a run: the
run's journal already keeps what has to survive until then.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gpu_extract.errors import OutputError, UsageError
from gpu_extract.storage.atomic import sync_folder, write_whole
from gpu_extract.storage.descriptors import hold_standard
from gpu_extract.storage.inputs import open_input

Row = dict[str, Any]
STEM = "faces"
ROWS_AT_ONCE = 1000  # encoded and written together; a row of 68 landmarks has about 4 KB

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def kinds() -> list[str]:
    """The kinds of file that `write_metadata` knows, sorted."""
    return sorted(_WRITERS)


def check_kind(kind: str) -> None:
    """Refuse before the run what `write_metadata` would refuse after it.

    Raises:
        UsageError: if the kind is not known, or needs a package that is not installed.
    """
    if kind not in _WRITERS:
        raise UsageError(f"metadata cannot be written as {kind!r}; {' and '.join(kinds())} are understood.")
    if kind == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UsageError(
                "metadata as parquet needs pyarrow; install gpu-extract[parquet], or write jsonl."
            ) from None


def write_metadata(folder: Path, kind: str, rows: Iterable[Row]) -> Path:
    """Write rows to `faces.<kind>`, whole from the moment it has its name; returns its path.

    Args:
        kind: "jsonl" (UTF-8, one JSON object a line) or "parquet".
        rows: taken one after another, never all in memory.

    Raises:
        UsageError: see `check_kind`.
        OutputError: if the file cannot be written; what was there before is untouched.
    """
    check_kind(kind)
    path = folder / f"{STEM}.{kind}"
    _WRITERS[kind](path, rows)
    return path


def rows_of(folder: Path, kind: str) -> Iterator[Row]:
    """The rows of a list of faces, one after another.

    Raises:
        InputError: if it cannot be read.
        UsageError: if pyarrow is wanted and not there.
        ValueError: if it is no such list.
    """
    check_kind(kind)
    with open_input(folder / f"{STEM}.{kind}", "the list of faces") as file:
        if kind == "jsonl":
            yield from map(json.loads, file)
            return
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(ROWS_AT_ONCE):
            yield from batch.to_pylist()


def json_line(row: Row) -> bytes:
    """A row as one line of JSON, ASCII; a number that is not finite, which JSON cannot say, becomes null."""
    try:
        text = _encode(row)
    except ValueError:
        text = _encode(_finite(row))
    return text.encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while block := list(islice(rows, ROWS_AT_ONCE)):
        yield block


def _write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    write_whole(path, (b"".join(map(json_line, block)) for block in _blocks(rows)))


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    number, text, points = pyarrow.float64(), pyarrow.string(), pyarrow.list_(pyarrow.list_(pyarrow.float64()))
    schema = pyarrow.schema(
        {
            "file": text,
            "frame": text,
            "position": pyarrow.int64(),
            "index": pyarrow.int32(),
            "hash": text,
            "size": pyarrow.int32(),
            "matrix": points,
            "roi": points,
            "roi_size": pyarrow.int64(),
            "box": pyarrow.list_(number),
            "landmarks": points,
            "sharpness": number,
            "side_px": number,
            "pose": pyarrow.list_(number),
            "hash_state": text,
        }
    )
    blocks = _blocks(rows)
    first = next(blocks, None)
    if first is not None:  # rows of an earlier version, which a prune has read, stay what they were
        schema = pyarrow.schema([field for field in schema if field.name in first[0]])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            hold_standard()
            with temporary.open("xb") as file:
                with pyarrow.parquet.ParquetWriter(file, schema) as writer:
                    for block in chain([] if first is None else [first], blocks):
                        writer.write_table(pyarrow.Table.from_pylist([_storable(row) for row in block], schema))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OutputError(f"{path} could not be written ({reason}); what was there before is untouched.") from error


def _storable(row: Row) -> Row:
    """The row with null where a number is not finite, and with names that UTF-8 can hold: `\\udcff` where it cannot."""
    return {
        key: value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else _finite(value)
        for key, value in row.items()
    }


_WRITERS: dict[str, Callable[[Path, Iterable[Row]], None]] = {"jsonl": _write_jsonl, "parquet": _write_parquet}
