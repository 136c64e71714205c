"""The answers that a judge compares with: a column of the dataset, or what another run answered."""

from pathlib import Path
from typing import Any

import msgspec

from millstream.errors import ConfigError, InputError
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.run_folder import EarlierAnswer, read_answers


class Other(msgspec.Struct, frozen=True):
    """The other answer to one item.

    Attributes:
        answer: `None` where there is none.
        failed: why the other run has none: it failed on this item.
        absent: why there is nothing to compare with.
    """

    answer: Any = None
    failed: str | None = None
    absent: str | None = None


class OtherAnswers:
    """The other answers.

    Args:
        compare_to: with a `/` in it the output folder of a run, relative to the working directory; else the
            name of a column.
        where: path of the evaluator in the workflow file, for errors.

    Raises:
        ConfigError: the folder holds no answers.
    """

    def __init__(self, compare_to: str, where: str) -> None:
        self._name = compare_to
        self._no_column = (
            f"the dataset has nothing in column {compare_to!r} for this item"
            f" (a folder is written ./{compare_to})"
        )
        self._of_run: dict[tuple[str, int], EarlierAnswer] | None = None
        if "/" in compare_to:
            try:
                self._of_run = read_answers(Path(compare_to))
            except InputError as error:
                raise ConfigError(f"{where}.compare_to: {error}") from error

    def of(self, item: EvalItem) -> Other:
        """The other answer to an item; of a run without its repetition, the first one."""
        if self._of_run is None:
            answer = item.row.get(self._name)
            return Other(answer) if answer is not None else Other(absent=self._no_column)
        other = self._of_run.get((item.id, item.rep)) or self._of_run.get((item.id, 1))
        if other is None:
            return Other(absent=f"the run in {self._name} has no such item")
        if other.question is not None and other.question != item.question:
            return Other(absent=f"the run in {self._name} was asked another question")
        if other.error is not None:
            return Other(failed=other.error)
        if other.answer is None:
            return Other(absent=f"the run in {self._name} has no answer to this item")
        return Other(other.answer)
