"""LangChain and LangGraph over real HTTP against the stand-in model server."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
import pytest_asyncio
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import AuthenticationError

import millstream
from millstream import SpanKind, Status, start_span, track_function
from millstream.record import integrations, live
from millstream.record.integrations.langchain import message_json

RULES = r"""
models:
  able:
    prefix_cache: true
    reasoning_tokens: 7
    latency: {time_to_first_token_s: 0.02, time_per_output_token_s: 0.001}
  slow: {latency: {time_to_first_token_s: 30}}
api_key: right
rules:
  - when: {has_tool: weather, last_message_role: user, last_user_matches: 'both'}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {has_tool: weather, last_message_role: user}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {has_tool: nap, last_message_role: user}
    reply: {tool_calls: [{name: nap, arguments: {}}]}
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
default: "one two three four five"
"""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def base_url(tmp_path_factory) -> Iterator[str]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    command = [
        sys.executable,
        "-m",
        "millstream",
        "simulate",
        "llm",
        "--config",
        str(rules),
        "--exit-with-parent",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def clients():
    """Clients of our own: those that LangChain shares outlive the event loop they were made in."""
    async with httpx.AsyncClient() as asynchronous:
        with httpx.Client() as plain:
            yield {"http_client": plain, "http_async_client": asynchronous}


@pytest.fixture
def chat(base_url, clients):
    defaults = {"api_key": "right", "max_retries": 0, "temperature": 0.25, **clients}
    return lambda model="able", **options: ChatOpenAI(
        model=model, base_url=base_url, **{**defaults, **options}
    )


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    assert "langchain" in millstream.instrument("langchain")
    yield
    millstream.uninstrument()


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


@track_function
def look_up(city):
    return f"rain in {city}"


def of_kind(spans, kind):
    return [span for span in spans() if span.kind is kind]


async def test_a_call_is_told_whole(chat, spans):
    model = chat(max_tokens=50, top_p=0.5, seed=3, stop=["END"])
    answer = model.invoke([SystemMessage("Be brief."), HumanMessage("Count.")])
    assert answer.content == "one two three four five"
    (span,) = spans()
    assert (span.kind, span.name, span.status) == (SpanKind.LLM, "able", Status.OK)
    assert span.input == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count."}]
    assert span.output == {"role": "assistant", "content": "one two three four five"}
    assert span.usage.input_tokens > 5
    assert span.usage.output_tokens > 7
    assert span.usage.reasoning_tokens == 7
    assert span.usage.cache_read_tokens == 0
    for key, value in {
        "gen_ai.request.model": "able",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.temperature": 0.25,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.response.finish_reasons": ["stop"],
        "millstream.framework": "langchain",
    }.items():
        assert span.attributes[key] == value
    assert span.attributes["gen_ai.response.id"]
    assert "millstream.chunk_count" not in span.attributes


@pytest.mark.parametrize("mode", ["stream", "astream"])
async def test_streams_time_their_first_chunk_and_know_their_usage(chat, spans, mode):
    model = chat(stream_usage=True)
    seen = []
    with millstream.subscribe(seen.append):
        if mode == "stream":
            text = "".join(chunk.text for chunk in model.stream("Count."))
        else:
            text = "".join([chunk.text async for chunk in model.astream("Count.")])
    assert text == "one two three four five"
    (span,) = spans()
    count = span.attributes["millstream.chunk_count"]
    assert count == sum(step.event_type == "LLM_NEW_TOKEN" for step in seen) > 2
    assert 0.02 <= span.attributes["gen_ai.response.time_to_first_chunk"] < span.duration_s
    assert span.output["content"] == text
    assert span.usage.output_tokens is not None


async def test_usage_that_was_not_told_is_null(chat, spans):
    list(chat(stream_usage=False).stream("Count."))
    assert spans()[0].usage is None


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent(chat, spans, asynchronous):
    agent = create_agent(chat(streaming=True, stream_usage=True), tools=[weather])
    question = {"messages": [HumanMessage("weather in both?")]}
    with start_span("flow", kind=SpanKind.WORKFLOW) as flow:
        result = await agent.ainvoke(question) if asynchronous else agent.invoke(question)
    assert "rain in" in result["messages"][-1].text
    calls, tools = of_kind(spans, SpanKind.LLM), of_kind(spans, SpanKind.TOOL)
    functions = {span.input["city"]: span for span in spans() if span.name == "look_up"}
    assert len(calls) == 2
    assert {call.parent_id for call in calls} == {one.parent_id for one in tools} == {flow.span_id}
    made = calls[0].output["tool_calls"]
    assert [call["function"]["arguments"] for call in made] == ['{"city":"Oslo"}', '{"city":"Rome"}']
    assert calls[0].attributes["gen_ai.tool.definitions"][0]["function"]["name"] == "weather"
    assert calls[1].input[-1]["tool_call_id"] == made[1]["id"]
    assert {one.input["city"]: one.output for one in tools} == {
        "Oslo": "rain in Oslo",
        "Rome": "rain in Rome",
    }
    for one in tools:
        assert functions[one.input["city"]].parent_id == one.span_id
        assert one.attributes["gen_ai.tool.call.id"] in {call["id"] for call in made}


async def test_failures_are_recorded_and_pass_through(chat, spans):
    @tool
    def breaks() -> str:
        """Breaks."""
        raise ValueError("out of order")

    with pytest.raises(AuthenticationError):
        chat(api_key="wrong").invoke("x")
    with pytest.raises(ValueError, match="out of order"):
        breaks.invoke({})
    call, broken = spans()
    assert call.status is Status.ERROR
    assert call.error.type.endswith("AuthenticationError")  # its name depends on LangChain's version
    assert (broken.status, broken.error.type, broken.error.message) == (
        Status.ERROR,
        "ValueError",
        "out of order",
    )


async def test_a_cancelled_call_and_tool_end(chat, spans):
    @tool
    async def nap() -> str:
        """Sleeps."""
        await asyncio.sleep(60)
        return "woke"

    agent = create_agent(chat(), tools=[nap])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(agent.ainvoke({"messages": [HumanMessage("sleep")]}), 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(chat("slow").ainvoke("x"), 0.1)
    states = {(span.name, span.status) for span in spans()}
    assert {("nap", Status.CANCELLED), ("slow", Status.CANCELLED)} <= states
    assert all(span.end_ns for span in spans())


async def test_a_thread_without_context_finds_its_parent_by_the_run(chat, spans):
    def in_thread(text, config):
        found = []
        thread = threading.Thread(target=lambda: found.append(chat().invoke(text, config=config)))
        threading.Thread.start.__wrapped__(thread)  # as a framework with threads of its own would
        thread.join()
        return found[0].text

    with start_span("flow") as flow:
        RunnableLambda(in_thread).invoke("Count.")
    (call,) = of_kind(spans, SpanKind.LLM)
    assert call.parent_id == flow.span_id


async def test_plain_models_and_retrievers(spans):
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document("a page", metadata={"n": 1})]

    FakeListLLM(responses=["text"]).invoke("prompt")
    Shelf().invoke("query")
    model, shelf = spans()
    assert model.input == [{"role": "user", "content": "prompt"}]
    assert model.output == {"role": "assistant", "content": "text"}
    assert (shelf.kind, shelf.output) == (SpanKind.RETRIEVER, [{"content": "a page", "metadata": {"n": 1}}])


async def test_twice_is_once_and_off_is_off(chat, spans):
    millstream.instrument("langchain")
    millstream.instrument()
    chat().invoke("x")
    assert len(spans()) == 1
    millstream.uninstrument("langchain")
    chat().invoke("x")
    assert len(spans()) == 1


async def test_nothing_is_kept_of_finished_calls(chat):
    handler = integrations._installed["langchain"]._hook[0].get()
    agent = create_agent(chat(), tools=[weather])
    for _ in range(5):
        agent.invoke({"messages": [HumanMessage("weather?")]})
    assert handler._runs == {}
    gc.collect()
    assert [one for one in gc.get_objects() if type(one) is live.LiveSpan] == []


async def test_messages_in_openai_form():
    made = AIMessage("", tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c1"}])
    assert message_json(made)["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert message_json(ToolMessage("done", tool_call_id="c1")) == {
        "role": "tool",
        "content": "done",
        "tool_call_id": "c1",
    }
    assert message_json(HumanMessage([{"type": "text", "text": "hi"}]))["content"] == [
        {"type": "text", "text": "hi"}
    ]
    assert message_json(HumanMessage("hi", name="ann"))["name"] == "ann"


async def test_unknown_integration_is_named():
    with pytest.raises(millstream.MillstreamError, match="there are: langchain"):
        millstream.instrument("nope")
