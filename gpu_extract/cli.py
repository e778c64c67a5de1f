"""The command line: flags to one library call, its result to the terminal, its error to an exit code."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from gpu_extract import __version__
from gpu_extract.errors import EXIT_OK, EXIT_PARTIAL, GpuExtractError, InterruptedRunError, UsageError, printable
from gpu_extract.run.signals import StopOnSignal

EXIT_CODES = """\
exit codes:
  0 all done      1 unexpected    2 usage      3 an input is missing or unreadable
  4 finished, but some frames or faces failed  5 device or engine not available
  6 output not writable, or disk full          7 alignments file rejected
  130 / 143 interrupted
"""
PROGRESS = ("auto", "bar", "plain", "none")
ENGINES = ("auto", "exact", "kornia")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message}; see {self.prog} --help.")


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, example: str) -> _Parser:
    parser: _Parser = commands.add_parser(
        name,
        help=text.partition("\n")[0],
        description=text,
        epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("-v", "--verbose", action="store_true", help="say more; show the traceback of an error")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    return parser


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="how pixels are sampled: exact gives the same bytes everywhere",
    )
    parser.add_argument("--device", metavar="DEVICE", default="auto", help="where: auto, cpu, cuda or cuda:N")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpu-extract",
        description="Re-extract aligned faces from an alignments file and the frames it was made from.",
        epilog=f"example:\n  gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gpu-extract {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    extract = _command(
        commands,
        "extract",
        _extract,
        "Cut every face out again, aligned, and record its hash in the alignments file.",
        "gpu-extract extract -a alignments.fsa -fr clip.mp4 -fc faces/ -sz 256",
    )
    add = extract.add_argument
    add("-a", "--alignments", metavar="FILE", required=True, help="alignments file: .fsa .json .p .pickle .yaml .yml")
    add("-fr", "--frames", metavar="PATH", required=True, help="the video or the folder of images it was made from")
    add("-fc", "--faces", metavar="DIR", required=True, help="folder for the faces; created, refused unless empty")
    add("-sz", "--size", metavar="N", type=int, default=256, help="crop side in pixels, 16 to 4096 (default 256)")
    add(
        "-een",
        "--extract-every-n",
        metavar="N",
        type=int,
        default=1,
        help="take frames 0, N, 2N … (default 1: every one)",
    )
    add("-ae", "--align-eyes", action="store_true", help="turn each face until its eyes are exactly level")
    add("-l", "--large", action="store_true", help="only faces whose source box is at least --size pixels")
    add("--min-size", metavar="PERCENT", type=int, default=0, help="only faces of at least this percentage of --size")
    add(
        "--centering",
        choices=("auto", "legacy", "face", "head"),
        default="auto",
        help="what a crop is centred on; auto: legacy for files before version 2.0, head since",
    )
    add(
        "--video-timing",
        choices=("auto", "constant", "decoded"),
        default="auto",
        help="how a video's frames are numbered; auto: as the alignments file's generation did",
    )
    add(
        "--rotate",
        choices=("auto", "on", "off"),
        default="auto",
        help="whether a video's display rotation is applied; auto: as the alignments file's generation did",
    )
    add("--antialias", action="store_true", help="average over what a shrunken face leaves out, against shimmering")
    add("--format", choices=("auto", "png", "jpg", "webp"), default="auto", help="auto: as the file's generation did")
    add("--quality", metavar="Q", type=int, help="1 to 100, of jpg and webp")
    add(
        "--output-layout",
        choices=("flat", "by-frame", "webdataset"),
        default="flat",
        help="one folder, nested folders past 10,000 faces, or tar shards",
    )
    add("--metadata", choices=("jsonl", "parquet"), help="also write one row a face: frame, matrix, landmarks, hash")
    add("--refresh-thumbs", action="store_true", help="regenerate the thumbnails in the alignments file")
    _add_device(extract)
    add("--batch-mb", metavar="MB", type=int, default=64, help="one batch on a device (default 64)")
    add("--pinned-mb", metavar="MB", type=int, default=512, help="page-locked host memory, on CUDA (default 512)")
    add("--workers", metavar="N", type=int, help="threads that cut and encode (default: one a core)")
    add("--json", metavar="FILE", help="write the report as JSON; - is standard output")
    add("--no-update", action="store_true", help="leave the alignments file as it is")
    add("--resume", action="store_true", help="continue an interrupted run in the same faces folder")
    add("--dry-run", action="store_true", help="plan and estimate space and time; write nothing")
    add("--on-error", choices=("skip", "stop"), default="skip", help="after a frame or face fails (default skip)")
    add("--max-errors", metavar="N", type=int, help="end the run after N failures")
    add(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="a bar on a terminal, else a line every 10 s (default auto)",
    )

    verify = _command(
        commands,
        "verify",
        _verify,
        "Prove a folder of faces: cut every face again, in memory, and compare it with its file and stored hash.\n\n"
        "Options left out are those of the run that the folder's journal records. Nothing is written.",
        "gpu-extract verify -a alignments.fsa -fr clip.mp4 -fc faces/",
    )
    add = verify.add_argument
    add("-a", "--alignments", metavar="FILE", required=True, help="the alignments file")
    add("-fr", "--frames", metavar="PATH", required=True, help="the video or the folder of images it was made from")
    add("-fc", "--faces", metavar="DIR", required=True, help="the folder of faces; only read")
    add("-sz", "--size", metavar="N", type=int, help="crop side in pixels")
    add("-een", "--extract-every-n", metavar="N", type=int, help="frames 0, N, 2N …")
    for flag in (("-ae", "--align-eyes"), ("-l", "--large"), ("--antialias",)):
        add(*flag, action="store_const", const=True, help="as extract had it")
    add("--min-size", metavar="PERCENT", type=int, help="as extract had it")
    add("--centering", choices=("auto", "legacy", "face", "head"), help="as extract had it")
    add("--video-timing", choices=("auto", "constant", "decoded"), help="as extract had it")
    add("--rotate", choices=("auto", "on", "off"), help="as extract had it")
    add("--format", choices=("auto", "png", "jpg", "webp"), help="as extract had it")
    add("--quality", metavar="Q", type=int, help="as extract had it")
    add("--output-layout", choices=("flat", "by-frame", "webdataset"), help="as extract had it")
    add("--metadata", choices=("jsonl", "parquet"), help="as extract had it")
    add("--engine", choices=ENGINES, help="as extract had it")
    add("--device", metavar="DEVICE", default="auto", help="where: auto, cpu, cuda or cuda:N")
    add("--batch-mb", metavar="MB", type=int, default=64, help="one batch on a device (default 64)")
    add("--pinned-mb", metavar="MB", type=int, default=512, help="page-locked host memory, on CUDA (default 512)")
    add("--workers", metavar="N", type=int, help="threads that cut and compare (default: one a core)")
    add("--json", metavar="FILE", help="write the result as JSON; - is standard output")
    add(
        "--progress",
        choices=PROGRESS,
        default="auto",
        help="a bar on a terminal, else a line every 10 s (default auto)",
    )

    check = _command(
        commands,
        "check",
        _check,
        "Compare an alignments file with its frames: what lacks the other, several or no faces, bad landmarks.",
        "gpu-extract check -a alignments.fsa -fr clip.mp4",
    )
    add = check.add_argument
    add("-a", "--alignments", metavar="FILE", required=True, help="alignments file of any generation")
    add("-fr", "--frames", metavar="PATH", required=True, help="the video or the folder of images it was made from")
    add(
        "--video-timing",
        choices=("auto", "constant", "decoded"),
        default="auto",
        help="how a video's frames are numbered",
    )
    add("--json", metavar="FILE", help="write the result as JSON; - is standard output")

    demo = _command(
        commands,
        "demo",
        _demo,
        "Draw a small clip with cartoon faces, extract them, and leave a contact sheet to look at.",
        "gpu-extract demo demo/",
    )
    demo.add_argument("folder", metavar="DIR", nargs="?", default="demo", help="where to leave it all (default demo)")

    migrate = _command(
        commands,
        "migrate",
        _migrate,
        "Write an alignments file of any generation as a new file of a newer one.",
        "gpu-extract migrate old.json alignments.fsa --to 2.4",
    )
    migrate.add_argument("old", metavar="OLD", help="alignments file of any generation; it is not changed")
    migrate.add_argument("new", metavar="NEW", help="a .fsa file that does not exist yet")
    migrate.add_argument("--to", metavar="VERSION", default="2.4", help="g6, g7a, g7b or 2.0 to 2.4 (default 2.4)")
    migrate.add_argument(
        "-fr", "--frames", metavar="PATH", help="the frames: needed for turned faces of 2018, and names a video's keys"
    )

    export = _command(
        commands,
        "export",
        _export,
        "Write the landmarks of an alignments file as JSON, in the form that other programs import.",
        "gpu-extract export alignments.fsa --json",
    )
    export.add_argument("file", metavar="FILE", help="alignments file of any generation")
    export.add_argument("new", metavar="NEW", nargs="?", help="the JSON file (default: FILE's name with .json)")
    export.add_argument("-fr", "--frames", metavar="PATH", help="the frames: needed for turned faces of 2018")
    export.add_argument(
        "--json", action="store_true", default=True, help="the exchange form, which is the only one so far"
    )

    import_ = _command(
        commands,
        "import",
        _import,
        "Make an alignments file from landmarks: the JSON exchange form, or plain lists of points a frame.",
        "gpu-extract import landmarks.json alignments.fsa",
    )
    import_.add_argument(
        "landmarks", metavar="LANDMARKS", help="{frame: [{landmarks_2d: …}]} or {frame: [[[x, y], …]]}"
    )
    import_.add_argument("new", metavar="NEW", help="a .fsa file that does not exist yet")

    sheet = _command(
        commands,
        "sheet",
        _sheet,
        "Put the faces of a folder on one picture to look through.",
        "gpu-extract sheet faces/ sheet.png",
    )
    sheet.add_argument("faces", metavar="DIR", help="a folder of faces")
    sheet.add_argument("out_png", metavar="PNG", help="the picture; further pages get _2, _3, …")
    sheet.add_argument("--columns", metavar="N", type=int, help="faces in a row")
    sheet.add_argument("--cell", metavar="PX", type=int, help="side of a face on the sheet")

    doctor = _command(
        commands,
        "doctor",
        _doctor,
        "Tell what would be used on this machine, and why: versions, devices, engines, codecs.",
        "gpu-extract doctor",
    )
    doctor.add_argument("--json", metavar="FILE", help="write it as JSON; - is standard output")
    _add_device(doctor)
    return parser


def _library_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags of a command as keyword arguments: they have the same names and defaults in Python."""
    return {name: value for name, value in vars(arguments).items() if name not in ("run", "verbose", "quiet")}


