"""What every source of frames keeps (`gpu_extract/frames/base.py`), compared with a plain decode of the whole.

A new source gets a line in `SOURCES`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
import pytest

from gpu_extract import plugins
from gpu_extract.errors import FrameError
from gpu_extract.frames import SOURCES as FOLDER
from gpu_extract.frames import Frame, FrameFailure, FrameSource, SourceOptions
from gpu_extract.patch import Region
from tests.contracts.fakes import FakeSource, fake_pixels
from tests.helpers import (
    assert_covers,
    exif,
    image_bytes,
    jpeg_with_segment,
    picture,
    plain_decode,
    write_clip,
    write_frames,
)

COUNT = 13
HEIGHT, WIDTH = 46, 70  # even, as 4:2:0 videos are; where a format allows it, frames are of odd sizes
BAD = 7
"""The frame that is damaged in `Made.damaged`."""


@dataclass(frozen=True)
class Made:
    """What a source is opened over."""

    path: Path
    frames: list[np.ndarray]  # each [H, W, 3] BGR, by a plain decode


def of_module(module: str, **options: Any) -> Callable[[Made], FrameSource]:
    """Opens what a module in the folder of plug-ins makes of a path."""

    def open_made(made: Made) -> FrameSource:
        opened: FrameSource = plugins.module(FOLDER, module).open_source(made.path, SourceOptions(**options))
        return opened

    return open_made


class Backend(NamedTuple):
    name: str
    module: str
    """In the folder of plug-ins; "" for a fake."""
    make: Callable[[Path], Made]
    """Writes into a folder what holds COUNT frames."""
    open: Callable[[Made], FrameSource]
    damage: Callable[[Made], None] | None = None
    """Makes frame BAD unreadable; None where frames depend on each other."""
    bad: tuple[int, ...] = (BAD,)
    """The frames that the damage spoils."""
    looked_at: int = 0
    """How many frames are decoded when it is opened."""
    twins: int = 0
    """How many of its frames show the picture of another one."""


def folder(name: str, make: Callable[[Path], Made], damage: Callable[[Made], None], **options: Any) -> Backend:
    return Backend(f"folder-{name}", "folder", make, of_module("folder", **options), damage)


def video(name: str, make: Callable[[Path], Made], **fields: Any) -> Backend:
    options = fields.pop("options", {})
    return Backend(f"video-{name}", "video", make, of_module("video", **options), **fields)


# ---- what sources are opened over


def images(extension: str, *options: int, turn: int | None = None, followed: bool = True) -> Callable[[Path], Made]:
    """Images of different odd sizes; turned by their EXIF data if `turn` says so and that is to be followed."""

    def make(folder: Path) -> Made:
        frames = []
        for number in range(COUNT):
            data = image_bytes(extension, picture(number, HEIGHT + 1 + number % 3, WIDTH + 3 - number % 2), *options)
            if turn is not None:
                data = jpeg_with_segment(data, 0xE1, b"Exif\0\0" + exif(turn))
            (folder / f"f {number:03d}{extension}").write_bytes(data)
            flags = cv2.IMREAD_COLOR | (0 if followed else cv2.IMREAD_IGNORE_ORIENTATION)
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            assert pixels is not None
            frames.append(pixels)
        return Made(folder, frames)

    return make


def clip(name: str, **options: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        path = write_clip(folder / name, COUNT, (HEIGHT, WIDTH), **options)
        return Made(path, plain_decode(path))

    return make


def uneven_clip(folder: Path) -> Made:
    """Frame 5 lasts three times as long as the others: at a constant rate it comes three times."""
    times = [number * 40 + 80 * (number > 5) for number in range(COUNT - 2)]
    frames = ((picture(number, HEIGHT, WIDTH), time) for number, time in enumerate(times))
    path = write_frames(folder / "uneven.mp4", frames, options={"bf": "0", "g": "1"}, fine_times=True)
    shown = [number for number in range(COUNT - 2) for _ in range(3 if number == 5 else 1)]
    decoded = plain_decode(path)
    return Made(path, [decoded[number] for number in shown])


def nothing(folder: Path) -> Made:
    return Made(folder, [fake_pixels(number, HEIGHT + 1, WIDTH + 1) for number in range(COUNT)])


def cut_short(made: Made) -> None:
    """The file of image BAD."""
    path = sorted(made.path.iterdir())[BAD]
    path.write_bytes(path.read_bytes()[:-60])


def no_image(made: Made) -> None:
    sorted(made.path.iterdir())[BAD].write_bytes(b"no image")


def spoilt_packet(made: Made) -> None:
    """The second half of a packet, on which no other depends where all are key frames."""
    number = BAD if "uneven" not in made.path.name else 5  # shown as frame BAD too
    with av.open(str(made.path)) as container:
        content = [bytes(packet) for packet in container.demux(video=0) if packet.size][number]
    data, half = made.path.read_bytes(), len(content) // 2
    assert data.count(content) == 1
    made.path.write_bytes(data.replace(content, content[:half] + b"\xff" * (len(content) - half)))


def marked(made: Made) -> None:
    (made.path / "bad").touch()


def fake(**faults: Any) -> Callable[[Made], FrameSource]:
    def open_fake(made: Made) -> FrameSource:
        names = [f"f {number:03d}.png" for number in range(COUNT)]
        return FakeSource(names, made.frames[0].shape[:2], **faults if (made.path / "bad").exists() else {})

    return open_fake


ALONE = {"g": "1"}  # every frame is a key frame
ONE_THREAD = {"threads": 1}  # with more, FFmpeg sometimes forgets to complain of damage
AT_CONSTANT_RATE = {"threads": 1, "timing": "constant"}

SOURCES = [
    folder("png", images(".png"), cut_short),
    # OpenCV writes chosen filters from 4.12 on
    *(
        [folder("png-filtered", images(".png", cv2.IMWRITE_PNG_FILTER, 0xF8), no_image)]
        if hasattr(cv2, "IMWRITE_PNG_FILTER")
        else []
    ),
    folder("jpg", images(".jpg"), no_image),
    folder("jpg-turned", images(".jpg", turn=6), no_image, rotate=True),
    folder("jpg-as-stored", images(".jpg", turn=6, followed=False), no_image),
    folder("bmp", images(".bmp"), cut_short),
    video("mp4", clip("a b.mp4", options=ALONE), options=ONE_THREAD, damage=spoilt_packet),
    video("mkv", clip("a.mkv", codec="ffv1")),
    video("b-frames", clip("a.ts", options={"g": "6", "bf": "2"})),
    video("whole", clip("a.mp4"), options={"skip_unwanted": False}),
    video("rotate", clip("a.mp4"), options={"rotate": True}, looked_at=1),
    video("constant", uneven_clip, options=AT_CONSTANT_RATE, damage=spoilt_packet, bad=(5, 6, 7), twins=2),
    Backend("fake", "", nothing, fake(unreadable=[BAD]), marked),
    Backend("fake-torn", "", nothing, fake(torn=[BAD]), marked),
]


@pytest.fixture(scope="module", params=SOURCES, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    made: Backend = request.param
    return made


@pytest.fixture(params=[backend for backend in SOURCES if backend.damage], ids=lambda backend: backend.name)
def spoilt(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Backend, Made, FrameSource]]:
    """An open source of which some frames are damaged; the frames of `Made` are as before that."""
    backend: Backend = request.param
    made = backend.make(tmp_path)
    assert backend.damage is not None
    backend.damage(made)
    with backend.open(made) as source:
        yield backend, made, source


@pytest.fixture(scope="module")
def made(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = backend.make(tmp_path_factory.mktemp("frames"))
    assert len(found.frames) == COUNT
    return found


def test_every_source_has_a_line() -> None:
    assert {backend.module for backend in SOURCES} - {""} == set(plugins.names(FOLDER))


def walked(source: FrameSource, wanted: object) -> list[Frame | FrameFailure]:
    return list(source.frames(np.asarray(wanted)))


def loaded(frame: Frame | FrameFailure) -> np.ndarray | None:
    """The whole frame, or None where it cannot be had."""
    if isinstance(frame, FrameFailure):
        assert frame.reason
        return None
    try:
        return frame.load().pixels
    except FrameError:
        return None


def good(frame: Frame | FrameFailure) -> Frame:
    assert isinstance(frame, Frame), frame
    return frame


REGIONS = [
    Region(0, 0, 9, 5),
    Region(17, 11, 40, 30),
    Region(WIDTH - 13, HEIGHT - 7, WIDTH + 30, HEIGHT + 50),  # over the far corner
    Region(-20, -30, 8, 3),  # over the near one
    Region(33, 20, 34, 21),  # one pixel
    Region(-50, -50, -20, -20),  # wholly outside, on either side
    Region(900, 900, 950, 901),
    Region(-5, -5, WIDTH + 20, HEIGHT + 20),
]


class TestSource:
    def test_it_is_accepted_by_its_own_module_only(self, backend: Backend, made: Made) -> None:
        if backend.module:
            assert [name for name in plugins.names(FOLDER) if plugins.module(FOLDER, name).accepts(made.path)] == [
                backend.module
            ]

    def test_it_says_what_it_is(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            assert source.kind in ("folder", "video")
            assert source.path == made.path or not backend.module
            assert source.frames_seen in (None, COUNT)
            assert source.damaged == 0

    def test_whole_frames_equal_a_plain_decode(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            frames = walked(source, np.arange(COUNT))
            assert [frame.index for frame in frames] == list(range(COUNT))
            for frame, expected in zip(frames, made.frames, strict=True):
                patch = good(frame).load()
                assert patch.pixels.dtype == np.uint8
                np.testing.assert_array_equal(patch.pixels, expected)
                assert patch[1:] == (0, 0, *expected.shape[:2])
                assert (good(frame).height, good(frame).width) == expected.shape[:2]

    @pytest.mark.parametrize("region", REGIONS, ids=str)
    def test_a_patch_covers_its_region(self, backend: Backend, made: Made, region: Region) -> None:
        with backend.open(made) as source:
            for frame in walked(source, [0, 4]):  # of two sizes, in a folder
                assert_covers(good(frame).load(region), region, made.frames[frame.index])

    def test_patches_of_many_regions_at_once(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            (frame,) = walked(source, [3])
            for regions in (REGIONS, REGIONS[:1], REGIONS[::-2]):
                patches = good(frame).load_each(regions)
                for patch, region in zip(patches, regions, strict=True):
                    assert_covers(patch, region, made.frames[3])
            np.testing.assert_array_equal(good(frame).load().pixels, made.frames[3])

    def test_frames_load_in_many_threads_at_once(self, backend: Backend, made: Made) -> None:
        """Two threads a frame, each of which asks for regions and for the whole."""
        errors: list[Exception] = []
        with backend.open(made) as source:
            frames = [good(frame) for frame in walked(source, [1, 2, 5])]
            together = threading.Barrier(6)

            def work(frame: Frame) -> None:
                together.wait(30)
                try:
                    for region in REGIONS:
                        assert_covers(frame.load(region), region, made.frames[frame.index])
                        np.testing.assert_array_equal(frame.load().pixels, made.frames[frame.index])
                except Exception as error:
                    errors.append(error)

            threads = [threading.Thread(target=work, args=(frame,)) for frame in frames * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert source.frames_decoded >= 3
        assert errors == []

    def test_names_and_positions_go_both_ways(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            names = [source.name_of(index) for index in range(COUNT)]
            assert len(set(names)) == COUNT
            assert [source.index_of(name) for name in names] == list(range(COUNT))
            assert [frame.name for frame in walked(source, np.arange(COUNT))] == names

    def test_names_that_no_frame_has_have_no_position(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            known = source.name_of(0)
            for name in (
                *(
                    "",
                    ".",
                    "..",
                    "/",
                    "\0",
                    "f_",
                    ".png",
                    "nobody_000001.png",
                    f"../{known}",
                    f"./{known}",
                    known + "x",
                ),
                *("f_-00001.png", "f_²²²²²².png", "n" * 5000, "f_" + "9" * 400 + ".png", "\udcff.png", "\ud800"),
            ):
                assert source.index_of(name) is None, ascii(name)

    def test_sizes_are_known_without_decoding(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            sizes = [source.size_of(index) for index in range(COUNT)]
            assert sizes == [frame.shape[:2] for frame in made.frames]
            assert source.frames_decoded == backend.looked_at

    @pytest.mark.parametrize("wanted", [[0], [COUNT - 1], [2, 3, 9], [0, 6, COUNT - 1]], ids=str)
    def test_wanted_frames_come_once_each_and_in_order(self, backend: Backend, made: Made, wanted: list[int]) -> None:
        for kind in (np.int64, np.int32, np.uint8):
            with backend.open(made) as source:
                frames = walked(source, np.array(wanted, kind))
                assert [frame.index for frame in frames] == wanted
                for frame in frames:
                    np.testing.assert_array_equal(good(frame).load().pixels, made.frames[frame.index])
                assert len(wanted) - backend.twins <= source.frames_decoded <= COUNT

    def test_nothing_wanted_gives_nothing(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            assert walked(source, np.empty(0, np.int64)) == []

    def test_frames_past_the_end_are_failures(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            first, *others = walked(source, [COUNT - 1, COUNT, COUNT + 500])
            np.testing.assert_array_equal(good(first).load().pixels, made.frames[-1])
            assert [frame.index for frame in others] == [COUNT, COUNT + 500]
            for failure in others:
                assert isinstance(failure, FrameFailure)
                assert failure.name
                assert failure.reason
            assert source.frames_seen == COUNT

    def test_what_is_no_ascending_list_of_positions_is_refused(self, backend: Backend, made: Made) -> None:
        refused: list[object] = [[2, 1], [1, 1], [-1, 0], [0.0, 1.0], [[0, 1]], [True, False]]
        for wanted in refused:
            with backend.open(made) as source, pytest.raises(ValueError, match="wanted must be"):
                walked(source, wanted)

    def test_it_can_be_walked_again(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            for wanted in ([1, 6], [0, 2, 12], [1, 6]):
                frames = walked(source, wanted)
                assert [frame.index for frame in frames] == wanted
                for frame in frames:
                    np.testing.assert_array_equal(good(frame).load().pixels, made.frames[frame.index])

    def test_a_walk_may_be_given_up_and_another_begun(self, backend: Backend, made: Made) -> None:
        with backend.open(made) as source:
            abandoned = source.frames(np.arange(COUNT))
            assert next(abandoned).index == 0
            del abandoned
            (frame,) = walked(source, [4])
            np.testing.assert_array_equal(good(frame).load().pixels, made.frames[4])

    @pytest.mark.parametrize("wanted", [[0], [0, 1, 2], [COUNT - 1], [0, COUNT - 1]], ids=str)
    def test_it_knows_which_walks_count_its_frames(self, backend: Backend, made: Made, wanted: list[int]) -> None:
        with backend.open(made) as source:
            before = source.frames_seen
            will_see = source.would_see(COUNT, np.array(wanted, np.int64))
            walked(source, np.array(wanted, np.int64))
            assert source.frames_seen in (before, COUNT)
            assert (source.frames_seen == COUNT) == will_see

    def test_a_damaged_frame_spoils_no_other(self, spoilt: tuple[Backend, Made, FrameSource]) -> None:
        backend, made, source = spoilt
        frames = walked(source, np.arange(COUNT))
        assert [frame.index for frame in frames] == list(range(COUNT))
        pixels = [loaded(frame) for frame in frames]
        assert [index for index, found in enumerate(pixels) if found is None] == list(backend.bad)
        for found, expected in zip(pixels, made.frames, strict=True):
            assert found is None or np.array_equal(found, expected)

    def test_a_damaged_frame_stays_damaged(self, spoilt: tuple[Backend, Made, FrameSource]) -> None:
        """However often it is asked for, and by whichever way: nothing half decoded is kept."""
        _, _, source = spoilt
        for _ in range(2):
            (frame,) = walked(source, [BAD])
            assert loaded(frame) is None
            if isinstance(frame, Frame):
                with pytest.raises(FrameError):
                    frame.load()
                with pytest.raises(FrameError):
                    frame.load_each([Region(0, 0, WIDTH + 9, HEIGHT + 9), Region(0, 0, 1, 1)])

    def test_closing_twice_frees_files_and_threads(self, backend: Backend, made: Made) -> None:
        files, threads = open_files(), running_threads()
        for _ in range(3):
            source = backend.open(made)
            frames = source.frames(np.arange(COUNT))
            assert next(frames).index == 0
            source.close()
            source.close()
            del frames
        assert open_files() <= files
        assert running_threads() <= threads + 1  # FFmpeg's ends in its own time

    def test_a_walk_that_is_closed_underneath_ends(self, backend: Backend, made: Made) -> None:
        """By the same thread or another; what still comes out is right."""
        for elsewhere in (False, True):
            source = backend.open(made)
            frames = source.frames(np.arange(COUNT))
            assert next(frames).index == 0
            if elsewhere:
                closer = threading.Thread(target=source.close)
                closer.start()
                closer.join(10)
                assert not closer.is_alive()
            else:
                source.close()
            indices = []
            for frame in frames:
                indices.append(frame.index)
                if isinstance(frame, Frame):
                    np.testing.assert_array_equal(frame.load().pixels, made.frames[frame.index])
            assert indices in ([], list(range(1, COUNT)))

    def test_closing_while_another_thread_walks(self, backend: Backend, made: Made) -> None:
        for _ in range(5):
            source = backend.open(made)
            found: list[tuple[int, np.ndarray | None]] = []
            begun = threading.Event()

            def walk(source: FrameSource = source, found: list[Any] = found, begun: threading.Event = begun) -> None:
                for frame in source.frames(np.arange(COUNT)):
                    begun.set()
                    found.append((frame.index, loaded(frame)))

            walker = threading.Thread(target=walk)
            walker.start()
            assert begun.wait(10)
            source.close()
            walker.join(10)
            assert not walker.is_alive()
            assert [index for index, _ in found] == list(range(len(found)))
            assert all(pixels is None or np.array_equal(pixels, made.frames[index]) for index, pixels in found)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def running_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
