"""CPU that an evaluation takes for each item beside that of its model calls."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.evaluation.workload import JUDGE, write_questions
from benchmarks.profiler.measured import ROOT


class Case(NamedTuple):
    """A workflow of `calls.py`, and what scores its answers."""

    title: str
    workflow: str
    evaluator: str


CASES: Final = (
    Case("no call, exact_match", "none", "exact_match"),
    Case("OpenAI client, exact_match", "openai", "exact_match"),
    Case("LangChain, exact_match", "langchain", "exact_match"),
    Case("no call, llm_judge", "none", JUDGE),
    Case("LangChain, llm_judge", "langchain", JUDGE),
)
_SMALL: Final = 10
"""Items of the runs whose CPU is taken off that of the larger ones."""


class Spent(NamedTuple):
    """CPU milliseconds an item, of one round."""

    engine: float
    profile: float
    calls: float


class Worker:
    """One process that takes items again and again (`worker.py`)."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def take(self, questions: Path) -> dict[str, float]:
        """The CPU seconds that the items of a file take."""
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("a worker has pipes")
        self._process.stdin.write(f"{questions}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} failed; what it said is above")
        figures: dict[str, float] = json.loads(line)
        return figures


def chosen(words: Sequence[str] | None) -> list[Case]:
    """The cases whose title holds one of the words; without words all."""
    return [case for case in CASES if not words or any(word in case.title for word in words)]


def lines(cases: Sequence[Case], items: int, concurrency: int, rounds: int, folder: Path) -> Iterator[str]:
    """The table, a line as soon as it is known: medians of the rounds, quartiles of the difference."""
    heads = f"{'asked, scored':>15}{'bare calls':>12}{'difference':>12}{'  (quartiles)':16}{'profile':>9}"
    yield f"{'CPU ms an item':28}{heads}"
    small, large = (folder / f"{size}.csv" for size in ("small", "large"))
    write_questions(small, _SMALL)
    write_questions(large, _SMALL + items)
    for case in cases:
        with ExitStack() as opened:
            engine, bare = (
                opened.enter_context(worker(kind, case, concurrency, folder)) for kind in ("engine", "bare")
            )
            for each in (engine, bare):
                each.take(small)  # imports and first calls do not count
            spent = [spent_in_a_round(engine, bare, small, large, items) for _ in range(rounds)]
        of_engine, of_profile, of_calls = (statistics.median(column) for column in zip(*spent, strict=True))
        beyond = [one.engine - one.calls for one in spent]
        low, middle, high = (
            statistics.quantiles(beyond, n=4, method="inclusive") if rounds > 1 else beyond * 3
        )
        quartiles = f"  ({low:.2f} to {high:.2f})"
        yield f"{case.title:28}{of_engine:15.2f}{of_calls:12.2f}{middle:12.2f}{quartiles:16}{of_profile:9.2f}"


def spent_in_a_round(engine: Worker, bare: Worker, small: Path, large: Path, items: int) -> Spent:
    """What the items take that only the larger run has; in turns, for a machine has fast and slow times."""
    before = engine.take(small)
    bare_before = bare.take(small)
    bare_after = bare.take(large)
    after = engine.take(large)
    scored_s = after["scored_s"] - before["scored_s"]
    whole_s = after["cpu_s"] - before["cpu_s"]
    return Spent(
        engine=1000 * scored_s / items,
        profile=1000 * (whole_s - scored_s) / items,
        calls=1000 * (bare_after["cpu_s"] - bare_before["cpu_s"]) / items,
    )


@contextmanager
def worker(kind: str, case: Case, concurrency: int, folder: Path) -> Iterator[Worker]:
    """A process for a case: of the kind `engine` or `bare`."""
    place = folder / f"{case.workflow}_{case.evaluator}_{kind}"
    place.mkdir()
    command = [
        *(sys.executable, "-m", "benchmarks.evaluation.worker", kind),
        *(case.workflow, case.evaluator, str(concurrency), str(place)),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Worker(process)
