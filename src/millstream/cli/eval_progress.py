"""What `millstream eval` shows while it runs, on stderr: a bar in a terminal, else a line now and then."""

import time
from pathlib import Path
from typing import Final, Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from millstream.cli.eval_tables import one_line
from millstream.evaluation.results import RESULTS_FILE, ItemResult
from millstream.evaluation.scores import SCORES_FILE

_PLAIN_EVERY_S: Final = 10.0
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


class Pace:
    """How far it is, how fast it goes, and how long it will take.

    Args:
        what: is counted, in the plural.
        total: of them.
        done: those that were there before; they do not count for the rate.
        bad: what those are called that went wrong.
    """

    def __init__(self, what: str, total: int, done: int, bad: str) -> None:
        self.what = what
        self.total = total
        self.done = done
        self._bad = bad
        self._went_bad = self._new = 0
        self._began_s = time.monotonic()

    def count(self, *, bad: bool, new: bool = True) -> None:
        """One more is done."""
        self.done += 1
        self._new += new
        self._went_bad += bad

    @property
    def sentence(self) -> str:
        """Such as `120 of 500 items, 3 failed, 4.2 a second, 90 s left`."""
        return ", ".join([f"{self.done} of {self.total} {self.what}", *self.parts])

    @property
    def parts(self) -> list[str]:
        """What there is to say beside the numbers."""
        rate = self._new / max(time.monotonic() - self._began_s, 1e-9)
        bad = [f"{self._went_bad} {self._bad}"] if self._went_bad else []
        if not self._new:
            return bad
        shown = f"{rate:.3g} a second" if rate >= 1 else f"{rate * _MINUTE_S:.2g} a minute"
        return [*bad, shown, f"{_time((self.total - self.done) / rate)} left"]


def _time(time_s: float) -> str:
    if time_s < 2 * _MINUTE_S:
        return f"{time_s:.0f} s"
    return f"{time_s / _MINUTE_S:.0f} min" if time_s < 2 * _HOUR_S else f"{time_s / _HOUR_S:.1f} h"


class Shown:
    """Draws the progress of an evaluation.

    Args:
        verbose: a line for every item.
    """

    def __init__(self, *, verbose: bool) -> None:
        self._console = Console(stderr=True)
        self._verbose = verbose
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._asked: Pace | None = None
        self._scored: Pace | None = None
        self._said_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def started(self, total: int, done: int) -> None:
        """Draw the bar of the items."""
        if done:
            self._line(f"{done} of {total} items {'is' if done == 1 else 'are'} done already.")
        self._asked = Pace("items", total, done, "failed")
        self._draw(self._asked)

    def finished(self, result: ItemResult) -> None:
        """Move it."""
        if self._asked is None:
            return
        self._asked.count(bad=result.error is not None)
        if self._verbose:
            outcome = str(result.error) if result.error else "ok"
            self._line(f"{result.id}: {one_line(outcome)} ({result.runtime_s or 0:.2f} s)")
        self._moved(self._asked, plain=not self._verbose)

    def scoring(self, total: int) -> None:
        """Draw the bar of the scores."""
        self._scored = Pace("scores", total, 0, "missing")
        self._draw(self._scored)

    def scored(self, *, missing: bool, kept: bool) -> None:
        """Move it."""
        if self._scored is not None:
            self._scored.count(bad=missing, new=not kept)
            self._moved(self._scored, plain=True)

    def note(self, text: str) -> None:
        """Say it above the bar."""
        self._line(text)

    def phase(self, name: str) -> None:
        """Scores are there."""
        self.close()
        if self._console.is_terminal:
            self._line(f"{name} …")

    def interrupted(self, folder: Path) -> str:
        """What to say after a signal."""
        if self._scored is not None and not self._scored.done:
            return "Stopped before any score was there; the same command with --resume goes on."
        if self._scored is not None:
            return (
                f"Stopped after {self._scored.done} of {self._scored.total} scores. They are in "
                f"{folder / SCORES_FILE}; the same command with --resume goes on."
            )
        if self._asked is None:
            return "Stopped."
        if not self._asked.done:
            return "Stopped before any item was finished; nothing was written."
        return (
            f"Stopped after {self._asked.done} of {self._asked.total} items. Their results are in "
            f"{folder / RESULTS_FILE}; the same command with --resume goes on."
        )

    def _draw(self, pace: Pace) -> None:
        self.close()
        if self._console.is_terminal:
            columns = (
                TextColumn(pace.what),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[more]}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(pace.what, total=pace.total, completed=pace.done, more="")
            self._bar.start()
        self._said_s = time.monotonic()

    def _moved(self, pace: Pace, *, plain: bool) -> None:
        if self._bar:
            self._bar.update(self._task, completed=pace.done, more=", ".join(pace.parts))
        elif plain and time.monotonic() - self._said_s >= _PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            self._line(f"{pace.sentence}.")

    def _line(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(escape(text), highlight=False, soft_wrap=True)
        else:
            click.echo(text, err=True)
