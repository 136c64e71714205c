"""`mcp_client` against real servers: a process over stdio, and one over streamable HTTP."""

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import mcp
import pytest

import millstream
from millstream.errors import ConfigError, FunctionTimeoutError, UnreachableError, WorkflowError
from millstream.span import SpanKind, Status
from millstream.workflow import load_config, open_workflow
from millstream.workflow.checks import check_config

ROOT = str(Path(__file__).parents[2])
SERVER = [sys.executable, "-m", "tests.workflow.mcp_tools"]
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([ROOT, *filter(None, sys.path)]),
    "PYDANTIC_DISABLE_PLUGINS": os.environ["PYDANTIC_DISABLE_PLUGINS"],  # stdio servers do not inherit it
}


@pytest.fixture(autouse=True)
def recorded():
    yield
    millstream.uninstrument()


@pytest.fixture
def serve():
    """Starts servers over HTTP; gives the process and the port."""
    processes = []

    def serve(port=0):
        process = subprocess.Popen(
            [*SERVER, str(port)], stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT
        )
        processes.append(process)
        return process, int(process.stdout.readline())

    yield serve
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(params=["stdio", "streamable-http"])
def flow(request, write, home, serve):
    """Gives the path of a workflow file with the component `calc`."""

    def flow(rest="workflow: {_type: python, target: 'builtins:repr'}\n", **keys):
        if request.param == "stdio":
            env = {**ENVIRONMENT, "MILLSTREAM_HOME": str(home)}
            mine = {"command": SERVER[0], "args": SERVER[1:], "env": env}
        else:
            mine = {"url": f"http://127.0.0.1:{serve()[1]}/mcp"}
        calc = {"_type": "mcp_client", "transport": request.param, **mine, **keys}
        return write(f"functions: {{calc: {json.dumps(calc)}}}\n{rest}")

    flow.transport = request.param
    return flow


@asynccontextmanager
async def opened(path):
    async with open_workflow(load_config(path)) as workflow:
        yield workflow.builder.get_function


async def test_a_tool_is_one_span_and_the_servers_spans_join_the_trace(flow, spans):
    async with opened(flow()) as function:
        add = await function("calc.add")
        assert add.name == "calc_add"
        assert add.description == "Adds two numbers. [31m Red."
        assert add.schema["required"] == ["a", "b"]
        with millstream.start_span("flow") as root:
            assert await add(a=20, b=22) == "42"
    recorded = {span.name: span for span in spans()}
    assert recorded["add"].kind is SpanKind.TOOL
    assert recorded["add"].parent_id == root.span_id
    assert recorded["adding"].parent_id == recorded["add"].span_id
    assert recorded["adding"].trace_id == root.trace_id
    assert len(spans()) == 3


async def test_a_sequence_takes_one_of_them(flow):
    path = flow("workflow: {_type: sequential_executor, tool_names: [calc.echo, calc.echo]}\n")
    check_config(load_config(path))
    async with open_workflow(load_config(path)) as workflow:
        assert await workflow.run("again") == "again"


async def test_a_tool_that_fails_is_told_short_and_plain(flow, spans):
    async with opened(flow()) as function:
        with pytest.raises(WorkflowError) as raised:
            await (await function("calc.fails"))(text="way")
        assert await (await function("calc.echo"))(text="well") == "well"
    message = str(raised.value)
    assert message.startswith("functions.calc: fails failed: ")
    assert "no [2Jway" in message
    assert len(message) < 600
    assert message.isprintable()
    (tool,) = [span for span in spans() if span.name == "fails"]
    assert tool.status is Status.ERROR


async def test_a_call_that_takes_too_long(flow, spans):
    async with opened(flow(timeout_s=4)) as function:
        nap, echo = await function("calc.nap"), await function("calc.echo")
        started_s = time.monotonic()
        slow = asyncio.create_task(nap())
        await asyncio.sleep(0.5)
        assert await echo(text="meanwhile") == "meanwhile"
        with pytest.raises(
            FunctionTimeoutError, match=r"nap did not finish within 4 s \(functions\.calc\.time"
        ):
            await slow
        assert time.monotonic() - started_s < 15
        assert await echo(text="afterwards") == "afterwards"
    (tool,) = [span for span in spans() if span.name == "nap"]
    assert tool.status is Status.ERROR


async def test_a_server_that_hangs_is_given_up(flow):
    async with opened(flow(timeout_s=2)) as function:
        hangs = await function("calc.hangs")
        started_s = time.monotonic()
        with pytest.raises(FunctionTimeoutError, match=r"hangs did not finish within 2 s"):
            await hangs()
        assert time.monotonic() - started_s < 8, "nobody waits for the connection to be closed"
        if flow.transport == "stdio":
            assert await (await function("calc.echo"))(text="another") == "another"


async def test_a_process_that_dies_is_told_and_started_again(flow, serve, monkeypatch):
    from millstream.workflow import mcp_connection

    async with opened(flow(timeout_s=10)) as function:
        before = await (await function("calc.pid"))()
        with pytest.raises(WorkflowError) as raised:
            await (await function("calc.dies"))()
        message = str(raised.value)
        if flow.transport == "streamable-http" and hasattr(mcp, "McpError"):  # version 1 does not notice
            assert message == "dies did not finish within 10 s (functions.calc.timeout_s)"
        else:
            assert message.startswith("functions.calc: the MCP server ")
            assert "ended while it was asked for dies" in message
            assert "it is connected to again at the next call" in message
        if flow.transport == "stdio":
            assert "MemoryError: the [31mwheel broke" in message
            after = await (await function("calc.pid"))()
            assert after != before
            os.kill(int(after), 9)  # while nothing is asked
            monkeypatch.setattr(mcp_connection, "_IDLE_S", 0.0)
            assert await (await function("calc.echo"))(text="third") == "third"
        else:
            with pytest.raises(UnreachableError, match=r"there is no MCP server at http://127"):
                await (await function("calc.echo"))(text="x")


