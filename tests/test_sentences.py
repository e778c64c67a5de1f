"""Every sentence of an error is found in the source, and what to do about it is said beside it."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from gpu_extract.cli import main

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "when-it-goes-wrong.md"
sentences = importlib.import_module("docs.sentences")


def found_in(folder: Path, **modules: str) -> list[tuple[int | None, str]]:
    """Code and text of the sentences of a small package."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return [(found.code, found.text) for found in sentences.Source(folder).sentences()]


def said(command: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(command)
    return code, capsys.readouterr().err.removeprefix("gpu-extract: ").strip()


def test_what_only_a_run_knows_is_a_placeholder(tmp_path: Path) -> None:
    text = 'def f(error, path):\n    raise InputError(f"{path.name} has {len(faces):,} faces ({error.strerror}).")\n'
    assert found_in(tmp_path, one=text) == [(3, "⟨file⟩ has ⟨faces⟩ faces (⟨reason⟩).")]


def test_a_choice_makes_two_sentences_and_one_thing_is_told_as_several_are(tmp_path: Path) -> None:
    text = """
def f(path, count):
    why = "is a file" if path.is_file() else "is gone"
    raise OutputError(f"{path} {why}, and {'one more' if count == 1 else 'some more'}.")
"""
    assert [told for _, told in found_in(tmp_path, one=text)] == [
        "⟨file⟩ is a file, and some more.",
        "⟨file⟩ is gone, and some more.",
    ]


def test_words_are_followed_through_variables_constants_parameters_and_functions(tmp_path: Path) -> None:
    one = """
from two import WHAT, reason

def refused(what, value):
    return UsageError(f"{what} cannot be {value!r}: {reason(value)}; {WHAT}.")

def f(value):
    raise refused("the size", value)

def g(value):
    message = f"{value} is unheard of"
    raise DeviceError(message) from None
"""
    two = """
WHAT = "see --help"

def reason(value):
    if value is None:
        return None
    return "it is too large" if value > 3 else f"it is under {value}"
"""
    assert found_in(tmp_path, one=one, two=two) == [
        (2, "the size cannot be ⟨value⟩: it is too large; see --help."),
        (2, "the size cannot be ⟨value⟩: it is under ⟨value⟩; see --help."),
        (5, "⟨value⟩ is unheard of"),
    ]


def test_failures_notes_and_exceptions_of_other_modules_are_found_too(tmp_path: Path) -> None:
    text = """
class GoneError(AlignmentsError):
    pass

def notes():
    return [f"{count} were renamed.", *more()]

def more():
    return ["nothing else was."]

def f(report, name):
    report.notes.append("look at this.")
    report.notes += [f"{name} was left out."]
    yield Failure(name, None, "its landmarks are in one place")
    raise GoneError(f"{name} is gone.", 3)

def g(error):
    raise GoneError(str(error))
"""
    assert sorted(found_in(tmp_path, one=text), key=str) == [
        (4, "its landmarks are in one place"),
        (7, "⟨name⟩ is gone."),
        (None, "look at this."),
        (None, "nothing else was."),
        (None, "⟨count⟩ were renamed."),
        (None, "⟨name⟩ was left out."),
    ]


def test_an_exception_that_is_no_error_of_the_program_says_nothing_to_a_user(tmp_path: Path) -> None:
    assert found_in(tmp_path, one='def f():\n    raise ValueError("points must be [N, 2]")\n') == []


def test_a_section_without_patterns_takes_what_is_left_and_an_unknown_code_is_named() -> None:
    advice = {
        "code": [
            {"codes": "3", "title": "t", "text": "", "section": [{"title": "a", "says": ["gone"]}, {"title": "b"}]},
        ]
    }
    here = [sentences.Sentence("InputError", 3, text, "frames") for text in ("it is gone.", "it is empty.", "gone.")]
    (group,) = sentences.groups(here, advice)
    assert [(one.title, one.sentences) for one in group.sections] == [
        ("a", ["it is gone.", "gone."]),
        ("b", ["it is empty."]),
    ]
    with pytest.raises(KeyError, match=r"advice\.toml has no exit code 6"):
        sentences.groups([sentences.Sentence("OutputError", 6, "full.", "run")], advice)


def test_nothing_in_a_sentence_is_taken_for_markdown() -> None:
    assert sentences.marked("⟨file⟩ has [a](b), *_<c>| in it") == r"*file* has \[a\](b), \*\_&lt;c>\| in it"


def test_every_section_has_sentences_and_every_code_takes_what_is_left() -> None:
    advice = tomllib.loads(sentences.ADVICE.read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    for code in advice["code"]:
        *_, last = code["section"]
        assert "says" not in last, code["title"]
        assert "from" not in last, code["title"]
        for section in code["section"]:
            assert f"\n### {section['title']}\n" in page, f"{section['title']} has no sentence any more"


def test_what_the_program_says_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "damaged.fsa").write_bytes(b"\x78\x9c of no use")
    (tmp_path / "empty").mkdir()
    (tmp_path / "video.mp4").write_bytes(b"this is no video, but long enough to be looked at")
    damaged, empty, missing = str(tmp_path / "damaged.fsa"), str(tmp_path / "empty"), str(tmp_path / "missing")
    places = ["-fr", str(tmp_path / "video.mp4"), "-fc", str(tmp_path / "faces")]
    commands = {
        ("extract",): 2,
        ("extract", "-a", damaged, *places): 7,
        ("extract", "-a", missing, *places): 3,
        ("extract", "-a", damaged, *places, "-sz", "7"): 2,
        ("extract", "-a", damaged, *places, "--quality", "7", "--format", "png"): 2,
        ("extract", "-a", damaged, "-fr", empty, "-fc", empty): 7,
        ("verify", "-a", damaged, "-fr", empty, "-fc", missing): 3,
        ("prune", "-a", damaged, "-fc", missing): 3,
        ("sheet", missing, str(tmp_path / "sheet.png")): 3,
        ("batch", empty, "-fc", missing): 3,
        ("submit", "nowhere", "-a", damaged, *places): 2,
    }
    told = [
        (found.code, re.compile(".*".join(map(re.escape, sentences.PLACEHOLDER.split(found.text))), re.DOTALL))
        for found in sentences.Source().sentences()
    ]
    for words, code in commands.items():
        ended, sentence = said(list(words), capsys)
        assert ended == code, (words, sentence)
        assert any(of_code == code and pattern.fullmatch(sentence) for of_code, pattern in told), sentence
