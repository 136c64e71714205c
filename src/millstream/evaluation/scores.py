"""`scores.jsonl`: what each evaluator said of each item, appended as it comes: none is asked twice."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import msgspec

from millstream.evaluation.lazy import Lazy
from millstream.evaluation.lines import NOWHERE, Lines, line_at, open_lines, read_lines
from millstream.evaluation.results import ItemResult, set_aside
from millstream.evaluation.scoring import ItemScore, is_missing
from millstream.evaluation.wording import counted
from millstream.workflow.answers import answer_of

SCORES_FILE: Final = "scores.jsonl"


class _Line(msgspec.Struct):
    """What a line has beside the score."""

    evaluator: str
    evaluator_fingerprint: str
    answer_fingerprint: str


class Scores:
    """The scores of one run: those of an earlier one that still hold, and new ones.

    Only offsets are in memory. A score holds while its evaluator and the answer that it judged are the same.

    Args:
        folder: the output folder.
        evaluators: the fingerprint of each, by name.
        count: how many results there are.
    """

    def __init__(self, folder: Path, evaluators: Mapping[str, str], count: int) -> None:
        self._path = folder / SCORES_FILE
        self._evaluators = evaluators
        self._count = count
        self._offsets = {name: array("q", [NOWHERE]) * count for name in evaluators}
        self._answers = {name: array("Q", [0]) * count for name in evaluators}
        self._asked = {name: array("q", [NOWHERE]) * count for name in evaluators}
        """Of the last lines of an earlier run, whether they hold or not."""
        self._lines: Lines | None = None
        self._stack = ExitStack()
        self._aside: Callable[[str], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_over(self, note: Callable[[str], None]) -> None:
        """Scores of an earlier run do not count: with the first new one they are renamed; `note` says so."""
        self._aside = note

    def keep(self, results: Sequence[ItemResult], *, missing: bool) -> None:
        """Take over what an earlier run has left.

        Args:
            results: what is to be scored.
            missing: whether missing scores are kept, too; else their evaluators are asked again.
        """
        places: dict[int, int] | None = None
        for offset, value in read_lines(self._path):
            try:
                line, score = msgspec.convert(value, _Line), msgspec.convert(value, ItemScore)
                answer = int(line.answer_fingerprint, 16)
            except (msgspec.ValidationError, ValueError):
                continue
            if places is None:
                places = {hash(result.key): place for place, result in enumerate(results)}
            place = places.get(hash((score.id, score.rep)))
            if place is None or self._evaluators.get(line.evaluator) != line.evaluator_fingerprint:
                continue
            holds = missing or not is_missing(score)
            self._offsets[line.evaluator][place] = offset if holds else NOWHERE
            self._answers[line.evaluator][place] = answer
            self._asked[line.evaluator][place] = offset

    def has(self, evaluator: str, place: int, answer: str) -> bool:
        """Whether there is a score of this evaluator for this answer.

        Args:
            evaluator: its name.
            place: of the result.
            answer: its fingerprint.
        """
        known = self._offsets[evaluator][place] != NOWHERE
        return known and self._answers[evaluator][place] == int(answer, 16)

    def add(self, evaluator: str, place: int, answer: str, score: ItemScore) -> None:
        """Write a score down.

        Raises:
            StorageError: it cannot be written; those before it stay.
        """
        score = msgspec.structs.replace(
            score, reasoning=answer_of(score.reasoning), earlier=self._traces(self._asked[evaluator][place])
        )
        line = _Line(evaluator, self._evaluators[evaluator], answer)
        if self._lines is None:
            self._lines = self._begin()
        self._offsets[evaluator][place] = self._lines.append(
            {"evaluator": evaluator, **msgspec.to_builtins(score), **msgspec.to_builtins(line)}
        )
        self._answers[evaluator][place] = int(answer, 16)

    def of(self, evaluator: str) -> Sequence[ItemScore]:
        """The scores of an evaluator in the order of the results, once all are there."""
        offsets = self._offsets[evaluator]
        if not self._count:
            return []
        file: BinaryIO = self._stack.enter_context(self._path.open("rb"))
        return Lazy(self._count, lambda place: msgspec.convert(line_at(file, offsets[place]), ItemScore))

    def _traces(self, offset: int) -> list[str]:
        """Of the model calls that led to a line of an earlier run."""
        if offset == NOWHERE:
            return []
        with self._path.open("rb") as file:
            return msgspec.convert(line_at(file, offset), ItemScore).traces

    def _begin(self) -> Lines:
        if self._aside is not None:
            earlier, place = set_aside(self._path)
            if place is not None:
                self._aside(f"The earlier scores ({counted(earlier, 'score')}) are now in {place}.")
        return self._stack.enter_context(open_lines(self._path))
