"""What pyproject.toml has no settled words for: modules in C, left out where there is no compiler."""

from setuptools import Extension, setup

NAMES = ("_lane", "_marks", "_messages")

setup(
    ext_modules=[
        Extension(f"millstream.record.{name}", [f"src/millstream/record/{name}.c"], optional=True)
        for name in NAMES
    ]
)
