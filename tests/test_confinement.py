"""What a confined child can do, which is its job, and what it cannot, which is everything else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from gpu_extract.errors import DeviceError, InputError, OutputError
from gpu_extract.run import landlock
from gpu_extract.run.children import PROGRAM, Child, _module_path
from gpu_extract.run.confinement import CONFINEMENT, Confinement, scrubbed
from tests.helpers import Job, face_entry, image_bytes, noise, write_clip, write_pickled

FRAMES, SIZE = 24, (76, 90)
CORES = os.sched_getaffinity(0)
CALLS = {"x86_64": (39, 425, 101, 310), "aarch64": (172, 425, 117, 270)}
"""getpid; io_uring_setup, ptrace and process_vm_readv."""


def _landlock_version() -> int:
    try:
        return landlock.version()
    except OSError:
        return 0


def needs_landlock(version: int = 3) -> pytest.MarkDecorator:
    return pytest.mark.skipif(_landlock_version() < version, reason=f"this kernel has no Landlock {version}")


needs_seccomp = pytest.mark.skipif(
    not Path("/proc/sys/kernel/seccomp/actions_avail").exists() or os.uname().machine not in CALLS,
    reason="this kernel has no seccomp, or the numbers of its calls are not known",
)


@pytest.fixture
def job(tmp_path: Path, landmarks: np.ndarray) -> Callable[[str], Job]:
    """A job over a clip beside its folder; `job(name)` in a folder of that name."""
    clip = write_clip(tmp_path / "clip.mp4", FRAMES, SIZE, options={"g": "6", "bf": "0"})
    small = ((landmarks - landmarks.mean(axis=0)) * 0.25 + (40, 36)).astype(np.float32)
    entries = {f"clip_{number + 1:06d}.png": [face_entry(small)] for number in range(FRAMES)}

    def make(name: str) -> Job:
        (tmp_path / name / "tmp").mkdir(parents=True)
        return Job(write_pickled(tmp_path / name / "a.fsa", entries), clip, "-sz", "48")

    return make


def start(job: Job, *options: str, **limits: int | bool) -> Child:
    """A real child over a job, which may read its frames and write into its folder."""
    confinement = Confinement((str(job.frames),), (str(job.root),), **limits)  # type: ignore[arg-type]
    return Child.start(job.command(*options), CORES, confinement, {"TMPDIR": str(job.root / "tmp")})


def ended(child: Child) -> tuple[int, str]:
    """Its exit code and its last words."""
    try:
        return child.process.wait(60), child.last_words()
    finally:
        child.kill()
        child.close()


def inside(body: str, confinement: Confinement, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run `body` in a process that was confined, as a decoder that a file has taken over would; `before` that, too."""
    program = PROGRAM.partition("from")[0].format(path=_module_path()) + "\n" + textwrap.dedent(before)
    program += "\nfrom gpu_extract.run.confinement import active, confine\nconfine()\n" + textwrap.dedent(body)
    variables = scrubbed(os.environ) | {CONFINEMENT: confinement.as_variable()}
    return subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, timeout=60)


def attempts(bodies: Iterable[str], confinement: Confinement, before: str = "") -> dict[str, str]:
    """How each of them ends there: the name of the error's number, or "done"."""
    body = f"""
        import errno, json
        ends = {{}}
        for body in {list(bodies)!r}:
            try:
                exec(body, globals())
                ends[body] = "done"
            except OSError as error:
                ends[body] = errno.errorcode[error.errno]
        print(json.dumps(ends))
        """
    done = inside(body, confinement, before)
    assert done.returncode == 0, done.stderr
    ends: dict[str, str] = json.loads(done.stdout)
    return ends


def fail(bodies: Iterable[str], confinement: Confinement, *names: str) -> None:
    for body, end in attempts(bodies, confinement).items():
        assert end in names, body


def succeed(bodies: Iterable[str], confinement: Confinement, before: str = "") -> None:
    for body, end in attempts(bodies, confinement, before).items():
        assert end == "done", body


@needs_landlock()
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_confined_run_gives_the_same(job: Callable[[str], Job], processes: str) -> None:
    free, confined = job("free"), job("confined")
    assert free.run() == 0
    assert ended(start(confined, "--processes", processes)) == (0, "")
    assert confined.files() == free.files()
    assert confined.alignments.read_bytes() == free.alignments.read_bytes()
    assert any(words.startswith("landlock") for words in confined.report["confinement"])
    assert free.report["confinement"] == []


