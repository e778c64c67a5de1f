"""Numbers that belong to the file format: mean faces, point maps, the names of centerings."""

from __future__ import annotations

import json
import pkgutil
from functools import cache
from typing import Literal

import numpy as np

Centering = Literal["legacy", "face", "head"]
CENTERINGS: tuple[Centering, ...] = ("legacy", "face", "head")


@cache
def table(name: str) -> np.ndarray:
    """A table of `data/`, by the stem of its file: points [n, 2] or [n, 3] float64, or a map [n] of integers."""
    text = pkgutil.get_data("gpu_extract", f"data/{name}.json")
    assert text is not None
    data = json.loads(text)
    return np.asarray(data["map" if "map" in data else "points"])
