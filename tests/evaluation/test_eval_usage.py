"""What model calls used: sums, unknown parts, and prices that are those of the profile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import semconv
from millstream.evaluation.usage import CallFigures, call_figures, calls_text, together
from millstream.profiler.cost import LongPrice, Price, PriceTable, cost, cost_of_call, request_costs
from millstream.span import Span, SpanKind, Status, Usage
from millstream.store.table import SpanTable

PRICES = PriceTable(
    currency="USD",
    date="2026-01-01",
    models={
        "plain": Price(2.0, 8.0),
        "cached": Price(2.0, 8.0, cache_read=0.5, above=LongPrice(1000, 4.0, 16.0)),
    },
)


def call(number=1, model="plain", usage=None, **attributes):
    return Span(
        f"{1:032x}",
        f"{number:016x}",
        None,
        model,
        SpanKind.LLM,
        number * 10**9,
        (number + 1) * 10**9,
        Status.OK,
        usage=usage,
        attributes=attributes,
    )


tokens = st.none() | st.integers(-2, 3000) | st.just(2**41)


@given(
    st.sampled_from(["plain", "plain-2026-01-01", "cached", "unheard-of"]),
    st.none() | st.builds(Usage, tokens, tokens, tokens),
    st.booleans(),
)
def test_one_call_costs_what_the_profile_says(model, usage, from_cache):
    span = call(model=model, usage=usage, **({semconv.CACHED: True} if from_cache else {}))
    found = cost(SpanTable.from_spans([span]), PRICES)
    assert cost_of_call(span, PRICES) == pytest.approx(found.total)
    assert found.cached == from_cache
    assert found.priced + sum(found.unpriced.values()) == found.calls == 1


def test_calls_from_the_cache_cost_nothing_and_are_counted():
    used = Usage(1000, 100)
    spans = [call(1, usage=used), call(2, usage=used, **{semconv.CACHED: True})]
    found = cost(SpanTable.from_spans(spans), PRICES)
    assert found.total == pytest.approx(0.0028)
    assert (found.calls, found.priced, found.cached) == (2, 2, 1)
    assert found.models[0].cost == pytest.approx(0.0028)
    figures = call_figures(spans, PRICES)
    assert figures == CallFigures(
        2, 1, 2000, 200, cost=pytest.approx(0.0028), latency_s=2.0, cost_known=pytest.approx(0.0028)
    )


def test_what_is_unknown_is_not_0():
    figures = call_figures([call(1), call(2, usage=Usage(10, 1))], PRICES)
    price = cost_of_call(call(2, usage=Usage(10, 1)), PRICES)
    assert figures == CallFigures(2, 0, 10, 1, cost=None, latency_s=2.0, cost_known=price, unpriced=1)
    assert call_figures([], PRICES) == CallFigures()
    assert together([]) == CallFigures()
    other = CallFigures(1, 0, 5, None, cost=0.5, latency_s=1.0, cost_known=0.5)
    assert together([figures, other]) == CallFigures(
        3, 0, 15, 1, cost=None, latency_s=3.0, cost_known=price + 0.5, unpriced=1
    )
    assert together([CallFigures(), other]) == other


def test_in_words():
    assert calls_text(CallFigures(), "USD") == ""
    assert calls_text(CallFigures(1, 0, 1200, None, latency_s=0.5, unpriced=1), "USD") == (
        "1 call, 1,200 / ? tokens, cost unknown, 0.5 s"
    )
    assert calls_text(CallFigures(2, 1, 12, 3, cost=0.00012, cost_known=0.00012), "EUR") == (
        "2 calls, 1 cached, 12 / 3 tokens, 0.00012 EUR"
    )
    assert calls_text(CallFigures(2, 0, 12, 3, cost_known=0.00012, unpriced=1), "EUR") == (
        "2 calls, 12 / 3 tokens, at least 0.00012 EUR, 1 not priced"
    )


def test_what_the_cache_saved_is_what_its_calls_would_have_cost():
    used = Usage(1000, 100)
    kept = {semconv.CACHED: True}
    spans = [call(1, usage=used), call(2, usage=used, **kept), call(3, "unheard-of", used, **kept)]
    table = SpanTable.from_spans(spans)
    found = cost(table, PRICES)
    assert (found.total, found.saved) == (pytest.approx(0.0028), pytest.approx(0.0028))
    assert (found.priced, found.unpriced, found.cached, found.saved_unpriced) == (3, {}, 2, 1)
    by_name = {one.name: one for one in found.models}
    plain, unheard = by_name["plain"], by_name["unheard-of"]
    assert (plain.cached, plain.saved, plain.cost_per_call.value) == (1, plain.cost, plain.cost)
    assert (unheard.cached, unheard.saved, unheard.cost, unheard.cost_per_call.value) == (1, None, 0, None)
    assert request_costs(table, PRICES).tolist() == [pytest.approx(0.0028)]
    nothing = cost(SpanTable.from_spans(spans[:1]), PRICES)
    assert (nothing.cached, nothing.saved, nothing.saved_unpriced) == (0, 0, 0)
