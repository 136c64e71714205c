"""Dialects whose libraries no environment of ours can hold: what their earlier versions wrote.

What today's versions write is tested with the libraries themselves, in tests/integrations.
"""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import Span, SpanKind, Status, Usage, semconv
from millstream.span import SpanEvent
from millstream.store.translate import UNREADABLE, gen_ai, logfire, openinference, openllmetry, translate

UNSET = msgspec.UNSET
USER = {"role": "user", "content": "Weather?"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def told(attributes, events=(), scope="tests", **fields):
    span = Span("a" * 32, "b" * 16, None, "name", SpanKind.TASK, 10**18, 10**18 + 10**9, Status.OK, **fields)
    span.attributes = {semconv.OTEL_SCOPE_NAME: scope, semconv.OTEL_SPAN_KIND: "CLIENT", **attributes}
    span.events = list(events)
    return translate(span)


def left(span):
    """Attributes that nobody understood."""
    ours = {value for name, value in vars(semconv).items() if name.isupper()}
    return {key for key in span.attributes if key not in ours}


def test_what_is_not_from_opentelemetry_stays_as_it_is():
    span = Span("a" * 32, "b" * 16, None, "x", SpanKind.LLM, 0, attributes={"gen_ai.system": "OpenAI"})
    assert translate(span) is span
    assert span.attributes == {"gen_ai.system": "OpenAI"}


def test_openllmetry_with_a_message_an_attribute():
    span = told(
        {
            "llm.request.type": "chat",
            "gen_ai.system": "OpenAI",
            "gen_ai.request.model": "able",
            "gen_ai.request.temperature": 0.25,
            "llm.chat.stop_sequences": ("x",),
            "llm.is_streaming": False,
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "Weather?",
            "gen_ai.prompt.1.role": "assistant",
            "gen_ai.prompt.1.tool_calls.0.id": "c1",
            "gen_ai.prompt.1.tool_calls.0.name": "weather",
            "gen_ai.prompt.1.tool_calls.0.arguments": '{"city":"Oslo"}',
            "gen_ai.prompt.2.role": "tool",
            "gen_ai.prompt.2.tool_call_id": "c1",
            "gen_ai.prompt.2.content": "rain",
            "gen_ai.prompt.10.role": "user",
            "gen_ai.prompt.10.content": "Thanks.",
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "Welcome.",
            "gen_ai.completion.0.finish_reason": "stop",
            "llm.request.functions.0.name": "weather",
            "llm.request.functions.0.parameters": '{"type":"object"}',
            "gen_ai.usage.prompt_tokens": 30,
            "gen_ai.usage.completion_tokens": 12,
            "gen_ai.usage.cache_read_input_tokens": 16,
            "llm.usage.total_tokens": 42,
        }
    )
    assert span.kind is SpanKind.LLM
    assert span.input == [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        {"role": "user", "content": "Thanks."},
    ]
    assert span.output == {"role": "assistant", "content": "Welcome."}
    assert span.usage == Usage(30, 12, 16, None)
    assert span.attributes[semconv.TOOL_DEFINITIONS] == [TOOL]
    assert span.attributes[semconv.PROVIDER_NAME] == "openai"
    assert span.attributes[semconv.OPERATION_NAME] == "chat"
    assert span.attributes[semconv.REQUEST_STOP_SEQUENCES] == ["x"]
    assert span.attributes[semconv.RESPONSE_FINISH_REASONS] == ["stop"]
    assert left(span) == {"llm.is_streaming"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("workflow", SpanKind.WORKFLOW),
        ("task", SpanKind.TASK),
        ("agent", SpanKind.AGENT),
        ("tool", SpanKind.TOOL),
    ],
)
def test_openllmetry_decorators(kind, expected):
    span = told(
        {
            "traceloop.span.kind": kind,
            "traceloop.entity.name": "weather",
            "traceloop.entity.input": '{"args": [], "kwargs": {"city": "Oslo"}}',
            "traceloop.entity.output": '"rain"',
            "traceloop.workflow.name": "asking",
        }
    )
    assert span.kind is expected
    assert span.input == {"args": [], "kwargs": {"city": "Oslo"}}
    assert span.output == "rain"
    assert span.usage is None
    assert left(span) == {"traceloop.entity.name", "traceloop.workflow.name"}


REQUESTED = {
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "City", "schema": {"title": "City"}}},
    "reasoning_effort": "low",
}
OURS = {
    semconv.REQUEST_TOOL_CHOICE: REQUESTED["tool_choice"],
    semconv.REQUEST_PARALLEL_TOOL_CALLS: False,
    semconv.REQUEST_RESPONSE_FORMAT: REQUESTED["response_format"],
    semconv.REQUEST_REASONING_LEVEL: "low",
}
RESPONSES = {
    "tool_choice": REQUESTED["tool_choice"],
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "City", "schema": {"title": "City"}}},
    "reasoning": {"effort": "low"},
}


