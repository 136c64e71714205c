"""A command run as a shell would have run it in our place: its terminal, its signals, its end are its own."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Final

_OF_KEYS: Final = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP})
"""What a terminal sends, for a key, to the command as well as to us."""
_FORWARDED: Final = _OF_KEYS | {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_AWAITED: Final = _FORWARDED | {signal.SIGCHLD}
_STOPS: Final = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


class Process:
    """A command that runs in our process group. Until `wait` returns, it is the one that signals are for.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nobody learns how a child ended
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        try:
            self._pid = os.posix_spawnp(
                command[0],
                command,
                environment,
                setsigmask=self._mask,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
            )
        except BaseException:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            raise

    def wait(self) -> int:
        """Hand on the signals that only we are sent, stop and continue with the command, until it ends.

        Returns:
            How it ended, as `os.waitpid` says it.
        """
        try:
            return _wait(self._pid)
        finally:
            while signal.sigpending() & _FORWARDED:  # they were for the command, which has ended
                signal.sigwait(_FORWARDED)
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _wait(pid: int) -> int:
    while True:
        number, is_shared = _next_signal(pid)
        if number != signal.SIGCHLD:
            if not is_shared:
                os.kill(pid, number)
            continue
        changed, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if changed and not os.WIFSTOPPED(status):
            return status
        if changed and os.WSTOPSIG(status) in _STOPS:
            _stop(os.WSTOPSIG(status))
            os.kill(pid, signal.SIGCONT)


def _next_signal(pid: int) -> tuple[int, bool]:
    """A signal that we were sent, and whether the command was sent it, too."""
    if not hasattr(signal, "sigwaitinfo"):  # macOS, which does not tell who sends
        number = signal.sigwait(_AWAITED)
        return number, number in _OF_KEYS
    info = signal.sigwaitinfo(_AWAITED)
    by_kernel = info.si_code > 0
    return info.si_signo, info.si_signo in _OF_KEYS if by_kernel else info.si_pid == pid


def _stop(number: int) -> None:
    """Stop as the command has, so that the shell takes the terminal back; returns when we are continued."""
    os.kill(os.getpid(), number)  # while it is blocked: the terminal's own may be waiting, too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number} & _AWAITED)


def end_like(status: int) -> int:
    """The command's exit code; where a signal ended it, the same signal ends us here."""
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = os.WTERMSIG(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it
            stream.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core that was dumped is the command's
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number  # the first process of a container lives through it
