"""Spans in OTLP's protobuf: nothing that was recorded is lost or changed on the way."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, TraceFlags
from opentelemetry.trace import SpanKind as OTelKind

import millstream
from millstream import SpanKind, Status, Usage, semconv
from millstream.deliver import otlp_encoding, otlp_messages
from millstream.span import SpanError, SpanEvent, SpanLink
from millstream.store.translate import translate
from tests.servers.spans import SECOND, START, span

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
UNSET, OK, ERROR = 0, 1, 2


def encoded(recorded, **options):
    return trace_pb2.Span.FromString(otlp_encoding.encode(0, recorded, **options).span)


def value(told):
    """What an AnyValue holds."""
    match told.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return [value(each) for each in told.array_value.values]
        case "kvlist_value":
            return {each.key: value(each.value) for each in told.kvlist_value.values}
        case name:
            return getattr(told, name)


def attributes(holder):
    told = {each.key: value(each.value) for each in holder.attributes}
    assert len(told) == len(holder.attributes)  # each once
    return told


# Values

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.text(min_size=1).map("user.{}".format), JSON.filter(lambda each: each is not None), max_size=5
    )
)
def test_attributes_of_any_json(given):
    told = attributes(encoded(span(attributes=given)))
    assert {key: told[key] for key in given} == given
    assert {key: type(told[key]) for key in given} == {key: type(each) for key, each in given.items()}


@given(JSON, JSON)
def test_input_and_output_of_any_json(asked, answered):
    told = attributes(encoded(span(kind=SpanKind.FUNCTION, input=asked, output=answered)))
    for side, content in (("input", asked), ("output", answered)):
        if content is None:
            assert f"{side}.value" not in told
        elif isinstance(content, str):
            assert (told[f"{side}.value"], told[f"{side}.mime_type"]) == (content, "text/plain")
        else:
            assert told[f"{side}.mime_type"] == "application/json"
            assert json.loads(told[f"{side}.value"]) == content


def test_values_that_protobuf_has_no_room_for():
    deep = "stone"
    for _ in range(200):
        deep = [deep]
    told = attributes(
        encoded(span(attributes={"large": 10**30, "none": None, "deep": deep, "inf": math.inf}))
    )
    assert (told["large"], told["inf"]) == ("1" + "0" * 30, math.inf)
    assert "none" not in told
    inner, depth = told["deep"], 0
    while isinstance(inner, list):
        (inner,), depth = inner, depth + 1
    for _ in range(200 - depth):
        (inner,) = json.loads(inner) if isinstance(inner, str) else inner
    assert inner == "stone"


@pytest.mark.parametrize("character", ["x", "é", "𝄞", '"', "\n"])
@pytest.mark.parametrize("length", [100, 40_000, 1_200_000])
def test_long_texts(character, length):
    text = character * length
    recorded = span(kind=SpanKind.TOOL, input={"text": text}, output=text, attributes={"text": text, "n": 1})
    told = attributes(encoded(recorded))
    assert (told["text"], told["output.value"], told["gen_ai.tool.call.result"]) == (text, text, text)
    assert json.loads(told["input.value"]) == {"text": text}
    assert told["n"] == 1


def test_a_request_is_what_the_parts_say():
    spans = [otlp_encoding.encode(place, span(name=f"span {place}")) for place in range(300)]
    resource = otlp_encoding.resource({"service.name": "mill"})
    service = otlp_encoding.trace_service_pb2.ExportTraceServiceRequest
    request = service.FromString(otlp_encoding.request(resource, spans))
    (group,) = request.resource_spans
    assert attributes(group.resource) == {"service.name": "mill"}
    (scope,) = group.scope_spans
    assert [each.name for each in scope.spans] == [f"span {place}" for place in range(300)]
    assert request.SerializeToString() == otlp_encoding.request(resource, spans)


# Structure


def test_ids_times_and_places():
    recorded = span(
        start_ns=START + 7,
        end_ns=START + 11,
        events=[SpanEvent("poured", START + 9, {"sacks": 2})],
        links=[SpanLink("ab" * 16, "cd" * 8, {"why": "same grain"})],
    )
    told = encoded(recorded)
    assert told.trace_id.hex() == recorded.trace_id
    assert (told.span_id.hex(), told.parent_span_id.hex()) == (recorded.span_id, recorded.parent_id)
    assert (told.start_time_unix_nano, told.end_time_unix_nano) == (START + 7, START + 11)
    (event,) = told.events
    assert (event.name, event.time_unix_nano, attributes(event)) == ("poured", START + 9, {"sacks": 2})
    (link,) = told.links
    assert (link.trace_id.hex(), link.span_id.hex(), attributes(link)) == (
        "ab" * 16,
        "cd" * 8,
        {"why": "same grain"},
    )
    assert encoded(span(parent_id=None)).parent_span_id == b""


@pytest.mark.parametrize(
    ("kind", "told_kind", "openinference", "operation"),
    [
        (SpanKind.LLM, "CLIENT", "LLM", "chat"),
        (SpanKind.EMBEDDING, "CLIENT", "EMBEDDING", "embeddings"),
        (SpanKind.RETRIEVER, "CLIENT", "RETRIEVER", "retrieval"),
        (SpanKind.RERANKER, "CLIENT", "RERANKER", None),
        (SpanKind.TOOL, "INTERNAL", "TOOL", "execute_tool"),
        (SpanKind.AGENT, "INTERNAL", "AGENT", "invoke_agent"),
        (SpanKind.WORKFLOW, "INTERNAL", "CHAIN", "invoke_workflow"),
        (SpanKind.FUNCTION, "INTERNAL", "CHAIN", None),
        (SpanKind.TASK, "INTERNAL", "CHAIN", None),
        (SpanKind.GUARDRAIL, "INTERNAL", "GUARDRAIL", None),
    ],
)
def test_kinds(kind, told_kind, openinference, operation):
    told = encoded(span(kind=kind, name="grind"))
    known = attributes(told)
    assert KINDS[told.kind] == told_kind
    assert known["openinference.span.kind"] == openinference
    assert known.get("gen_ai.operation.name") == operation
    assert known.get("millstream.span.kind", openinference) == kind.value
    names = {SpanKind.TOOL: "gen_ai.tool.name", SpanKind.AGENT: "gen_ai.agent.name"}
    if kind in names:
        assert known[names[kind]] == "grind"


def test_what_a_span_was_given_itself_comes_first():
    given = {"gen_ai.operation.name": "text_completion", "gen_ai.tool.name": "sieve", "input.value": "mine"}
    assert given.items() <= attributes(encoded(span(attributes=given))).items()


def test_usage():
    told = attributes(encoded(span(usage=Usage(10, 4, 3, 2))))
    assert {key: told[key] for key in told if "usage" in key or "token_count" in key} == {
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "llm.token_count.prompt": 10,
        "llm.token_count.completion": 4,
        "llm.token_count.total": 14,
        "llm.token_count.prompt_details.cache_read": 3,
        "llm.token_count.completion_details.reasoning": 2,
    }
    told = attributes(encoded(span(usage=Usage(output_tokens=4))))
    assert not {"llm.token_count.total", "gen_ai.usage.input_tokens"} & told.keys()


# How it ended


def test_a_failed_span():
    failed = span(status=Status.ERROR, error=SpanError("KeyError", "'rye'"), output=msgspec.UNSET)
    told = encoded(failed)
    assert (told.status.code, told.status.message) == (ERROR, "KeyError: 'rye'")
    assert attributes(told)["error.type"] == "KeyError"
    (event,) = told.events
    assert (event.name, event.time_unix_nano) == ("exception", failed.end_ns)
    assert attributes(event) == {"exception.type": "KeyError", "exception.message": "'rye'"}


def test_an_exception_is_told_once():
    event = SpanEvent("exception", START, {"exception.type": "KeyError", "exception.stacktrace": "…"})
    told = encoded(span(status=Status.ERROR, error=SpanError("KeyError", ""), events=[event]))
    assert len(told.events) == 1
    assert told.status.message == "KeyError"


def test_a_cancelled_span_is_no_error():
    told = encoded(span(status=Status.CANCELLED, error=SpanError("CancelledError", "")))
    assert told.status.code == UNSET
    assert attributes(told)["millstream.status"] == "cancelled"
    assert "error.type" not in attributes(told)
    assert [event.name for event in told.events] == ["exception"]


def test_an_interrupted_span_ends_where_it_was_last_heard_of():
    events = [SpanEvent("poured", START + 5 * SECOND)]
    told = encoded(span(start_ns=START, end_ns=None, status=Status.INTERRUPTED, events=events))
    assert told.end_time_unix_nano == START + 5 * SECOND
    assert told.status.code == ERROR
    assert attributes(told)["error.type"] == "interrupted"
    assert encoded(span(start_ns=START, end_ns=None, status=Status.INTERRUPTED)).end_time_unix_nano == START


def test_a_span_that_ended_well():
    assert encoded(span()).status.code == OK


# Content


def messages(side, recorded):
    return json.loads(attributes(encoded(recorded))[f"gen_ai.{side}.messages"])


def test_messages_follow_the_conventions():
    asked = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "name": "Ann",
            "content": [
                {"type": "text", "text": "Look."},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "mp3"}},
                {"type": "file", "file": {"file_id": "f1"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "sieve", "arguments": '{"mesh": 3}'}},
                {"id": "c2", "type": "function", "function": {"name": "sieve", "arguments": "not JSON"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "fine"},
    ]
    developer, user, assistant, tool = messages("input", span(input=asked))
    assert developer == {"role": "developer", "parts": [{"type": "text", "content": "Be brief."}]}
    assert user == {
        "role": "user",
        "name": "Ann",
        "parts": [
            {"type": "text", "content": "Look."},
            {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
            {"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AAAA"},
            {"type": "blob", "modality": "audio", "mime_type": "audio/mp3", "content": "BBBB"},
            {"type": "file", "modality": "file", "file_id": "f1"},
        ],
    }
    assert assistant["parts"] == [
        {"type": "tool_call", "id": "c1", "name": "sieve", "arguments": {"mesh": 3}},
        {"type": "tool_call", "id": "c2", "name": "sieve", "arguments": "not JSON"},
    ]
    assert tool["parts"] == [{"type": "tool_call_response", "id": "c1", "response": "fine"}]


def test_answers_say_why_they_ended():
    choices = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}]
    reasons = {semconv.RESPONSE_FINISH_REASONS: ["length"]}
    first, second = messages("output", span(output=choices, attributes=reasons))
    assert (first["finish_reason"], second["finish_reason"]) == ("length", "stop")
    call = {"id": "c1", "type": "function", "function": {"name": "sieve", "arguments": "{}"}}
    thinking = {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call]}
    reasons = {semconv.RESPONSE_FINISH_REASONS: ["tool_calls"]}
    (made,) = messages("output", span(output=thinking, attributes=reasons))
    assert made["finish_reason"] == "tool_call"
    assert [part["type"] for part in made["parts"]] == ["reasoning", "tool_call"]
    (made,) = messages("output", span(output="plain"))
    assert made["parts"] == [{"type": "text", "content": "plain"}]


@pytest.mark.parametrize("content", [msgspec.UNSET, None, {"grain": "rye"}, 7, [], [1, 2]])
def test_what_holds_no_messages(content):
    told = attributes(encoded(span(input=content, output=content)))
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & told.keys()
    assert ("input.value" in told) == (content is not msgspec.UNSET and content is not None)


@given(JSON, JSON)
def test_messages_of_anything(asked, answered):
    for made in (otlp_messages.given(asked), otlp_messages.made(answered, asked)):
        for message in made or ():
            assert isinstance(message["role"], str)
            assert all(isinstance(part["type"], str) for part in message["parts"])


def test_tools_follow_the_conventions():
    function = {"name": "sieve", "description": "Sieves.", "parameters": {"type": "object"}}
    given = {semconv.TOOL_DEFINITIONS: [{"type": "function", "function": function}, {"type": "web_search"}]}
    told = json.loads(attributes(encoded(span(attributes=given)))[semconv.TOOL_DEFINITIONS])
    assert told == [{"type": "function", **function}, {"type": "web_search"}]


def test_content_once():
    for recorded in (
        span(),
        span(kind=SpanKind.TOOL),
        span(kind=SpanKind.RETRIEVER, output=[{"content": "a"}]),
    ):
        lean = attributes(encoded(recorded, once=True))
        whole = attributes(encoded(recorded))
        assert lean.items() < whole.items()
        assert {"input.value", "output.value"} <= lean.keys()


def test_what_is_sent_can_be_read_back_by_us():
    """As our own reader does with spans of OpenInference and of the conventions."""
    call = {"id": "c1", "type": "function", "function": {"name": "sieve", "arguments": '{"mesh":3}'}}
    recorded = span(
        input=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Sieve."}],
        output={"role": "assistant", "content": None, "tool_calls": [call]},
        usage=Usage(10, 4, 3, 2),
    )
    sent = encoded(recorded)
    told = {**attributes(sent), semconv.OTEL_SPAN_KIND: KINDS[sent.kind]}
    again = translate(
        span(kind=SpanKind.TASK, input=msgspec.UNSET, output=msgspec.UNSET, usage=None, attributes=told)
    )
    assert (again.kind, again.input, again.output, again.usage) == (
        recorded.kind,
        recorded.input,
        recorded.output,
        recorded.usage,
    )


# Copied from OpenTelemetry


def test_copied_spans_keep_their_kind_and_scope(spans):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(millstream.OTelSpanProcessor())
    tracer = provider.get_tracer("grinding", "2.1")
    other = SpanContext(int("ab" * 16, 16), int("cd" * 8, 16), is_remote=True, trace_flags=TraceFlags(1))
    with (
        tracer.start_as_current_span(
            "request", kind=OTelKind.SERVER, links=[Link(other, {"n": 1})]
        ) as server,
        tracer.start_as_current_span("queue", kind=OTelKind.PRODUCER) as producer,
    ):
        server.add_event("poured", {"sacks": 2})
        with millstream.start_span("ours"):
            pass
    provider.shutdown()

    ours, queue, request = sorted(spans(), key=lambda each: each.name)
    assert [KINDS[encoded(each).kind] for each in (ours, queue, request)] == [
        "INTERNAL",
        "PRODUCER",
        "SERVER",
    ]
    told = encoded(request)
    assert told.trace_id.hex() == f"{server.context.trace_id:032x}"
    assert told.span_id.hex() == f"{server.context.span_id:016x}"
    assert encoded(queue).span_id.hex() == f"{producer.context.span_id:016x}"
    assert [link.span_id.hex() for link in told.links] == ["cd" * 8]
    assert [(event.name, attributes(event)) for event in told.events] == [("poured", {"sacks": 2})]
    scope = otlp_encoding.InstrumentationScope.FromString(otlp_encoding.encode(0, request).scope)
    assert (scope.name, scope.version) == ("grinding", "2.1")
    assert (
        not {"otel.scope.name", "otel.scope.version", "span.kind", "openinference.span.kind"}
        & attributes(told).keys()
    )
    assert attributes(encoded(ours))["openinference.span.kind"] == "CHAIN"
