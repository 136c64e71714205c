"""The invoker over everything that can be called, and the spans and contexts that it makes."""

import asyncio
import gc
from typing import TypedDict

import pydantic
import pytest

import millstream
from millstream import (
    CrossWorkflowProcessor,
    ObservabilityContext,
    ObservabilityWorkflowInvoker,
    SpanKind,
    Status,
    WorkflowRelationshipProcessor,
    start_span,
    track_function,
)
from millstream.errors import InputError, UnreachableError, WorkflowError
from millstream.workflow import load_config, open_workflow
from tests.simulate.process import running

invoke = ObservabilityWorkflowInvoker.invoke_workflow_with_context
stream = ObservabilityWorkflowInvoker.invoke_workflow_stream_with_context
current = ObservabilityWorkflowInvoker.get_current_observability_context


@track_function
def step(value):
    return value


async def workflow(message):
    step(message)
    await asyncio.sleep(0.001)
    return f"{message}!"


async def failing(message):
    raise ValueError(f"no {message}")


@pytest.fixture
def told(spans):
    """What has been recorded, as an exporter with both processors has it; parents are there, times final."""

    def read():
        processors = [CrossWorkflowProcessor(), WorkflowRelationshipProcessor()]
        recorded = spans()
        ids = {span.span_id for span in recorded}
        for span in recorded:
            assert span.parent_id is None or span.parent_id in ids, f"{span.name} has no parent"
            for processor in processors:
                assert processor(span) is span
            told = span.attributes
            own = told.get("observability.workflow_id") == span.span_id
            assert own == (span.kind is SpanKind.WORKFLOW)
            if told.get("observability.trace_id"):
                assert told["observability.trace_id"] == span.trace_id
                assert told["observability.current_span_id"] == told["observability.workflow_id"]
                assert told["observability.workflow_depth"] == told["relationship.nesting_level"]
            if own:
                assert span.name == told["observability.workflow_name"]
                assert told["observability.workflow_status"] == (
                    "completed" if span.status is Status.OK else "failed"
                )
                assert told["observability.workflow_start_time"] == span.start_ns / 1e9
                assert told["observability.workflow_end_time"] == span.end_ns / 1e9
                assert told["observability.workflow_duration"] == span.duration_s
        return recorded

    return read


def paths(spans, kind=SpanKind.WORKFLOW):
    return [span.attributes.get("relationship.hierarchy_path") for span in spans if span.kind is kind]


async def parent_child(message):
    context = ObservabilityContext.create_root_context("main_workflow")
    context.add_attribute("customer", "acme")
    data = await invoke(
        workflow=workflow, message=message, workflow_name="data_processing", parent_context=context
    )
    return await invoke(
        workflow=workflow, message=data, workflow_name="report_generation", parent_context=context
    )


async def sequential(data):
    context = ObservabilityContext.create_root_context("sequential_processing")
    data = await invoke(workflow=workflow, message=data, workflow_name="validation", parent_context=context)
    now = current()
    data = await invoke(workflow=workflow, message=data, workflow_name="transformation", parent_context=now)
    return await invoke(workflow=workflow, message=data, workflow_name="storage", parent_context=now)


async def distributed(tasks):
    context = ObservabilityContext.create_root_context("distributed_processing")
    results = await asyncio.gather(
        *[
            invoke(
                workflow=workflow, message=task, workflow_name=f"task_processor_{i}", parent_context=context
            )
            for i, task in enumerate(tasks)
        ]
    )
    return await invoke(
        workflow=workflow, message=results, workflow_name="aggregation", parent_context=context
    )


