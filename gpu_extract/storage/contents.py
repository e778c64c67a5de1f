"""What a file really is, told from its first bytes: for the sentence that says why it cannot be read."""

from __future__ import annotations

import re

HEAD_BYTES = 512
"""How much of a file is needed."""

_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"version https://hawser", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself; run git annex get"),
    (b"GIF8", "a GIF image"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF document"),
    (b"\0\x05\x16\x07", "an AppleDouble file, in which macOS keeps a file's resources"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
    (b"OggS", "an Ogg file"),
    (b"\0\0\x01\xba", "an MPEG video"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)
PHOTO_BRANDS = {
    b"heic": "a HEIC photo",
    b"heix": "a HEIC photo",
    b"hevc": "a HEIC photo",
    b"heim": "a HEIC photo",
    b"heis": "a HEIC photo",
    b"mif1": "a HEIF photo (HEIC)",
    b"msf1": "a HEIF photo (HEIC)",
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"crx ": "a Canon raw photo",
}
_PROLOGUE = rb"\s*(<\?xml.*?\?>\s*)?(<!--.*?-->\s*)*"
_WEB_PAGE = re.compile(_PROLOGUE + rb"<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_SERVER_ERROR = re.compile(_PROLOGUE + rb"<error\b", re.IGNORECASE | re.DOTALL)
_PROPERTIES = re.compile(rb"bplist00|" + _PROLOGUE + rb"<!doctype\s+plist\b", re.IGNORECASE | re.DOTALL)
_DRAWING = re.compile(_PROLOGUE + rb"(<!doctype\s+svg\b.*?>\s*)?<svg\b", re.IGNORECASE | re.DOTALL)
_SHORTCUT = re.compile(rb"\[InternetShortcut\]|\[Desktop Entry\]|L\0\0\0\x01\x14\x02\0", re.IGNORECASE)
_BY_PATTERN = (
    (_WEB_PAGE, "a web page (HTML): a download that went wrong saves one under the file's name"),
    (_SERVER_ERROR, "a server's error message (XML): a download that went wrong saves one under the file's name"),
    (_PROPERTIES, "a property list of macOS, as iCloud's placeholders and shortcuts are; download the file itself"),
    (_DRAWING, "an SVG drawing"),
    (_SHORTCUT, "a shortcut, not the file itself; copy what it leads to"),
)


def what_it_is(head: bytes) -> str | None:
    """A phrase for a sentence ("it is …"), or None where the bytes tell nothing.

    Args:
        head: the first `HEAD_BYTES` bytes, or all of a shorter file.
    """
    head = head[:HEAD_BYTES]
    text = head.removeprefix(b"\xef\xbb\xbf")
    for beginning, name in _BEGINNINGS:
        if text.startswith(beginning):
            return name
    if head[4:8] == b"ftyp":
        return PHOTO_BRANDS.get(head[8:12], "an MP4 or QuickTime video")
    if head.startswith(b"RIFF"):
        return {b"WEBP": "a WebP image", b"AVI ": "an AVI video"}.get(head[8:12])
    for pattern, name in _BY_PATTERN:
        if pattern.match(text):
            return name
    if not head:
        return "empty (0 bytes): a cloud folder, a full disk or a download that did not finish leaves such a file"
    if not head.strip(b"\0"):
        return "nothing but zeros: a copy or a download that did not finish leaves such a file"
    return None
