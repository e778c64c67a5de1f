"""`gpu-extract cluster`."""

from __future__ import annotations

import argparse

from gpu_extract.cli.chosen import in_force
from gpu_extract.cli.command import Command, word
from gpu_extract.cli.output import say

OWN = ("image", "parallelism", "claim", "secret", "name", "address", "in_flight")
"""Of `cluster`, beside those of the run: each belongs to one scheduler."""


def run(arguments: argparse.Namespace) -> int:
    found = in_force(arguments, "cluster")
    from gpu_extract.cluster.base import Work, scheduler
    from gpu_extract.jobs.config import DEFAULT

    own = {name: value for name in OWN if (value := getattr(arguments, name)) is not None}
    chosen = scheduler(arguments.where, own)
    values = {name: value for name, (value, origin) in found.items() if origin != DEFAULT}
    work = Work(values, arguments.shards, arguments.cpus, arguments.gpus)
    code: int = chosen.run(work, own | {"quiet": arguments.quiet}, say)
    return code


COMMAND = Command(
    "cluster",
    run,
    "Run a job in shards on many machines: on Kubernetes or on Ray.\n\n"
    "k8s prints an Indexed Job of the shards and a Job that merges them, as YAML, and sends nothing.\n"
    "ray runs the shards as tasks of a Ray cluster, then merges; run it again to continue.\n"
    "Paths are those that every machine has: a bucket's or a shared disk's.",
    "gpu-extract cluster k8s -a /data/a.fsa -fr /data/clip.mp4 -fc /data/faces --shards 64 --image IMAGE \\\n"
    "      --claim footage:/data > job.yaml",
    options="cluster",
    words=(
        word("where", metavar="WHERE", help="k8s or ray"),
        word("--shards", metavar="N", type=int, required=True, help="in how many shards the frames are divided"),
        word("--cpus", metavar="N", type=int, default=2, help="cores that a shard asks for (default 2)"),
        word("--gpus", metavar="N", type=int, default=0, help="GPUs that a shard asks for (default 0)"),
        word("--image", help="k8s: the container image"),
        word("--parallelism", metavar="P", type=int, help="k8s: shards that run at once (default 8)"),
        word("--claim", metavar="CLAIM:/path", help="k8s: a persistent volume claim, and where it is mounted"),
        word("--secret", metavar="NAME", help="k8s: a secret that becomes environment variables"),
        word("--name", help="k8s: what the names of the jobs begin with (default gpu-extract)"),
        word("--address", help="ray: of the cluster (default auto)"),
        word("--in-flight", metavar="M", type=int, help="ray: shards at once (default twice the room)"),
    ),
)
