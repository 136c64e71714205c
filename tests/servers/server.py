"""One real server in a process of its own, on loopback: started, waited for, paused, killed, restarted."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.errors import ServerError

KEEPER = Path(__file__).with_name("keeper.py")
HOST = "127.0.0.1"
TAIL_LINES = 40
# Below the ports of outgoing connections, so that none of those takes it before the server does.
PORTS = range(20_000, 32_000)
STOP_S = 10
STOPPED = "TZX"  # stopped, or gone
# Settings of whoever runs the tests are not settings of the servers.
FOREIGN = (
    "OTEL_",
    "PHOENIX_",
    "MLFLOW_",
    "MILLSTREAM_",
    "PYTHON",
    "JAVA_TOOL_OPTIONS",
    "VIRTUAL_ENV",
    "COVERAGE",
)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens at."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise ServerError(f"No free port was found from {PORTS.start} to {PORTS.stop}")


def wait_until(what: str, holds: Callable[[], Any], timeout_s: float) -> Any:
    """The first true value of holds; raises ServerError that names what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (value := holds()):
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)
    return value


class Server:
    """A server's process. Its data and its log lie in a folder, and stay when it is killed or restarted."""

    def __init__(self, name: str, folder: Path, *, start_s: float = 60) -> None:
        self.name = name
        self.folder = folder
        self.port = free_port()
        self.start_s = start_s
        self._log = folder / "server.log"
        self._keeper: subprocess.Popen[str] | None = None
        self._group = 0

    def command(self) -> list[str]:
        """What is run, in the server's folder."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What is added to the environment."""
        return {}

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where it answers over HTTP."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether there is a process (paused or not)."""
        return self._keeper is not None and self._keeper.poll() is None

    def log(self) -> str:
        """All that it wrote to standard output and error."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> Self:
        """Start it, on the same port and data as before, and wait until it answers; nothing if it runs."""
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), str(self._log), *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**kept, **self.environment()},
            start_new_session=True,
        )
        self._group = int(self._keeper.stdout.readline() or 0)
        try:
            wait_until(f"{self.name} answers", self._up, self.start_s)
        except BaseException as error:
            self.kill()
            if isinstance(error, ServerError):
                raise ServerError(f"{error}. The end of its log:\n{self._tail()}") from None
            raise
        return self

    def kill(self) -> None:
        """End it, with its children, by SIGKILL. Its data stay."""
        if self._keeper is None:
            return
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait()
        self._keeper = None

    def pause(self) -> None:
        """Stop its processes by SIGSTOP: connections are taken by the system, and nothing is answered."""
        os.killpg(self._group, signal.SIGSTOP)
        wait_until(f"{self.name} has stopped", self._stopped, STOP_S)

    def resume(self) -> None:
        """Let its processes go on."""
        os.killpg(self._group, signal.SIGCONT)

    def restored(self) -> Self:
        """The same server, running and not paused, whatever a test did to it."""
        if self.running:
            self.resume()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _up(self) -> bool:
        if not self.running:
            raise ServerError(f"{self.name} ended while it was starting")
        return self.ready()

    def _stopped(self) -> bool:
        """Whether all its threads have stopped, which takes a while on a busy machine; True without /proc."""
        for thread in Path("/proc").glob("[0-9]*/task/*/stat"):
            with suppress(OSError):
                state, _, group = thread.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self._group and state not in STOPPED:
                    return False
        return True

    def _tail(self) -> str:
        return "\n".join(self.log().splitlines()[-TAIL_LINES:]) or "(it is empty)"
