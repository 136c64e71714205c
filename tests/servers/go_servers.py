"""The servers written in Go: built from modules whose versions and hashes go/go.mod and go/go.sum fix."""

import re
import shutil
import subprocess
from pathlib import Path

from tests.servers import cache, commands
from tests.servers.errors import NotPrepared

SOURCES = Path(__file__).with_name("go")
NAME = "go"
PACKAGES = {"collector": "./collector", "toxiproxy": "github.com/Shopify/toxiproxy/v2/cmd/server"}
NEEDED = (1, 24)


def prepare() -> bool:
    """Build the collector and toxiproxy; True if that had to be done."""

    def make(home: Path) -> None:
        go = _go()
        shutil.copytree(SOURCES, home / "source", dirs_exist_ok=True)
        for program, package in PACKAGES.items():
            build = [go, "build", "-mod=readonly", "-o", str(home / "bin" / program), package]
            commands.run(build, folder=home / "source", environment={"GOTOOLCHAIN": "auto"})

    return cache.prepare(NAME, _recipe(), make)


def binary(program: str) -> str:
    """The path of a program that was built; raises NotPrepared."""
    return str(cache.prepared(NAME, _recipe()) / "bin" / program)


def _recipe() -> str:
    return "\n".join(file.read_text() for file in sorted(SOURCES.rglob("*")) if file.is_file())


def _go() -> str:
    go = commands.tool("go", package=f"Go {NEEDED[0]}.{NEEDED[1]} or newer")
    printed = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"go(\d+)\.(\d+)", printed)
    if found is None or (int(found[1]), int(found[2])) < (1, 21):  # older ones cannot fetch a newer one
        raise NotPrepared(f"Go {NEEDED[0]}.{NEEDED[1]} or newer is needed; there: {printed.strip()}")
    return go
