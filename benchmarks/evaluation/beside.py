"""The same run by `millstream eval`, inspect_ai and NAT, and the same calls without an engine."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.evaluation.workload import write_config, write_questions
from benchmarks.profiler.measured import ROOT, Stopped, Taken, measure

INSPECT_PYTHON: Final = ROOT / ".venv-bench-inspect" / "bin" / "python"
NAT_PYTHON: Final = ROOT / ".venv-bench-nat" / "bin" / "python"
OURS: Final = "millstream eval"
INSPECT: Final = "inspect_ai"
NAT: Final = "NAT"
BARE: Final = "the calls alone"
_LIMIT_S: Final = 600


class Subject(NamedTuple):
    """One that is measured.

    Attributes:
        name: in the table.
        command: what runs.
        missing: why it cannot run here; empty where it can.
        accuracy: reads it from its folder or from what it printed; `None` where it scores nothing.
    """

    name: str
    command: list[str | Path]
    missing: str
    accuracy: Callable[[Path], float | None]


def lines(
    items: int, concurrency: int, rounds: int, inspect_python: Path, nat_python: Path, folder: Path
) -> Iterator[str]:
    """The table, a line as soon as it is known; medians of whole processes."""
    questions = folder / "beside.csv"
    write_questions(questions, items)
    heads = f"{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'accuracy':>10}{'x wall':>9}{'x CPU':>8}{'x MB':>8}"
    yield f"{items:,} items{'':17}"[:24] + heads
    ours: Taken | None = None
    for subject in _subjects(questions, concurrency, inspect_python, nat_python, folder):
        taken, accuracy = _measured(subject, rounds, folder)
        if isinstance(taken, str):
            yield f"{subject.name:24}  {taken}"
            continue
        right = "-" if accuracy is None else f"{accuracy:.3f}"
        row = f"{subject.name:24}{taken.wall_s:9.2f}{taken.cpu_s:9.2f}{taken.peak_mb:9,.0f}{right:>10}"
        if ours is None:
            ours = taken
            yield row
        else:
            ratios = [theirs / mine for theirs, mine in zip(taken, ours, strict=True)]
            yield f"{row} " + "".join(f"{ratio:8.2f}" for ratio in ratios)


def _subjects(
    questions: Path, concurrency: int, inspect_python: Path, nat_python: Path, folder: Path
) -> list[Subject]:
    config = folder / "beside.yml"
    write_config(config, questions, "openai", "exact_match", concurrency)
    ours = [sys.executable, "-m", "millstream", "eval", "--config_file", config]
    inspect, nat = (
        [python, Path(__file__).with_name(script), questions, str(concurrency), folder / script]
        for python, script in ((inspect_python, "with_inspect.py"), (nat_python, "with_nat.py"))
    )
    bare = [sys.executable, "-m", "benchmarks.evaluation.bare", questions, "openai", str(concurrency)]
    scores = config.with_suffix("") / "exact_match_output.json"
    return [
        Subject(OURS, ours, "", lambda _: json.loads(scores.read_bytes())["average_score"]),
        Subject(INSPECT, inspect, _lacks(inspect_python, "inspect_ai"), _printed_accuracy),
        Subject(NAT, nat, _lacks(nat_python, "nat.plugins.eval"), _printed_accuracy),
        Subject(BARE, bare, "", lambda _: None),
    ]


def _printed_accuracy(printed: Path) -> float:
    return float(json.loads(printed.read_text(encoding="utf-8").splitlines()[-1])["accuracy"])


def _lacks(python: Path, module: str) -> str:
    try:
        subprocess.run([python, "-c", f"import {module}, openai"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"not installed: {module}"
    return ""


def _measured(subject: Subject, rounds: int, folder: Path) -> tuple[Taken | str, float | None]:
    if subject.missing:
        return subject.missing, None
    printed = folder / "printed"
    try:
        taken = [measure(subject.command, printed, limit_s=_LIMIT_S) for _ in range(rounds)]
    except Stopped as stopped:
        return str(stopped), None
    middle = Taken(*(statistics.median(column) for column in zip(*taken, strict=True)))
    return middle, subject.accuracy(printed)
