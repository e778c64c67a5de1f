"""Plug-in folders: a module that lies in one is found and used; nobody keeps a list.

The contract stands beside its folder and under its name in the singular: `engines/base.py` and `engines/samplers/`,
`frames/base.py` and `frames/sources/`, `face_files/layout.py` and `face_files/layouts/`, and so on.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache
from types import ModuleType


def names(folder: str) -> list[str]:
    """Names of the modules in a plug-in folder, sorted; none of them is imported.

    Args:
        folder: its dotted name, as "gpu_extract.frames.sources".

    Raises:
        ImportError: if the system does not let the folder be listed.
    """
    spec = importlib.util.find_spec(folder)
    assert spec is not None
    found = sorted(info.name for info in pkgutil.iter_modules(spec.submodule_search_locations))
    if not found:  # pkgutil takes a folder that cannot be listed for an empty one
        raise ImportError(f"the modules of {folder} cannot be listed")
    return found


def module(folder: str, name: str) -> ModuleType:
    """One module of a plug-in folder, by its name."""
    return importlib.import_module(f"{folder}.{name}")


@cache
def modules(folder: str) -> list[ModuleType]:
    """All modules of a plug-in folder, imported, in the order of their names."""
    return [module(folder, name) for name in names(folder)]
