"""Agents over a real server: LangGraph, the OpenAI client, HTTP, streaming."""

import asyncio
import json
import textwrap

import pytest

from millstream import semconv
from millstream.errors import StepLimitError, WorkflowError
from millstream.span import SpanKind, Status
from millstream.workflow import load_config, open_workflow

TOOLS = '''
from typing import Annotated
from millstream.workflow import Builder, FunctionBaseConfig, FunctionInfo, LLMFrameworkEnum, register_function


class AddConfig(FunctionBaseConfig, name="add_numbers"):
    fail: bool = False
    offset: int = 0


@register_function(config_type=AddConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def add_numbers(config: AddConfig, builder: Builder):
    async def add(a: Annotated[int, "the first"], b: int = 0) -> int:
        """Adds two numbers."""
        if config.fail:
            raise ValueError("the adder is broken")
        return a + b + config.offset

    yield FunctionInfo.from_fn(add)


class JudgeConfig(FunctionBaseConfig, name="judge"):
    llm: str


@register_function(config_type=JudgeConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN])
async def judge(config: JudgeConfig, builder: Builder):
    llm = await builder.get_llm(config.llm, wrapper_type=LLMFrameworkEnum.LANGCHAIN)

    async def ask(a: int, b: int) -> str:
        return (await llm.ainvoke(f"{a} and {b}")).text

    yield FunctionInfo.from_fn(ask, description="Asks a model.")
'''

AGENT = """
general: {modules: [tools.py]}
functions:
  add: {_type: add_numbers}
workflow: {_type: tool_calling_agent, llm_name: able, tool_names: [add], max_iterations: 3}
"""


async def run(path, message, *overrides, **options):
    async with open_workflow(load_config(path, overrides)) as workflow:
        return await workflow.run(message, **options)


def shape(spans):
    by_id = {span.span_id: span for span in spans}
    return [(s.kind.value, s.name, by_id[s.parent_id].name if s.parent_id else None) for s in spans]


async def test_tool_calling_agent_answers_and_records_the_whole_tree(write, llms, spans):
    path = write(llms + AGENT, tools=TOOLS)
    answer = await run(path, "what is 20 plus 22", trace_id="ab" * 16, attributes={"item": "7"})
    assert answer == "The tool says 42"
    recorded = spans()
    assert shape(recorded) == [
        ("WORKFLOW", "tool_calling_agent", None),
        ("LLM", "able", "tool_calling_agent"),
        ("TOOL", "add", "tool_calling_agent"),
        ("FUNCTION", "add", "add"),
        ("LLM", "able", "tool_calling_agent"),
    ]
    root, llm, _, function, last = recorded
    assert {span.trace_id for span in recorded} == {"ab" * 16}
    assert (root.input, root.output, root.attributes["item"]) == (
        "what is 20 plus 22",
        "The tool says 42",
        "7",
    )
    assert (root.workload_id, llm.workload_id, function.workload_id) == (
        "tool_calling_agent",
        "tool_calling_agent",
        "add",
    )
    assert (function.input, function.output) == ({"a": 20, "b": 22}, 42)
    assert llm.usage.input_tokens > 0
    assert llm.usage.output_tokens > 0
    assert last.attributes[semconv.CHUNK_COUNT] > 1, "the model streams"
    (tool,) = llm.attributes[semconv.TOOL_DEFINITIONS]
    assert tool["function"]["description"] == "Adds two numbers."
    assert tool["function"]["parameters"]["properties"]["a"] == {
        "description": "the first",
        "type": "integer",
    }
    assert tool["function"]["parameters"]["required"] == ["a"]


async def test_a_failing_tool_is_told_to_the_model(write, llms, spans):
    path = write(llms + AGENT, tools=TOOLS)
    answer = await run(path, "1 plus 2", ("functions.add.fail", "true"))
    assert answer == "The tool says Error: ValueError: the adder is broken"
    assert [span.status for span in spans() if span.kind is SpanKind.TOOL] == [Status.ERROR]


async def test_a_failing_tool_fails_the_run_when_asked_to(write, llms):
    path = write(llms + AGENT, tools=TOOLS)
    with pytest.raises(ValueError, match="the adder is broken"):
        await run(path, "1 plus 2", ("functions.add.fail", "true"), ("workflow.handle_tool_errors", "false"))


