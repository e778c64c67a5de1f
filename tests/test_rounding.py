"""The two ways of rounding by which programs of different times cut other bytes: chosen, said, resumed and verified."""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import math
import platform
import shutil
import tarfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.cli import main
from gpu_extract.geometry import crops, mean_faces, pose
from gpu_extract.geometry.rounding import EyeAngle, Numerics, Rounding, atan2f
from gpu_extract.kernels import tables
from gpu_extract.run import journal
from tests.helpers import (
    Job,
    copied,
    face_entry,
    fsa_root,
    image_bytes,
    noise,
    read_image,
    same,
    turned,
    write_pickled,
)

OF_GLIBC_2_36 = "df5d56c8ea659cda3644156e38b45945df1cfae2"
"""SHA-1 of what its atan2f gives for `angles()`, as float32."""


def angles() -> tuple[np.ndarray, np.ndarray]:
    """(y, x), each [400,000] float32: faces whose eyes are nearly level, turned ones, all signs and zeros."""
    i = np.arange(200_000, dtype=np.int64)
    y = np.concatenate([i * 48271 % 20011 - 10005, i * 69621 % 60013 - 30006])
    x = np.concatenate([-(i * 16807 % 30011) - 640, i * 39373 % 50021 - 25010])
    return (y / 64).astype(np.float32), (x / 64).astype(np.float32)


def test_libm_is_glibcs_to_the_last_bit() -> None:
    y, x = angles()
    assert hashlib.sha1(atan2f(y, x).tobytes()).hexdigest() == OF_GLIBC_2_36


def _glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    return tuple(map(int, version.split("."))) if name == "glibc" and platform.machine() == "x86_64" else ()


@pytest.mark.skipif(not (2, 28) <= _glibc() < (2, 41), reason="needs the C library of the time")
def test_libm_is_that_of_this_machine_for_any_bits() -> None:
    function = ctypes.CDLL("libm.so.6").atan2f
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float, ctypes.c_float]
    bits = np.random.default_rng(7).integers(0, 1 << 32, (2, 50_000), dtype=np.uint32)
    special = np.array([0.0, -0.0, 1, -1, 1e-40, -1e-40, 1e38, -1e38, 2.0**25, 0.4375, 2.4375], np.float32)
    pairs = np.stack([grid.ravel() for grid in np.meshgrid(special, special)])
    y, x = np.concatenate([bits.view(np.float32), pairs], axis=1)
    finite = np.isfinite(x) & np.isfinite(y)
    theirs = np.array([function(a, b) for a, b in zip(y.tolist(), x.tolist(), strict=True)], np.float32)
    np.testing.assert_array_equal(atan2f(y, x).view(np.int32)[finite], theirs.view(np.int32)[finite])
    assert np.isnan(atan2f(y, x)[~finite]).all()


def test_rounded_is_the_nearest_number() -> None:
    y, x = angles()
    exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    ours = Rounding(eye_angle="rounded").arctan2(y, x)
    for neighbour in (np.inf, -np.inf):
        there = np.nextafter(ours, np.float32(neighbour)).astype(np.float64)
        assert (np.abs(ours - exact) <= np.abs(there - exact)).all()
    libm = Rounding().arctan2(y, x)
    apart = np.abs(libm.view(np.int32).astype(np.int64) - ours.view(np.int32))
    assert apart.max() == 1
    assert 0.005 < (apart != 0).mean() < 0.2


def test_the_reciprocal_is_that_of_either_numpy() -> None:
    variance = np.linspace(3, 70_000, 999, dtype=np.float32)
    double = [1.0 / float(value) for value in variance]
    single = [float(np.float32(1) / value) for value in variance]
    assert Rounding().inverse(variance).tolist() == double
    assert Rounding(numerics="numpy2").inverse(variance).tolist() == single
    assert Rounding(numerics="mixed").inverse(variance).tolist() == double
    assert double != single


