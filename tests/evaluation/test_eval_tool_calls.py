"""The evaluator `tool_calls`: against brute force, and in a run of an agent over a real model server."""

import json
import re
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream
from millstream import open_store, start_span
from millstream.evaluation.contexts import ToolCall
from millstream.evaluation.evaluators.base import EvalItem
from millstream.evaluation.evaluators.expected_calls import ExpectedCallsError, expected_calls
from millstream.evaluation.evaluators.matching import argument_scores, by_name, match, same_call
from millstream.evaluation.evaluators.tool_calls import ToolCalls
from millstream.span import Span, SpanError, SpanKind, Status
from tests.simulate.process import running

MODES = ("exact", "any_order", "subset", "superset")


def call(name, /, **arguments):
    return {"name": name, "arguments": arguments}


def item(called, expected):
    root = Span("t", "r", None, "flow", SpanKind.WORKFLOW, 0, 100, Status.OK)
    spans = [
        Span("t", f"s{n}", "r", one["name"], SpanKind.TOOL, n, n + 1, Status.OK, input=one["arguments"])
        for n, one in enumerate(called, 1)
    ]
    return EvalItem("1", 1, "q", None, "a", [root, *spans], {}, expected)


def scores(called, expected, **options):
    return tuple(ToolCalls(mode=mode, **options)(item(called, expected)).score for mode in MODES)


A, B, C = call("a", x=1), call("b", x=1), call("c")


@pytest.mark.parametrize(
    ("called", "expected", "by_mode"),
    [
        ([A, B], [A, B], (1, 1, 1, 1)),
        ([B, A], [A, B], (0, 1, 1, 1)),
        ([A], [A, B], (0, 0, 1, 0)),
        ([A, B, C], [A, B], (0, 0, 0, 1)),
        ([A, A], [A], (0, 0, 0, 1)),
        ([A], [A, A], (0, 0, 1, 0)),
        ([], [A], (0, 0, 1, 0)),
        ([A], [], (0, 0, 0, 1)),
        ([], [], (1, 1, 1, 1)),
        ([call("a", x=2)], [A], (0, 0, 0, 0)),
        ([call("a", x=1.0)], [A], (1, 1, 1, 1)),
        ([call("a", x=True)], [A], (0, 0, 0, 0)),
        ([call("a", x="1")], [A], (0, 0, 0, 0)),
        ([call("a", x={"n": [1], "m": 2})], [call("a", x={"m": 2.0, "n": [1.0]})], (1, 1, 1, 1)),
        ([call("a", x=[1, 2])], [call("a", x=[2, 1])], (0, 0, 0, 0)),
        ([call("a", x=1, y=2)], [A], (0, 0, 0, 0)),
        ([call("A", x=1)], [A], (0, 0, 0, 0)),
    ],
)
def test_modes(called, expected, by_mode):
    assert scores(called, expected) == by_mode
    assert scores(called, json.dumps(expected)) == by_mode


def test_names_alone():
    assert scores([call("a", x=2), B], [{"name": "a"}, {"name": "b"}], arguments="ignore") == (1, 1, 1, 1)
    assert scores([B], [A, call("b", x=7)], arguments="ignore") == (0, 0, 1, 0)
    reason = ToolCalls(arguments="ignore")(item([call("a", x=2)], [A])).reasoning
    assert reason["values"] == {"f1": 0, "precision": 0, "recall": 0}
    assert ToolCalls(arguments="ignore")(item([A], [{"name": "a"}])).reasoning["values"] is None


def test_the_reason_says_what_was_called_and_what_is_wrong():
    called = [call("search", query="mills", n=3), call("add", a=1, b=2), call("stop")]
    expected = [call("add", a=1, b=3), call("search", n=3, query="wind", lang="en"), call("send")]
    score = ToolCalls()(item(called, expected))
    assert score.score == 0
    assert score.reasoning == {
        "why": "not called: send(); not expected: stop(); search: n was 3",
        "called": ['search(query="mills", n=3)', "add(a=1, b=2)", "stop()"],
        "missing": ["send()"],
        "unexpected": ["stop()"],
        "different": [
            'search: query was "mills", expected "wind", lang was not given, expected "en"',
            "add: b was 2, expected 3",
        ],
        "values": {"f1": pytest.approx(4 / 9), "precision": 0.5, "recall": pytest.approx(2 / 5)},
    } | {"why": score.reasoning["why"]}
    assert score.reasoning["why"] == "; ".join(
        ["not called: send()", "not expected: stop()", ", ".join(score.reasoning["different"])]
    )
    assert "another order" in ToolCalls()(item([B, A], [A, B])).reasoning["why"]


