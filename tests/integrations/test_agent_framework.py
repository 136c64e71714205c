"""Microsoft Agent Framework."""

import asyncio
import contextlib
import gc

import agent_framework
import pytest
from agent_framework import (
    Agent,
    AgentResponse,
    BaseAgent,
    ContextProvider,
    Message,
    ResponseStream,
    SummarizationStrategy,
    WorkflowBuilder,
    WorkflowContext,
    agent_middleware,
    executor,
    tool,
    workflow,
)
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient, OpenAIEmbeddingClient
from openai import AsyncOpenAI

import millstream
from millstream import SpanKind, Status, semconv, start_span
from millstream.record.live import LiveSpan
from tests.integrations.conformance import SYSTEM, Conformance, look_up, model_calls, of_kind, text_of
from tests.simulate.process import running

OPTIONS = {"temperature": 0.25, "max_tokens": 50}
RULES = r"""
models:
  able: {latency: {time_to_first_token_s: 0.01, time_per_output_token_s: 0.002}}
  slow: {latency: {time_to_first_token_s: 30}}
api_key: right
rules:
  - when: {last_user_matches: 'break it'}
    reply: {error: {status: 400, message: This model breaks on demand.}}
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
  - when: {last_user_matches: 'two cities'}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Rome}}]}
  - when: {last_user_matches: 'fall'}
    reply: {tool_calls: [{name: fall, arguments: {height_m: 3}}]}
  - when: {last_user_matches: 'delegate'}
    reply: {tool_calls: [{name: expert, arguments: {task: Count.}}]}
  - when: {last_user_matches: 'say (?P<word>\w+)'}
    reply: "$word"
default: "one two three four five"
"""


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return look_up(city)


@tool
def fall(height_m: int) -> str:
    """Fall."""
    raise ValueError(f"fell {height_m} m")


def messages(question):
    return [Message("system", [SYSTEM]), Message("user", [question])]


def connection(base_url):
    """The framework leaves the connections of a client that it makes itself open."""
    return AsyncOpenAI(base_url=base_url, api_key="right", max_retries=0)


class TestAgentFramework(Conformance):
    framework = "agent-framework"
    title = "Agent Framework"
    client = OpenAIChatCompletionClient

    async def ask(self, base_url, question, model="able"):
        async with connection(base_url) as client:
            chat = self.client(model=model, async_client=client)
            return (await chat.get_response(messages(question), options=OPTIONS)).text

    ask_async = ask

    async def stream(self, base_url, question):
        async with connection(base_url) as client:
            chat = self.client(model="able", async_client=client)
            stream = chat.get_response(messages(question), stream=True, options=OPTIONS)
            return "".join([update.text async for update in stream])

    async def use_tool(self, base_url, question):
        async with connection(base_url) as client:
            chat = self.client(model="able", async_client=client)
            # else only what is new is sent, and the server adds what it has kept
            agent = Agent(chat, SYSTEM, name="helper", tools=[weather], default_options={"store": False})
            return (await agent.run(question)).text

    async def embed(self, base_url, text):
        async with connection(base_url) as client:
            embedder = OpenAIEmbeddingClient(model="embedder", async_client=client)
            return (await embedder.get_embeddings([text]))[0].vector


class TestAgentFrameworkResponses(TestAgentFramework):
    client = OpenAIChatClient


# What is special to the framework


