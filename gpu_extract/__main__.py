"""The way in, of `gpu-extract` and `python -m gpu_extract`: what must hold before anything else is loaded."""

from __future__ import annotations

import gc
import os
import signal
from types import FrameType
from typing import NoReturn

GARBAGE = 20_000
"""Objects that come up before some are looked through for garbage. Loading makes many, of which all stay: to look
through them after every 700, as Python does by itself, is a tenth of the start."""
NO_SUCH_SYSTEM = 5
"""The exit code of `errors.DeviceError`."""


def main() -> int:
    """Take the signals, hold the standard descriptors, then load and run the command line; returns the exit code."""
    if os.name != "posix":
        os.write(2, b"gpu-extract: this runs on Linux and macOS; on Windows, inside WSL 2.\n")
        return NO_SUCH_SYSTEM
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _end_at_once)
    # The OpenBLAS of NumPy and of OpenCV starts threads when it is loaded, which nothing here needs. Where the system
    # refuses one it sends SIGINT to the process, as if a person had stopped it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(GARBAGE)
    from gpu_extract.run.parent import follow_parent

    follow_parent()
    from gpu_extract.storage.descriptors import hold_standard_streams

    hold_standard_streams()
    from gpu_extract.errors import DeviceError
    from gpu_extract.run.confinement import confine

    try:
        confine()
    except DeviceError as error:
        os.write(2, f"gpu-extract: {error}\n".encode())
        return error.exit_code
    from gpu_extract.cli import main as run

    try:
        return run()
    finally:
        gc.freeze()  # or the interpreter looks through all that is left, more than once, before it ends


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """While the program is being loaded nothing is begun, and some library may be in the middle of its import."""
    try:
        os.write(2, b"gpu-extract: interrupted.\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
