"""The prediction trie against counting call by call, and as its clients look things up in it."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings

from millstream.profiler import profile
from millstream.profiler.config import PredictionTrie, ProfilerConfig
from millstream.profiler.prediction_trie import DEEPEST, prediction_trie
from millstream.profiler.renderers.prediction_trie import document, write
from millstream.span import SpanKind, Status, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, small_forests, span

MS = 1_000_000


def scope_path(table, row):
    """Rows of the functions around a span, from the outermost."""
    found = []
    while row >= 0:
        one = table.spans[row]
        if one.kind is SpanKind.WORKFLOW or (one.kind is SpanKind.FUNCTION and one.workload_id == one.name):
            found.append(row)
        row = int(table.parent[row])
    return found[::-1]


def counted(table):
    """By path (and number of the call, or None): remaining calls, ms to the next, output tokens."""
    found = {}
    runs_of = {}
    llm = [row for row in range(len(table)) if table.spans[row].kind is SpanKind.LLM]
    for row in llm:
        scopes = scope_path(table, row)
        run = (int(table.trace[row]), scopes[-1] if scopes else None)
        index = runs_of[run] = runs_of.get(run, 0) + 1
        if table.end_ns[row] < 0:
            continue
        mine = [other for other in llm if table.trace[other] == table.trace[row] and other != row]
        later = sum(other > row for other in mine)
        starts = [int(table.start_ns[o] - table.end_ns[row]) for o in mine]
        starts = [gap for gap in starts if gap >= 0]
        tokens = int(table.output_tokens[row])
        sample = (later, min(starts) / MS if starts else math.nan, tokens if tokens >= 0 else math.nan)
        names = [table.spans[at].name for at in scopes]
        for depth in range(len(names) + 1):
            for number in (index, None):
                found.setdefault((tuple(names[:depth]), number), []).append(sample)
    return found


def nodes(node, path=()):
    yield path, node
    for name, child in node.children.items():
        assert child.name == name
        yield from nodes(child, (*path, name))


def assert_metrics(metrics, values):
    known = [value for value in values if not math.isnan(value)]
    assert metrics.sample_count == len(known)
    expected = [np.mean(known), *np.percentile(known, [50, 90, 95])] if known else [0, 0, 0, 0]
    assert [metrics.mean, metrics.p50, metrics.p90, metrics.p95] == pytest.approx(expected)


def assert_counted(table):
    expected = counted(table)
    seen = 0
    for path, node in nodes(prediction_trie(table)):
        predictions = dict(node.predictions_by_call_index)
        if node.predictions_any_index is not None:
            predictions[None] = node.predictions_any_index
        for number, prediction in predictions.items():
            columns = list(zip(*expected[path, number], strict=True))
            assert_metrics(prediction.remaining_calls, columns[0])
            assert_metrics(prediction.interarrival_ms, columns[1])
            assert_metrics(prediction.output_tokens, columns[2])
            seen += 1
    assert seen == len(expected)


@settings(max_examples=150, deadline=None)
@given(small_forests(max_spans=12))
def test_every_place_by_counting(spans):
    """Functions that are named like their workload are places; instants and ties are as likely as not."""
    for one in spans:
        one.workload_id = "a"
    table = SpanTable.from_spans(spans)
    llm = table.of_kind(SpanKind.LLM)
    if np.any(llm & (table.start_ns == table.end_ns)):  # calls of no length at one moment have no order
        return
    assert_counted(table)


def test_realistic_runs_by_counting():
    assert_counted(SpanTable.from_spans(runs(20, seed=5)))


def test_the_path_is_what_a_client_knows_at_the_call():
    spans = [
        span("w", 0, 100 * MS, name="flow", kind=SpanKind.WORKFLOW),
        span("f", MS, 90 * MS, "w", name="agent", workload_id="agent"),
        span("g", 2 * MS, 80 * MS, "f", name="search", workload_id="search"),
        span("l1", 3 * MS, 9 * MS, "g", kind=SpanKind.LLM, usage=Usage(5, 7)),
        span("l2", 20 * MS, 30 * MS, "g", kind=SpanKind.LLM, usage=Usage(5, None)),
        span("l3", 40 * MS, None, "g", kind=SpanKind.LLM),
    ]
    node = prediction_trie(SpanTable.from_spans(spans))
    for name in ("flow", "agent", "search"):
        node = node.children[name]
    first, second = node.predictions_by_call_index[1], node.predictions_by_call_index[2]
    assert set(node.predictions_by_call_index) == {1, 2}
    assert (first.remaining_calls.mean, first.interarrival_ms.mean, first.output_tokens.mean) == (2, 11, 7)
    assert (second.remaining_calls.mean, second.interarrival_ms.mean) == (1, 10)
    assert second.output_tokens.sample_count == 0


def scored(calls, **weights):
    """Sensitivities, 1 to 101, of LLM calls (start, end) in ms, each in a function of its own."""
    spans = [span("w", 0, 1000 * MS, name="flow", kind=SpanKind.WORKFLOW)]
    for number, (start, end) in enumerate(calls):
        name = f"f{number}"
        spans.append(span(name, start * MS, end * MS, "w", name=name, workload_id=name))
        spans.append(span(f"l{number}", start * MS, end * MS, name, kind=SpanKind.LLM))
    config = PredictionTrie(enable=True, sensitivity_scale=101, **weights)
    flow = prediction_trie(SpanTable.from_spans(spans), config).children["flow"]
    return [
        flow.children[f"f{number}"].predictions_any_index.latency_sensitivity - 1
        for number in range(len(calls))
    ]


def test_sensitivity_is_the_references_formula():
    calls = [(0, 100), (100, 400), (400, 600), (700, 1000)]
    place = np.array([0, 1 / 3, 2 / 3, 1])
    raw = 0.5 * np.array([0.1, 0.3, 0.2, 0.3]) + 0.3 * (1 - place) + 0.2 * np.maximum(place, 1 - place)
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 100
    assert scored(calls) == pytest.approx(expected, abs=0.5)


def test_calls_that_overlap_are_one_step_and_the_short_ones_can_wait():
    calls = [(0, 100), (100, 200), (150, 400), (390, 500), (600, 700)]
    place = np.array([0, 0.5, 0.5, 0.5, 1])
    slack = np.array([0, 1 - 100 / 250, 0, 1 - 110 / 250, 0])
    penalty = np.where(place == 0.5, (slack + 2 / 3) / 2, 0)
    raw = 0.3 * (1 - place) + 0.2 * np.maximum(place, 1 - place) - 0.4 * penalty
    expected = (raw - raw.min()) / (raw.max() - raw.min()) * 100
    assert scored(calls, w_critical=0, w_parallel=0.4) == pytest.approx(expected, abs=0.5)


def test_one_call_is_in_the_middle_and_sensitivity_can_be_off():
    assert scored([(0, 100)]) == [50]
    off = prediction_trie(SpanTable.from_spans(runs(2)), PredictionTrie(enable=True, auto_sensitivity=False))
    assert off.predictions_any_index.latency_sensitivity is None


def test_without_calls_the_root_is_empty():
    for spans in ([], [span("w", 0, 9, kind=SpanKind.WORKFLOW)], [span("l", 0, None, kind=SpanKind.LLM)]):
        root = prediction_trie(SpanTable.from_spans(spans))
        assert (root.name, root.predictions_by_call_index, root.predictions_any_index) == ("root", {}, None)
        assert root.children == {}


def test_a_function_that_calls_itself_thousands_of_times():
    spans = [
        span(str(at), at, 20_000 - at, str(at - 1) if at else None, name="f", workload_id="f")
        for at in range(5_000)
    ]
    spans.append(span("l", 6_000, 7_000, "4999", kind=SpanKind.LLM, usage=Usage(1, 2)))
    table = SpanTable.from_spans(spans)
    depths = [len(path) for path, _ in nodes(prediction_trie(table))]
    assert max(depths) == DEEPEST
    assert json.loads(json.dumps(depths)) == list(range(DEEPEST + 1))


def test_the_file_is_the_references_and_the_same_each_time(tmp_path):
    spans = list(runs(6, seed=2))
    found = profile(spans, ProfilerConfig(prediction_trie=PredictionTrie(enable=True)))
    write(found, tmp_path / "a.json")
    write(profile(spans[::-1], found.config), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    data = json.loads((tmp_path / "a.json").read_bytes())
    assert list(data) == ["version", "generated_at", "workflow_name", "root"]
    assert (data["version"], data["workflow_name"]) == ("1.0", "phishing_agent")
    assert data["generated_at"].startswith("2027-01-15T")
    node = data["root"]["children"]["phishing_agent"]
    assert set(node) == {"name", "predictions_by_call_index", "predictions_any_index", "children"}
    assert {key for p in node["predictions_by_call_index"].values() for key in p} == {
        "remaining_calls",
        "interarrival_ms",
        "output_tokens",
        "latency_sensitivity",
    }
    assert set(node["predictions_by_call_index"]["1"]["remaining_calls"]) == {
        "sample_count",
        "mean",
        "p50",
        "p90",
        "p95",
    }


def test_a_failed_call_is_a_call_and_no_workflow_is_said_so():
    spans = [span("l", 0, 5, kind=SpanKind.LLM, status=Status.ERROR, name="m")]
    found = profile(spans, ProfilerConfig(prediction_trie=PredictionTrie(enable=True)))
    data = document(found)
    assert data["root"].predictions_any_index.remaining_calls.sample_count == 1
    assert data["workflow_name"] == "m"
    assert document(profile([], found.config))["workflow_name"] == "profiled_workflow"


def test_a_call_of_no_length_does_not_follow_itself():
    spans = [span("a", 5 * MS, 5 * MS, kind=SpanKind.LLM), span("b", 9 * MS, 9 * MS, kind=SpanKind.LLM)]
    found = prediction_trie(SpanTable.from_spans(spans)).predictions_any_index.interarrival_ms
    assert (found.sample_count, found.mean) == (1, 4)
