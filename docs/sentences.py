"""Every sentence with which the program ends or that a report can hold, from its source.

A sentence is what an exception of `gpu_extract.errors`, a `Failure`, or the notes of a report are given. What a run
puts into it is a placeholder, `⟨file⟩`; a choice between two texts makes two sentences. Variables, constants,
parameters and functions that hold words are followed through the package.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from gpu_extract import errors

PACKAGE = Path(errors.__file__).parent
ADVICE = Path(__file__).parent / "advice.toml"
HEAD = """\
# When it goes wrong

Made by `docs/generate.py` from the source and `docs/advice.toml`: change those.

Every error is one sentence on standard error, `gpu-extract: …`, and an exit code. Here are all of them, by what a
person does about them. Look for some words of yours on this page (Ctrl-F), without names and numbers: what a run puts
into a sentence stands *in italics*. What the service answers over HTTP is in [its description](service.md)."""
FAILED, DIFFERS, NOTE = "failed", "differs", "note"
NOTES = ("notes", "notes_on")
"""Functions whose sentences are notes."""
FAILURES = {"Failure": 2, "FrameFailure": 2, "FrameError": 0, "_NoFaceError": 0}
"""What says why a frame or face failed, and which of its arguments does."""
DEPTH = 6
"""Names that are followed one after the other."""
MOST = 6
"""Forms of a part of a sentence that are told apart; a part with more is a placeholder."""
OPTIONAL = 3
"""Forms of a sentence up to which what may be missing is missing in one; else it is there in all."""
PLACEHOLDER = re.compile("⟨[^⟩]*⟩")
CALLED = {
    "address": "address",
    "code": "number",
    "error": "reason",
    "error.strerror": "reason",
    "fault": "reason",
    "label": "file",
    "meaning": "reason",
    "option.label": "option",
    "row.label": "option",
    "self.address": "server",
    "path": "file",
    "strerror": "reason",
    "verify_message": "reason",
    "why": "reason",
}
"""What placeholders are called where the source has another word, by their expression or its last name."""
OF_A_RUN = {"value"}
"""Names that only a run gives a meaning, whatever calls there are."""
FILES = {"path", "new", "backup", "file", "alignments", "source"}
"""What has a `name` that is a file's."""
PASSED_ON = {"_shown", "fspath", "len", "printable", "repr", "shown", "sorted", "str"} | set(dir(str))
"""Functions that only pass on what they are given."""


@dataclass(frozen=True)
class Sentence:
    """One form of one sentence.

    Attributes:
        kind: the name of the exception, or `FAILED`, `DIFFERS` (what `verify` finds) or `NOTE`.
        code: the exit code that goes with it; None of a note.
        text: with placeholders.
        module: where it stands, `frames/video/container`.
    """

    kind: str
    code: int | None
    text: str
    module: str


@dataclass(frozen=True)
class Function:
    """A function, and its module; `node` is the module itself for what stands outside all functions."""

    module: str
    node: ast.FunctionDef | ast.Module
    is_method: bool = False
    given: dict[str, tuple[ast.expr, Function]] = field(default_factory=dict)
    """Where a call is followed: what it gives for parameters, and where that is said."""

    @property
    def name(self) -> str:
        return "" if isinstance(self.node, ast.Module) else self.node.name

    @cached_property
    def parameters(self) -> list[str]:
        if isinstance(self.node, ast.Module):
            return []
        arguments = self.node.args
        names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
        return [name for name in names if name not in ("self", "cls")]

    @cached_property
    def assigned(self) -> dict[str, list[ast.expr]]:
        """What each name of the function may have been given in it."""
        found: dict[str, list[ast.expr]] = defaultdict(list)
        for node in _own(self.node):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name].append(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name].append(value)
                case ast.NamedExpr(target=ast.Name(id=name), value=value):
                    found[name].append(value)
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                    for target, value in zip(targets, values, strict=False):
                        if isinstance(target, ast.Name):
                            found[target.id].append(value)
        return found


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What is in a node, without what is in the functions of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield child
            yield from _own(child)


