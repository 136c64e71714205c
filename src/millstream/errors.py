"""The tree of errors. Each says what is wrong and what to do about it.

MillstreamError
├── ConfigError (ValueError)            a workflow file, an option or an environment variable is wrong
├── InputError (ValueError)             a dataset, a column, a trace file or an argument is wrong
├── MissingExtraError (ImportError)     an optional dependency is not installed; names the extra
├── WorkflowError (RuntimeError)        a workflow could not do its work
│   ├── StepLimitError                  an agent reached max_iterations without an answer
│   ├── FunctionTimeoutError (TimeoutError) a function ran past its `timeout_s`          [transient]
│   ├── ItemTimeoutError (TimeoutError) an item ran past `timeout_s`                     [transient]
│   └── RunTimeoutError (TimeoutError)  an evaluation ran past `run_timeout_s`           [transient]
├── UnreachableError (ConnectionError)  a server that is needed does not answer         [transient]
├── RefusedError (PermissionError)      a server answers, and takes nothing until somebody mends something
└── StorageError (OSError)              the journal or an output file cannot be written

`exit_code` is what the command line exits with; `transient` says whether trying again can help.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar


class MillstreamError(Exception):
    """Root of every error that millstream raises on purpose.

    Attributes:
        file: the workflow file that it is about, where the message does not name it.
    """

    exit_code: ClassVar[int] = 2
    transient: ClassVar[bool] = False
    file: Path | None = None

    @property
    def told(self) -> str:
        """The message, with the file in front."""
        return str(self) if self.file is None else titled(str(self.file), str(self).splitlines())


class ConfigError(MillstreamError, ValueError):
    """A workflow file, an option or an environment variable is wrong."""


class InputError(MillstreamError, ValueError):
    """A dataset, a column, a trace file or an argument is wrong."""


class MissingExtraError(MillstreamError, ImportError):
    """An optional dependency is not installed.

    Args:
        feature: what was asked for, as the subject of a sentence.
        extra: the extra of this package that brings it.
    """

    exit_code = 4

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra [{extra}]: pip install 'millstream[{extra}]'")
        self.extra = extra


class WorkflowError(MillstreamError, RuntimeError):
    """A workflow could not do its work."""

    exit_code = 3


class StepLimitError(WorkflowError):
    """An agent reached `max_iterations` without an answer."""


class FunctionTimeoutError(WorkflowError, TimeoutError):
    """A function of a workflow file ran past its `timeout_s`."""

    transient = True


class ItemTimeoutError(WorkflowError, TimeoutError):
    """An item ran past `timeout_s`."""

    transient = True


class RunTimeoutError(WorkflowError, TimeoutError):
    """An evaluation ran past `run_timeout_s`; what is done is kept."""

    transient = True


class UnreachableError(MillstreamError, ConnectionError):
    """A server that is needed does not answer, or cannot now.

    Args:
        message: what does not answer, and what to do.
        retry_after_s: seconds that the server asked to wait.
        says_later: the server answered, and says that it takes nothing now, whatever is sent.
    """

    exit_code = 4
    transient = True

    def __init__(
        self, message: str = "", retry_after_s: float | None = None, *, says_later: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.says_later = says_later


class RefusedError(MillstreamError, PermissionError):
    """A server answers, and takes nothing until somebody mends credentials, a certificate or a mapping."""

    exit_code = 4


class StorageError(MillstreamError, OSError):
    """The journal or an output file cannot be written."""

    exit_code = 4


def titled(title: str, problems: Sequence[str]) -> str:
    """Problems of a file: after its path, or below it where there are several."""
    if len(problems) == 1:
        return f"{title}: {problems[0]}"
    return f"{title} has {len(problems)} problems:\n" + "\n".join(f"  {line}" for line in problems)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a name that is not known: `; did you mean 'x'? Known: x, y`, or `; known: x, y`."""
    import difflib  # noqa: PLC0415  # few programs make a mistake

    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not close:  # the right words with something around them
        close = [name for name in names if name in word or word in name][:1]
    hint = f"; did you mean {close[0]!r}? Known" if close else "; known"
    return f"{hint}: {', '.join(names) if names else 'none'}"
