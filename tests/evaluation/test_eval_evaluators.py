"""The evaluators that come along, on single items."""

import time
from enum import Enum, IntEnum
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage

from millstream.errors import ConfigError
from millstream.evaluation import registry
from millstream.evaluation.config import parse_eval
from millstream.evaluation.evaluators.base import EvalItem, Score, as_score
from millstream.evaluation.evaluators.json_match import JsonMatch
from millstream.evaluation.evaluators.runtime import AvgLlmLatency, AvgTokensPerLlmEnd, AvgWorkflowRuntime
from millstream.evaluation.evaluators.text import ExactMatch, Regex
from millstream.evaluation.models import Models
from millstream.span import Span, SpanKind, Usage
from millstream.workflow.answers import answer_of
from millstream.workflow.config import load_config


def item(output: object, expected: object = None, spans: list[Span] | None = None) -> EvalItem:
    return EvalItem("1", 1, "q", expected, output, spans or [], {})


@pytest.mark.parametrize(
    ("options", "output", "expected", "score"),
    [
        ({}, "A\n", "A", 1),
        ({}, "a", "A", 0),
        ({"ignore_case": True}, "STRASSE", "straße", 1),
        ({"strip": False}, "A\n", "A", 0),
        ({}, "42", 42, 1),
        ({}, None, "null", 0),
        ({}, {"a": 1}, {"a": 1}, 1),
        ({}, {"a": 1, "b": [2]}, {"b": [2.0], "a": 1}, 1),
        ({}, 1.0, 1, 1),
        ({}, True, 1, 0),
        ({"ignore_case": True}, {"a": "X"}, {"a": "x"}, 1),
    ],
)
def test_exact_match(options, output, expected, score):
    assert ExactMatch(**options)(item(output, expected)).score == score


def test_texts_that_look_the_same_are_said_to_differ():
    score = ExactMatch()(item("cafe\u0301", "caf\u00e9"))
    assert score.score == 0
    assert "look the same" in score.reasoning


@pytest.mark.parametrize(
    ("pattern", "output", "expected", "score"),
    [
        (r"^\d+$", "12", None, 1),
        (r"^\d+$", "12x", None, 0),
        (r"answer: {expected}$", "the answer: 1+1", "1+1", 1),
        (r"{expected}", "11", "1+1", 0),
        (r"{expected}", "x", None, None),
    ],
)
def test_regex(pattern, output, expected, score):
    assert Regex(pattern=pattern)(item(output, expected)).score == score


def nested(levels: int, value: str) -> str:
    return '{"a":' * levels + value + "}" * levels


@pytest.mark.parametrize(
    ("output", "expected", "fields", "score"),
    [
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}', None, 1),
        ('{"a": 1, "b": 3, "more": 0}', {"a": 1, "b": 2}, None, 0.5),
        ('{"a": 1, "b": 3}', {"a": 1, "b": 2}, ["a"], 1),
        ({"a": 1}, {"a": 1.0}, None, 1),
        ('{"a": true}', {"a": 1}, None, 0),
        ('Sure:\n```json\n{"a": 1}\n```\nDone.', {"a": 1}, None, 1),
        ('First {"a": 2}, no: {"a": 1} (see [1])', {"a": 1}, None, 1),
        ('a {"x": {"a": 2}, "a": 1}', {"a": 1}, None, 1),
        ("no json {", {"a": 1}, None, 0),
        ("so [1, 2]", "[1, 2]", None, 1),
        ("true", "true", None, 1),
        ("[1]", {"a": 1}, None, 0),
        ("{}", "not json", None, None),
        ("{}", {"a": 1}, ["b"], None),
        ("{" * 100_000, {"a": 1}, None, 0),
        ('{"a": NaN, "b": 1}', {"a": 1, "b": 1}, None, 0.5),
        ('{"a": NaN}', '{"a": NaN}', None, None),
        ('{"a": NaN}', {"a": float("nan")}, None, None),
        ('{"a": 1e999}', '{"a": 2e999}', None, None),
        (f'{{"a": {"9" * 5000}, "b": 1}}', {"a": 1, "b": 1}, None, 0.5),
        (f'{{"a": {"9" * 5000}}}', f'{{"a": {"9" * 5000}}}', None, 1),
        ('{"a": 9007199254740993}', {"a": 9007199254740992}, None, 0),
        ('{"a": "1"}', {"a": 1}, None, 0),
        ("so [1, 2]", (1, 2), None, 1),
        ("null", "null", None, 1),
        (None, "null", None, 1),
        (nested(600, "1"), nested(600, "1"), None, 1),
        (nested(600, "1"), nested(600, "2"), None, 0),
        (nested(100_000, "1"), {"a": 1}, None, 0),
        ("```json\n1.0\n```", "1", None, 1),
        ('{"b": 0} ' * 300 + '{"a": 1}', {"a": 1}, None, 1),
        ("if (x) { y } " * 300 + '{"a": 1}', {"a": 1}, None, 1),
    ],
)
def test_json_match(output, expected, fields, score):
    assert JsonMatch(fields=fields)(item(output, expected)).score == score


