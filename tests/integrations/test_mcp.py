"""MCP: real clients and servers, in one process and in two."""

import asyncio
import gc
import os
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import anyio
import mcp
import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult
from pydantic import BaseModel

import millstream
from millstream import SpanKind, Status, context, semconv, start_span, track_function
from tests.integrations.conformance import FEATURES, of_kind, table_row
from tests.integrations.mcp_server import Context, make_server
from tests.living import living_spans

try:
    from mcp import McpError
    from mcp.shared.memory import create_connected_server_and_client_session

    TWO = False
except ImportError:
    from mcp import MCPError as McpError
    from mcp.client._memory import InMemoryTransport

    TWO = True
COMMAND = [sys.executable, "-m", "tests.integrations.mcp_server"]
CAPTURED: set[str] = set()


@pytest.fixture(autouse=True)
def instrumented():
    assert "mcp" in millstream.instrument("mcp")
    yield
    millstream.uninstrument()


@pytest.fixture
def http_url():
    with subprocess.Popen([*COMMAND, "http"], stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
        process.terminate()


@asynccontextmanager
async def in_memory(server=None, **options):
    """A session with a server in this process."""
    server = server or make_server()
    if not TWO:
        async with create_connected_server_and_client_session(server, **options) as session:
            yield session
        return
    async with InMemoryTransport(server) as streams, ClientSession(*streams, **options) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def directly():
    """Version 2's way to a server in this process: no stream, the handler runs in the caller's task."""
    async with mcp.Client(make_server()) as client:
        yield client


@asynccontextmanager
async def over_stdio(home):
    parameters = StdioServerParameters(
        command=COMMAND[0], args=COMMAND[1:], env={**os.environ, "MILLSTREAM_HOME": str(home)}
    )
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        yield session


@asynccontextmanager
async def over_http(url):
    async with streamable_http_client(url) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        yield session


@pytest.fixture(params=["memory", *(["direct"] if TWO else []), "stdio", "http"])
def connect(request, home):
    if request.param in ("memory", "direct"):
        return in_memory if request.param == "memory" else directly
    if request.param == "stdio":
        return lambda: over_stdio(home)
    url = request.getfixturevalue("http_url")
    return lambda: over_http(url)


def texts(result):
    return "".join(part.text for part in result.content)


def named(spans, name):
    (span,) = [span for span in spans() if span.name == name]
    return span


async def begun(home):
    """Wait for the first tool to run."""
    for _ in range(100_000):
        await asyncio.sleep(0)
        if any(b'"kind":"TOOL"' in path.read_bytes() for path in home.rglob("*.jsonl")):
            return


async def test_a_tool_run_is_one_span_and_the_server_goes_on_below_it(connect, spans):
    with start_span("flow") as flow:
        async with connect() as session:
            result = await session.call_tool("weather", {"city": "Oslo"})
            assert context.current.get() is flow
    assert texts(result) == "rain in Oslo"
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert (tool.name, tool.parent_id, tool.status) == ("weather", flow.span_id, Status.OK)
    assert tool.input == {"city": "Oslo"}
    assert tool.output["content"] == [{"type": "text", "text": "rain in Oslo"}]
    assert tool.output["structuredContent"] == {"result": "rain in Oslo"}
    assert tool.attributes[semconv.OPERATION_NAME] == "execute_tool"
    assert tool.attributes[semconv.TOOL_NAME] == "weather"
    assert tool.attributes[semconv.MCP_METHOD_NAME] == "tools/call"
    assert tool.attributes[semconv.FRAMEWORK] == "mcp"
    assert named(spans, "forecast").parent_id == tool.span_id
    assert named(spans, "look_up").parent_id == named(spans, "forecast").span_id
    assert {span.trace_id for span in spans()} == {flow.trace_id}
    assert len(spans()) == 4, "nothing else is recorded"
    CAPTURED.update(("tool_runs", "asynchronous"))


async def test_what_the_user_sends_along_is_kept(spans):
    mine = {"tenant": "mill", "tracestate": "mine=1"}
    async with in_memory() as session:
        told = (await session.call_tool("told", {}, meta=mine)).content[0].text
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert f'"traceparent":"00-{tool.trace_id}-{tool.span_id}-01"' in told.replace(" ", "")
    assert '"tenant":"mill"' in told.replace(" ", "")
    assert '"tracestate":"mine=1"' in told.replace(" ", "")
    assert mine == {"tenant": "mill", "tracestate": "mine=1"}


async def test_a_traceparent_of_the_users_own_goes_and_the_server_is_still_below_the_tool(spans):
    theirs = f"00-{'a' * 32}-{'b' * 16}-01"
    async with in_memory() as session:
        told = texts(await session.call_tool("told", {}, meta={"traceparent": theirs}))
        await session.call_tool("plain", {"city": "Rome"}, meta={"traceparent": theirs})
    assert theirs in told
    assert named(spans, "look_up").parent_id == named(spans, "plain").span_id


async def test_baggage_and_tracestate_travel(spans):
    incoming = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "v=1", "baggage": "user=ann"}
    with context.extract(incoming):
        async with in_memory() as session:
            told = texts(await session.call_tool("told", {})).replace(" ", "")
    assert '"tracestate":"v=1"' in told
    assert '"baggage":"user=ann"' in told
    assert named(spans, "told").parent_id == "b" * 16