async def test_a_server_over_http_that_was_started_again(write, serve, monkeypatch):
    from millstream.workflow import mcp_connection

    monkeypatch.setattr(mcp_connection, "_IDLE_S", math.inf)  # however long a start takes here
    process, port = serve()
    path = write(
        f"functions: {{calc: {{_type: mcp_client, transport: streamable-http,"
        f" url: 'http://127.0.0.1:{port}/mcp', timeout_s: 10}}}}\n"
        "workflow: {_type: python, target: 'builtins:repr'}"
    )
    async with opened(path) as function:
        echo = await function("calc.echo")
        assert await echo(text="one") == "one"
        process.kill()
        process.wait()
        process, _ = serve(port)
        with pytest.raises(WorkflowError, match="it is connected to again at the next call"):
            await echo(text="two")
        assert await echo(text="three") == "three"
        process.kill()
        process.wait()
        serve(port)
        monkeypatch.setattr(mcp_connection, "_IDLE_S", 0.0)
        assert await echo(text="four") == "four", "a connection that was idle is tried out first"


async def test_processes_end_with_the_workflow(flow):
    async with opened(flow()) as function:
        pid = int(await (await function("calc.pid"))())
        os.kill(pid, 0)
    if flow.transport == "stdio":
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_what_is_included(flow):
    path = flow(include=["echo", "add"])
    async with opened(path) as function:
        with pytest.raises(
            ConfigError, match=r"functions\.calc gives several functions; name one: calc\.echo"
        ):
            await function("calc")
        with pytest.raises(ConfigError, match=r"functions\.calc has no function 'nap'"):
            await function("calc.nap")
    async with opened(flow(include=["ad"])) as function:
        with pytest.raises(
            ConfigError, match=r"functions\.calc\.include: the MCP server has no tool 'ad'; did"
        ):
            await function("calc.add")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            "transport: stdio, command: no-such-program-here, args: [--key, secret]",
            r"^functions\.calc\.command: the program no-such-program-here cannot be started: No such file",
        ),
        (
            "transport: streamable-http, url: 'http://127.0.0.1:9/mcp'",
            r"^functions\.calc: there is no MCP server at http://127\.0\.0\.1:9/mcp: .*; start it",
        ),
        (
            f"transport: stdio, command: {sys.executable}, args: [-c, 'raise SystemExit(\"no key\")']",
            rf"^functions\.calc: the MCP server {sys.executable} ended before it answered: no key; try its",
        ),
        (
            "transport: stdio, command: sh, args: [-c, 'exit 3']",
            r"^functions\.calc: the MCP server sh ended before it answered; try its command",
        ),
        (
            "transport: stdio, command: /tmp",
            r"^functions\.calc\.command: the program /tmp cannot be started: Permission denied; install it",
        ),
        (
            "transport: stdio, connect_timeout_s: 1, args: [-c, 'import time; time.sleep(60)'], command: "
            + sys.executable,
            "did not answer within 1 s; see what it waits for, or raise connect_timeout_s",
        ),
    ],
)
async def test_a_server_that_is_not_there(write, keys, message):
    path = write(
        f"functions: {{calc: {{_type: mcp_client, {keys}}}}}\nworkflow: {{_type: python, target: 'a:b'}}"
    )
    path.write_text(path.read_text().replace("'a:b'", "'builtins:repr'"))
    async with opened(path) as function:
        with pytest.raises(UnreachableError, match=message) as raised:
            await function("calc.add")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("transport: stdio", "functions.calc: the transport stdio needs command"),
        ("transport: stdio, command: a, url: b", "the transport stdio has no url; it has command, args, env"),
        ("transport: streamable-http", "the transport streamable-http needs url"),
        ("transport: streamable-http, url: 'ftp://x'", r"functions\.calc\.url: 'ftp://x' is not an http"),
        ("transport: pigeon", r"functions\.calc\.transport: 'pigeon' is none of its values"),
    ],
)
def test_validate_says_what_is_wrong(write, keys, message):
    with pytest.raises(ConfigError, match=message):
        check_config(load_config(write(f"functions: {{calc: {{_type: mcp_client, {keys}}}}}")))


def test_validate_knows_groups(write):
    text = (
        "functions:\n"
        "  calc: {_type: mcp_client, transport: stdio, command: a}\n"
        "  one: {_type: python, target: 'builtins:repr'}\n"
        "workflow: {_type: sequential_executor, tool_names: [calc.add, one.add]}\n"
    )
    with pytest.raises(ConfigError) as raised:
        check_config(load_config(write(text)))
    assert str(raised.value).startswith("workflow.tool_names: there is no functions.one.add")


async def test_an_agent_uses_all_tools_and_each_call_is_one_span(flow, llms, spans):
    pytest.importorskip("langchain")
    agent = "workflow: {_type: tool_calling_agent, llm_name: able, tool_names: [calc]}\n"
    async with open_workflow(load_config(flow(agent + llms))) as workflow:
        assert await workflow.run("mcp 20 and 22") == "The server says 42"
    recorded = spans()
    tools = [span for span in recorded if span.kind is SpanKind.TOOL]
    assert [(span.name, span.status) for span in tools] == [("calc_add", Status.OK)]
    assert tools[0].input == {"a": 20, "b": 22}
    (adding,) = [span for span in recorded if span.name == "adding"]
    assert adding.parent_id == tools[0].span_id
    model = next(span for span in recorded if span.kind is SpanKind.LLM)
    assert '"calc_add"' in json.dumps(model.attributes)
