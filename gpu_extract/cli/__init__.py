"""The command line: words to one library call, its result to the terminal, its error to an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from gpu_extract.cli.command import Command
from gpu_extract.cli.output import escape_what_cannot_be_shown, let_go
from gpu_extract.cli.parser import build_parser
from gpu_extract.errors import (
    DeviceError,
    GpuExtractError,
    InputError,
    InterruptedRunError,
    OutputError,
    UsageError,
    printable,
)
from gpu_extract.run.signals import StopOnSignal
from gpu_extract.storage.descriptors import hold_standard_streams

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says of files that are written; anything else that nobody has put into words is an input's."""
TOO_FEW_FILES = (errno.EMFILE, errno.ENFILE)
"""What the system says, of whatever file, where it grants too few."""
ADDRESS_SPACE_MB, ADDRESS_SPACE_PER_CORE_MB = 640, 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. No traceback reaches a user without -v."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        for stream in (sys.stdout, sys.stderr):
            let_go(stream)


def _run(given: list[str]) -> int:
    verbose = "-v" in given or "--verbose" in given
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # what it warns of is said in our words, with the file's name
    try:
        hold_standard_streams()
        escape_what_cannot_be_shown()
        with StopOnSignal():
            arguments, unknown = build_parser(given).parse_known_args(given)
            if unknown:
                raise UsageError(
                    f"unrecognized arguments: {' '.join(unknown)}; see gpu-extract {arguments.command.name} --help."
                )
            logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
            command: Command = arguments.command
            if command.pixels:
                _check_address_space()
            return command.run(arguments)
    except InterruptedRunError as error:
        return _fail(str(error), error.exit_code, False)
    except GpuExtractError as error:
        return _fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130, False)
    except OSError as error:
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        kind: type[GpuExtractError] = InputError
        if error.errno in NO_ROOM:
            kind = OutputError
        elif error.errno in TOO_FEW_FILES:
            kind = DeviceError
        return _fail(f"{name}{(error.strerror or str(error)).lower()}.", kind.exit_code, verbose)
    except ImportError as error:
        why = "a library cannot be loaded; it is not whole, or this machine gives too little memory or too few files"
        return _fail(f"{why} ({error}).", DeviceError.exit_code, verbose)
    except MemoryError:
        return _fail("this machine ran out of memory; fewer --workers or a smaller --size need less.", 1, verbose)
    except Exception as error:  # the last resort of a program: one sentence, and the traceback for those who ask
        return _fail(f"unexpected {type(error).__name__}: {error} (run again with -v for the traceback).", 1, verbose)


def _check_address_space() -> None:
    """Libraries of pixels end in a segmentation fault where they are loaded with too little.

    Raises:
        DeviceError: if the process may not have enough.
    """
    import resource

    from gpu_extract.run.threads import available_cores

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = ADDRESS_SPACE_MB + ADDRESS_SPACE_PER_CORE_MB * available_cores()
    if limit != resource.RLIM_INFINITY and limit < needed << 20:
        raise DeviceError(
            f"this process may have {limit >> 20:,} MiB of address space (ulimit -v); OpenCV and FFmpeg need "
            f"{needed:,} MiB to be loaded at all."
        )


def _fail(message: str, exit_code: int, verbose: bool) -> int:
    with suppress(OSError):
        if verbose:
            traceback.print_exc()
        print(f"gpu-extract: {printable(message)}", file=sys.stderr)
    return exit_code
