"""OpenAI's Agents SDK."""

import asyncio
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import agents
import agents.mcp
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from agents.models.fake_id import FAKE_RESPONSES_ID
from openai import AsyncOpenAI, BadRequestError
from openai._base_client import AsyncAPIClient
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

import millstream
from millstream import SpanKind, Status, current_span, semconv, start_span
from millstream.record.integrations.openai_agents.runs import Run
from tests.integrations.conformance import SYSTEM, Conformance, look_up, of_kind, text_of
from tests.living import living_spans
from tests.simulate.process import running


@function_tool
def weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: its name.
    """
    return look_up(city)


def settings(**more):
    return ModelSettings(temperature=0.25, max_tokens=50, include_usage=True, **more)


@pytest.fixture(autouse=True)
def untraced():
    """The SDK's own tracing would talk to OpenAI; what we record must not need it."""
    agents.set_tracing_disabled(True)
    yield
    agents.set_tracing_disabled(False)


@asynccontextmanager
async def asker(base_url, model="able", kind=OpenAIResponsesModel, **more):
    more = {"instructions": SYSTEM, "model_settings": settings(), **more}
    async with AsyncOpenAI(base_url=base_url, max_retries=0) as client:
        yield Agent("asker", model=kind(model, client), **more)


class Driver(Conformance):
    framework = "openai-agents"
    absent = {"embeddings": ""}
    kind = None

    async def ask(self, base_url, question):
        return await self.ask_async(base_url, question)

    async def ask_async(self, base_url, question, model="able"):
        async with asker(base_url, model, self.kind) as agent:
            return (await Runner.run(agent, question)).final_output

    async def stream(self, base_url, question):
        async with asker(base_url, kind=self.kind) as agent:
            result = Runner.run_streamed(agent, question)
            async for _ in result.stream_events():
                pass
            return result.final_output

    async def use_tool(self, base_url, question):
        async with asker(base_url, kind=self.kind, tools=[weather]) as agent:
            return (await Runner.run(agent, question)).final_output


class TestResponses(Driver):
    title = "OpenAI Agents SDK, responses"
    kind = OpenAIResponsesModel


class TestChatCompletions(Driver):
    title = "OpenAI Agents SDK, chat completions"
    kind = OpenAIChatCompletionsModel


RULES = """
models:
  able: {latency: {time_per_output_token_s: 0.002}}
  slow: {latency: {time_to_first_token_s: 0.05, time_per_output_token_s: 0.2}}
  failing: {errors: [{status: 400, probability: 1, message: It broke.}]}
rules:
  - when: {has_tool: transfer_to_second, last_message_role: user}
    reply: {tool_calls: [{name: transfer_to_second, arguments: {}}]}
  - when: {has_tool: transfer_to_first, last_message_role: tool, turn: 2}
    reply: {tool_calls: [{name: transfer_to_first, arguments: {}}]}
  - when: {has_tool: ask_second, last_message_role: user}
    reply: {tool_calls: [{name: ask_second, arguments: {input: Explain.}}]}
  - when: {has_tool: weather, last_user_matches: forever}
    reply: {tool_calls: [{name: weather, arguments: {city: Oslo}}]}
  - when: {has_tool: weather, last_message_role: user}
    reply:
      tool_calls: [{name: weather, arguments: {city: Oslo}}, {name: weather, arguments: {city: Bergen}}]
  - when: {has_tool: break_it, last_message_role: user}
    reply: {tool_calls: [{name: break_it, arguments: {city: Oslo}}]}
  - when: {last_message_role: tool}
    reply: "The tool said: $last"
default: one two three four five
"""
TEXT = "one two three four five"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    rules = tmp_path_factory.mktemp("rules") / "rules.yml"
    rules.write_text(RULES)
    with running(rules) as stand_in:
        yield stand_in.base_url


@pytest.fixture
def instrumented():
    millstream.instrument("openai-agents")
    yield
    millstream.uninstrument()


@pytest.fixture(autouse=True)
def nothing_stays():
    yield
    gc.collect()
    gc.collect()  # what the first one closes may be in a cycle with its exception
    assert not living_spans()
    assert not [each for each in gc.get_objects() if type(each) is Run]


@pytest.fixture
async def model(server, instrumented):
    async with AsyncOpenAI(base_url=server, max_retries=0) as client:
        yield OpenAIResponsesModel("able", client)