async def test_a_tool_that_fails(connect, spans):
    async with connect() as session:
        result = await session.call_tool("fails", {"secret": "7"})
    assert getattr(result, "isError", None) or result.is_error
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert (tool.status, tool.error.type) == (Status.ERROR, "tool_error")
    assert "the secret is 7" in tool.error.message
    assert "the secret is 7" in tool.output["content"][0]["text"]
    CAPTURED.add("errors")


async def test_a_tool_that_is_not_there_and_a_wrong_call(spans):
    async with in_memory() as session:
        with suppress(McpError):  # version 1 answers with a result
            await session.call_tool("nothing", {})
        with pytest.raises(TypeError, match="surprise"):
            await session.call_tool("weather", {"city": "Oslo"}, surprise=1)
    assert [span.status for span in of_kind(spans(), SpanKind.TOOL)] == [Status.ERROR] * 2
    assert context.current.get() is None


async def test_without_content_neither_arguments_nor_answers_nor_errors_are_written(home):
    bare = home / "bare"
    with millstream.recording(home=bare, capture_content=False):
        async with in_memory() as session:
            await session.call_tool("weather", {"city": "Oslo"})
            await session.call_tool("fails", {"secret": "Oslo"})
            await session.read_resource("shelf://Oslo")
    weather, failed = of_kind(list(millstream.open_store(bare).spans()), SpanKind.TOOL)
    assert (weather.status, failed.status, failed.error.message) == (Status.OK, Status.ERROR, "")
    assert b"Oslo" not in b"".join(path.read_bytes() for path in bare.rglob("*.jsonl"))


async def test_concurrent_calls_have_their_own_parents(connect, spans):
    cities = [f"city{number}" for number in range(12)]

    @track_function
    async def asking(session, city):
        return texts(await session.call_tool("weather", {"city": city}))

    async with connect() as session:
        answers = await asyncio.gather(*(asking(session, city) for city in cities))
    assert answers == [f"rain in {city}" for city in cities]
    above = {span.span_id: span for span in spans()}
    tools, functions = of_kind(spans(), SpanKind.TOOL), [one for one in spans() if one.name == "look_up"]
    assert len(tools) == len(functions) == 12
    for tool in tools:
        assert above[tool.parent_id].input["city"] == tool.input["city"]
    for function in functions:
        forecast = above[function.parent_id]
        assert above[forecast.parent_id].input["city"] == function.input["city"]
    CAPTURED.add("concurrency")


async def test_a_cancelled_call(connect, spans):
    async with connect() as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await session.call_tool("nap", {})
        assert context.current.get() is None
        assert texts(await session.call_tool("plain", {"city": "Oslo"})) == "rain in Oslo"
    (nap,) = [span for span in of_kind(spans(), SpanKind.TOOL) if span.name == "nap"]
    assert nap.status is Status.CANCELLED
    CAPTURED.add("cancelled")


