"""Forecasts: states by counting, coverage and the choice of models by simulation, what is refused."""

import json
import math
import os
import random
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from millstream.errors import InputError, MissingExtraError
from millstream.profiler import Forecast, Forecaster, fit_forecast
from millstream.profiler.confidence import runtime_percentiles
from millstream.profiler.forecast import evaluation, states
from millstream.profiler.forecast.baseline import SMALLEST_GROUP, GroupedQuantiles, Grouping
from millstream.profiler.forecast.finding import Refused, forecast
from millstream.profiler.forecast.states import FEATURES, TARGETS, current_state, states_of
from millstream.profiler.renderers.files import json_bytes
from millstream.profiler.requests import requests
from millstream.span import Span, SpanKind, Status, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import EPOCH_NS, runs, small_forests, span

S = 1_000_000_000
COLUMN = {name: at for at, name in enumerate(FEATURES)}


def seeded(seed):
    return random.Random(seed)  # noqa: S311  # made-up data, not secrets


def request(rng, number, *, workflow="search", loops=3, pace=1.0, tools=("look",), tokens=100, usage=True):
    """Spans of one request: a root, then an LLM call, and `loops` times a tool and an LLM call."""
    trace, now = f"{rng.getrandbits(128):032x}", EPOCH_NS + number * 60 * S
    root = Span(trace, "f" * 16, None, workflow, SpanKind.WORKFLOW, now)
    spans = [root]

    def call(kind, name, took_s, used=None):
        nonlocal now
        end = now + int(took_s * S)
        spans.append(
            Span(trace, f"{len(spans):016x}", root.span_id, name, kind, now, end, Status.OK, usage=used)
        )
        now = end

    def llm():
        call(
            SpanKind.LLM,
            "model",
            pace * rng.lognormvariate(0, 0.5),
            Usage(tokens, rng.randint(20, 80)) if usage else None,
        )

    llm()
    for loop in range(loops):
        call(SpanKind.TOOL, tools[loop % len(tools)], rng.expovariate(2))
        llm()
    spans[0] = msgspec.structs.replace(root, end_ns=now + 1000, status=Status.OK)
    return spans


def agent(rng, number):
    """How long a request takes and how often it asks is told by the size of its first prompt."""
    size = int(rng.lognormvariate(6, 0.6))
    workflow = "search" if rng.random() < 0.6 else "write"
    loops = (2 if workflow == "search" else 4) + 2 * (size > 500) + (rng.random() < 0.5)
    return request(
        rng, number, workflow=workflow, loops=loops, pace=size / 500, tokens=size, tools=("look", "calc")
    )


def memoryless(rng, number):
    """Nothing that has happened tells of what is to come."""
    loops = int(math.log(rng.random()) / math.log(0.7))
    return request(rng, number, loops=min(loops, 40), tokens=rng.randint(50, 150))


def many(make, n, seed=0):
    rng = seeded(seed)
    return [make(rng, number) for number in range(n)]


def flat(found):
    return [one for spans in found for one in spans]


def cut(spans, moment_ns):
    """What was known of a request at a moment."""
    return [
        one
        if one.end_ns is not None and one.end_ns <= moment_ns
        else msgspec.structs.replace(one, end_ns=None, status=None, usage=None)
        for one in spans
        if one.start_ns < moment_ns or one.parent_id is None
    ]


def truth(spans, moment_ns):
    """Remaining LLM calls, tokens and seconds."""
    left = [one for one in spans if one.kind is SpanKind.LLM and one.end_ns > moment_ns]
    used = sum((one.usage.input_tokens or 0) + (one.usage.output_tokens or 0) for one in left if one.usage)
    return len(left), used, (spans[0].end_ns - moment_ns) / S


def quantiles(found):
    return [found.remaining_llm_calls, found.remaining_tokens, found.remaining_s]


