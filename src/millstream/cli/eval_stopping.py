"""What Ctrl-C and SIGTERM say and do while an evaluation runs; in their handlers, so past all buffers."""

import contextlib
import os
from collections.abc import Callable
from typing import NoReturn

from millstream.interrupts import INTERRUPTED

_STOPPING = b"Stopping; press Ctrl-C again to stop at once.\n"
_AS_BEFORE = b"\r\x1b[2K\x1b[?25h"
"""Takes away the line of a progress bar, and gives the cursor back."""


class Stopping:
    """The answers to signals.

    Args:
        last_words: tells where the run was stopped and how to go on.
    """

    def __init__(self, last_words: Callable[[], str]) -> None:
        self._last_words = last_words
        self._said = False

    def begin(self) -> None:
        """Say that the first signal arrived: code that blocks may take its time."""
        _write(_STOPPING)

    def end_at_once(self) -> NoReturn:
        """Say the last words and end the process: what is done was saved when it was done.

        Python's own end would take seconds under load, with all that is imported.
        """
        try:
            if os.isatty(2):
                _write(_AS_BEFORE)
            if not self._said:
                _write(f"{self._last_words()}\n".encode(errors="backslashreplace"))
                self._said = True
        finally:
            os._exit(INTERRUPTED)


def _write(text: bytes) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, text)
