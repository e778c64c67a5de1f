"""`cluster`: what is told to many machines is what makes one run, to the byte, whatever becomes of them."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gpu_extract import plugins
from gpu_extract.cli import main
from gpu_extract.cli.commands.cluster import OWN as CLUSTER_OPTIONS
from gpu_extract.cluster.base import FOLDER, Work
from gpu_extract.options import options
from gpu_extract.run import journal
from tests.helpers import Job, face_entry, files_in, image_bytes, noise, write_pickled

SHARDS = 4
FRAMES = 12
PATHS = ("-a", "s3://b/a.fsa", "-fr", "s3://b/clip.mp4", "-fc", "s3://b/faces/")


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))


@pytest.fixture
def manifest(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """What `cluster k8s` prints, read back."""

    def make(*words: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        assert main(["cluster", "k8s", *words, "--image", "registry.example/gpu-extract:1"]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    return make


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[..., Job]:
    """Jobs over one folder of images, each with an alignments file and a faces folder of its own."""
    small = (landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)
    frames = tmp_path / "frames"
    frames.mkdir()
    entries = {}
    for number in range(FRAMES):
        name = f"f_{number:06d}.png"
        (frames / name).write_bytes(image_bytes(".png", noise(76, 90, seed=number)))
        entries[name] = [face_entry((small + k * 9).astype(np.float32)) for k in range(1 + number % 2)]

    def make(name: str, damaged: bool = False) -> Job:
        (tmp_path / name).mkdir()
        if damaged:
            (frames / "f_000007.png").write_bytes(b"no picture")
        return Job(write_pickled(tmp_path / name / "a.fsa", entries), frames, "-sz", "48")

    return make


def paths(job: Job) -> list[str]:
    return ["-a", str(job.alignments), "-fr", str(job.frames), "-fc", str(job.faces), *job.options]


def container(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = document["spec"]["template"]["spec"]["containers"]
    return dict(found)


def words_of_a_pod(document: dict[str, Any], index: int | None = None) -> list[str]:
    """A container's command as the cluster would run it, without the program's name."""
    variables = {"JOB_COMPLETION_INDEX": str(index)} if index is not None else {}
    pattern = re.compile(r"\$\$|\$\((\w+)\)")
    words = [
        pattern.sub(lambda found: "$" if found[0] == "$$" else variables.get(found[1], found[0]), word)
        for word in container(document)["command"]
    ]
    assert words[0] == "gpu-extract"
    return words[1:]


def as_pod(document: dict[str, Any], index: int | None = None) -> int:
    """Run it in this process; returns its exit code."""
    return main(words_of_a_pod(document, index))


def test_every_field_of_the_jobs(manifest: Callable[..., list[dict[str, Any]]]) -> None:
    shards, merge = manifest(
        *PATHS, "-sz", "128", "--shards", "64", "--gpus", "1", "--cpus", "3", "--claim", "footage:/data",
        "--secret", "bucket", "--name", "film-7", "--parallelism", "9", "--device", "cuda", "--no-update",
    )  # fmt: skip
    labels = {"app.kubernetes.io/name": "gpu-extract", "app.kubernetes.io/instance": "film-7"}
    for document, part in ((shards, "shards"), (merge, "merge")):
        assert (document["apiVersion"], document["kind"]) == ("batch/v1", "Job")
        assert document["metadata"]["name"] == f"film-7-{part}"
        assert document["metadata"]["labels"] == labels | {"app.kubernetes.io/component": part}
        assert document["spec"]["template"]["metadata"]["labels"] == document["metadata"]["labels"]
    lost = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}

    def ended(action: str, *values: int) -> dict[str, Any]:
        codes = {"containerName": "gpu-extract", "operator": "In", "values": list(values)}
        return {"action": action, "onExitCodes": codes}

    assert {name: value for name, value in shards["spec"].items() if name != "template"} == {
        "completionMode": "Indexed",
        "completions": 64,
        "parallelism": 9,
        "backoffLimitPerIndex": 3,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [lost, ended("FailIndex", 2, 3, 7)]},
    }
    assert {name: value for name, value in merge["spec"].items() if name != "template"} == {
        "backoffLimit": 1000,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [lost, ended("FailJob", 2, 7)]},
    }
    for document, limits in ((shards, {"limits": {"nvidia.com/gpu": "1"}}), (merge, {})):
        pod = document["spec"]["template"]["spec"]
        assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 15)
        assert pod["securityContext"] == {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}
        assert pod["volumes"] == [
            {"name": "scratch", "emptyDir": {}},
            {"name": "shared", "persistentVolumeClaim": {"claimName": "footage"}},
        ]
        assert container(document) | {"command": None} == {
            "name": "gpu-extract",
            "image": "registry.example/gpu-extract:1",
            "command": None,
            "env": [{"name": "TMPDIR", "value": "/scratch"}],
            "resources": {"requests": {"cpu": "3"}} | limits,
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}, {"name": "shared", "mountPath": "/data"}],
            "envFrom": [{"secretRef": {"name": "bucket"}}],
        }
    where = ["--alignments", "s3://b/a.fsa", "--frames", "s3://b/clip.mp4", "--faces", "s3://b/faces/"]
    asked = [*where, "--size", "128", "--device", "cuda", "--workers", "3", "--no-update"]
    shard = ["--shard", "$(JOB_COMPLETION_INDEX)/64", "--resume", "--partial-ok"]
    assert container(shards)["command"] == ["gpu-extract", "extract", "--config", "", *asked, *shard]
    told = [*where, "--device", "cpu", "--no-update", "--partial-ok"]
    assert container(merge)["command"] == ["gpu-extract", "merge", "--config", "", *told]


def test_what_is_not_asked_for_is_not_there(manifest: Callable[..., list[dict[str, Any]]]) -> None:
    shards, _ = manifest(*PATHS, "--shards", "3")
    pod = shards["spec"]["template"]["spec"]
    assert shards["spec"]["parallelism"] == 3
    assert pod["volumes"] == [{"name": "scratch", "emptyDir": {}}]
    assert "securityContext" not in pod
    assert "envFrom" not in container(shards)
    assert container(shards)["resources"] == {"requests": {"cpu": "2"}}


def test_an_environment_and_a_file_are_read_here(
    manifest: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The pods have neither."""
    monkeypatch.setenv("GPU_EXTRACT_SIZE", "512")
    (tmp_path / "some.toml").write_text("align-eyes = true\nworkers = 7\n")
    shards, _ = manifest(*PATHS, "--shards", "2", "--config", str(tmp_path / "some.toml"))
    words = container(shards)["command"]
    assert words[words.index("--size") + 1] == "512"
    assert words[words.index("--workers") + 1] == "7"
    assert "--align-eyes" in words


