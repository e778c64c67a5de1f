"""A job that is killed before each of its operations of the file system in turn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = ("rename", "replace", "link", "unlink", "write", "ftruncate")
"""Operations that change a file system."""

_CHILDREN = """
import json, os, signal, sys
from importlib import import_module
import cv2, gpu_extract.face_files.metadata, gpu_extract.storage.atomic
name, *operations = sys.argv[1:]
job = getattr(import_module(f"gpu_extract.jobs.{name}"), name)

def counted(call):
    def wrapper(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return wrapper

for line in sys.stdin:
    left, arguments, named = json.loads(line)
    pid = os.fork()
    if not pid:
        try:
            for operation in operations:
                setattr(os, operation, counted(getattr(os, operation)))
            job(*arguments, **named)
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def killed_at_each_step(
    job: str, prepare: Callable[[], object], *arguments: Path, operations: tuple[str, ...] = CHANGES, **named: Any
) -> Iterator[tuple[int, bool]]:
    """Call a job until it is not killed any more, in a process of its own.

    Args:
        job: its name in `gpu_extract.jobs`.
        prepare: called before each time.
        operations: functions of `os` that are counted.

    Yields:
        The number of the operation before which it was killed, from 1; and whether it was done before that came.
    """
    command = [sys.executable, "-c", _CHILDREN, job, *operations]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as children:
        assert children.stdin is not None
        assert children.stdout is not None
        step, code = 0, -signal.SIGKILL
        while code:
            step += 1
            prepare()
            print(json.dumps([step, [*map(str, arguments)], named]), file=children.stdin, flush=True)
            code = int(children.stdout.readline())
            assert code in (0, -signal.SIGKILL), step
            yield step, not code
