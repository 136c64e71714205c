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
_WELL_S: Final = 30.0
"""Without a failure: then an outage is over. Doubled each time."""
_LONGEST_WELL_S: Final = 600.0


class Announcing:
    """Says of one sink what its user is to know.

    Args:
        home: the folder of recordings.
        name: the sink's.
        may_be_removed: whether the journal has limits, so that what waits there may go unsent.
    """

    def __init__(self, home: Path, name: str, *, may_be_removed: bool = False) -> None:
        self._home = home
        self._name = name
        self._may_be_removed = may_be_removed
        self._said: Exception | None = None
        """The error that was said, until it is said that it is over."""
        self._since = 0.0
        """When that outage began."""
        self._well_since: float | None = None
        """Since when there was no failure, in an outage that was said."""
        self._well_s = _WELL_S
        self._rejected_said = 0
        self._cannot_said = False

    def look(self, backoff: Backoff, counts: Counts, now: float, left: Callable[[], int]) -> None:
        """After a step: say that an outage began, or that it is over, or that a span was rejected.

        One is over when the sink has been well for a while, and for longer after each, so that one that comes
        and goes is not told of each time.
        """
        error = backoff.error
        if error is None:
            self._look_if_over(now)
        else:
            self._well_since = None
            if self._is_news(backoff, error, now):
                self._say_outage(error, left())
                self._since = min(backoff.since, self._since or backoff.since)
        if counts.rejected and not self._rejected_said:
            self._rejected_said = sum(counts.rejected.values())
            _log.warning("millstream: %s rejected %s", self._name, self._rejected(counts))

    def _look_if_over(self, now: float) -> None:
        if self._said is None:
            return
        if self._well_since is None:
            self._well_since = now
        if now - self._well_since >= self._well_s:
            self._well_s = min(self._well_s * 2, _LONGEST_WELL_S)
            self._say_over(self._well_since)

    def _say_outage(self, error: Exception, left: int) -> None:
        self._said = error
        again = "when that is mended" if isinstance(error, RefusedError) else "when it is well again"
        unless = ", unless the limits of the journal remove them first" if self._may_be_removed else ""
        _log.warning(
            "millstream: %s gets nothing: %s; %s wait%s in %s, to be sent %s%s",
            self._name,
            error,
            _spans(left),
            "s" * (left == 1),
            shown(self._home),
            again,
            unless,
        )

    def _say_over(self, well_since: float | None) -> None:
        """It is over; since when is not known where that was seen at the end only."""
        lasted = "" if well_since is None else f", after an outage of {_duration(well_since - self._since)}"
        self._said, self._since, self._well_since = None, 0.0, None
        _log.warning("millstream: %s takes spans again%s", self._name, lasted)

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
                "millstream: %s not delivered to %s yet%s; %s in %s, and %s",
                f"{left:,} of {_spans(of)} {'is' if left == 1 else 'are'}",
                self._name,
                self._reason(why),
                "it is kept" if left == 1 else "they are kept",
                shown(self._home),
                _sends("the next run" if command is None else f"`{command}`", left),
            )
        elif self._said is not None and why is None:
            self._say_over(self._well_since)
        if rejected > self._rejected_said:
            who = f"`{command} --retry-rejected`"
            again = "" if command is None else f", and {_sends(who, rejected)} again"
            _log.warning("millstream: %s rejected %s%s", self._name, self._rejected(counts), again)

    def _is_news(self, backoff: Backoff, error: Exception, now: float) -> bool:
        if self._said is not None:
            return isinstance(error, RefusedError) and not isinstance(self._said, RefusedError)
        if isinstance(error, RefusedError):
            return True
        return backoff.failures >= _AFTER_FAILURES or now - backoff.since >= _AFTER_S

    def _reason(self, why: Exception | None) -> str:
        if why is not None and type(why) is type(self._said):
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
        return f"{_spans(number)} ({reasons}); {there} in {path}"


def shown(path: Path) -> str:
    """A path as a user would type it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # there is no working directory any more
        return str(path)
    return str(path) if relative.startswith("..") else relative


def _spans(count: int) -> str:
    return f"{count:,} span{'s' * (count != 1)}"


def _sends(who: str, count: int) -> str:
    return f"{who} sends {'it' if count == 1 else 'them'}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"  # noqa: PLR2004  # as people say it
