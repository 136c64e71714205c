"""What pyproject.toml has no settled words for: modules in C, left out where there is no compiler."""

from setuptools import Extension, setup

NAMES = (
    "profiler._retries",
    "profiler._reuse",
    "profiler._sweep",
    "profiler._trees",
    "record._lane",
    "record._marks",
    "record._messages",
    "store._prompts",
    "store._scan",
)

setup(
    ext_modules=[
        Extension(
            f"millstream.{name}",
            [f"src/millstream/{name.replace('.', '/')}.c"],
            depends=["src/millstream/profiler/_arrays.h"],
            optional=True,
        )
        for name in NAMES
    ]
)
