"""`timeout_s` of functions: sync and async ones, as tools, as workflows and in pieces."""

import asyncio
import threading
import time

import pytest

from millstream.errors import ConfigError, FunctionTimeoutError
from millstream.span import Status
from millstream.workflow import (
    FunctionBaseConfig,
    FunctionInfo,
    load_config,
    open_workflow,
    register_function,
)
from millstream.workflow.checks import check_config
from millstream.workflow.functions import Function
from millstream.workflow.time_limit import TimeLimit

TOOLS = '''
import asyncio, threading, time

release = threading.Event()

async def slow(a: int, b: int) -> int:
    """Adds slowly."""
    await asyncio.sleep(30)

def blocked(a: int, b: int) -> int:
    """Adds when it is let."""
    release.wait(30)

def own(a: int, b: int) -> int:
    """Has a limit of its own."""
    raise TimeoutError("my own")

async def pieces(message: str):
    yield "a"
    await asyncio.sleep(30)

def plain(message: str) -> str:
    return message

async def caller(message: str) -> str:
    return message
'''
AGENT = """
functions:
  add: {_type: python, target: 'tools.py:WHICH', timeout_s: 0.2}
workflow: {_type: KIND, llm_name: able, tool_names: [add], max_iterations: 3}
"""


@pytest.mark.parametrize("which", ["slow", "blocked"])
@pytest.mark.parametrize("kind", ["tool_calling_agent", "react_agent"])
async def test_an_agent_sees_the_limit_as_an_error_and_the_span_records_it(write, llms, spans, which, kind):
    path = write(llms + AGENT.replace("WHICH", which).replace("KIND", kind), tools=TOOLS)
    started_s = time.monotonic()
    async with open_workflow(load_config(path)) as workflow:
        if kind == "tool_calling_agent":
            said = await workflow.run("1 plus 2")
            assert said == (
                "The tool says Error: FunctionTimeoutError: add did not finish within 0.2 s"
                " (functions.add.timeout_s)"
            )
        else:
            await workflow.run("1 plus 2")
    assert time.monotonic() - started_s < 20
    tool, function = [span for span in spans() if span.name == "add"][:2]
    assert function.status is Status.ERROR
    assert function.error.type == "FunctionTimeoutError"
    assert function.error.message == "add did not finish within 0.2 s (functions.add.timeout_s)"
    assert tool.status is Status.ERROR
    model_calls = [span for span in spans() if span.kind.value == "LLM"]
    assert "did not finish within 0.2 s" in str(model_calls[-1].input)


async def test_a_timeout_of_the_functions_own_stays_what_it_is(write):
    path = write("workflow: {_type: python, target: 'tools.py:own', timeout_s: 5}", tools=TOOLS)
    async with open_workflow(load_config(path)) as workflow:
        with pytest.raises(TimeoutError, match="my own") as raised:
            await workflow.run({"a": 1, "b": 2})
    assert not isinstance(raised.value, FunctionTimeoutError)


async def test_a_workflow_has_a_limit_too(write, spans):
    path = write("workflow: {_type: python, target: 'tools.py:pieces', timeout_s: 0.2}", tools=TOOLS)
    async with open_workflow(load_config(path)) as workflow:
        with pytest.raises(
            FunctionTimeoutError, match=r"pieces did not finish within 0\.2 s \(workflow\.time"
        ):
            await workflow.run("x")
        got = []
        with pytest.raises(FunctionTimeoutError):
            async for piece in workflow.pieces_unrecorded("x"):
                got.append(piece)
                await asyncio.sleep(0.3)  # the consumer's time is not the function's
        assert got == ["a"]
    assert spans()[0].error.type == "FunctionTimeoutError"


async def test_what_is_in_time_is_as_without_a_limit(write):
    path = write(
        "functions: {caller: {_type: python, target: 'tools.py:caller', timeout_s: 9}}\n"
        "workflow: {_type: python, target: 'tools.py:plain', timeout_s: 9}",
        tools=TOOLS,
    )
    async with open_workflow(load_config(path)) as workflow:
        assert await workflow.run("x") == "x"
        assert [piece async for piece in workflow.pieces_unrecorded("y")] == ["y"]
        assert await (await workflow.builder.get_function("caller"))("z") == "z"


def test_sync_callers_of_sync_functions(spans):
    release = threading.Event()
    function = Function("wait", FunctionInfo.from_fn(lambda: release.wait(30)), TimeLimit("wait", "w", 0.1))
    with pytest.raises(FunctionTimeoutError, match=r"wait did not finish within 0\.1 s \(w\.timeout_s\)"):
        function.call_with_sync({})
    release.set()
    assert function.call_with_sync({}) is True
    failing = Function("fail", FunctionInfo.from_fn(lambda: 1 / 0), TimeLimit("fail", "f", 5))
    with pytest.raises(ZeroDivisionError):
        failing.call_with_sync({})
    assert [span.status.value for span in spans()] == ["error", "ok", "error"]


async def test_a_cancelled_caller_is_no_timeout(write):
    path = write("workflow: {_type: python, target: 'tools.py:pieces', timeout_s: 20}", tools=TOOLS)
    async with open_workflow(load_config(path)) as workflow:
        task = asyncio.create_task(workflow.run("x"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_component_with_such_a_key_keeps_its_own_meaning(write):
    class PollConfig(FunctionBaseConfig, name="poll"):
        timeout_s: float = 0.01

    @register_function(config_type=PollConfig)
    async def poll(config, builder):
        async def wait(message: str) -> float:
            await asyncio.sleep(0.1)
            return config.timeout_s

        yield wait

    async with open_workflow(load_config(write("workflow: {_type: poll, timeout_s: 0.02}"))) as workflow:
        assert await workflow.run("x") == 0.02


def test_a_limit_is_a_positive_number(write):
    path = write("workflow: {_type: python, target: 'tools.py:plain', timeout_s: 0}", tools=TOOLS)
    with pytest.raises(ConfigError, match=r"workflow\.timeout_s: a number > 0 is needed here, not 0"):
        check_config(load_config(path))
