"""What spans tell of documents and tool calls: LangGraph over a real model server, and spans of others."""

import json

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from opentelemetry.sdk.trace import TracerProvider

import millstream
from millstream import SpanKind, start_span
from millstream.evaluation.contexts import ToolCall, as_arguments, retrieved_contexts, tool_calls
from millstream.span import Span, SpanError, Status
from tests.simulate.process import running

RULES = r"""
models: {able: {}}
api_key: right
rules:
  - when: {has_tool: weather, last_message_role: user, last_user_matches: 'both'}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {has_tool: weather, last_message_role: user, last_user_matches: 'where is (?P<city>\w+)'}
    reply: {tool_calls: [{name: weather, arguments: {city: $city}}]}
  - when: {has_tool: travel, last_message_role: user, last_user_matches: 'go to (?P<city>\w+)'}
    reply: {tool_calls: [{name: travel, arguments: {city: $city, days: 2}}]}
  - when: {has_tool: look_up, last_message_role: user}
    reply: {tool_calls: [{name: look_up, arguments: {query: mills}}]}
  - when: {has_tool: weather, last_message_role: user, last_user_matches: 'nothing'}
    reply: I need no tool.
  - when: {last_message_role: tool}
    reply: done
"""


class Shelf(BaseRetriever):
    """Two pages, one of them found twice."""

    def _get_relevant_documents(self, query, *, run_manager):
        if query == "nothing":
            return []
        return [
            Document(f"page on {query}"),
            Document("another page", metadata={"n": 2}),
            Document(f"page on {query}"),
        ]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    if city == "Atlantis":
        raise LookupError("it is under water")
    return f"rain in {city}"


@tool
def travel(city: str, days: int = 1) -> dict:
    """A journey, with the weather there."""
    return {"to": city, "days": days, "weather": weather.invoke({"city": city})}


@tool
def look_up(query: str) -> str:
    """Searches the shelf."""
    return "\n".join(found.page_content for found in Shelf().invoke(query))


@pytest.fixture(scope="module")
def base_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as server:
        yield server.base_url


@pytest.fixture
def ask(base_url, spans):
    millstream.instrument("langchain")

    def ask(question, *tools):
        model = ChatOpenAI(model="able", base_url=base_url, api_key="right", max_retries=0)
        create_agent(model, tools=list(tools)).invoke({"messages": [HumanMessage(question)]})
        return spans()

    yield ask
    millstream.uninstrument()


def test_calls_in_the_order_of_their_starts(ask):
    calls = tool_calls(ask("both cities", weather))
    assert {call.name for call in calls} == {"weather"}
    assert sorted((call.arguments["city"], call.output, call.error) for call in calls) == [
        ("Oslo", "rain in Oslo", None),
        ("Rome", "rain in Rome", None),
    ]


def test_a_failed_call_is_marked_and_is_no_context(ask, spans):
    with pytest.raises(LookupError):
        ask("where is Atlantis", weather)
    recorded = spans()
    (call,) = tool_calls(recorded)
    assert (call.name, call.arguments) == ("weather", {"city": "Atlantis"})
    assert call.error == "LookupError: it is under water"
    assert retrieved_contexts(recorded) == []


def test_a_call_inside_another_tool_is_told_apart(ask):
    recorded = ask("go to Rome", travel)
    (call,) = tool_calls(recorded)
    assert call == ToolCall("travel", {"city": "Rome", "days": 2}, call.output)
    assert [one.name for one in tool_calls(recorded, nested=True)] == ["travel", "weather"]
    (context,) = retrieved_contexts(recorded)
    assert json.loads(context) == {"to": "Rome", "days": 2, "weather": "rain in Rome"}


def test_documents_of_a_retriever_inside_a_tool_go_before_what_tools_gave(ask):
    recorded = ask("look something up", look_up)
    assert retrieved_contexts(recorded) == ["page on mills", "another page"]
    assert [call.name for call in tool_calls(recorded)] == ["look_up"]


def test_outputs_of_tools_where_nothing_was_retrieved(ask):
    assert retrieved_contexts(ask("both cities", weather)) in (
        ["rain in Oslo", "rain in Rome"],
        ["rain in Rome", "rain in Oslo"],
    )


def test_an_agent_that_calls_nothing(ask):
    recorded = ask("nothing", weather)
    assert recorded
    assert (tool_calls(recorded), retrieved_contexts(recorded)) == ([], [])