@needs_landlock()
@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_confined_run_over_a_folder_goes_on_where_it_was_killed(
    job: Callable[[str], Job], tmp_path: Path, extension: str
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(FRAMES):
        (folder / f"clip_{number + 1:06d}{extension}").write_bytes(image_bytes(extension, noise(*SIZE, seed=number)))
    free, confined = job("free"), job("confined")
    free.frames = confined.frames = folder
    options = ("--replace-hashes", "--match-keys", "extension")
    assert free.run(*options) == 0
    first = start(confined, *options)
    while first.exit_code is None and len(list(confined.faces.glob("clip*"))) < 2:
        time.sleep(0.002)
    first.kill()
    first.close()
    assert ended(start(confined, *options, "--resume")) == (0, "")
    images = {name: data for name, data in free.files().items() if not name.startswith(".")}
    assert {name: data for name, data in confined.files().items() if not name.startswith(".")} == images
    assert confined.alignments.read_bytes() == free.alignments.read_bytes()


def children_of(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("whose", ["the child", "its parent"])
def test_processes_of_a_confined_run_end_with_it(job: Callable[[str], Job], number: int, whose: str) -> None:
    made = job("killed")
    confinement = Confinement((str(made.frames),), (str(made.root),))
    words, environment = made.command("--processes", "2"), {"TMPDIR": str(made.root / "tmp")}
    program = f"""if True:
        import sys; sys.path[:] = {_module_path()!r}
        from gpu_extract.run.children import Child
        from gpu_extract.run.confinement import Confinement
        Child.start({words!r}, {CORES!r}, {confinement!r}, {environment!r}).process.wait()
        """
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        below: list[int] = []
        while parent.poll() is None and len(below) < 3:
            time.sleep(0.005)
            child = children_of(parent.pid)
            below = child + [pid for one in child for pid in children_of(one)]
        assert len(below) == 3, "it has ended before it could be killed"
        os.kill(parent.pid if whose == "its parent" else below[0], number)
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/exe").exists() for pid in below):
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_landlock()
def test_files_of_others_are_out_of_reach(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
        (folder / "file").write_text("words")
    (mine / "link").symlink_to(other / "file")
    (mine / "below").mkdir()
    confinement = Confinement(writes=(str(mine),))
    home = os.path.expanduser("~")  # noqa: PTH111 (as the child has it)
    home = home if os.path.isdir(home) else "/"  # noqa: PTH112
    refused = (
        f"open({str(other / 'file')!r})",
        f"open({str(mine / 'link')!r})",
        f"open({str(mine / '..' / 'other' / 'file')!r})",
        f"open('/proc/self/root{other / 'file'}')",
        f"open({str(other / 'new')!r}, 'w')",
        f"import os; os.listdir({str(other)!r})",
        f"import os; os.listdir({home!r})",
        "import os; os.listdir('/')",
        "import os; os.listdir('/etc')",
        "import os; os.listdir('/dev')",
        "open('/proc/self/oom_score_adj', 'w')",
        f"import os; os.unlink({str(other / 'file')!r})",
        f"import os; os.truncate({str(other / 'file')!r}, 0)",
        f"import os; os.rename({str(mine / 'file')!r}, {str(other / 'new')!r})",
        f"import os; os.link({str(other / 'file')!r}, {str(mine / 'new')!r})",
        f"import os; os.symlink('/etc/shadow', {str(mine / 'new')!r})",
        f"import os; os.mkfifo({str(mine / 'new')!r})",
        f"import os; os.execv({str(mine / 'file')!r}, ['x'])",
    )
    fail(refused, confinement, "EACCES", "EXDEV")  # a link from outside is one across file systems to the kernel
    assert (other / "file").read_text() == "words"
    allowed = (
        f"open({str(mine / 'file')!r}).read()",
        f"open({str(mine / 'new')!r}, 'w').write('x')",
        f"import os; os.rename({str(mine / 'new')!r}, {str(mine / 'below' / 'new')!r})",
        f"import os; os.mkdir({str(mine / 'folder')!r}); os.rmdir({str(mine / 'folder')!r})",
        "open('/dev/null', 'w').write('x')",
        "open('/proc/self/status').read()",
    )
    succeed(allowed, confinement)


@needs_landlock()
def test_what_may_be_read_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"frames")
    confinement = Confinement(reads=(str(tmp_path),))
    succeed([f"open({str(tmp_path / 'clip.mp4')!r}).read()"], confinement)
    fail(
        [f"open({str(tmp_path / 'clip.mp4')!r}, 'r+')", f"open({str(tmp_path / 'new')!r}, 'x')"], confinement, "EACCES"
    )


@needs_landlock()
def test_the_folder_of_jobs_is_not_readable_for_being_the_current_one(tmp_path: Path) -> None:
    """`python -m` puts it among the folders where modules are looked for, and from there it goes to children."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").write_text("words")
    before = f"sys.path.append({str(tmp_path)!r})"
    confinement = Confinement(writes=(str(tmp_path / "mine"),))
    reading = f"open({str(tmp_path / 'other')!r})"
    assert attempts([reading], confinement, before)[reading] == "EACCES"
    succeed([reading], Confinement(), before)


@needs_landlock()
def test_programs_that_it_starts_are_as_confined(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("words")
    body = f"""
        import subprocess, sys
        for words in (
            ["cat", {str(tmp_path / "secret")!r}],
            [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"],
            [sys.executable, "-c", "open({str(tmp_path / "new")!r}, 'w')"],
        ):
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode and "ermission denied" in done.stderr, done
        """
    done = inside(body, Confinement())
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "new").exists()


@needs_seccomp
def test_no_network() -> None:
    refused = (
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)",
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
    )
    fail(refused, Confinement(), "EACCES")
    allowed = (
        "import socket; socket.socketpair()",
        "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)",
    )
    succeed(allowed, Confinement())
    succeed(["import socket; socket.socket()"], Confinement(network=True))


@needs_seccomp
@pytest.mark.parametrize("network", [False, True])
def test_calls_that_lead_around_the_rules_are_refused(network: bool) -> None:
    before = """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def call(function, *words):
            if function(*words) < 0:
                raise OSError(ctypes.get_errno(), "")
        """
    confinement = Confinement(network=network)
    bodies = [f"call(libc.syscall, {number}, 16, 0, 0, 0, 0)" for number in CALLS[os.uname().machine]]
    assert list(attempts(bodies, confinement, before).values()) == ["done", "EACCES", "EACCES", "EACCES"]
    refused = [f"call(libc.unshare, {flag})" for flag in (0x10000000, 0x40000000, 0x20000)]
    refused += [f"call(libc.syscall, {56 if os.uname().machine == 'x86_64' else 220}, 0x10000011, 0, 0, 0, 0)"]
    assert set(attempts(refused, confinement, before).values()) == {"EACCES"}


@needs_seccomp
def test_the_modes_and_limits_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("words")
    name = str(tmp_path / "file")
    before = "import os, resource"
    bodies = [
        f"os.chmod({name!r}, 0)",
        f"os.chown({name!r}, 1, 1)",
        f"os.lchown({name!r}, 1, 1)",
        f"os.setxattr({name!r}, 'user.x', b'')",
        f"os.removexattr({name!r}, 'user.x', follow_symlinks=False)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    ]
    assert set(attempts(bodies, Confinement(), before).values()) == {"EACCES"}
    succeed(
        [
            f"descriptor = os.open({str(tmp_path / 'new')!r}, os.O_CREAT | os.O_WRONLY); os.fchmod(descriptor, 0o640)",
            "resource.getrlimit(resource.RLIMIT_CPU); resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))",
            "import threading; one = threading.Thread(target=os.getpid); one.start(); one.join()",
        ],
        Confinement(writes=(str(tmp_path),)),
        before,
    )


@needs_seccomp
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is a second set of calls of x86_64")
def test_calls_of_another_architecture_end_the_process() -> None:
    done = inside("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)", Confinement())
    assert done.returncode == -signal.SIGSYS


@needs_landlock(6)
def test_processes_outside_get_no_signals() -> None:
    with subprocess.Popen(["sleep", "60"]) as outside:
        try:
            for number in (0, int(signal.SIGTERM), int(signal.SIGKILL)):
                kills = (f"import os; os.kill({pid}, {number})" for pid in (outside.pid, "os.getppid()"))
                fail(kills, Confinement(), "EPERM")
            peeks = (f"open('/proc/{outside.pid}/{name}')" for name in ("environ", "mem", "fd/0"))
            fail(peeks, Confinement(), "EACCES", "EPERM")
            assert outside.poll() is None
        finally:
            outside.kill()
    own = "import subprocess; one = subprocess.Popen(['sleep', '60']); one.kill(); one.wait()"
    succeed([own], Confinement())


def test_little_of_the_environment_reaches_it(job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GPU_EXTRACT_SIZE", "HTTPS_PROXY", "LD_PRELOAD_X", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_NUMERIC", "C")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    made = job("one")
    child = start(made)
    told: dict[str, str] = {}
    while child.exit_code is None and not told:
        time.sleep(0.002)
        text = Path(f"/proc/{child.process.pid}/environ").read_bytes().decode()
        if CONFINEMENT in text:  # else it is still this process's copy, or gone
            told = dict(line.split("=", 1) for line in text.split("\0") if line)
    assert ended(child)[0] == 0
    assert "secret" not in told.values()
    assert (told["LC_NUMERIC"], told["CUDA_VISIBLE_DEVICES"]) == ("C", "1")
    assert told["TMPDIR"] == str(made.root / "tmp")


def test_the_variable_does_not_stay_in_the_environment() -> None:
    done = inside(f"import os; print({CONFINEMENT!r} in os.environ)", Confinement())
    assert done.stdout == "False\n"


def test_names_that_are_no_text_travel(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/b\xe9")
    confinement = Confinement((name,), (name,), 1 << 30, None, 7, strict=True)
    assert Confinement.of_variable(confinement.as_variable()) == confinement


def test_a_file_over_the_limit_ends_as_a_full_disk_does(job: Callable[[str], Job]) -> None:
    code, words = ended(start(job("one"), file_bytes=1500))
    assert code == OutputError.exit_code
    assert "File too large" in words
    assert "--resume" in words


def test_too_few_files_end_in_a_sentence(job: Callable[[str], Job]) -> None:
    code, words = ended(start(job("one"), open_files=4))
    assert code in (InputError.exit_code, DeviceError.exit_code, OutputError.exit_code)
    assert words


def test_too_little_memory_ends_in_a_sentence(job: Callable[[str], Job]) -> None:
    code, words = ended(start(job("one"), memory_bytes=256 << 20))
    assert code == DeviceError.exit_code
    assert "address space" in words


def test_a_picture_that_takes_more_memory_than_allowed_ends_in_a_sentence(
    job: Callable[[str], Job], tmp_path: Path
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    blank = np.zeros((12000, 14000), np.uint8)
    (folder / "clip_000001.png").write_bytes(image_bytes(".png", blank))
    made = job("one")
    made.frames = folder
    code, words = ended(start(made, memory_bytes=(900 << 20) + (64 << 20) * len(CORES)))
    assert code > 0
    assert "memory" in words or made.report["errors"]


def test_all_limits_are_named(tmp_path: Path) -> None:
    body = "print('\\n'.join(active())); import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"
    done = inside(body, Confinement(memory_bytes=8 << 30, file_bytes=3 << 29, open_files=200))
    lines = done.stdout.splitlines()
    assert lines[:3] == ["memory 8 GiB", "files of 1.5 GiB", "200 open files"]
    assert lines[-1] == "(0, 0)"
    score = inside("print(open('/proc/self/oom_score_adj').read())", Confinement())
    assert int(score.stdout) >= 500


WITHOUT_LANDLOCK = """
    import errno
    from gpu_extract.run import landlock
    def version(): raise OSError(errno.ENOSYS, "Function not implemented")
    landlock.version = version
    """


@needs_seccomp
def test_a_kernel_without_landlock_is_named() -> None:
    done = inside("print('\\n'.join(active()))", Confinement(), WITHOUT_LANDLOCK)
    assert "no landlock: the kernel was built without it, or a container forbids it" in done.stdout.splitlines()
    assert "seccomp: no sockets, io_uring, ptrace, namespaces, chmod" in done.stdout.splitlines()


def test_a_strict_parent_takes_nothing_less() -> None:
    done = inside("print('here')", Confinement(strict=True), WITHOUT_LANDLOCK)
    assert done.returncode != 0
    assert "no landlock" in done.stderr
    assert not done.stdout


@needs_landlock(6)
def test_a_strict_parent_is_content_with_all(job: Callable[[str], Job]) -> None:
    assert ended(start(job("one"), strict=True)) == (0, "")


def test_a_strict_child_that_cannot_ends_with_a_sentence(
    job: Callable[[str], Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole way: the interpreter of the child is told that its machine is one that seccomp does not know."""
    (tmp_path / "hurt").mkdir()
    (tmp_path / "hurt" / "sitecustomize.py").write_text("import platform\nplatform.machine = lambda: 'vax'\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hurt'}:{os.environ.get('PYTHONPATH', '')}")
    code, words = ended(start(job("one"), strict=True))
    assert code == DeviceError.exit_code
    assert "no seccomp: the numbers of vax are not known" in words
    loose = job("two")
    assert ended(start(loose)) == (0, "")
    assert "no seccomp: the numbers of vax are not known" in loose.report["confinement"]


@needs_landlock()
@pytest.mark.parametrize("known", [1, 2, 3, 4, 5])
def test_older_kernels_are_asked_for_what_they_know(tmp_path: Path, known: int) -> None:
    (tmp_path / "mine" / "below").mkdir(parents=True)
    (tmp_path / "mine" / "file").write_text("words")
    (tmp_path / "other").write_text("words")
    before = f"from gpu_extract.run import landlock; landlock.version = lambda: {known}"
    confinement = Confinement(writes=(str(tmp_path / "mine"),))
    done = inside("print('\\n'.join(active()))", confinement, before)
    assert any(line.startswith(f"landlock {known}: files") for line in done.stdout.splitlines()), done.stderr
    assert ("can be emptied" in done.stdout) == (known < 3)
    assert "can be sent signals" in done.stdout
    bodies = (
        f"open({str(tmp_path / 'mine' / 'new')!r}, 'w').write('x')",
        f"open({str(tmp_path / 'other')!r})",
        "import socket; socket.socket()",
    )
    assert list(attempts(bodies, confinement, before).values()) == ["done", "EACCES", "EACCES"]


@needs_landlock()
def test_only_a_machine_with_an_accelerator_lets_cuda_name_its_threads() -> None:
    before = "import gpu_extract.run.confinement as c, os, tempfile; c.ACCELERATORS = ('nul?',)"
    naming = "open(f'/proc/self/task/{os.getpid()}/comm', 'w').write('cuda')"
    sharing = "tempfile.TemporaryFile(dir='/dev/shm')"
    settings = "open('/proc/sys/kernel/core_pattern', 'r+')"
    ends = attempts([naming, sharing, settings], Confinement(), before)
    assert list(ends.values()) == ["done", "done", "EACCES"]
    assert set(attempts([naming, sharing], Confinement(), "import os, tempfile").values()) == {"EACCES"}


@needs_landlock()
@pytest.mark.parametrize("form", ["hls", "concat", "sdp"])
def test_a_list_of_other_files_leads_nowhere(job: Callable[[str], Job], tmp_path: Path, form: str) -> None:
    """Under the name of a video it is refused for what it is; and were it not, the child could open nothing of it."""
    made = job("one")
    target = write_clip(tmp_path / "secret.mkv", 3, SIZE)
    text = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{target}'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    }[form]
    made.frames = tmp_path / "clip2.mp4"
    made.frames.write_text(text)
    code, words = ended(start(made))
    assert code == InputError.exit_code
    assert "not a video" in words or "no video" in words
    opening = f"""
        import av
        options = {{"protocol_whitelist": "file,udp,rtp,tcp,http", "safe": "0", "allowed_extensions": "ALL"}}
        try:
            with av.open({str(made.frames)!r}, format={form!r}, options=options, timeout=5) as container:
                print("frames", sum(1 for frame in container.decode(video=0)))
        except (av.error.FFmpegError, IndexError, OSError) as error:
            print("nothing", error)
        """
    assert inside(opening, Confinement(reads=(str(made.frames),))).stdout.startswith("nothing")
    if form == "concat":  # the attempt is a real one
        assert inside(opening, Confinement(reads=(str(made.frames), str(target)))).stdout == "frames 3\n"


def test_a_log_takes_what_it_says_after_what_is_there(job: Callable[[str], Job], tmp_path: Path) -> None:
    made = job("one")
    made.frames = tmp_path / "missing.mp4"
    with (tmp_path / "log").open("w+b") as log:
        log.write(b"an earlier try\n")
        log.flush()
        silent = Child.start(["--version"], CORES, log=log)
        assert ended(silent) == (0, "")
        child = Child.start(made.command(), CORES, Confinement(writes=(str(made.root),)), log=log)
        code, words = ended(child)
        assert code == InputError.exit_code
        assert "missing.mp4" in words
        assert not log.closed
    text = (tmp_path / "log").read_text()
    assert text.startswith("an earlier try\n")
    assert text.endswith(f"gpu-extract: {words}\n")


def test_one_that_is_not_confined_is_as_before(job: Callable[[str], Job]) -> None:
    made = job("one")
    assert ended(Child.start(made.command(), CORES)) == (0, "")
    assert made.report["confinement"] == []
    with tempfile.TemporaryFile() as log:
        assert ended(Child.start(["extract", "--nonsense"], CORES, log=log))[0] == 2