def test_no_numpy_narrows_the_variance_of_float64_landmarks() -> None:
    variance = np.linspace(3, 70_000, 999)
    double = [1.0 / value for value in variance.tolist()]
    for numerics in get_args(Numerics):
        assert Rounding(numerics).inverse(variance).tolist() == double


def test_what_half_is_taken_from() -> None:
    """Under a quarter the difference has more digits than a float32."""
    projected = np.array([0.7654321, 0.1234567], np.float32)
    exact = projected.astype(np.float64) - 0.5
    rounded = exact.astype(np.float32).astype(np.float64)
    assert exact.tolist() != rounded.tolist()
    assert Rounding("numpy1").less_half(projected).tolist() == exact.tolist()
    assert Rounding("numpy2").less_half(projected).tolist() == rounded.tolist()
    assert Rounding("mixed").less_half(projected).tolist() == rounded.tolist()


def test_crops_differ_in_the_offset_below_a_quarter_only(vector_faces: Any) -> None:
    """A head crop that looks far up or down has a centre that is far from the core's."""
    points = np.concatenate([[face["landmarks"] for face in faces] for faces in vector_faces.values() if faces])
    squeezed = points.astype(np.float64)
    squeezed[:, 17:, 1] = squeezed[:, 17:, 1] * 0.8 + squeezed[:, 8:9, 1] * 0.2  # nearer to the chin
    both = np.concatenate([points, squeezed.astype(np.float32)])
    ways: tuple[Numerics, Numerics] = ("numpy1", "mixed")
    cut = {
        numerics: crops.crop_geometry(both, 256, "head", seed=False, rounding=Rounding(numerics)).crop_from_frame
        for numerics in ways
    }
    fitted = crops.umeyama(crops.core(both), crops.mean_face(68, seed=False))
    low = (pose.offsets(both, fitted, "head") < -0.25).any(axis=1)
    differ = (cut["numpy1"] != cut["mixed"]).any(axis=(1, 2))
    assert low.any()
    assert not differ[~low].any()
    assert differ[low].any()
    np.testing.assert_allclose(cut["numpy1"], cut["mixed"], rtol=0, atol=1e-4)


def test_all_other_ways_the_nearest_first() -> None:
    others = Rounding("numpy2", "rounded").others
    assert len({*others, Rounding("numpy2", "rounded")}) == 6
    assert others[-1] == Rounding("mixed", "libm")


@cache
def faces_apart(count: int, size: int) -> list[np.ndarray]:
    """Landmarks [68, 2] of faces whose samples, with level eyes, depend on the arctan2."""
    generator = np.random.default_rng(11)
    found: list[np.ndarray] = []
    while len(found) < count:
        points = np.zeros((68, 2))
        points[17:] = mean_faces.table("mean_face_seed") - 0.5
        matrix = turned(generator.uniform(30, 70), generator.uniform(-0.2, 0.2), (0, 0), 0)
        points = points @ matrix[:, :2].T + (160, 120) + generator.normal(0, 1, (68, 2))
        face = points.astype(np.float32)[None]
        libm, rounded = (
            tables.coordinate_tables(
                crops.crop_geometry(
                    face, size, seed=True, align_eyes=True, rounding=Rounding(eye_angle=way)
                ).crop_from_frame,
                size,
            )
            for way in WAYS
        )
        if not np.array_equal(libm, rounded):
            found.append(face[0])
    return found


WAYS: tuple[EyeAngle, EyeAngle] = ("libm", "rounded")


@pytest.fixture
def level(tmp_path: Path) -> Job:
    """A file of before 2.0 with three frames of noise and a face each, whose eyes are to be levelled."""
    names = [f"f_{number:06d}.png" for number in range(3)]
    (tmp_path / "frames").mkdir()
    for number, name in enumerate(names):
        (tmp_path / "frames" / name).write_bytes(image_bytes(".png", noise(240, 320, seed=number)))
    faces = faces_apart(3, 96)
    write_pickled(tmp_path / "a.fsa", {name: [face_entry(face)] for name, face in zip(names, faces, strict=True)})
    return Job(tmp_path / "a.fsa", tmp_path / "frames", "-ae", "-sz", "96")


