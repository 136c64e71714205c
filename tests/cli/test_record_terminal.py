"""`millstream record` in a real terminal: keys, job control."""

import os
import pty
import select
import shlex
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.recording import RECORD, write

pytestmark = pytest.mark.usefixtures("place")
COMMAND = shlex.join([*RECORD, "--", sys.executable, "app.py"])


class Terminal:
    def __init__(self, fd, pid):
        self.fd, self.pid, self.seen = fd, pid, ""

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def read_until(self, text, within_s=60):
        """What is shown up to `text`, which the next reading begins after."""
        deadline = time.monotonic() + within_s
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"{text!r} did not come; there is: {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 10_000).decode()
            except OSError:
                pytest.fail(f"{text!r} did not come before the end; there is: {self.seen!r}")
        before, _, self.seen = self.seen.partition(text)
        return before


@contextmanager
def terminal(*command):
    """A command as the leader of a session with a terminal of its own."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)  # noqa: S606  # a shell, where one is wanted
    try:
        yield Terminal(fd, pid)
    finally:
        os.close(fd)  # hangs up
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.05)


def test_ctrl_c_is_the_programs_once():
    program = """
        import signal, sys, time
        came = []
        signal.signal(signal.SIGINT, lambda *_: came.append(time.monotonic()))
        print("terminal", *(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)), flush=True)
        while not came:
            time.sleep(0.02)
        time.sleep(0.5)  # in which a second one would come
        print("came", len(came), flush=True)
        sys.exit(5)
    """
    write("app.py", program)
    with terminal("bash", "-c", f"trap : INT; {COMMAND}; echo code $?") as shown:
        shown.read_until("terminal True True True")
        shown.type("\x03")
        shown.read_until("came 1")
        assert "millstream: nothing was recorded" in shown.read_until("code 5")


def test_ctrl_c_ends_a_program_as_always():
    write("app.py", "import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    with terminal("bash", "-c", f"trap : INT; {COMMAND}; echo code $?") as shown:
        shown.read_until("ready")
        shown.type("\x03")
        shown.read_until("KeyboardInterrupt")
        shown.read_until("millstream: ")
        shown.read_until("code 130")


def test_ctrl_z_stops_it_and_fg_goes_on():
    program = """
        import os, sys
        print("pid", os.getpid(), "ready", flush=True)
        print("read", input())
        sys.exit(4)
    """
    write("app.py", program)
    with terminal("bash", "--norc", "--noprofile", "-i") as shown:
        shown.type(f"PS1='prompt> '; {COMMAND}\n")
        pid = int(shown.read_until(" ready").rpartition("pid ")[2])
        for _ in range(2):
            shown.type("\x1a")
            shown.read_until("Stopped")
            shown.read_until("prompt> ")
            assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            shown.type("fg\n")
            shown.read_until("app.py\r\n")
        shown.type("typed\n")
        shown.read_until("read typed")
        shown.read_until("millstream: ")
        shown.read_until("prompt> ")
        shown.type("echo code $?\n")
        shown.read_until("code 4")


def test_a_terminal_that_is_closed_hangs_up_the_program(place):
    program = """
        import os, signal, time
        def hung_up(number, frame):
            open("hung-up", "w").write("x")
            os._exit(0)
        signal.signal(signal.SIGHUP, hung_up)
        print("ready", flush=True)
        time.sleep(60)
    """
    write("app.py", program)
    with terminal(*RECORD, "--", sys.executable, "app.py") as shown:
        shown.read_until("ready\r\n")
    deadline = time.monotonic() + 20
    while not (place / "hung-up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