@pytest.fixture(scope="module")
def own_url(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def instrumented():
    millstream.instrument("agent-framework")
    yield
    millstream.uninstrument()


@pytest.fixture
async def chat(own_url, instrumented):
    async with connection(own_url) as client:
        yield OpenAIChatCompletionClient(model="able", async_client=client)


def tree(spans):
    """The spans as kind and name, children in order of start."""

    def below(parent_id):
        return [
            (span.kind.value, span.name, *below(span.span_id))
            for span in spans
            if span.parent_id == parent_id
        ]

    return below(None)


def all_ended(spans):
    return all(span.end_ns is not None for span in spans) and all(span.status is Status.OK for span in spans)


async def text_streamed(stream):
    with start_span("consumer") as consumer:
        texts = []
        async for update in stream:
            assert millstream.current_span() is consumer, "no span leaks to the code between two pieces"
            texts.append(update.text)
        assert millstream.current_span() is consumer
        assert (await stream.get_final_response()).text == "".join(texts)
        return "".join(texts)


MODEL = ("LLM", "able")
TOOL = ("TOOL", "weather", ("FUNCTION", "look_up"))


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_agent_with_parallel_tools_is_one_tree(chat, spans, streamed):
    agent = Agent(chat, SYSTEM, name="helper", tools=[weather], id="helper-1")
    session = agent.create_session()
    if streamed:
        await text_streamed(agent.run("two cities", stream=True, session=session))
    else:
        await agent.run("two cities", session=session)
    found = tree(spans())
    (root,) = found[0][2:] if streamed else found
    assert root[:2] == ("AGENT", "helper")
    assert root[2:] == (MODEL, TOOL, TOOL, MODEL)
    assert all_ended(spans())
    (agent_span,) = of_kind(spans(), SpanKind.AGENT)
    assert agent_span.input == [{"role": "user", "content": "two cities"}]
    assert "rain in" in agent_span.output
    assert agent_span.attributes[semconv.OPERATION_NAME] == "invoke_agent"
    assert agent_span.attributes[semconv.AGENT_NAME] == "helper"
    assert agent_span.attributes[semconv.AGENT_ID] == "helper-1"
    assert agent_span.attributes[semconv.CONVERSATION_ID] == session.session_id
    calls = model_calls(spans())[0].output["tool_calls"]
    tools = of_kind(spans(), SpanKind.TOOL)
    assert {span.attributes[semconv.TOOL_CALL_ID] for span in tools} == {call["id"] for call in calls}
    assert {span.input["city"] for span in tools} == {"Oslo", "Rome"}
    assert [message["role"] for message in model_calls(spans())[1].input] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
    ]


async def test_a_tool_that_raises_is_an_error_that_the_agent_survives(chat, spans):
    assert "Error" in (await Agent(chat, name="helper", tools=[fall]).run("fall")).text
    (tool_span,) = of_kind(spans(), SpanKind.TOOL)
    assert tool_span.status is Status.ERROR
    assert (tool_span.error.type, tool_span.error.message) == ("ValueError", "fell 3 m")
    (agent_span,) = of_kind(spans(), SpanKind.AGENT)
    assert agent_span.status is Status.OK


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failed_model_call_fails_its_agent(chat, spans, streamed):
    agent = Agent(chat, name="helper")
    with pytest.raises(agent_framework.exceptions.ChatClientException) as raised:
        if streamed:
            await text_streamed(agent.run("break it", stream=True))
        else:
            await agent.run("break it")
    for span in (*of_kind(spans(), SpanKind.AGENT), *model_calls(spans())):
        assert span.status is Status.ERROR
        assert span.error.type == type(raised.value).__name__
        assert "breaks on demand" in span.error.message


async def test_an_agent_as_a_tool_is_below_the_tool(chat, spans):
    expert = Agent(chat, name="expert", description="Counts.")
    await Agent(chat, name="boss", tools=[expert.as_tool()]).run("delegate")
    assert tree(spans()) == [
        (
            "AGENT",
            "boss",
            MODEL,
            ("TOOL", "expert", ("AGENT", "expert", MODEL)),
            MODEL,
        )
    ]
    assert all_ended(spans())


@pytest.mark.parametrize("way", ["break", "close"])
async def test_a_stream_that_is_left_ends_well(chat, spans, way):
    stream = Agent(chat, name="helper").run("Count.", stream=True)
    async for update in stream:
        if update.text:
            break
    if way == "close":
        await stream.close()
    del stream
    gc.collect()  # the framework's streams refer to themselves
    await asyncio.sleep(0.05)  # the event loop closes what was left
    assert tree(spans()) == [("AGENT", "helper", MODEL)]
    assert all_ended(spans())
    assert all(text_of(span.output) == "one" for span in model_calls(spans()))


async def test_a_cancelled_run_is_cancelled(own_url, instrumented, spans):
    async with connection(own_url) as client:
        agent = Agent(OpenAIChatCompletionClient(model="slow", async_client=client), name="helper")
        for run in (agent.run("Count."), text_streamed(agent.run("Count.", stream=True))):
            task = asyncio.ensure_future(run)
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    found = [span for span in spans() if span.kind in (SpanKind.AGENT, SpanKind.LLM)]
    assert [span.status for span in found] == [Status.CANCELLED] * 4


