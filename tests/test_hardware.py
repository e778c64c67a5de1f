"""`--decoder cuda` with a CPU that plays the device: the files of the CPU's decoder, or a sentence and nothing lost."""

from __future__ import annotations

import gc
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import gpu_extract
from gpu_extract import kernels
from gpu_extract.cli import main
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.engines import slots
from gpu_extract.engines.samplers import exact_cuda
from gpu_extract.errors import DeviceError
from gpu_extract.frames import Frame, open_frames
from gpu_extract.frames.video import hardware
from gpu_extract.frames.video.yuv import planes_of
from gpu_extract.kernels import yuv
from gpu_extract.patch import Region
from gpu_extract.run import journal
from gpu_extract.run.progress import FrameDone
from tests.helpers import (
    VECTORS,
    Job,
    assert_covers,
    module_from,
    picture,
    plain_decode,
    write_clip,
    write_frames,
)

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from triton.runtime.errors import PTXASError  # noqa: E402

from tests.fake_hardware import FakeHardware, a_cpu_as_the_device  # noqa: E402  # needs both

pytestmark = pytest.mark.skipif(not yuv.is_available(), reason="the C extension was not built here")

ROOT = Path(__file__).parent.parent
SIZE = (180, 314)  # coded as 192 x 320
ON_DEVICE = ("--decoder", "cuda")
OF_THIS_RUN = {"seconds", "frames_per_second", "stage_seconds", "wait_seconds", "limiting_stage", "notes", "backup"}
OF_THIS_RUN |= {"engine_implementation"}


@pytest.fixture
def fake() -> Iterator[FakeHardware]:
    made = FakeHardware()
    with a_cpu_as_the_device(made):
        yield made


def alignments_of(clip: Path, frames: list[int], landmarks: np.ndarray) -> Path:
    """Two faces in each of these frames, one of them partly outside; as of late 2019."""
    scaled = landmarks * 0.7
    entries = {
        f"{clip.stem}_{number + 1:06d}.png": [
            face_record(scaled + np.array([number % 7, -(number % 5)], np.float32)),
            face_record(scaled + np.array([120 + number % 3, 40], np.float32)),
        ]
        for number in frames
    }
    path = clip.with_name("a.fsa")
    write_alignments(path, entries)
    return path


def job_of(clip: Path, frames: int | list[int], landmarks: np.ndarray, *options: str) -> Job:
    numbers = list(range(frames)) if isinstance(frames, int) else frames
    return Job(alignments_of(clip, numbers, landmarks), clip, "-sz", "40", "--workers", "1", *options)


def forget(job: Job) -> None:
    """All that a run has written."""
    shutil.rmtree(job.faces, ignore_errors=True)
    for path in job.root.glob(f"{job.alignments.stem}*.fsa*"):
        path.unlink()
    job.alignments.write_bytes(job.before)


def outcome(job: Job) -> tuple[dict[str, bytes], list[bytes], bytes, dict[str, Any]]:
    """Faces, lines of the journal that no clock has asked for, alignments file, what the same run reports again."""
    report = {key: value for key, value in job.report.items() if key not in OF_THIS_RUN}
    lines = (job.faces / journal.NAME).read_bytes().splitlines(keepends=True)
    told = [line for line in lines if b'"journal"' in line or b'"frame"' in line]
    return job.files(), told, job.alignments.read_bytes(), report


