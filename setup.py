"""What pyproject.toml cannot say: the optional C extensions, and archives whose bytes follow from the sources alone.

Everything works without the extensions, more slowly.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist


def extension(name: str, *parts: str) -> Extension:
    return Extension(
        f"gpu_extract.kernels.{name}",
        [f"gpu_extract/kernels/{part}.c" for part in (name, *parts)],
        depends=sorted(map(str, Path("gpu_extract/kernels").glob("*.h"))),
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        # Tables are floating point, whose last bit a fused multiplication would change.
        extra_compile_args=[
            "-O3",
            "-std=c11",
            "-ffp-contract=off",
            "-fvisibility=hidden",
            "-pthread",
            "-Wall",
            "-Wextra",
            f"-ffile-prefix-map={Path.cwd()}=.",  # or a file's bytes tell where it was compiled
        ],
        extra_link_args=["-pthread"],
        py_limited_api=True,
        optional=True,  # no compiler: Python, NumPy, OpenCV and FFmpeg do the same
    )


class Build(build_ext):
    """Says which extensions there will not be."""

    def run(self) -> None:
        super().run()
        paths = [Path(self.get_ext_fullpath(one.name)) for one in self.extensions]
        if missing := [path.name.partition(".")[0] for path in paths if not path.exists()]:
            print(
                f"gpu-extract: {', '.join(missing)} could not be compiled here; Python, NumPy, OpenCV and FFmpeg will "
                "do that work, more slowly, to the same bytes."
            )


class Source(sdist):
    """Takes times from SOURCE_DATE_EPOCH where that is set, as wheels do, and no owner or mask of the machine."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)

        def dated(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = int(epoch), 0, 0, "", ""
            member.mode = 0o755 if member.mode & 0o100 else 0o644
            return member

        path = Path(f"{base_name}.tar.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            path.open("wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as zipped,
            tarfile.open(fileobj=zipped, mode="w") as archive,
        ):
            archive.add(base_dir, filter=dated)
        return str(path)


setup(
    ext_modules=[
        extension("_columns"),
        extension("_cutter", "frame", "png", "pool", "positions", "sampler", "sha1", "sharpness", "yuv"),
        extension("_inflate", "inflate"),
        extension("_jpeg", "jpeg"),
        extension("_opcodes", "numbers"),
        extension("_png", "png"),
        extension("_sampler", "sampler"),
        extension("_scanlines", "inflate", "scanlines"),
        extension("_yuv", "yuv"),
    ],
    cmdclass={"build_ext": Build, "sdist": Source},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
