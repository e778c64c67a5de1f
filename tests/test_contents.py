"""Files that are not what their name says: the sentence names what they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpu_extract.alignments import Alignments
from gpu_extract.errors import AlignmentsError, FrameError, InputError, UnsafePickleError
from gpu_extract.frames import open_frames
from gpu_extract.frames.images.decode import decode_image, read_file
from gpu_extract.run.keys import match_keys
from gpu_extract.storage.contents import what_it_is
from tests.helpers import image_bytes, noise

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
KINDS = {
    "git lfs": (LFS, "Git LFS pointer"),
    "git lfs with a byte order mark": (b"\xef\xbb\xbf" + LFS, "Git LFS pointer"),
    "git annex": (b"/annex/objects/SHA256E-s120--00.mp4\n", "git-annex pointer"),
    "web page": (b"\r\n  <!DOCTYPE html>\n<html><head><title>404</title>", "web page (HTML)"),
    "web page, comment first": (b"<!-- saved from url=(0014) -->\n<HTML lang='de'>", "web page (HTML)"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC photo"),
    "heif": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIF photo"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF image"),
    "gif": (b"GIF89a\x01\0\x01\0", "GIF image"),
    "exr": (b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR image"),
    "jxl": (b"\xff\x0a\xfa\x1f", "JPEG XL image"),
    "jxl in a container": (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL image"),
    "zip": (b"PK\x03\x04\x14\0", "ZIP archive"),
    "web page, XHTML": (b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD'><html/>", "web page (HTML)"),
    "error of a server": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "server's error message"),
    "property list": (
        b'<?xml version="1.0"?>\n<!DOCTYPE plist PUBLIC "-//Apple//DTD"><plist/>',
        "property list of macOS",
    ),
    "binary property list": (b"bplist00\xd3\x01", "property list of macOS"),
    "shortcut of a browser": (b"[InternetShortcut]\r\nURL=https://example.com/\r\n", "shortcut"),
    "drawing": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
    "zeros": (bytes(4096), "nothing but zeros"),
    "resource fork": (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "AppleDouble"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_reader_says_what_a_file_is(name: str, tmp_path: Path) -> None:
    content, phrase = KINDS[name]
    assert phrase in str(what_it_is(content))
    with pytest.raises(FrameError, match="it is ") as caught:
        decode_image(content)
    assert phrase in str(caught.value)
    for extension in (".fsa", ".json", ".p", ".yml"):
        path = (tmp_path / "alignments").with_suffix(extension)
        path.write_bytes(content)
        with pytest.raises(AlignmentsError) as refused:
            Alignments.load(path)
        assert f"{path.name} is no alignments file; it is " in str(refused.value)
        assert phrase in str(refused.value)
    for name_of_video in ("clip.mp4", "clip.avi", "clip.dat"):
        video = tmp_path / name_of_video
        video.write_bytes(content)
        with pytest.raises(InputError) as no_video:
            open_frames(video)
        assert phrase in str(no_video.value)
        assert "remux" not in str(no_video.value)


def test_inputs_that_were_swapped(tmp_path: Path, vectors: Path) -> None:
    picture = tmp_path / "alignments.fsa"
    picture.write_bytes(image_bytes(".png", noise(5, 7)))
    with pytest.raises(AlignmentsError, match="it is a PNG image"):
        Alignments.load(picture)
    shutil.copy(vectors / "video" / "clip.mp4", picture)
    with pytest.raises(AlignmentsError, match="it is an MP4 or QuickTime video"):
        Alignments.load(picture)


def test_what_tells_nothing_keeps_its_own_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in (b"{", json.dumps({"a": 5}).encode(), b"just text"):
        assert what_it_is(content) is None
        path.write_bytes(content)
        with pytest.raises(AlignmentsError) as caught:
            Alignments.load(path)
        assert "; it is" not in str(caught.value)
    damaged = image_bytes(".png", noise(5, 7))[:20]
    with pytest.raises(FrameError, match="damaged, or not a PNG"):
        decode_image(damaged)


def test_an_unsafe_pickle_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.p"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'id'\ntR.")
    with pytest.raises(UnsafePickleError):
        Alignments.load(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    for extension in (".fsa", ".json", ".p", ".yml"):
        path = (tmp_path / "alignments").with_suffix(extension)
        path.touch()
        with pytest.raises(AlignmentsError, match=r"is no alignments file; it is empty \(0 bytes\)"):
            Alignments.load(path)
    video = tmp_path / "clip.mp4"
    video.touch()
    with pytest.raises(InputError, match=r"is no video; it is empty \(0 bytes\)"):
        open_frames(video)


STANDS_FOR = {
    ".{}.icloud": "a placeholder of iCloud",
    "{}.crdownload": "a download that did not finish",
    "{}.part": "a download that did not finish",
    "{}.url": "a shortcut to it",
}


@pytest.mark.parametrize("form", STANDS_FOR)
def test_what_stands_for_a_missing_file_is_named(form: str, tmp_path: Path) -> None:
    for name in ("clip.mp4", "alignments.fsa"):
        (tmp_path / form.format(name)).touch()
    with pytest.raises(InputError, match="is there, but only as") as no_video:
        open_frames(tmp_path / "clip.mp4")
    with pytest.raises(InputError, match="is there, but only as") as no_file:
        Alignments.load(tmp_path / "alignments.fsa")
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / form.format("f_2.png")).touch()
    with pytest.raises(InputError, match=r"holds no frames: of 1, such as 'f_2\.png'") as no_frames:
        open_frames(frames)
    (frames / "f_1.png").touch()
    reason = match_keys(["f_1.png", "f_2.png"], open_frames(frames)).reason(1)
    assert reason.startswith("'f_2.png' is there, but only as")
    for said in (str(no_video.value), str(no_file.value), str(no_frames.value), reason):
        assert STANDS_FOR[form] in said
        assert "convert" not in said


def test_a_broken_link_says_where_it_leads(tmp_path: Path) -> None:
    for name, target, advice in (
        ("clip.mp4", "/gone/clip.mp4", ""),
        ("annexed.mp4", ".git/annex/objects/W4/SHA256E-s1--00.mp4", "; run git annex get"),
    ):
        (tmp_path / name).symlink_to(target)
        (tmp_path / f"{name}.json").symlink_to(target)
        for read, path in ((open_frames, tmp_path / name), (Alignments.load, tmp_path / f"{name}.json")):
            with pytest.raises(InputError) as caught:
                read(path)
            assert f"is there, but only as a link to {target}, which is not there{advice}." in str(caught.value)
        with pytest.raises(FrameError) as unread:
            read_file(tmp_path / name)
        assert f"the file is there, but only as a link to {target}, which is not there{advice}." in str(unread.value)
