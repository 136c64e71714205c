"""What an evaluation takes: the engine beside its model calls, and the same run by inspect_ai and NAT.

    make bench-evaluation [ARGS="--items 200 --rounds 12 --beside 500 --processes 3 --concurrency 32"]

The models are the stand-in server, in a process of its own, whose CPU does not count. inspect_ai comes from
`.venv-bench-inspect`, NAT from `.venv-bench-nat`. `--items 0` and `--beside 0` leave a part out.
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
        f" medians; concurrency {options.concurrency}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="bench-evaluation-") as name, stand_in(Path(name)) as url:
        folder = Path(name)
        os.environ.update(BENCH_URL=url, MILLSTREAM_HOME=f"{name}/home", XDG_DATA_HOME=f"{name}/data")
        if options.items:
            print(
                f"\nCPU of the evaluating process, by {options.items} more items; {options.rounds} rounds\n"
            )
            cases = overhead.chosen(options.only)
            for line in overhead.lines(cases, options.items, options.concurrency, options.rounds, folder):
                print(line, flush=True)
        if options.beside:
            print(f"\nWhole processes that begin with nothing loaded; {options.processes} of each\n")
            for line in beside.lines(
                options.beside, options.concurrency, options.processes, options.inspect, options.nat, folder
            ):
                print(line, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--items", type=int, default=200, help="more, whose CPU is measured in every round")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--only", action="append", metavar="WORD", help="of these runs those whose row holds this; repeatable"
    )
    parser.add_argument("--beside", type=int, default=500, help="items of the run beside inspect_ai")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--processes", type=int, default=3, help="of each that runs beside inspect_ai")
    parser.add_argument(
        "--inspect", type=Path, default=beside.INSPECT_PYTHON, help="the Python that has inspect-ai"
    )
    parser.add_argument(
        "--nat", type=Path, default=beside.NAT_PYTHON, help="the Python that has nvidia-nat-eval"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