async def test_runs_at_the_same_time_keep_apart(chat, spans):
    agent = Agent(chat, name="helper")

    async def say(word, streamed):
        if streamed:
            return await text_streamed(agent.run(f"say {word}", stream=True))
        return (await agent.run(f"say {word}")).text

    words = [f"word{number}" for number in range(10)]
    assert await asyncio.gather(*(say(word, number % 2) for number, word in enumerate(words))) == words
    above = {span.span_id: span for span in spans()}
    for call in model_calls(spans()):
        assert above[call.parent_id].kind is SpanKind.AGENT
        assert above[call.parent_id].output == text_of(call.output)
        assert above[call.parent_id].input[0]["content"] == f"say {text_of(call.output)}"
    assert len(of_kind(spans(), SpanKind.AGENT)) == 10


class Twice(BaseAgent):
    """An agent of the user's own."""

    def __init__(self, inner):
        super().__init__(name="twice")
        self.inner = inner

    def run(self, messages=None, *, stream=False, session=None, **kwargs):
        async def both():
            await self.inner.run(messages)
            return await self.inner.run(messages)

        async def pieces():
            await self.inner.run(messages)
            async for update in self.inner.run(messages, stream=True):
                yield update

        return ResponseStream(pieces(), finalizer=AgentResponse.from_updates) if stream else both()


async def test_an_agent_of_the_users_own_is_recorded(chat, spans):
    twice = Twice(Agent(chat, name="helper"))
    assert (await twice.run("say hello")).text == "hello"
    assert await text_streamed(twice.run("say hello", stream=True)) == "hello"
    once = ("AGENT", "helper", MODEL)
    run = ("AGENT", "twice", once, once)
    assert tree(spans()) == [run, ("FUNCTION", "consumer", run)]
    assert all_ended(spans())


class Diary(ContextProvider):
    """Asks a model before and after each run."""

    def __init__(self, chat):
        super().__init__("diary")
        self.chat = chat

    async def before_run(self, **kwargs):
        await self.chat.get_response([Message("user", ["say before"])])

    async def after_run(self, **kwargs):
        await self.chat.get_response([Message("user", ["say after"])])


@agent_middleware
async def guard(context, call_next):
    await context.agent.client.get_response([Message("user", ["say guard"])])
    await call_next()


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_middleware_and_providers_do_is_in_the_run(chat, spans, streamed):
    agent = Agent(chat, name="helper", context_providers=[Diary(chat)], middleware=[guard])
    if streamed:
        await agent.run("Count.", stream=True).get_final_response()
    else:
        await agent.run("Count.")
    assert tree(spans()) == [("AGENT", "helper", *[MODEL] * 4)]
    answers = [text_of(span.output) for span in model_calls(spans())]
    assert answers == ["guard", "before", "one two three four five", "after"]
    assert all_ended(spans())


class Torn(Diary):
    async def before_run(self, **kwargs):
        pass

    async def after_run(self, **kwargs):
        raise RuntimeError("no room in the diary")


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_could_not_be_stored_fails_the_run(chat, spans, streamed):
    agent = Agent(chat, name="helper", context_providers=[Torn(chat)])
    with pytest.raises(RuntimeError, match="no room"):
        await (agent.run("Count.", stream=True).get_final_response() if streamed else agent.run("Count."))
    (agent_span,) = of_kind(spans(), SpanKind.AGENT)
    assert agent_span.error.message == "no room in the diary"


async def test_a_summary_of_a_long_conversation_is_a_call_of_its_own(chat, spans):
    long = [Message("user" if number % 2 else "assistant", [f"part {number}"]) for number in range(12)]
    await chat.get_response(
        [*long, Message("user", ["say short"])],
        compaction_strategy=SummarizationStrategy(client=chat, target_count=2, threshold=2),
    )
    summary, call = model_calls(spans())
    assert text_of(call.output) == "short"
    assert "part 0" in str(summary.input)
    assert "part 0" not in str(call.input), "the messages as they are sent"


@executor(id="upper")
async def upper(text: str, ctx: WorkflowContext[str]) -> None:
    await ctx.send_message(text.replace("please ", ""))


def two_agents(chat):
    first, second = Agent(chat, name="first"), Agent(chat, name="second")
    return (
        WorkflowBuilder(start_executor=upper, name="relay")
        .add_edge(upper, first)
        .add_edge(first, second)
        .build()
    )


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_workflow_is_the_root_of_its_agents(chat, spans, streamed):
    relay = two_agents(chat)
    if streamed:
        events = [event async for event in relay.run("please say hello", stream=True)]
        assert any(event.type == "output" for event in events)
    else:
        assert (await relay.run("please say hello")).get_outputs()
    assert tree(spans()) == [
        (
            "WORKFLOW",
            "relay",
            ("AGENT", "first", MODEL),
            ("AGENT", "second", MODEL),
        )
    ]
    assert all_ended(spans())
    (root,) = of_kind(spans(), SpanKind.WORKFLOW)
    assert root.input == "please say hello"
    assert "hello" in str(root.output)


