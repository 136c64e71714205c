"""Cost against exact fractions, span by span; price tables of all origins."""

import json
import sys
from datetime import date
from fractions import Fraction

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import ConfigError
from millstream.profiler import cost as module
from millstream.profiler.cost import LongPrice, Price, PriceTable, cost, price_table
from millstream.semconv import REQUEST_MODEL
from millstream.span import SpanKind, Status, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, span

TABLE = PriceTable(
    "EUR",
    "2026-01-02",
    {
        "big": Price(3, 15, 0.3),
        "old": Price(10, 30),
        "long": Price(1, 2, 0.1, LongPrice(1000, 2, 3, 0.5)),
    },
)


def call(number, model, usage=None, *, trace="t", end=2, **fields):
    fields = {"kind": SpanKind.LLM, "attributes": {REQUEST_MODEL: model}, **fields}
    return span(f"{number}", 1, end, trace_id=trace, usage=usage, **fields)


def of(spans, table=TABLE):
    return cost(SpanTable.from_spans(spans), table)


@pytest.mark.parametrize(
    ("model", "usage", "millionths"),
    [
        ("big", Usage(1000, 100, 0), 1000 * 3 + 100 * 15),
        ("big", Usage(1000, 100, 400), 600 * 3 + 400 * 0.3 + 100 * 15),
        ("big", Usage(1000, 100), 1000 * 3 + 100 * 15),
        ("big", Usage(0, 0, 0), 0),
        ("old", Usage(1000, 100, 400), 1000 * 10 + 100 * 30),
        ("long", Usage(1000, 10, 100), 900 * 1 + 100 * 0.1 + 10 * 2),
        ("long", Usage(1001, 10, 100), 901 * 2 + 100 * 0.5 + 10 * 3),
        ("big-2026-05-06", Usage(10, 0), 30),
    ],
)
def test_a_call_costs_its_tokens_times_their_prices(model, usage, millionths):
    found = of([call(1, model, usage)])
    assert found.total == pytest.approx(millionths / 1e6)
    assert (found.currency, found.priced, found.unpriced) == ("EUR", 1, {})
    assert found.cache_unknown == (usage.cache_read_tokens is None)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (call(1, "bigger", Usage(1, 1)), module.MODEL_UNKNOWN),
        (call(1, "big", end=None), module.OPEN),
        (call(1, "big", status=Status.ERROR), module.FAILED),
        (call(1, "big"), module.INPUT_UNKNOWN),
        (call(1, "big", Usage(None, 5)), module.INPUT_UNKNOWN),
        (call(1, "big", Usage(5, None)), module.OUTPUT_UNKNOWN),
        (call(1, "big", Usage(5, 5, 6)), module.CACHE_ABOVE_INPUT),
    ],
)
def test_what_cannot_be_priced_has_no_cost_and_a_reason(one, reason):
    found = of([one])
    assert (found.total, found.priced, found.unpriced) == (None, 0, {reason: 1})
    assert (found.requests, found.requests_unpriced, found.cost_per_request.value) == (0, 1, None)
    assert found.models[0].cost is None
    assert found.models[0].unpriced == {reason: 1}


counts = st.none() | st.integers(0, 2000)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("tuv"),
            st.sampled_from(["big", "old", "long", "none"]),
            st.tuples(counts, counts, counts),
        ),
        max_size=12,
    )
)
def test_totals_are_the_sums_of_the_calls(calls):
    spans = [call(n, model, Usage(*usage), trace=trace) for n, (trace, model, usage) in enumerate(calls)]
    spans.append(span("f", 0, 1, trace_id="without calls"))
    by_trace, whole = {"without calls": Fraction(0)}, {"without calls"}
    for one in spans[:-1]:
        by_trace.setdefault(one.trace_id, Fraction(0))
        whole.add(one.trace_id)
    total, priced = Fraction(0), 0
    for trace, model, (given_input, output, cached) in calls:
        price = TABLE.models.get(model)
        if price is None or given_input is None or output is None or (cached or 0) > given_input:
            whole.discard(trace)
            continue
        if price.above and given_input > price.above.input_tokens:
            price = price.above
        cheap = price.input if price.cache_read is None else price.cache_read
        fresh = given_input - (cached or 0)
        amount = (
            fresh * Fraction(price.input) + (cached or 0) * Fraction(cheap) + output * Fraction(price.output)
        )
        total, priced = total + amount / 10**6, priced + 1
        by_trace[trace] += amount / 10**6
    found = of(spans)
    assert found.priced == priced
    assert (found.total or 0) == pytest.approx(float(total), abs=1e-12)
    assert (found.total is None) == (bool(calls) and not priced)
    assert sum(found.unpriced.values()) == found.calls - found.priced == len(calls) - priced
    assert sum(row.cost or 0 for row in found.models) == pytest.approx(float(total), abs=1e-12)
    assert found.requests == len(whole)
    assert found.requests_unpriced == len(by_trace) - len(whole)
    mean = sum((by_trace[trace] for trace in whole), Fraction(0)) / len(whole)
    assert found.cost_per_request.value == pytest.approx(float(mean), abs=1e-12)


def test_the_mean_cost_of_a_request_has_students_interval():
    sizes = [100, 200, 400, 800]
    found = of([call(n, "big", Usage(size, 0), trace=str(n)) for n, size in enumerate(sizes)])
    costs = [3 * size / 1e6 for size in sizes]
    interval = scipy.stats.t.interval(0.95, 3, scipy.stats.tmean(costs), scipy.stats.sem(costs))
    assert (found.cost_per_request.low, found.cost_per_request.high) == pytest.approx(
        (max(interval[0], 0), interval[1])
    )


