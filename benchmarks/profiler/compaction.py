"""How fast a journal becomes Parquet: spans a second of one core, recorded by the library itself."""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.profiler.measured import ROOT

RECORD = """
import sys
from pathlib import Path
from millstream import SpanKind, Usage, recording, start_span

model = {"gen_ai.request.model": "gpt-large", "gen_ai.provider.name": "openai", "own": 0.2}
with recording(home=Path(sys.argv[1])):
    for number in range(int(sys.argv[2]) // 13):
        with start_span("support", kind=SpanKind.WORKFLOW) as request:
            request.input = {"question": f"What is the state of order {number}?"}
            for step in range(6):
                with start_span("gpt-large", kind=SpanKind.LLM, attributes=model) as call:
                    call.input = [
                        {"role": "system", "content": "You are a helpful assistant of a shop. Answer short."},
                        {"role": "user", "content": f"What is the state of order {number}, step {step}?"},
                    ]
                    call.set_output({"role": "assistant", "content": "Sent on Monday, it comes on Thursday."})
                    call.set_usage(Usage(120 + step, 20, 0))
                with start_span("look_up", kind=SpanKind.TOOL) as tool:
                    tool.input = {"order": number, "fields": ["state", "date"]}
                    tool.set_output({"state": "sent", "date": "2026-11-23"})
            request.set_output({"answer": "sent"})
"""
COMPACT = """
import json, resource, sys, time
from pathlib import Path
from millstream.store.compaction import compact

began, cpu = time.perf_counter(), time.process_time()
done = compact(Path(sys.argv[1]))
wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
print(json.dumps([done.spans, wall_s, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def lines(spans: int, rounds: int, folder: Path) -> Iterator[str]:
    """A table of one line, as it is measured.

    Args:
        spans: how many are recorded.
        rounds: how often they are compacted anew.
        folder: for the journal.
    """
    home = folder / "home"
    subprocess.run([sys.executable, "-c", RECORD, str(home), str(spans)], check=True, cwd=ROOT)
    journal_mb = sum(path.stat().st_size for path in (home / "journal").iterdir()) / 1e6
    found = []
    for _ in range(rounds):
        shutil.rmtree(home / "spans", ignore_errors=True)
        done = subprocess.run(
            [sys.executable, "-c", COMPACT, str(home)], check=True, cwd=ROOT, capture_output=True, text=True
        )
        found.append(json.loads(done.stdout))
    count = found[0][0]
    wall_s, cpu_s, peak_mb = (statistics.median(one[at] for one in found) for at in (1, 2, 3))
    parquet_mb = sum(path.stat().st_size for path in (home / "spans").glob("*.parquet")) / 1e6
    names = ("spans", "journal MB", "Parquet MB", "wall s", "CPU s", "peak MB", "spans/s a core")
    figures = (
        f"{count:,}",
        f"{journal_mb:,.1f}",
        f"{parquet_mb:,.1f}",
        f"{wall_s:.2f}",
        f"{cpu_s:.2f}",
        f"{peak_mb:,.0f}",
        f"{count / cpu_s:,.0f}",
    )
    for cells in (names, figures):
        yield "".join(f"{cell:>15}" for cell in cells)
