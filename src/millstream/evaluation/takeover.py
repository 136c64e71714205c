"""The output folder between two runs: it belongs to the earlier one until the next has a first result."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from millstream.evaluation.lines import Lines, open_lines
from millstream.evaluation.metadata import RUNNING, Metadata
from millstream.evaluation.outputs import remove_outputs, write_effective
from millstream.evaluation.results import RESULTS_FILE, ItemResult, set_aside
from millstream.evaluation.scores import SCORES_FILE
from millstream.evaluation.wording import counted


class Takeover:
    """Saves the results of a run; with the first, what an earlier run left gives way.

    Until then nothing in the folder changes, so that a run that comes to nothing (a server is down) leaves
    the earlier one whole.

    Args:
        folder: the output folder.
        metadata: its file; `content` describes the run.
        effective: the configuration to be written down.
        evaluators: names of the evaluators whose scores an earlier run may have left.
        resume: the earlier results stay, and the new ones are put after them.
        note: told where earlier results are now.
    """

    def __init__(
        self,
        folder: Path,
        metadata: Metadata,
        effective: dict[str, Any],
        *,
        evaluators: Collection[str],
        resume: bool,
        note: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._metadata = metadata
        self._effective = effective
        self._evaluators = evaluators
        self._resume = resume
        self._note = note
        self._file: Lines | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def save(self, result: ItemResult) -> int:
        """Keep one result.

        Returns:
            The offset of its line.

        Raises:
            StorageError: it cannot be written; what was saved before stays.
        """
        if self._file is None:
            if not self._resume:
                self._set_aside()
            remove_outputs(self._folder, self._evaluators)
            self._file = self._begin()
        return self._file.append(msgspec.to_builtins(result))

    def complete(self) -> None:
        """All are saved; where there was nothing to save, the run is written down now.

        Raises:
            StorageError: it cannot be written.
        """
        if self._file is None:
            if not self._resume:
                self._set_aside()
            self._begin()

    def _begin(self) -> Lines:
        write_effective(self._folder, self._effective)
        self._metadata.write(state=RUNNING)
        return self._stack.enter_context(open_lines(self._folder / RESULTS_FILE))

    def _set_aside(self) -> None:
        set_aside(self._folder / SCORES_FILE)
        earlier, place = set_aside(self._folder / RESULTS_FILE)
        if place is None:
            return
        if self._metadata.before.get("state") == RUNNING:
            self._note(
                f"An earlier run stopped after {counted(earlier, 'item')}; this one starts over. Its results "
                f"are now in {place}. With --resume it would have gone on."
            )
        else:
            self._note(f"The results of the earlier run ({counted(earlier, 'item')}) are now in {place}.")