async def test_a_model_server_that_fails_inside_a_tool_fails_the_run(write, llms):
    path = write(llms + AGENT.replace("_type: add_numbers", "_type: judge, llm: broken"), tools=TOOLS)
    with pytest.raises(Exception, match="GPU is on fire"):
        await run(path, "1 plus 2")


@pytest.mark.parametrize(("allowed", "times"), [(1, "once"), (3, "3 times")])
async def test_the_step_limit_counts_rounds_of_tool_calls(write, llms, spans, allowed, times):
    path = write(llms + AGENT, tools=TOOLS)
    with pytest.raises(StepLimitError, match=f"called tools {times} without an answer; raise max_iterations"):
        await run(path, "loop", ("workflow.max_iterations", str(allowed)))
    assert sum(span.kind is SpanKind.TOOL for span in spans()) == allowed


async def test_one_round_is_enough_for_one_tool_call_and_the_answer(write, llms):
    path = write(llms + AGENT, tools=TOOLS)
    assert await run(path, "1 plus 2", ("workflow.max_iterations", "1")) == "The tool says 3"


async def test_a_malformed_tool_call_is_written_again(write, llms, spans):
    path = write(llms + AGENT, tools=TOOLS)
    assert await run(path, "be clumsy once") == "The tool says 7"
    assert [s.kind.value for s in spans()] == ["WORKFLOW", "LLM", "LLM", "TOOL", "FUNCTION", "LLM"]


async def test_malformed_tool_calls_without_end_are_an_error(write, llms):
    path = write(llms + AGENT, tools=TOOLS)
    with pytest.raises(WorkflowError, match="3 tool calls in a row whose arguments are not JSON"):
        await run(path, "be clumsy")


def calls_of(span):
    return [call["function"]["arguments"] for call in span.output["tool_calls"]]


@pytest.mark.parametrize("streaming", ["true", "false"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("llms.able.model_name", "truncating"), "add 20 plus 22"),
        (("llms.able.max_tokens", "9"), "add 20 plus 22"),
    ],
)
async def test_a_tool_call_that_broke_off_is_never_run(*, write, llms, spans, streaming, override, message):
    path = write(llms + AGENT, tools=TOOLS)
    with pytest.raises(WorkflowError, match="3 tool calls in a row whose arguments are not JSON"):
        await run(path, message, ("llms.able.streaming", streaming), override)
    recorded = spans()
    assert [span.kind.value for span in recorded] == ["WORKFLOW", "LLM", "LLM", "LLM"]
    (arguments,) = calls_of(recorded[1])
    assert '{"a": "20", "b": "22"}'.startswith(arguments)
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(arguments)


@pytest.mark.parametrize("streaming", ["true", "false"])
async def test_a_call_cut_off_before_its_arguments_is_not_run_with_the_defaults(
    write, llms, spans, streaming
):
    path = write(llms + AGENT, tools=TOOLS.replace('"the first"], b', '"the first"] = 0, b'))
    with pytest.raises(WorkflowError, match="3 tool calls in a row"):
        await run(path, "1 plus 2", ("llms.able.max_tokens", "1"), ("llms.able.streaming", streaming))
    recorded = spans()
    assert calls_of(recorded[1]) == [""]
    assert not any(span.kind is SpanKind.TOOL for span in recorded)


@pytest.mark.parametrize("streaming", ["true", "false"])
async def test_a_list_is_no_set_of_arguments(write, llms, spans, streaming):
    path = write(llms + AGENT, tools=TOOLS)
    with pytest.raises(WorkflowError, match="3 tool calls in a row"):
        await run(path, "a list", ("llms.able.streaming", streaming))
    assert not any(span.kind is SpanKind.TOOL for span in spans())


async def test_of_two_calls_only_the_whole_one_is_run(write, llms, spans):
    path = write(llms + AGENT, tools=TOOLS)
    assert await run(path, "one and a half") == "The tool says 3"
    recorded = spans()
    assert [span.input for span in recorded if span.kind is SpanKind.FUNCTION] == [{"a": 1, "b": 2}]
    assert calls_of(recorded[1])[1] == '{"a": 5'


