"""`general.telemetry.logging`: where the log messages of a workflow go."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from millstream.deliver.file_path import why_not_writable
from millstream.deliver.options import raise_all
from millstream.errors import ConfigError
from millstream.workflow.config import LogConfig, WorkflowConfig
from millstream.workflow.validation import Problems

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_active: dict[LogConfig, tuple[logging.Handler, int]] = {}
"""Open destinations, and how many blocks use each."""
_level_before = [logging.WARNING]
"""The root logger's level before the first of them."""


@contextmanager
def log_messages(config: WorkflowConfig) -> Iterator[None]:
    """Send the messages of every logger to the destinations of a workflow file while the block runs.

    A destination that is open already is shared, so that nothing is written twice. Warnings of millstream
    itself go to standard error too where no destination is a console.

    Raises:
        ConfigError: a log file cannot be written; names the workflow file.
    """
    problems = Problems()
    destinations = config.general.telemetry.logging
    with problems.collect():
        check_destinations(destinations)
    problems.raise_if_any(str(config.path))
    root = logging.getLogger()
    if not _active:
        _level_before[0] = root.level
        if destinations and not root.handlers:  # else they have a place to go already
            logging.getLogger("millstream").addHandler(_OURS)
    opened: list[LogConfig] = []
    try:
        for name, destination in destinations.items():
            handler, users = _active.get(destination, (None, 0))
            if handler is None:
                handler = _handler(name, destination)
                root.addHandler(handler)
            _active[destination] = (handler, users + 1)
            opened.append(destination)
            root.setLevel(min(root.level or logging.WARNING, handler.level))
        yield
    finally:
        for destination in opened:
            handler, users = _active.pop(destination)
            if users > 1:
                _active[destination] = (handler, users - 1)
            else:
                root.removeHandler(handler)
                handler.close()
        if not _active:
            logging.getLogger("millstream").removeHandler(_OURS)
            root.setLevel(_level_before[0])


def check_destinations(destinations: Mapping[str, LogConfig]) -> None:
    """See that the files can be written, and write nothing.

    Raises:
        ConfigError: some cannot, one a line.
    """
    raise_all(
        [
            f"general.telemetry.logging.{name}.path: {problem}"
            for name, destination in destinations.items()
            if destination.path is not None and (problem := why_not_writable(destination.path))
        ]
    )


def _handler(name: str, destination: LogConfig) -> logging.Handler:
    handler: logging.Handler
    if destination.path is None:
        handler = _Console()
    else:
        try:
            destination.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "w" if destination.mode == "overwrite" else "a"
            handler = logging.FileHandler(destination.path, mode=mode, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"general.telemetry.logging.{name}.path: {destination.path} cannot be written:"
                f" {error.strerror}"
            ) from error
    handler.setLevel(destination.level)
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler


class _Console(logging.StreamHandler[TextIO]):
    """Standard error, as it is at the moment of the message."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Ours(_Console):
    """Warnings of ours, which a log file alone would hide from who runs the command."""

    def __init__(self) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        if all(destination.type == "file" for destination in _active):
            super().emit(record)


_OURS = _Ours()
