"""`extract --processes`: one run by several processes of this machine, each a shard at a time, merged in the end.

This process plans, starts the others, follows their receipts, and does what follows when all frames were gone over. It
cuts nothing itself, so it needs no device. A process that dies is started again where its receipt ends; what kills it
three times is named and left out.
"""

from __future__ import annotations

import os
import threading
import time

from gpu_extract import errors
from gpu_extract.jobs.extract import introduce
from gpu_extract.jobs.prepare import prepared
from gpu_extract.options import Settings
from gpu_extract.reports.base import check_target, write_report
from gpu_extract.reports.extraction import Report
from gpu_extract.run.progress import Progress, listener_for
from gpu_extract.run.signals import Interruption

TRIES = 3
POLL_SECONDS = 0.05
COST_SECONDS = 2.6e-3
"""Of one core for a frame of 1920 x 1080, see `run.shards`; as in `bench/scale.py`."""
INTERPRETER_SECONDS = 1e-3
"""Of a frame, for which a process runs on one core whatever it has."""
SHARD_SECONDS = 20.0
"""Of work that a shard should have, so that the last ones end together and starting costs little."""
MOST_SHARDS_EACH = 8
WORTHWHILE_SECONDS = 4.0
"""Of work for each process: starting one costs half a second."""
FATAL = {kind.exit_code: kind for kind in (errors.UsageError, errors.InputError, errors.OutputError, errors.AlignmentsError)}


def run(settings: Settings, *, cancel: threading.Event | None = None) -> Report | None:
    """The run, or None where one process does better: nothing was done then."""
    if settings.json is not None:
        check_target(Report, settings.json)
    began = time.perf_counter()
    report = Report(size=settings.size, faces_folder=os.fspath(settings.faces))
    with Interruption(cancel) as interruption, Progress(listener_for(settings.progress)) as progress:
        with prepared(_without_device(settings), progress.note) as made:
            count = _process_count(settings, made)
            if count == 1:
                return None
            interruption.check()
            introduce(made, settings.align_eyes, report)
            crew = _Crew(settings, made, report, progress, count)
            with crew.at_work(interruption):
                crew.cut(crew.shards)
            crew.finish(interruption)
        report.finish(time.perf_counter() - began)
        progress.finish(report.exit_code)
    if settings.json is not None:
        write_report(report, settings.json)
    return report