@function_tool
def break_it(city: str) -> str:
    """Break it."""
    raise LookupError(f"no {city}")


def tree(spans):
    """The spans as (kind, name, [those inside])."""

    def below(parent):
        return [(s.kind.value, s.name, below(s.span_id)) for s in spans if s.parent_id == parent]

    return below(None)


def llm(name="able"):
    return ("LLM", name, [])


async def run(agent, question, *, streamed=False, **more):
    if not streamed:
        return await Runner.run(agent, question, **more)
    result = Runner.run_streamed(agent, question, **more)
    async for _ in result.stream_events():
        assert not current_span().is_open, "our span must not leak into the consumer"
    return result


both = pytest.mark.parametrize("streamed", [False, True])


@both
async def test_a_run_is_one_trace_named_by_its_agent(model, spans, streamed):
    agent = Agent("asker", instructions=SYSTEM, model=model, tools=[weather])
    result = await run(agent, "Both.", streamed=streamed)
    weathers = [("TOOL", "weather", [("FUNCTION", "look_up", [])])] * 2
    assert tree(spans()) == [("AGENT", "asker", [llm(), *weathers, llm()])]
    assert len({span.trace_id for span in spans()}) == 1
    root = spans()[0]
    assert (root.input, root.output, root.status) == ("Both.", result.final_output, Status.OK)
    assert root.attributes[semconv.AGENT_NAME] == "asker"
    assert root.attributes[semconv.OPERATION_NAME] == "invoke_agent"
    tools = of_kind(spans(), SpanKind.TOOL)
    asked, answered = [span for span in spans() if span.kind is SpanKind.LLM]
    assert [tool.input for tool in tools] == [{"city": "Oslo"}, {"city": "Bergen"}]
    assert [tool.output for tool in tools] == ["rain in Oslo", "rain in Bergen"]
    ids = [call["id"] for call in asked.output["tool_calls"]]
    assert [tool.attributes[semconv.TOOL_CALL_ID] for tool in tools] == ids
    assert tools[0].attributes[semconv.TOOL_DESCRIPTION] == "The weather in a city."
    assert [message["role"] for message in answered.input] == ["system", "user", "assistant", "tool", "tool"]


def test_run_sync_at_once_in_threads(server, instrumented, spans):
    def ask(number):
        with start_span("outer", input=number):
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            client = AsyncOpenAI(base_url=server, max_retries=0)
            agent = Agent("asker", model=OpenAIResponsesModel("able", client), instructions=SYSTEM)
            assert Runner.run_sync(agent, f"{number}").final_output == TEXT
            loop.run_until_complete(client.close())
            loop.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(8)))
    roots = {span.span_id: span.input for span in spans() if span.parent_id is None}
    runs = of_kind(spans(), SpanKind.AGENT)
    assert sorted(roots.values()) == list(range(8))
    assert all(run.input == str(roots[run.parent_id]) for run in runs)
    assert tree(spans()) == [("FUNCTION", "outer", [("AGENT", "asker", [llm()])])] * 8


@both
async def test_handoffs(model, spans, streamed):
    second = Agent("second", model=model)
    first = Agent("first", model=model, handoffs=[second])
    second.handoffs = [first]
    result = await run(first, "Over to you.", streamed=streamed)
    assert result.last_agent is first
    inside = [llm(), ("AGENT", "second", [llm()]), ("AGENT", "first", [llm()])]
    assert tree(spans()) == [("AGENT", "first", inside)]
    root, _, taking_over = spans()[:3]
    assert root.end_ns >= spans()[-1].end_ns
    (event,) = root.events
    assert event.attributes == {"from_agent": "first", "to_agent": "second"}
    assert taking_over.events[0].attributes == {"from_agent": "second", "to_agent": "first"}
    assert all(span.status is Status.OK for span in spans())
    offered = spans()[1].attributes[semconv.TOOL_DEFINITIONS]
    assert [tool["function"]["name"] for tool in offered] == ["transfer_to_second"]


@both
async def test_an_agent_as_a_tool_is_inside_of_it(model, spans, streamed):
    second = Agent("second", model=model).as_tool("ask_second", "Ask the second.")
    await run(Agent("first", model=model, tools=[second]), "Ask.", streamed=streamed)
    nested = ("TOOL", "ask_second", [("AGENT", "second", [llm()])])
    assert tree(spans()) == [("AGENT", "first", [llm(), nested, llm()])]


