"""FFmpeg has code of its own for each processor, and rounds otherwise here and there; that for x86-64 is the standard.

`yuv` gives the pixels of x86-64 wherever there is a formula for them; here is what decoders need.
"""

from __future__ import annotations

import platform


def is_x86() -> bool:
    """Whether FFmpeg's code for x86-64 runs here."""
    return platform.machine() in ("x86_64", "AMD64")


def name() -> str:
    """As the system calls it: "aarch64"."""
    return platform.machine()


def decoder_options() -> dict[str, str]:
    """Those with which every decoder gives the samples that it gives on x86-64.

    The transform of MPEG-1, -2 and -4, MJPEG and DNxHD has code of its own on aarch64, a level away in some samples;
    the portable one is that of x86.
    """
    return {} if is_x86() else {"idct": "simple"}