async def test_a_call_that_takes_too_long_for_the_session(spans):
    from datetime import timedelta

    async with in_memory() as session:
        with pytest.raises(Exception, match=r"(?i)timed out"):
            await session.call_tool("nap", {}, 0.2 if TWO else timedelta(seconds=0.2))
    nap = named(spans, "nap")
    assert nap.status is Status.ERROR
    assert "imed out" in nap.error.message


async def test_a_server_that_dies(spans, home):
    async with over_stdio(home) as session:
        with pytest.raises(Exception, match="Connection closed"):
            await session.call_tool("dies", {})
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert (tool.status, tool.error.message) == (Status.ERROR, "Connection closed")
    words = named(spans, "last words")
    assert (words.parent_id, words.status) == (tool.span_id, Status.INTERRUPTED)


async def test_a_session_that_another_task_closes(spans, home):
    opened, close = asyncio.Event(), asyncio.Event()
    held = []

    async def hold():
        async with over_stdio(home) as session:
            held.append(session)
            opened.set()
            await close.wait()

    holder = asyncio.create_task(hold())
    await opened.wait()
    call = asyncio.create_task(held[0].call_tool("nap", {}))
    await begun(home)
    close.set()
    await holder
    done, _ = await asyncio.wait({call}, timeout=1)
    if not done:  # version 1 leaves the call waiting
        call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert tool.status in (Status.ERROR, Status.CANCELLED)
    assert tool.end_ns


async def test_progress_is_told_inside_the_tool(connect, spans):
    seen = []

    @track_function
    async def report(progress, total, message):
        seen.append((progress, total))

    async with connect() as session:
        with start_span("later"):
            await session.call_tool("works", {}, None, report)
            await session.call_tool("works", {}, progress_callback=report)
            await asyncio.sleep(0.05)
    assert seen == [(1, 2), (2, 2)] * 2
    tools = of_kind(spans(), SpanKind.TOOL)
    reports = [span.parent_id for span in spans() if span.name == "report"]
    assert sorted(reports) == sorted(2 * [tool.span_id for tool in tools])


async def test_resources_are_retrieved_and_bookkeeping_is_not_recorded(spans):
    async with in_memory() as session:
        await session.list_tools()
        await session.list_resources()
        await session.list_prompts()
        await session.get_prompt("greet", {"name": "Ann"})
        await session.read_resource("shelf://mills")
    (resource,) = of_kind(spans(), SpanKind.RETRIEVER)
    assert resource.name == "resources/read"
    assert resource.input == {"uri": "shelf://mills"}
    assert resource.output["contents"][0]["text"] == "the text of mills"
    assert named(spans, "look_up").parent_id == resource.span_id
    assert len(spans()) == 2


class Color(BaseModel):
    name: str


async def test_what_the_server_asks_of_the_client_is_below_what_asks(spans):
    server = make_server()

    @server.tool()
    async def asks(ctx: Context) -> str:
        """Asks the user."""
        with start_span("asking back"):
            return (await ctx.elicit("Which color?", Color)).data.name

    @track_function
    async def answer(ctx, params):
        return ElicitResult(action="accept", content={"name": "red"})

    async with in_memory(server, elicitation_callback=answer) as session, anyio.create_task_group() as group:

        async def flow():
            with start_span("flow"):
                assert texts(await session.call_tool("asks", {})) == "red"

        for _ in range(3):
            group.start_soon(flow)
    for name, around in (("answer", "asking back"), ("asking back", "asks"), ("asks", "flow")):
        inner, outer = ([span for span in spans() if span.name == one] for one in (name, around))
        assert {span.parent_id for span in inner} == {span.span_id for span in outer}
        assert len(inner) == 3


@pytest.mark.parametrize("around", ["weather", "station_weather"])
async def test_inside_a_frameworks_tool_there_is_no_second_span(spans, around):
    async with in_memory() as session:
        with start_span(around, kind=SpanKind.TOOL):
            await session.call_tool("weather", {"city": "Oslo"})
        with start_span("other", kind=SpanKind.TOOL):
            await session.call_tool("weather", {"city": "Oslo"})
    first, other, second = of_kind(spans(), SpanKind.TOOL)
    assert (first.name, other.name, second.name) == (around, "other", "weather")
    assert second.parent_id == other.span_id
    forecasts = [span.parent_id for span in spans() if span.name == "forecast"]
    assert forecasts == [first.span_id, second.span_id]


