"""The evaluation of inspect_ai: the same questions, calls, concurrency and kind of scorer.

    python benchmarks/evaluation/with_inspect.py QUESTIONS.CSV CONCURRENCY FOLDER

runs in an environment that has `inspect-ai`, and prints the accuracy.
"""

import json
import os
import sys
from pathlib import Path

from inspect_ai import Task, eval  # noqa: A004  # its name
from inspect_ai.dataset import FieldSpec, csv_dataset
from inspect_ai.model import get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate


def main(questions: Path, concurrency: int, folder: Path) -> None:
    model = get_model(
        "openai-api/bench/small", base_url=os.environ["BENCH_URL"], api_key="none", stream=False
    )
    fields = FieldSpec(input="question", target="answer", id="id")
    task = Task(
        dataset=csv_dataset(str(questions), fields), solver=generate(), scorer=match(location="exact")
    )
    [log] = eval(
        task,
        model=model,
        display="none",
        log_dir=str(folder),
        max_samples=concurrency,
        max_connections=concurrency,
        max_retries=0,
    )
    if log.status != "success" or log.results is None:
        raise SystemExit(f"inspect_ai ended with {log.status}: {log.error}")
    print(json.dumps({"accuracy": log.results.scores[0].metrics["accuracy"].value}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
