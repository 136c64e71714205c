"""What one process recorded, where another process delivers it."""

import os
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from millstream.deliver.cursor import SinkState, read_state
from millstream.deliver.undelivered import undelivered

_LOOK_EVERY_S: Final = 0.2


def left_in_all(home: Path, name: str) -> int:
    """How many spans a sink has not had, as its state on disk says."""
    return undelivered(home, _state(home, name)).total()


def left_of_this_process(home: Path, name: str) -> int:
    """The same, of what this process recorded."""
    left = undelivered(home, _state(home, name))
    process = f"-{os.getpid()}-"
    return sum(count for segment, count in left.items() if process in segment)


def wait_for_others(home: Path, name: str, timeout_s: float) -> int:
    """Wait until another process has delivered what this one recorded; how much is left then."""
    until = time.monotonic() + timeout_s
    pause = threading.Event()
    while (left := left_of_this_process(home, name)) and time.monotonic() < until:
        pause.wait(_LOOK_EVERY_S)
    return left


def _state(home: Path, name: str) -> SinkState:
    try:
        return read_state(home, name)
    except (OSError, msgspec.DecodeError):
        return SinkState()
