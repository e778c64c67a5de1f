"""Decoders that no longer give what they gave before March 2026.

For pixels no option brings the old ones back; docs/formats.md#pixels has the causes and the numbers, and a report says
so. Frames that are new since then are left out.
"""

from __future__ import annotations

import av

_HALF_SAMPLES = "decodes single samples a level or so away from what FFmpeg did up to 8.0"
_WAVELET = "decodes a fifth of the samples up to a hundredth of the range away from what FFmpeg did up to 4.2"

_APART = {
    "mpeg4": ("MPEG-4 part 2 (DivX, Xvid)", _HALF_SAMPLES),
    "msmpeg4": ("MS-MPEG-4 version 3 (DivX 3)", _HALF_SAMPLES),
    "wmv1": ("Windows Media Video 7", _HALF_SAMPLES),
    "wmv2": ("Windows Media Video 8", _HALF_SAMPLES),
    "cfhd": ("CineForm", _WAVELET),
}

# Bytes of the shortest packet that says something: size, flags, and with the flag 8 which lines follow.
_QTRLE_PLAIN, _QTRLE_WITH_LINES = 8, 14


def notes_on(codec_name: str) -> tuple[str, ...]:
    """Sentences for whoever expects the pixels of before March 2026."""
    if codec_name not in _APART:
        return ()
    what, how = _APART[codec_name]
    return (
        f"the video is {what}, which FFmpeg {av.ffmpeg_version_info} {how}; some faces, and their hashes, may differ "
        "from those of the file's own program.",
    )


def has_silent_packets(codec_name: str) -> bool:
    """Whether `gave_no_frame` need be asked."""
    return codec_name == "qtrle"


def gave_no_frame(codec_name: str, packet: bytes | memoryview) -> bool:
    """Whether the decoder of FFmpeg 4.2 made nothing of a packet of which today's repeats the frame before.

    QuickTime Animation has them where nothing changes: they end before anything that could be drawn.
    """
    if not has_silent_packets(codec_name):
        return False
    says_lines = len(packet) >= _QTRLE_PLAIN and packet[5] & 8
    return len(packet) < (_QTRLE_WITH_LINES if says_lines else _QTRLE_PLAIN)
