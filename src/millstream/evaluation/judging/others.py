"""The answers that a judge compares with: a column of the dataset, or what another run answered."""

from pathlib import Path
from typing import Any

import msgspec

from millstream.errors import ConfigError, InputError
from millstream.evaluation.evaluators.base import Binding, EvalItem
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
        binding: of the evaluator.

    Raises:
        ConfigError: the folder holds no answers, or it is the one that this run writes to.
    """

    def __init__(self, compare_to: str, binding: Binding) -> None:
        self._name = compare_to
        self._no_column = (
            f"the dataset has nothing in column {compare_to!r} for this item"
            f" (a folder is written ./{compare_to})"
        )
        self._of_run: dict[tuple[str, int], EarlierAnswer] | None = None
        if "/" in compare_to:
            self._of_run = _answers(Path(compare_to), binding)

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


def _answers(folder: Path, binding: Binding) -> dict[tuple[str, int], EarlierAnswer]:
    where = f"{binding.where}.compare_to"
    if folder.resolve() == binding.output_dir.resolve():
        raise ConfigError(
            f"{where}: this run writes to {folder} itself; choose another eval.general.output_dir, or copy "
            "the folder and name the copy"
        )
    try:
        return read_answers(folder)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from error
