"""Tracebacks of a program under `millstream record` as Python prints them without it.

A framework's method that is recorded has a frame of ours around it. Where an exception that nobody caught is
about to be shown, those frames are taken out of it.
"""

import contextlib
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final

_OURS: Final = str(Path(__file__).absolute().parents[1] / "integrations")
_IMPORTING: Final = frozenset({"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"})


def hide_our_frames() -> None:
    """From now on, in this process; hooks of the program's own come before ours and lead to it."""
    sys.excepthook = _hiding(sys.excepthook)
    threading.excepthook = _hiding_in_thread(threading.excepthook)


def _hiding(show: Any) -> Any:
    def excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        with contextlib.suppress(Exception):  # then it is shown as it is
            _hide(error, set())
        show(kind, error, traceback if error.__traceback__ is None else error.__traceback__)

    return excepthook


def _hiding_in_thread(show: Any) -> Any:
    def excepthook(args: Any) -> None:
        with contextlib.suppress(Exception):
            _hide(args.exc_value, set())
        show(args)

    return excepthook


def _hide(error: BaseException | None, seen: set[int]) -> None:
    """Take our frames out of an exception and of those that it came from."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    error.__traceback__ = without_ours(error.__traceback__)
    _hide(error.__cause__, seen)
    _hide(error.__context__, seen)
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        _hide(part, seen)


def without_ours(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without our frames, and without those of an import that ours keep Python from hiding."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    files = [frame.tb_frame.f_code.co_filename for frame in frames]
    ours = {
        at for at, file in enumerate(files[:-1]) if file.startswith(_OURS)
    }  # the last one is where it arose
    for step in (-1, 1):
        for at in sorted(ours, reverse=step < 0):
            beside = at + step
            while 0 <= beside < len(files) - 1 and files[beside] in _IMPORTING:
                ours.add(beside)
                beside += step
    kept = [frame for at, frame in enumerate(frames) if at not in ours]
    for at, frame in enumerate(kept):
        frame.tb_next = kept[at + 1] if at + 1 < len(kept) else None
    return kept[0] if kept else None
