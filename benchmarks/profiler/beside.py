"""Millstream, straightforward pandas and NAT's ProfilerRunner on the same requests, in one run."""

import importlib.util
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from benchmarks.profiler import agreement
from benchmarks.profiler.measured import ROOT, Stopped, Taken, measure

NAT_PYTHON: Final = ROOT / ".venv-bench-nat" / "bin" / "python"
OURS: Final = "millstream profile --output_dir"
PANDAS: Final = "pandas"
NAT: Final = "NAT ProfilerRunner"
_SCRIPTS: Final = Path(__file__).parent


@dataclass
class Subject:
    """One that is measured.

    Attributes:
        name: in the table.
        command: what runs, given the folder of the requests and a folder for its files.
        missing: why it cannot run here; empty where it can.
        rounds: how often; the median counts.
        taken: by number of requests, what it took, or how it was stopped.
    """

    name: str
    command: Callable[[Path, Path], list[str | Path]]
    missing: str
    rounds: int
    taken: dict[int, Taken | str] = field(default_factory=dict)


def subjects(rounds: int, nat_python: Path) -> list[Subject]:
    """Those of the table, Millstream first."""
    ours: list[str | Path] = [sys.executable, "-m", "millstream", "profile"]
    no_pandas = "" if importlib.util.find_spec("pandas") else "not installed: pandas"
    return [
        Subject(OURS, lambda given, out: [*ours, given / "spans.parquet", "--output_dir", out], "", rounds),
        Subject(
            "millstream profile --json",
            lambda given, _: [*ours, given / "spans.parquet", "--json"],
            "",
            rounds,
        ),
        Subject(
            PANDAS,
            lambda given, _: [sys.executable, _SCRIPTS / "with_pandas.py", given / "spans.parquet"],
            no_pandas,
            rounds,
        ),
        Subject(
            NAT,
            lambda given, out: [nat_python, _SCRIPTS / "with_nat.py", given / "steps.json", out],
            _no_nat(nat_python),
            1,
        ),
    ]


def _no_nat(python: Path) -> str:
    try:
        subprocess.run(
            [python, "-c", "import nat.plugins.profiler.profile_runner"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "not installed: nvidia-nat-profiler"
    return ""


def lines(
    sizes: Sequence[int], chosen: Sequence[Subject], folder: Path, *, limit_s: float, limit_mb: float
) -> Iterator[str]:
    """The table, a line as soon as it is known, and whether the figures agree."""
    heads = f"{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'exponent':>10}{'x wall':>9}{'x CPU':>8}{'x MB':>8}"
    yield f"{'requests':>9}{'spans':>9}  {'':33}{heads}"
    for requests in sizes:
        given = folder / str(requests)
        given.mkdir()
        making = [sys.executable, "-m", "benchmarks.profiler.requests", str(given), str(requests)]
        subprocess.run(making, cwd=ROOT, check=True)
        for subject in chosen:
            if not subject.missing and not _was_stopped(subject):
                subject.taken[requests] = _measured(subject, given, requests, limit_s, limit_mb)
            yield _row(subject, requests, chosen[0])
    yield ""
    yield from _agreement(sizes, {subject.name: subject for subject in chosen}, folder)


def _measured(subject: Subject, given: Path, requests: int, limit_s: float, limit_mb: float) -> Taken | str:
    out = files(given.parent, subject.name, requests)
    out.mkdir()
    try:
        rounds = [
            measure(subject.command(given, out), out / "printed", limit_s=limit_s, limit_mb=limit_mb)
            for _ in range(subject.rounds)
        ]
    except Stopped as stopped:
        return str(stopped)
    return Taken(*(statistics.median(column) for column in zip(*rounds, strict=True)))


def files(folder: Path, name: str, requests: int) -> Path:
    """Where a subject leaves its files."""
    return folder / f"{name.replace(' ', '_')}_{requests}"


def _was_stopped(subject: Subject) -> bool:
    """Whether it came to a limit with fewer requests."""
    return any(isinstance(taken, str) for taken in subject.taken.values())


def _row(subject: Subject, requests: int, first: Subject) -> str:
    head = f"{requests:9,}{requests * 20:9,}  {subject.name:33}"
    taken = subject.taken.get(requests, subject.missing or "not tried: stopped with fewer")
    if isinstance(taken, str):
        return f"{head}  {taken}"
    figures = f"{taken.wall_s:9.2f}{taken.cpu_s:9.2f}{taken.peak_mb:9,.0f}{_exponent(subject, requests):>10}"
    ours = first.taken.get(requests)
    if subject is first or not isinstance(ours, Taken):
        return head + figures
    ratios = [theirs / mine for theirs, mine in zip(taken, ours, strict=True)]
    return f"{head}{figures} " + "".join(f"{ratio:8.2f}" for ratio in ratios)


def _exponent(subject: Subject, requests: int) -> str:
    """Of the CPU time that the last requests added to that of those before them: imports do not count."""
    sizes = [size for size in subject.taken if size <= requests][-3:]
    took_s = [taken.cpu_s for size in sizes if isinstance(taken := subject.taken[size], Taken)]
    if len(took_s) < 3:
        return ""
    added_s, added = [b - a for a, b in pairwise(took_s)], [b - a for a, b in pairwise(sizes)]
    if min(added_s) <= 0:
        return "-"
    return f"{math.log(added_s[1] / added_s[0]) / math.log(added[1] / added[0]):.2f}"


def _agreement(sizes: Sequence[int], by_name: dict[str, Subject], folder: Path) -> Iterator[str]:
    """At the largest size that pandas and Millstream finished, and at the largest that NAT did, too."""

    def finished(*names: str) -> int | None:
        done = [
            size
            for size in sizes
            if all(name in by_name and isinstance(by_name[name].taken.get(size), Taken) for name in names)
        ]
        return done[-1] if done else None

    of_two, of_three = finished(PANDAS, OURS), finished(PANDAS, OURS, NAT)
    for size in sorted({of_two, of_three} - {None}):
        yield f"{size:,} requests:"
        yield from agreement.lines(
            agreement.of_pandas(files(folder, PANDAS, size)),
            agreement.of_millstream(files(folder, OURS, size)),
            agreement.of_nat(files(folder, NAT, size)) if size == of_three else None,
        )