async def test_parent_and_children_as_in_the_seed(told):
    assert await parent_child("in") == "in!!"
    recorded = told()
    assert paths(recorded) == [
        "main_workflow",
        "main_workflow -> data_processing",
        "main_workflow -> report_generation",
    ]
    assert paths(recorded, SpanKind.FUNCTION) == paths(recorded)[1:]
    root, *_, last = (span for span in recorded if span.kind is SpanKind.WORKFLOW)
    assert {span.trace_id for span in recorded} == {root.trace_id}
    assert root.end_ns == last.end_ns
    assert {span.attributes["observability.custom.customer"] for span in recorded} == {"acme"}
    assert root.attributes["relationship.type"] == "root_workflow"
    assert "relationship.parent_workflow_name" not in root.attributes
    assert last.attributes["relationship.type"] == "child_workflow"
    assert last.attributes["relationship.parent_workflow_name"] == "main_workflow"
    assert last.attributes["observability.root_span_id"] == root.span_id
    assert last.parent_id == root.span_id
    assert (root.attributes["observability.workflow_depth"], root.parent_id) == (0, None)
    assert (last.input, last.output) == ("in!", "in!!")


async def test_a_sequence_as_in_the_seed(told):
    await sequential("in")
    recorded = told()
    assert paths(recorded) == [
        "sequential_processing",
        "sequential_processing -> validation",
        "sequential_processing -> validation -> transformation",
        "sequential_processing -> validation -> storage",
    ]
    assert recorded[0].end_ns == max(span.end_ns for span in recorded)


async def test_parallel_workflows_as_in_the_seed(told):
    await distributed(range(5))
    recorded = told()
    assert sorted(paths(recorded)) == sorted(
        ["distributed_processing", "distributed_processing -> aggregation"]
        + [f"distributed_processing -> task_processor_{number}" for number in range(5)]
    )
    for span in recorded:
        if span.kind is SpanKind.FUNCTION:  # each in its own workflow
            assert span.attributes["observability.workflow_id"] == span.parent_id


async def test_the_root_is_not_written_before_it_is_over(told, spans):
    context = ObservabilityContext.create_root_context("main")
    await invoke(workflow, 1, "one", context)
    assert (spans()[0].name, spans()[0].status) == ("main", None)
    await invoke(workflow, 1, "two", context)
    del context
    assert [span.name for span in told() if span.kind is SpanKind.WORKFLOW] == ["main", "one", "two"]


async def test_a_block_ends_the_root_exactly(told):
    with pytest.raises(KeyError), ObservabilityContext.create_root_context("main") as context:
        await invoke(workflow, 1, "one")
        step(2)
        raise KeyError("out")
    recorded = told()
    assert paths(recorded) == ["main", "main -> one"]
    assert recorded[0].error.type == "KeyError"
    assert context.get_current_workflow().status == "failed"
    assert [span.parent_id for span in recorded if span.input == {"value": 2}] == [recorded[0].span_id]
    assert current() is None or current().get_current_workflow().workflow_name == "one"
    del context
    gc.collect()
    assert len(told()) == 4


async def test_contexts_that_nobody_invoked_have_spans_when_others_refer_to_them(told):
    inner = ObservabilityContext.create_root_context("a").create_child_context("b")
    await invoke(workflow, 1, "c", inner)
    del inner
    assert paths(told()) == ["a", "a -> b", "a -> b -> c"]
    ObservabilityContext.create_root_context("unused")
    assert len(told()) == 4


async def test_nested_workflows_need_no_parent(told):
    def name():
        return current().get_current_workflow().workflow_name

    async def leaf(message):
        assert name() == "leaf"
        return message

    async def middle(message):
        assert name() == "middle"
        with start_span("block", kind=SpanKind.TOOL):
            await invoke(leaf, message, "leaf")
            assert name() == "leaf"  # the last call from here
            assert await asyncio.to_thread(name) == "leaf"
        assert name() == "middle"
        current().add_attribute("late", True)
        step(3)

    async def outer(message):
        await invoke(middle, message, "middle")
        await invoke(leaf, message, "leaf")

    await invoke(outer, 1, "outer")
    assert name() == "outer"
    await invoke(workflow, 1, "another")
    recorded = told()
    assert paths(recorded) == [
        "outer",
        "outer -> middle",
        "outer -> middle -> leaf",
        "outer -> leaf",
        "another",
    ]
    by_name = {span.name: span for span in recorded}
    (below,) = [span for span in recorded if span.name == "leaf" and span.parent_id != recorded[0].span_id]
    assert below.parent_id == by_name["block"].span_id
    assert by_name["block"].parent_id == by_name["middle"].span_id
    assert "observability.custom.late" not in by_name["block"].attributes
    assert [span.attributes.get("observability.custom.late") for span in recorded if span.name == "step"] == [
        True,
        None,
    ]
    assert by_name["middle"].attributes["observability.custom.late"] is True
    assert by_name["another"].trace_id != by_name["outer"].trace_id


