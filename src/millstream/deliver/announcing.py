"""What a user is told of a sink, in plain sentences: once an outage, and at the end what is left."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from millstream.deliver.backoff import Backoff
from millstream.deliver.cursor import Busy, Counts
from millstream.deliver.dead_letters import dead_letter_path
from millstream.errors import RefusedError

_log: Final = logging.getLogger("millstream.deliver")
_AFTER_FAILURES: Final = 3
"""In a row: then it is no hitch."""
_AFTER_S: Final = 5.0


class Announcing:
    """Says of one sink what its user is to know."""

    def __init__(self, home: Path, name: str) -> None:
        self._home = home
        self._name = name
        self._said: Exception | None = None
        """The error that was said, while it lasts."""
        self._rejected_said = 0
        self._cannot_said = False

    def look(self, backoff: Backoff, counts: Counts, now: float, left: Callable[[], int]) -> None:
        """After a step: say that an outage began, or that it is over, or that a span was rejected."""
        error = backoff.error
        if error is None:
            if self._said is not None:
                self._said = None
                _log.warning(
                    "millstream: %s takes spans again, after %s", self._name, _duration(now - backoff.since)
                )
        elif self._is_news(backoff, error, now):
            self._said = error
            again = "when that is mended" if isinstance(error, RefusedError) else "when it is well again"
            _log.warning(
                "millstream: %s gets nothing: %s; %s kept in %s, and sent %s",
                self._name,
                error,
                _waiting(left()),
                shown(self._home),
                again,
            )
        if counts.rejected and not self._rejected_said:
            self._rejected_said = sum(counts.rejected.values())
            _log.warning("millstream: %s rejected %s", self._name, self._rejected(counts))

    def cannot(self, error: Exception | None) -> None:
        """Nothing can be delivered at all."""
        if not self._cannot_said:
            self._cannot_said = True
            _log.warning("millstream: nothing is delivered to %s: %s", self._name, error)

    def last_words(self, left: int, why: Exception | None, counts: Counts, config_file: Path | None) -> None:
        """At the end: what is left and why, and what was rejected; nothing where all is well.

        Args:
            left: spans that are not settled.
            why: what the sink said last; `None` where it only was not done in time.
            counts: what became of the others.
            config_file: that `millstream ship` takes.
        """
        command = None if config_file is None else f"millstream ship --config_file {config_file}"
        rejected = sum(counts.rejected.values())
        if left:
            of = left + counts.sent + counts.skipped + rejected + sum(counts.dropped.values())
            _log.warning(
                "millstream: %s for %s%s; they are kept in %s%s",
                _waiting(left, of),
                self._name,
                self._reason(why),
                shown(self._home),
                "; the next run sends them" if command is None else f": {command} sends them",
            )
        if rejected > self._rejected_said:
            again = "" if command is None else f": {command} --retry-rejected sends them again"
            _log.warning("millstream: %s rejected %s%s", self._name, self._rejected(counts), again)

    def _is_news(self, backoff: Backoff, error: Exception, now: float) -> bool:
        if self._said is not None:
            return isinstance(error, RefusedError) and not isinstance(self._said, RefusedError)
        if isinstance(error, RefusedError):
            return True
        return backoff.failures >= _AFTER_FAILURES or now - backoff.since >= _AFTER_S

    def _reason(self, why: Exception | None) -> str:
        if self._said is not None and (why is None or type(why) is type(self._said)):
            return ""  # it was said
        if isinstance(why, Busy):
            return " (another process delivers there, and has not sent them yet)"
        return " (there was no time for more)" if why is None else f" ({why})"

    def _rejected(self, counts: Counts) -> str:
        """How many spans, why, and where they are."""
        number = sum(counts.rejected.values())
        reason, _ = max(counts.rejected.items(), key=lambda item: item[1])
        others = len(counts.rejected) - 1
        reasons = reason if not others else f"{reason}, and for {others} other reason{'s' * (others > 1)}"
        there = "it is" if number == 1 else "they are"
        path = shown(dead_letter_path(self._home, self._name))
        return f"{number:,} span{'s' * (number != 1)} ({reasons}); {there} in {path}"


def shown(path: Path) -> str:
    """A path as a user would type it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # there is no working directory any more
        return str(path)
    return str(path) if relative.startswith("..") else relative


def _waiting(count: int, of: int | None = None) -> str:
    total = "" if of is None else f" of {of:,}"
    return f"{count:,}{total} span{'s' * (count != 1)} wait{'s' * (count == 1)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004  # as people say it
