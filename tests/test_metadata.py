"""Rows of faces in files: whole or not there, in order, readable by others."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_extract.errors import OutputError, UsageError
from gpu_extract.face_files import metadata


def a_row(i: int, **changes: Any) -> metadata.Row:
    rng = np.random.default_rng(i)
    return {
        "file": f"clip_{i + 1:06d}_0.png",
        "frame": f"clip_{i + 1:06d}.mp4",
        "position": i,
        "index": i % 3,
        "hash": f"{i:040x}",
        "size": 256,
        "matrix": rng.normal(size=(2, 3)).tolist(),
        "roi": rng.integers(-9, 999, (4, 2)).tolist(),
        "roi_size": 70 + i,
        "box": [1.0, -2.5, 30.0, 40.0],
        "landmarks": rng.uniform(0, 999, (68 if i % 5 else 4, 2)).astype(np.float32).astype(float).tolist(),
    } | changes


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package look as if it were not installed."""
    real = builtins.__import__

    def fake(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.partition(".")[0] == name:
            raise ImportError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)


def test_jsonl_holds_every_row_in_order(tmp_path: Path) -> None:
    rows = [a_row(i) for i in range(metadata.ROWS_AT_ONCE + 3)]
    path = metadata.write_metadata(tmp_path, "jsonl", iter(rows))
    assert path == tmp_path / "faces.jsonl"
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == rows
    again = metadata.write_metadata(tmp_path, "jsonl", rows)
    assert again == path
    assert len(path.read_bytes().splitlines()) == len(rows)
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces.jsonl"]


def test_no_faces_make_an_empty_file(tmp_path: Path) -> None:
    assert metadata.write_metadata(tmp_path, "jsonl", []).read_bytes() == b""


def test_odd_values_stay_readable(tmp_path: Path) -> None:
    row = a_row(0, frame="é\udcff\n.png", box=[math.nan, 1.0, math.inf, 2.0])
    line = metadata.json_line(row)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line) == row | {"box": [None, 1.0, None, 2.0]}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / f"faces.{kind}").write_bytes(b"old")

    def rows() -> Iterator[metadata.Row]:
        yield from (a_row(i) for i in range(2 * metadata.ROWS_AT_ONCE))
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        metadata.write_metadata(tmp_path, kind, rows())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(f"faces.{kind}", b"old")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_folder_that_is_gone_is_an_output_error(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(OutputError, match=r"faces\.\w+ could not be written \(no such file"):
        metadata.write_metadata(tmp_path / "gone", kind, [a_row(0)])


def test_unknown_kinds_are_refused() -> None:
    assert metadata.kinds() == ["jsonl", "parquet"]
    metadata.check_kind("jsonl")
    with pytest.raises(UsageError, match="'csv'; jsonl and parquet are understood"):
        metadata.check_kind("csv")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("pyarrow", monkeypatch)
    for refused in (lambda: metadata.check_kind("parquet"), lambda: metadata.write_metadata(tmp_path, "parquet", [])):
        with pytest.raises(UsageError, match=r"needs pyarrow; install gpu-extract\[parquet\]"):
            refused()
    assert list(tmp_path.iterdir()) == []


def test_parquet_holds_every_row_in_order(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [a_row(i) for i in range(metadata.ROWS_AT_ONCE + 3)]
    path = metadata.write_metadata(tmp_path, "parquet", iter(rows))
    assert parquet.read_table(path).to_pylist() == rows
    odd = a_row(1, frame="é\udcff.png", box=[math.nan] * 4)
    metadata.write_metadata(tmp_path, "parquet", [odd])
    assert parquet.read_table(path).to_pylist() == [odd | {"frame": "é\\udcff.png", "box": [None] * 4}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["faces.parquet"]