@pytest.fixture
def modern(tmp_path: Path, vectors: Path) -> Job:
    """A file of today's program, whose frames are all there."""
    root = fsa_root(vectors / "alignments" / "v2_4_list.fsa")
    del root["__data__"]["f_000099.png"]
    return Job(write_pickled(tmp_path / "a.fsa", root), vectors / "frames", "-sz", "64")


def made_by_another_program(job: Job, *options: str) -> dict[str, bytes]:
    """Faces cut in a given way in a folder without a journal."""
    assert job.run(*options, "--no-update") == 0
    (job.faces / journal.NAME).unlink()
    return job.files()


def verified(job: Job, *options: str) -> tuple[int, dict[str, Any]]:
    command = ["verify", "-a", job.alignments, "-fr", job.frames, "-fc", job.faces, "-q", "--json", job.json]
    return main([*map(str, command), *options]), job.report


def test_angles_of_the_time_unless_asked_otherwise(level: Job) -> None:
    assert level.run() == 0
    assert level.report["eye_angle"] == "libm"
    assert any("C library" in note and "--eye-angle" in note for note in level.report["notes"])
    usual = level.files()
    shutil.rmtree(level.faces)
    assert level.run("--eye-angle", "rounded") == 0
    assert level.report["eye_angle"] == "rounded"
    other = level.files()
    assert usual.keys() == other.keys()
    assert all(usual[name] != other[name] for name in usual)


def test_the_report_names_no_angle_where_there_is_none(level: Job) -> None:
    level.options = ("-sz", "96")
    assert level.run() == 0
    assert level.report["eye_angle"] == ""
    assert not any("angle" in note for note in level.report["notes"])


@pytest.mark.parametrize("hashes_of", WAYS)
def test_verify_accepts_either_angle_and_names_it(level: Job, hashes_of: str) -> None:
    """Faces of a folder that says nothing of itself, and hashes stored with them."""
    assert level.run("--eye-angle", hashes_of) == 0
    (level.faces / journal.NAME).unlink()
    code, report = verified(level, "-ae")
    assert (code, report["faces_agree"], report["hashes_compared"], report["differences"]) == (0, 3, 3, [])
    named = [note for note in report["notes"] if "3 faces agree with" in note]
    assert len(named) == (hashes_of == "rounded")
    assert all("--eye-angle rounded" in note for note in named)


def test_verify_takes_an_angle_that_was_asked_for_at_its_word(level: Job) -> None:
    made_by_another_program(level, "--eye-angle", "rounded")
    code, report = verified(level, "-ae", "--eye-angle", "libm")
    assert (code, report["counts"]["altered"]) == (4, 3)
    assert verified(level, "-ae", "--eye-angle", "rounded")[0] == 0


@pytest.mark.parametrize("layout", ["flat", "by-frame", "webdataset"])
@pytest.mark.parametrize("numerics", ["numpy1", "numpy2"])
def test_verify_accepts_either_numerics_and_names_it(modern: Job, numerics: str, layout: str) -> None:
    files = made_by_another_program(modern, "--numerics", numerics, "--output-layout", layout)
    faces = len(read_names(files))
    code, report = verified(modern)
    assert (code, report["faces_agree"], report["differences"]) == (0, faces, [])
    named = [note for note in report["notes"] if "faces agree with" in note]
    assert len(named) == (numerics == "numpy1")
    assert all("--numerics numpy1" in note for note in named)


def read_names(files: dict[str, bytes]) -> list[str]:
    """Names of the images among files, those in shards too."""
    names: list[str] = []
    for name, data in files.items():
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as shard:
                names += shard.getnames()
        else:
            names.append(name)
    return [name for name in names if name.endswith(".png")]


