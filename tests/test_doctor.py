"""What `doctor` says of an installation: parts that were not built, packages that lie over each other."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from gpu_extract.jobs import doctor
from gpu_extract.kernels import columns, cpu, cutter, jpeg, opcodes, png, scanlines, yuv
from gpu_extract.run.threads import usable_cores, use_cores


def said(findings: doctor.Findings, word: str) -> list[str]:
    """The lines of the table that begin with a word."""
    return [line for line in findings.table().splitlines() if line.startswith(f"{word} ")]


def test_each_part_in_c_is_named_where_it_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (columns, cpu, cutter, jpeg, opcodes, png, scanlines, yuv):
        monkeypatch.setattr(part, "is_available", lambda: True)
    findings = doctor.examine(device="cpu")
    assert set(findings.native.values()) == {"built"}
    assert said(findings, "native") == [
        "native    cutter, sampler, png, yuv, scanlines, jpeg, opcodes, columns, inflate: our own C"
    ]


def test_what_stands_in_is_named_where_a_part_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "_yuv", None)
    monkeypatch.setattr(png, "_png", None)
    findings = doctor.examine(device="cpu")
    assert findings.native["png"] == "NumPy"
    (line,) = said(findings, "native")
    assert "png (NumPy in its place), yuv (FFmpeg in its place)" in line
    assert "write: own, in NumPy" in findings.table()


@pytest.mark.parametrize(
    ("installed", "told"),
    [
        (["opencv-python-headless", "numpy"], False),
        (["opencv-contrib-python"], False),
        (["numpy"], False),
        (["opencv-python-headless", "opencv-python", "numpy"], True),
    ],
)
def test_two_packages_that_are_opencv_are_one_too_many(
    installed: list[str], told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "distributions", lambda: [SimpleNamespace(name=name) for name in installed])
    findings = doctor.examine(device="cpu")
    assert findings.exit_code == 0
    assert findings.opencv == [name for name in doctor.OPENCV_BUILDS if name in installed]
    sentence = (
        "opencv    opencv-python and opencv-python-headless are installed together, and each is the module cv2; "
        "pip uninstall opencv-python opencv-python-headless, then install one"
    )
    assert said(findings, "opencv") == ([sentence] if told else [])


def test_systems_that_say_nothing_of_cores_offer_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(os, "sched_setaffinity")
    assert usable_cores() == set(range(os.cpu_count() or 1))
    use_cores({0})
    assert doctor.examine(device="cpu").cores == os.cpu_count()
