"""Takes items of one case as often as it is told to, and says the CPU that they took.

    python -m benchmarks.evaluation.worker (engine|bare) WORKFLOW EVALUATOR CONCURRENCY FOLDER

reads a file of questions a line, and prints the CPU seconds until all is scored, and of all. Imports and
first calls are behind it from the second line on.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

from benchmarks.evaluation import bare
from benchmarks.evaluation.workload import JUDGE, write_config

Take = Callable[[Path], Awaitable[float]]
"""Takes the items of a file; returns the CPU seconds of the process when all were scored."""


def engine(workflow: str, evaluator: str, concurrency: int, folder: Path) -> Take:
    """`millstream eval` without its command line; every time into a new folder."""
    from millstream.evaluation.engine import evaluate  # noqa: PLC0415  # the bare calls do without
    from millstream.evaluation.progress import Silent  # noqa: PLC0415
    from millstream.workflow.config import load_config  # noqa: PLC0415

    class Noted(Silent):
        """Notes when the profile begins."""

        scored_s = 0.0

        def phase(self, name: str) -> None:
            if name == "profiling":
                self.scored_s = time.process_time()

    numbers = count()

    async def take(questions: Path) -> float:
        config, noted = folder / f"{next(numbers)}.yml", Noted()
        write_config(config, questions, workflow, evaluator, concurrency)
        result = await evaluate(load_config(config), progress=noted)
        if result.problems or result.summary.failures or result.summary.missing:
            raise SystemExit(f"not all went well: {result.problems or result.summary}")
        return noted.scored_s

    return take


def calls_alone(workflow: str, evaluator: str, concurrency: int, folder: Path) -> Take:  # noqa: ARG001  # as `engine`
    """The same calls without an engine."""

    async def take(questions: Path) -> float:
        await bare.main(questions, workflow, concurrency, judged=evaluator == JUDGE)
        return time.process_time()

    return take


async def main(take: Take) -> None:
    for line in sys.stdin:  # nothing else is to run while it waits
        began_s = time.process_time()
        scored_s = await take(Path(line.strip()))
        ended_s = time.process_time()
        print(json.dumps({"scored_s": scored_s - began_s, "cpu_s": ended_s - began_s}), flush=True)


if __name__ == "__main__":
    kind, *case, workers, path = sys.argv[1:]
    made = {"engine": engine, "bare": calls_alone}[kind](*case, int(workers), Path(path))
    asyncio.run(main(made))
