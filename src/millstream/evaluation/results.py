"""`results.jsonl`: what became of each item, appended as it finishes, and read back by `--resume`."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from millstream.evaluation.files import cannot_write
from millstream.evaluation.lines import line_at, read_lines

RESULTS_FILE: Final = "results.jsonl"


class ItemError(msgspec.Struct, frozen=True):
    """Why an item has no answer: the exception's type name and its message."""

    type: str
    message: str

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Attempt(msgspec.Struct, frozen=True):
    """That an item was asked: its trace, and when, in Unix nanoseconds."""

    trace_id: str
    start_ns: int | None


class ItemResult(msgspec.Struct, frozen=True, omit_defaults=True):
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
        earlier: the attempts before this one, which do not count any more; what they used was used.
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
    earlier: list[Attempt] = []

    @property
    def key(self) -> tuple[str, int]:
        """What makes it one of a kind."""
        return self.id, self.rep

    @property
    def attempts(self) -> list[Attempt]:
        """All that were recorded, this one last."""
        this = [] if self.trace_id is None else [Attempt(self.trace_id, self.start_ns)]
        return [*self.earlier, *this]

    @property
    def traces(self) -> list[str]:
        """Theirs."""
        return [attempt.trace_id for attempt in self.attempts]


def read_results(path: Path) -> Iterator[tuple[int, ItemResult]]:
    """Every result in the file with the offset of its line; of two of one key the later one counts."""
    for offset, value in read_lines(path):
        try:
            yield offset, msgspec.convert(value, ItemResult)
        except msgspec.ValidationError:
            continue


def result_at(file: BinaryIO, offset: int, index: int) -> ItemResult:
    """The result of a line, as that of the item that is now at this place of the dataset."""
    return msgspec.structs.replace(msgspec.convert(line_at(file, offset), ItemResult), index=index)


def set_aside(path: Path) -> tuple[int, Path | None]:
    """Rename an earlier run's results or scores to `<name>.previous.jsonl`, or to the next number.

    None is replaced.

    Returns:
        How many lines there were, and where they are; `None` when there was nothing.
    """
    earlier = len(
        {
            (line.get("evaluator"), line.get("id"), line.get("rep"))
            for _, line in read_lines(path)
            if isinstance(line, dict)
        }
    )
    try:
        if not path.exists() or not path.stat().st_size:
            return 0, None
        place = next(place for place in _previous(path) if not place.exists())
        path.replace(place)
    except OSError as error:
        raise cannot_write(path, error) from error
    return earlier, place


def _previous(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.stem}.previous.jsonl")
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}.previous.{number}.jsonl")
