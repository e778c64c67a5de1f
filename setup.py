"""What pyproject.toml cannot say: the optional C extensions. Everything works without them, more slowly."""

from pathlib import Path

from setuptools import Extension, setup


def extension(name: str) -> Extension:
    return Extension(
        f"gpu_extract.kernels.{name}",
        [f"kernels/{name}.c"],
        depends=sorted(map(str, Path("kernels").glob("*.h"))),
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra"],
        py_limited_api=True,
        optional=True,  # no compiler: OpenCV and NumPy do the same work
    )


setup(
    ext_modules=[extension("_png"), extension("_sampler"), extension("_unfilter"), extension("_yuv")],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
