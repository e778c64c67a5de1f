"""Kubernetes: an Indexed Job that cuts the shards and a Job that merges them, as YAML; nothing is sent anywhere.

A pod that is lost with its machine costs no try; one whose input is bad fails its index at once. The merge is tried
again, ever more seldom, until the shards are whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gpu_extract.cluster.base import FATAL, TRIES, Work, check_count
from gpu_extract.errors import EXIT_OK, AlignmentsError, UsageError

OPTIONS = frozenset({"image", "parallelism", "claim", "secret", "name"})
PROGRAM = "gpu-extract"
PARALLELISM = 8
MERGE_TRIES = 1000
"""The controller waits 10 s after the first, then ever longer, up to minutes: some days."""
GRACE_SECONDS = 15
"""A run that is asked to end does so within 5 s."""
SCRATCH = "/scratch"
WRITABLE = {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
"""A claim belongs to root; this lets a container write into it whose user is another."""
NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""Of a host, with room for "-shards-" and an index."""
CLAIM = re.compile(r"(?P<claim>[a-z0-9][-.a-z0-9]*):(?P<path>/[^:]+)")


def run(work: Work, options: Mapping[str, Any], say: Callable[[str], None]) -> int:
    """Print the documents.

    Raises:
        UsageError: for options that are missing or not allowed.
    """
    import yaml

    documents = jobs(
        work,
        image=options.get("image"),
        parallelism=options.get("parallelism"),
        claim=options.get("claim"),
        secret=options.get("secret"),
        name=options.get("name", PROGRAM),
    )
    say(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=1000).rstrip())
    return EXIT_OK


def jobs(
    work: Work, *, image: str | None, parallelism: int | None, claim: str | None, secret: str | None, name: str
) -> list[dict[str, Any]]:
    """The Job of the shards and that of the merge, as the API has them.

    Args:
        image: of a container that has this program.
        parallelism: how many shards run at once, as far as there are machines.
        claim: `CLAIM:/path`, a persistent volume claim that all share, and where it is mounted.
        secret: whose keys become environment variables: credentials of a bucket.
        name: of both, before "-shards" and "-merge".

    Raises:
        UsageError: if one is missing or not allowed.
    """
    if not image:
        raise UsageError("cluster k8s needs --image: a container image that holds gpu-extract, as its Dockerfile does.")
    if NAME.fullmatch(name) is None:
        raise UsageError(f"name must be a-z, 0-9 and -, begin with a letter, and have up to 40 of them, got {name!r}.")
    parallelism = min(work.shards, PARALLELISM) if parallelism is None else parallelism
    check_count("parallelism", parallelism, 1, work.shards)
    volumes = {"scratch": (SCRATCH, {"emptyDir": {}})} | _claimed(claim)
    work = replace(work, values={key: _escaped(value) for key, value in work.values.items()})

    def pod(words: list[str], gpus: int) -> dict[str, Any]:
        resources: dict[str, Any] = {"requests": {"cpu": str(work.cpus)}}
        if gpus:
            resources["limits"] = {"nvidia.com/gpu": str(gpus)}
        container: dict[str, Any] = {
            "name": PROGRAM,
            "image": image,
            "command": [PROGRAM, *words],
            "env": [{"name": "TMPDIR", "value": SCRATCH}],
            "resources": resources,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": volume, "mountPath": path} for volume, (path, _) in volumes.items()],
        }
        if secret is not None:
            container["envFrom"] = [{"secretRef": {"name": secret}}]
        return {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            **({} if claim is None else {"securityContext": dict(WRITABLE)}),
            "containers": [container],
            "volumes": [{"name": volume, **source} for volume, (_, source) in volumes.items()],
        }

    shards = {
        "completionMode": "Indexed",
        "completions": work.shards,
        "parallelism": parallelism,
        "backoffLimitPerIndex": TRIES,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _policy("FailIndex", FATAL),
    }
    merge = {
        "backoffLimit": MERGE_TRIES,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": _policy("FailJob", (UsageError.exit_code, AlignmentsError.exit_code)),
    }
    return [
        _job(name, "shards", shards, pod(work.shard("$(JOB_COMPLETION_INDEX)"), work.gpus)),
        _job(name, "merge", merge, pod([*work.merge(), "--partial-ok"], 0)),
    ]


def _job(name: str, part: str, spec: dict[str, Any], pod: dict[str, Any]) -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/name": PROGRAM,
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": part,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-{part}", "labels": labels},
        "spec": spec | {"template": {"metadata": {"labels": dict(labels)}, "spec": pod}},
    }


def _policy(action: str, exit_codes: tuple[int, ...]) -> dict[str, Any]:
    """What ends without another try, and what costs none: the loss of the machine."""
    lost = [{"type": "DisruptionTarget", "status": "True"}]
    ended = {"containerName": PROGRAM, "operator": "In", "values": list(exit_codes)}
    return {"rules": [{"action": "Ignore", "onPodConditions": lost}, {"action": action, "onExitCodes": ended}]}


def _claimed(claim: str | None) -> dict[str, tuple[str, dict[str, Any]]]:
    if claim is None:
        return {}
    found = CLAIM.fullmatch(claim)
    if found is None or found["path"].rstrip("/") in ("", SCRATCH):
        raise UsageError(f"claim must be CLAIM:/path, where the path is neither / nor {SCRATCH}, got {claim!r}.")
    return {"shared": (found["path"], {"persistentVolumeClaim": {"claimName": found["claim"]}})}


def _escaped(value: Any) -> Any:
    """A text in which Kubernetes finds no variables."""
    return value.replace("$", "$$") if isinstance(value, str) else value
