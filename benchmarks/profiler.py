"""What `millstream profile FILE --json` takes: wall time, CPU, peak memory, and how they grow with the spans.

    .venv/bin/python -m benchmarks.profiler [--spans 10000,100000,1000000] [--rounds 3]

Each figure is the median of cold processes, which read a Parquet file of spans and print all findings.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.profiler_generate import generate


class Taken(NamedTuple):
    """Seconds of wall time and of CPU, and megabytes at the highest, of one process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(path: Path) -> Taken:
    """Run the command on a file, in a process that does nothing else."""
    code = (
        "import json, resource, sys\n"
        "from millstream.cli import main\n"
        "try: main(['profile', sys.argv[1], '--json'])\n"
        "except SystemExit as end:\n"
        "    if end.code: raise\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]), file=sys.stderr)\n"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    if any("error" in part for part in found.values() if isinstance(part, dict)):
        raise SystemExit(f"an analysis failed: {done.stdout[:2000]}")
    cpu_s, peak_mb = json.loads(done.stderr.splitlines()[-1])
    return Taken(wall_s, cpu_s, peak_mb)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--spans", default="10000,100000,1000000", help="numbers of spans, ascending")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {options.rounds} rounds, medians\n")
    print(f"{'spans':>12}{'requests':>12}{'MB':>8}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'exponent':>10}")
    before: tuple[int, float] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for spans in map(int, options.spans.split(",")):
            path = Path(folder) / f"{spans}.parquet"
            requests = generate(path, spans)
            taken = [measure(path) for _ in range(options.rounds)]
            wall_s, cpu_s, peak_mb = (statistics.median(column) for column in zip(*taken, strict=True))
            growth = (
                "" if before is None else f"{math.log(cpu_s / before[1]) / math.log(spans / before[0]):.2f}"
            )
            size_mb = path.stat().st_size / 1e6
            print(
                f"{spans:12,}{requests:12,}{size_mb:8.1f}{wall_s:10.2f}{cpu_s:10.2f}{peak_mb:10.0f}{growth:>10}",
                flush=True,
            )
            before = spans, cpu_s
            path.unlink()


if __name__ == "__main__":
    main()
