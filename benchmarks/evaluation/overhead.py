"""CPU that an evaluation takes for each item beside that of its model calls."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.evaluation.workload import write_config, write_questions
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
    Case("LangChain, llm_judge", "langchain", "llm_judge"),
)


class Spent(NamedTuple):
    """CPU milliseconds an item, of one round."""

    engine: float
    profile: float
    calls: float


def chosen(words: Sequence[str] | None) -> list[Case]:
    """The cases whose title holds one of the words; without words all."""
    return [case for case in CASES if not words or any(word in case.title for word in words)]


def lines(cases: Sequence[Case], items: int, concurrency: int, rounds: int, folder: Path) -> Iterator[str]:
    """The table, a line as soon as it is known; medians of the rounds, and the least and most difference."""
    heads = f"{'asked, scored':>15}{'bare calls':>12}{'difference':>12}{'':15}{'profile':>9}"
    yield f"{'CPU ms an item':28}{heads}"
    sizes = max(items // 10, 1), items
    for size in sizes:
        write_questions(folder / f"{size}.csv", size)
    for case in cases:
        spent = [_spent(case, sizes, concurrency, folder) for _ in range(rounds)]
        engine, profile, calls = (statistics.median(column) for column in zip(*spent, strict=True))
        beyond = sorted(one.engine - one.calls for one in spent)
        spread = f" {beyond[0]:.2f} to {beyond[-1]:.2f}"
        middle = statistics.median(beyond)
        yield f"{case.title:28}{engine:15.2f}{calls:12.2f}{middle:12.2f}{spread:15}{profile:9.2f}"


def _spent(case: Case, sizes: tuple[int, int], concurrency: int, folder: Path) -> Spent:
    """What the items take that only the larger run has: imports and the first call do not count."""
    small, large = (_evaluated(case, size, concurrency, folder) for size in sizes)
    bare_small, bare_large = (_bare(case, size, concurrency, folder) for size in sizes)
    added = sizes[1] - sizes[0]
    scored_s, whole_s = large["scored_s"] - small["scored_s"], large["cpu_s"] - small["cpu_s"]
    return Spent(
        engine=1000 * scored_s / added,
        profile=1000 * (whole_s - scored_s) / added,
        calls=1000 * (bare_large - bare_small) / added,
    )


def _evaluated(case: Case, size: int, concurrency: int, folder: Path) -> dict[str, float]:
    config = folder / f"{case.workflow}_{case.evaluator}_{size}.yml"
    write_config(config, folder / f"{size}.csv", case.workflow, case.evaluator, concurrency)
    return _told(["-m", "benchmarks.evaluation.evaluated", str(config)])


def _bare(case: Case, size: int, concurrency: int, folder: Path) -> float:
    if case.workflow == "none":
        return 0.0
    command = [
        *("-m", "benchmarks.evaluation.bare"),
        *(str(folder / f"{size}.csv"), case.workflow, str(concurrency)),
        *(["judged"] if case.evaluator == "llm_judge" else []),
    ]
    return _told(command)["cpu_s"]


def _told(arguments: Sequence[str]) -> dict[str, float]:
    """The figures that a process prints last."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
