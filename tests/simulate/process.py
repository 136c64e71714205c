"""A real stand-in: the command's own process, spoken to over HTTP."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "millstream", "simulate", "llm"]


@dataclass
class RunningStandIn:
    base_url: str
    process: subprocess.Popen

    @property
    def root_url(self):
        return self.base_url.removesuffix("/v1")

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.root_url}/stats", timeout=10) as response:  # noqa: S310
            return json.load(response)


@contextmanager
def running(rules: Path, *arguments: str) -> Iterator[RunningStandIn]:
    """Start the command, wait for its first line, stop it with SIGTERM and see that it went in peace."""
    process = subprocess.Popen(
        [*COMMAND, "--config", str(rules), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": ""},
    )
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        yield RunningStandIn(url, process)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=15)
        assert (process.returncode, stdout, stderr) == (0, "", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
