"""Judges against the real stand-in server: rules that answer for a model, and models of a workflow file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators.base import EvalItem, Score, as_score
from millstream.evaluation.models import Models
from millstream.evaluation.registry import build_evaluators
from millstream.workflow.config import load_config
from tests.simulate.process import RunningStandIn, running


@contextmanager
def stand_in(
    folder: Path, *rules: dict[str, Any], default: Any = None, model: Any = None
) -> Iterator[RunningStandIn]:
    """A running server with these rules."""
    content = {"models": {"judge": model}, "rules": list(rules)}
    if default is not None:
        content["default"] = default
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump(content))
    with running(path) as server:
        yield server


def when(pattern: str, reply: Any, **conditions: Any) -> dict[str, Any]:
    """A rule for questions to a judge that this pattern is found in."""
    return {"when": {"last_user_matches": pattern, **conditions}, "reply": reply}


def judge_models(folder: Path, base_url: str, **llm: Any) -> Models:
    """The models of a workflow file whose model `judge` is served there."""
    model = {"_type": "openai", "model_name": "judge", "base_url": base_url, "max_retries": 0, **llm}
    path = folder / "judges.yml"
    path.write_text(yaml.safe_dump({"llms": {"judge": model}}))
    return Models(load_config(path))


def item(output: Any = "blue", **fields: Any) -> EvalItem:
    """An answered item."""
    content = {"id": "1", "rep": 1, "question": "What colour is the sky?", "expected": None}
    content = {**content, "output": output, "spans": [], "row": {}, **fields}
    return EvalItem(**content)


async def judged(models: Models, options: dict[str, Any], *items: EvalItem) -> list[Score]:
    """What a configured judge says of some items; its options are those of the workflow file."""
    config = parse_eval({"evaluators": {"j": {"llm_name": "judge", **options}}})
    metric = build_evaluators(config, Path.cwd(), models)[0]
    async with models:
        return [as_score(await metric.call(one)) for one in items]