def test_failed_calls_count_and_are_marked():
    one = item([A], [A])
    one.spans[1].status, one.spans[1].error = Status.ERROR, SpanError("ValueError", "no " * 200)
    score = ToolCalls()(one)
    assert score.score == 1
    assert score.reasoning["called"][0].startswith("a(x=1) failed: ValueError: no no")
    assert len(score.reasoning["called"][0]) < 300


def test_long_reasons_are_cut():
    called = [call("a", x="y" * 5_000_000, **{f"n{i}": i for i in range(100)}), *[B] * 100]
    reason = ToolCalls()(item(called, [])).reasoning
    assert len(json.dumps(reason)) < 20_000
    assert reason["called"][-1] == "and 81 more"


@pytest.mark.parametrize(
    ("expected", "options", "words"),
    [
        (None, {}, "no expected tool calls"),
        ("", {}, "no expected tool calls"),
        ("[{", {}, "not JSON"),
        ("[" * 100_000, {}, "not JSON"),
        ({"name": "a"}, {}, "give a list of"),
        ([A, {"arguments": {}}], {}, "expected tool call 2 has no name"),
        ([A, "b"], {}, "expected tool call 2 has no name"),
        ([{"name": "a"}], {}, "expected call of a has no arguments"),
    ],
)
def test_missing_scores_have_their_reason(expected, options, words):
    evaluator = ToolCalls(**options)
    score = evaluator(item([A], expected))
    assert score.score is None
    assert words in score.reasoning
    assert evaluator.unscorable(item([A], expected)) == score.reasoning


def test_without_spans_or_content_the_score_is_missing():
    bare = item([A], [A])
    bare.spans[1].input = Span("t", "s", None, "n", SpanKind.TOOL, 0).input
    assert "was not recorded" in ToolCalls()(bare).reasoning
    assert ToolCalls()(bare).score is None
    assert ToolCalls(arguments="ignore")(bare).score == 1
    bare.spans.clear()
    assert ToolCalls()(bare).score is None


def test_calls_recorded_without_content_count_by_their_names(tmp_path):
    with (
        millstream.recording(home=tmp_path, capture_content=False),
        start_span("a", kind=SpanKind.TOOL, input={"x": 1}) as used,
    ):
        used.set_output("y")
    recorded = EvalItem("1", 1, "q", None, "a", list(open_store(tmp_path).spans()), {}, [A])
    assert ToolCalls()(recorded).score is None
    assert ToolCalls(arguments="ignore")(recorded).score == 1


def test_so_many_calls_that_comparing_takes_too_long():
    score = ToolCalls(mode="any_order")(item([call("a", x=n) for n in range(1001)], [A] * 1001))
    assert score.score is None
    assert "too many to compare" in score.reasoning


# Against brute force

VALUES = st.sampled_from([0, 1, 1.0, True, "1", None, [1], {"k": 1}])
CALLS = st.lists(
    st.builds(
        ToolCall,
        st.sampled_from("ab"),
        st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3) | st.just("text"),
    ),
    max_size=4,
)


def agreeing(one, other):
    if one.name != other.name:
        return 0
    ours, theirs = by_name(one), by_name(other)
    return sum(json.dumps(ours[k]) == json.dumps(theirs[k]) for k in ours.keys() & theirs.keys())


def plain(calls):
    """The same with whole numbers, so that equal values have the same JSON."""
    return json.loads(json.dumps([(c.name, c.arguments) for c in calls]).replace("1.0", "1"))


