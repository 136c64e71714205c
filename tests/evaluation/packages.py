"""Packages that tests need and that need not be there."""

import importlib
import os
from typing import Any

import pytest


def package(name: str) -> Any:
    """A module; without it the test is skipped, with CI=true it fails."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{name} is not installed", allow_module_level=True)