@settings(max_examples=200, deadline=None)
@given(small_forests(max_spans=10))
def test_states_by_counting(spans):
    table = SpanTable.from_spans(spans)
    found = requests(table)
    got = states_of(table, np.zeros(1, np.int64), found)
    calls = [(at, one) for at, one in enumerate(table.spans) if one.kind in (SpanKind.LLM, SpanKind.TOOL)]
    ended = [(at, one) for at, one in calls if one.end_ns is not None]
    moments = sorted({int(found.start_ns[0])} | {one.end_ns for _, one in ended})
    assert got.moment_ns.tolist() == moments
    for state, moment in enumerate(moments):
        before = [one for _, one in sorted(ended, key=lambda call: call[1].end_ns) if one.end_ns <= moment]
        after = [one for _, one in ended if one.end_ns > moment]
        tools = sorted(
            ((one.start_ns, one.end_ns != one.start_ns, at) for at, one in calls if one.kind is SpanKind.TOOL)
        )
        started = [key for key in tools if key[0] < moment or (key[0] == moment and not key[1])]
        llm = [one for one in before if one.kind is SpanKind.LLM]
        assert got.llm_calls[state] == len(llm)
        assert got.tool_calls[state] == len(before) - len(llm)
        assert got.tools_started[state] == len(started)
        name = table.spans[started[-1][2]].name if started else None
        assert (table.names[got.last_tool[state]] if got.last_tool[state] >= 0 else None) == name
        name = table.spans[tools[len(started)][2]].name if len(started) < len(tools) else None
        assert (table.names[got.next_tool[state]] if got.next_tool[state] >= 0 else None) == name
        features = got.features[state]
        assert features[COLUMN["llm_s"]] * S == pytest.approx(sum(one.end_ns - one.start_ns for one in llm))
        assert features[COLUMN["elapsed_s"]] * S == pytest.approx(max(moment - found.start_ns[0], 0))
        assert got.targets[state, 0] == sum(one.kind is SpanKind.LLM for one in after)
        assert got.targets[state, 2] * S == pytest.approx(max(int(found.end_ns[0]) - moment, 0))


def test_tokens_so_far_and_to_come():
    usages = [Usage(10, 5), Usage(20, None), None, Usage(40, 7)]
    spans = [span("w", 0, 100, kind=SpanKind.WORKFLOW)]
    spans += [
        span(str(at), at * 10 + 1, at * 10 + 9, "w", kind=SpanKind.LLM, usage=usage, name="m")
        for at, usage in enumerate(usages)
    ]
    table = SpanTable.from_spans(spans)
    got = states_of(table, np.zeros(1, np.int64), requests(table))
    assert got.targets[:, 1].tolist() == [82, 67, 47, 47, 0]
    assert got.features[:, COLUMN["tokens"]].tolist() == [0, 15, 35, 35, 82]
    assert got.features[:, COLUMN["first_input_tokens"]].tolist() == [0, 10, 10, 10, 10]
    assert got.features[:, COLUMN["last_input_tokens"]].tolist() == [0, 10, 20, 0, 40]


def test_an_unfinished_request_has_the_features_that_were_learned_from():
    spans = list(runs(8, seed=2))
    table = SpanTable.from_spans(spans)
    found = requests(table)
    traces = np.flatnonzero(found.run_time_ns >= 0)
    learned = states_of(table, traces, found)
    for state in range(len(learned)):
        trace = table.trace_ids[traces[learned.request[state]]]
        known = cut([one for one in spans if one.trace_id == trace], int(learned.moment_ns[state]))
        now, _ = current_state(SpanTable.from_spans(known))
        assert now.features[0] == pytest.approx(learned.features[state])
        assert now.tools_started[0] == learned.tools_started[state]


def test_grouped_quantiles_are_those_of_the_finest_group_that_is_large_enough():
    rng = np.random.default_rng(3)
    table = SpanTable.from_spans(flat(many(agent, 120)))
    learned = states_of(table, np.arange(120), requests(table))
    values = rng.random(len(learned))
    got = GroupedQuantiles.fit(Grouping.fit(learned), values).predict(learned)
    finest = list(
        zip(learned.workflow, learned.llm_calls, learned.tool_calls, learned.last_call, strict=True)
    )
    looked_at = 0
    for state in range(len(learned)):
        members = [at for at, key in enumerate(finest) if key == finest[state]]
        if len({int(learned.request[at]) for at in members}) < SMALLEST_GROUP:
            continue
        ordered = np.sort(values[members])
        n = len(ordered)
        assert got.low[state] == ordered[max(math.floor(0.05 * (n + 1)), 1) - 1]
        assert got.median[state] == pytest.approx(np.median(ordered))
        assert got.high[state] == ordered[min(math.ceil(0.95 * (n + 1)), n) - 1]
        looked_at += 1
    assert looked_at > len(learned) / 2
    assert not np.isnan(got.low).any()


