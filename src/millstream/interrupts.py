"""Ctrl-C where there is nothing to clean up: the process ends at once, without a traceback."""

import atexit
import os
import signal
from types import FrameType
from typing import Final

INTERRUPTED: Final = 130
"""The exit code."""


def end_at_once() -> None:
    """From now on a Ctrl-C ends the process, while modules are imported as well.

    Nothing changes where Ctrl-C is ignored, as under `nohup`.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
        atexit.register(_ignore)


def work_begins() -> None:
    """A Ctrl-C is a `KeyboardInterrupt` from now on: there is something to clean up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of handlers
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def _ignore() -> None:
    """When Python takes itself down, it gives signals back to the system: one would kill the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)
