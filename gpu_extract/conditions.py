"""Conditions that a person writes about values with names: `size < 128 and not sharpness > 20`.

There are numbers, texts in quotes, names, comparisons (< <= > >= == !=), and, or, not, and parentheses. `and` binds
closer than `or`, and `not` closer than both. A text is compared with == and != only. Nothing is ever executed.

A value may be unknown. What follows from the others whatever it is holds all the same; else it is unknown whether the
condition does.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from gpu_extract.errors import UsageError

Value = float | str | None
Kind = Literal["number", "text", "truth"]

LONGEST = 1000
DEEPEST = 50
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))|(?P<name>[^\W\d]\w*)"
    r"|(?P<text>\"[^\"]*\"|'[^']*')|(?P<sign><=|>=|==|!=|<|>|\(|\)|-)"
)
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_WORDS = ("and", "or", "not")


class _Token(NamedTuple):
    kind: str
    """number, name, text, sign, word; "" at the end."""
    text: str
    at: int


class _Part(NamedTuple):
    """A part of a condition: what it is, where it begins, what it comes to with given values (None: unknown)."""

    kind: Kind
    at: int
    of: Callable[[Mapping[str, Value]], Any]


class Condition:
    """A condition that was understood.

    Attributes:
        text: as it was written.
        names: of the values that it asks for.
    """

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        """
        Args:
            kinds: of the values that there are, by their names: numbers and texts.

        Raises:
            UsageError: if it cannot be understood; the sentence says from which character on, and why.
        """
        self.text = text
        reader = _Reader(text, kinds)
        self._holds = reader.condition()
        self.names = frozenset(reader.names)

    def holds(self, values: Mapping[str, Value]) -> bool | None:
        """Whether it holds; None where that is unknown, for a value it asks for is missing, None or not a number."""
        found: bool | None = self._holds(values)
        return found


class _Reader:
    """Reads one condition from left to right."""

    def __init__(self, text: str, kinds: Mapping[str, Kind]) -> None:
        self._text, self._kinds = text, kinds
        self.names: set[str] = set()
        if len(text) > LONGEST:
            raise UsageError(f"a condition may have {LONGEST:,} characters; this one has {len(text):,}.")
        self._tokens = self._split()
        self._place = self._depth = 0

    def condition(self) -> Callable[[Mapping[str, Value]], Any]:
        whole = self._truth(self._any_of())
        if self._next.kind:
            raise self._fault(self._next.at, "and, or, or the end is expected")
        return whole.of

    def _split(self) -> list[_Token]:
        tokens, at, text = [], 0, self._text
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise self._fault(at, self._why_none(at))
            kind = "word" if found[0] in _WORDS else found.lastgroup
            tokens.append(_Token(kind, found[0], at))
            at = found.end()
        return [*tokens, _Token("", "", len(text))]

    def _why_none(self, at: int) -> str:
        match self._text[at]:
            case "=":
                return "equality is =="
            case "'" | '"':
                return "the text has no end"
            case sign if sign.isdigit() or sign == ".":
                return "a number is digits, perhaps with a point, and no unit"
            case _:
                return "this is no part of a condition"

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _takes(self, *texts: str) -> _Token | None:
        """The next token, if it is one of those."""
        token = self._next
        if token.kind in ("sign", "word") and token.text in texts:
            self._place += 1
            return token
        return None

    def _any_of(self) -> _Part:
        part = self._all_of()
        while self._takes("or"):
            part = _either(self._truth(part), self._truth(self._all_of()))
        return part

    def _all_of(self) -> _Part:
        part = self._negated()
        while self._takes("and"):
            part = _opposite(_either(_opposite(self._truth(part)), _opposite(self._truth(self._negated()))))
        return part

    def _negated(self) -> _Part:
        if token := self._takes("not"):
            with_it = self._deeper(token.at, self._negated)
            return _opposite(self._truth(with_it))
        return self._comparison()

    def _comparison(self) -> _Part:
        left = self._operand()
        sign = self._takes(*_COMPARISONS)
        if sign is None:
            return left
        right = self._operand()
        if again := self._takes(*_COMPARISONS):
            raise self._fault(again.at, "two comparisons are joined by and")
        for part in (left, right):
            if part.kind == "truth":
                raise self._fault(part.at, "a comparison has numbers or texts on its sides")
        if left.kind != right.kind:
            raise self._fault(right.at, f"a {left.kind} is compared with a {right.kind}")
        if left.kind == "text" and sign.text not in ("==", "!="):
            raise self._fault(sign.at, "texts are compared with == and !=")
        return _compared(left, right, _COMPARISONS[sign.text])

    def _operand(self) -> _Part:
        token = self._next
        if self._takes("("):
            part = self._deeper(token.at, self._any_of)
            if not self._takes(")"):
                raise self._fault(self._next.at, f"the parenthesis of character {token.at + 1} has no end here")
            return part._replace(at=token.at)
        if self._takes("-"):
            number = self._next
            if number.kind != "number":
                raise self._fault(number.at, "a number is expected behind -")
            self._place += 1
            return _constant("number", token.at, -self._number(number))
        if token.kind not in ("number", "text", "name"):
            raise self._fault(token.at, "a name, a number or a text in quotes is expected")
        self._place += 1
        if token.kind == "number":
            return _constant("number", token.at, self._number(token))
        if token.kind == "text":
            return _constant("text", token.at, token.text[1:-1])
        if token.text not in self._kinds:
            raise self._fault(token.at, f"there is no {token.text}, but {', '.join(self._kinds)}")
        self.names.add(token.text)
        return _named(self._kinds[token.text], token.at, token.text)

    def _number(self, token: _Token) -> float:
        value = float(token.text)
        if not math.isfinite(value):
            raise self._fault(token.at, "this number is too large")
        return value

    def _deeper(self, at: int, read: Callable[[], _Part]) -> _Part:
        self._depth += 1
        if self._depth > DEEPEST:
            raise self._fault(at, f"more than {DEEPEST} parentheses and nots lie in each other")
        part = read()
        self._depth -= 1
        return part

    def _truth(self, part: _Part) -> _Part:
        if part.kind != "truth":
            raise self._fault(part.at, f"a {part.kind} alone is no condition, it has to be compared")
        return part

    def _fault(self, at: int, why: str) -> UsageError:
        where = f"at its end, behind {self._text!r}" if at >= len(self._text) else f"at {self._text[at:]!r}"
        return UsageError(f"the condition is not understood from character {at + 1} on, {where}: {why}.")


def _constant(kind: Kind, at: int, value: Value) -> _Part:
    return _Part(kind, at, lambda _: value)


def _named(kind: Kind, at: int, name: str) -> _Part:
    def of(values: Mapping[str, Value]) -> Value:
        value = values.get(name)
        return None if isinstance(value, float) and math.isnan(value) else value

    return _Part(kind, at, of)


def _compared(left: _Part, right: _Part, compare: Callable[[Any, Any], bool]) -> _Part:
    def of(values: Mapping[str, Value]) -> bool | None:
        one, other = left.of(values), right.of(values)
        return None if one is None or other is None else compare(one, other)

    return _Part("truth", left.at, of)


def _opposite(part: _Part) -> _Part:
    def of(values: Mapping[str, Value]) -> bool | None:
        found = part.of(values)
        return None if found is None else not found

    return _Part("truth", part.at, of)


def _either(one: _Part, other: _Part) -> _Part:
    def of(values: Mapping[str, Value]) -> bool | None:
        first = one.of(values)
        if first:
            return True
        second = other.of(values)
        return True if second else None if first is None or second is None else False

    return _Part("truth", one.at, of)