@pytest.mark.parametrize("how", ["ainvoke", "invoke", "astream", "stream"])
@pytest.mark.parametrize("streaming", ["true", "false"])
async def test_a_model_gives_a_broken_call_as_invalid_however_it_is_asked(
    *, write, llms, spans, how, streaming
):
    config = load_config(
        write(llms + AGENT, tools=TOOLS),
        [("llms.able.model_name", "truncating"), ("llms.able.streaming", streaming)],
    )
    async with open_workflow(config) as workflow:
        tools = await workflow.builder.get_tools(["add"])
        model = (await workflow.builder.get_llm("able")).bind_tools(tools)
        if how == "ainvoke":
            message = await model.ainvoke("20 plus 22")
        elif how == "invoke":
            message = await asyncio.to_thread(model.invoke, "20 plus 22")
        elif how == "astream":
            chunks = [chunk async for chunk in model.astream("20 plus 22")]
            message = sum(chunks[1:], chunks[0])
        else:
            chunks = await asyncio.to_thread(lambda: list(model.stream("20 plus 22")))
            message = sum(chunks[1:], chunks[0])
    assert message.tool_calls == []
    (invalid,) = message.invalid_tool_calls
    assert invalid["name"] == "add"
    (span,) = spans()
    assert calls_of(span) == [invalid["args"]]
    if "invoke" in how:
        assert type(message).__name__ == "AIMessage"


async def test_an_agent_is_a_tool_of_another(write, llms, spans):
    path = write(
        llms
        + textwrap.dedent("""
        general: {modules: [tools.py], workflow_name: boss}
        functions:
          add: {_type: add_numbers}
          helper: {_type: tool_calling_agent, llm_name: able, tool_names: [add], description: Adds.}
        workflow: {_type: tool_calling_agent, llm_name: able, tool_names: [helper]}
        """),
        tools=TOOLS,
    )
    assert await run(path, "ask your helper") == "My helper says: The tool says 5"
    assert shape(spans()) == [
        ("WORKFLOW", "boss", None),
        ("LLM", "able", "boss"),
        ("TOOL", "helper", "boss"),
        ("FUNCTION", "helper", "helper"),
        ("LLM", "able", "helper"),
        ("TOOL", "add", "helper"),
        ("FUNCTION", "add", "add"),
        ("LLM", "able", "helper"),
        ("LLM", "able", "boss"),
    ]


async def test_runs_at_the_same_time_are_traces_of_their_own(write, llms, spans):
    path = write(llms + AGENT, tools=TOOLS)
    async with open_workflow(load_config(path)) as workflow:
        answers = await asyncio.gather(*(workflow.run(f"{n} plus {n}") for n in range(8)))
    assert answers == [f"The tool says {2 * n}" for n in range(8)]
    traces = {}
    for span in spans():
        traces.setdefault(span.trace_id, []).append(span)
    assert sorted(len(trace) for trace in traces.values()) == [5] * 8


REACT = AGENT.replace("_type: tool_calling_agent", "_type: react_agent")


async def test_react_agent_acts_on_its_text_and_ignores_results_it_made_up(write, llms, spans):
    path = write(llms + REACT, tools=TOOLS)
    assert await run(path, "20 plus 22") == "it is 42"
    assert [s.kind.value for s in spans()] == ["WORKFLOW", "LLM", "TOOL", "FUNCTION", "LLM"]


async def test_react_agent_tells_the_model_what_is_wrong_with_its_text(write, llms):
    path = write(llms + REACT, tools=TOOLS)
    assert await run(path, "mumble") == "mended"


async def test_react_agent_gives_up_after_malformed_turns(write, llms):
    path = write(llms + REACT, tools=TOOLS)
    with pytest.raises(WorkflowError, match="1 turn in a row that are not in the form"):
        await run(path, "mumble", ("workflow.max_parse_retries", "0"))


async def test_react_agent_ends_at_its_limit(write, llms, spans):
    path = write(llms + REACT, tools=TOOLS)
    with pytest.raises(StepLimitError, match="react_agent called tools 2 times"):
        # The observation is negative, so that the stand-in asks for the same again.
        await run(path, "1 plus 2", ("functions.add.offset", "-100"), ("workflow.max_iterations", "2"))
    assert sum(span.kind is SpanKind.TOOL for span in spans()) == 2