class Source:
    """The package, parsed."""

    def __init__(self, package: Path = PACKAGE) -> None:
        self.functions: dict[str, list[Function]] = defaultdict(list)
        self.everything: list[Function] = []
        self.classes: dict[str, list[str]] = {}
        self.calls: dict[str, list[tuple[ast.Call, Function]]] = defaultdict(list)
        for path in sorted(package.rglob("*.py")):
            if "kernels" not in path.parts:
                name = path.relative_to(package).with_suffix("").as_posix().removesuffix("/__init__")
                self._add(name, ast.parse(path.read_text("utf-8")))
        for function in self.everything:
            for node in _own(function.node):
                if isinstance(node, ast.Call):
                    self.calls[_last(node.func)].append((node, function))

    def _add(self, module: str, tree: ast.Module) -> None:
        self.everything.append(Function(module, tree))
        methods: set[ast.stmt] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] = [_last(base) for base in node.bases]
                methods |= set(node.body)
            elif isinstance(node, ast.FunctionDef):
                self.everything.append(Function(module, node, node in methods))
                self.functions[node.name].append(self.everything[-1])

    def exit_code(self, name: str) -> int | None:
        """That of an exception, by its name; None of any other class."""
        if isinstance(kind := getattr(errors, name, None), type) and issubclass(kind, errors.GpuExtractError):
            return kind.exit_code
        codes = (self.exit_code(base) for base in self.classes.get(name, ()))
        return next((code for code in codes if code is not None), None)

    def constants(self, name: str, module: str) -> list[tuple[ast.expr, Function]]:
        """What a name outside functions has been given: in its module, or else wherever there is one of that name."""
        tops = [function for function in self.everything if isinstance(function.node, ast.Module)]
        own = [(value, top) for top in tops if top.module == module for value in top.assigned.get(name, ())]
        if own or not name.strip("_").isupper():
            return own
        return [(value, top) for top in tops for value in top.assigned.get(name, ())]

    def _called(self, called: ast.expr, module: str) -> list[Function]:
        """What an expression may call: of the functions of its name those of the module, or folder, that the object
        before it is named after (`self._proof.reason`), or those of its own module, or those of the only one that has
        any.
        """
        found = [] if _last(called) in PASSED_ON else self.functions.get(_last(called), [])
        if isinstance(called, ast.Name):
            found = [function for function in found if not function.is_method]
        owner = _last(called.value).strip("_") if isinstance(called, ast.Attribute) else ""
        of_owner = [function for function in found if owner in function.module.split("/")[-2:]]
        own = [function for function in found if function.module == module]
        return of_owner or own or (found if len({function.module for function in found}) == 1 else [])

    def sentences(self) -> list[Sentence]:
        """All of them, each once, in the order of modules and lines."""
        found: dict[Sentence, None] = {}
        for function in self.everything:
            for node in _own(function.node):
                for kind, expression in self._said(node, function):
                    code = errors.EXIT_PARTIAL if kind in (FAILED, DIFFERS) else self.exit_code(kind)
                    for text in self.texts(expression, function):
                        if worded(text):
                            found[Sentence(kind, code, tidy(text), function.module)] = None
        return list(found)

    def _said(self, node: ast.AST, where: Function) -> Iterator[tuple[str, ast.expr]]:
        match node:
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in FAILURES:
                if len(arguments) > FAILURES[name]:
                    yield FAILED, arguments[FAILURES[name]]
            case ast.Call(func=ast.Name(id=name), args=[message, *_]) if self.exit_code(name) is not None:
                yield name, message
            case ast.Call(func=ast.Name(id="_fail"), args=[message, ast.Constant(value=1) | ast.Name(), *_]):
                yield "GpuExtractError", message
            case ast.Call(func=ast.Name(id="_fail"), args=[message, ast.Attribute(value=ast.Name(id=name)), *_]):
                yield name, message
            case ast.Call(func=ast.Name(id="Note") | ast.Attribute(attr="note"), args=[text]):
                yield NOTE, text
            case ast.Call(func=ast.Attribute(value=value, attr="append"), args=[text]) if _last(value) == "notes":
                yield NOTE, text
            case ast.AugAssign(target=target, value=value) | ast.Assign(targets=[target], value=value) if (
                _last(target) == "notes"
            ):
                yield from ((NOTE, text) for text in self._listed(value, where, DEPTH))
            case ast.Return(value=ast.expr() as value) if where.name.strip("_") in NOTES:
                yield from ((NOTE, text) for text in self._listed(value, where, DEPTH))
            case ast.Assign(targets=[ast.Subscript(value=value)], value=reason) if _last(value) == "invalid":
                yield FAILED, reason
            case ast.Call(func=ast.Attribute(attr="add"), args=[ast.Constant(), _, _, _, reason]):
                yield DIFFERS, reason

    def _listed(self, node: ast.expr, where: Function, depth: int) -> Iterator[ast.expr]:
        """The elements of a list of texts."""
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                for element in elements:
                    yield from self._listed(element, where, depth) if isinstance(element, ast.Starred) else (element,)
            case ast.Starred(value=value):
                yield from self._listed(value, where, depth)
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                yield element
            case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
                yield from (*self._listed(left, where, depth), *self._listed(right, where, depth))
            case ast.Call(func=ast.Name() as function) if depth:
                for called in self._called(function, where.module):
                    for inner in _own(called.node):
                        if isinstance(inner, ast.Return) and isinstance(inner.value, ast.List | ast.Tuple):
                            yield from self._listed(inner.value, called, depth - 1)

    def texts(self, node: ast.expr, where: Function, depth: int = DEPTH) -> list[str]:
        """The forms that an expression may take, with placeholders for what only a run knows."""
        found = list(dict.fromkeys(islice(self._texts(node, where, depth), MOST * MOST)))
        return found or [_placeholder(node)]

    def _texts(self, node: ast.expr, where: Function, depth: int) -> Iterator[str]:
        match node:
            case ast.Constant(value=None):
                return
            case ast.Constant(value=value):
                yield str(value)
            case ast.JoinedStr(values=parts):
                forms = [self._part(part, where, depth) for part in parts]
                if prod(map(len, forms)) > OPTIONAL:
                    forms = [[form for form in part if form] or part for part in forms]
                yield from map("".join, product(*forms))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                yield from map("".join, product(self.texts(left, where, depth), self.texts(right, where, depth)))
            case ast.IfExp(test=ast.Compare(ops=[ast.Eq()], comparators=[ast.Constant(value=1)]), orelse=several):
                yield from self._texts(several, where, depth)
            case ast.IfExp(body=body, orelse=orelse):
                yield from (*self._texts(body, where, depth), *self._texts(orelse, where, depth))
            case ast.BoolOp(op=ast.Or(), values=values):
                for value in values:
                    yield from self._texts(value, where, depth)
            case ast.NamedExpr(value=value):
                yield from self._texts(value, where, depth)
            case ast.Call(func=ast.Name(id="counted"), args=[number, what, *several]):
                texts = self._texts(several[0], where, depth) if several else self._texts(what, where, depth)
                yield from (f"{_placeholder(number)} {text}{'' if several else 's'}" for text in texts)
            case ast.Name(id=name) if depth:
                for value, there in self._meanings(name, where):
                    yield from self._texts(value, there, depth - 1)
            case ast.Call(func=ast.Attribute(value=value, attr="format"), keywords=keywords):
                for text in self.texts(value, where, depth):
                    for keyword in keywords:
                        text = re.sub(rf"{{{keyword.arg}(:[^}}]*)?}}", _placeholder(keyword.value), text)
                    yield text
            case ast.Call(func=function, args=arguments) if depth and (
                functions := self._called(function, where.module)
            ):
                for called in functions:
                    given = dict(zip(called.parameters, ((value, where) for value in arguments), strict=False))
                    there = replace(called, given=given)
                    for inner in _own(called.node):
                        if isinstance(inner, ast.Return) and inner.value is not None:
                            yield from self._texts(inner.value, there, depth - 1)
            case _:
                yield _placeholder(node)

    def _part(self, node: ast.expr, where: Function, depth: int) -> list[str]:
        """The forms of a part of a text: words if it has few, all of them words, and else a placeholder."""
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if not isinstance(node, ast.FormattedValue):
            return [_placeholder(node)]
        forms = self.texts(node.value, where, depth) if depth else []
        whole = node.format_spec is None and node.conversion == -1 and _last(node.value) not in OF_A_RUN
        words = [form for form in forms if form]
        if whole and 0 < len(words) <= MOST and all(map(worded, words)):
            return forms
        return [""] if isinstance(node.value, ast.IfExp) and "" in forms else [_placeholder(node.value)]

    def _meanings(self, name: str, where: Function) -> Iterator[tuple[ast.expr, Function]]:
        if name in where.given:
            yield where.given[name]
        elif name in where.assigned and not isinstance(where.node, ast.Module):
            yield from ((value, where) for value in where.assigned[name])
        elif name in where.parameters and where.name != "error":
            place = where.parameters.index(name)
            for call, caller in self.calls.get(where.name, ()):
                if caller.module == where.module or len(self.functions[where.name]) == 1:
                    by_name = [keyword.value for keyword in call.keywords if keyword.arg == name]
                    yield from ((value, caller) for value in by_name or call.args[place : place + 1])
        else:
            yield from self.constants(name, where.module)