@given(CALLS, CALLS)
def test_arguments_agree_as_in_the_best_of_all_assignments(called, expected):
    called, expected = ([ToolCall(*one) for one in plain(calls)] for calls in (called, expected))
    width = max(len(called), len(expected))
    padded = [*expected, *[ToolCall("", {})] * (width - len(expected))]
    best = max(
        sum(agreeing(one, other) for one, other in zip(called, order, strict=False))
        for order in permutations(padded)
    )
    made, wanted = (sum(len(by_name(one)) for one in calls) for calls in (called, expected))
    found = argument_scores(match(called, expected))
    assert found.f1 == (pytest.approx(2 * best / (made + wanted)) if made + wanted else None)
    assert found.precision == (pytest.approx(best / made) if made else None)
    assert found.recall == (pytest.approx(best / wanted) if wanted else None)


@given(CALLS, CALLS)
def test_every_call_is_matched_once(called, expected):
    found = match(called, expected)
    ours = [*found.same, *(pair[0] for pair in found.different), *found.unexpected]
    theirs = [*(pair[1] for pair in found.different), *found.missing]
    assert sorted(map(id, ours)) == sorted(map(id, called))
    assert len(theirs) + len(found.same) == len(expected)
    assert all(not same_call(one, other) and one.name == other.name for one, other in found.different)
    assert {one.name for one in found.missing}.isdisjoint(one.name for one in found.unexpected)


@given(CALLS, CALLS)
def test_modes_are_those_of_multisets(called, expected):
    def told(calls):
        return [{"name": name, "arguments": arguments} for name, arguments in plain(calls)]

    def bag(calls):
        texts = [json.dumps(one, sort_keys=True) for one in told(calls)]
        return {text: texts.count(text) for text in texts}

    ours, theirs = bag(called), bag(expected)
    below = all(count <= theirs.get(text, 0) for text, count in ours.items())
    above = all(count <= ours.get(text, 0) for text, count in theirs.items())
    exact = [json.dumps(one, sort_keys=True) for one in told(called)] == [
        json.dumps(one, sort_keys=True) for one in told(expected)
    ]
    assert scores(told(called), told(expected)) == (exact, below and above, below, above)


# Forms of the expected calls


def nat_step(event, uuid, name, time_s, given=None, start_s=None):
    payload = {
        "event_type": event,
        "event_timestamp": time_s,
        "span_event_timestamp": start_s,
        "name": name,
        "metadata": None,
        "data": {"input": given, "output": None, "chunk": None},
        "UUID": uuid,
    }
    return {"parent_id": "root", "function_ancestry": {"function_id": "root"}, "payload": payload}


def test_the_steps_of_the_nemo_agent_toolkit():
    steps = [
        nat_step("LLM_END", "1", "model", 9, "x", 1),
        nat_step("TOOL_END", "2", "second", 8, "{'b': None}", 3),
        nat_step("TOOL_START", "3", "first", 2, {"a": 1}),
        nat_step("TOOL_END", "3", "first", 9, None, 2),
    ]
    found = expected_calls(steps)
    assert [(one.name, one.arguments) for one in found] == [("first", {"a": 1}), ("second", {"b": None})]
    assert expected_calls(json.dumps(steps)) == found
    traces = json.loads((Path(__file__).parents[1] / "store" / "data" / "nat_traces.json").read_text())
    recorded = expected_calls(traces[0]["intermediate_steps"])
    assert ("weather", {"city": "Oslo"}) in [(one.name, one.arguments) for one in recorded]


def test_arguments_as_text():
    (one,) = expected_calls([{"name": "a", "arguments": '{"x": 1}'}])
    assert one.arguments == {"x": 1}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["name", "arguments", "payload", "event_type"]), inner)
        ),
    )
)
def test_whatever_a_dataset_holds_is_understood_or_refused_in_words(value):
    try:
        found = expected_calls(value)
    except ExpectedCallsError as error:
        refusal = str(error)
        assert refusal
    else:
        assert found is None or all(isinstance(one, ToolCall) for one in found)


# A whole run

