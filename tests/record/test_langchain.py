"""LangChain and LangGraph over real HTTP against the stand-in model server."""

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, ToolException, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from openai import AuthenticationError

import millstream
from millstream import SpanKind, Status, context, start_span, track_function
from millstream.record import faults
from millstream.record.integrations import langchain
from millstream.record.integrations.langchain import handler
from millstream.record.integrations.langchain.messages import message_json
from tests.living import living_spans

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
    millstream.uninstrument()
    chat().invoke("x")
    assert len(spans()) == 1


async def test_nothing_is_kept_of_finished_calls(chat):
    agent = create_agent(chat(), tools=[weather])
    for _ in range(5):
        agent.invoke({"messages": [HumanMessage("weather?")]})
    assert langchain._handler.runs.known == {}
    gc.collect()
    assert living_spans() == []


def tree(spans):
    """Each span's name and kind with the name of its parent, in order of start."""
    names = {span.span_id: span.name for span in spans()}
    return [(span.name, span.kind, names.get(span.parent_id)) for span in spans()]


def in_a_node(chat):
    """A graph whose first node calls a tracked function and whose second calls a model."""
    graph = StateGraph(dict)
    graph.add_node("prepare", lambda state: {"city": look_up("Oslo")})
    graph.add_node("ask", RunnableLambda(lambda state: {"answer": chat().invoke("Count.").text}))
    graph.add_edge(START, "prepare")
    graph.add_edge("prepare", "ask")
    graph.add_edge("ask", END)
    return graph.compile(name="two steps")


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream"])
async def test_a_graph_with_nothing_around_it_is_one_trace(chat, spans, how):
    graph = in_a_node(chat)
    for _ in range(2):
        if how == "invoke":
            graph.invoke({})
        elif how == "ainvoke":
            await graph.ainvoke({})
        elif how == "stream":
            for _piece in graph.stream({}):
                assert context.current.get() is None
        else:
            async for _piece in graph.astream({}):
                assert context.current.get() is None
        assert context.current.get() is None
    once = [
        ("two steps", SpanKind.CHAIN, None),
        ("look_up", SpanKind.FUNCTION, "two steps"),
        ("able", SpanKind.LLM, "two steps"),
    ]
    assert tree(spans) == once * 2
    assert len({span.trace_id for span in spans()}) == 2
    assert all(span.status is Status.OK for span in spans())


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_agent_with_nothing_around_it_is_one_trace(chat, spans, asynchronous):
    agent = create_agent(chat(), tools=[weather])
    question = {"messages": [HumanMessage("weather in both?")]}
    await agent.ainvoke(question) if asynchronous else agent.invoke(question)
    root, *others = spans()
    assert (root.kind, root.parent_id) == (SpanKind.CHAIN, None)
    assert {span.trace_id for span in others} == {root.trace_id}
    assert len(others) == 6
    with start_span("after") as after:
        assert after.trace_id != root.trace_id


async def test_chains_with_nothing_around_them(chat, spans):
    chain = RunnableLambda(look_up) | chat() | StrOutputParser()
    chain.invoke("Oslo")
    await chain.ainvoke("Oslo")
    assert list(chain.stream("Oslo"))
    assert [piece async for piece in chain.astream("Oslo")]
    chain.batch(["Oslo", "Rome"])
    await chain.abatch(["Oslo", "Rome"])
    assert context.current.get() is None
    roots = [span for span in spans() if span.parent_id is None]
    assert [(root.name, root.kind) for root in roots] == [("RunnableSequence", SpanKind.CHAIN)] * 8
    assert (roots[0].input, roots[0].output) == ("Oslo", "one two three four five")
    for root in roots:
        inside = [span.kind for span in spans() if span.parent_id == root.span_id]
        assert inside == [SpanKind.FUNCTION, SpanKind.LLM]


async def test_a_chain_that_fails_is_recorded_so_and_inside_a_span_it_is_not(spans):
    def fails(number):
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 1"):
        RunnableLambda(fails).invoke(1)
    with start_span("flow"), pytest.raises(ValueError, match="no 2"):
        RunnableLambda(fails).invoke(2)
    failed, flow = spans()
    assert (failed.name, failed.kind, failed.status) == ("fails", SpanKind.CHAIN, Status.ERROR)
    assert (failed.input, failed.error.message) == (1, "no 1")
    assert (flow.name, flow.status) == ("flow", Status.OK)


async def test_a_stream_that_is_left_leaves_nothing_behind(chat, spans):
    runs = langchain._handler.runs.known
    agent = create_agent(chat(), tools=[weather])
    question = {"messages": [HumanMessage("weather in both?")]}
    for _ in range(3):
        async for event in agent.astream_events(question, version="v2"):
            if event["event"] == "on_tool_start":
                break
        for _piece in agent.stream(question):
            break
        async for _piece in agent.astream(question):
            break
        assert context.current.get() is None
    gc.collect()
    for _ in range(100):
        if not runs:
            break
        await asyncio.sleep(0.02)
    assert runs == {}
    assert all(span.end_ns for span in spans())
    assert len({span.trace_id for span in spans()}) == 9


@pytest.mark.parametrize("bad", ["\ud83d", object()])
async def test_arguments_that_are_no_json_lose_no_span(spans, bad):
    made = AIMessage("", tool_calls=[{"name": "f", "args": {"a": bad}, "id": "c1"}])
    GenericFakeChatModel(messages=iter([made])).invoke([HumanMessage("q"), made])
    (span,) = spans()
    assert span.status is Status.OK
    for message in (span.input[1], span.output):
        assert message["tool_calls"][0]["function"]["arguments"].startswith('{"a":"')


