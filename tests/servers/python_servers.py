"""The virtual environment of the servers written in Python: Arize Phoenix and MLflow."""

import os
import shutil
import sys
from pathlib import Path

from tests.servers import cache, commands

NAME = "python"
PACKAGES = ("arize-phoenix==20.26.1", "mlflow==3.17.2")


def prepare() -> bool:
    """Install them; True if that had to be done."""

    def make(home: Path) -> None:
        commands.run([sys.executable, "-m", "venv", "--clear", "venv"], folder=home)
        python = str(home / "venv" / "bin" / "python")
        commands.run([_uv(home), "pip", "install", "--quiet", "--python", python, *PACKAGES], folder=home)

    return cache.prepare(NAME, _recipe(), make)


def program(name: str) -> str:
    """The path of a program of theirs; raises NotPrepared."""
    return str(cache.prepared(NAME, _recipe()) / "venv" / "bin" / name)


def _recipe() -> str:
    return "\n".join([sys.version, *PACKAGES])


def _uv(home: Path) -> str:
    """As scripts/venv does: the one on the path or in this environment, else one that is put into theirs."""
    beside = Path(sys.executable).parent
    for folders in (os.environ.get("PATH", ""), str(beside)):
        found = shutil.which("uv", path=folders)
        # A stand-in that only says that no version is chosen is on some paths.
        if found and not commands.fails([found, "--version"]):
            return found
    python = str(home / "venv" / "bin" / "python")
    commands.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"], folder=home
    )
    return str(home / "venv" / "bin" / "uv")
