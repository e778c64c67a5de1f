"""Which frame each key of an alignments file names; and where none does exactly, which it nearly names, and how.

A key names a frame exactly (`FrameSource.index_of`), or it differs from the frame's name in something that a rule of
`options.KEY_RULES` takes away, if the user says so (`--match-keys`): a folder before the name, how accents are
composed, upper and lower case, leading zeros, the extension, what stands before the number. Without that word nothing
is matched by a rule, but the report says how many keys would be, and how. What is not certain is never guessed: a key
that several frames answer, and keys that share a frame, are failures that say so.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from operator import or_
from typing import NamedTuple

import numpy as np

from gpu_extract.errors import counted
from gpu_extract.frames import FrameSource
from gpu_extract.naming import TO_PNG, base_of, split_name
from gpu_extract.options import KEY_RULES, in_order

NO_FRAME = "the source has no such frame"
SHOWN = 100  # characters of a name in a sentence
BUCKET = 4  # frames that may be one key's; where there are more, nothing is certain
CHOICES = 4  # sets of rules that are tried before one is offered

# How a key and a frame's name differ. Which rule takes a difference away depends on where it is: a rule that drops the
# extension drops its letter case as well.
# WITHOUT_NUMBER only says that the rule that drops what stands before the number has nothing to drop.
FOLDER, ACCENTS, LETTERS, TEXT_ZEROS, ZEROS, EXTENSION_LETTERS, EXTENSION, TEXT, WITHOUT_NUMBER = (
    1 << i for i in range(9)
)
TAKES = {
    "path": FOLDER,
    "unicode": ACCENTS | WITHOUT_NUMBER,
    "case": LETTERS | EXTENSION_LETTERS | WITHOUT_NUMBER,
    "padding": ZEROS | TEXT_ZEROS | WITHOUT_NUMBER,
    "extension": EXTENSION | EXTENSION_LETTERS,
    "stem": TEXT | ACCENTS | LETTERS | TEXT_ZEROS,
}
NEEDS = {
    FOLDER: "path",
    ACCENTS: "unicode",
    LETTERS: "case",
    TEXT_ZEROS: "padding",
    ZEROS: "padding",
    EXTENSION_LETTERS: "case",
    EXTENSION: "extension",
    TEXT: "stem",
}
MEANS = {
    "path": "the folder before the name",
    "unicode": "how accents are composed",
    "case": "upper and lower case",
    "padding": "leading zeros",
    "extension": "the extension",
    "stem": "what stands before the number",
}
INNER_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


class Parts(NamedTuple):
    """A name, taken apart: all of it is folder + text + number + extension."""

    folder: str
    text: str
    number: str
    """Digits at the end of the stem, perhaps none."""
    extension: str


class Candidate(NamedTuple):
    """A frame that may be a key's."""

    differs: int
    frame: str


@dataclass
class Matched:
    """What became of the keys of a file."""

    names: list[str]
    """[N] what faces and reports call each key's frame: the key, without its folder where that was taken away."""
    position: np.ndarray
    """[N] int64, of each key's frame in the source; -1 where it has none."""
    by_rule: dict[int, int] = field(default_factory=dict)
    """Entry of the file -> position, of those that a rule matched."""
    notes: list[str] = field(default_factory=list)
    """How many keys were matched by a rule, or would be; a sentence each."""
    nearly: str = ""
    """Of those that would be, the end of a sentence; empty where there are none."""
    failures: dict[int, str] = field(default_factory=dict)
    """Entry of the file -> why it has no frame, where there is more to say than that."""

    def reason(self, entry: int) -> str:
        return self.failures.get(entry, NO_FRAME)


def match_keys(keys: list[str], source: FrameSource, rules: str = "exact") -> Matched:
    """Find the frames of an alignments file's keys.

    Args:
        rules: what may differ, as `Settings.match_keys` has it.
    """
    found = source.indices_of(keys)
    position = np.array(found if None not in found else [-1 if index is None else index for index in found], np.int64)
    if (position >= 0).all():
        return Matched(keys, position)
    beside = source.beside()
    named = [key for key in keys if beside.get(key) == ""]
    if named:
        source.admit(named)
        for entry in np.flatnonzero(position < 0).tolist():
            index = source.index_of(keys[entry])
            position[entry] = -1 if index is None else index
    made = Matched(keys, position) if (position >= 0).all() else _Search(keys, source, position, rules).matched()
    if named:
        files = counted(len(named), "image")
        made.notes.append(f"{files} of a format that is not listed ({_shown(named[0])}) came after all other frames.")
    return made


