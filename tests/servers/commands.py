"""Commands that prepare servers: run with what they print shown only when they fail."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.errors import NotPrepared

TAIL_CHARACTERS = 4_000


def tool(name: str, *, package: str) -> str:
    """The path of a program; raises NotPrepared, which says what to install."""
    # Debian keeps servers where only root's path leads.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotPrepared(f"{name} is needed and not on the path: install {package}")
    return found


def run(command: list[str], *, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a command in a folder; if it fails, raises NotPrepared with the end of what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        printed = done.stdout[-TAIL_CHARACTERS:]
        raise NotPrepared(f"`{' '.join(command)}` failed with {done.returncode}:\n{printed}")


def fails(command: list[str]) -> bool:
    """Whether a command ends with an error."""
    return subprocess.run(command, capture_output=True, check=False).returncode != 0