RULES = r"""
models: {able: {}}
api_key: right
rules:
  - when: {has_tool: weather, last_message_role: user, last_user_matches: '(?P<a>\w+) and (?P<b>\w+)'}
    reply: {tool_calls: [{name: weather, arguments: {city: $a}}, {name: weather, arguments: {city: $b}}]}
  - when: {has_tool: weather, last_message_role: user, last_user_matches: 'in (?P<city>\w+)'}
    reply: {tool_calls: [{name: weather, arguments: {city: $city, days: 2}}]}
  - when: {last_message_role: tool}
    reply: It rains.
default: Good morning.
"""
TOOLS = '''
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def weather(city: str, days: int = 1) -> str:
    """The weather in a city."""
    return f"rain in {city}"


def answer(question: str) -> str:
    model = ChatOpenAI(model="able", base_url="BASE_URL", api_key="right", stream_usage=True)
    agent = create_agent(model, tools=[weather])
    return agent.invoke({"messages": [("user", question)]})["messages"][-1].text
'''


def test_an_agent_is_scored_by_its_recorded_calls(runs):
    (runs.folder / "rules.yml").write_text(RULES)
    rows = [
        ("both", "Oslo and Rome", [call("weather", city="Rome"), call("weather", city="Oslo")]),
        ("days", "in Oslo", [call("weather", city="Oslo", days=3)]),
        ("hello", "hello", []),
        ("untold", "hello", None),
    ]
    data = [{"id": i, "question": q, "answer": "It rains.", "calls": calls} for i, q, calls in rows]
    (runs.folder / "data.json").write_text(json.dumps(data))
    dataset = {
        "_type": "json",
        "file_path": "data.json",
        "structure": {"expected_trajectory_key": "calls"},
    }
    evaluators = {
        "ordered": {"_type": "tool_calls"},
        "calls": {"_type": "tool_calls", "mode": "any_order"},
        "names": {"_type": "tool_calls", "mode": "superset", "arguments": "ignore"},
        "alike": {"_type": "similarity", "method": "edit"},
    }
    runs.config(target="agent.py:answer", evaluators=evaluators, dataset=dataset)
    with running(runs.folder / "rules.yml") as server:
        (runs.folder / "agent.py").write_text(TOOLS.replace("BASE_URL", server.base_url))
        done = runs.spawn()
    assert done.returncode == 3, done.stderr  # one score is missing
    by_name = {
        name: {one["id"]: one for one in runs.json(f"{name}_output.json")["eval_output_items"]}
        for name in evaluators
    }
    assert {i: one["score"] for i, one in by_name["calls"].items()} == {
        "both": 1,
        "days": 0,
        "hello": 1,
        "untold": None,
    }
    assert {i: one["score"] for i, one in by_name["names"].items()} == {
        "both": 1,
        "days": 1,
        "hello": 1,
        "untold": None,
    }
    reason = by_name["calls"]["days"]["reasoning"]
    assert reason["why"] == "weather: days was 2, expected 3"
    assert reason["values"] == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert "no expected tool calls" in by_name["calls"]["untold"]["error"]
    assert by_name["alike"]["both"]["score"] == 1
    earlier = runs.json("workflow_output.json")
    steps = next(row for row in earlier if row["id"] == "days")["intermediate_steps"]
    assert expected_calls(steps) == [ToolCall("weather", {"city": "Oslo", "days": 2}, "rain in Oslo")]


def test_the_example_of_the_page_runs(runs):
    page = (Path(__file__).parents[2] / "docs" / "evaluators.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(yaml|python|json)\n(.*?)```", page, re.DOTALL))
    (runs.folder / "config.yml").write_text(blocks["yaml"])
    (runs.folder / "trip.py").write_text(blocks["python"])
    (runs.folder / "trips.json").write_text(blocks["json"])
    done = runs.run()
    assert done.returncode == 0, done.stderr
    found = {
        name: [one["score"] for one in runs.json(f"{name}_output.json")["eval_output_items"]]
        for name in ("right_calls", "right_tools", "wording", "spelling")
    }
    assert found == {
        "right_calls": [1, 0],
        "right_tools": [1, 1],
        "wording": [1, pytest.approx(0.73, abs=0.005)],
        "spelling": [pytest.approx(0.95, abs=0.005), pytest.approx(0.71, abs=0.005)],
    }
    reason = runs.json("right_calls_output.json")["eval_output_items"][1]["reasoning"]
    assert reason["why"] in page