class _Search:
    """For the keys that name no frame exactly."""

    def __init__(self, keys: list[str], source: FrameSource, position: np.ndarray, rules: str) -> None:
        self._keys, self._source, self._position = keys, source, position
        self._allowed = [*KEY_RULES] if rules == "any" else [rule for rule in KEY_RULES if rule in rules.split(",")]
        self._missing: list[int] = np.flatnonzero(position < 0).tolist()
        self._claimed = {source.name_of(index): entry for entry, index in enumerate(position.tolist()) if index >= 0}
        self._beside = source.beside()
        self._unclear: dict[int, str] = {}
        names = source.names()
        self._frames: _Listed | _Numbered = _Numbered(source) if names is None else _Listed(names)
        self._near = self._candidates()

    def matched(self) -> Matched:
        taken, unclear = self._resolved(self._allowed)
        self._unclear |= unclear
        made = Matched(self._keys, self._position)
        self._take(taken, made)
        made.failures |= self._unclear
        self._offer({entry: near for entry, near in self._near.items() if entry not in taken | unclear}, made)
        self._tell_unclear(made)
        return made

    def _tell_unclear(self, made: Matched) -> None:
        if not self._unclear:
            return
        entry, why = next(iter(self._unclear.items()))
        sentence = (
            f"{counted(len(self._unclear), 'key')} cannot be matched for certain: for {_shown(self._keys[entry])} {why}"
        )
        made.nearly = made.nearly or sentence
        made.notes.append(f"{sentence}.")

    def _candidates(self) -> dict[int, tuple[Candidate, ...]]:
        """Entry of the file -> frames that may be its; what lies beside the frames only where no frame may."""
        others = _Listed([*self._beside])
        from_zero = self._texts_from_zero()
        found: dict[int, tuple[Candidate, ...]] = {}
        for entry in self._missing:
            key = _parts(self._keys[entry])
            if from_zero and _loose(key.text) in from_zero:
                self._unclear[entry] = f"keys like it count from 0, but the frames from {self._frames.first}"
            elif self._beside and (base := base_of(self._keys[entry])) in self._beside:
                found[entry] = (Candidate(FOLDER if key.folder else 0, base),)
            elif near := self._frames.near(key) or (others.near(key) if self._beside else ()):
                found[entry] = near
        return found

    def _texts_from_zero(self) -> set[str]:
        """What stands before the number of keys that count from 0, where the frames begin later: numbers mislead."""
        if isinstance(self._frames, _Listed) or not self._frames.first:
            return set()
        keys = (_parts(self._keys[entry]) for entry in self._missing)
        return {_loose(key.text) for key in keys if _plain(key.number) == "0"}

    def _resolved(self, rules: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
        """Entry -> its frame under some rules, where that is certain; and entry -> why it is not."""
        takes = reduce(or_, (TAKES[rule] for rule in rules), 0)
        certain, unclear = {}, {}
        for entry, near in self._near.items() if takes else ():
            fitting = [frame for differs, frame in near if not differs & ~takes]
            if len(fitting) > 1 or (fitting and len(near) > BUCKET):
                some = " and ".join(_shown(frame) for _, frame in near[:2])
                unclear[entry] = f"several frames may be meant, such as {some}"
            elif fitting and not self._beside.get(fitting[0]):
                certain[entry] = fitting[0]
        unclear |= self._contested(certain)
        unclear |= self._of_several_names({entry: frame for entry, frame in certain.items() if entry not in unclear})
        return {entry: frame for entry, frame in certain.items() if entry not in unclear}, unclear

    def _contested(self, certain: dict[int, str]) -> dict[int, str]:
        """Why keys whose frame is another key's, too, do not get it."""
        keys_of: dict[str, list[int]] = {}
        for entry, frame in certain.items():
            keys_of.setdefault(frame, []).append(entry)
        unclear = {}
        for frame, entries in keys_of.items():
            exact = self._claimed.get(frame)
            if exact is None and len(entries) == 1:
                continue
            for entry in entries:
                other = exact if exact is not None else entries[entry == entries[0]]
                unclear[entry] = (
                    f"the nearest frame {_shown(frame)} is also that of the key {_shown(self._keys[other])}"
                )
        return unclear

    def _of_several_names(self, certain: dict[int, str]) -> dict[int, str]:
        """Why keys that have only a number in common with their frame do not get it, unless all have one name."""
        pairs: dict[tuple[str, str], int] = {}
        by_number = []
        for entry, frame in certain.items():
            if self._difference(entry, frame) & TEXT:
                by_number.append(entry)
                pairs.setdefault((_loose(_parts(self._keys[entry]).text), _loose(_parts(frame).text)), entry)
        if len(pairs) < 2:
            return {}
        some = " and ".join(_shown(self._keys[entry]) for entry in [*pairs.values()][:2])
        why = f"only the number is that of a frame, and so it is for keys of other names ({some})"
        return dict.fromkeys(by_number, why)

    def _take(self, taken: dict[int, str], made: Matched) -> None:
        if not taken:
            return
        self._source.admit([frame for frame in taken.values() if frame in self._beside])
        made.names = [*self._keys]
        all_differ = 0
        for entry, frame in taken.items():
            index = self._source.index_of(frame)
            assert index is not None
            self._position[entry] = made.by_rule[entry] = index
            differs = self._difference(entry, frame)
            all_differ |= differs
            if differs & FOLDER:
                made.names[entry] = base_of(self._keys[entry])
        made.notes.append(
            f"{counted(len(taken), 'key')} matched frames that differ in {_meanings(_rules(all_differ))}, such as "
            f"{self._example(taken)} (--match-keys {_flag(self._allowed)})."
        )

    def _offer(self, left: dict[int, tuple[Candidate, ...]], made: Matched) -> None:
        """Say how many more keys would match, by which rules; and each key's own nearest frame."""
        if not left:
            return
        nearest = {entry: min(near, key=_distance) for entry, near in left.items()}
        offered, would, unclear = self._best(Counter(_rules(near.differs) for near in nearest.values()))
        would = {entry: frame for entry, frame in would.items() if entry in left}
        unread = {entry: near.frame for entry, near in nearest.items() if self._beside.get(near.frame)}
        self._unclear |= {entry: why for entry, why in unclear.items() if entry in left}
        for entry, near in nearest.items():
            made.failures[entry] = self._unclear.get(entry) or self._advice(near)
        if would:
            what = _meanings([rule for rule in offered if rule not in self._allowed])
            made.nearly = (
                f"{counted(len(would), 'key')} would match frames that differ only in {what}, such as "
                f"{self._example(would)}; if these are the frames, add --match-keys {_flag(offered)}"
            )
            without = len(self._missing) - len(made.by_rule)
            has = "has" if without == 1 else "have"
            made.notes.append(f"{counted(without, 'key')} {has} no frame of exactly that name: {made.nearly}.")
        if unread:
            entry, frame = next(iter(unread.items()))
            sentence = (
                f"the frames of {counted(len(unread), 'key')} are not read: {_shown(frame)} is there, but "
                f"{self._beside[frame]}"
            )
            if sentence.endswith(TO_PNG) and _parts(self._keys[entry]).extension.lower() != ".png":
                sentence += f", and add --match-keys {_flag([*self._allowed, 'extension'])}"
            made.nearly = made.nearly or sentence
            made.notes.append(f"{sentence}.")

    def _best(self, votes: Counter[tuple[str, ...]]) -> tuple[list[str], dict[int, str], dict[int, str]]:
        """The rules under which most keys have a frame for certain, few before many; and what comes of them."""
        harmless = {rule for rules in votes for rule in rules if "stem" not in rules}
        choices = [{*self._allowed, *rules} for rules, _ in votes.most_common(CHOICES)]
        choices.append({*self._allowed, *harmless})
        best: tuple[list[str], dict[int, str], dict[int, str]] = ([], {}, {})
        for choice in sorted(choices, key=len):
            rules = [rule for rule in KEY_RULES if rule in choice]
            certain, unclear = self._resolved(rules)
            if len(certain) > len(best[1]) or not best[1]:
                best = rules, certain, unclear
        return best

    def _advice(self, nearest: Candidate) -> str:
        rules = _rules(nearest.differs)
        if why := self._beside.get(nearest.frame):
            return f"{_shown(nearest.frame)} is there, but {why}"
        flag = _flag([*self._allowed, *rules])
        return (
            f"no frame has exactly this name; {_shown(nearest.frame)} differs only in {_meanings(rules)} "
            f"(--match-keys {flag})"
        )

    def _difference(self, entry: int, frame: str) -> int:
        return next(near.differs for near in self._near[entry] if near.frame == frame)

    def _example(self, matched: dict[int, str]) -> str:
        """A key and its frame; and a warning where frames count from 0 and keys from 1, as exported ones may."""
        entry, frame = next(iter(matched.items()))
        pair = f"{_shown(self._keys[entry])} and {_shown(frame)}"
        numbers = {_plain(_parts(self._keys[entry]).number) for entry in matched}
        if self._frames.first == 0 and "1" in numbers and "0" not in numbers:
            return f"{pair} (mind that the frames count from 0 and the keys from 1)"
        return pair


class _Listed:
    """Frames whose names are known."""

    def __init__(self, names: Sequence[str]) -> None:
        self._parts = [_parts(name) for name in names]
        self._names = names
        self._by_name: dict[tuple[str, str], list[int]] = {}
        self._by_number: dict[str, list[int]] = {}
        for i, (_, text, number, _) in enumerate(self._parts):
            plain = _plain(number)
            for bucket in (
                self._by_name.setdefault((_loose(text), plain), []),
                self._by_number.setdefault(plain, []) if plain else [],
            ):
                if len(bucket) <= BUCKET:
                    bucket.append(i)
        self.first = 0 if "0" in self._by_number else 1

    def near(self, key: Parts) -> tuple[Candidate, ...]:
        plain = _plain(key.number)
        same = self._by_name.get((_loose(key.text), plain)) or (self._by_number.get(plain, []) if plain else [])
        return tuple(Candidate(_difference(key, self._parts[i]), self._names[i]) for i in same)


class _Numbered:
    """Frames whose names follow from their numbers."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.first = int(_parts(source.name_of(0)).number or 0)

    def near(self, key: Parts) -> tuple[Candidate, ...]:
        plain = _plain(key.number)
        if not plain or len(plain) > 15 or int(plain) < self.first:
            return ()
        index = int(plain) - self.first
        name = self._source.name_of(index)
        frame = _parts(name)
        # A video's frames also answer to other extensions than their name's.
        if self._source.index_of(f"{frame.text}{frame.number}{key.extension}") == index:
            frame = frame._replace(extension=key.extension)
        return (Candidate(_difference(key, frame), name),) if _plain(frame.number) == plain else ()


def _parts(name: str) -> Parts:
    base = base_of(name) if "/" in name or "\\" in name else name
    stem, extension = split_name(base)
    if extension and (not extension[1:].isalnum() or extension[1:].isdigit()):
        stem, extension = base, ""  # the number of "frame.000001"
    text = stem.rstrip("0123456789")
    return Parts(name[: len(name) - len(base)], text, stem[len(text) :], extension)


def _plain(number: str) -> str:
    """Without leading zeros."""
    return number.lstrip("0") or number[:1]


@lru_cache(1 << 16)
def _loose(text: str) -> str:
    """What texts have in common that differ in accents, case and zeros only."""
    return unicodedata.normalize("NFC", INNER_ZEROS.sub("", unicodedata.normalize("NFC", text).casefold()))


def _difference(key: Parts, frame: Parts) -> int:
    differs = FOLDER if key.folder != frame.folder else 0
    if key.number != frame.number:
        differs |= ZEROS
    if key.extension != frame.extension:
        same = key.extension.casefold() == frame.extension.casefold()
        differs |= EXTENSION_LETTERS if same else EXTENSION
    if key.text == frame.text:
        return differs
    return differs | _text_difference(key.text, frame.text) | (0 if key.number else WITHOUT_NUMBER)


@lru_cache(1 << 16)
def _text_difference(one: str, other: str) -> int:
    """The least that must be taken away before two texts are the same."""
    if _loose(one) != _loose(other):
        return TEXT
    for differs in (ACCENTS, LETTERS, TEXT_ZEROS, ACCENTS | LETTERS, ACCENTS | TEXT_ZEROS, LETTERS | TEXT_ZEROS):
        if _without(one, differs) == _without(other, differs):
            return differs
    return ACCENTS | LETTERS | TEXT_ZEROS


def _without(text: str, differs: int) -> str:
    text = unicodedata.normalize("NFC", text) if differs & ACCENTS else text
    text = text.casefold() if differs & LETTERS else text
    return INNER_ZEROS.sub("", text) if differs & TEXT_ZEROS else text


def _distance(near: Candidate) -> tuple[int, int]:
    return near.differs.bit_count(), near.differs


@lru_cache(1 << 10)
def _rules(differs: int) -> tuple[str, ...]:
    """The rules that take differences away, in their order."""
    needed = {rule for difference, rule in NEEDS.items() if differs & difference}
    return tuple(rule for rule in KEY_RULES if rule in needed)


def _flag(rules: Iterable[str]) -> str:
    return in_order(",".join(rules))


def _meanings(rules: Sequence[str]) -> str:
    *first, last = (MEANS[rule] for rule in rules)
    return f"{', '.join(first)} and {last}" if first else last


def _shown(name: str) -> str:
    return f"'{name[:SHOWN]}{'…' if len(name) > SHOWN else ''}'"