def _last(node: ast.expr) -> str:
    """The last name of an expression: `strerror` of `error.strerror`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=value) | ast.Starred(value=value):
            return _last(value)
    return ""


def _placeholder(node: ast.expr) -> str:
    match node:
        case ast.Call(func=function, args=arguments) if _last(function) in PASSED_ON and arguments:
            return _placeholder(arguments[-1])
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in PASSED_ON:
            return _placeholder(value)
        case ast.GeneratorExp(elt=element) | ast.ListComp(elt=element):
            return _placeholder(element)
        case ast.FormattedValue(value=value):
            return _placeholder(value)
        case ast.Call(func=function):
            name = _last(function)
        case ast.BinOp(left=left):
            return _placeholder(left)
        case ast.Attribute(value=value, attr="name") if _last(value).strip("_") in FILES:
            name = "file"
        case ast.Attribute(attr="__name__"):
            name = "type"
        case _:
            name = _last(node)
    name = name.strip("_")
    words = CALLED.get(ast.unparse(node)) or CALLED.get(name) or name.replace("_", " ").lower()
    return f"⟨{words or '…'}⟩"


def worded(text: str) -> bool:
    """Whether a text says something by itself."""
    return bool(re.search("[a-z]", PLACEHOLDER.sub("", text)))


def tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


class Section(NamedTuple):
    """A part of the page: sentences after which a person does the same."""

    title: str
    advice: str
    sentences: list[str]


class Group(NamedTuple):
    """The sentences of an exit code, or of the notes."""

    codes: str
    title: str
    text: str
    sections: list[Section]


def groups(sentences: Iterable[Sentence], advice: Mapping[str, Any]) -> list[Group]:
    """All sentences in the sections of `advice.toml`, each once in a group; sections in its order, none empty.

    Raises:
        KeyError: for an exit code of which the file says nothing.
    """
    of_code: dict[str, dict[str, Sentence]] = defaultdict(dict)
    for sentence in sentences:
        of_code[_codes(sentence)].setdefault(sentence.text, sentence)
    told = {part["codes"]: part for part in advice["code"]}
    if unknown := of_code.keys() - told.keys():
        raise KeyError(f"{ADVICE.name} has no exit code {min(unknown)}")
    found = []
    for codes, part in told.items():
        sections = [Section(one["title"], one.get("advice", ""), []) for one in part["section"]]
        for sentence in of_code[codes].values():
            place = next(i for i, one in enumerate(part["section"]) if _belongs(sentence, one))
            sections[place].sentences.append(sentence.text)
        found.append(Group(codes, part["title"], part["text"], [one for one in sections if one.sentences]))
    return found


def _codes(sentence: Sentence) -> str:
    if sentence.kind == "InterruptedRunError":
        return "129, 130, 143"
    return NOTE if sentence.code is None else str(sentence.code)


def _belongs(sentence: Sentence, section: Mapping[str, Any]) -> bool:
    says, places = section.get("says", ()), section.get("from", ())
    if not says and not places:
        return True
    return any(re.search(pattern, sentence.text) for pattern in says) or any(
        f"{sentence.module}/".startswith(f"{place}/") for place in places
    )


def page(found: Iterable[Group]) -> str:
    """`docs/when-it-goes-wrong.md`."""
    found = list(found)
    parts = [HEAD, "| exit code | |\n|---|---|\n" + "\n".join(_row(group) for group in found)]
    for group in found:
        parts += [f"## {_heading(group)}", group.text]
        for section in group.sections:
            advice = [f"**What to do.** {section.advice}"] if section.advice else []
            parts += [f"### {section.title}", *advice, "\n".join(f"- {marked(text)}" for text in section.sentences)]
    return "\n\n".join(parts) + "\n"


def _heading(group: Group) -> str:
    return group.title if group.codes == NOTE else f"{group.codes}: {group.title}"


def _row(group: Group) -> str:
    anchor = re.sub(r"[^\w\- ]", "", _heading(group).lower()).replace(" ", "-")
    return f"| {'–' if group.codes == NOTE else group.codes} | [{group.title}](#{anchor}) |"


def marked(text: str) -> str:
    """A sentence in Markdown: placeholders in italics, and nothing else that means anything there."""
    text = re.sub(r"([\\*_\[\]|])", r"\\\1", text).replace("<", "&lt;")
    return PLACEHOLDER.sub(lambda found: f"*{found[0][1:-1]}*", text)


def when_it_goes_wrong() -> str:
    """The page, from the source of today and `advice.toml`."""
    return page(groups(Source().sentences(), tomllib.loads(ADVICE.read_text("utf-8"))))
