"""Judges against the real stand-in server: rules that answer for a model, and models of a workflow file."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def completion(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion with this message."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **message}}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "judge", "choices": [choice]}


@contextmanager
def answering(reply: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """The base URL of a server that does what the stand-in does not: status and JSON by the request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, content = reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