def run_on_cpu(job: Job, *options: str) -> int:
    """Decoded and cut by the C of the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        return job.run("--decoder", "cpu", *options)


def by_the_cpu(job: Job) -> tuple[Any, ...]:
    """The exit code and the outcome of a run, which is then forgotten."""
    code = run_on_cpu(job)
    found = (code, *outcome(job))
    assert len(found[1]) > 2
    forget(job)
    return found


def sentences(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu-extract:")]


X264 = {"preset": "veryfast", "crf": "28"}
CLIPS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264 with B-frames": ("clip.mp4", {"codec": "libx264", "options": X264 | {"bf": "3"}}),
    "hevc": ("clip.mkv", {"codec": "libx265", "options": {"x265-params": "log-level=none", "preset": "ultrafast"}}),
    "vp9": ("clip.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "transport stream": ("clip.ts", {"codec": "libx264", "options": X264}),
}
for _matrix in ("smpte170m", "bt709", "bt2020nc"):
    for _range in ("limited", "full"):
        _tags = f"colormatrix={_matrix}:fullrange={'on' if _range == 'full' else 'off'}"
        CLIPS[f"{_matrix}, {_range}"] = ("clip.mp4", {"options": X264 | {"x264-params": _tags}})


def x265(more: str = "") -> dict[str, Any]:
    return {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"log-level=none:{more}".rstrip(":")}}


@pytest.mark.parametrize("kind", CLIPS)
def test_a_run_gives_the_bytes_of_the_cpu(fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, kind: str) -> None:
    name, options = CLIPS[kind]
    job = job_of(write_clip(tmp_path / name, 9, SIZE, **options), 9, landmarks)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    assert "Triton" in job.report["engine_implementation"]
    assert "frames were decoded by cpu, which says nothing of damage that it conceals." in job.report["notes"]
    assert fake.most > 0
    gc.collect()
    assert fake.alive == 0


def test_an_odd_number_of_rows_of_chroma_comes_out_the_same(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray
) -> None:
    """166 rows have 83 of chroma."""
    job = job_of(write_clip(tmp_path / "clip.mp4", 5, (166, 242), options=X264), 5, landmarks)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    assert "Triton" in job.report["engine_implementation"]


@pytest.mark.parametrize("alignments", ["clip_alignments_v2_4.fsa", "clip_alignments_seed_list.fsa"])
def test_todays_and_old_files_come_out_the_same(fake: FakeHardware, tmp_path: Path, alignments: str) -> None:
    """Numbered as decoded with headers and direct pixels, and at a constant rate with piped ones."""
    clip = Path(shutil.copy(VECTORS / "video" / "clip.mp4", tmp_path))
    job = Job(
        Path(shutil.copy(VECTORS / "video" / alignments, tmp_path / "a.fsa")), clip, "-sz", "64", "--workers", "1"
    )
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    assert fake.most > 0


DEEP: dict[str, tuple[str, dict[str, Any], yuv.Layout]] = {
    "hevc": ("clip.mkv", x265(), yuv.Layout(10, left=True)),
    "transport stream": ("clip.ts", x265("chromaloc=5"), yuv.Layout(10, down=2)),
    "av1": ("clip.mp4", {"codec": "libsvtav1"}, yuv.Layout(10)),
}
for _where, (_left, _down) in enumerate([(True, 1), (False, 1), (True, 0), (False, 0), (True, 2)]):
    _matrix, _range = ("smpte170m", "bt709", "bt2020nc")[_where % 3], ("limited", "full")[_where % 2]
    _tags = f"chromaloc={_where}:colormatrix={_matrix}:range={_range}"
    DEEP[_tags] = ("clip.mp4", x265(_tags), yuv.Layout(10, left=_left, down=_down))


def deep_clip(path: Path, count: int, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    """Samples of 10 bits, between the levels of 8 as well."""
    return write_clip(path, count, size, pixel_format="yuv420p10le", **(options or x265()))


def layout_of(clip: Path, pixels: str) -> list[yuv.Layout]:
    """By which formulas the CPU goes, one a picture."""
    with av.open(str(clip)) as container:
        planes = [planes_of(frame, pixels) for frame in container.decode(video=0)]
    return [one.layout for one in planes if one is not None]


@pytest.mark.parametrize("pixels", ["direct", "piped"])
@pytest.mark.parametrize("kind", [*DEEP, "vp9"])
def test_a_run_of_10_bits_gives_the_bytes_of_the_cpu(
    fake: FakeHardware, tmp_path: Path, kind: str, pixels: str
) -> None:
    """Wherever chroma lies, of today's files, and of old ones for which that does not matter."""
    if kind == "vp9":
        clip, expected_layout = Path(shutil.copy(VECTORS / "video" / "clip_10_bits.webm", tmp_path / "clip.webm")), None
    else:
        name, options, expected_layout = DEEP[kind]
        clip = deep_clip(tmp_path / name, 7, (240, 320), **options)
    layouts = layout_of(clip, pixels)
    expected_layout = yuv.Layout(10, cubic=True) if pixels == "piped" else expected_layout or layouts[0]
    assert layouts == [expected_layout] * 7
    file = VECTORS / "video" / f"clip_alignments_{'v2_4' if pixels == 'direct' else 'seed_list'}.fsa"
    job = Job(Path(shutil.copy(file, tmp_path / "a.fsa")), clip, "-sz", "48", "--workers", "1")
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    assert "Triton" in job.report["engine_implementation"]
    assert fake.most > 0
    gc.collect()
    assert fake.alive == 0


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_a_variable_frame_rate_is_counted_alike(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, extension: str
) -> None:
    """At a constant rate some of these frames are shown twice and others never."""
    times = np.cumsum([0, 40, 40, 90, 40, 10, 10, 130, 40, 25, 40, 40]).tolist()
    frames = ((picture(number, *SIZE), time) for number, time in enumerate(times))
    clip = write_frames(tmp_path / f"clip.{extension}", frames, options=X264, fine_times=True)
    job = job_of(clip, 13, landmarks)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    gc.collect()
    assert fake.alive == 0


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (range(120), ("-een", "7")),
        ((3, 64, 65, 118), ()),  # far apart: whole groups of pictures are left out
        ((0, 119), ("-een", "119")),
    ],
    ids=["every 7th", "skipping", "first and last"],
)
def test_frames_that_are_not_wanted_are_passed_over_alike(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, wanted: Any, options: tuple[str, ...]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 120, SIZE, options=X264 | {"g": "20", "bf": "2"})
    job = job_of(clip, [*wanted], landmarks, *options)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    gc.collect()
    assert fake.alive == 0


@pytest.mark.parametrize("flags", [("--engine", "kornia"), ("--antialias", "-sz", "16")], ids=["kornia", "antialias"])
def test_other_engines_get_the_same_pixels(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, flags: tuple[str, ...]
) -> None:
    pytest.importorskip("kornia")
    job = job_of(write_clip(tmp_path / "clip.mp4", 4, SIZE, options=X264), 4, landmarks, *flags)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected
    assert fake.most > 0


