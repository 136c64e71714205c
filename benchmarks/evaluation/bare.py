"""The calls of a workflow, and of its judge, without an engine: so many workers take questions off one list.

    python -m benchmarks.evaluation.bare QUESTIONS.CSV WORKFLOW CONCURRENCY [judged]

prints the CPU seconds of the process.
"""

import asyncio
import csv
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.evaluation import calls


async def call_all(call: Callable[[str], Awaitable[str]], texts: Iterable[str], concurrency: int) -> None:
    left = iter(texts)

    async def work() -> None:
        for text in left:
            if not await call(text):
                raise SystemExit(f"no answer to {text!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


def judge() -> Callable[[str], Awaitable[str]]:
    """What `llm_judge` asks: its prompt and its form of answer, with the question for an answer."""
    from benchmarks.evaluation.workload import RUBRIC  # noqa: PLC0415  # only here is Millstream needed
    from millstream.evaluation.judging.prompt import question, response_format  # noqa: PLC0415
    from millstream.evaluation.judging.scale import NumberScale  # noqa: PLC0415

    scale = NumberScale(0, 10)

    async def ask(text: str) -> str:
        asked: Any = question(RUBRIC, {"question": text, "expected_answer": text, "answer": text}, scale)
        said = await calls.chat_model().ainvoke(asked, response_format=response_format(scale))
        return str(said.content)

    return ask


async def main(questions: Path, workflow: str, concurrency: int, *, judged: bool) -> None:
    with questions.open(encoding="utf-8", newline="") as rows:
        texts = [row["question"] for row in csv.DictReader(rows)]
    if workflow != "none":
        await call_all(getattr(calls, workflow), texts, concurrency)
    if judged:
        await call_all(judge(), texts, concurrency)


if __name__ == "__main__":
    path, name, workers, *more = sys.argv[1:]
    asyncio.run(main(Path(path), name, int(workers), judged=more == ["judged"]))
    print(json.dumps({"cpu_s": time.process_time()}))
