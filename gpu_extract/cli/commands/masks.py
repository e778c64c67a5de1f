"""`gpu-extract masks`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force, values_of
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import told
from gpu_extract.errors import UsageError

OWN = ("frames", "kind", "within")
"""Arguments of `masks` beside its options and the folder."""


def run(arguments: argparse.Namespace) -> int:
    values = values_of(in_force(arguments, "masks"))
    from gpu_extract.jobs.masks import list_masks, masks

    if arguments.list:
        report = list_masks(values["alignments"], json=values["json"])
    elif arguments.faces is None or arguments.kind is None:
        raise UsageError(
            "masks needs -fc, a folder for the images, and --kind, which of them; --list tells what there is."
        )
    else:
        own = {name: getattr(arguments, name) for name in OWN}
        report = masks(**values, **own, faces=arguments.faces)
    return told(report, arguments, values["json"])


COMMAND = Command(
    "masks",
    run,
    "Write the masks of an alignments file as grey images, in each face's crop, in the frame, or as stored.\n\n"
    "A mask gets the file name that extract gives its face; with the same options, the two lie on each other.\n"
    "No frame is decoded. Where a face stores no components, that mask is drawn from its landmarks.",
    "gpu-extract masks -a alignments.fsa -fc masks/ --kind vgg-clear",
    options="masks",
    words=(
        word("-fc", "--faces", metavar="DIR", help="the folder for the images"),
        word(
            "-fr",
            "--frames",
            metavar="PATH",
            help="the video or the folder of images that the file was made from; needed with --in frame",
        ),
        word("--kind", metavar="NAME", help="of the masks; all: every kind that is stored, in a folder of its own"),
        word(
            "--in",
            dest="within",
            choices=("crop", "frame", "stored"),
            default="crop",
            help="what an image shows: the face's crop, the whole frame with the masks of all faces, or the mask as it "
            "is stored (default crop)",
        ),
        word("--list", action="store_true", help="only tell which masks there are, and how many faces have them"),
    ),
    pixels=True,
)
