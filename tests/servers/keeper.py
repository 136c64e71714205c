"""Runs one server and ends it, with all its children, as soon as the process that asked for it is gone.

A program of its own, so that a test process killed by SIGKILL leaves no server: keeper.py LOG COMMAND…
It prints the server's process group; the server ends when its standard input closes or its parent changes.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

LOOK_S = 0.2


def keep(log: Path, command: list[str]) -> int:
    """Run the command until it ends or nobody wants it any more; its exit status."""
    parent = os.getppid()
    with log.open("ab") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        sys.stdout.write(f"{server.pid}\n")
        sys.stdout.flush()
        # A child that the test process forked may hold the pipe open after it: its id is looked at, too.
        while server.poll() is None and os.getppid() == parent:
            if select.select([sys.stdin], [], [], LOOK_S)[0]:
                break
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1]), sys.argv[2:]) and 1)
