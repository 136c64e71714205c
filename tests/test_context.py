import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream
from millstream import ObservabilityContext, extract, inject, start_span
from millstream.context import current, get_baggage, parse_traceparent
from millstream.errors import InputError

REMOTE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def test_a_trace_continues_over_a_carrier(spans):
    carrier = {"other": "kept"}
    with start_span("client") as client:
        inject(carrier)
    with extract(
        {"TraceParent": carrier["traceparent"], "tracestate": "v=1", "Baggage": "user%20id=a%2Cb;p=1,x=2,"}
    ) as remote:
        assert (remote.trace_id, remote.span_id) == (client.trace_id, client.span_id)
        assert get_baggage() == {"user id": "a,b", "x": "2"}
        onward: dict[str, str] = {}
        with start_span("server") as server:
            inject(onward)
    assert onward == {
        "traceparent": f"00-{client.trace_id}-{server.span_id}-01",
        "tracestate": "v=1",
        "baggage": "user%20id=a%2Cb;p=1,x=2",
    }
    assert spans()[1].parent_id == client.span_id
    assert current.get() is None
    assert get_baggage() == {}


def test_without_a_span_nothing_is_injected():
    carrier: dict[str, str] = {}
    inject(carrier)
    assert carrier == {}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "junk",
        REMOTE.upper(),
        REMOTE + "-x",
        "ff" + REMOTE[2:],
        REMOTE.replace("a", "0"),
        REMOTE.replace("b", "0"),
        REMOTE[:-1],
    ],
)
def test_an_invalid_traceparent_changes_nothing(header):
    with extract({"traceparent": header}) as remote:
        assert remote is None
        assert current.get() is None


def test_a_carrier_of_anything_does_not_raise():
    with extract({1: 2, "traceparent": None}) as remote:  # type: ignore[dict-item]
        assert remote is None


def test_leaving_in_another_context_does_not_raise():
    block = extract({"traceparent": REMOTE})
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)


def test_a_later_version_may_have_more_fields():
    assert parse_traceparent("01" + REMOTE[2:] + "-more") is not None


@given(st.text())
def test_no_header_raises(text):
    with extract({"traceparent": text, "baggage": text}):
        pass
    with extract({"traceparent": REMOTE, "baggage": text}):
        get_baggage()


def test_observability_context_round_trip():
    root = ObservabilityContext.create_root_context("main")
    root.add_attribute("team", "search")
    child = root.create_child_context("sub")
    child.add_attribute("only", "child")
    assert child.trace_id == root.trace_id
    assert child.root_span_id == root.root_span_id == root.current_span_id
    assert child.get_current_workflow().parent_workflow_id == root.current_span_id
    assert (root.get_workflow_depth(), child.get_workflow_depth()) == (0, 1)
    assert root.custom_attributes == {"team": "search"}
    assert ObservabilityContext.from_dict(child.to_dict()) == child
    assert len(root.workflow_chain) == 1


@pytest.mark.parametrize("change", [{"version": 2}, {"trace_id": 5}, {"workflow_chain": "x"}])
def test_a_wrong_dict_is_refused(change):
    value = ObservabilityContext.create_root_context("main").to_dict()
    with pytest.raises(InputError):
        ObservabilityContext.from_dict({**value, **change})
    with pytest.raises(millstream.MillstreamError):
        ObservabilityContext.from_dict({})