@pytest.mark.parametrize(
    "kind",
    [
        {"options": X264},
        x265() | {"pixel_format": "yuv420p10le"},
    ],
    ids=["8 bits", "10 bits"],
)
def test_the_kernels_themselves_give_the_bytes_of_the_cpu(
    tmp_path: Path, landmarks: np.ndarray, kind: dict[str, Any]
) -> None:
    """In Triton's interpreter, and not their twins."""
    clip = write_clip(tmp_path / "clip.mkv", 2, (64, 80), **kind)
    write_alignments(tmp_path / "a.fsa", {f"clip_{n:06d}.png": [face_record(landmarks * 0.25)] for n in (1, 2)})
    job = Job(tmp_path / "a.fsa", clip, "-sz", "16", "--workers", "1")
    assert job.run() == 0
    expected = job.files()
    forget(job)
    with a_cpu_as_the_device(FakeHardware(), quick=False):
        assert job.run(*ON_DEVICE) == 0
    assert job.files() == expected
    assert len(expected) == 2


@pytest.mark.parametrize("pixels", ["direct", "piped"])
@pytest.mark.parametrize("kind", [{}, x265() | {"pixel_format": "yuv420p10le"}], ids=["8 bits", "10 bits"])
def test_frames_load_as_those_of_the_cpu_do(
    fake: FakeHardware, tmp_path: Path, pixels: str, kind: dict[str, Any]
) -> None:
    """Whoever wants no surface gets BGR."""
    clip = write_clip(tmp_path / "clip.mkv", 5, SIZE, **kind)
    regions = [Region(0, 0, 314, 180), Region(13, 7, 96, 60), Region(301, 171, 314, 180), Region(-9, -9, 3, 3)]
    with open_frames(clip, pixels=pixels) as cpu, open_frames(clip, pixels=pixels, device="cpu") as device:
        for frame, other in zip(cpu.frames(np.arange(5)), device.frames(np.arange(5)), strict=True):
            assert isinstance(frame, Frame)
            assert isinstance(other, Frame)
            assert (other.name, other.height, other.width) == (frame.name, *SIZE)
            assert frame.surface() is None
            assert frame.planes() is not None
            assert other.planes() is None
            whole = frame.load().pixels
            for region in regions:
                assert_covers(other.load(region), region, whole)
            surface = other.surface()
            assert surface is not None
            assert surface.luma.stride(0) > SIZE[1]


# ---- shards, processes, several devices


def test_shards_of_both_decoders_merge_to_the_run_of_one(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 80, SIZE, options=X264 | {"g": "10"})
    job = job_of(clip, [*range(0, 80, 5)], landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    assert job.run("--shard", "0/2", *ON_DEVICE) == 0
    assert job.run("--shard", "1/2", "--decoder", "cpu") == 0
    words = ("merge", "-a", job.alignments, "-fr", clip, "-fc", job.faces, "--progress", "none", "--device", "cpu")
    assert main([*map(str, words)]) == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)


