"""Conditions that a person writes: what they mean, what is unknown, and where they are wrong."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpu_extract.conditions import DEEPEST, LONGEST, Condition, Kind
from gpu_extract.errors import UsageError

KINDS: dict[str, Kind] = {"size": "number", "yaw": "number", "state": "text"}
VALUES: dict[str, Any] = {"size": 128.0, "yaw": -12.5, "state": "new"}


def holds(text: str, **values: Any) -> bool | None:
    return Condition(text, KINDS).holds(VALUES | values)


@pytest.mark.parametrize(
    "text",
    [
        "size == 128",
        "size<=128 and yaw<0",
        " not  size < 128 ",
        "not (size < 128 or yaw > 0)",
        "size < 128 or yaw < 0 and size == 128",
        "yaw == -12.5",
        "-13 < yaw",
        "(size) >= (128)",
        "size != .5e2",
        "state == 'new'",
        'state != "chan\'ged"',
        "not not size == 1.28E2",
        "not size < 5 and not yaw > 1",
    ],
)
def test_what_holds(text: str) -> None:
    assert holds(text) is True
    assert holds(f"not ({text})") is False


def test_names_that_are_asked_for() -> None:
    assert Condition("size < 3 or not (size > 5 and 1 < 2)", KINDS).names == {"size"}
    assert Condition("1 < 2", KINDS).names == set()


@pytest.mark.parametrize("first", [True, False, None])
@pytest.mark.parametrize("second", [True, False, None])
def test_the_unknown_is_unknown_unless_it_makes_no_difference(first: bool | None, second: bool | None) -> None:
    def some(value: bool | None) -> list[bool]:
        return [True, False] if value is None else [value]

    def all_agree(found: list[bool]) -> bool | None:
        return found[0] if len(set(found)) == 1 else None

    values = {name: None if one is None else float(one) for name, one in (("size", first), ("yaw", second))}
    pairs = list(itertools.product(some(first), some(second)))
    assert holds("size > 0 and yaw > 0", **values) is all_agree([a and b for a, b in pairs])
    assert holds("size > 0 or yaw > 0", **values) is all_agree([a or b for a, b in pairs])
    assert holds("not size > 0", **values) is all_agree([not a for a in some(first)])


def test_a_value_that_is_missing_or_no_number_is_unknown() -> None:
    condition = Condition("size < 3", KINDS)
    assert condition.holds({}) is None
    assert condition.holds({"size": float("nan")}) is None


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 1, "a name, a number or a text in quotes is expected"),
        ("size <", 7, "a name, a number or a text in quotes is expected"),
        ("size", 1, "a number alone is no condition"),
        ("size < 3 and yaw", 14, "a number alone is no condition"),
        ("state", 1, "a text alone is no condition"),
        ("size = 3", 6, "equality is =="),
        ("size < 128px", 8, "a number is digits"),
        ("size < 1.2.3", 8, "a number is digits"),
        ("weight < 3", 1, "there is no weight, but size, yaw, state"),
        ("1 < size < 3", 10, "two comparisons are joined by and"),
        ("(size < 3) < 4", 1, "numbers or texts on its sides"),
        ("size < (yaw < 3)", 8, "numbers or texts on its sides"),
        ("size == 'a'", 9, "a number is compared with a text"),
        ("state < 'a'", 7, "texts are compared with == and !="),
        ("(size < 3", 10, "the parenthesis of character 1 has no end here"),
        ("size < 3)", 9, "and, or, or the end is expected"),
        ("size < 3 size > 1", 10, "and, or, or the end is expected"),
        ("size & 3", 6, "no part of a condition"),
        ("state == 'new", 10, "the text has no end"),
        ("yaw < -size", 8, "a number is expected behind -"),
        ("size < 1e999", 8, "too large"),
        ("and < 3", 1, "a name, a number or a text in quotes is expected"),
        ("__import__('os') == 1", 1, "there is no __import__"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, at: int, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        Condition(text, KINDS)
    assert f"from character {at} on" in str(caught.value)


def test_long_and_deep_ones_are_refused() -> None:
    with pytest.raises(UsageError, match=f"may have {LONGEST:,} characters"):
        Condition("1<2 " * LONGEST, KINDS)
    for opening in ("(", "not ", "not("):
        with pytest.raises(UsageError, match=f"more than {DEEPEST} parentheses"):
            Condition(opening * (DEEPEST + 1) + "1<2", KINDS)
    assert Condition("(" * DEEPEST + "1<2" + ")" * DEEPEST, KINDS).holds({}) is True
    assert Condition(" and ".join(["1<2"] * (LONGEST // 8)), KINDS).holds({}) is True


OPERANDS = st.sampled_from(["size", "yaw", "128", "-12.5", "0", "1e3", ".5", "7."])
COMPARED = st.builds("{} {} {}".format, OPERANDS, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), OPERANDS)
LOGIC = st.recursive(
    COMPARED,
    lambda part: st.one_of(
        st.builds("{} and {}".format, part, part),
        st.builds("{} or {}".format, part, part),
        st.builds("not {}".format, COMPARED),
        st.builds("not ({})".format, part),
        st.builds("({})".format, part),
    ),
    max_leaves=8,
)


@given(LOGIC, st.floats(-200, 200), st.floats(-200, 200))
@settings(max_examples=60, deadline=None)
def test_where_all_is_known_it_means_what_it_means_in_python(text: str, size: float, yaw: float) -> None:
    assert holds(text, size=size, yaw=yaw) is eval(text, {"size": size, "yaw": yaw})


@given(st.one_of(st.text(max_size=40), st.text("sizeyaw<>=!()-.\"' 0123andornt", max_size=40)))
@settings(max_examples=100, deadline=None)
@example("²<3")
@example("٣<size")
@example("size<\x00")
def test_any_text_is_a_condition_or_a_mistake(text: str) -> None:
    with suppress(UsageError):
        condition = Condition(text, KINDS)
        assert condition.holds(VALUES) in (True, False)
        assert condition.holds({}) in (True, False, None)
