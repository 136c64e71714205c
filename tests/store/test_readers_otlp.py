"""OTLP as JSON: by the SDK of OpenTelemetry, in every spelling, and with what is bad in it."""

import base64
import json

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link
from opentelemetry.trace import SpanKind as OTelKind

from millstream import SpanKind, Status, Usage, open_store, semconv
from millstream.span import SpanError

MESSAGES = [{"role": "user", "parts": [{"type": "text", "content": "Rain?"}]}]


@pytest.fixture
def exported():
    """What the SDK makes of a run with an agent, a model call twice instrumented, a tool and an error."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "mill"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("some.instrumentation", "1.2")
    with tracer.start_as_current_span("agent", attributes={"openinference.span.kind": "AGENT"}) as agent:
        call = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-x",
            "gen_ai.provider.name": "openai",
            "gen_ai.response.id": "r1",
            "gen_ai.input.messages": json.dumps(MESSAGES),
        }
        with (
            tracer.start_as_current_span("chat gpt-x", kind=OTelKind.CLIENT, attributes=call),
            tracer.start_as_current_span(
                "ChatCompletion", attributes={"openinference.span.kind": "LLM"}
            ) as inner,
        ):
            inner.set_attributes({"llm.token_count.prompt": 7, "llm.token_count.completion": 3})
        link = Link(agent.get_span_context(), {"why": "asked"})
        with (
            pytest.raises(KeyError),
            tracer.start_as_current_span("execute_tool find", links=[link]) as tool,
        ):
            tool.set_attributes(
                {"gen_ai.operation.name": "execute_tool", "list": [1, 2], "part": 0.5, "yes": True}
            )
            raise KeyError("rain")
    return encode_spans(memory.get_finished_spans())


def as_protobuf_json(request):
    """Ids in base64, enums by name: what protobuf's own mapping makes."""
    return MessageToDict(request)


def as_snake_case(request):
    return MessageToDict(request, preserving_proto_field_name=True)


def as_numbers(request):
    return MessageToDict(request, use_integers_for_enums=True)


def as_collector(request):
    """Ids in hex, enums as numbers: what OTLP says and collectors write."""
    return with_hex_ids(as_numbers(request))


def as_pascal_case(request):
    def renamed(value):
        if isinstance(value, dict):
            return {key[0].upper() + key[1:]: renamed(inner) for key, inner in value.items()}
        return [renamed(one) for one in value] if isinstance(value, list) else value

    return renamed(as_collector(request))


