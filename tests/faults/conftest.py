"""A search server that fails on request, and applications around it, each a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = "server"


class SearchServer:
    """See `bulk_server`."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.fail("none")
        self.port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [sys.executable, "-m", "tests.faults.bulk_server", str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.ended()

    def ended(self):
        """Wait until its process is dead."""
        self.process.wait(20)
        self.process.stdout.close()

    def fail(self, fault):
        new = self.folder / "fault.new"
        new.write_text(fault)
        new.replace(self.folder / "fault")

    @property
    def created(self):
        """The id of every document, once for each time that it was created."""
        return (self.folder / "created").read_text().split()


@pytest.fixture
def server(tmp_path):
    made = SearchServer(tmp_path / FOLDER)
    yield made
    made.kill()


@pytest.fixture
def start(tmp_path, server):
    """Starts an application that records for so many seconds."""
    running = []

    def start(seconds):
        environment = {**os.environ, "MILLSTREAM_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-W", "error", "-m", "tests.faults.app", server.url, str(seconds)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        running.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def ended(process, within_s=45):
    """What a process says on standard error, once it has ended; seconds from now are bounded."""
    begin = time.monotonic()
    _, err = process.communicate(timeout=within_s)
    assert time.monotonic() - begin < within_s
    return err
