"""The image of the Dockerfile made and run without a container daemon, from Debian's packages and wheels.

    make rehearsal                        # as root, on Debian: apt-get install mmdebstrap iproute2
    make rehearsal TARGET=cuda

The steps are read out of the Dockerfile itself (tests/dockerfile.py). A stage is a folder, its RUN steps are run in it
by chroot; the base image is made by mmdebstrap from the packages that it consists of. Then the image is run as `docker
run --read-only --network none --user 4711:0 --tmpfs /tmp --volume …` would: demo, doctor, extract, serve, health, a
job, stop. docs/container.md says what this proves and what not.

Mounts are made in namespaces of the processes that need them and end with those, however they end.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.dockerfile import Config, Ignore, Stage, Step, parse

ROOT = Path(__file__).parent.parent
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
# As the official slim images: Debian's own list of what they leave out, but for what is small.
SLIM = [
    f"--dpkgopt=path-{rule}"
    for rule in (
        "exclude=/usr/share/doc/*",
        "include=/usr/share/doc/*/copyright",
        "exclude=/usr/share/info/*",
        "exclude=/usr/share/locale/*",
        "exclude=/usr/share/man/*",
    )
]
CLEAN = """\
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
"""What apt of the official images does not keep."""
DEVICES = ("null", "zero", "full", "random", "urandom")
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "http_proxy", "https_proxy", "no_proxy")
"""Variables of the builder's machine without which its packages cannot be had, as docker's --build-arg passes them."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
OTHER_USER = "4711:0"
STRANGER = "4712:4712"
STOP_SECONDS = 15
"""`docker stop --time`, and stop_grace_period of compose.yaml."""
READY_SECONDS = 60
JOB_SECONDS = 120
CLONE_NEWNET = 0x40000000


class RehearsalError(Exception):
    """What the image does not do."""


@dataclass(frozen=True)
class Image:
    root: Path
    config: Config


@dataclass(frozen=True)
class Mount:
    """A folder of this machine inside, under another name."""

    source: Path
    target: str
    read_only: bool = False


def inside(
    root: Path,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    user: str = "0:0",
    workdir: str = "/",
    mounts: Sequence[Mount] = (),
    sealed: bool = False,
) -> list[str]:
    """The command line that runs `command` in a root file system, as PID 1 of namespaces of its own.

    Args:
        sealed: the root is for reading only, /tmp is a tmpfs, and of the network there is the loopback. Otherwise, for
            the steps of a build, the network is this machine's, with its name servers and certificates.
    """
    there = shlex.quote(str(root))
    lines = [f"mount --bind {there} {there}", f"mount -t tmpfs -o mode=755,nosuid dev {there}/dev"]
    for device in DEVICES:
        lines.append(f": >{there}/dev/{device}; mount --bind /dev/{device} {there}/dev/{device}")
    lines += [f"ln -s /proc/self/fd/{number} {there}/dev/{name}" for number, name in enumerate(("stdin", "stdout"))]
    lines += [
        f"ln -s /proc/self/fd {there}/dev/fd; ln -s /proc/self/fd/2 {there}/dev/stderr; mkdir {there}/dev/shm",
        f"mount -t tmpfs -o mode=1777,nosuid,nodev,noexec shm {there}/dev/shm",
        f"mount -t proc -o nosuid,nodev,noexec proc {there}/proc",
    ]
    if not sealed:
        lines.append(f"mount --bind -o ro /etc/resolv.conf {there}/etc/resolv.conf")
        lines.append(f": >{there}/dev/ca.crt; mount --bind {CERTIFICATES} {there}/dev/ca.crt")
    for mount in mounts:
        target = f"{there}{shlex.quote(mount.target)}"
        lines.append(f"mkdir -p {target}; mount --bind {shlex.quote(str(mount.source))} {target}")
        if mount.read_only:
            lines.append(f"mount -o remount,bind,ro {target}")
    if sealed:
        lines.append("ip link set lo up")
        lines.append(f"mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmp {there}/tmp")
        lines.append(f"mount -o remount,bind,ro {there}")
    variables = [f"{name}={value}" for name, value in env.items()]
    entered = ["chroot", f"--userspec={user}", "--groups=", str(root), "/usr/bin/env", "-i", "-C", workdir, *variables]
    if sealed:
        entered = ["setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid", *entered]
    lines.append(f"exec {shlex.join([*entered, *command])}")
    apart = ["--mount", "--propagation=private", "--pid", "--ipc", "--uts", *(["--net"] if sealed else [])]
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", *apart, "--fork", "--kill-child", "--"),
        *("sh", "-euc", "\n".join(lines)),
    ]


class Builder:
    """Follows the stages of a Dockerfile, each into a folder of its own.

    Args:
        context: the folder that COPY takes files from.
        folder: where the stages go.
        given: build arguments.
    """

    def __init__(self, stages: Sequence[Stage], context: Path, folder: Path, given: Mapping[str, str]) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._context = context
        self._folder = folder
        self._given = given
        ignored = context / ".dockerignore"
        self._ignore = Ignore(ignored.read_text("utf-8") if ignored.exists() else "")
        self._built: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """The image of a stage, made with all those that it needs."""
        if name in self._built:
            return self._built[name]
        if name not in self._stages:
            raise RehearsalError(f"the Dockerfile has no stage {name}; it has {', '.join(self._stages)}.")
        stage = self._stages[name]
        root = self._folder / name
        if stage.base in self._stages:
            base = self.build(stage.base)
            config = base.config.for_next_stage()
            subprocess.run(["cp", "-a", "--reflink=auto", base.root, root], check=True)
        else:
            config = Config()
            self._bootstrap(stage.base, root)
        for step in stage.steps:
            tell(f"{name}: {step}")
            config = config.after(step, self._given)
            if step.word == "RUN":
                self._run(step, root, config)
            elif step.word == "COPY":
                self._copy(step, root, config)
            elif step.word == "WORKDIR":
                (root / config.workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        self._built[name] = Image(root, config)
        return self._built[name]

    @staticmethod
    def _bootstrap(base: str, root: Path) -> None:
        """What the base image holds, from the same packages."""
        match = re.fullmatch(r"debian:([a-z]+)-slim", base)
        if not match:
            raise RehearsalError(f"the base image {base} cannot be made here; debian:SUITE-slim can.")
        tell(f"{base}: mmdebstrap {match[1]}")
        ended = subprocess.run(["mmdebstrap", "-q", "--variant=minbase", *SLIM, match[1], root])
        require(ended.returncode == 0, f"mmdebstrap ended with {ended.returncode}")
        (root / "etc/apt/apt.conf.d/docker-clean").write_text(CLEAN)

    def _run(self, step: Step, root: Path, config: Config) -> None:
        passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        env = {**passed_on, "PIP_CERT": "/dev/ca.crt", "HOME": "/root", **config.args, **config.env}
        command = inside(root, ["/bin/sh", "-c", step.text], env=env, user=config.user, workdir=config.workdir)
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            sys.stderr.write(ended.stdout + ended.stderr)
            raise RehearsalError(f"line {step.line} of the Dockerfile ended with {ended.returncode}: {step.text}")

    def _copy(self, step: Step, root: Path, config: Config) -> None:
        *sources, target = config.filled(step, step.text).split()
        if len(sources) > 1 and not target.endswith("/"):
            raise step.fault(f"of several files needs a folder with a / at its end, not {target}")
        if any(character in step.text for character in '*?["'):
            raise step.fault(f"is understood without patterns and quotes only: {step.text}")
        place = root / str(PurePosixPath(config.workdir, target)).lstrip("/")
        for source in sources:
            if "from" in step.flags:
                self._copy_one(step, self.build(step.flags["from"]).root / source.lstrip("/"), place, target)
            else:
                self._copy_one(step, self._context / source, place, target, self._kept_back)

    def _copy_one(
        self,
        step: Step,
        source: Path,
        place: Path,
        target: str,
        kept_back: Callable[[str, list[str]], set[str]] | None = None,
    ) -> None:
        if kept_back and self._ignore.covers(str(source.relative_to(self._context))):
            raise step.fault(f"wants {source.name}, which .dockerignore keeps back")
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, place, symlinks=True, ignore=kept_back, dirs_exist_ok=True)
        elif source.exists():
            place = place / source.name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place, follow_symlinks=False)
        else:
            raise step.fault(f"wants {source}, which does not exist")

    def _kept_back(self, folder: str, names: list[str]) -> set[str]:
        relative = Path(folder).relative_to(self._context)
        return {name for name in names if self._ignore.covers(str(relative / name))}


class Container:
    """A run of an image: read-only root, no network, tmpfs /tmp; killed at the end of the `with`.

    Args:
        user: "UID:GID", need not be known inside.
        data: the volume at /data.
        footage: a folder at /footage, for reading.
    """

    def __init__(self, image: Image, words: Sequence[str], *, user: str, data: Path, footage: Path) -> None:
        self._image = image
        self._user = user
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        config = image.config
        mounts = [Mount(data, "/data"), Mount(footage, "/footage", read_only=True)]
        self._process = subprocess.Popen(
            inside(
                image.root,
                [*config.entrypoint, *words],
                env=config.env,
                user=user,
                workdir=config.workdir,
                mounts=mounts,
                sealed=True,
            ),
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()  # PID 1 inside goes with it, and all others with PID 1
        self._process.wait()
        self.log.close()

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait(self, seconds: float) -> int:
        """The exit code of PID 1, 128 + N where a signal ended it."""
        code = self._process.wait(seconds)
        return code if code >= 0 else 128 - code

    def first(self) -> int:
        """PID 1, by its number outside.

        Raises:
            RehearsalError: if it is not up, or no more.
        """
        shell = self._process.pid
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._process.poll() is None:
            for child in Path(f"/proc/{shell}/task/{shell}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == self._image.config.entrypoint[0]:
                    return int(child)
            time.sleep(0.02)
        raise RehearsalError(f"PID 1 is not {self._image.config.entrypoint[0]}: {self.said()}")

    def stop(self) -> int:
        """`docker stop`: the exit code, 137 where it had to be killed."""
        os.kill(self.first(), signal.Signals[self._image.config.stop_signal])
        try:
            return self.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return 137

    def execute(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """`docker exec`, which is how a HEALTHCHECK is run, too."""
        uid, gid = self._user.split(":")
        config = self._image.config
        variables = [f"{name}={value}" for name, value in config.env.items()]
        enter = ["nsenter", f"--target={self.first()}", "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd"]
        command = [*enter, f"--setuid={uid}", f"--setgid={gid}", "/usr/bin/env", "-i", *variables, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)

    @contextmanager
    def network(self) -> Iterator[None]:
        """This thread's new sockets are the container's."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as own, open(f"/proc/{self.first()}/ns/net") as other:
            for_good = own.fileno()
            if libc.setns(other.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(for_good, CLONE_NEWNET)


class Rehearsal:
    """The acts, in order; each prints a line or raises RehearsalError.

    Args:
        outside: the command line of a gpu-extract on this machine, whose bytes the image's are compared with.
    """

    def __init__(self, image: Image, folder: Path, outside: Sequence[str]) -> None:
        self._image = image
        self._outside = outside
        self._data = folder / "data"
        self._footage = folder / "footage"
        self._folder = folder
        self._footage.mkdir()
        self._data.mkdir()
        # A new volume gets what the image has at its place, owner and mode included.
        like = (image.root / "data").stat()
        self._data.chmod(like.st_mode & 0o7777)
        os.chown(self._data, like.st_uid, like.st_gid)

    def play(self) -> None:
        self.size()
        self.demo()
        self.doctor()
        self.stranger()
        self.stopped_work()
        self.extract()
        self.serve()

    def size(self) -> None:
        total, ours = (disk_bytes(self._image.root / part) for part in ("", "opt/gpu-extract"))
        tell(f"size: {total / 1e6:.0f} MB, {ours / 1e6:.0f} MB of it in /opt/gpu-extract")

    def demo(self) -> None:
        said = self._finished(["demo", "/data/demo"])
        tell(f"demo: {said.splitlines()[0]}")
        for name in ("demo.mp4", "demo_alignments.fsa"):
            shutil.copy(self._data / "demo" / name, self._footage)

    def doctor(self) -> None:
        said = self._finished(["doctor"])
        for word in ("versions", "devices", "chosen"):
            tell(f"doctor: {next(line for line in said.splitlines() if line.startswith(word))}")

    def stranger(self) -> None:
        """Who may not write to the volume gets a sentence."""
        with self._run(["demo", "/data/other"], user=STRANGER) as container:
            code, said = container.wait(60), container.said().strip()
        require(code > 1 and "\n" not in said, f"demo of a user without rights ended with {code}: {said}")
        tell(f"user {STRANGER} without rights: exit {code}, {said}")

    def stopped_work(self) -> None:
        """`docker stop` in the middle of a run."""
        words = [
            "-a",
            "/footage/demo_alignments.fsa",
            "-fr",
            "/footage/demo.mp4",
            "-fc",
            "/data/stopped",
            "--no-update",
        ]
        with self._run(["extract", *words, "--size", "1024"]) as container:
            wait_for(lambda: any((self._data / "stopped").glob("*.png")), 30, "a first face")
            begun = time.monotonic()
            code = container.stop()
            said = container.said()
        require(code == 143, f"a stopped extract ended with {code}: {said}")
        tell(f"stop: an extract in its midst ended with 143 after {time.monotonic() - begun:.1f} s")

    def extract(self) -> None:
        """The bytes of all faces, and of those that this machine's own installation cuts."""
        words = ["-a", "demo_alignments.fsa", "-fr", "demo.mp4", "--no-update"]
        at = [f"/footage/{word}" if word.startswith("demo") else word for word in words]
        self._finished(["extract", *at, "-fc", "/data/faces"])
        subprocess.run(
            [*self._outside, "extract", *words, "-fc", self._folder / "faces"],
            cwd=self._footage,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
        )
        ours, theirs = digests(self._data / "faces"), digests(self._folder / "faces")
        require(
            len(ours) > 0 and ours == theirs, f"of {len(theirs)} faces {len(ours.items() & theirs.items())} are equal"
        )
        tell(f"extract: {len(ours)} faces, equal to the byte to those cut outside the image")

    def serve(self) -> None:
        """The service: unhealthy before, healthy after, a job, its faces' bytes, and its end."""
        with self._run(["serve", "--help"]) as container:
            require(container.wait(30) == 0, f"this gpu-extract cannot serve: {container.said().strip()}")
        words = ["serve", "--data", "/data", "--host", "0.0.0.0", "--port", "8080", "--root", "footage=/footage"]
        with self._run(words) as container:
            health = self._image.config.health
            try:
                wait_for(lambda: container.execute(health).returncode == 0, READY_SECONDS, "a healthy service")
                tell("health: " + (container.execute(health).stdout.strip() or "ready"))
                interfaces = Path(f"/proc/{container.first()}/net/dev").read_text().count(":")
                require(interfaces == 1, f"the container has {interfaces} network interfaces")
                with container.network():
                    self._job(container)
                begun = time.monotonic()
                code = container.stop()
            except RehearsalError as error:
                raise RehearsalError(f"{error}\nThe service said:\n{container.said()}") from error
            require(code == 0, f"a stopped service ended with {code}: {container.said()}")
            tell(f"stop: the service ended with 0 after {time.monotonic() - begun:.1f} s")

    def _job(self, container: Container) -> None:
        token = re.search(r"token=([\w-]+)", container.said())
        require(token is not None, "the service, which listens on all addresses, has not named a token")
        assert token
        client = Client("http://127.0.0.1:8080", token[1])
        body = {
            "alignments": {"root": "footage", "path": "demo_alignments.fsa"},
            "frames": {"root": "footage", "path": "demo.mp4"},
            "options": {},
        }
        client.ask("PUT", "/v1/jobs/rehearsal", body)
        final = ("succeeded", "partial", "failed", "cancelled")
        wait_for(lambda: client.ask("GET", "/v1/jobs/rehearsal")["state"] in final, JOB_SECONDS, "the end of a job")
        job = client.ask("GET", "/v1/jobs/rehearsal")
        require(job["state"] == "succeeded", f"the job is {job['state']}: {job}")
        expected = digests(self._folder / "faces")
        faces = {path: hashlib.sha256(client.read(f"/v1/jobs/rehearsal/faces/{path}")).hexdigest() for path in expected}
        require(faces == expected, f"of {len(expected)} faces {len(faces.items() & expected.items())} are equal")
        tell(f"job: succeeded, {len(faces)} faces, equal to the byte to those cut outside the image")

    def _run(self, words: Sequence[str], user: str = OTHER_USER) -> Container:
        return Container(self._image, words, user=user, data=self._data, footage=self._footage)

    def _finished(self, words: Sequence[str]) -> str:
        with self._run(words) as container:
            code, said = container.wait(300), container.said()
        require(code == 0, f"{shlex.join(words)} ended with {code}: {said}")
        return said


class Client:
    """Requests to the service, with its token."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._token = token

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return json.loads(self._send(method, path, json.dumps(body).encode() if body is not None else None))

    def read(self, path: str) -> bytes:
        return self._send("GET", path, None)

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            with urlopen(Request(self._address + path, body, headers, method=method), timeout=30) as answer:
                data: bytes = answer.read()
                return data
        except HTTPError as error:
            raise RehearsalError(f"{method} {path} was answered by {error.code}: {error.read()[:500]!r}") from error


def disk_bytes(folder: Path) -> int:
    """What the files of a folder hold, each once however many names it has."""
    seen = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            found = Path(parent, name).lstat()
            seen[found.st_ino] = found.st_size
    return sum(seen.values())


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


def wait_for(what: Callable[[], bool], seconds: float, name: str) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        require(time.monotonic() < deadline, f"{seconds:.0f} s went by without {name}")
        time.sleep(0.2)


def require(met: bool, sentence: str) -> None:
    if not met:
        raise RehearsalError(sentence)


def tell(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """0 where all went as it should; 1, and why, otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="cpu", help="the stage to make and run")
    parser.add_argument("--revision", default="unknown", help="as --build-arg REVISION")
    parser.add_argument("--keep", type=Path, help="an empty folder where the root file systems stay")
    words = parser.parse_args()
    if os.geteuid():
        parser.error("chroot and mounts need root")
    if missing := {package for program, package in PROGRAMS.items() if shutil.which(program) is None}:
        parser.error(f"apt-get install {' '.join(sorted(missing))}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    stages = parse((ROOT / "Dockerfile").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as temporary:
        folder = words.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        try:
            image = Builder(stages, ROOT, folder, {"REVISION": words.revision}).build(words.target)
            scene = folder / "scene"
            scene.mkdir()
            Rehearsal(image, scene, [sys.executable, "-m", "gpu_extract"]).play()
        except RehearsalError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    tell(f"the image {words.target} does what it should")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
