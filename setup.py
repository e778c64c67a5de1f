"""What pyproject.toml cannot say: the optional C extensions. Everything works without them, more slowly."""

from pathlib import Path

from setuptools import Extension, setup


def extension(name: str, *parts: str) -> Extension:
    return Extension(
        f"gpu_extract.kernels.{name}",
        [f"kernels/{part}.c" for part in (name, *parts)],
        depends=sorted(map(str, Path("kernels").glob("*.h"))),
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
        ],
        extra_link_args=["-pthread"],
        py_limited_api=True,
        optional=True,  # no compiler: OpenCV and NumPy do the same work
    )


setup(
    ext_modules=[
        extension("_cutter", "frame", "png", "pool", "positions", "sampler", "sha1", "sharpness", "yuv"),
        extension("_jpeg", "jpeg"),
        extension("_png", "png"),
        extension("_sampler", "sampler"),
        extension("_scanlines", "inflate", "scanlines"),
        extension("_yuv", "yuv"),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