def test_two_devices_at_once_give_the_bytes_of_one(fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 12, SIZE, options=X264)
    job = job_of(clip, 12, landmarks)
    _, faces, *_ = by_the_cpu(job)
    codes: dict[str, int] = {}

    def run(name: str) -> None:
        given: dict[str, Any] = {"size": 40, "device": "cpu", "decoder": "cuda", "no_update": True, "progress": "none"}
        report = gpu_extract.extract(job.alignments, clip, tmp_path / name, cancel=threading.Event(), **given)
        codes[name] = report.exit_code

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == {"one": 0, "two": 0}
    for name in codes:
        assert {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")} == faces


def test_one_process_of_those_that_were_asked_for_decodes_on_the_device_too(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray
) -> None:
    """Planned without a device, and then cut by the process that planned."""
    job = job_of(write_clip(tmp_path / "clip.mp4", 6, SIZE, options=X264), 6, landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    assert job.run("--processes", "auto", *ON_DEVICE) == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)
    assert fake.most > 0
    assert any("frames were decoded by" in note for note in job.report["notes"])


# ---- what a device cannot do


def refusal(clip: Path, device: str = "cpu", **options: Any) -> str:
    with pytest.raises(DeviceError) as caught:
        open_frames(clip, device=device, **options)
    sentence = str(caught.value)
    assert sentence.startswith(f"'{clip}' ")
    assert sentence.endswith("; choose --decoder cpu.")
    return sentence.removeprefix(f"'{clip}' cannot be decoded by {device}: ").removesuffix("; choose --decoder cpu.")


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("a.mp4", {"codec": "mpeg4"}, "decoders of mpeg4 need not give the same samples, as those of h264, hevc, vp9"),
        ("a.mp4", {"pixel_format": "yuv444p"}, "its pixel format is yuv444p, and only 4:2:0 of 8 bits is proven equal"),
        (
            "a.mp4",
            {"pixel_format": "yuv420p10le"},
            "its pixel format is yuv420p10le, and only 4:2:0 of 8 bits is proven equal, and of 10 bits in hevc, vp9",
        ),
        ("a.mp4", x265() | {"pixel_format": "yuv420p12le"}, "its pixel format is yuv420p12le, and only"),
        ("a.mp4", x265() | {"pixel_format": "yuv422p10le"}, "its pixel format is yuv422p10le, and only"),
        ("a.webm", {"codec": "libvpx-vp9", "size": (47, 63)}, "its sides are odd (63 × 47)"),
        (
            "a.mp4",
            {"codec": "libsvtav1", "size": (67, 65), "pixel_format": "yuv420p10le"},
            "its sides are odd (65 × 67)",
        ),
        ("a.avi", {}, "its packets do not tell which frames there must be (avi files have no reliable timestamps)"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_a_stream_that_may_differ_is_refused(tmp_path: Path, name: str, options: dict[str, Any], why: str) -> None:
    assert refusal(write_clip(tmp_path / name, 3, **options)).startswith(why)


@pytest.mark.usefixtures("fake")
def test_turned_frames_are_refused(tmp_path: Path) -> None:
    from tests.test_video_numbering import rewritten_matrix

    clip = rewritten_matrix(write_clip(tmp_path / "a.mp4", 3), (0, 1, -1, 0))
    assert refusal(clip, rotate=True).startswith("its frames are to be turned")
    open_frames(clip, rotate=False, device="cpu").close()


@pytest.mark.usefixtures("fake")
def test_without_a_formula_a_video_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yuv, "is_available", lambda: False)
    clip = write_clip(tmp_path / "a.mp4", 3, (50, 66))  # of a size whose formula nobody else asks for
    assert refusal(clip) == "there is no formula for its colours here"


def joined(path: Path, *clips: Path) -> Path:
    """The packets of clips one after the other, as a transport stream."""
    with av.open(str(path), "w") as target:
        copied: Any = None
        start = 0
        for clip in clips:
            with av.open(str(clip)) as source:
                stream = source.streams.video[0]
                copied = copied or target.add_stream_from_template(stream)
                packets = [packet for packet in source.demux(stream) if packet.size]
                first = min(packet.pts or 0 for packet in packets)
                for packet in packets:
                    packet.pts, packet.dts = (packet.pts or 0) - first + start, (packet.dts or 0) - first + start
                    packet.stream = copied
                    target.mux(packet)
                start += 3600 * len(packets)
    return path


def test_chroma_of_10_bits_that_may_come_to_lie_elsewhere_is_refused(fake: FakeHardware, tmp_path: Path) -> None:
    """Which no surface tells; where it does not matter, the same video is decoded."""
    clips = [deep_clip(tmp_path / f"{i}.ts", 6, **x265(f"chromaloc={i}")) for i in (0, 2)]
    changing, same = joined(tmp_path / "a.ts", *clips), joined(tmp_path / "b.ts", clips[0], clips[0])
    assert len(set(layout_of(changing, "direct"))) == 2
    assert len(set(layout_of(same, "direct"))) == 1
    assert refusal(changing).startswith("its parameters may change on the way, and with them where chroma lies")
    for clip, pixels in ((changing, "piped"), (same, "direct")):
        with (
            open_frames(clip, pixels=pixels) as cpu,
            open_frames(clip, pixels=pixels, device="cpu") as device,
        ):
            frames = zip(cpu.frames(np.arange(12)), device.frames(np.arange(12)), strict=True)
            pairs = [
                (one.load().pixels, other.load().pixels)
                for one, other in frames
                if isinstance(one, Frame) and isinstance(other, Frame)
            ]
        assert len(pairs) == 12
        assert all(np.array_equal(*pair) for pair in pairs)


def test_the_lowest_bit_of_10_tells_a_first_picture_from_the_cpus(fake: FakeHardware, tmp_path: Path) -> None:
    def changed(number: int, frame: av.VideoFrame) -> av.VideoFrame:
        samples = np.frombuffer(memoryview(frame.planes[2]), np.uint16).copy()
        samples[0] ^= 1
        frame.planes[2].update(samples.tobytes())
        return frame

    fake.change = changed
    assert refusal(deep_clip(tmp_path / "a.mp4", 3)) == "its first picture does not come out as on the CPU"


@pytest.mark.parametrize("what", ["a luma sample", "a chroma sample", "columns"])
def test_a_first_picture_that_is_not_the_cpus_is_refused(fake: FakeHardware, tmp_path: Path, what: str) -> None:
    def changed(number: int, frame: av.VideoFrame) -> av.VideoFrame:
        plane = frame.planes[1 if what == "a chroma sample" else 0]
        samples = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1).copy()
        if what == "columns":  # as a decoder that forgets to cut off the left ones
            samples = np.roll(samples, 2, axis=1)
        else:
            samples[-1, plane.width - 1] ^= 1
        plane.update(samples.tobytes())
        return frame

    fake.change = changed
    assert refusal(write_clip(tmp_path / "a.mp4", 3, SIZE)) == "its first picture does not come out as on the CPU"


def test_a_device_that_refuses_the_stream_is_told_of(fake: FakeHardware, tmp_path: Path) -> None:
    """Which it does at the first packet: of a profile, a size or a codec that it has no circuits for."""
    clip = write_clip(tmp_path / "a.mp4", 3, SIZE)
    fake.refuses = lambda number: True
    assert refusal(clip) == "a packet cannot be decoded ([Errno 1] Invalid data found when processing input)"
    fake.refuses = lambda number: False
    fake.change = lambda number, frame: None
    assert refusal(clip) == "pictures are missing"
    fake.change = lambda number, frame: tagged(frame)
    assert refusal(clip) == "a picture has another size, format or other colours than the first one"


def test_a_kernel_that_gives_other_pixels_is_refused(
    fake: FakeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vars(kernels)["surfaces"], "convert", lambda slab, *_: slab.fill_(7))
    assert refusal(write_clip(tmp_path / "a.mp4", 3)) == "its first picture does not come out as on the CPU"


