"""Bad and unusual media through the command line: what can be read is extracted, what cannot is in the report."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.demo.clip import face_record, write_alignments
from gpu_extract.frames import open_frames
from gpu_extract.frames.sources import video
from tests.helpers import Job, exif, image_bytes, jpeg_with_segment, picture, piped_decode, plain_decode, write_clip

COUNT = 40
HEIGHT, WIDTH = 240, 320


def clip_of(path: Path, count: int = COUNT, size: tuple[int, int] = (HEIGHT, WIDTH), **options: str) -> Path:
    """A clip of pictures; options of the codec."""
    return write_clip(path, count, size, options=options)


def job_of(folder: Path, landmarks: np.ndarray, frames: Path, names: list[str]) -> Job:
    """Two faces in every frame that the alignments file knows."""
    folder.mkdir(exist_ok=True)
    entries = {name: [face_record(landmarks + np.float32(11 * k)) for k in range(2)] for name in names}
    write_alignments(folder / "a.fsa", entries)
    return Job(folder / "a.fsa", frames, "-sz", "96")


def assert_consistent(job: Job) -> None:
    """What the report, the folder and the alignments file say is the same."""
    report, files = job.report, sorted(job.pixels())
    saved = Alignments.load(job.alignments)
    assert report["faces_written"] == len(files)
    assert report["faces_written"] + report["faces_failed"] == len(saved.faces)
    assert report["exit_code"] == (4 if report["errors"] else 0)
    hashed = {
        f"{saved.frame_names[frame][:-4]}_{index}.png"
        for row, (frame, index) in enumerate(zip(saved.faces.frame, saved.faces.index, strict=True))
        if saved.stored_hash(row)
    }
    assert hashed == set(files)


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    def make(frames: Path, count: int = COUNT, folder: str = "job") -> Job:
        names = [f"{frames.stem}_{number:06d}.png" for number in range(1, count + 1)]
        return job_of(tmp_path / folder, landmarks, frames, names)

    return make


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of an error."""
    err = capsys.readouterr().err
    assert err.startswith("gpu-extract: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "unexpected" not in err
    return err


def test_a_whole_clip(job: Any, tmp_path: Path) -> None:
    made = job(clip_of(tmp_path / "clip.mp4"))
    assert made.run() == 0
    assert_consistent(made)
    assert made.report["faces_written"] == 2 * COUNT


@pytest.mark.parametrize("name", ["clip.mkv", "clip.ts", "clip.avi"])
@pytest.mark.parametrize("keep", [0.4, 0.8])
def test_truncated(name: str, keep: float, job: Any, tmp_path: Path) -> None:
    path = clip_of(tmp_path / name, g="8")
    whole = job(path, folder="whole")
    assert whole.run() == 0
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    made = job(path)
    assert made.run() == 4
    assert_consistent(made)
    report = made.report
    assert 4 < report["frames_decoded"] < COUNT
    failed = [error["frame"] for error in report["errors"]]
    assert len(failed) == COUNT - report["frames_decoded"]
    assert all(error["index"] is None for error in report["errors"])
    cut = f"clip_{report['frames_decoded'] + 1:06d}.png"  # the one that the end of the file cuts through, if any
    reasons = {error["frame"]: error["reason"] for error in report["errors"]}
    assert "the video ends after" in reasons[cut] or "the video is damaged" in reasons.pop(cut)
    assert all("the video ends after" in reason for reason in reasons.values())
    expected = whole.pixels()
    found = made.pixels()
    last = f"clip_{report['frames_decoded']:06d}"  # its end may be cut off
    assert all(np.array_equal(pixels, expected[face]) for face, pixels in found.items() if not face.startswith(last))


def test_a_truncated_mp4_has_no_index_and_is_refused(job: Any, tmp_path: Path, capsys: Any) -> None:
    path = clip_of(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    made = job(path)
    assert made.run() == 3
    assert "cannot be read" in said(capsys)
    assert not made.faces.exists()
    assert made.alignments.read_bytes() == made.before


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts"])
@pytest.mark.parametrize("seed", range(3))
def test_corrupted_in_the_middle(name: str, seed: int, job: Any, tmp_path: Path) -> None:
    path = clip_of(tmp_path / name, g="5")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for _ in range(3):
        at = int(rng.integers(len(data) // 4, len(data) * 3 // 4))
        data[at : at + 200] = rng.integers(0, 256, 200, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    made = job(path)
    assert made.run() in (0, 4)
    assert_consistent(made)
    report = made.report
    assert report["faces_written"] >= COUNT
    assert report["errors"] or report["damaged"] or report["notes"], "damage that nobody was told of"


def test_no_face_is_cut_from_concealed_pixels(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged pictures are errors, and their faces keep the hashes that they had."""
    path = clip_of(tmp_path / "clip.mkv", g="8", bf="2")
    whole = job(path, folder="whole")
    assert whole.run() == 0
    monkeypatch.setattr(video, "_decoder_threads", lambda _: 1)  # with more, FFmpeg sometimes forgets to complain
    expected = whole.pixels()
    old = Alignments.load(whole.alignments)
    with av.open(str(path)) as container:
        keys = [packet for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
    data = bytearray(path.read_bytes())
    for content in (bytes(keys[1]), bytes(keys[3])):
        at = data.index(content)
        data[at + len(content) // 2 : at + len(content)] = b"\xff" * (len(content) - len(content) // 2)
    path.write_bytes(data)
    made = job(path)
    shutil.copy(whole.alignments, made.alignments)
    assert made.run() == 4
    report, found = made.report, made.pixels()
    assert report["damaged"] > 0
    failed = {error["frame"][:-4] for error in report["errors"]}
    doubted = [error for error in report["errors"] if "its pixels cannot be trusted" in error["reason"]]
    assert doubted
    assert set(found) == {name for name in expected if name[:11] not in failed}
    saved = Alignments.load(made.alignments)
    for row, frame in enumerate(saved.faces.frame):
        if saved.frame_names[frame][:-4] in failed:
            assert saved.stored_hash(row) == old.stored_hash(row)


def test_every_byte_of_a_header_may_be_wrong(job: Any, tmp_path: Path, capsys: Any) -> None:
    """No traceback and no endless loop, whatever the first and last kilobyte hold."""
    whole = clip_of(tmp_path / "clip.mp4", 6, (48, 64)).read_bytes()
    path = tmp_path / "clip.mp4"
    rng = np.random.default_rng(7)
    codes = set()
    for number in range(60):
        data = bytearray(whole)
        for _ in range(1 + number % 4):
            at = int(rng.integers(0, 1200)) if number % 2 else len(data) - 1 - int(rng.integers(0, 1000))
            data[at] = int(rng.integers(0, 256))
        path.write_bytes(data)
        made = job(path, 6)
        code = made.run()
        codes.add(code)
        if code == 3:
            said(capsys)
        else:
            assert code in (0, 4)
            assert_consistent(made)
        shutil.rmtree(made.faces, ignore_errors=True)
    assert len(codes) > 1


def test_the_extension_says_nothing(job: Any, tmp_path: Path) -> None:
    for name in ("clip.avi", "clip.txt", "clip"):
        path = clip_of(tmp_path / "whole.mp4").rename(tmp_path / name)
        made = job(path, folder=f"job-{name}")
        assert made.run() == 0
        assert made.report["faces_written"] == 2 * COUNT


def test_no_video_stream(job: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    assert job(path).run() == 3
    assert "has no video stream" in said(capsys)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_zero_frames(name: str, job: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        container.start_encoding()
    made = job(path)
    assert made.run() in (3, 4)
    assert "Traceback" not in capsys.readouterr().err
    assert not list(made.faces.glob("*")) or not list(made.faces.glob("*.png"))
    assert made.alignments.read_bytes() == made.before


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.png", "clip"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(99)], ids=["0", "t", "z", "p"]
)
def test_no_video_at_all(name: str, content: bytes, job: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / name).write_bytes(content)
    assert job(tmp_path / name).run() == 3
    said(capsys)


def test_a_folder_without_images_and_nothing_at_all(job: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "frames").mkdir()
    assert job(tmp_path / "frames").run() == 3
    assert "holds no frames" in said(capsys)
    assert job(tmp_path / "nothing").run() == 3
    said(capsys)
    os.mkfifo(tmp_path / "clip.mp4")
    assert job(tmp_path / "clip.mp4").run() == 3
    said(capsys)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "size"),
    [
        ("ten_bit.mkv", "libx264", "yuv420p10le", (240, 320)),
        ("full_chroma.mp4", "libx264", "yuv444p", (240, 320)),
        ("ten_bit_444.mkv", "libx264", "yuv444p10le", (240, 320)),
        ("half_chroma.mkv", "ffv1", "yuv422p", (240, 320)),
        ("grey.mkv", "ffv1", "gray", (240, 320)),
        ("alpha.mkv", "ffv1", "yuva420p", (240, 320)),
        ("odd.mkv", "ffv1", "yuv420p", (239, 321)),
        ("odd_rgb.mkv", "ffv1", "bgr0", (181, 333)),
        ("tiny.mkv", "ffv1", "bgr0", (2, 3)),
        ("full_range.avi", "mjpeg", "yuvj420p", (240, 320)),
    ],
)
def test_unusual_pixels_equal_those_of_dumped_frames(
    name: str, codec: str, pixel_format: str, size: tuple[int, int], job: Any, tmp_path: Path, landmarks: np.ndarray
) -> None:
    path = write_clip(tmp_path / name, 6, size, codec, pixel_format=pixel_format)
    made = job(path, 6)
    assert made.run() == 0
    assert_consistent(made)
    dumped = tmp_path / "dumped"
    dumped.mkdir()
    for number, pixels in enumerate(piped_decode(path), 1):
        cv2.imwrite(str(dumped / f"{path.stem}_{number:06d}.png"), pixels)
    other = job_of(tmp_path / "other", landmarks, dumped, sorted(p.name for p in dumped.iterdir()))
    assert other.run() == 0
    expected, found = other.pixels(), made.pixels()
    assert sorted(expected) == sorted(found)
    assert all(np.array_equal(pixels, expected[face]) for face, pixels in found.items())


def test_motion_jpeg_with_exif_data_is_not_turned_by_it(job: Any, tmp_path: Path) -> None:
    """Cameras write them; the ffmpeg program turned by nothing but the container's display matrix."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuvj420p"
        for number in range(3):
            data = image_bytes(".jpg", picture(number, HEIGHT, WIDTH))
            packet = av.Packet(jpeg_with_segment(data, 0xE1, b"Exif\0\0" + exif(6)))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    made = job(path, 3)
    assert made.run() == 0
    assert_consistent(made)
    with open_frames(path, rotate=True) as source:
        assert source.size_of(0) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("codec", "name", "what"),
    [("mpeg4", "clip.avi", "MPEG-4 part 2"), ("msmpeg4", "clip.avi", "version 3"), ("wmv2", "clip.wmv", "Video 8")],
)
def test_the_report_tells_decoders_that_have_changed(
    codec: str, name: str, what: str, job: Any, tmp_path: Path
) -> None:
    made = job(write_clip(tmp_path / name, 3, (HEIGHT, WIDTH), codec), 3)
    assert made.run() == 0
    assert [what in note for note in made.report["notes"] if "FFmpeg" in note] == [True]
    with open_frames(tmp_path / name, pixels="direct") as source:
        assert not source.notes


def test_the_report_tells_which_ffmpeg_decoded(job: Any, tmp_path: Path) -> None:
    made = job(clip_of(tmp_path / "clip.mp4", 3), 3)
    assert made.run() == 0
    assert not [note for note in made.report["notes"] if "FFmpeg" in note]
    assert made.report["versions"]["ffmpeg"] == av.ffmpeg_version_info
    assert made.report["versions"]["libavcodec"] == ".".join(map(str, av.library_versions["libavcodec"]))


def test_rotated(job: Any, tmp_path: Path, landmarks: np.ndarray) -> None:
    """A phone's clip: `--rotate on` cuts from the turned picture, `off` from the stored one."""
    path = clip_of(tmp_path / "clip.mp4", 6)
    stored = plain_decode(path)
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in (0, 1, -1, 0))
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    turned = tmp_path / "turned"
    turned.mkdir()
    for number, pixels in enumerate(stored, 1):
        cv2.imwrite(str(turned / f"clip_{number:06d}.png"), cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE))
    other = job_of(tmp_path / "other", landmarks, turned, sorted(p.name for p in turned.iterdir()))
    assert other.run() == 0
    expected = other.pixels()
    for rotate, equal in (("on", True), ("auto", True), ("off", False)):
        made = job(path, 6, folder=rotate)
        assert made.run("--rotate", rotate) == 0
        assert equal == all(np.array_equal(pixels, expected[face]) for face, pixels in made.pixels().items())


def test_a_change_of_resolution(job: Any, tmp_path: Path) -> None:
    first = clip_of(tmp_path / "a.ts", 12, (240, 320), tune="zerolatency")
    second = clip_of(tmp_path / "b.ts", 12, (480, 640), tune="zerolatency")
    both = tmp_path / "both.ts"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    made = job(both, 24)
    assert made.run("--video-timing", "decoded") in (0, 4)
    assert_consistent(made)
    assert made.report["frames_decoded"] >= 22
    found = made.pixels()
    assert all(pixels.shape == (96, 96, 3) for pixels in found.values())
    # The same landmarks meet another picture: the larger one shows its upper left quarter there.
    frame = plain_decode(second)[0]
    folder = tmp_path / "dumped"
    folder.mkdir()
    cv2.imwrite(str(folder / "both_000013.png"), frame)
    other = job_of(tmp_path / "other", np.float32(0) + _landmarks(made), folder, ["both_000013.png"])
    assert other.run() == 0
    assert np.array_equal(other.pixels()["both_000013_0.png"], found["both_000013_0.png"])


def _landmarks(made: Job) -> np.ndarray:
    found: np.ndarray = np.asarray(Alignments.load(made.alignments).record(0)["landmarks_xy"])
    return found


class Watch:
    """Tells whether anybody opened a file or connected to a port meanwhile."""

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        opened = 0x20
        assert self._libc.inotify_add_watch(self._inotify, os.fsencode(path), opened) >= 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]

    def touched(self) -> list[str]:
        found = []
        try:
            os.read(self._inotify, 4096)
            found.append("the file was opened")
        except BlockingIOError:
            pass
        try:
            self._server.accept()[0].close()
            found.append("the server was asked")
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self._inotify)
        self._server.close()


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[tuple[Path, Watch]]:
    path = clip_of(tmp_path / "secret.mp4", 3, (48, 64))
    watch = Watch(path)
    yield path, watch
    watch.close()


def test_the_watch_works(secret: tuple[Path, Watch]) -> None:
    path, watch = secret
    assert watch.touched() == []
    path.read_bytes()
    threading.Thread(target=lambda: socket.create_connection(("127.0.0.1", watch.port)).close()).start()
    found: list[str] = []
    while len(found) < 2:
        found += watch.touched()
    assert sorted(found) == ["the file was opened", "the server was asked"]


PLAYLISTS = {
    "hls of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
    "hls of a file url": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n",
    "hls of http": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "hls of hls": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:{port}/a.m3u8\n",
    "concat": "ffconcat version 1.0\nfile '{path}'\n",
    "concat of http": "ffconcat version 1.0\nfile 'http://127.0.0.1:{port}/a.mp4'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation>'
    "<BaseURL>http://127.0.0.1:{port}/</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "session description": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "redirection": "[Reference]\nRef1=http://127.0.0.1:{port}/a.asf\n",
    "real redirection": "rtsp://127.0.0.1:{port}/a.rm\n",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
@pytest.mark.parametrize("disguise", ["", "mpegts", "mp4"])
def test_a_playlist_is_never_followed(
    kind: str, name: str, disguise: str, job: Any, tmp_path: Path, secret: tuple[Path, Watch], capsys: Any
) -> None:
    path, watch = secret
    text = PLAYLISTS[kind].format(path=path, port=watch.port).encode()
    if disguise == "mpegts":
        text = b"".join(b"\x47" + text.ljust(187, b"\n")[:187] for _ in range(8))
    elif disguise == "mp4":
        text = struct.pack(">I", 24) + b"ftypisom" + bytes(4) + b"isomiso2" + text
    (tmp_path / name).write_bytes(text)
    watch.touched()
    assert job(tmp_path / name).run() == 3
    assert watch.touched() == []
    said(capsys)


def test_a_reference_inside_an_mp4_is_not_followed(
    job: Any, tmp_path: Path, secret: tuple[Path, Watch], capsys: Any
) -> None:
    """A QuickTime data reference (`dref`) names another file as where the samples are."""
    path, watch = secret
    clip = clip_of(tmp_path / "clip.mp4", 6)
    data = clip.read_bytes()
    at = data.index(b"url \x00\x00\x00\x01") - 4
    target = f"file://{path}".encode() + b"\0"
    box = struct.pack(">I", 12 + len(target)) + b"url \x00\x00\x00\x00" + target
    grown = bytearray(data[:at] + box + data[at + 12 :])
    for kind in (b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        start = grown.index(kind) - 4
        size = struct.unpack_from(">I", grown, start)[0] + len(box) - 12
        struct.pack_into(">I", grown, start, size)
    clip.write_bytes(grown)
    watch.touched()
    code = job(clip, 6).run()
    assert watch.touched() == []
    assert code in (0, 3, 4)
    assert "Traceback" not in capsys.readouterr().err


def test_images_of_other_sizes_and_kinds_in_one_folder(job: Any, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for number, size in enumerate([(240, 320), (1, 1), (480, 640), (241, 323)], 1):
        cv2.imwrite(str(folder / f"f_{number:06d}.png"), picture(number, *size))
    (folder / "f_000005.png").write_bytes((folder / "f_000001.png").read_bytes()[:-300])
    (folder / "f_000006.png").symlink_to(tmp_path / "nowhere")
    (folder / "f_000007.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "f_000008.png")
    made = job(folder, 8)
    assert made.run() == 4
    assert_consistent(made)
    assert {error["frame"] for error in made.report["errors"]} == {f"f_00000{number}.png" for number in (5, 6, 7, 8)}