@pytest.fixture(scope="module")
def agents():
    return many(agent, 900, seed=5)


@pytest.fixture(scope="module")
def fitted(agents):
    return fit_forecast(flat(agents[:500]))


def test_the_interval_of_90_percent_holds_90_percent_of_unseen_requests_at_any_stage(agents, fitted):
    rng = seeded(1)
    inside = np.zeros((400, 3))
    errors = np.zeros((400, 3))
    for at, spans in enumerate(agents[500:]):
        moment = rng.choice([spans[0].start_ns, *(one.end_ns for one in spans[1:])])
        found = quantiles(fitted.predict(cut(spans, moment)))
        for target, (q, actual) in enumerate(zip(found, truth(spans, moment), strict=True)):
            inside[at, target] = q.low - 1e-6 <= actual <= q.high + 1e-6
            errors[at, target] = abs(q.median - actual)
    calls, tokens, seconds = inside.mean(axis=0)
    assert calls >= 0.86  # whole numbers: it may hold more
    assert 0.86 <= tokens <= 0.95
    assert 0.86 <= seconds <= 0.95
    for row, covered, error in zip(fitted.evaluation, inside.mean(axis=0), errors.mean(axis=0), strict=False):
        assert row.coverage == pytest.approx(covered, abs=0.06)
        assert row.error == pytest.approx(error, rel=0.25)


def test_a_model_is_used_where_it_is_better_than_the_baseline(fitted):
    rows = {row.target: row for row in fitted.evaluation}
    assert list(rows) == [*TARGETS, "next_tool"]
    for target in ("remaining_tokens", "remaining_s"):
        assert rows[target].model in ("linear", "random_forest", "gradient_boosting")
        assert rows[target].error < 0.9 * rows[target].baseline_error
    assert all(row.n == 222 for row in rows.values())


def test_where_nothing_is_to_be_learned_the_baseline_stays():
    used = [
        row.model
        for seed in range(4)
        for row in fit_forecast(flat(many(memoryless, 80, seed))).evaluation
        if row.target != "next_tool"
    ]
    assert used.count("baseline") >= len(used) - 1


def test_what_is_measured_is_later_than_what_was_learned():
    numbers = np.repeat(np.arange(31), 3)
    measured = []
    for block, earlier, later in evaluation._splits(numbers):
        assert numbers[earlier].max() < numbers[later].min()
        measured += numbers[later].tolist()
        assert block == 0 or earlier.sum() > 31
    assert sorted(set(measured)) == list(range(10, 31))


def test_a_change_in_the_last_requests_is_seen_in_the_coverage():
    def slower(rng, number):
        return request(rng, number, pace=1.0 if number < 90 else 8.0)

    (row,) = [row for row in fit_forecast(flat(many(slower, 120))).evaluation if row.target == "remaining_s"]
    assert row.coverage < 0.8


def test_what_always_happens_is_known():
    def fixed(rng, number):
        return request(rng, number, loops=3, tools=("first", "second", "third"))

    found = many(fixed, 60)
    forecaster = fit_forecast(flat(found))
    assert forecaster.evaluation[0].error == 0
    assert forecaster.evaluation[0].model == "baseline"
    spans = found[0]
    expected = ["first", "first", "second", "second", "third", "third", None, None]
    for moment, tool in zip([spans[0].start_ns, *(one.end_ns for one in spans[1:])], expected, strict=True):
        got = forecaster.predict(cut(spans, moment))
        calls = truth(spans, moment)[0]
        assert msgspec.structs.astuple(got.remaining_llm_calls) == (calls, calls, calls)
        assert got.next_tool == {tool: 1.0}


def test_a_tool_that_runs_is_not_the_next():
    forecaster = fit_forecast(
        flat(many(lambda rng, n: request(rng, n, tools=("first", "second", "third")), 40))
    )
    spans = request(seeded(9), 50, tools=("first", "second", "third"))
    assert forecaster.predict(cut(spans, spans[2].start_ns + 1)).next_tool == {"second": 1.0}