def test_a_kernel_that_cannot_be_made_is_a_sentence(
    fake: FakeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is no RuntimeError: compilers end as processes do, and Triton has errors of its own."""
    clip = write_clip(tmp_path / "a.mp4", 3)
    raised = [
        subprocess.CalledProcessError(1, ["gcc", "main.c"]),
        PermissionError(13, "Permission denied"),
        PTXASError("Internal Triton PTX codegen error"),
    ]
    for error in raised:

        def convert(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(vars(kernels)["surfaces"], "convert", convert)
        why = refusal(clip)
        assert why.startswith(f"the kernel for its pictures cannot be made: {type(error).__name__}: ")


def test_a_machine_without_the_means_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.device_obstacle("cpu") == "that needs a CUDA device, and the device is cpu"
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "find_spec", lambda name: None if name == "triton" else object())
        assert hardware.device_obstacle("cuda:0") == "triton is not installed"
    with monkeypatch.context() as patch:
        patch.setattr(av, "VideoFrame", object)
        assert "does not tell what a surface holds, as 18 does" in str(hardware.device_obstacle("cuda:0"))
    if not hasattr(av.VideoFrame, "sw_format"):
        return
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "hwdevices_available", lambda: ["vaapi"])
        assert hardware.device_obstacle("cuda:0") == "this PyAV was built without CUDA"

    def no_driver(codec: str, mode: str, hwaccel: Any) -> Any:
        raise av.error.PermissionError(1, "Operation not permitted")

    class Software:
        is_hwaccel = False

    def made_by(create: Callable[..., Any]) -> type:
        return type("CodecContext", (), {"create": staticmethod(create)})

    with monkeypatch.context() as patch:
        patch.setattr(hardware, "_current", lambda device: nullcontext())
        patch.setattr(av, "CodecContext", made_by(no_driver))
        assert hardware.device_obstacle("cuda:0") == "FFmpeg cannot use cuda:0 ([Errno 1] Operation not permitted)"
        hardware_of_this = type("Hardware", (), {"is_hwaccel": True})
        patch.setattr(av, "CodecContext", made_by(lambda *_, **__: hardware_of_this()))
        patch.setattr(hardware, "DRIVERS_DECODER", {"linux": "libno-such-decoder.so.1"})
        patch.setattr("sys.platform", "linux")
        why = str(hardware.device_obstacle("cuda:0"))
        assert why.startswith("libno-such-decoder.so.1 of the driver is not here")
        assert "NVIDIA_DRIVER_CAPABILITIES" in why
        patch.setattr(hardware, "DRIVERS_DECODER", {})
        assert hardware.device_obstacle("cuda:0") is None
        patch.setattr(av, "CodecContext", made_by(lambda *_, **__: Software()))
        assert hardware.device_obstacle("cuda:0", "libdav1d") == "PyAV decodes it with libdav1d, which knows no CUDA"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_run_ends_with_a_sentence(
    tmp_path: Path, landmarks: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(write_clip(tmp_path / "clip.mp4", 3, SIZE), 3, landmarks)
    assert job.run(*ON_DEVICE) == 5
    assert sentences(capsys) == [
        f"gpu-extract: '{job.frames}' cannot be decoded by cpu: that needs a CUDA device, and the device is cpu; "
        "choose --decoder cpu."
    ]
    assert not job.faces.exists()
    assert main(job.command("--device", "cuda", *ON_DEVICE)) == 5
    assert "no CUDA device is visible" in sentences(capsys)[0]
    assert job.run() == 0  # auto is the CPU


def test_a_folder_of_images_is_refused(fake: FakeHardware, vectors: Path) -> None:
    with pytest.raises(DeviceError, match=r"is a folder of images, .*; choose --decoder cpu\.$"):
        open_frames(vectors / "frames", device="cpu")


def test_an_engine_of_the_cpu_is_refused(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(exact_cuda, "obstacle", lambda device: "the CUDA kernel cannot be made")
    job = job_of(write_clip(tmp_path / "clip.mp4", 3, SIZE), 3, landmarks)
    assert job.run(*ON_DEVICE) == 5
    assert sentences(capsys) == [
        "gpu-extract: frames that a device decodes stay there, and the engine is exact on cpu (exact_cuda on cpu: the "
        "CUDA kernel cannot be made); choose --decoder cpu."
    ]


# ---- what goes wrong on the way


def smaller(frame: av.VideoFrame) -> av.VideoFrame:
    made = frame.reformat(width=frame.width - 2, height=frame.height)
    made.pts = frame.pts
    return made


def deeper(frame: av.VideoFrame) -> av.VideoFrame:
    made = frame.reformat(format="yuv420p10le")
    made.pts = frame.pts
    return made


def tagged(frame: av.VideoFrame) -> av.VideoFrame:
    frame.colorspace = 1
    return frame


SUSPICIOUS: dict[str, tuple[Callable[[FakeHardware], None], str]] = {
    "a packet is refused": (
        lambda fake: setattr(fake, "refuses", lambda number: number == 7),
        "a packet cannot be decoded ([Errno 1] Invalid data found when processing input)",
    ),
    "another size": (
        lambda fake: setattr(fake, "change", lambda number, frame: smaller(frame) if number == 6 else frame),
        "a picture has another size, format or other colours than the first one",
    ),
    "other colours": (
        lambda fake: setattr(fake, "change", lambda number, frame: tagged(frame) if number == 6 else frame),
        "a picture has another size, format or other colours than the first one",
    ),
    "another format": (
        lambda fake: setattr(fake, "change", lambda number, frame: deeper(frame) if number == 6 else frame),
        "a picture has another size, format or other colours than the first one",
    ),
    "no surface": (
        lambda fake: setattr(fake, "falls_back", lambda number: number == 6),
        "a picture has another size, format or other colours than the first one",
    ),
    "one is missing": (
        lambda fake: setattr(fake, "change", lambda number, frame: None if number == 6 else frame),
        "another picture came than its packets announce",
    ),
    "the last is missing": (
        lambda fake: setattr(fake, "change", lambda number, frame: None if number == 15 else frame),
        "pictures are missing",
    ),
}


@pytest.mark.parametrize("what", SUSPICIOUS)
def test_whatever_is_suspicious_ends_the_run_and_the_cpu_completes_it(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    job = job_of(write_clip(tmp_path / "clip.mp4", 16, SIZE, options=X264), 16, landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    capsys.readouterr()
    spoil, why = SUSPICIOUS[what]
    spoil(fake)
    assert job.run(*ON_DEVICE) == 5
    assert sentences(capsys) == [
        f"gpu-extract: cpu cannot be trusted with 'clip.mp4' any further: {why}; the faces written so far are whole, "
        "run the same command with --resume --decoder cpu to continue."
    ]
    assert job.files().items() < faces.items() or what == "the last is missing"
    assert job.alignments.read_bytes() == job.before
    gc.collect()
    assert fake.alive == 0
    assert run_on_cpu(job, "--resume") == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)


def with_film_grain(clip: Path, path: Path, at: int) -> Path:
    """The same H.264, but that one packet asks for film grain (payload 19 of the supplemental information)."""
    asked = bytes.fromhex("00a00200ff03c0402180")  # a scale of 60, one interval of luma, for this picture only
    message = b"\x06\x13" + bytes([len(asked)]) + asked + b"\x80"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if not packet.size:
                continue
            before = len(message).to_bytes(4, "big") + message if number == at else b""
            made: Any = av.Packet(before + bytes(packet))
            for name in ("pts", "dts", "time_base", "duration", "is_keyframe"):
                setattr(made, name, getattr(packet, name))
            made.stream = copied
            target.mux(made)
    return path


@pytest.mark.parametrize("at", [0, 5])
def test_film_grain_which_a_cpu_adds_and_no_device_ends_the_run(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    plain = write_clip(tmp_path / "plain.mp4", 9, SIZE, options=X264 | {"bf": "0"})
    clip = with_film_grain(plain, tmp_path / "clip.mp4", at)
    pictures = zip(plain_decode(plain), plain_decode(clip), strict=True)
    assert [not np.array_equal(one, other) for one, other in pictures] == [number == at for number in range(9)]
    job = job_of(clip, 9, landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    capsys.readouterr()
    assert job.run(*ON_DEVICE) == 5
    (sentence,) = sentences(capsys)
    assert "a picture comes with film grain, which FFmpeg adds on a CPU only" in sentence
    assert ("cannot be trusted" in sentence) == (at > 0)
    assert job.files().items() <= faces.items()
    assert run_on_cpu(job, "--resume") == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)


def test_film_grain_of_a_picture_that_nobody_wants_is_none_of_ours(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray
) -> None:
    """It is added to what is shown, and nothing is predicted from that."""
    plain = write_clip(tmp_path / "plain.mp4", 9, SIZE, options=X264 | {"bf": "0"})
    job = job_of(with_film_grain(plain, tmp_path / "clip.mp4", 5), [2, 6, 8], landmarks)
    expected = by_the_cpu(job)
    assert (job.run(*ON_DEVICE), *outcome(job)) == expected


def test_a_run_that_skips_ends_alike(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 120, SIZE, options=X264 | {"g": "20"})
    job = job_of(clip, [2, 50, 118], landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    fake.change = lambda number, frame: None if number == 12 else frame
    assert job.run(*ON_DEVICE) == 5
    assert "its pictures are not those that its packets announce" in sentences(capsys)[0]
    assert run_on_cpu(job, "--resume") == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)


@pytest.mark.parametrize(
    ("extension", "is_deep"), [("mp4", False), ("mkv", False), ("ts", False), ("mp4", True), ("ts", True)]
)
def test_a_damaged_video_ends_the_run_and_the_cpu_completes_it(
    fake: FakeHardware,
    tmp_path: Path,
    landmarks: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    extension: str,
    is_deep: bool,
) -> None:
    """The decoder that plays the device says what it finds, which one of CUDA need not."""
    path = tmp_path / f"clip.{extension}"
    if is_deep:
        clip = deep_clip(path, 40, **x265("keyint=12"))
    else:
        clip = write_clip(path, 40, SIZE, options=X264 | {"g": "12"})
    data = bytearray(clip.read_bytes())
    at = len(data) // 2
    data[at : at + 400] = np.random.default_rng(1).integers(0, 256, 400, np.uint8).tobytes()
    clip.write_bytes(data)
    job = job_of(clip, 40, landmarks)
    code, faces, _, saved, report = by_the_cpu(job)
    assert report["errors"]
    capsys.readouterr()
    assert job.run(*ON_DEVICE) == 5
    (sentence,) = sentences(capsys)
    assert "--decoder cpu" in sentence
    assert run_on_cpu(job, "--resume") == code == 4
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)
    assert job.report["errors"] == report["errors"]


def test_a_run_of_the_cpu_goes_on_with_a_device(fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray) -> None:
    """The decoder decides no bytes: the journal of one is that of the other."""
    job = job_of(write_clip(tmp_path / "clip.mp4", 12, SIZE, options=X264), 12, landmarks)
    _, faces, lines, saved, _ = by_the_cpu(job)
    assert run_on_cpu(job, "--no-update") == 0
    (job.faces / journal.NAME).write_bytes(b"".join(lines[:5]))
    assert job.run("--resume", *ON_DEVICE) == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)
    assert fake.most > 0


def test_a_run_that_is_cancelled_lets_go_of_all_surfaces(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray
) -> None:
    job = job_of(write_clip(tmp_path / "clip.mp4", 100, (60, 78), options=X264), 100, landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    cancel = threading.Event()

    def listen(event: Any) -> None:
        if isinstance(event, FrameDone):
            cancel.set()

    given: dict[str, Any] = {"size": 40, "device": "cpu", "workers": 1, "decoder": "cuda"}
    begun = gpu_extract.extract(job.alignments, job.frames, job.faces, progress=listen, cancel=cancel, **given)
    assert begun.exit_code == 130
    assert 0 < begun.frames_decoded < 100
    gc.collect()
    assert fake.alive == 0
    assert run_on_cpu(job, "--resume") == 0
    assert (job.files(), job.alignments.read_bytes()) == (faces, saved)


# ---- memory


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("workers", ["1", "4"])
def test_a_decoder_with_few_surfaces_is_never_waited_for_in_vain(
    fake: FakeHardware,
    tmp_path: Path,
    landmarks: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    workers: str,
) -> None:
    """Beside those that are given out, it has those that are looked at before they are."""
    clip = write_clip(tmp_path / "clip.mp4", 60, SIZE, options=X264 | {"bf": "3"})
    job = job_of(clip, 60, landmarks, "--workers", workers)
    _, faces, *_ = by_the_cpu(job)
    monkeypatch.setattr(hardware, "MOST_SURFACES", most)
    fake.room = most + 8
    assert job.run(*ON_DEVICE) == 0
    assert job.files() == faces
    assert fake.most <= fake.room


def test_surfaces_in_flight_are_bounded(
    fake: FakeHardware, tmp_path: Path, landmarks: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 150, SIZE, options=X264)
    job = job_of(clip, 150, landmarks, "--workers", "3")
    assert job.run(*ON_DEVICE) == 0
    assert fake.most <= hardware.MOST_SURFACES + 8


class OutOfMemory:
    """Calls of the kernels; the k-th one fails, and with `lasting` all later ones too."""

    def __init__(self, error: Callable[[], Exception], lasting: bool) -> None:
        self.error, self.lasting = error, lasting
        self.calls, self.fails_at = 0, -1

    def wrapped(self, function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            number, self.calls = self.calls, self.calls + 1
            if number == self.fails_at or (self.lasting and 0 <= self.fails_at < number):
                raise self.error()
            function(*arguments)

        return call


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate more."), False),
        (lambda: RuntimeError("CUDA error: device-side assert triggered"), True),
    ],
    ids=["out of memory", "assert"],
)
def test_whichever_call_of_a_kernel_fails_nothing_is_lost(
    fake: FakeHardware,
    tmp_path: Path,
    landmarks: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Callable[[], Exception],
    lasting: bool,
) -> None:
    job = job_of(write_clip(tmp_path / "clip.mp4", 4, SIZE, options=X264), 4, landmarks)
    _, faces, _, saved, _ = by_the_cpu(job)
    memory = OutOfMemory(error, lasting)
    for module, name in (("surfaces", "convert"), ("warp_affine", "launch")):
        function = getattr(vars(kernels)[module], name)
        monkeypatch.setattr(vars(kernels)[module], name, memory.wrapped(function))
    codes = []
    for k in range(100):
        memory.calls, memory.fails_at = 0, k
        capsys.readouterr()
        code = job.run(*ON_DEVICE)
        if memory.calls <= k:
            break
        codes.append(code)
        gc.collect()
        assert fake.alive == 0
        if code:
            assert code == 5
            assert len(sentences(capsys)) == 1
            assert run_on_cpu(job, "--resume") == 0
        assert (job.files(), job.alignments.read_bytes()) == (faces, saved), k
        forget(job)
    assert code == 0
    assert 5 in codes
    assert lasting or 0 in codes


def test_a_ticket_keeps_its_surfaces_until_it_is_computed(fake: FakeHardware, tmp_path: Path) -> None:
    from gpu_extract.engines.base import Crops, MemoryLimits

    clip = write_clip(tmp_path / "clip.mp4", 3, SIZE)
    crops = Crops(np.zeros(2, np.int64), np.array([[[1.0, 0, -9], [0, 1, -5]]] * 2), np.ones(2, bool), 24)
    with exact_cuda.create("cpu", MemoryLimits(batch_mb=1, pinned_mb=8), print) as engine:
        with open_frames(clip, device="cpu") as source:
            frame = next(source.frames(np.arange(1)))
            assert isinstance(frame, Frame)
            surface = frame.surface()
            assert surface is not None
            whole = frame.load()
            ticket = engine.submit([surface.patch(Region(0, 0, 60, 60))], crops)
            del frame, surface
        gc.collect()
        assert fake.alive > 0
        crop = ticket.result().copy()
        gc.collect()
        assert fake.alive == 0
        np.testing.assert_array_equal(crop, engine.warp([whole], crops))
        ticket.release()


def test_a_closed_engine_and_a_closed_source_keep_nothing(fake: FakeHardware, tmp_path: Path) -> None:
    from gpu_extract.engines.base import Crops, MemoryLimits

    clip = write_clip(tmp_path / "clip.mp4", 3, SIZE)
    crops = Crops(np.zeros(1, np.int64), np.array([[[1.0, 0, 0], [0, 1, 0]]]), np.ones(1, bool), 24)
    source = open_frames(clip, device="cpu")
    engine = exact_cuda.create("cpu", MemoryLimits(batch_mb=1, pinned_mb=8), print)
    frames = source.frames(np.arange(3))
    frame: Any = next(frames)
    ticket = engine.submit([frame.surface().patch(Region(0, 0, 60, 60))], crops)
    source.close()
    engine.close()
    del ticket, frame, frames
    gc.collect()
    assert fake.alive == 0


def test_a_source_that_is_closed_while_it_waits_for_room_ends(
    fake: FakeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "MOST_SURFACES", 2)
    source = open_frames(write_clip(tmp_path / "clip.mp4", 9, SIZE), device="cpu")
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.extend(source.frames(np.arange(9))))
    thread.start()
    while len(kept) < 2 and thread.is_alive():
        pass
    source.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(kept) < 9


def test_slots_hold_no_pixels_of_surfaces(fake: FakeHardware, tmp_path: Path) -> None:
    """Only tables are uploaded: the slab, which is made on the device, is left out of the copy."""
    with open_frames(write_clip(tmp_path / "clip.mp4", 2, SIZE), device="cpu") as source:
        frame: Any = next(source.frames(np.arange(1)))
        upload = slots.Upload([frame.surface().patch(Region(3, 3, 200, 150))])
        upload.add(np.arange(5))
        host = np.full(upload.nbytes, 0xCD, np.uint8)
        upload.fill(host)
        assert upload.first >= 198 * 148 * 3
        assert (host[: upload.first] == 0xCD).all()
        mixed = slots.Upload([frame.surface().patch(Region(0, 0, 8, 8)), frame.load(Region(0, 0, 8, 8))])
        assert mixed.first == 0
        memory = torch.zeros(mixed.nbytes, dtype=torch.uint8)
        mixed.fill(memory.numpy())
        mixed.convert(memory)
        slab, (layout,) = mixed.views(memory)
        first, second = (4 * int(row[0]) for row in layout)
        assert torch.equal(slab[first : first + 8 * 24], slab[second : second + 8 * 24])


@pytest.mark.parametrize("how", ["equal", "another byte", "refused"])
def test_the_day_of_a_gpu_compares_both_decoders(
    fake: FakeHardware,
    tmp_path: Path,
    landmarks: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: str,
) -> None:
    decoders = module_from(ROOT / "bench" / "decoders.py")
    clip = write_clip(tmp_path / "clip.mp4", 3, SIZE, options=X264)
    file = alignments_of(clip, [0, 1, 2], landmarks)

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        code = main(command[3:])
        return subprocess.CompletedProcess(command, code, "", capsys.readouterr().err)

    monkeypatch.setattr(subprocess, "run", run_here)
    if how == "refused":
        fake.refuses = lambda number: True
    elif how == "another byte":
        fake.change = lambda number, frame: brighter(frame) if number == 2 else frame
    monkeypatch.setattr("sys.argv", ["decoders.py", str(clip), str(file), "--device", "cpu"])
    assert decoders.main() == (how != "equal")
    begins = {"equal": "0 of 6 files differ", "another byte": "2 of 6 files differ", "refused": "not decoded there: "}
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"clip.mp4: {begins[how]}")


def test_the_day_of_a_gpu_has_a_run_that_leaves_groups_of_pictures_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders = module_from(ROOT / "bench" / "decoders.py")
    kinds = {name: kind for name, kind in decoders.KINDS.items() if "groups" in name}
    monkeypatch.setattr(decoders, "KINDS", kinds)
    draw_frames = decoders.draw_frames
    monkeypatch.setattr(decoders, "draw_frames", lambda: draw_frames(2))
    made = [(name, options) for name, _, _, options in decoders.clips(tmp_path)]
    assert made == [("h264, groups of 12", ()), ("h264, groups of 12, in parts", ("-een", "37"))]


def brighter(frame: av.VideoFrame) -> av.VideoFrame:
    luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8)
    frame.planes[0].update((luma // 2 + 100).astype(np.uint8).tobytes())
    return frame


def test_doctor_says_what_a_device_decodes(fake: FakeHardware, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_extract.jobs import doctor

    assert doctor.examine(device="cpu").decoders == {"cpu": "every video"}
    assert hardware.decoder_of("h264") == "h264"
    with av.open(str(write_clip(tmp_path / "clip.mp4", 2, codec="libsvtav1"))) as container:
        assert container.streams.video[0].codec_context.codec.name == hardware.decoder_of("av1")
    monkeypatch.setattr(doctor, "_devices", lambda: ["cpu", "cuda:0 a fake"])
    monkeypatch.setattr(
        hardware, "device_obstacle", lambda device, decoder: f"{decoder} knows no CUDA" if "dav1d" in decoder else None
    )
    assert (
        doctor.examine(device="cpu").decoders["cuda:0"] == "h264, hevc, vp9 of 4:2:0 and 8 bits; of 10 bits hevc, vp9"
    )
    monkeypatch.setattr(hardware, "device_obstacle", lambda device, decoder: "FFmpeg cannot use it")
    found = doctor.examine(device="cpu")
    assert found.decoders["cuda:0"] == "none, FFmpeg cannot use it"
    assert "decoder   cuda:0: none, FFmpeg cannot use it" in found.table()
