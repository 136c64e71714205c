"""The evaluation of NeMo Agent Toolkit (NAT): the same questions, calls, concurrency and kind of scorer.

    python benchmarks/evaluation/with_nat.py QUESTIONS.CSV CONCURRENCY FOLDER

runs in an environment that has `nvidia-nat-eval[full]` and `openai`, and prints the accuracy.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from nat.builder.builder import Builder, EvalBuilder
from nat.builder.evaluator import EvaluatorInfo
from nat.builder.function_info import FunctionInfo
from nat.cli.register_workflow import register_evaluator, register_function
from nat.data_models.config import Config
from nat.data_models.evaluate_runtime import EvaluationRunConfig
from nat.data_models.evaluator import EvaluatorBaseConfig
from nat.data_models.function import FunctionBaseConfig
from nat.plugins.eval.data_models.evaluator_io import EvalOutputItem
from nat.plugins.eval.evaluator.base_evaluator import BaseEvaluator
from nat.plugins.eval.runtime.evaluate import EvaluationRun
from nat.runtime.loader import PluginTypes, discover_and_register_plugins
from openai import AsyncOpenAI


class AskConfig(FunctionBaseConfig, name="bench_ask"):  # type: ignore[call-arg,misc]
    """One call."""


@register_function(config_type=AskConfig)
async def bench_ask(config: AskConfig, builder: Builder) -> AsyncIterator[FunctionInfo]:  # noqa: ARG001
    client = AsyncOpenAI(base_url=os.environ["BENCH_URL"], api_key="none", max_retries=0)

    async def ask(question: str) -> str:
        messages: Any = [{"role": "user", "content": question}]
        completion = await client.chat.completions.create(model="small", messages=messages)
        return completion.choices[0].message.content or ""

    yield FunctionInfo.from_fn(ask, description="asks")


class ExactConfig(EvaluatorBaseConfig, name="bench_exact"):  # type: ignore[call-arg,misc]
    """Compares texts."""


@register_evaluator(config_type=ExactConfig)
async def bench_exact(config: ExactConfig, builder: EvalBuilder) -> AsyncIterator[EvaluatorInfo]:
    class Exact(BaseEvaluator):  # type: ignore[misc]
        async def evaluate_item(self, item: Any) -> EvalOutputItem:
            same = item.output_obj == item.expected_output_obj
            return EvalOutputItem(id=item.id, score=float(same), reasoning="")

    evaluator = Exact(builder.get_max_concurrency())
    yield EvaluatorInfo(config=config, evaluate_fn=evaluator.evaluate, description="compares")


def main(questions: Path, concurrency: int, folder: Path) -> None:
    discover_and_register_plugins(PluginTypes.ALL)
    config = Config.model_validate(
        {
            "workflow": {"_type": "bench_ask"},
            "eval": {
                "general": {
                    "max_concurrency": concurrency,
                    "output": {"dir": str(folder), "cleanup": True},
                    "dataset": {"_type": "csv", "file_path": str(questions), "id_key": "id"},
                },
                "evaluators": {"exact": {"_type": "bench_exact"}},
            },
        }
    )
    done = asyncio.run(EvaluationRun(EvaluationRunConfig(config_file=config)).run_and_evaluate())
    if done.workflow_interrupted:
        raise SystemExit("NAT was interrupted")
    [(_, scores)] = done.evaluation_results
    print(json.dumps({"accuracy": scores.average_score}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