@both
async def test_a_tool_that_raises(model, spans, streamed):
    await run(Agent("asker", model=model, tools=[break_it]), "Break.", streamed=streamed)
    root, tool = spans()[0], of_kind(spans(), SpanKind.TOOL)[0]
    assert root.status is Status.OK
    assert (tool.status, tool.error.type, tool.error.message) == (Status.ERROR, "LookupError", "no Oslo")
    assert "An error occurred" in tool.output


@both
async def test_a_tool_whose_error_goes_on(model, spans, streamed):
    @function_tool(failure_error_function=None)
    async def break_it(city: str) -> str:
        await asyncio.sleep(0)
        raise LookupError(city)

    with pytest.raises(agents.UserError):
        await run(Agent("asker", model=model, tools=[break_it]), "Break.", streamed=streamed)
    root, tool = spans()[0], of_kind(spans(), SpanKind.TOOL)[0]
    assert (tool.status, tool.error.type) == (Status.ERROR, "LookupError")
    assert (root.status, root.error.type) == (Status.ERROR, "UserError")


@both
async def test_too_many_turns(model, spans, streamed):
    agent = Agent("asker", model=model, tools=[weather])
    with pytest.raises(agents.MaxTurnsExceeded):
        await run(agent, "Go on forever.", streamed=streamed, max_turns=2)
    assert [span.error.type for span in spans() if span.error] == ["MaxTurnsExceeded"]
    assert spans()[0].status is Status.ERROR


@both
async def test_a_model_that_fails_behind_a_handoff(model, server, spans, streamed):
    async with AsyncOpenAI(base_url=server, max_retries=0) as client:
        second = Agent("second", model=OpenAIChatCompletionsModel("failing", client))
        with pytest.raises(BadRequestError):
            await run(Agent("first", model=model, handoffs=[second]), "Go.", streamed=streamed)
    root, _, taking_over, call = spans()
    for span in (root, taking_over, call):
        assert (span.status, span.error.type) == (Status.ERROR, "BadRequestError")
        assert "It broke." in span.error.message


@agents.input_guardrail
async def no_questions(context, agent, given):
    return agents.GuardrailFunctionOutput(output_info="seen", tripwire_triggered="?" in str(given))


@agents.output_guardrail
def no_counting(context, agent, output):
    return agents.GuardrailFunctionOutput(output_info=look_up("x"), tripwire_triggered="two" in str(output))


@both
async def test_guardrails_of_agents(model, spans, streamed):
    agent = Agent("asker", model=model, input_guardrails=[no_questions])
    await run(agent, "Count.", streamed=streamed)
    passed = of_kind(spans(), SpanKind.GUARDRAIL)[0]
    assert passed.name == "no_questions"
    assert passed.input in ("Count.", [{"role": "user", "content": "Count."}])
    assert passed.output == {"triggered": False, "info": "seen"}
    with pytest.raises(agents.InputGuardrailTripwireTriggered):
        await run(agent, "Why?", streamed=streamed)
    stopped = of_kind(spans(), SpanKind.GUARDRAIL)[1]
    assert stopped.attributes[semconv.GUARDRAIL_TRIGGERED] is True
    assert stopped.status is Status.OK
    root = of_kind(spans(), SpanKind.AGENT)[1]
    assert stopped.parent_id == root.span_id
    assert (root.status, root.error.type) == (Status.ERROR, "InputGuardrailTripwireTriggered")
    with pytest.raises(agents.OutputGuardrailTripwireTriggered):
        await run(Agent("asker", model=model, output_guardrails=[no_counting]), "Count.", streamed=streamed)
    stopped = of_kind(spans(), SpanKind.GUARDRAIL)[2]
    assert (stopped.input, stopped.output) == (TEXT, {"triggered": True, "info": "rain in x"})
    assert [span.parent_id for span in spans() if span.name == "look_up"] == [stopped.span_id]