def test_spans_of_openinference(spans):
    provider = TracerProvider()
    provider.add_span_processor(millstream.OTelSpanProcessor())
    tracer = provider.get_tracer("openinference.instrumentation.langchain")
    with tracer.start_as_current_span("Shelf") as found:
        found.set_attribute("openinference.span.kind", "RETRIEVER")
        for number, text in enumerate(("first", "second")):
            found.set_attribute(f"retrieval.documents.{number}.document.content", text)
            found.set_attribute(f"retrieval.documents.{number}.document.score", 0.5)
    with tracer.start_as_current_span("run") as ran:
        ran.set_attribute("openinference.span.kind", "TOOL")
        ran.set_attribute("tool.name", "weather")
        ran.set_attribute("input.value", "{'city': 'Oslo', 'warm': True}")
        ran.set_attribute("output.value", "rain")
    provider.shutdown()
    recorded = spans()
    assert retrieved_contexts(recorded) == ["first", "second"]
    assert tool_calls(recorded) == [ToolCall("weather", {"city": "Oslo", "warm": True}, "rain")]


@pytest.mark.parametrize(
    ("output", "texts"),
    [
        (["a", "b", "a", " "], ["a", "b"]),
        ([{"content": "a", "score": 0.5}, {"page_content": "b"}, {"text": "c"}], ["a", "b", "c"]),
        ({"documents": [{"page_content": "a"}]}, ["a"]),
        ({"contents": [{"uri": "file:///a", "text": "a"}]}, ["a"]),
        ([{"document": {"content": "a"}, "score": 1}], ["a"]),
        ("a", ["a"]),
        ([{"title": "a"}], ['{"title": "a"}']),
        ([], []),
        (None, []),
    ],
)
def test_documents_in_every_form(spans, output, texts):
    with start_span("find", kind=SpanKind.RETRIEVER) as found:
        found.set_output(output)
    assert retrieved_contexts(spans()) == texts


@pytest.mark.parametrize(
    ("output", "texts"),
    [
        ("a", ["a"]),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ["a\nb"]),
        ([{"type": "text", "text": "a"}], ["a"]),
        ({"a": 1}, ['{"a": 1}']),
        (3, ["3"]),
        ("", []),
    ],
)
def test_outputs_of_tools_in_every_form(spans, output, texts):
    with start_span("use", kind=SpanKind.TOOL) as used:
        used.set_output(output)
    assert retrieved_contexts(spans()) == texts


def test_a_retriever_inside_a_retriever_does_not_count(spans):
    with start_span("ensemble", kind=SpanKind.RETRIEVER) as outer:
        with start_span("one", kind=SpanKind.RETRIEVER) as inner:
            inner.set_output(["raw", "kept"])
        outer.set_output(["kept"])
    assert retrieved_contexts(spans()) == ["kept"]


def test_tools_count_where_a_retriever_found_nothing(spans):
    Shelf().invoke("nothing")
    with start_span("find", kind=SpanKind.RETRIEVER) as found:
        found.set_output([])
    with start_span("use", kind=SpanKind.TOOL) as used:
        used.set_output("told by the tool")
    assert retrieved_contexts(spans()) == ["told by the tool"]


def span(number: int, parent: str | None, **rest) -> Span:
    return Span("t", f"s{number}", parent, f"tool {number}", SpanKind.TOOL, number, **rest)


def test_calls_that_did_not_end_and_spans_in_a_circle():
    spans = [
        span(2, None, end_ns=3, status=Status.CANCELLED),
        span(1, None),
        span(3, None, end_ns=4, status=Status.INTERRUPTED),
        span(4, None, end_ns=5, status=Status.ERROR, error=SpanError("ToolException", "")),
        span(5, "s5", end_ns=6, status=Status.OK),
    ]
    assert [(call.name, call.error) for call in tool_calls(spans)] == [
        ("tool 1", "it did not end"),
        ("tool 2", "cancelled"),
        ("tool 3", "interrupted"),
        ("tool 4", "ToolException"),
        ("tool 5", None),
    ]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("{'a': None, 'b': (1, 2)}", {"a": None, "b": (1, 2)}),
        ("{'a': __import__('os')}", "{'a': __import__('os')}"),
        ("{1: 2}", "{1: 2}"),
        ("Oslo", "Oslo"),
        ("{", "{"),
        ("{" * 200_000, "{" * 200_000),
        (None, {}),
        ([1], [1]),
    ],
)
def test_arguments_by_name(given, arguments):
    assert as_arguments(given) == arguments
