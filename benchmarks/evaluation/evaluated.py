"""One evaluation, with the CPU seconds of the process once all is scored, and at the end.

python -m benchmarks.evaluation.evaluated CONFIG.YML
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from millstream.evaluation.engine import evaluate
from millstream.evaluation.progress import Silent
from millstream.workflow.config import load_config


class Noted(Silent):
    """Notes when the profile begins."""

    scored_s = 0.0

    def phase(self, name: str) -> None:
        if name == "profiling":
            self.scored_s = time.process_time()


def main(config: Path) -> None:
    noted = Noted()
    result = asyncio.run(evaluate(load_config(config), progress=noted))
    took_s = time.process_time()
    if result.problems or result.summary.failures or result.summary.missing:
        raise SystemExit(f"not all went well: {result.problems or result.summary}")
    print(json.dumps({"scored_s": noted.scored_s, "cpu_s": took_s}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