async def test_guardrails_of_tools(model, spans):
    @agents.tool_input_guardrail
    def not_bergen(data):
        if "Bergen" in data.context.tool_arguments:
            return agents.ToolGuardrailFunctionOutput.reject_content("Not there.")
        return agents.ToolGuardrailFunctionOutput.allow()

    @agents.tool_output_guardrail
    def seen(data):
        return agents.ToolGuardrailFunctionOutput.allow(output_info=data.output)

    guarded = function_tool(
        look_up.__wrapped__,
        name_override="weather",
        tool_input_guardrails=[not_bergen],
        tool_output_guardrails=[seen],
    )
    await run(Agent("asker", model=model, tools=[guarded]), "Both.")
    checks = {(span.name, str(span.input)): span.output for span in of_kind(spans(), SpanKind.GUARDRAIL)}
    assert checks["not_bergen", "{'city': 'Bergen'}"] == {"triggered": True, "info": None}
    assert checks["seen", "rain in Oslo"] == {"triggered": False, "info": "rain in Oslo"}
    assert [tool.input for tool in of_kind(spans(), SpanKind.TOOL)] == [{"city": "Oslo"}], (
        "the other never ran"
    )


async def test_a_tool_that_waits_for_approval_has_not_run(model, spans):
    asking = function_tool(look_up.__wrapped__, name_override="weather", needs_approval=True)
    agent = Agent("asker", model=model, tools=[asking])
    result = await run(agent, "Both.")
    assert len(result.interruptions) == 2
    assert tree(spans()) == [("AGENT", "asker", [llm()])]
    state = result.to_state()
    for interruption in result.interruptions:
        state.approve(interruption)
    await run(agent, state)
    tools = [("TOOL", "weather", [])] * 2
    assert tree(spans()) == [("AGENT", "asker", [llm()]), ("AGENT", "asker", [*tools, llm()])]


async def test_a_stream_that_is_left_goes_on_to_its_end(model, spans):
    result = Runner.run_streamed(Agent("asker", model=model), "Count.")
    events = result.stream_events()
    await anext(events)
    await events.aclose()  # the SDK waits for the run
    root, call = spans()
    assert (root.status, call.status, root.output) == (Status.OK, Status.OK, TEXT)


@pytest.mark.parametrize("by", ["result", "task"])
async def test_a_streamed_run_that_is_cancelled(server, instrumented, spans, by):
    async def read(agent):
        result = Runner.run_streamed(agent, "Count.")
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type.endswith("text.delta"):
                if by == "result":
                    result.cancel()
                came.set()

    came = asyncio.Event()
    async with asker(server, "slow") as agent:
        task = asyncio.ensure_future(read(agent))
        await came.wait()
        if by == "task":
            task.cancel()
        await asyncio.wait([task])
        for _ in range(50):
            await asyncio.sleep(0.01)
            if all(span.end_ns for span in spans()):
                break
    assert [span.status for span in spans()] == [Status.CANCELLED] * 2


async def test_uninstrumented_in_the_middle_of_a_stream(model, spans):
    result = Runner.run_streamed(Agent("asker", model=model), "Count.")
    async for event in result.stream_events():
        if event.type == "raw_response_event":
            millstream.uninstrument()
    await Runner.run(Agent("asker", model=model), "Count.")
    root, call = spans()
    assert (root.status, root.output) == (Status.OK, TEXT)
    assert (call.status, text_of(call.output)) == (Status.OK, TEXT)


async def test_everything_is_put_back(instrumented):
    def now():
        owners = [
            agents.run.AgentRunner,
            agents.tracing.spans.NoOpSpan,
            agents.tracing.spans.SpanImpl,
            OpenAIResponsesModel,
            OpenAIChatCompletionsModel,
            agents.Model,
            agents.InputGuardrail,
            agents.ToolOutputGuardrail,
            agents.tool,
        ]
        return [*(dict(vars(owner)) for owner in owners), AsyncAPIClient.request.__code__]

    during = now()
    millstream.uninstrument()
    before = now()
    millstream.instrument("openai-agents")
    millstream.uninstrument()
    assert now() == before
    assert all(changed != original for changed, original in zip(during, before, strict=True))


class Seen(agents.tracing.TracingProcessor):
    def __init__(self):
        self.kinds = []

    def on_span_end(self, span):
        self.kinds.append(span.span_data.type)

    def on_span_start(self, span):
        pass

    on_trace_start = on_trace_end = on_span_start

    def shutdown(self):
        pass

    force_flush = shutdown


