"""Run as a process of its own by `pattern_search`: a line of JSON in, one out, to the end of stdin.

Its argument is the process id of who started it.
"""

import json
import os
import re
import signal
import sys
from types import FrameType

_PARENT = int(sys.argv[1])


def main() -> None:
    """Answer `[pattern, text, flags]` with what was found, or null."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for who started us
    signal.signal(signal.SIGALRM, _look_after_parent)
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    for line in sys.stdin.buffer:
        pattern, text, flags = json.loads(line)
        found = re.search(pattern, text, flags)
        sys.stdout.write(json.dumps(found and found[0][:201]) + "\n")
        sys.stdout.flush()


def _look_after_parent(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the signature of handlers
    """A search that never ends would outlive a parent that was killed."""
    if os.getppid() != _PARENT:
        os._exit(1)


if __name__ == "__main__":
    main()
