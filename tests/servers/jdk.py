"""JDKs of this machine, found where systems and their tools put them."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.servers.errors import NotPrepared

FOLDERS = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
)


def find(at_least: int) -> Path:
    """The home of the oldest JDK of this version or newer; raises NotPrepared that names those there are."""
    versions = {home.resolve(): version for home in _homes() if (version := _version(home))}
    fitting = [home for home, version in versions.items() if version >= at_least]
    if fitting:
        return min(fitting, key=lambda home: versions[home])
    there = ", ".join(str(version) for version in sorted(versions.values())) or "none"
    raise NotPrepared(
        f"A JDK of version {at_least} or newer is needed; there: {there}. "
        "Install one, or say where one is: JAVA_HOME"
    )


def _homes() -> Iterator[Path]:
    for name, value in os.environ.items():
        if value and (name == "JAVA_HOME" or name.startswith("JAVA_HOME_")):
            yield Path(value)
    if compiler := shutil.which("javac"):
        yield Path(compiler).resolve().parents[1]
    for pattern in FOLDERS:
        yield from Path("/").glob(pattern.removeprefix("/"))
    yield from Path.home().glob(".sdkman/candidates/java/*")


def _version(home: Path) -> int | None:
    release = home / "release"
    if not (home / "bin" / "javac").exists() or not release.exists():
        return None
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(), re.MULTILINE)
    return int(found[1]) if found else None
