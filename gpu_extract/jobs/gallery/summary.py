"""The top of a page of faces: what the run was, what failed in it and why, and what to do next; as HTML."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_extract.errors import counted
from gpu_extract.jobs.gallery.entries import Entry, State
from gpu_extract.jobs.gallery.outcome import Failed, Outcome
from gpu_extract.jobs.gallery.particulars import Particulars
from gpu_extract.naming import stem_of
from gpu_extract.options import option, typed, words_of
from gpu_extract.reports.base import versions
from gpu_extract.run.fingerprint import FRAMES, Fingerprint, as_settings

MOST_REASONS = 50
FRAMES_NAMED = 100
LONGEST_TEXT = 300
ALIGNMENTS_HERE, FRAMES_HERE = "ALIGNMENTS", "FRAMES"
"""Stand in commands for files whose names are not known."""
# Letters that show nothing, or turn what follows them: a name must look like what it is. And halves of letters, as
# which Python has the bytes of names that are no UTF-8.
_UNSEEN = re.compile("[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


@dataclass
class Tally:
    """How many faces there are of each kind."""

    files: int = 0
    nbytes: int = 0
    failed: int = 0
    gone: int = 0
    extra: int = 0
    unreadable: int = 0
    outside: int = 0
    of: set[str] = field(default_factory=set)
    """Keys, without their extensions, of the frames that the files are of."""

    @property
    def frames(self) -> int:
        return len(self.of)

    def add(self, entries: Iterable[Entry], found: Iterable[Particulars]) -> None:
        for entry, about in zip(entries, found, strict=True):
            self.failed += bool(about.state & State.FAILED)
            self.gone += bool(about.state & State.GONE)
            if entry.place is not None:
                self.files += 1
                self.of.add(stem_of(about.frame))
                self.nbytes += about.nbytes or 0
                self.extra += bool(about.state & State.EXTRA)
                self.unreadable += bool(about.state & State.UNREADABLE)
                self.outside += bool(about.state & State.OUTSIDE)


def summary(folder: Path, outcome: Outcome, tally: Tally, alignments: Path | None) -> str:
    """HTML in which everything that a file says has been escaped.

    Args:
        alignments: the file that the faces were cut from, if it was named.
    """
    of = _name_of_frames(outcome)
    title = f"Faces of {of}" if of else f"Faces in {folder.name}"
    facts = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in _facts(outcome, tally, alignments))
    steps = "".join(
        f"<li><p>{text}</p><p class='command'><code>{html.escape(command)}</code></p></li>"
        for text, command in _next(folder, outcome, tally, alignments)
    )
    return (
        f"<h1>{shown(title)}</h1>\n<dl class='facts'>{facts}</dl>\n{_failures(outcome)}"
        f"<section class='next' aria-labelledby='next-title'><h2 id='next-title'>What to do next</h2>"
        f"<ul>{steps}</ul></section>"
    )


def shown(text: str) -> str:
    """Text of anybody's as HTML: escaped, cut short where it is very long, with a sign for letters that are unseen."""
    text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    return html.escape(_UNSEEN.sub("\ufffd", text))


def _facts(outcome: Outcome, tally: Tally, alignments: Path | None) -> list[tuple[str, str]]:
    report, settings = outcome.report or {}, outcome.settings or {}
    size = _whole(report.get("size")) or _whole(settings.get("size"))
    lines = [
        ("Faces", f"{tally.files:,} of {counted(tally.frames, 'frame')}, {_bytes(tally.nbytes)}"),
        ("Frames", _frames(report)),
        ("From", shown(str(settings.get(FRAMES, "")))),
        ("Alignments file", _alignments(report, alignments)),
        (
            "Cut as",
            shown(f"{size} px, {settings.get('centering') or report.get('centering') or ''}".rstrip(", "))
            if size
            else "",
        ),
        ("Engine", shown(_engine(report, settings))),
        ("Time", _time(report)),
        ("Ended", time.strftime("%Y-%m-%d %H:%M", time.localtime(outcome.ended)) if outcome.ended else ""),
        ("Version", shown(_version(report))),
        (
            "Hashes",
            f"{_whole(report.get('hashes_updated')):,} in the alignments file" if report.get("hashes_updated") else "",
        ),
    ]
    lines += [("Note", shown(note)) for note in report.get("notes") or () if isinstance(note, str)]
    if outcome.settings is None:
        lines.append(("Run", "not recorded: the folder holds no journal, so another program may have written it"))
    return [(name, text) for name, text in lines if text]


def _frames(report: dict[str, Any]) -> str:
    if "frames_decoded" not in report:
        return ""
    text = f"{_whole(report['frames_decoded']):,} of {_whole(report.get('frames_expected')):,} read"
    for key, words in (
        ("frames_without_alignments", "without alignments"),
        ("alignments_without_frame", "in the file but not found"),
        ("damaged", "damaged places in the video"),
    ):
        text += f", {count:,} {words}" if (count := _whole(report.get(key))) else ""
    return text


def _alignments(report: dict[str, Any], alignments: Path | None) -> str:
    version = report.get("alignments_version")
    said = f"version {version:.1f}" if isinstance(version, float) else ""
    return ", ".join(text for text in (shown(alignments.name) if alignments else "", said) if text)


def _engine(report: dict[str, Any], settings: dict[str, Any]) -> str:
    engine = str(report.get("engine") or settings.get("engine") or "")
    return f"{engine} on {report['device']}" if engine and report.get("device") else engine