def test_no_variable_is_found_in_a_path(manifest: Callable[..., list[dict[str, Any]]]) -> None:
    shards, merge = manifest("-a", "/d/$(HOME).fsa", "-fr", "/d/a$b", "-fc", "/d/$$", "--shards", "2")
    for document in (shards, merge):
        words = container(document)["command"]
        assert words[words.index("--alignments") + 1] == "/d/$$(HOME).fsa"
        assert words[words.index("--frames") + 1] == "/d/a$$b"
        assert words[words.index("--faces") + 1] == "/d/$$$$"


def test_the_api_knows_every_field(manifest: Callable[..., list[dict[str, Any]]]) -> None:
    """Against the models that the official client has of the published schema."""
    client = pytest.importorskip("kubernetes.client", reason="the kubernetes client, which has the API's models")
    plain = {"str": str, "int": int, "object": object, "bool": bool}

    def check(value: Any, kind: str, where: str) -> None:
        if kind.startswith("list["):
            assert isinstance(value, list), where
            for i, item in enumerate(value):
                check(item, kind[5:-1], f"{where}[{i}]")
        elif kind.startswith(("dict[", "dict(")):
            assert isinstance(value, dict), where
            for key, item in value.items():
                check(item, kind[5:-1].partition(", ")[2], f"{where}.{key}")
        elif kind in plain:
            assert isinstance(value, plain[kind]), where
        else:
            model = getattr(client, kind)
            names = {name: attribute for attribute, name in model.attribute_map.items()}
            assert set(value) <= set(names), f"{where}: {sorted(set(value) - set(names))}"
            for name, item in value.items():
                of = model.openapi_types[names[name]].replace("List[", "list[").replace("Dict[", "dict[")
                check(item, of, f"{where}.{name}")
            if hasattr(model, "from_dict"):
                model.from_dict(value)  # refuses what the API needs and is missing

    words = ("--shards", "64", "--gpus", "1", "--claim", "footage:/data", "--secret", "bucket")
    for document in manifest(*PATHS, *words):
        check(document, "V1Job", "job")
    with pytest.raises(AssertionError, match="backoffLimitPerShard"):
        check(document | {"spec": document["spec"] | {"backoffLimitPerShard": 3}}, "V1Job", "job")


