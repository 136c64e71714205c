"""`results.jsonl`: what became of each item, appended as it finishes, and read back by `--resume`."""

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.evaluation.files import cannot_write, json_bytes

RESULTS_FILE: Final = "results.jsonl"


class ItemError(msgspec.Struct, frozen=True):
    """Why an item has no answer: the exception's type name and its message."""

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class ItemResult(msgspec.Struct, frozen=True):
    """One finished item, one line of the file.

    Attributes:
        id: of the dataset's row.
        rep: which repetition, from 1.
        index: the item's place in the dataset, from 0.
        question: what was asked.
        expected: the right answer; `None` where the dataset has none.
        answer: what the workflow answered; `None` when it failed.
        error: why it failed; `None` when it did not.
        trace_id: of the recorded spans; `None` for an item that was not asked here.
        start_ns: when it was asked, Unix nanoseconds; `None` likewise.
        runtime_s: from asking to the answer or the failure, what millstream itself does with it included;
            `None` likewise.
    """

    id: str
    rep: int
    index: int
    question: Any
    expected: Any
    answer: Any
    error: ItemError | None
    trace_id: str | None
    start_ns: int | None
    runtime_s: float | None

    @property
    def key(self) -> tuple[str, int]:
        """What makes it one of a kind."""
        return self.id, self.rep


class ResultsFile:
    """Appends results, each in one whole line."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def append(self, result: ItemResult) -> None:
        """Write one line.

        Raises:
            StorageError: it cannot be written; the lines before it stay.
        """
        line = json_bytes(msgspec.to_builtins(result)) + b"\n"
        size = os.fstat(self._descriptor).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            if written:
                os.ftruncate(self._descriptor, size)
            raise cannot_write(self._path, error) from error


@contextmanager
def open_results(path: Path) -> Iterator[ResultsFile]:
    """Open the file for appending; half a line at its end, of a killed run, is taken away."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, whole)
        yield ResultsFile(path, descriptor)
    finally:
        os.close(descriptor)


def read_results(path: Path) -> dict[tuple[str, int], ItemResult]:
    """The last result of each item and repetition. Lines that are not whole are passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            result = msgspec.convert(json.loads(line), ItemResult)
        except (ValueError, msgspec.ValidationError):
            continue
        found[result.key] = result
    return found


def set_aside(path: Path) -> tuple[int, Path | None]:
    """Rename an earlier run's results to `results.previous.jsonl`, or to the next number: none is replaced.

    Returns:
        How many there were, and where they are; `None` when there was nothing.
    """
    earlier = len(read_results(path))
    try:
        if not path.exists() or not path.stat().st_size:
            return 0, None
        place = next(place for place in _previous(path) if not place.exists())
        path.replace(place)
    except OSError as error:
        raise cannot_write(path, error) from error
    return earlier, place


def _previous(path: Path) -> Iterator[Path]:
    yield path.with_name("results.previous.jsonl")
    for number in itertools.count(2):
        yield path.with_name(f"results.previous.{number}.jsonl")
