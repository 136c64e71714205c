"""What `millstream profile FILE --json` takes by the number of spans: the exponent says how it grows."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.profiler.measured import ROOT, measure


def lines(sizes: Sequence[int], rounds: int, folder: Path) -> Iterator[str]:
    """The table, a line as soon as it is known; medians of cold processes."""
    yield f"{'spans':>12}{'requests':>12}{'MB':>8}{'wall s':>10}{'CPU s':>10}{'peak MB':>10}{'exponent':>10}"
    before: tuple[int, float] | None = None
    for spans in sizes:
        path, printed = folder / f"{spans}.parquet", folder / "printed.json"
        generating = [sys.executable, "-m", "benchmarks.profiler.generate", str(path), str(spans)]
        requests = int(subprocess.check_output(generating, cwd=ROOT))
        profiling = [sys.executable, "-m", "millstream", "profile", str(path), "--json"]
        taken = [measure(profiling, printed) for _ in range(rounds)]
        found = json.loads(printed.read_bytes())
        if failed := [name for name, part in found.items() if isinstance(part, dict) and "error" in part]:
            raise SystemExit(f"an analysis failed: {failed[0]}: {found[failed[0]]}")
        wall_s, cpu_s, peak_mb = (statistics.median(column) for column in zip(*taken, strict=True))
        growth = "" if before is None else f"{math.log(cpu_s / before[1]) / math.log(spans / before[0]):.2f}"
        yield (
            f"{spans:12,}{requests:12,}{path.stat().st_size / 1e6:8.1f}"
            f"{wall_s:10.2f}{cpu_s:10.2f}{peak_mb:10.0f}{growth:>10}"
        )
        before = spans, cpu_s
        path.unlink()
