"""SIGINT and SIGTERM as a wish to end, for commands that end in an order of their own."""

import signal
import threading
from typing import Final

wanted: Final = threading.Event()
"""Set once a signal has come."""


def catch() -> None:
    """From now on the signals set `wanted`, until the process ends: its last moments are its own, too."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: wanted.set())