def test_time_that_passed_since_the_last_call_ended_is_taken_off(fitted, agents):
    spans = agents[600]
    at_end = fitted.predict(cut(spans, spans[1].end_ns))
    waiting = span("e" * 16, spans[1].end_ns + S // 2, None, spans[0].span_id, trace_id=spans[0].trace_id)
    later = fitted.predict([*cut(spans, spans[1].end_ns), waiting])
    assert later.remaining_s.high == pytest.approx(at_end.remaining_s.high - 0.5)
    assert later.remaining_s.low == pytest.approx(max(at_end.remaining_s.low - 0.5, 0))
    assert later.remaining_llm_calls == at_end.remaining_llm_calls


def assert_sound(found):
    for figure in quantiles(found):
        assert 0 <= figure.low <= figure.median <= figure.high < math.inf
    assert sum(found.next_tool.values()) == pytest.approx(1)
    assert min(found.next_tool.values()) > 0


def test_what_was_never_seen_gets_a_forecast(fitted, agents):
    start = agents[0][0].start_ns
    unknown = Span("ab" * 16, "cd" * 8, None, "unheard of", SpanKind.WORKFLOW, start)
    assert_sound(fitted.predict([unknown]))
    endless = request(seeded(2), 0, loops=300, tools=("new",), tokens=10**15)
    assert_sound(fitted.predict(cut(endless, endless[-1].end_ns)))
    only_ended = [one for one in cut(agents[1], agents[1][3].end_ns) if one.end_ns is not None]
    assert_sound(fitted.predict(only_ended))
    assert_sound(fitted.predict(agents[2]))
    assert_sound(fitted.at_start())


def test_without_its_root_a_request_is_known_by_the_workload_of_its_spans(fitted, agents):
    spans = next(spans for spans in agents if spans[0].name == "write")
    known = cut(spans, spans[3].end_ns)
    ended = [msgspec.structs.replace(one, workload_id="write") for one in known if one.parent_id is not None]
    with_root, without = fitted.predict(known), fitted.predict(ended)
    assert without.remaining_llm_calls == with_root.remaining_llm_calls


@pytest.mark.parametrize("spans", [[], [span("a", 0, None), span("b", 0, None, trace_id="u")]])
def test_a_forecast_is_of_one_request(fitted, spans):
    with pytest.raises(InputError, match=f"one request; these are of {len(spans)}"):
        fitted.predict(spans)


def test_too_few_runs_are_refused_with_their_number():
    found = many(agent, 29)
    unfinished = cut(request(seeded(1), 99), EPOCH_NS + 99 * 60 * S + 1)
    with pytest.raises(InputError, match=r"needs 30 finished runs .* there are 29"):
        fit_forecast(flat(found) + unfinished)
    refused = forecast(SpanTable.from_spans([]))
    assert isinstance(refused, Refused)
    assert "there are 0" in refused.refused
    assert isinstance(fit_forecast(flat(many(agent, 30))), Forecaster)


def test_the_same_spans_give_the_same(agents, fitted):
    again = fit_forecast(flat(agents[:500])[::-1])
    assert again.evaluation == fitted.evaluation
    known = cut(agents[700], agents[700][4].end_ns)
    assert again.predict(known) == fitted.predict(known[::-1])
    assert isinstance(again.predict(known), Forecast)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    spans = flat(many(agent, 40))
    with pytest.raises(MissingExtraError, match=r"millstream\[profiling\]"):
        fit_forecast(spans)
    assert "profiling" in forecast(SpanTable.from_spans(spans)).refused


def test_without_usage_there_is_no_forecast_of_tokens():
    found = many(lambda rng, number: request(rng, number, usage=False), 40)
    forecaster = fit_forecast(flat(found))
    assert forecaster.predict(cut(found[0], found[0][2].end_ns)).remaining_tokens is None
    assert [row.target for row in forecaster.evaluation] == [
        "remaining_llm_calls",
        "remaining_s",
        "next_tool",
    ]
    assert "remaining_tokens" not in forecast(SpanTable.from_spans(flat(found)))


def test_of_very_many_states_requests_are_taken_evenly(monkeypatch):
    monkeypatch.setattr(states, "MAX_STATES", 400)
    table = SpanTable.from_spans(flat(many(agent, 200)))
    sample = states.finished_requests(table, requests(table))
    assert sample.finished == 200
    assert 20 < len(sample.traces) < 100
    assert (sample.traces[0], sample.traces[-1]) == (0, 199)
    assert np.ptp(np.diff(sample.traces)) <= 1
    forecaster = fit_forecast(table)
    assert (forecaster.runs, forecaster.runs_used) == (200, len(sample.traces))


def test_of_a_very_long_request_states_are_taken_evenly():
    table = SpanTable.from_spans(request(seeded(1), 0, loops=2_000))
    got = states_of(table, np.zeros(1, np.int64), requests(table))
    assert 150 <= len(got) <= states.MAX_STATES_A_REQUEST
    assert got.moment_ns[0] == table.start_ns[0]
    assert np.ptp(np.diff(got.llm_calls + got.tool_calls)) <= 1


def test_odd_spans_are_no_fault():
    """Failures, open calls, calls that outlive their request, requests without a root or without calls."""
    rng = seeded(4)
    found = []
    for number in range(60):
        spans = request(rng, number)
        if number % 3 == 0:
            spans[2] = msgspec.structs.replace(spans[2], status=Status.ERROR)
        if number % 4 == 0:
            spans[3] = msgspec.structs.replace(spans[3], end_ns=None, status=None)
        if number % 5 == 0:
            spans[-1] = msgspec.structs.replace(spans[-1], end_ns=spans[0].end_ns + 9 * S)
        if number % 6 == 0:
            spans = spans[1:]
        if number % 7 == 0:
            spans = spans[:1]
        found.append(spans)
    forecaster = fit_forecast(flat(found))
    for spans in found:
        if spans:
            assert_sound(forecaster.predict(cut(spans, spans[-1].start_ns + 1)))


def test_the_finding_is_what_to_expect_of_the_next_request():
    found = forecast(SpanTable.from_spans(runs(80, seed=6)))
    document = msgspec.json.decode(json_bytes(found))
    assert list(document) == [*TARGETS, "next_tool"]
    for target in TARGETS:
        assert set(document[target]) >= {"low", "median", "high", "model", "error", "coverage", "n"}
        assert 0 < document[target]["low"] <= document[target]["median"] <= document[target]["high"]
    assert document["next_tool"]["tools"][0]["tool"] == "email_phishing_analyzer"


def test_a_row_is_read_by_attribute_and_by_key(fitted):
    row = fitted.evaluation[0]
    assert row["target"] == row.target == "remaining_llm_calls"
    assert dict(row)["coverage"] == row.coverage
    with pytest.raises(KeyError):
        row["nothing"]


def test_workflow_run_times_are_percentiles_of_what_was_observed():
    """The reference's runtime forecast: also of failed requests, not of unfinished ones."""
    spans = list(runs(80, seed=8))
    at = next(at for at, one in enumerate(spans) if one.parent_id is None)
    spans[at] = msgspec.structs.replace(spans[at], end_ns=None, status=Status.INTERRUPTED)
    roots = [one for one in spans if one.parent_id is None and one.end_ns is not None]
    assert 0 < len(roots) < 80
    assert any(one.status is Status.ERROR for one in roots)
    observed = [(one.end_ns - one.start_ns) / S for one in roots]
    found = runtime_percentiles(SpanTable.from_spans(spans))
    assert (found.p90, found.p95, found.p99) == pytest.approx(tuple(np.percentile(observed, [90, 95, 99])))


def test_what_is_loaded_for_fitting_keeps_to_one_thread():
    code = (
        "from millstream.profiler.forecast.models import one_thread\n"
        "with one_thread():\n"
        "    import sklearn.ensemble, threadpoolctl\n"
        "    found = [one for one in threadpoolctl.threadpool_info() if one['user_api'] == 'openmp']\n"
        "print([one['num_threads'] for one in found])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "4"},
    )
    assert set(json.loads(done.stdout)) == {1}
