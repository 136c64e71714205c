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
    "store._texts",
)

setup(
    ext_modules=[
        Extension(
            f"millstream.{name}",
            [f"src/millstream/{name.replace('.', '/')}.c"],
            depends=["src/millstream/profiler/_arrays.h", "src/millstream/store/_json.h"],
            optional=True,
        )
        for name in NAMES
    ]
)
