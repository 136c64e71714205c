"""How an evaluation tells what it is doing; the command line draws it."""

from typing import Protocol

from millstream.evaluation.results import ItemResult


class Progress(Protocol):
    """Called on the thread of the evaluation; must not block."""

    def started(self, total: int, done: int) -> None:
        """Items are about to be asked.

        Args:
            total: items times repetitions.
            done: those that an earlier run finished.
        """
        ...

    def finished(self, result: ItemResult) -> None:
        """One item has its answer or has failed, and is saved."""
        ...

    def scoring(self, total: int) -> None:
        """Evaluators are about to be asked.

        Args:
            total: evaluators times results.
        """
        ...

    def scored(self, *, missing: bool, kept: bool) -> None:
        """One score is there.

        Args:
            missing: whether its evaluator has nothing to say.
            kept: whether an earlier run has made it.
        """
        ...

    def note(self, text: str) -> None:
        """Something that the user should know; one sentence."""
        ...

    def phase(self, name: str) -> None:
        """What comes next: `profiling`."""
        ...


class Silent:
    """Draws nothing."""

    def started(self, total: int, done: int) -> None:
        """Nothing."""

    def finished(self, result: ItemResult) -> None:
        """Nothing."""

    def scoring(self, total: int) -> None:
        """Nothing."""

    def scored(self, *, missing: bool, kept: bool) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def phase(self, name: str) -> None:
        """Nothing."""