def test_no_spans_cost_nothing():
    found = of([])
    assert (found.total, found.calls, found.requests, found.models) == (0, 0, 0, [])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-haiku-4-5@20251001", "claude-haiku-4-5"),
        ("gpt-4o-2024-13-06", None),
        ("gpt-4o-2024", None),
        ("gpt-4o-latest-mini", None),
        ("ft:gpt-4o-2024-08-06:acme", None),
        ("openai/gpt-4o", None),
        ("GPT-4o", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_its_name_or_without_its_date_and_never_by_guess(model, name):
    assert price_table().match(model) == name


def test_our_table_says_when_and_whence_and_is_sound():
    table = price_table()
    assert date.fromisoformat(table.date) >= date(2026, 11, 1)
    assert table.source
    assert table.note
    assert len(table.models) > 50
    for price in table.models.values():
        assert 0 < price.input < price.output
        assert price.cache_read is None or 0 < price.cache_read < price.input
        assert price.above is None or price.above.input > price.input
        assert price.sources in {1, 2}
        assert price.date == table.date


def test_a_file_of_the_user_goes_over_our_prices(tmp_path):
    document = {"currency": "USD", "date": "2026-11-01", "models": {"gpt-4o": {"input": 1, "output": 2}}}
    path = tmp_path / "ours.json"
    path.write_text(json.dumps(document))
    table = price_table(path)
    assert (table.models["gpt-4o"].input, table.models["gpt-4o"].date) == (1, "2026-11-01")
    assert table.models["gpt-4.1"].date == price_table().date
    assert table.date == "2026-11-01"


def test_a_file_in_another_currency_stands_alone(tmp_path):
    path = tmp_path / "ours.toml"
    path.write_text('currency = "EUR"\ndate = 2026-11-01\n[models."my-model"]\ninput = 1\noutput = 2.5\n')
    table = price_table(path)
    assert (table.currency, table.date, list(table.models)) == ("EUR", "2026-11-01", ["my-model"])


@pytest.mark.parametrize("ending", ["yml", "yaml"])
def test_a_file_may_be_yaml(tmp_path, ending):
    path = tmp_path / f"ours.{ending}"
    path.write_text("currency: EUR\ndate: 2026-11-01\nmodels:\n  my-model: {input: 1, output: 2.5}\n")
    assert price_table(path).models["my-model"].output == 2.5
    path.write_text("currency: [")
    with pytest.raises(ConfigError, match="is no YAML, which its ending says"):
        price_table(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON, which its ending says"),
        ("[]", "object"),
        ('{"currency": "USD"}', "date"),
        ('{"currency": "dollars", "date": "2026-11-01", "models": {}}', "currency"),
        ('{"currency": "USD", "date": "2026-11-01", "models": {"m": {"input": -1, "output": 1}}}', "models"),
        ('{"currency": "USD", "date": "2026-11-01", "models": {"m": {"input": 1}}}', "output"),
        (
            '{"currency": "USD", "date": "2026-11-01", "models": {"m": {"input": 1, "output": 1, "in": 1}}}',
            "in",
        ),
    ],
)
def test_a_file_that_is_wrong_is_told_of(tmp_path, text, says):
    path = tmp_path / "ours.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as raised:
        price_table(path)
    assert "ours.json" in str(raised.value)


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_price_is_a_number(tmp_path, number):
    path = tmp_path / "ours.toml"
    path.write_text(f'currency = "EUR"\ndate = "2026-11-01"\n[models.m]\ninput = {number}\noutput = 1\n')
    with pytest.raises(ConfigError, match="input"):
        price_table(path)


def test_a_file_that_is_not_there_is_told_of(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        price_table(tmp_path / "ours.json")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with an entry point for prices."""
    name = "acme_prices_for_tests"

    def install(body):
        (tmp_path / f"{name}.py").write_text(body)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[millstream.prices]\nacme = {name}:prices\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield install
    sys.modules.pop(name, None)


def test_an_installed_package_brings_prices(package, tmp_path):
    package(
        "def prices():\n    return {'currency': 'USD', 'date': '2026-10-01', 'source': 'acme',\n"
        "        'models': {'acme-1': {'input': 1, 'output': 2}, 'gpt-4o': {'input': 7, 'output': 8}}}\n"
    )
    table = price_table()
    assert (table.models["acme-1"].source, table.models["gpt-4o"].input) == ("acme", 7)
    path = tmp_path / "ours.json"
    path.write_text(
        '{"currency": "USD", "date": "2026-11-01", "models": {"acme-1": {"input": 3, "output": 4}}}'
    )
    assert (price_table(path).models["acme-1"].input, price_table(path).models["gpt-4o"].input) == (3, 7)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def prices():\n    return {'models': {}}\n", "currency"),
        ("def prices():\n    raise OSError('no network')\n", "no network"),
        ("def prices():\n    return None\n", "object"),
        ("x = 1\n", "cannot be loaded"),
    ],
)
def test_a_package_whose_prices_are_wrong_is_named(package, body, says):
    package(body)
    with pytest.raises(ConfigError, match=says) as raised:
        price_table()
    assert "acme" in str(raised.value)


def test_realistic_runs_are_priced_in_full_or_counted():
    prices = PriceTable("USD", "2026-01-02", {"meta-llama-3.1-8b-instruct": Price(0.2, 0.2)})
    found = of(list(runs(30)), prices)
    assert found.priced + sum(found.unpriced.values()) == found.calls > 0
    assert found.total == pytest.approx(sum(row.cost or 0 for row in found.models))
    assert set(found.unpriced) >= {module.MODEL_UNKNOWN}