async def test_a_fault_of_ours_is_counted_and_the_span_ends(spans, monkeypatch):
    def breaks(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr(faults, "strict", False)
    monkeypatch.setattr(handler, "tell_answer", breaks)
    faults.counts.clear()
    langchain._handler.on_chat_model_start(None, [[HumanMessage.model_construct()]], run_id=uuid4())
    FakeListLLM(responses=["text"]).invoke("prompt")
    dropped = dict(faults.counts)
    faults.counts.clear()
    langchain._handler.runs.known.clear()
    assert dropped == {
        "the messages of a model call could not be recorded": 1,
        "a LangChain callback could not be recorded": 1,
    }
    opened, answered = spans()
    assert opened.kind is SpanKind.LLM
    assert answered.status is Status.OK


@pytest.mark.parametrize("chained", [False, True])
async def test_a_tool_cancelled_in_this_task_ends_and_is_no_longer_current(chat, spans, chained):
    @tool
    async def nap() -> str:
        """Sleeps."""
        await asyncio.sleep(60)
        return "woke"

    async def work(_):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await nap.ainvoke({})
        await chat().ainvoke("Count.")

    await (RunnableLambda(work).ainvoke(None) if chained else work(None))
    around = "work" if chained else None
    assert tree(spans)[chained:] == [("nap", SpanKind.TOOL, around), ("able", SpanKind.LLM, around)]
    assert [span.status for span in spans()][chained:] == [Status.CANCELLED, Status.OK]
    assert langchain._handler.runs.known == {}


async def test_a_tool_that_exits_ends(spans):
    @tool
    def leaves() -> str:
        """Leaves."""
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        leaves.invoke({})
    (span,) = spans()
    assert (span.status, span.error.type) == (Status.ERROR, "SystemExit")
    assert context.current.get() is None


class Asking(BaseRetriever):
    """A retriever that asks a model."""

    model: Any

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(self.model.invoke(query, config={"callbacks": run_manager.get_child()}).text)]

    async def _aget_relevant_documents(self, query, *, run_manager):
        answer = await self.model.ainvoke(query, config={"callbacks": run_manager.get_child()})
        return [Document(answer.text)]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_model_in_a_retriever_is_its_child(chat, spans, asynchronous):
    retriever = Asking(model=chat())
    with start_span("flow"):
        await retriever.ainvoke("q") if asynchronous else retriever.invoke("q")
        assert context.current.get().name == "flow"
    assert tree(spans)[1:] == [("Asking", SpanKind.RETRIEVER, "flow"), ("able", SpanKind.LLM, "Asking")]


async def test_a_cancelled_retriever_ends(chat, spans):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await Asking(model=chat("slow")).ainvoke("q")
    assert {span.status for span in spans()} == {Status.CANCELLED}
    assert context.current.get() is None


async def test_instrumented_anew_while_a_chain_runs_is_once(chat, spans):
    def node(_):
        millstream.uninstrument()
        millstream.instrument("langchain")
        return chat().invoke("x")

    RunnableLambda(node).invoke(1)
    assert len(of_kind(spans, SpanKind.LLM)) == 1


async def test_uninstrument_leaves_what_others_wrapped(chat, spans):
    ours = BaseChatModel.agenerate

    async def theirs(*args, **kwargs):
        return await ours(*args, **kwargs)

    BaseChatModel.agenerate = theirs
    try:
        millstream.uninstrument()
        assert BaseChatModel.agenerate is theirs
        assert not hasattr(BaseTool.run, "__wrapped__")
        await chat().ainvoke("x")
        millstream.instrument("langchain")
        assert BaseChatModel.agenerate is theirs
        await chat().ainvoke("x")
    finally:
        BaseChatModel.agenerate = ours
    millstream.uninstrument()
    assert BaseChatModel.agenerate is not ours
    assert len(spans()) == 1


@pytest.mark.parametrize("capture", [False, True])
async def test_a_handled_failure_tells_its_message_only_where_content_is_captured(tmp_path, capture):
    @tool
    def refuses() -> str:
        """Refuses."""
        raise ToolException("the secret is 7")

    refuses.handle_tool_error = True
    with millstream.recording(home=tmp_path, capture_content=capture):
        refuses.invoke({"type": "tool_call", "id": "1", "name": "refuses", "args": {}})
    (span,) = millstream.open_store(tmp_path).spans()
    assert (span.status, span.error.type) == (Status.ERROR, "ToolException")
    assert span.error.message == ("the secret is 7" if capture else "")
    assert any(b"secret" in path.read_bytes() for path in (tmp_path / "journal").iterdir()) is capture


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
    with pytest.raises(millstream.MillstreamError, match=r"there are: .*langchain"):
        millstream.instrument("nope")


async def test_a_finish_reason_that_is_no_word_costs_no_other_part_of_the_answer(spans):
    told = {"finish_reason": {"why": ["flag"]}, "model_name": "able-1", "id": "r1"}
    answer = AIMessage("no", response_metadata=told)
    GenericFakeChatModel(messages=iter([answer])).invoke("x")
    (span,) = [span for span in spans() if span.kind is SpanKind.LLM]
    assert span.attributes["gen_ai.response.finish_reasons"] == [{"why": ["flag"]}]
    assert span.attributes["gen_ai.response.model"] == "able-1"
    assert span.attributes["gen_ai.response.id"] == "r1"