def with_hex_ids(value):
    if isinstance(value, dict):
        return {
            key: base64.b64decode(inner).hex()
            if key in ("traceId", "spanId", "parentSpanId")
            else with_hex_ids(inner)
            for key, inner in value.items()
        }
    return [with_hex_ids(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("told", [as_protobuf_json, as_snake_case, as_numbers, as_collector, as_pascal_case])
@pytest.mark.parametrize("layout", ["line", "array", "indented"])
def test_spans_of_the_sdk_are_told_as_copied_ones_are(exported, tmp_path, told, layout):
    request = told(exported)
    path = tmp_path / "traces.json"
    path.write_text(
        {
            "line": json.dumps(request) + "\n",
            "array": json.dumps([request]),
            "indented": json.dumps(request, indent=1),
        }[layout]
    )
    store = open_store(path)
    tool, call, agent = sorted(store.spans(), key=lambda span: -span.start_ns)
    assert not store.rejected
    assert store.merged == {"LLM": 1}  # seen by two instrumentations
    assert [span.kind for span in (agent, call, tool)] == [SpanKind.AGENT, SpanKind.LLM, SpanKind.TOOL]
    assert [span.parent_id for span in (agent, call, tool)] == [None, agent.span_id, agent.span_id]
    assert (len(agent.trace_id), len(agent.span_id)) == (32, 16)
    assert call.usage == Usage(input_tokens=7, output_tokens=3)
    assert call.input == [{"role": "user", "content": "Rain?"}]
    assert call.attributes[semconv.REQUEST_MODEL] == "gpt-x"
    assert call.attributes[semconv.SPAN_KIND] == "CLIENT"
    assert (call.status, tool.status) == (Status.OK, Status.ERROR)
    assert tool.error == SpanError("KeyError", "'rain'")
    assert (
        tool.attributes.items() >= {"list": [1, 2], "part": 0.5, "yes": True, "service.name": "mill"}.items()
    )
    assert [(link.span_id, link.attributes) for link in tool.links] == [(agent.span_id, {"why": "asked"})]
    assert agent.start_ns <= call.start_ns <= call.end_ns <= agent.end_ns
    assert list(store.spans(["f" * 32])) == []
    assert len(list(store.spans([agent.trace_id]))) == 3


def request(*spans, **scope):
    return {"resourceSpans": [{"scopeSpans": [{"spans": list(spans), **scope}]}]}


def one(**fields):
    return {
        "traceId": "a" * 32,
        "spanId": "b" * 16,
        "name": "n",
        "startTimeUnixNano": "5",
        "endTimeUnixNano": "9",
    } | fields


@pytest.fixture
def read(tmp_path):
    """Reads the objects; gives the spans and what was rejected."""

    def read(*requests):
        path = tmp_path / "traces.jsonl"
        lines = [each if isinstance(each, str) else json.dumps(each) for each in requests]
        path.write_text("\n".join(lines))
        store = open_store(path)
        return list(store.spans()), dict(store.rejected)

    return read


def test_a_bad_span_is_counted_and_the_others_of_its_request_are_read(read):
    bad = [
        one(traceId=""),
        one(traceId="0" * 32),
        one(spanId="xyz"),
        one(spanId=7),
        one(startTimeUnixNano=None),
        one(startTimeUnixNano="soon"),
        None,
        5,
    ]
    good = one(
        spanId="c" * 16, parentSpanId="", kind=99, status=7, attributes="none", events=[None], links=[{}]
    )
    (span,), rejected = read(request(*bad, good))
    assert (span.span_id, span.parent_id, span.kind, span.duration_s) == ("c" * 16, None, SpanKind.TASK, 4e-9)
    assert sum(rejected.values()) == len(bad)
    assert rejected["span without a start time"] == 2


def test_a_torn_line_and_one_of_something_else_are_counted(read):
    spans, rejected = read(
        request(one()),
        json.dumps(request(one()))[:40],
        {"resourceLogs": []},
        {"resourceMetrics": []},
        {"x": 1},
        "[1]",
    )
    assert len(spans) == 1
    assert rejected == {
        "torn or not JSON": 1,
        "logs, not spans": 1,
        "metrics, not spans": 1,
        "not a request of OTLP": 2,
    }


def test_a_span_without_an_end_is_open(read):
    for end in (None, "0", 0):
        (span,), _ = read(request(one(endTimeUnixNano=end)))
        assert (span.end_ns, span.status) == (None, None)


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ({"stringValue": "a"}, "a"),
        ({"intValue": "9007199254740993"}, 9007199254740993),
        ({"int_value": 5}, 5),
        ({"boolValue": False}, False),
        ({"doubleValue": 0.25}, 0.25),
        ({"bytesValue": "AQI="}, "AQI="),
        ({"arrayValue": {"values": [{"intValue": "1"}, {}]}}, [1, None]),
        ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "k", "value": {"stringValue": "v"}}]}}, {"k": "v"}),
        ({"Value": {"IntValue": 5}}, None),
        ("plain", "plain"),
    ],
)
def test_values(read, value, read_as):
    (span,), rejected = read(request(one(attributes=[{"key": "a", "value": value}])))
    assert span.attributes.get("a") == read_as
    assert not rejected


def test_older_and_looser_spellings(read):
    (span,), _ = read(
        {
            "resourceSpans": [
                {
                    "instrumentationLibrarySpans": [
                        {
                            "instrumentationLibrary": {"name": "old", "version": "1"},
                            "spans": [
                                one(
                                    kind="SPAN_KIND_SERVER",
                                    status={"code": "STATUS_CODE_ERROR"},
                                    attributes={"a": 1},
                                )
                            ],
                        }
                    ]
                }
            ]
        }
    )
    assert (span.status, span.error) == (Status.ERROR, SpanError("Error", ""))
    assert span.attributes == {
        "a": 1,
        "otel.scope.name": "old",
        "otel.scope.version": "1",
        "span.kind": "SERVER",
    }


@pytest.mark.parametrize(("depth", "kept"), [(50, True), (150, True), (5000, False)])
def test_values_in_each_other_without_end_do_not_stop_the_reader(read, depth, kept):
    deep = '{"arrayValue": {"values": [' * depth + '{"stringValue": "a"}' + "]}}" * depth
    text = json.dumps(request(one(spanId="c" * 16, attributes=[{"key": "a", "value": 1}])))
    spans, rejected = read(request(one()), text.replace('"value": 1', f'"value": {deep}'))
    assert len(spans) == (2 if kept else 1)
    assert rejected == ({} if kept else {"torn or not JSON": 1})
    assert msgspec.json.encode(spans)