def test_verify_looks_again_at_doubtful_faces_only(modern: Job) -> None:
    """One face is damaged, one is another's, one is gone: the others agree, and these are named as ever."""
    files = made_by_another_program(modern, "--numerics", "numpy1")
    damaged, other, gone = sorted(files)[1], sorted(files)[4], sorted(files)[6]
    pixels = read_image(modern.faces / damaged)
    pixels[5, 7] ^= 1
    (modern.faces / damaged).write_bytes(image_bytes(".png", pixels))
    shutil.copyfile(modern.faces / sorted(files)[0], modern.faces / other)
    (modern.faces / gone).unlink()
    code, report = verified(modern)
    assert (code, report["faces_agree"]) == (4, len(files) - 3)
    assert {one["file"]: one["kind"] for one in report["differences"]} == {
        damaged: "altered",
        other: "altered",
        gone: "missing",
    }


def without_rows(folder: Path) -> None:
    """Make a journal one of before there was a choice, and take away its last frames."""
    path = folder / journal.NAME
    first, *lines = path.read_bytes().splitlines(keepends=True)
    entry = json.loads(first[9:])
    for name in ("eye_angle", "numerics"):
        del entry["settings"][name]
    text = json.dumps(entry, separators=(",", ":")).encode()
    kept = [line for line in lines if b'"faces"' in line][:1]
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text) + b"".join(kept))


@pytest.mark.parametrize(
    ("fixture", "before"), [("level", ("--eye-angle", "rounded")), ("modern", ("--numerics", "mixed"))]
)
def test_a_run_goes_on_as_it_began(fixture: str, before: tuple[str, str], request: pytest.FixtureRequest) -> None:
    """A folder that an older release left half done gets the other half cut as the first, and is proved that way."""
    job: Job = request.getfixturevalue(fixture)
    assert job.run(*before, "--no-update") == 0
    whole = job.files()
    without_rows(job.faces)
    for name in list(whole)[-2:]:
        (job.faces / name).unlink()
    assert job.run("--resume", "--no-update", "--deleted", "restore") == 0
    assert job.files() == whole
    assert verified(job)[0] == 0


def test_a_run_that_goes_on_keeps_its_angle(level: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert level.run("--eye-angle", "rounded") == 0
    whole = level.files()
    assert level.run("--resume") == 0
    assert level.files() == whole
    assert level.run("--resume", "--eye-angle", "libm") == 2
    assert "eye_angle was 'rounded' and is now 'libm'" in capsys.readouterr().err


def test_a_saved_file_stays_one_of_numpy_2(tmp_path: Path, vectors: Path) -> None:
    """Whoever reads it next must tell its program as before."""
    for name, numpy_2 in (("v2_4_numpy_proto4_np2", True), ("v2_4_numpy", False)):
        alignments = Alignments.load(copied(vectors / "alignments" / f"{name}.fsa", tmp_path))
        assert alignments.traits.under_numpy_2 is numpy_2
        alignments.set_field(0, "thumb", np.arange(9, dtype=np.uint8))
        alignments.save()
        again = Alignments.load(alignments.path)
        assert again.traits == alignments.traits
        assert same(fsa_root(alignments.path), again.root())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_angle_has_the_c_librarys_digits_whatever_the_processor_has(dtype: type) -> None:
    y, x = np.random.default_rng(1).normal(0, 100, (2, 3000)).astype(dtype)
    y[:4], x[:4] = [0, -0.0, 0, 5], [3, -3, 0, 0]
    exact = [math.atan2(*pair) for pair in zip(y.tolist(), x.tolist(), strict=True)]
    found = Rounding(eye_angle="rounded").arctan2(y, x)
    assert found.dtype == dtype
    assert found.tolist() == np.array(exact, dtype).tolist()
    assert Rounding().arctan2(y[:0], x[:0]).shape == (0,)