def span(
    start_s: float, end_s: float | None, kind: SpanKind, usage: Usage | None = None, parent: str | None = "r"
) -> Span:
    end_ns = None if end_s is None else int(end_s * 1e9)
    return Span("t", f"{start_s}", parent, "n", kind, int(start_s * 1e9), end_ns, usage=usage)


def test_measures_of_spans():
    spans = [
        span(0, 10, SpanKind.WORKFLOW, parent=None),
        span(1, 3, SpanKind.LLM, Usage(10, 5)),
        span(2, 6, SpanKind.LLM, Usage(None, 1)),
        span(4, 5, SpanKind.LLM),
        span(5, None, SpanKind.LLM),
    ]
    assert AvgLlmLatency()(item("x", spans=spans)).score == pytest.approx((2 + 4 + 1) / 3)
    assert AvgTokensPerLlmEnd()(item("x", spans=spans)).score == 8
    assert AvgWorkflowRuntime()(item("x", spans=spans)).score == 10
    assert AvgWorkflowRuntime()(item("x", spans=spans[1:])).score == 5  # no root: last end - first start
    for measure in (AvgLlmLatency(), AvgTokensPerLlmEnd(), AvgWorkflowRuntime()):
        assert measure(item("x")).score is None


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (True, 1),
        (0, 0),
        (0.25, 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (np.bool_(True), 1),
        ({"score": 0.5, "reasoning": "so"}, 0.5),
        (Score(0.1), 0.1),
        (None, None),
        ("1", None),
        (float("nan"), None),
        (float("inf"), None),
        ({"reasoning": "so"}, None),
        ([1], None),
    ],
)
def test_what_an_evaluator_may_return(value, score):
    assert as_score(value).score == score
    if score is None:
        assert as_score(value).reasoning


class Plugin:
    """Made by its options, as an installed package would offer it."""

    lower_is_better = True

    def __init__(self, *, worst: float = 1.0) -> None:
        self.worst = worst

    def __call__(self, item: EvalItem) -> float:
        return self.worst


@pytest.fixture
def models(tmp_path):
    (tmp_path / "workflow.yml").write_text("llms: {}\n")
    return Models(load_config(tmp_path / "workflow.yml"))


def test_a_plugin_enters_by_its_entry_point(monkeypatch, models):
    point = EntryPoint("worst", f"{__name__}:Plugin", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [point])
    assert "worst" in registry.evaluator_types()
    config = parse_eval({"evaluators": {"w": {"_type": "worst", "worst": 3}}})
    metric = registry.build_evaluators(config, Path(), models)[0]
    assert metric.call(item("x")) == 3
    assert metric.lower_is_better
    with pytest.raises(ConfigError, match=r"eval.evaluators.w: .*unexpected keyword argument 'wrost'"):
        wrong = parse_eval({"evaluators": {"w": {"_type": "worst", "wrost": 3}}})
        registry.build_evaluators(wrong, Path(), models)


@pytest.mark.parametrize(
    ("answer", "expected", "score"),
    [
        ("word " * 1_000_000 + '{"a": 1}', {"a": 1}, 1),
        ('{"b": 0} ' * 500_000 + '{"a": 1}', {"a": 1}, 1),
        ('{"a": [' + "{ x } " * 800_000, {"a": 1}, 0),
        ('{"a": [' * 700_000, {"a": 1}, 0),
        ("[" * 5_000_000, [1], 0),
    ],
)
def test_an_answer_of_5_mb_is_looked_through_for_json_in_seconds(answer, expected, score):
    began_s = time.process_time()
    assert JsonMatch()(item(answer, expected)).score == score
    assert time.process_time() - began_s < 10


def test_an_answer_of_a_kind_of_text_or_number_is_plain():
    class Kind(str, Enum):
        OK = "ok"

    class Level(IntEnum):
        HIGH = 3

    message = AIMessage("as text")
    for value, plain in ((Kind.OK, "ok"), (Level.HIGH, 3), (message.text, "as text"), (True, True)):
        answer = answer_of(value)
        assert (type(answer), answer) == (type(plain), plain)