@pytest.mark.parametrize(
    ("attributes", "scope", "known"),
    [
        (
            {"openinference.span.kind": "LLM", "llm.invocation_parameters": json.dumps(REQUESTED)},
            "openinference.instrumentation.openai",
            OURS,
        ),
        (
            {"openinference.span.kind": "LLM", "llm.invocation_parameters": json.dumps(RESPONSES)},
            "openinference.instrumentation.openai",
            OURS,
        ),
        (
            {"request_data": json.dumps({"model": "able", "messages": [USER], **REQUESTED})},
            "logfire.openai",
            OURS,
        ),
        (
            {
                "llm.request.type": "chat",
                "llm.request.reasoning_effort": "low",
                "gen_ai.request.structured_output_schema": '{"title":"City"}',
            },
            "opentelemetry.instrumentation.openai.v1",
            {name: OURS[name] for name in (semconv.REQUEST_RESPONSE_FORMAT, semconv.REQUEST_REASONING_LEVEL)},
        ),
        (
            {"gen_ai.operation.name": "chat", semconv.REQUEST_REASONING_LEVEL: "low"},
            "tests",
            {semconv.REQUEST_REASONING_LEVEL: "low"},
        ),
    ],
)
def test_parameters_of_a_request(attributes, scope, known):
    span = told(attributes, scope=scope)
    assert {name: span.attributes.get(name) for name in OURS} == {**dict.fromkeys(OURS), **known}
    assert left(span) <= {"llm.invocation_parameters"}
    rest = span.attributes.get("llm.invocation_parameters", {})
    assert not rest.keys() & REQUESTED.keys() - {"reasoning"}


SAID = [{"role": "assistant", "content": text} for text in "ab"]


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "llm.request.type": "chat",
            **{f"gen_ai.completion.{n}.content": said["content"] for n, said in enumerate(SAID)},
        },
        {
            "openinference.span.kind": "LLM",
            "llm.invocation_parameters": '{"n": 2}',
            **{f"llm.output_messages.{n}.message.role": "assistant" for n in range(2)},
            **{f"llm.output_messages.{n}.message.content": one["content"] for n, one in enumerate(SAID)},
        },
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.output.messages": json.dumps(
                [
                    {"role": "assistant", "parts": [{"type": "text", "content": one["content"]}]}
                    for one in SAID
                ]
            ),
        },
    ],
)
def test_all_of_several_choices(attributes):
    span = told({"gen_ai.request.choice.count": 2, **attributes})
    assert span.output == SAID
    assert span.attributes[semconv.REQUEST_CHOICE_COUNT] == 2


def test_messages_as_events():
    def event(name, **attributes):
        return SpanEvent(name, 10**18, attributes)

    span = told(
        {"gen_ai.operation.name": "chat", "gen_ai.system": "az.ai.openai", "gen_ai.request.model": "able"},
        [
            event("gen_ai.system.message", content="Be brief."),
            event("gen_ai.user.message", **{"gen_ai.event.content": '{"content": "Weather?"}'}),
            event("gen_ai.assistant.message", tool_calls=json.dumps([CALL])),
            event("gen_ai.tool.message", content="rain", id="c1"),
            event("gen_ai.choice", index=0, finish_reason="stop", message='{"content": "Rain."}'),
            event("something else"),
        ],
    )
    assert span.input == [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
    ]
    assert span.output == {"role": "assistant", "content": "Rain."}
    assert span.attributes[semconv.PROVIDER_NAME] == "azure.ai.openai"
    assert [event.name for event in span.events] == ["something else"]