def _time(report: dict[str, Any]) -> str:
    seconds, rate = report.get("seconds"), report.get("frames_per_second")
    if not isinstance(seconds, int | float) or not isinstance(rate, int | float):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    text = (
        f"{seconds:.1f} s"
        if seconds < 90
        else f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
    )
    return f"{text}, {rate:,.1f} frames a second"


def _version(report: dict[str, Any]) -> str:
    told = report.get("versions")
    version = told.get("gpu-extract") if isinstance(told, dict) else None
    return f"gpu-extract {version}" if version else f"this page by gpu-extract {versions(())['gpu-extract']}"


def _failures(outcome: Outcome) -> str:
    """What failed, the most frequent reason first."""
    if not outcome.failed:
        why = (
            f"Nothing failed{' of what the run came to before it was ended' if outcome.ended_early else ''}."
            if outcome.knows_failures
            else "What failed is not recorded in the folder. A report that extract --json wrote knows it: "
            "name that file with --run-report."
        )
        return f"<p class='{'well' if outcome.knows_failures else 'note'}'>{why}</p>\n"
    by_reason: dict[str, list[Failed]] = {}
    for failed in outcome.failed:
        by_reason.setdefault(failed.reason, []).append(failed)
    reasons = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [_reason(reason, some, is_open=len(reasons) == 1) for reason, some in reasons[:MOST_REASONS]]
    if (rest := sum(len(some) for _, some in reasons[MOST_REASONS:])) > 0:
        parts.append(f"<p class='note'>… and {rest:,} more with other reasons, which the list of faces has.</p>")
    count = counted(len(outcome.failed), "failure")
    if outcome.is_outdated and any(failed.index is not None for failed in outcome.failed):
        parts.insert(
            0,
            "<p class='note'>The numbers of faces are those that they had in the run: since then, faces have been "
            "taken out of the alignments file or put in another order.</p>",
        )
    return (
        f"<section class='failures' aria-labelledby='failures-title'><h2 id='failures-title'>{count}</h2>"
        f"{''.join(parts)}<p class='actions'><button type='button' id='show-failed' hidden>Show them below</button></p>"
        "</section>\n"
    )


def _reason(reason: str, some: Sequence[Failed], *, is_open: bool) -> str:
    named = "".join(
        f"<li><bdi>{shown(failed.frame)}</bdi>{'' if failed.index is None else f', face {failed.index}'}</li>"
        for failed in some[:FRAMES_NAMED]
    )
    more = len(some) - FRAMES_NAMED
    if more > 0:
        named += f"<li>… and {more:,} more</li>"
    return (
        f"<details{' open' if is_open else ''}><summary><b>{len(some):,}</b> {shown(reason)}</summary>"
        f"<div class='names' tabindex='0' role='group' aria-label='Frames'><ul>{named}</ul></div></details>"
    )


def _next(folder: Path, outcome: Outcome, tally: Tally, alignments: Path | None) -> list[tuple[str, str]]:
    """Sentences and the command of each."""
    a: str | Path = ALIGNMENTS_HERE if alignments is None else alignments
    fr = _place_of_frames(_name_of_frames(outcome), alignments)
    steps = []
    if (outcome.failed or outcome.ended_early) and outcome.settings is not None:
        mend = "Mend what the reasons name, then let the run go on" if outcome.failed else "Let the run go on"
        left = "it does again what failed" if outcome.failed else "it was ended before it had gone over all frames"
        also = ", and does what it had not come to" if outcome.failed and outcome.ended_early else ""
        steps.append(
            (
                f"{mend}: {left}{also}.",
                typed("extract", "-a", a, "-fr", fr, "-fc", folder, *_as_it_was(outcome.settings), "--resume"),
            )
        )
    if tally.gone:
        them = "it" if tally.gone == 1 else "them"
        steps.append(
            (
                f"{counted(tally.gone, 'face')} left the folder since the run. Take {them} out of the alignments file, "
                "too; without --dry-run it is done.",
                typed("prune", "-a", a, "-fc", folder, "--dry-run"),
            )
        )
    else:
        steps.append(
            (
                "Look through the faces below, delete the bad ones, and take them out of the alignments file.",
                typed("prune", "-a", a, "-fc", folder),
            )
        )
    steps.append(
        (
            "Have every face cut again in memory and compared with its file.",
            typed("verify", "-a", a, "-fr", fr, "-fc", folder),
        )
    )
    return steps


def _as_it_was(settings: Fingerprint) -> list[str]:
    """The words by which a run goes on as it began."""
    told = as_settings(settings, "extract")
    return words_of({name: value for name, value in told.items() if value != option(name).default})


def _place_of_frames(name: str, alignments: Path | None) -> str | Path:
    """The frames of a run, which knows their name alone: beside the alignments file, where they usually lie."""
    if not name:
        return FRAMES_HERE
    beside = None if alignments is None else alignments.parent / name
    return beside if beside is not None and beside.exists() else Path(name)


def _name_of_frames(outcome: Outcome) -> str:
    """Of the video or folder, from the fingerprint, which has a video's size behind its name."""
    said = (outcome.settings or {}).get(FRAMES)
    return re.sub(r" \([0-9]+ bytes\)\Z", "", said) if isinstance(said, str) else ""


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _bytes(count: int) -> str:
    return (
        f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
    )
