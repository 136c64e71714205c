"""The evaluator `ragas`: real metrics of the installed ragas, asking the stand-in over real HTTP."""

import inspect
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from millstream.errors import ConfigError, MissingExtraError
from millstream.evaluation import ragas_catalogue
from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators.base import Binding, EvalItem
from millstream.evaluation.evaluators.ragas import Ragas
from millstream.evaluation.models import Models
from millstream.evaluation.registry import build_evaluators
from millstream.span import Span, SpanKind
from millstream.workflow.config import load_config
from tests.simulate.process import running

HERE = find_spec("ragas") is not None
needs_ragas = pytest.mark.skipif(
    not HERE, reason="ragas is not installed: it has the environment .venv-ragas"
)
PAGE = (Path(__file__).parents[2] / "docs" / "ragas.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.filterwarnings("ignore")  # of ragas and what it imports

FLOW = '''
from millstream import start_span
from millstream.evaluation.registry import build_evaluators
from millstream.span import SpanKind

ANSWERS = {"capital?": "Paris", "river?": "The Rhine", "silence?": "", "unseen?": "Rome", "free?": "Bern"}


async def answer(question: str) -> str:
    """Looks a question up, and answers from a table."""
    if question != "unseen?":
        with start_span("look up", kind=SpanKind.RETRIEVER, input=question) as span:
            span.set_output([{"content": f"It is {ANSWERS[question] or 'unknown'}.", "score": 0.5}])
    return ANSWERS[question]
'''
ROWS = (
    {"id": "right", "question": "capital?", "answer": "Paris"},
    {"id": "wrong", "question": "river?", "answer": "The Seine"},
    {"id": "silent", "question": "silence?", "answer": "Oslo"},
    {"id": "unseen", "question": "unseen?", "answer": "Rome"},
    {"id": "free", "question": "free?"},
)
RATE = r"""
models: {judge: {}}
rules:
  - when: {last_user_matches: '"user_answer": "(?P<a>[^"\n]+)",\s+"reference_answer": "(?P=a)"\s+\}\s+Out.*$'}
    reply: {json: {rating: 4}}
  - when: {last_user_matches: '(?s)reference_answer.*Output:'}
    reply: "<think>is it {\"rating\": 4}?</think>It does not agree:\n```json\n{\"rating\": 0}\n```"
  - when: {last_user_matches: '"response": "(?P<a>[^"\n]+)",\s+"context": "It is (?P=a)\."\s+\}\s+Output: $'}
    reply: {json: {rating: 2}}
  - when: {last_user_matches: 'rating'}
    reply: {json: {rating: 1}}
"""


class Bench:
    """A workflow file whose judge is a stand-in, and what comes of evaluating with it."""

    def __init__(self, runs):
        self.runs = runs

    def evaluate(self, rules, evaluators, rows=ROWS, *judges, flow=FLOW, **sections):
        (self.runs.folder / "flow.py").write_text(flow)
        (self.runs.folder / "rules.yml").write_text(rules)
        (self.runs.folder / "data.json").write_text(json.dumps(rows))
        with running(self.runs.folder / "rules.yml") as server:
            judge = {"_type": "openai", "base_url": server.base_url, "max_retries": 0}
            config = {
                "llms": {
                    name: {**judge, "model_name": name, "max_tokens": 1 if name == "short" else 200}
                    for name in judges or ("judge",)
                },
                "workflow": {"_type": "python", "target": "flow.py:answer"},
                "eval": {
                    "general": {"output_dir": "out", "dataset": {"_type": "json", "file_path": "data.json"}},
                    "evaluators": {
                        name: {"_type": "ragas", **options} for name, options in evaluators.items()
                    },
                },
                **sections,
            }
            (self.runs.folder / "config.yml").write_text(yaml.safe_dump(config))
            done = self.runs.spawn(timeout_s=240)
            self.models = server.stats()["models"]
        assert done.returncode in (0, 3), done.stderr
        self.done = done

    def items(self, name):
        return {each["id"]: each for each in self.runs.json(f"{name}_output.json")["eval_output_items"]}

    def scores(self, name):
        return {key: each["score"] for key, each in self.items(name).items()}

    def reason(self, name, key):
        return self.items(name)[key]["error"]


@pytest.fixture
def bench(runs):
    return Bench(runs)


def ragas(metric, **options):
    return {"metric": metric, "llm_name": "judge", **options}


@needs_ragas
def test_the_three_of_the_seed_and_why_scores_are_missing(bench):
    names = {
        "accuracy": "AnswerAccuracy",
        "groundedness": "ResponseGroundedness",
        "relevance": "ContextRelevance",
    }
    bench.evaluate(RATE, {name: ragas(metric) for name, metric in names.items()})

    assert bench.scores("accuracy") == {"right": 1, "wrong": 0, "silent": None, "unseen": 1, "free": None}
    assert bench.scores("groundedness") == {"right": 1, "wrong": 1, "silent": None, "unseen": None, "free": 1}
    relevance = {"right": 0.5, "wrong": 0.5, "silent": 0.5, "unseen": None, "free": 0.5}
    assert bench.scores("relevance") == relevance
    assert bench.reason("accuracy", "silent") == "the answer is empty"
    assert bench.reason("accuracy", "free") == "the dataset has no expected answer for this item"
    assert bench.reason("groundedness", "unseen").startswith("nothing was retrieved for this item")
    told = bench.items("groundedness")["right"]["reasoning"]
    assert told == {"judge": [{"rating": 2}, {"rating": 2}], "retrieved_contexts": ["It is Paris."]}
    assert bench.models["judge"]["requests"] == 2 * (3 + 3 + 4)
    assert "Warning" not in bench.done.stderr
    assert bench.done.returncode == 3


UNFIT = r"""
models: {refuses: {}, vague: {}, eleven: {}, down: {}, short: {}, mends: {}}
rules:
  - when: {model: refuses}
    reply: I would rather not.
  - when: {model: vague}
    reply: {json: {rating: high}}
  - when: {model: eleven}
    reply: {json: {rating: 11}}
  - when: {model: down}
    reply: {error: {status: 500, message: "no"}}
  - when: {model: short}
    reply: Let me see, the answer and the reference agree.
  - when: {last_message_matches: 'That cannot be used: the judge gave no JSON object'}
    reply: {json: {rating: 4}}
default: Rather good.
"""


@needs_ragas
def test_judges_that_are_unfit_leave_scores_missing_with_the_reason(bench):
    judges = ("refuses", "vague", "eleven", "down", "short", "mends")
    bench.evaluate(
        UNFIT, {name: ragas("AnswerAccuracy", llm_name=name) for name in judges}, ROWS[:1], *judges
    )

    assert [bench.scores(name)["right"] for name in judges] == [None, None, None, None, None, 1]
    reasons = {name: bench.reason(name, "right") for name in judges}
    assert reasons["refuses"] == "the judge gave no JSON object: 'I would rather not.'"
    assert reasons["vague"].startswith(
        "the judge's answer does not fit (rating: Input should be a valid integer"
    )
    assert reasons["eleven"] == "ragas gave no score; the judge's last answer was '{\"rating\": 11}'"
    assert "500" in reasons["down"]
    assert reasons["short"] == "the judge's answer was cut off; raise max_tokens of its model: 'Let'"
    asked = {name: bench.models[name]["requests"] for name in judges}
    assert asked == {"refuses": 2, "vague": 2, "eleven": 10, "down": 1, "short": 1, "mends": 4}


OTHERS = r"""
models: {judge: {}}
rules:
  - when: {last_user_matches: 'noncommittal'}
    reply: {json: {question: "capital?", noncommittal: 0}}
  - when: {last_user_matches: 'verdict'}
    reply: {json: {reason: "it says so", verdict: 1}}
"""


@needs_ragas
def test_metrics_with_an_embedder_of_the_old_module_and_without_a_judge(bench):
    bench.evaluate(
        OTHERS,
        {
            "similar": {"metric": "SemanticSimilarity", "embedder_name": "near"},
            "relevant": ragas("AnswerRelevancy", embedder_name="near"),
            "critic": ragas({"AspectCritic": {"kwargs": {"name": "short", "definition": "Is it short?"}}}),
            "recall": {"metric": "IDBasedContextRecall"},
            "same": {"metric": "ExactMatch"},
        },
        [ROWS[0] | {"retrieved_context_ids": "[1, 2]", "reference_context_ids": [2, 3]}, ROWS[1]],
        embedders={"near": {"_type": "hash"}},
    )
    scores = {name: bench.scores(name) for name in ("similar", "relevant", "critic", "same")}
    assert scores["similar"]["right"] == pytest.approx(1)
    assert scores["similar"]["wrong"] < 0.8
    assert scores["relevant"]["right"] == pytest.approx(1)
    assert scores["critic"] == {"right": 1, "wrong": 1}
    assert scores["same"] == {"right": 1, "wrong": 0}
    assert bench.scores("recall") == {"right": 0.5, "wrong": None}
    assert "IDBasedContextRecall needs reference_context_ids" in bench.reason("recall", "wrong")


CALLING = """
from millstream import start_span
from millstream.evaluation.registry import build_evaluators
from millstream.span import SpanKind


async def answer(question: str) -> str:
    with start_span("add", kind=SpanKind.TOOL, input={"a": 1, "b": 2}) as span:
        span.set_output(3)
    return "3"
"""


@needs_ragas
def test_metrics_of_conversations_see_the_tool_calls(bench):
    right, other = ({"name": "add", "arguments": {"a": 1, "b": b}} for b in (2, 3))
    rows = [
        {"id": "right", "question": "1 + 2", "reference_tool_calls": [right]},
        {"id": "other", "question": "1 + 3", "reference_tool_calls": json.dumps([other])},
        {"id": "bad", "question": "1", "reference_tool_calls": ["add"]},
        {"id": "none", "question": "1"},
    ]
    bench.evaluate(OTHERS, {"f1": {"metric": "ToolCallF1"}}, rows, flow=CALLING)
    assert bench.scores("f1") == {"right": 1, "other": 0, "bad": None, "none": None}
    assert bench.reason("f1", "bad").startswith("the expected tool calls are no list of {name, arguments}")
    assert bench.reason("f1", "none") == "the dataset has no expected tool calls for this item"


@needs_ragas
def test_what_is_read_from_its_source_is_what_ragas_has():
    from ragas.metrics import collections

    folder = ragas_catalogue._folder("")
    names = sorted(ragas_catalogue._new_names(folder))
    assert {"AnswerAccuracy", "ResponseGroundedness", "ContextRelevance", "AgentGoalAccuracy"} <= set(names)
    for name in names:
        known, made = ragas_catalogue.metric_named(name, ""), getattr(collections, name)
        assert known.inputs == arguments(made.ascore), name
        assert known.options == arguments(made.__init__), name


def arguments(function):
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = [each for each in inspect.signature(function).parameters.values() if each.kind not in kinds]
    return {each.name: each.default is inspect.Parameter.empty for each in named if each.name != "self"}


@pytest.fixture
def binding(tmp_path):
    path = tmp_path / "config.yml"
    path.write_text("llms: {judge: {_type: openai, model_name: m}}\nembedders: {near: {_type: hash}}\n")
    return Binding(tmp_path, "eval.evaluators.rag", Models(load_config(path)), tmp_path)


@needs_ragas
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric": "AnswerAcuracy"},
            r"rag\.metric: ragas .* has no metric 'AnswerAcuracy'; did you mean 'AnswerAcc",
        ),
        ({"metric": "BaseMetric"}, "has no metric 'BaseMetric'"),
        ({"metric": "AnswerAccuracy"}, r"rag\.llm_name: AnswerAccuracy asks a model; name one of `llms`"),
        (
            ragas("AnswerAccuracy", llm_name="jugde"),
            r"rag\.llm_name: there is no llms\.jugde; did you mean 'judge'",
        ),
        (ragas("AnswerRelevancy"), r"rag\.embedder_name: AnswerRelevancy embeds texts"),
        (ragas("AnswerRelevancy", embedder_name="far"), r"there is no embedders\.far"),
        (ragas("AnswerAccuracy", kwargs={"max_retry": 1}), "has no 'max_retry'; did you mean 'max_retries'"),
        (ragas("AnswerAccuracy", kwargs={"llm": 1}), "has no 'llm'"),
        (
            ragas({"AnswerAccuracy": {"skip": True}}),
            r"rag\.metric: one metric an evaluator, and none is wanted",
        ),
        (ragas({"AnswerAccuracy": {}, "ExactMatch": {}}), "AnswerAccuracy, ExactMatch is wanted here"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_question(binding, options, message):
    with pytest.raises(ConfigError, match=message):
        Ragas(**options).bind(binding)


@needs_ragas
def test_the_example_of_the_page_can_be_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    path = tmp_path / "config.yml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    config = load_config(path)
    metrics = build_evaluators(parse_eval(config.eval), tmp_path, Models(config))
    assert [metric.name for metric in metrics] == ["rag_accuracy", "rag_groundedness", "on_topic"]
    for name in Ragas.model_fields:
        assert f"| `{name}` |" in PAGE


@needs_ragas
def test_to_bind_does_not_import_ragas(tmp_path):
    (tmp_path / "config.yml").write_text("llms: {judge: {_type: openai, model_name: m}}\n")
    code = """
import sys
from pathlib import Path
from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators.base import Binding
from millstream.evaluation.evaluators.ragas import Ragas
from millstream.evaluation.models import Models
from millstream.workflow.config import load_config

models = Models(load_config(Path("config.yml")))
Ragas(metric="AnswerAccuracy", llm_name="judge").bind(Binding(Path(), "e", models, Path()))
print("ragas" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "False\n"


@needs_ragas
def test_a_field_of_the_question_and_items_that_no_answer_could_score(binding):
    evaluator = Ragas(**ragas("ContextRecall", input_obj_field="text"))
    assert evaluator.unscorable(item(expected=None)) == "the dataset has no expected answer for this item"
    assert evaluator.unscorable(item(expected="x")) is None
    from millstream.evaluation.ragas_inputs import inputs_of

    metric = ragas_catalogue.metric_named("ContextRecall", "")
    found = inputs_of(item(expected="x", question={"text": "why?", "who": "me"}), metric, "text")
    assert found == {"user_input": "why?", "reference": "x", "retrieved_contexts": ["seen"]}


def item(*, expected, question="q"):
    span = Span("0" * 32, "0" * 16, None, "r", SpanKind.RETRIEVER, 0, output=["seen"], end_ns=1)
    return EvalItem("1", 1, question, expected, "a", [span], {})


@needs_ragas
def test_beside_a_langchain_community_that_it_cannot_use(binding, monkeypatch):
    monkeypatch.setattr(ragas_catalogue, "version", lambda name: "0.4.1")
    with pytest.raises(
        MissingExtraError, match=r"beside langchain-community 0\.4\.1, and needs .*millstream\[ragas\]"
    ):
        Ragas(**ragas("AnswerAccuracy")).bind(binding)


@pytest.mark.skipif(HERE, reason="ragas is installed")
def test_without_ragas_it_says_what_to_install(binding):
    with pytest.raises(
        MissingExtraError, match=r"'ragas' needs the extra \[ragas\]: pip install 'millstream\[ragas\]'"
    ):
        Ragas(**ragas("AnswerAccuracy")).bind(binding)
