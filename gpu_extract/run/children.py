"""Child processes that cut shards: started with a share of the cores, ended with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO

from gpu_extract.errors import OutputError
from gpu_extract.options import VARIABLE_PREFIX
from gpu_extract.run.confinement import CONFINEMENT, Confinement, scrubbed
from gpu_extract.run.parent import PARENT
from gpu_extract.run.signals import GRACE_SECONDS
from gpu_extract.run.threads import usable_cores, use_cores

END_SECONDS = GRACE_SECONDS + 1.0  # that a child has to end in, before it is killed
LAST_BYTES = 4096
PROGRAM = "import sys; sys.path[:] = {path!r}; from gpu_extract.__main__ import main; raise SystemExit(main())"
"""Of a child: the modules that its parent has, and none that lie by chance in the folder where it was started."""


def without_options() -> dict[str, str]:
    """This process's environment for one whose words say everything."""
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLE_PREFIX)}


def shares(count: int) -> list[set[int]]:
    """The cores of this process divided among `count` children; where there are fewer, some share one."""
    cores = sorted(usable_cores())
    if count >= len(cores):
        return [{cores[i % len(cores)]} for i in range(count)]
    bounds = [len(cores) * i // count for i in range(count + 1)]
    return [set(cores[low:high]) for low, high in pairwise(bounds)]


@dataclass
class Child:
    """A running `gpu-extract`."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes] = field(repr=False)
    begins: int = 0
    """Where what it says begins in that file."""
    told: int = 0
    """How much of that `new_lines` has given."""
    asked_to_end: float | None = None
    """When `end` was first called, on the monotonic clock."""

    @classmethod
    def start(
        cls,
        words: Sequence[str],
        cores: set[int],
        confinement: Confinement | None = None,
        environment: Mapping[str, str] | None = None,
        log: IO[bytes] | None = None,
    ) -> Child:
        """Start one with these words of the command line on some cores; its own signals come from the parent only.

        Args:
            confinement: what it gives up before it reads anything. Of this process's environment it gets little then.
            environment: more variables for it.
            log: an open file, to be read and written, that takes its standard error after what is there.

        Raises:
            OutputError: if the system has no process left.
        """
        variables = without_options() if confinement is None else scrubbed(os.environ)
        variables |= environment or {}
        variables[PARENT] = str(os.getpid())
        if confinement is not None:
            variables[CONFINEMENT] = confinement.as_variable()
        # closed by `close`
        errors = tempfile.TemporaryFile() if log is None else os.fdopen(os.dup(log.fileno()), "r+b", buffering=0)  # noqa: SIM115
        begins = os.lseek(errors.fileno(), 0, os.SEEK_END)
        mine = usable_cores()
        try:
            use_cores(cores)
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(path=_module_path()), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=variables,
                process_group=0,  # a terminal's Ctrl-C is for the parent, which passes it on once
            )
        except OSError as error:
            errors.close()
            raise OutputError(f"a process of this run cannot be started: {error.strerror}.") from error
        finally:
            use_cores(mine)
        return cls(process, errors, begins)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to end; harmless where it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """To be called until it has ended: asks it to, and kills it when `END_SECONDS` have passed since."""
        now = time.monotonic()
        if self.asked_to_end is None:
            self.stop()
            self.asked_to_end = now
        elif now - self.asked_to_end > END_SECONDS:
            self.kill()

    def kill(self) -> None:
        """End it and wait for that."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def last_words(self) -> str:
        """Its last line on standard error, without the program's name."""
        descriptor = self.errors.fileno()
        begin = max(self.begins, os.fstat(descriptor).st_size - LAST_BYTES)
        lines = os.pread(descriptor, LAST_BYTES, begin).decode("utf-8", "replace").strip().splitlines()
        return lines[-1].removeprefix("gpu-extract: ") if lines else ""

    def new_lines(self) -> list[str]:
        """Lines that it has finished on standard error and that were not given before."""
        descriptor = self.errors.fileno()
        begin = self.begins + self.told
        data = os.pread(descriptor, os.fstat(descriptor).st_size - begin, begin)
        whole = data[: data.rfind(b"\n") + 1]
        self.told += len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def close(self) -> None:
        self.errors.close()


def _module_path() -> list[str]:
    """Where this process finds modules, without the folder that it happens to be in, but with that of this package."""
    own = os.fspath(Path(__file__).resolve().parents[2])
    found = [os.fspath(Path(entry).absolute()) for entry in sys.path if entry]
    return found if own in found else [*found, own]