@pytest.mark.filterwarnings("ignore:.FUNCTIONAL_WORKFLOWS.")  # said once of an experimental part of it
async def test_a_workflow_as_an_agent_and_a_functional_one(chat, spans):
    agent = Agent(chat, name="first")

    @workflow(name="plan")
    async def plan(text: str) -> str:
        one, two = await asyncio.gather(agent.run(text), agent.run(text))
        return one.text + two.text

    assert (await plan.build().run("say x")).get_outputs() == ["xx"]
    assert (await plan.build().as_agent().run("say y")).text == "yy"
    inner = ("WORKFLOW", "plan", *[("AGENT", "first", MODEL)] * 2)
    assert tree(spans()) == [inner, ("AGENT", "plan", inner)]
    assert [span.output for span in of_kind(spans(), SpanKind.WORKFLOW)] == ["xx", "yy"]


async def test_a_workflow_whose_stream_was_dropped_can_run_again(chat, spans):
    relay = two_agents(chat)
    relay.run("please say hello", stream=True)
    async for _ in relay.run("please say hello", stream=True):
        break
    await relay.run("please say hello")
    assert len(of_kind(spans(), SpanKind.WORKFLOW)) == 2
    assert all(span.end_ns is not None for span in spans())


async def test_uninstrumented_in_the_middle_a_stream_is_recorded_to_its_end(chat, spans):
    stream = Agent(chat, name="helper").run("Count.", stream=True)
    async for _ in stream:
        millstream.uninstrument()
    (call,) = model_calls(spans())
    assert text_of(call.output) == "one two three four five"
    assert all_ended(spans())


async def test_uninstrument_puts_every_method_back(own_url):
    owners = [
        agent_framework.BaseChatClient,
        agent_framework.RawAgent,
        agent_framework.BaseAgent,
        agent_framework.FunctionTool,
        agent_framework.Workflow,
        agent_framework.WorkflowAgent,
        agent_framework.observability.AgentTelemetryLayer,
        *OpenAIChatCompletionClient.__mro__,
    ]
    before = [dict(vars(owner)) for owner in owners]
    millstream.instrument("agent-framework")
    async with connection(own_url) as client:
        await Agent(OpenAIChatCompletionClient(model="able", async_client=client)).run("Count.")
    assert [dict(vars(owner)) for owner in owners] != before
    millstream.uninstrument("agent-framework")
    assert [dict(vars(owner)) for owner in owners] == before


async def test_nothing_of_a_run_is_kept(chat, spans):
    agent = Agent(chat, name="helper", tools=[weather])
    await agent.run("two cities")
    await text_streamed(agent.run("two cities", stream=True))
    async for _ in agent.run("two cities", stream=True):
        break
    with contextlib.suppress(agent_framework.exceptions.ChatClientException):
        await agent.run("break it", stream=True).get_final_response()
    gc.collect()
    await asyncio.sleep(0.05)
    gc.collect()
    traces = {span.trace_id for span in spans()}
    live = [found for found in gc.get_objects() if type(found) is LiveSpan and found.trace_id in traces]
    assert [found.name for found in live] == []


async def test_its_own_telemetry_and_ours_go_together(chat, spans):
    agent_framework.observability.enable_instrumentation()
    try:
        agent = Agent(chat, name="helper", tools=[weather])
        await agent.run("two cities")
        await text_streamed(agent.run("two cities", stream=True))
    finally:
        agent_framework.observability.disable_instrumentation()
    assert len(of_kind(spans(), SpanKind.AGENT)) == 2
    assert len(model_calls(spans())) == 4
    assert len(of_kind(spans(), SpanKind.TOOL)) == 4
    assert all_ended(spans())


async def test_without_content_an_agent_leaves_no_word(own_url, instrumented, home):
    async with connection(own_url) as client:
        chat = OpenAIChatCompletionClient(model="able", async_client=client)
        with millstream.recording(home=home / "bare", capture_content=False):
            relay = two_agents(chat)
            await relay.run("please say hello")
            await Agent(chat, SYSTEM, name="helper", tools=[weather]).run("two cities", stream=True)
            await Agent(chat, SYSTEM, name="helper", tools=[weather]).run("two cities")
    text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
    assert "helper" in text
    for said in (SYSTEM, "hello", "two cities", "Oslo", "rain"):
        assert said not in text
