"""What a process takes, watched while it runs: wall time, CPU and memory at the highest."""

import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
_LOOK_EVERY_S: Final = 0.01
_PAGE_MB: Final = os.sysconf("SC_PAGE_SIZE") / 2**20
_TO_MB: Final = 2**20 if os.uname().sysname == "Darwin" else 1024


class Taken(NamedTuple):
    """Seconds of wall time and of CPU, and megabytes at the highest, of one process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


class Stopped(Exception):  # noqa: N818  # says what happened
    """A process that was stopped at a limit, or failed."""


def measure(
    command: Sequence[str | Path], out: Path, *, limit_s: float = math.inf, limit_mb: float = math.inf
) -> Taken:
    """Run a command to its end.

    Who calls this holds little memory, for a process counts at its begin what its parent held.

    Args:
        command: the program and its arguments.
        out: takes what it prints.
        limit_s: wall time after which it is stopped.
        limit_mb: memory above which it is stopped; where the system tells it (Linux).

    Raises:
        Stopped: it came to a limit, or its exit code is not 0.
    """
    with out.open("wb") as stdout, tempfile.TemporaryFile() as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, cwd=ROOT, start_new_session=True)
        reached = ""
        try:
            while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                time.sleep(_LOOK_EVERY_S)
                took_s, held_mb = time.perf_counter() - started, _held_mb(process.pid)
                if not reached and (took_s > limit_s or held_mb > limit_mb):
                    reached = f"stopped after {took_s:.0f} s, at {held_mb:,.0f} MB"
                    os.killpg(process.pid, signal.SIGKILL)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        wall_s = time.perf_counter() - started
        _, status, used = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        if reached:
            raise Stopped(reached)
        if process.returncode < 0:
            raise Stopped(f"killed by {signal.Signals(-process.returncode).name}")
        if process.returncode:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip().splitlines() or ["no reason said"]
            raise Stopped(f"failed: {said[-1]}")
    return Taken(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / _TO_MB)


def _held_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_MB
    except (OSError, IndexError):
        return 0.0
