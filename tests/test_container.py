"""The Dockerfile, compose.yaml and their locks: what can be said of them without building anything."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.dockerfile import Config, DockerfileError, Ignore, Stage, parse
from tests.rehearsal import STOP_SECONDS, Mount, inside

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
TARGETS = ("cpu", "cuda")
STAGES = {stage.name: stage for stage in parse((ROOT / "Dockerfile").read_text("utf-8"))}
IGNORE = Ignore((ROOT / ".dockerignore").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def built(name: str) -> Config:
    """What the image of a stage says of itself."""
    stage = STAGES[name]
    config = built(stage.base).for_next_stage() if stage.base in STAGES else Config()
    for step in stage.steps:
        config = config.after(step)
    return config


def copied() -> set[str]:
    """What COPY takes from the context."""
    steps = [step for stage in STAGES.values() for step in stage.steps if step.word == "COPY"]
    return {source for step in steps if "from" not in step.flags for source in step.text.split()[:-1]}


def locked(name: str) -> dict[str, str]:
    """The packages of a lock and their versions."""
    return dict(re.findall(r"^([\w.-]+)==([^ ;]+)", (REQUIREMENTS / name).read_text("utf-8"), re.MULTILINE))


def left_out(target: str) -> set[str]:
    lines = (REQUIREMENTS / f"without-{target}.txt").read_text("utf-8").splitlines()
    return {line for line in lines if not line.startswith("#")}


def test_copied_files_exist_and_are_not_kept_back() -> None:
    assert copied()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not IGNORE.covers(source), source


def test_the_builder_is_given_nothing_that_is_not_copied() -> None:
    given = {path.name for path in ROOT.iterdir() if not IGNORE.covers(path.name)}
    assert given == {source.split("/")[0] for source in copied()}
    assert IGNORE.covers("kernels/_png.so")
    assert IGNORE.covers("gpu_extract/run/__pycache__/plan.cpython-313.pyc")
    assert not IGNORE.covers("kernels/_png.c")


def test_stages_build_on_stages_that_stand_before_them() -> None:
    known = {"debian:trixie-slim"}
    for stage in STAGES.values():
        sources = {step.flags["from"] for step in stage.steps if "from" in step.flags}
        assert {stage.base, *sources} <= known
        known.add(stage.name)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_how_it_is_run(target: str) -> None:
    config = built(target)
    assert config.entrypoint == ("tini", "--", "gpu-extract")
    assert config.health == ("gpu-extract", "health")
    assert config.user == "1000:0"
    assert config.workdir == "/data"
    assert config.env["TRITON_CACHE_DIR"].startswith("/data/")
    assert config.env["PATH"].startswith("/opt/gpu-extract/bin:")
    assert config.labels["org.opencontainers.image.version"] == PROJECT["version"]
    assert config.labels["org.opencontainers.image.licenses"] == PROJECT["license"]
    assert "NVIDIA_VISIBLE_DEVICES" not in config.env or target == "cuda"
    if target == "cuda":  # to cut, to be asked for its name, and for --decoder cuda
        assert {"compute", "utility", "video"} == {*config.env["NVIDIA_DRIVER_CAPABILITIES"].split(",")}


def test_compose_runs_images_of_the_dockerfile_as_they_are_meant() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    assert set(compose["services"]) == set(TARGETS)
    for name, service in compose["services"].items():
        assert service["build"]["target"] == name
        assert service["image"] == f"gpu-extract:{name}"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["pids_limit"] >= 4096
        assert service["tmpfs"] == ["/tmp"]
        assert service["stop_grace_period"] == f"{STOP_SECONDS}s"
        words = service["command"]
        assert words[0] == "serve"
        port = words[words.index("--port") + 1]
        assert built(name).ports == (port,)
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        volumes = [volume.rsplit(":/", 1)[0] for volume in service["volumes"]]
        assert volumes[0] in compose["volumes"]
    assert compose["services"]["cuda"]["profiles"] == ["cuda"]
    assert "profiles" not in compose["services"]["cpu"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_lock_has_every_dependency_but_what_is_left_out(target: str) -> None:
    lock = locked(f"container-{target}.txt")
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["cloud"], *extras["serve"]]
    names = {match[0].lower() for need in wanted if (match := re.match(r"[\w.-]+", need))}
    assert left_out(target) <= names
    assert not left_out(target) & lock.keys()
    assert names - left_out(target) <= lock.keys()
    assert ("torch" in lock) == (target == "cuda")
    assert not [name for name in lock if name.startswith("nvidia")] or target == "cuda"


@pytest.mark.parametrize("target", TARGETS)
def test_the_page_of_the_images_counts_their_wheels(target: str) -> None:
    page = (ROOT / "docs" / "container.md").read_text("utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| wheels |"))
    count = len(locked(f"container-{target}.txt"))
    assert row.split("|")[2 + TARGETS.index(target)].strip().startswith(f"{count}, ")


@pytest.mark.parametrize("name", ["container-cpu.txt", "container-cuda.txt", "container-build.txt"])
def test_the_images_have_the_versions_that_were_tested(name: str) -> None:
    tested = locked("linux-3.13-test.txt")
    lock = locked(name)
    assert lock
    assert {package: tested[package] for package in lock if package in tested}.items() <= lock.items()
    assert lock.get("opencv-python-headless", tested["opencv-python"]) == tested["opencv-python"]
    assert lock.get("torch", "2.13.0") in (REQUIREMENTS / "torch.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("RUN true", "stands before the first FROM"),
        ("FROM debian", "FROM base AS name only"),
        ("FROM --platform=linux/arm64 a AS b", "flag that is not understood: --platform"),
        ("FROM a AS b\nVOLUME /data", "VOLUME is not understood"),
        ("FROM a AS b\nADD x y", "line 2 of the Dockerfile: ADD is not understood"),
        ("FROM a AS b\nRUN --mount=type=cache x", "flag that is not understood: --mount"),
        ('FROM a AS b\nRUN ["true"]', "shell form only"),
        ("FROM a AS b\nRUN cat <<E", "shell form only"),
        ("FROM a AS b\nENTRYPOINT gpu-extract", "understood as a list"),
        ("FROM a AS b\nHEALTHCHECK NONE", "with CMD only"),
        ("FROM a AS b\nUSER app", "numbers UID:GID only"),
        ("FROM a AS b\nARG X", "needs a default"),
        ("FROM a AS b\nENV A 1", "NAME=value only"),
        ("FROM a AS b\nENV A=$B", "not set before it: $B"),
        ("FROM a AS b\nENV A=${PATH:-x}", "not set before it: ${"),
        ("FROM a AS b\nRUN", "cannot be read"),
        ("FROM a AS b\nRUN a \\", "is continued, and the file ends"),
        ("# syntax=docker/dockerfile:1\nFROM a AS b", "directives to the builder"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(sentence)):
        list(map(configured, parse(text)))


def test_continued_lines_comments_and_variables() -> None:
    text = """
    # at first
    FROM base AS one
    ARG VERSION=1
    ENV A=b \\
        # between
        C="d $A-of-before"
    """
    with pytest.raises(DockerfileError, match=re.escape("not set before it: $A")):
        configured(parse(text)[0])
    config = configured(parse(text.replace("$A", "${VERSION}"))[0], {"VERSION": "2"})
    assert {"A": "b", "C": "d 2-of-before"}.items() <= config.env.items()


def configured(stage: Stage, given: dict[str, str] | None = None) -> Config:
    config = Config()
    for step in stage.steps:
        config = config.after(step, given)
    return config


def test_the_last_line_of_an_ignore_file_decides() -> None:
    ignore = Ignore("*\n!kept\n# a comment\n\n**/*.so\n**/cache")
    covered = {
        path: ignore.covers(path) for path in ("other", "kept", "kept/a", "kept/a.so", "kept/b/cache/c", "a/kept")
    }
    assert covered == {
        "other": True,
        "kept": False,
        "kept/a": False,
        "kept/a.so": True,
        "kept/b/cache/c": True,
        "a/kept": True,
    }
    with pytest.raises(ValueError, match="is not understood"):
        Ignore("a/**/b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root file system that the programs of this machine can be mounted into."""
    inside_here = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", "mount -t tmpfs x /mnt && ip link"]
    try:
        able = os.geteuid() == 0 and subprocess.run(inside_here, capture_output=True).returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("needs root, and the right to mount")
    root = tmp_path / "root"
    for name in ("dev", "etc", "proc", "tmp", "usr"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
        else:
            pytest.skip("needs a system with /bin in /usr")
    return root


def test_a_sealed_run_can_write_to_its_volume_and_to_tmp_only(root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    script = (
        "echo volume >/data/a; echo tmp >/tmp/b; (echo root >/etc/c) 2>&1; id -u; id -g; id -G; echo $$ $A; pwd; "
        "grep -c : /proc/net/dev; cat /data/a /tmp/b; grep NoNewPrivs /proc/self/status"
    )
    command = inside(
        root,
        ["/bin/sh", "-c", script],
        env={"PATH": "/usr/bin", "A": "a b"},
        user="4711:0",
        workdir="/data",
        mounts=[Mount(Path("/usr"), "/usr", read_only=True), Mount(data, "/data")],
        sealed=True,
    )
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    refused, *rest = ended.stdout.splitlines()
    assert "Read-only file system" in refused
    assert rest == ["4711", "0", "0", "1 a b", "/data", "1", "volume", "tmp", "NoNewPrivs:\t1"]
    assert list((root / "tmp").iterdir()) == []


def test_what_is_killed_leaves_no_mounts_and_no_processes(root: Path) -> None:
    script = "sleep 987 & echo begun; wait"
    command = inside(
        root,
        ["/bin/sh", "-c", script],
        env={"PATH": "/usr/bin"},
        mounts=[Mount(Path("/usr"), "/usr", read_only=True)],
        sealed=True,
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.kill()
        assert process.stdout.read() == ""  # whoever held the other end is gone
    assert str(root) not in Path("/proc/mounts").read_text("utf-8")
    assert list((root / "usr").iterdir()) == []