def _extract(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.extract import extract

    if arguments.quiet:
        arguments.progress = "none"
    report = extract(**_library_arguments(arguments))
    if not arguments.quiet:
        print(report.table(), file=sys.stderr if arguments.json == "-" else sys.stdout)
    elif not report.complete:
        print(f"gpu-extract: {report.notes[-1]}", file=sys.stderr)
    elif report.errors:
        print(f"gpu-extract: {report.first_errors()}", file=sys.stderr)
    return report.exit_code


def _verify(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.verify import verify

    if arguments.quiet:
        arguments.progress = "none"
    return _told(verify(**_library_arguments(arguments)), arguments)


def _check(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.check import check

    return _told(check(**_library_arguments(arguments)), arguments)


def _told(report: Any, arguments: argparse.Namespace) -> int:
    if not arguments.quiet:
        print(report.table(), file=sys.stderr if arguments.json == "-" else sys.stdout)
    code: int = report.exit_code
    return code


def _demo(arguments: argparse.Namespace) -> int:
    from gpu_extract.demo import run_demo

    made = run_demo(arguments.folder)
    if not arguments.quiet:
        print(made.table())
    return made.report.exit_code


def _migrate(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.migrate import migrate

    report = migrate(**_library_arguments(arguments))
    if not arguments.quiet:
        print(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


def _export(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.migrate import export

    report = export(arguments.file, arguments.new, frames=arguments.frames)
    if not arguments.quiet:
        print(report.table())
    return EXIT_PARTIAL if report.faces_dropped else EXIT_OK


def _import(arguments: argparse.Namespace) -> int:
    from gpu_extract.alignments.exchange import import_json

    made = import_json(arguments.landmarks, arguments.new)
    if not arguments.quiet:
        print(
            f"{made.path}: {len(made.faces.frame):,} faces of {len(made.frame_names):,} frames, version {made.version}"
        )
    return EXIT_OK


def _sheet(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.sheet import contact_sheet

    for page in contact_sheet(arguments.faces, arguments.out_png, columns=arguments.columns, cell=arguments.cell):
        if not arguments.quiet:
            print(page)
    return EXIT_OK


def _doctor(arguments: argparse.Namespace) -> int:
    from gpu_extract.jobs.doctor import examine

    findings = examine(engine=arguments.engine, device=arguments.device)
    if arguments.json is not None:
        findings.write_json(arguments.json)
    if arguments.json != "-":
        print(findings.table())
    return findings.exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. No traceback reaches a user without -v."""
    given = list(sys.argv[1:] if argv is None else argv)
    verbose = "-v" in given or "--verbose" in given
    try:
        arguments = build_parser().parse_args(given)
        logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
        with StopOnSignal():
            code: int = arguments.run(arguments)
            sys.stdout.flush()
        return code
    except InterruptedRunError as error:
        return _fail(str(error), error.exit_code, False)
    except GpuExtractError as error:
        return _fail(str(error), error.exit_code, verbose)
    except KeyboardInterrupt:
        return _fail("interrupted.", 130, False)
    except BrokenPipeError:
        # Whoever read our output is gone; keep the interpreter from complaining while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except MemoryError:
        return _fail("this machine ran out of memory; fewer --workers or a smaller --size need less.", 1, verbose)
    except Exception as error:  # the last resort of a program: one sentence, and the traceback for those who ask
        return _fail(f"unexpected {type(error).__name__}: {error} (run again with -v for the traceback).", 1, verbose)


def _fail(message: str, exit_code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print(f"gpu-extract: {printable(message)}", file=sys.stderr)
    return exit_code