@pytest.mark.parametrize("tracing", ["on", "off in the run"])
async def test_the_tracing_of_the_sdk_makes_no_difference(model, spans, tracing):
    seen = Seen()
    agents.set_tracing_disabled(False)
    agents.set_trace_processors([seen])
    config = agents.RunConfig(tracing_disabled=tracing != "on", trace_include_sensitive_data=False)
    second = Agent("second", model=model, tools=[weather])
    await run(Agent("first", model=model, handoffs=[second]), "Go.", run_config=config)
    assert tree(spans()) == [("AGENT", "first", [llm(), ("AGENT", "second", [llm()])])]
    assert ("agent" in seen.kinds) == (tracing == "on")
    agents.set_trace_processors([])


async def test_a_model_of_the_users_own(spans, instrumented):
    class Parrot(agents.Model):
        async def get_response(self, *args, **kwargs):
            return agents.ModelResponse(
                output=[message(kwargs.get("input") or args[1])], usage=agents.Usage(), response_id=None
            )

        async def stream_response(self, *args, **kwargs):
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta",
                delta="!",
                content_index=0,
                item_id="1",
                output_index=0,
                sequence_number=0,
                logprobs=[],
            )
            yield ResponseCompletedEvent(
                type="response.completed",
                sequence_number=1,
                response=response(message(kwargs.get("input") or args[1])),
            )

    def message(given):
        return ResponseOutputMessage(
            id="1",
            type="message",
            role="assistant",
            status="completed",
            content=[ResponseOutputText(type="output_text", text=given[-1]["content"], annotations=[])],
        )

    def response(said):
        return Response(
            id=FAKE_RESPONSES_ID,
            created_at=0,
            model="",
            object="response",
            output=[said],
            parallel_tool_calls=True,
            tool_choice="auto",
            tools=[],
        )

    for streamed in (False, True):
        await run(Agent("asker", model=Parrot(), instructions=SYSTEM), "Hello.", streamed=streamed)
    for call in of_kind(spans(), SpanKind.LLM):
        assert call.name == "llm"
        assert [text_of(message) for message in call.input] == [SYSTEM, "Hello."]
        assert call.output == {"role": "assistant", "content": "Hello."}
        assert call.usage is None
        assert semconv.RESPONSE_ID not in call.attributes
    assert call.attributes[semconv.CHUNK_COUNT] == 1


async def test_a_session_is_a_conversation(model, spans):
    session = agents.SQLiteSession("talk 1")
    agent = Agent("asker", model=model)
    for question in ("One.", "Two."):
        await run(agent, question, session=session)
    session.close()
    first, second = of_kind(spans(), SpanKind.AGENT)
    assert first.attributes[semconv.CONVERSATION_ID] == second.attributes[semconv.CONVERSATION_ID] == "talk 1"
    assert len(spans()[-1].input) == 3


async def test_tools_of_an_mcp_server(model, spans, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    params = {"command": sys.executable, "args": [str(script)]}
    millstream.instrument()
    async with agents.mcp.MCPServerStdio(params, client_session_timeout_seconds=60) as server:
        await run(Agent("asker", model=model, mcp_servers=[server]), "Both.")
    tools = of_kind(spans(), SpanKind.TOOL)
    assert [(tool.name, tool.input) for tool in tools] == [
        ("weather", {"city": "Oslo"}),
        ("weather", {"city": "Bergen"}),
    ]
    assert "snow in Oslo" in json.dumps(tools[0].output)
    assert len([span for span in spans() if span.parent_id is None]) == 1


SERVER = """
from mcp.server import MCPServer

server = MCPServer("weather")

@server.tool()
def weather(city: str) -> str:
    return f"snow in {city}"

server.run()
"""


async def test_without_content_no_word_of_it_is_written(model, home):
    guarded = {"input_guardrails": [no_questions], "output_guardrails": [no_counting]}
    with millstream.recording(home=home / "bare", capture_content=False):
        agent = Agent("asker", model=model, tools=[weather], instructions=SYSTEM, **guarded)
        await run(agent, "Both.")
        await run(agent, "Both.", streamed=True)
    text = "".join(path.read_text() for path in (home / "bare").rglob("*.jsonl"))
    for word in (SYSTEM, "Both.", "Oslo", "rain"):
        assert word not in text
    assert '"millstream.guardrail.triggered":false' in text


@pytest.mark.parametrize("own", ["agents.py", "agents/__init__.py"])
def test_a_package_of_the_users_own_is_left_alone(tmp_path, own):
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("class Agent: ...\n")
    program = (
        "import millstream\nmillstream.instrument()\nimport agents\nagents.Agent()\nprint(millstream.stats())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "MILLSTREAM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert "instrumented" not in done.stdout