async def test_a_chosen_root_holds_calls_that_name_no_parent(told):
    async def main():
        context = ObservabilityWorkflowInvoker.create_observability_context("main", "c" * 32)
        assert current() is context
        await invoke(workflow, 1, "one")
        with start_span("elsewhere"):
            await invoke(workflow, 1, "two")

    await asyncio.create_task(main())
    await asyncio.sleep(0)  # else the loop still has the task
    recorded = told()
    assert paths(recorded) == ["main", "main -> one", "main -> two"]
    assert {span.trace_id for span in recorded if span.name != "elsewhere"} == {"c" * 32}


async def test_a_root_belongs_to_the_trace_that_it_is_made_in(told):
    with start_span("request") as request:
        await sequential(1)
    recorded = told()
    assert {span.trace_id for span in recorded} == {request.trace_id}
    assert recorded[1].parent_id == request.span_id


async def test_a_failure_is_kept_and_goes_on(told):
    async def outer(message):
        with pytest.raises(ValueError, match="no 1"):
            await invoke(failing, message, "failing")
        assert current().get_current_workflow().status == "failed"
        assert current().get_current_workflow().tags == {"error": "no 1"}
        await invoke(workflow, message, "instead")

    await invoke(outer, 1, "outer")
    assert current().get_current_workflow().status == "completed"
    root = ObservabilityContext.create_root_context("root")
    with pytest.raises(ValueError, match="no 2"):
        await invoke(failing, 2, "failing", root)
    del root
    recorded = told()
    assert [(span.name, span.status) for span in recorded if span.kind is SpanKind.WORKFLOW] == [
        ("outer", Status.OK),
        ("failing", Status.ERROR),
        ("instead", Status.OK),
        ("root", Status.ERROR),
        ("failing", Status.ERROR),
    ]
    assert (recorded[1].error.type, recorded[1].error.message) == ("ValueError", "no 1")


