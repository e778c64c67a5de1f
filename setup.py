"""What pyproject.toml cannot say: the optional C sampler. Everything works without it, more slowly."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "gpu_extract.kernels._sampler",
            ["kernels/_sampler.c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3", "-std=c11", "-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,  # no compiler: OpenCV samples instead, with the same bytes
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
