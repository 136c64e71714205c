"""What an evaluation takes: the engine beside its model calls, and the same run by inspect_ai.

    make bench-evaluation [ARGS="--items 1000 --beside 500 --concurrency 32 --rounds 3"]

The models are the stand-in server, in a process of its own, whose CPU does not count. inspect_ai comes from
`.venv-bench-inspect`. `--items 0` and `--beside 0` leave a part out.
"""

import argparse
import os
import platform
import tempfile
from pathlib import Path

from benchmarks.evaluation import beside, overhead
from benchmarks.evaluation.workload import stand_in


def main() -> None:
    options = _options()
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        f" {options.rounds} rounds, medians; concurrency {options.concurrency}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-evaluation-") as name, stand_in(Path(name)) as url:
        folder = Path(name)
        os.environ.update(BENCH_URL=url, MILLSTREAM_HOME=f"{name}/home", XDG_DATA_HOME=f"{name}/data")
        if options.items:
            print("\nCPU of the evaluating process, between a run of all items and one of a tenth\n")
            cases = [
                case
                for case in overhead.CASES
                if not options.only or any(w in case.title for w in options.only)
            ]
            for line in overhead.lines(cases, options.items, options.concurrency, options.rounds, folder):
                print(line, flush=True)
        if options.beside:
            print("\nWhole processes that begin with nothing loaded\n")
            for line in beside.lines(
                options.beside, options.concurrency, options.rounds, options.inspect, folder
            ):
                print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--items", type=int, default=1000, help="of the runs whose CPU an item is measured")
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="of these runs those whose row holds this; repeatable"
    )
    parser.add_argument("--beside", type=int, default=500, help="items of the run beside inspect_ai")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--inspect", type=Path, default=beside.INSPECT_PYTHON, help="the Python that has inspect-ai"
    )
    options = parser.parse_args()
    if options.items == 1:
        parser.error("--items: at least 2, for the figures are of the items that a larger run adds; or 0")
    return options


if __name__ == "__main__":
    main()