async def test_langchain_s_adapters(spans, http_url):
    adapters = pytest.importorskip("langchain_mcp_adapters.tools")
    millstream.instrument()
    async with over_http(http_url) as session:
        for prefixed in (False, True):
            tools = await adapters.load_mcp_tools(session, server_name="station", tool_name_prefix=prefixed)
            name = "station_weather" if prefixed else "weather"
            (weather,) = [tool for tool in tools if tool.name == name]
            await weather.ainvoke({"city": "Oslo"})
    tools = of_kind(spans(), SpanKind.TOOL)
    assert [tool.name for tool in tools] == ["weather", "station_weather"]
    assert [tool.attributes[semconv.FRAMEWORK] for tool in tools] == ["langchain"] * 2
    forecasts = [span.parent_id for span in spans() if span.name == "forecast"]
    assert forecasts == [tool.span_id for tool in tools]


async def test_openai_agents(spans, http_url):
    agents = pytest.importorskip("agents")
    from agents.mcp import MCPServerStreamableHttp
    from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    millstream.instrument()
    async with AsyncOpenAI() as client, MCPServerStreamableHttp({"url": http_url}) as server:
        model = OpenAIChatCompletionsModel("able", client)
        agent = agents.Agent("forecaster", model=model, mcp_servers=[server])
        result = await agents.Runner.run(agent, "What is the weather in Oslo?")
    assert "rain in Oslo" in result.final_output
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert tool.name == "weather"
    assert named(spans, "forecast").parent_id == tool.span_id


async def test_an_application_with_opentelemetry_keeps_its_own_trace(spans):
    if not TWO:
        pytest.skip("version 1 knows nothing of OpenTelemetry")
    script = """
import anyio, mcp, millstream
from mcp.client._memory import InMemoryTransport
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tests.integrations.mcp_server import make_server
trace.set_tracer_provider(TracerProvider())
millstream.instrument("mcp")
async def main():
    async with InMemoryTransport(make_server()) as streams, mcp.ClientSession(*streams) as session:
        await session.initialize()
        with trace.get_tracer("app").start_as_current_span("app") as span:
            told = (await session.call_tool("told", {})).structured_content
            assert format(span.get_span_context().trace_id, "032x") in told["traceparent"], told
            await session.call_tool("plain", {"city": "Oslo"})
anyio.run(main)
"""
    process = await anyio.run_process([sys.executable, "-c", script], check=False, env=os.environ)
    assert process.returncode == 0, process.stderr.decode()
    assert named(spans, "look_up").parent_id == named(spans, "plain").span_id


async def test_without_instrumenting_nothing_is_recorded_and_nothing_is_sent(spans):
    originals = {"call_tool": vars(ClientSession)["call_tool"]}
    millstream.uninstrument()
    assert vars(ClientSession)["call_tool"] is originals["call_tool"].__wrapped__
    with start_span("flow"):
        async with in_memory() as session:
            told = texts(await session.call_tool("told", {}))
    assert "traceparent" not in told
    assert [span.name for span in spans()] == ["flow"]


async def test_uninstrumented_in_the_middle_of_a_call(spans, home):
    async with in_memory() as session:
        call = asyncio.create_task(session.call_tool("weather", {"city": "Oslo"}))
        await begun(home)
        millstream.uninstrument()
        await call
        await session.call_tool("plain", {"city": "Oslo"})
    (tool,) = of_kind(spans(), SpanKind.TOOL)
    assert (tool.name, tool.status) == ("weather", Status.OK)


async def test_nothing_is_kept_of_finished_calls(spans):
    async with in_memory() as session:
        for _ in range(5):
            await session.call_tool("weather", {"city": "Oslo"})
            await session.call_tool("fails", {"secret": "7"})
        gc.collect()
        kept = len(living_spans())
    assert kept <= 1, "the SDK keeps the context of the last message"


def test_the_table_tells_what_is_captured(request):
    applies = {"tool_runs", "errors", "concurrency", "asynchronous", "cancelled"}
    if applies != CAPTURED:
        pytest.skip("only after all features were tried")
    absent = dict.fromkeys(set(FEATURES) - applies, "")
    table_row("MCP", CAPTURED, absent, write=request.config.getoption("--write-table"))