async def test_a_cancelled_workflow_failed(told):
    async def waiting(message):
        await asyncio.sleep(60)

    task = asyncio.create_task(invoke(waiting, 1, "waiting"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    call = invoke(waiting, 1, "closed")
    call.send(None)
    call.close()
    assert [span.status for span in told()] == [Status.CANCELLED, Status.CANCELLED]


async def test_a_stream_is_one_span_and_the_consumer_is_outside(told):
    async def pieces(message):
        for number in range(message):
            step(number)
            yield number

    seen = []
    async for piece in stream(pieces, 3, "streaming", to_type=str):
        seen.append(piece)
        step("consumer")
    assert seen == ["0", "1", "2"]
    assert current().get_current_workflow().workflow_name == "streaming"
    early = stream(pieces, 3, "early")
    assert await anext(early) == 0
    await early.aclose()
    assert [piece async for piece in stream(workflow, 1, "single")] == ["1!"]
    assert [piece async for piece in stream(lambda n: (i for i in range(n)), 2, "sync")] != []
    recorded = told()
    by_name = {span.name: span for span in recorded if span.kind is SpanKind.WORKFLOW}
    assert by_name["streaming"].attributes["millstream.chunk_count"] == 3
    assert by_name["early"].status is Status.OK
    steps = {
        span.input["value"]: span.attributes.get("relationship.hierarchy_path")
        for span in recorded
        if span.name == "step" and span.trace_id == by_name["streaming"].trace_id
    }
    assert steps == {0: "streaming", 1: "streaming", 2: "streaming"}

    async def breaking(message):
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        [piece async for piece in stream(breaking, 1, "breaking")]
    assert told()[-1].status is Status.ERROR


async def test_the_steps_of_a_call_are_those_of_its_spans():
    async def alongside():
        return await invoke(workflow, "other", "other")

    (result, steps), _ = await asyncio.gather(
        ObservabilityWorkflowInvoker.invoke_with_steps_and_context(workflow, "in", "mine"), alongside()
    )
    assert result == "in!"
    assert [(each.event_type, each.name) for each in steps] == [
        ("WORKFLOW_START", "mine"),
        ("SPAN_START", "step"),
        ("SPAN_END", "step"),
        ("WORKFLOW_END", "mine"),
    ]


class Total(pydantic.BaseModel):
    total: int


class State(TypedDict):
    question: str
    answer: str


def graph():
    from langgraph.graph import END, START, StateGraph

    drawn = StateGraph(State)
    drawn.add_node("answer", lambda state: {"answer": step(state["question"]) + "?"})
    drawn.add_edge(START, "answer")
    drawn.add_edge("answer", END)
    return drawn


class Chain:
    def invoke(self, message):
        return {"total": step(message)}


class Callable:
    def __call__(self, message):
        return step(message)


async def test_anything_that_can_be_called_is_a_workflow(told):
    from langchain_core.runnables import RunnableLambda

    millstream.instrument("langchain")
    try:
        assert await invoke(step, 1, "function") == 1
        assert await invoke(Callable(), 2, "callable") == 2
        assert await invoke(Chain(), 3, "object", to_type=Total) == Total(total=3)
        assert await invoke(lambda _: '{"total": 4}', None, "text", to_type=Total) == Total(total=4)
        assert await invoke(lambda _: Total(total=5), None, "model", to_type=str) == '{"total": 5}'
        question = {"question": "so"}
        assert (await invoke(graph(), question, "graph"))["answer"] == "so?"
        pieces = [piece async for piece in stream(graph().compile(), question, "graph")]
        assert pieces == [{"answer": {"answer": "so?"}}]
        assert await invoke(RunnableLambda(lambda text: step(text).upper()), "up", "runnable") == "UP"
    finally:
        millstream.uninstrument()
    recorded = told()
    names = ["function", "callable", "object", "text", "model", "graph", "graph", "runnable"]
    assert [span.name for span in recorded if span.kind is SpanKind.WORKFLOW] == names
    assert all(span.attributes["observability.workflow_name"] for span in recorded)
    inside = [span for span in recorded if span.name == "step"]
    assert [span.attributes["observability.workflow_name"] for span in inside] == [
        "function",
        "callable",
        "object",
        "graph",
        "graph",
        "runnable",
    ]


@pytest.mark.parametrize(
    ("workflow", "said"),
    [
        (5, "a int cannot be called"),
        ("config.yml", "is not an http:// or https:// address"),
        ("ftp://example.org", "is not an http:// or https:// address"),
        ("http://user:hidden@127.0.0.1:9/", "holds a user or password"),
    ],
)
async def test_what_cannot_be_called_is_refused_before_anything_is_recorded(home, workflow, said):
    with pytest.raises(InputError, match=said) as refused:
        await invoke(workflow, 1, "wrong")
    assert "hidden" not in str(refused.value)
    assert not (home / "journal").exists()


async def test_a_parent_that_is_no_context_and_a_result_of_another_type(spans):
    context = ObservabilityContext.create_root_context("main")
    with pytest.raises(InputError, match="from_dict"):
        await invoke(workflow, 1, "wrong", context.to_dict())
    with pytest.raises(WorkflowError, match=r"is no .*Total"):
        await invoke(workflow, 1, "wrong", to_type=Total)
    assert [span.status for span in spans() if span.name == "wrong"] == [Status.ERROR]


FLOW = """
general: {modules: [tools.py], workflow_name: agent}
functions: {add: {_type: add_numbers}}
workflow: {_type: tool_calling_agent, llm_name: able, tool_names: [add]}
"""
TOOLS = """
from millstream import FunctionBaseConfig, FunctionInfo, register_function

class AddConfig(FunctionBaseConfig, name="add_numbers"):
    pass

@register_function(config_type=AddConfig)
async def add_numbers(config, builder):
    async def add(a: int, b: int) -> int:
        "Adds two numbers."
        return a + b
    yield FunctionInfo.from_fn(add)
"""


async def test_a_workflow_of_a_file_is_one_span_with_all_below_in_it(told, write, llms):
    root = ObservabilityContext.create_root_context("support")
    async with open_workflow(load_config(write(llms + FLOW, tools=TOOLS))) as agent:
        assert await invoke(agent, "1 plus 2", "first", root) == "The tool says 3"
        pieces = [piece async for piece in stream(agent, "2 plus 2", "second", root)]
        assert pieces == ["The tool says 4"]
        with root:
            assert await agent.run("3 plus 2") == "The tool says 5"
        add = await agent.builder.get_function("add")
        assert await invoke(add, {"a": 1, "b": 1}, "adding") == 2
    recorded = told()
    assert [span.name for span in recorded if span.kind is SpanKind.WORKFLOW] == [
        "support",
        "first",
        "second",
        "agent",
        "adding",
    ]
    models = [span for span in recorded if span.kind is SpanKind.LLM]
    assert len(models) == 6
    assert {span.attributes["relationship.hierarchy_path"] for span in models} == {
        "support -> first",
        "support -> second",
        "support -> agent",
    }
    assert {span.workload_id for span in models} == {"agent"}
    assert [span.workload_id for span in recorded if span.name == "adding"] == ["add"]


async def test_a_chat_endpoint_is_a_workflow(told, tmp_path):
    rules = tmp_path / "rules.yml"
    rules.write_text("models: {able: {}, chat: {}}\ndefault: You said $user\n")
    with running(rules) as stand_in:
        url = f"{stand_in.base_url}/chat/completions"
        body = {"model": "able", "messages": [{"role": "user", "content": "hello"}]}
        assert await invoke(url, body, "chat") == "You said hello"
        assert await invoke(url, "hello", "chat") == "You said hello"  # the model is the workflow's name
    assert [span.output for span in told()] == ["You said hello", "You said hello"]


async def test_a_chat_endpoint_that_refuses_or_is_away(told, base_url):
    url = f"{base_url}/chat/completions"
    body = {"model": "able", "messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(WorkflowError, match="answered 401"):  # this stand-in wants a key
        await invoke(url, body, "chat")
    with pytest.raises(UnreachableError, match="does not answer"):
        await invoke("http://127.0.0.1:9/v1/chat/completions", "hello", "away")
    assert [span.status for span in told()] == [Status.ERROR, Status.ERROR]


async def test_contexts_work_while_nothing_is_recorded(home):
    with millstream.recording(enabled=False):
        await sequential(1)
        assert [each.workflow_name for each in current().workflow_chain] == [
            "sequential_processing",
            "validation",
            "storage",
        ]
        assert current().get_current_workflow().status == "completed"
    with millstream.recording(home=home, sampling=0.0):
        await sequential(1)
        await invoke(workflow, 1, "alone")
        assert current().get_current_workflow().workflow_name == "alone"
    gc.collect()
    assert not (home / "journal").exists()


async def test_a_failed_trace_is_kept_whole(told, home):
    sampling = millstream.Sampling(rate=0.0, keep_errors=True)
    with millstream.recording(home=home, sampling=sampling):
        await sequential(1)
        root = ObservabilityContext.create_root_context("kept")
        await invoke(workflow, 1, "one", root)
        with pytest.raises(ValueError, match="no"):
            await invoke(failing, 1, "failing", root)
        del root
    assert paths(told()) == ["kept", "kept -> one", "kept -> failing"]
