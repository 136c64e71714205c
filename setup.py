"""What pyproject.toml has no settled words for: a module in C, left out where there is no compiler."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("millstream.record._lane", ["src/millstream/record/_lane.c"], optional=True)])
