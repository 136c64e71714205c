"""What profiles take: `millstream profile` beside pandas and NAT on the same requests, and as spans grow.

    make bench-profiler [ARGS="--requests 10,100,300,1000 --spans 10000,100000,1000000 --rounds 3"]

All figures are of whole processes that begin with nothing loaded, medians of the rounds (NAT: of one); the
exponent of those side by side is of what a size adds to the one before it. NAT comes from `.venv-bench-nat`.
`--spans 10000000` generates some 400 MB, in bounded memory; `--requests 0`, `--spans 0` and `--compaction 0`
leave a part out.
"""

import argparse
import os
import platform
import tempfile
from pathlib import Path

from benchmarks.profiler import beside, compaction, growth


def main() -> None:
    options = _options()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" {options.rounds} rounds, medians of whole processes",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-profiler-") as name:
        folder = Path(name)
        if options.requests:
            print("\nThe same requests of 20 spans with text\n")
            chosen = beside.subjects(options.rounds, options.nat)
            limits = {"limit_s": options.limit_s, "limit_mb": options.limit_mb}
            for line in beside.lines(options.requests, chosen, folder, **limits):
                print(line, flush=True)
        if options.spans:
            print("\nmillstream profile FILE --json, a file of numbers and hashes\n")
            for line in growth.lines(options.spans, options.rounds, folder):
                print(line, flush=True)
        if options.compaction:
            print("\nmillstream journal compact, some 650 bytes a span in the journal\n")
            for line in compaction.lines(options.compaction, options.rounds, folder):
                print(line, flush=True)


def _sizes(text: str) -> list[int]:
    """Numbers with commas between them, in ascending order; none for 0."""
    return sorted(size for size in map(int, text.split(",")) if size > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiler", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument(
        "--requests", type=_sizes, default="10,100,300,1000", help="sizes that are measured side by side"
    )
    parser.add_argument(
        "--spans", type=_sizes, default="10000,100000,1000000", help="sizes of files without text"
    )
    parser.add_argument("--compaction", type=int, default=500_000, help="spans of the journal to compact")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-s", type=float, default=600, help="seconds after which a process is stopped")
    parser.add_argument("--limit-mb", type=float, default=10_000, help="memory at which a process is stopped")
    parser.add_argument(
        "--nat", type=Path, default=beside.NAT_PYTHON, help="the Python that has nvidia-nat-profiler"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