def test_pydantic_ai_with_messages_in_one_attribute():
    events = [
        {"event.name": "gen_ai.user.message", "content": "Weather?", "role": "user"},
        {"event.name": "gen_ai.choice", "index": 0, "message": {"role": "assistant", "tool_calls": [CALL]}},
    ]
    parameters = {"function_tools": [{"name": "weather", "parameters_json_schema": {"type": "object"}}]}
    span = told(
        {
            "gen_ai.operation.name": "chat",
            "events": json.dumps(events),
            "model_request_parameters": json.dumps(parameters),
        },
        scope="pydantic-ai",
    )
    assert span.input == [USER]
    assert span.output == {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert span.attributes[semconv.TOOL_DEFINITIONS] == [TOOL]
    run = told(
        {
            "agent_name": "asker",
            "all_messages_events": json.dumps(
                [events[0], {"event.name": "gen_ai.choice", "content": "Rain."}]
            ),
            "final_result": '{"sky": "rain"}',
            "gen_ai.usage.input_tokens": 99,
        },
        scope="pydantic-ai",
    )
    assert (run.kind, run.input, run.output) == (SpanKind.AGENT, [USER], {"sky": "rain"})
    assert run.usage is None, "it is the sum of its calls"


def test_logfire_with_the_whole_request_in_one_attribute():
    span = told(
        {
            "request_data": json.dumps({"model": "able", "messages": [USER], "temperature": 0.25}),
            "response_data": json.dumps(
                {
                    "message": {"role": "assistant", "content": "Rain."},
                    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
                }
            ),
        },
        scope="logfire.openai",
    )
    assert (span.kind, span.input) == (SpanKind.LLM, [USER])
    assert span.output == {"role": "assistant", "content": "Rain."}
    assert span.usage == Usage(3, 2)
    assert span.attributes[semconv.REQUEST_TEMPERATURE] == 0.25
    assert not left(span) - {semconv.OTEL_SCOPE_NAME}


FORM = {"type": "json_schema", "json_schema": {"name": "sky", "strict": True, "schema": {"type": "object"}}}
ASKED = {
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "response_format": FORM,
    "reasoning_effort": "low",
}
KNOWN = {
    semconv.REQUEST_TOOL_CHOICE: ASKED["tool_choice"],
    semconv.REQUEST_PARALLEL_TOOL_CALLS: False,
    semconv.REQUEST_RESPONSE_FORMAT: FORM,
    semconv.REQUEST_REASONING_LEVEL: "low",
}
RESPONSES = {
    **{name: ASKED[name] for name in ("tool_choice", "parallel_tool_calls")},
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", **FORM["json_schema"]}},
}


@pytest.mark.parametrize("request_", [ASKED, RESPONSES])
def test_parameters_of_a_request_have_the_names_that_ours_have(request_):
    openinference = {
        "openinference.span.kind": "LLM",
        "llm.invocation_parameters": json.dumps({**request_, "metadata": {"a": "b"}}),
    }
    span = told(openinference)
    assert KNOWN.items() <= span.attributes.items()
    assert span.attributes["llm.invocation_parameters"] == {"metadata": {"a": "b"}}
    body = json.dumps({"model": "able", "messages": [USER], **request_})
    span = told({"request_data": body}, scope="logfire.openai")
    assert KNOWN.items() <= span.attributes.items()


def test_parameters_that_openllmetry_tells():
    schema = {"type": "object", "title": "sky"}
    span = told(
        {
            "llm.request.type": "chat",
            "gen_ai.request.reasoning_effort": "low",
            "gen_ai.request.structured_output_schema": json.dumps(schema),
        }
    )
    assert span.attributes[semconv.REQUEST_REASONING_LEVEL] == "low"
    assert span.attributes[semconv.REQUEST_RESPONSE_FORMAT] == {
        "type": "json_schema",
        "json_schema": {"name": "sky", "schema": schema},
    }
    assert not left(span)


def test_several_choices_are_a_list_of_messages():
    made = [{"role": "assistant", "content": text} for text in ("Rain.", "Sun.")]
    several = {"gen_ai.operation.name": "chat", "gen_ai.request.choice.count": 2}
    assert told({**several, "gen_ai.output.messages": json.dumps(made)}).output == made
    inference = {
        "openinference.span.kind": "LLM",
        "llm.invocation_parameters": '{"n": 2}',
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "Rain.",
        "llm.output_messages.1.message.role": "assistant",
        "llm.output_messages.1.message.content": "Sun.",
    }
    assert told(inference).output == made


@pytest.mark.parametrize(
    ("kind", "attributes", "given", "made"),
    [
        (
            SpanKind.RETRIEVER,
            {
                "input.value": "mills",
                "retrieval.documents.0.document.content": "a page",
                "retrieval.documents.0.document.score": 0.5,
                "retrieval.documents.0.document.metadata": '{"n": 1}',
            },
            "mills",
            [{"content": "a page", "score": 0.5, "metadata": {"n": 1}}],
        ),
        (
            SpanKind.TOOL,
            {
                "tool.name": "weather",
                "input.value": '{"city": "Oslo"}',
                "input.mime_type": "application/json",
                "output.value": "rain",
            },
            {"city": "Oslo"},
            "rain",
        ),
        (
            SpanKind.RERANKER,
            {
                "reranker.query": "mills",
                "reranker.input_documents.0.document.id": "1",
                "reranker.output_documents.0.document.id": "1",
            },
            {"query": "mills", "documents": [{"id": "1"}]},
            [{"id": "1"}],
        ),
        (
            SpanKind.CHAIN,
            {"input.value": "{not json", "input.mime_type": "application/json"},
            "{not json",
            UNSET,
        ),
        (
            SpanKind.LLM,
            {
                "input.value": json.dumps({"model": "able", "messages": [USER]}),
                "input.mime_type": "application/json",
                "output.value": "Rain.",
            },
            [USER],
            {"role": "assistant", "content": "Rain."},
        ),
    ],
)
def test_openinference_kinds(kind, attributes, given, made):
    span = told({"openinference.span.kind": kind.value, **attributes})
    assert (span.kind, span.input, span.output) == (kind, given, made)
    assert not left(span)


@pytest.mark.parametrize(
    ("told_name", "name"),
    [
        ("OpenAI", "openai"),
        ("Anthropic", "anthropic"),
        ("google-gla", "gcp.gemini"),
        ("vertexai", "gcp.vertex_ai"),
        ("AWS", "aws.bedrock"),
        ("some new one", "some new one"),
    ],
)
def test_names_of_providers(told_name, name):
    span = told({"gen_ai.operation.name": "chat", "gen_ai.system": told_name})
    assert span.attributes[semconv.PROVIDER_NAME] == name


def test_an_error_without_an_exception():
    span = told(
        {
            "error.type": "timeout",
            semconv.OTEL_STATUS_DESCRIPTION: "took too long",
            "otel.status_code": "ERROR",
        }
    )
    assert span.error is None
    failed = told({"error.type": "timeout", semconv.OTEL_STATUS_DESCRIPTION: "took too long"})
    failed.status = Status.ERROR
    failed.attributes |= {
        "otel.span.kind": "CLIENT",
        "error.type": "timeout",
        semconv.OTEL_STATUS_DESCRIPTION: "took too long",
    }
    translate(failed)
    assert (failed.error.type, failed.error.message) == ("timeout", "took too long")


# Whatever is in the attributes, nothing is raised, and reading what was read before changes nothing

_NAMES = st.sampled_from(
    sorted(
        {
            "openinference.span.kind",
            "traceloop.span.kind",
            "llm.request.type",
            "input.value",
            "input.mime_type",
            "output.value",
            "request_data",
            "response_data",
            "events",
            "all_messages_events",
            "pydantic_ai.all_messages",
            "model_request_parameters",
            "logfire.span_type",
            "duration",
            "gen_ai.input.messages",
            "gen_ai.output.messages",
            "gen_ai.system_instructions",
            "gen_ai.usage.raw",
            "gen_ai.prompt.0",
            "gen_ai.prompt.0.role",
            "gen_ai.prompt.0.tool_calls.0",
            "gen_ai.completion.x.y",
            "llm.input_messages.0.message",
            "llm.input_messages.0.message.contents.0",
            "llm.output_messages.0.message.tool_calls.0.tool_call",
            "llm.tools.0.tool",
            "llm.tools.0.tool.json_schema",
            "llm.invocation_parameters",
            openllmetry._SCHEMA,
            "embedding.embeddings.0.embedding",
            "retrieval.documents.0.document",
            "reranker.input_documents.0",
            "otel.links",
            "otel.status_description",
            *gen_ai._AS_THEY_ARE,
            *openinference._ATTRIBUTES,
            *openllmetry._ATTRIBUTES,
            *logfire._AGENT_RUN,
        }
    )
)
_KEYS = st.sampled_from(
    ["role", "parts", "type", "content", "messages", "model", "tool_calls", "function", "name"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)
_KINDS = st.sampled_from([*(kind.value for kind in SpanKind), "chat", "embeddings", "execute_tool", "tool"])
_VALUES = _JSON | _JSON.map(json.dumps) | _KINDS
_EVENTS = st.lists(
    st.builds(
        SpanEvent,
        st.sampled_from(["gen_ai.user.message", "gen_ai.choice", gen_ai._DETAILS, "exception"]),
        st.just(10**18),
        st.dictionaries(_KEYS | _NAMES, _VALUES, max_size=3),
    ),
    max_size=3,
)


@given(
    attributes=st.dictionaries(_NAMES, _VALUES, max_size=8),
    events=_EVENTS,
    scope=st.sampled_from(["x", "logfire.openai", "pydantic-ai"]),
    status=st.sampled_from(Status),
)
def test_any_attributes(attributes, events, scope, status):
    span = told(attributes, events, scope)
    assert UNREADABLE not in span.attributes
    first = msgspec.json.encode(span)
    again = translate(msgspec.json.decode(first, type=Span))
    assert msgspec.json.encode(again) == first