@pytest.mark.parametrize("order", ["in order", "at random"])
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_its_indices_make_the_undivided_run(
    order: str, damaged: bool, job: Callable[..., Job], manifest: Callable[..., list[dict[str, Any]]]
) -> None:
    whole, divided = job("whole", damaged), job("divided", damaged)
    assert whole.run() == (4 if damaged else 0)
    shards, merge = manifest(*paths(divided), "--shards", str(SHARDS))
    indices = list(range(SHARDS))
    if order == "at random":
        random.Random(7).shuffle(indices)
        indices.append(indices[0])  # a pod that the controller took for lost
    assert as_pod(merge) == 3, "no shard has begun, and the merge is tried again"
    for n, index in enumerate(indices):
        assert as_pod(shards, index) == 0
        if n == 1:
            assert as_pod(merge) == 4, "shards are missing, and the merge is tried again"
    assert as_pod(merge) == 0
    assert as_pod(merge) == 0, "twice is once"
    assert files_in(divided.faces) == files_in(whole.faces)
    assert divided.alignments.read_bytes() == whole.alignments.read_bytes()
    assert journal.names(divided.faces) == [journal.NAME]


@pytest.mark.parametrize(
    ("lacking", "code"), [("frames", 3), ("alignments", 3), ("size", 2), ("content", 7)], ids=lambda value: str(value)
)
def test_bad_input_ends_with_a_code_that_fails_the_index(
    lacking: str, code: int, job: Callable[..., Job], manifest: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    divided = job("divided")
    shards, _ = manifest(*paths(divided), "--shards", "2")
    words = container(shards)["command"]
    if lacking == "content":
        divided.alignments.write_bytes(b"nothing that is known")
    elif lacking == "size":
        words[words.index("--size") + 1] = "3"
    else:
        words[words.index(f"--{lacking}") + 1] = str(tmp_path / "nowhere.fsa")
    command = [sys.executable, "-m", "gpu_extract", *words_of_a_pod(shards, 0)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code
    (rule,) = [rule for rule in shards["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "FailIndex"]
    assert code in rule["onExitCodes"]["values"]


def test_partial_is_success_only_where_the_run_finished(job: Callable[..., Job]) -> None:
    made = job("one", damaged=True)
    assert made.run("--partial-ok", "--on-error", "stop") == 4
    assert made.run("--partial-ok", "--resume") == 0
    assert made.report["exit_code"] == 0
    assert [error["frame"] for error in made.report["errors"]] == ["f_000007.png"]
    assert made.run("--resume") == 4


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["slurm"], "cluster 'slurm' is not understood; k8s, ray are."),
        (["k8s"], "cluster k8s needs --image"),
        (["k8s", "--image", "i", "--shards", "0"], "shards must be 1 to 100,000, got 0."),
        (["k8s", "--image", "i", "--gpus", "-1"], "gpus must be 0 or more, got -1."),
        (["k8s", "--image", "i", "--parallelism", "9"], "parallelism must be 1 to 8, got 9."),
        (["k8s", "--image", "i", "--name", "A_b"], "name must be a-z, 0-9 and -"),
        (["k8s", "--image", "i", "--name", "a" * 41], "name must be a-z, 0-9 and -"),
        (["k8s", "--image", "i", "--claim", "footage"], "claim must be CLAIM:/path"),
        (["k8s", "--image", "i", "--claim", "footage:/scratch"], "claim must be CLAIM:/path"),
        (["k8s", "--image", "i", "-sz", "3"], "size must be 16 to 4096 pixels, got 3."),
        (["k8s", "--image", "i", "--address", "auto"], "cluster k8s does not take address"),
        (["ray", "--image", "i", "--claim", "c:/d"], "cluster ray does not take claim, image"),
    ],
)
def test_what_is_refused(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [] if "--shards" in words else ["--shards", "8"]
    assert main(["cluster", words[0], *PATHS, *given, *words[1:]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err


def test_without_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = plugins.module(FOLDER, "ray")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert main(["cluster", "ray", *PATHS, "--shards", "2"]) == 2
    assert "install gpu-extract[ray]" in capsys.readouterr().err


def test_whoever_decides_bytes_is_passed_on() -> None:
    """No option that shards must agree in can be lost on the way."""
    rows = {row.name for row in options("cluster")}
    assert {row.name for row in options("extract") if row.decides_bytes} <= rows
    values = {"alignments": "a", "frames": "f", "faces": "o", "engine": "kornia", "device": "cuda:1"}
    assert Work(values, 2).merge()[-2:] == ["--device", "cuda:1"]


def test_every_option_of_the_command_is_some_schedulers() -> None:
    taken = set().union(*(plugins.module(FOLDER, name).OPTIONS for name in plugins.names(FOLDER)))
    assert taken == set(CLUSTER_OPTIONS)
