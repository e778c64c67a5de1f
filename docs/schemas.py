"""JSON Schemas of all reports, from their dataclasses: names, types, and what stands below each field."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from pathlib import Path
from typing import Any

from gpu_extract import plugins
from gpu_extract.reports.base import JsonReport

FOLDER = Path(__file__).parent / "schemas"
ROOMS = ("gpu_extract.jobs", "gpu_extract.reports")
"""Where reports are."""
DRAFT = "https://json-schema.org/draft/2020-12/schema"
NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def kinds() -> list[type[JsonReport]]:
    """All kinds of report, by the names of their schemas."""
    for room in ROOMS:
        plugins.modules(room)
    found = [kind for kind in JsonReport.__subclasses__() if "SCHEMA" in vars(kind)]
    return sorted(found, key=lambda kind: kind.SCHEMA)


def path_of(kind: type[JsonReport]) -> Path:
    """`docs/schemas/extract-1.json`."""
    return FOLDER / f"{kind.SCHEMA.replace('/', '-')}.json"


def schema_of(kind: type[JsonReport]) -> dict[str, Any]:
    """The schema of one report; keys that a later version of the program adds are allowed."""
    found = _object(kind)
    told = {"schema": {"const": kind.SCHEMA}} | found["properties"]
    if isinstance(versions := vars(kind).get("versions"), property):
        said = {"description": _sentence(inspect.getdoc(versions) or "")}
        told["versions"] = {"type": "object", "additionalProperties": {"type": "string"}} | said
    return {"$schema": DRAFT, "title": kind.SCHEMA} | found | {"properties": told, "required": sorted(told)}


def _object(kind: type[Any]) -> dict[str, Any]:
    hints, said = typing.get_type_hints(kind), _said_of_fields(kind)
    properties = {
        field.name: _type(hints[field.name]) | ({"description": said[field.name]} if field.name in said else {})
        for field in dataclasses.fields(kind)
    }
    description = _sentence(inspect.getdoc(kind) or "")
    return {"type": "object", "description": description, "properties": properties, "required": sorted(properties)}


def _type(hint: Any) -> dict[str, Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if hint in NAMES:
        return {"type": NAMES[hint]}
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _object(hint)
    if origin is list:
        return {"type": "array", "items": _type(inner[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(inner[1])}
    if origin in (types.UnionType, typing.Union) and all(one in NAMES for one in inner):
        return {"type": [NAMES[one] for one in inner]}
    raise TypeError(f"no JSON for {hint!r}")


def _said_of_fields(kind: type[Any]) -> dict[str, str]:
    """The strings that stand below fields."""
    [body] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, said in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(said, ast.Expr)
            and isinstance(said.value, ast.Constant)
        ):
            found[field.target.id] = _sentence(str(said.value.value))
    return found


def _sentence(text: str) -> str:
    return " ".join(text.split())
