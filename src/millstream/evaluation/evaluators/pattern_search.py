"""Searches with regular expressions in processes beside ours, so that one that never ends can be ended.

Python's `re` holds the interpreter while it searches: no thread, no signal and no time limit of ours gets
through to a pattern that backtracks for ever.
"""

import contextlib
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Final

from millstream.workflow.functions import in_thread

_CHILD: Final = Path(__file__).with_name("pattern_child.py")


class PatternSearch:
    """Finds a pattern in texts; a process for each search that runs at the same time."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        weakref.finalize(self, _end, self._idle)

    async def search(self, pattern: str, text: str, *, flags: int = 0) -> str | None:
        """What the pattern finds first, cut to some 200 characters; `None` where it finds nothing.

        A caller that is cancelled ends the search.

        Raises:
            RuntimeError: the process beside ours has died.
        """
        child = self._idle.pop() if self._idle else _start()
        try:
            found: str | None = await in_thread(_ask, child, [pattern, text, flags])
        except BaseException:
            _end([child])
            raise
        self._idle.append(child)
        return found


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603  # our own file
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


def _ask(child: subprocess.Popen[bytes], question: list[Any]) -> str | None:
    if child.stdin is None or child.stdout is None:
        raise TypeError("the child has no pipes")
    child.stdin.write(json.dumps(question).encode() + b"\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise RuntimeError("the process that searches has died")
    found: str | None = json.loads(answer)
    return found


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """End processes, whatever they are doing."""
    for child in children:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # of a question that was not sent whole
                    pipe.close()
    children.clear()
