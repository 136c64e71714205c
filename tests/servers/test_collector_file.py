"""Recorded, sent by OTLP, written to a file by a real collector, and read back from that file."""

import gzip

import msgspec
import pytest

from millstream import SpanKind, Status, open_store, start_span, track_function, track_unregistered_function
from millstream.deliver.otlp import OtlpSink
from millstream.span import SpanError, Usage
from tests.profiler.profiler_synthetic import runs
from tests.servers.collector import RECEIVED
from tests.servers.spans import span as made_up

PATIENCE_S = 60.0


@track_function
def look_up(city, days=1):
    return [f"rain in {city}"] * days


@track_unregistered_function(name="planning")
def plan(city):
    with start_span("weather", kind=SpanKind.TOOL, input={"city": city}) as tool:
        tool.set_output(42)
    with start_span("find", kind=SpanKind.RETRIEVER, input="rain") as found:
        found.set_output([{"content": "It rains.", "metadata": {"page": 7}}, {"content": "It pours."}])
    return look_up(city, days=2)


@pytest.fixture
def recorded(spans):
    """A run of every kind of span, some failed."""
    with start_span("answering", kind=SpanKind.WORKFLOW, input={"question": "Rain?"}) as workflow:
        plan("Oslo")
        for kind in SpanKind:
            with start_span(f"a {kind.value}", kind=kind, input=["of", kind.value]) as one:
                one.set_output({"deep": {"kind": kind.value, "none": None}, "n": 1.5})
        with pytest.raises(KeyError), start_span("fails", attributes={"sacks": [1, 2], "big": 2**40}):
            raise KeyError("no plan")
        workflow.set_output("yes")
    return spans()


def send(collector, spans):
    """The file in which the collector keeps what it was sent, those spans only."""
    before = len((collector.folder / RECEIVED).read_bytes().splitlines())
    sink = OtlpSink(endpoint=collector.url)
    try:
        assert sink.send(spans) == [None] * len(spans)
    finally:
        sink.close()
    collector.wait_for(len(spans), PATIENCE_S)
    return b"\n".join((collector.folder / RECEIVED).read_bytes().splitlines()[before:]) + b"\n"


def as_told(span):
    """A span without the attributes that are told in addition."""
    told = {key: value for key, value in span.attributes.items() if not key.startswith("gen_ai.")}
    return msgspec.structs.replace(span, attributes=told)


def test_recorded_spans_come_back_whole(collector, recorded, tmp_path):
    path = tmp_path / "received"  # without a suffix
    path.write_bytes(send(collector, recorded))
    store = open_store(path)
    read = {span.span_id: span for span in store.spans()}
    assert store.format == "otlp_json"
    assert not store.rejected
    assert len(read) == len(recorded)
    for sent in recorded:
        got = read[sent.span_id]
        assert as_told(got) == as_told(sent), sent.name
        told = {key: value for key, value in sent.attributes.items() if value is not None}
        assert got.attributes.items() >= told.items()
        assert got.attributes.keys() - told.keys() <= {
            "gen_ai.operation.name",
            "gen_ai.tool.name",
            "gen_ai.agent.name",
            "gen_ai.workflow.name",
        }


def test_made_up_runs_come_back_with_kinds_tokens_and_parents(collector, tmp_path):
    sent = list(runs(20, seed=5))
    sent.append(made_up(kind=SpanKind.TOOL, status=Status.CANCELLED, error=SpanError("CancelledError", "")))
    sent.append(made_up(kind=SpanKind.LLM, usage=Usage(input_tokens=0, output_tokens=7), workload_id="w"))
    sent.append(made_up(kind=SpanKind.AGENT, status=Status.INTERRUPTED, end_ns=None))
    sent.append(made_up(kind=SpanKind.LLM, status=Status.ERROR, error=SpanError("a.b.Late", "late: 5 s")))
    sent.append(made_up(kind=SpanKind.TASK, status=Status.ERROR))
    copied = {"otel.scope.name": "theirs", "otel.scope.version": "1", "span.kind": "SERVER"}
    sent.append(made_up(kind=SpanKind.WORKFLOW, attributes=copied, usage=None))
    path = tmp_path / "traces.json.gz"
    path.write_bytes(gzip.compress(send(collector, sent)))
    read = {span.span_id: span for span in open_store(path).spans()}
    assert len(read) == len(sent)
    for one in sent:
        got = read[one.span_id]
        for field in ("trace_id", "parent_id", "name", "kind", "start_ns", "status", "error", "usage"):
            assert getattr(got, field) == getattr(one, field), field
        output = msgspec.UNSET if one.output is None else one.output  # OTLP has no place for null
        assert (got.workload_id, got.input, got.output) == (one.workload_id, one.input, output)
        assert got.end_ns == one.end_ns
        assert got.events == one.events
