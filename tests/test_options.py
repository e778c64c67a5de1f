"""Options: one row says all, and flags, environment, file and journal agree with it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.cli.parser import build_parser, parsers
from gpu_extract.errors import GpuExtractError, InputError, UsageError
from gpu_extract.jobs import extract as extract_job
from gpu_extract.jobs.check import check
from gpu_extract.jobs.config import config, values_in_force
from gpu_extract.jobs.extract import extract
from gpu_extract.jobs.masks import masks
from gpu_extract.jobs.merge import merge
from gpu_extract.jobs.prune import prune
from gpu_extract.jobs.rebuild import rebuild
from gpu_extract.jobs.reindex import reindex
from gpu_extract.jobs.rename import rename
from gpu_extract.jobs.verify import verify
from gpu_extract.options import COMMANDS, ServiceSettings, Settings, option, options
from gpu_extract.run import journal

ROOT = Path(__file__).parent.parent
GIVEN = {"alignments": "a.fsa", "frames": "clip.mp4", "faces": "faces"}


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for name in os.environ:
        if name.startswith("GPU_EXTRACT_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("command", "function", "own"),
    [
        ("extract", extract, {"cancel"}),
        ("merge", merge, {"cancel"}),
        ("verify", verify, {"cancel"}),
        ("prune", prune, {"keep", "frames_too", "unreadable", "yes", "undo"}),
        ("reindex", reindex, {"new", "by", "faces"}),
        ("masks", masks, {"faces", "frames", "kind", "within"}),
        ("rebuild", rebuild, {"faces", "new", "frames", "source"}),
        ("rename", rename, {"faces", "alignments", "flat", "undo"}),
        ("check", check, set()),
    ],
    ids=["extract", "merge", "verify", "prune", "reindex", "masks", "rebuild", "rename", "check"],
)
def test_the_signature_says_what_the_rows_say(command: str, function: Callable[..., Any], own: set[str]) -> None:
    parameters = inspect.signature(function).parameters
    rows = {row.name: row for row in options(command)}
    assert set(parameters) - own == set(rows)
    for name, row in rows.items():
        as_the_run = command == "verify" and row.decides_bytes
        expected = inspect.Parameter.empty if row.required else None if as_the_run else row.default
        assert parameters[name].default is expected or parameters[name].default == expected, name


def another_value(name: str) -> Any:
    row = option(name)
    if isinstance(row.default, bool):
        return not row.default
    if hasattr(row.check, "choices"):
        return next(word for word in row.check.choices() if word != row.default)
    if hasattr(row.check, "least"):
        return (row.default or row.check.least) + 1
    return {"shard": "1/2", "processes": 3, "device": "cuda:1", "devices": "cuda:1"}.get(name, f"another {name}")


def test_every_argument_of_extract_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_job, "run", lambda settings, cancel=None: settings)
    together = [{"quality", "format"}, {"refresh_thumbs", "no_update"}, {"large", "min_size"}]
    for row in options("extract"):
        given: dict[str, Any] = {**GIVEN, row.name: another_value(row.name)}
        if row.name == "devices":
            given["processes"] = 2
        settings: Any = extract(**given)
        assert settings == Settings(**given), row.name
        assert str(getattr(settings, row.name)) == str(given[row.name])
        assert not any({row.name} > pair for pair in together)


def test_every_flag_of_extract_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = build_parser()
    for row in options("extract"):
        value = another_value(row.name)
        for flag in row.flags:
            words = [flag] if isinstance(value, bool) and value else [flag, str(value)]
            found = vars(parser.parse_args(["extract", *words]))
            assert {name for name in found if name in {row.name for row in options()}} == {row.name}
            assert found[row.name] == value
        if row.opposite is not None:
            assert vars(parser.parse_args(["extract", row.opposite]))[row.name] is False


def test_values_that_are_not_allowed() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"size": 15}, "size must be 16 to 4096 pixels, got 15."),
        ({"size": "256"}, "size must be a whole number, got '256'."),
        ({"size": True}, "size must be a whole number, got True."),
        ({"extract_every_n": 0}, "extract-every-n must be 1 or more, got 0."),
        ({"centering": "nose"}, "centering 'nose' is not understood; auto, legacy, face, head are."),
        ({"centering": None}, "centering None is not understood; auto, legacy, face, head are."),
        ({"output_layout": "heap"}, "output-layout 'heap' is not understood; by-frame, flat, webdataset are."),
        ({"align_eyes": 1}, "align-eyes must be true or false, got 1."),
        ({"device": ""}, "device '' is not understood; auto, cpu, cuda and cuda:N are."),
        ({"device": "tpu"}, "device 'tpu' is not understood; auto, cpu, cuda and cuda:N are."),
        ({"device": "cuda:²"}, "device 'cuda:²' is not understood; auto, cpu, cuda and cuda:N are."),
        ({"devices": "cpu,tpu", "processes": 2}, "device 'tpu' is not understood; auto, cpu, cuda and cuda:N are."),
        ({"workers": 1025}, "workers must be at most 1,024, got 1025."),
        ({"extract_every_n": 2**31}, "extract-every-n must be at most 2,147,483,647, got 2147483648."),
        ({"json": "a\0"}, "json must be a text, got 'a\\x00'."),
        ({"devices": "cpu"}, "devices are those of several processes; for one, device names it."),
        (
            {"devices": "cpu", "processes": 2, "device": "cpu"},
            "device and devices exclude each other; devices names one for each process.",
        ),
        ({"devices": "cpu,", "processes": 2}, "devices must be names with commas between, got 'cpu,'."),
        ({"progress": "loud"}, "progress 'loud' is not understood; auto, bar, plain, jsonl, none are."),
        ({"quality": 90, "format": "png"}, "quality is for jpg and webp; png is lossless."),
        ({"large": True, "min_size": 50}, "large means min-size 100; it cannot go with min-size 50."),
        ({"json": "a.fsa"}, "the report would replace the alignments a.fsa; give json another name."),
    ]
    for wrong, sentence in refused:
        with pytest.raises(UsageError) as caught:
            Settings(**(GIVEN | wrong))
        assert str(caught.value) == sentence


def test_flags_go_before_the_environment_that_before_the_file_and_that_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('size = 300\nworkers = 3\noutput-layout = "by-frame"\nalign_eyes = true\nquality = 50\n')
    environment = {"GPU_EXTRACT_SIZE": "512", "GPU_EXTRACT_WORKERS": "5", "GPU_EXTRACT_RESUME": "yes", "PATH": "/bin"}
    found = values_in_force("extract", {"size": 64}, environment=environment, file=file)
    assert {name: tuple(value) for name, value in found.items() if value.origin != "default"} == {
        "size": (64, "flag"),
        "workers": (5, "GPU_EXTRACT_WORKERS"),
        "resume": (True, "GPU_EXTRACT_RESUME"),
        "output_layout": ("by-frame", str(file)),
        "align_eyes": (True, str(file)),
        "quality": (50, str(file)),
    }
    assert found["centering"] == ("auto", "default")
    assert "size" not in values_in_force("check", {}, environment=environment, file=file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("siz = 3", "names 'siz', which is no option. Did you mean size?"),
        ("[extract]\nsize = 3", "names 'extract', which is no option. Did you mean extract-every-n?"),
        ("xyzzy = 3", "names 'xyzzy', which is no option."),
        ('size = "big"', "size must be a whole number, got 'big'."),
        ("size = 3", "size must be 16 to 4096 pixels, got 3."),
        ("size = ", "is not proper TOML"),
        ("size = 32\nsize = 33", "is not proper TOML"),
        ("\udcff", "is not proper TOML"),
    ],
)
def test_what_a_file_may_not_say(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError) as caught:
        config({}, environment={}, file=file)
    assert sentence in str(caught.value)
    assert "wrong.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read: No such file"):
        config({}, environment={}, file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("GPU_EXTRACT_SIZ", "3", "GPU_EXTRACT_SIZ is no option's. Did you mean GPU_EXTRACT_SIZE?"),
        ("GPU_EXTRACT_SIZE", "big", "GPU_EXTRACT_SIZE: size must be a whole number, got 'big'."),
        ("GPU_EXTRACT_SIZE", "٣٢", "GPU_EXTRACT_SIZE: size must be 16 to 4096 pixels"),
        ("GPU_EXTRACT_RESUME", "maybe", "GPU_EXTRACT_RESUME: resume must be true or false, got 'maybe'."),
        ("GPU_EXTRACT_FORMAT", "gif", "GPU_EXTRACT_FORMAT: format 'gif' is not understood"),
    ],
)
def test_what_the_environment_may_not_say(variable: str, value: str, sentence: str) -> None:
    if value == "٣٢":
        assert config({}, environment={variable: value}).values["size"]["value"] == 32  # digits are digits
        return
    with pytest.raises(UsageError) as caught:
        config({}, environment={variable: value})
    assert sentence in str(caught.value)


def test_the_file_beside_the_alignments_goes_before_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "home" / "gpu-extract" / "gpu-extract.toml"
    own.parent.mkdir(parents=True)
    own.write_text("size = 99")
    alignments = tmp_path / "job" / "a.fsa"
    alignments.parent.mkdir()
    assert config({"alignments": alignments}, environment={}).file == str(own)
    (alignments.parent / "gpu-extract.toml").write_text("size = 98")
    found = config({"alignments": alignments}, environment={})
    assert found.values["size"] == {"value": 98, "from": str(alignments.parent / "gpu-extract.toml")}
    assert config({}, environment={}).values["size"]["value"] == 99


def test_the_command_prints_every_value_and_its_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_EXTRACT_SIZE", "512")
    assert main(["config", "--antialias"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["size"] == ["512", "GPU_EXTRACT_SIZE"]
    assert lines["antialias"] == ["true", "flag"]
    assert lines["workers"] == ["–", "default"]
    assert main(["config", "--json", "-", "-sz", "40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["values"]["size"] == {"value": 40, "from": "flag"}
    assert set(found["values"]) == {row.name for row in options("extract") if not row.required}


@pytest.fixture
def job(tmp_path: Path, vectors: Path) -> list[str]:
    root = Alignments.load(vectors / "alignments" / "g6_2019-12.fsa").root()
    del root["f_000099.png"]  # which has no frame
    (tmp_path / "a.fsa").write_bytes(zlib.compress(pickle.dumps(root)))
    return ["-a", str(tmp_path / "a.fsa"), "-fr", str(vectors / "frames"), "-fc", str(tmp_path / "faces"), "-q"]


def test_the_command_that_tells_of_options_needs_none() -> None:
    named = parsers(build_parser())
    assert "(required)" in named["extract"].format_help()
    assert "(required)" not in named["config"].format_help()


def test_a_run_and_its_verification_take_the_environment(
    job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu-extract.toml").write_text('device = "cpu"\nformat = "webp"\n')
    monkeypatch.setenv("GPU_EXTRACT_SIZE", "40")
    assert main(["extract", *job, "--format", "png"]) == 0
    run = journal.read(tmp_path / "faces")
    assert run is not None
    assert (run[0]["size"], run[0]["format"]) == (40, ".png")
    monkeypatch.setenv("GPU_EXTRACT_SIZE", "50")  # the journal knows better than today's environment
    assert main(["verify", *job]) == 0
    assert main(["extract", *job, "--resume"]) == 2
    assert "size was 40 and is now 50" in capsys.readouterr().err


def test_a_faces_folder_without_a_journal_takes_the_environment(
    job: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["extract", *job, "-sz", "40", "--format", "png", "--align-eyes"]) == 0
    (tmp_path / "faces" / journal.NAME).unlink()
    monkeypatch.setenv("GPU_EXTRACT_FORMAT", "png")
    assert main(["verify", *job]) == 4
    monkeypatch.setenv("GPU_EXTRACT_ALIGN_EYES", "1")
    assert main(["verify", *job]) == 0


FAKE = """    fake_level: int = number(default=7, least=0, most=9, help="how fake", group=RUN, decides_bytes=True)
    progress: str | Callable"""


def test_a_new_option_is_one_row(job: list[str], tmp_path: Path) -> None:
    """In a copy of the package: parser, environment, file, table of the README, journal, all from the row alone."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "gpu_extract", copy / "gpu_extract")  # with its byte code, if there is any
    for name in ("docs", "README.md"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    rows = copy / "gpu_extract" / "options.py"
    before = rows.read_text("utf-8")
    assert before.count("    progress: str | Callable") == 1

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpu_extract", *words]
        return subprocess.run(
            command, cwd=copy, env=os.environ | environment, capture_output=True, text=True, check=False
        )

    assert run("extract", *job, "-sz", "40").returncode == 0
    shutil.copytree(tmp_path / "faces", tmp_path / "before")
    rows.write_text(before.replace("    progress: str | Callable", FAKE), "utf-8")
    assert "--fake-level N" in run("extract", "--help").stdout
    in_force = [line.split() for line in run("config", GPU_EXTRACT_FAKE_LEVEL="5").stdout.splitlines()]
    assert ["fake-level", "5", "GPU_EXTRACT_FAKE_LEVEL"] in in_force
    (tmp_path / "gpu-extract.toml").write_text("fake-level = 12")
    assert "fake-level must be 0 to 9, got 12" in run("config", "-a", str(tmp_path / "a.fsa")).stderr
    (tmp_path / "gpu-extract.toml").unlink()

    resumed = run("extract", *job, "-sz", "40", "--resume")  # written before there was the option: its default
    assert resumed.returncode == 0, resumed.stderr
    other = run("extract", *job, "-sz", "40", "--resume", "--fake-level", "8")
    assert "fake_level was 7 and is now 8" in other.stderr
    shutil.rmtree(tmp_path / "faces")
    assert run("extract", *job, "--fake-level", "8").returncode == 0
    stored = journal.read(tmp_path / "faces")
    assert stored is not None
    assert stored[0]["fake_level"] == 8

    stale = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert stale.returncode == 1
    assert "README.md" in stale.stderr
    assert "docs/cli.md" in stale.stderr


def test_every_error_names_the_option_and_no_row_lacks_a_word() -> None:
    for row in options():
        assert row.help, row.name
        assert not row.help.endswith("."), row.name
        assert set(row.commands) <= set(COMMANDS)
        assert row.default is dataclasses.MISSING or row.fault(row.default) is None
        fault = row.fault(object())
        assert fault is not None
        assert row.label in fault
        assert issubclass(UsageError, GpuExtractError)


def test_a_service_takes_no_device_that_none_of_its_jobs_could_have() -> None:
    for devices in (None, "auto", "cpu", "cuda:0, cuda:1", "cpu,cpu"):
        assert ServiceSettings(devices=devices).devices == devices
    with pytest.raises(UsageError, match="device 'tpu' is not understood; auto, cpu, cuda and cuda:N are"):
        ServiceSettings(devices="cpu,tpu")
    with pytest.raises(UsageError, match="devices must be names with commas between, got 'cpu,'"):
        ServiceSettings(devices="cpu,")
