"""Makes `nat_traces.json` with the NeMo Agent Toolkit itself (nvidia-nat-core and -profiler 1.9.0).

    python make_nat_traces.py FOLDER

Its context, its decorators and its profiler do the work; a request has steps side by side, a tracked function
that raises (and so has no END), a streamed answer, a tool that failed, and an END whose
`span_event_timestamp` is its own time, as half of the toolkit's handlers write it.
"""

import asyncio
import contextlib
import sys
import time
from pathlib import Path

from nat.builder.context import Context, ContextState
from nat.builder.framework_enum import LLMFrameworkEnum
from nat.data_models.intermediate_step import (
    IntermediateStep,
    IntermediateStepPayload,
    IntermediateStepType,
    StreamEventData,
    TraceMetadata,
    UsageInfo,
)
from nat.data_models.profiler import ProfilerConfig
from nat.plugins.profiler.callbacks.token_usage_base_model import TokenUsageBaseModel
from nat.plugins.profiler.decorators.function_tracking import track_function, track_unregistered_function
from nat.plugins.profiler.profile_runner import ProfilerRunner

MESSAGES = [
    {"content": "Be brief.", "type": "system", "id": None},
    {"content": "What of Oslo?", "type": "human", "id": None},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


MANAGER = Context.get().intermediate_step_manager
"""One, as each handler keeps one."""


def push(uuid, event_type, name, **fields):
    step = IntermediateStepPayload(UUID=uuid, event_type=event_type, name=name, **fields)
    MANAGER.push_intermediate_step(step)


async def ask(uuid, pause_s, usage, chunks=()):
    """What the handler for LangChain pushes."""
    start = IntermediateStepType.LLM_START
    push(
        uuid,
        start,
        "gpt-x",
        framework=LLMFrameworkEnum.LANGCHAIN,
        data=StreamEventData(input=MESSAGES),
        metadata=TraceMetadata(chat_inputs=MESSAGES, tools_schema=[TOOL]),
    )
    began = time.time()
    for chunk in chunks:
        await asyncio.sleep(pause_s)
        push(uuid, IntermediateStepType.LLM_NEW_TOKEN, "gpt-x", data=StreamEventData(input="", chunk=chunk))
    await asyncio.sleep(pause_s)
    push(
        uuid,
        IntermediateStepType.LLM_END,
        "gpt-x",
        framework=LLMFrameworkEnum.LANGCHAIN,
        span_event_timestamp=began,
        data=StreamEventData(input="What of Oslo?", output="Rain."),
        metadata=TraceMetadata(chat_responses=[{"text": "Rain."}]),
        usage_info=UsageInfo(num_llm_calls=1, token_usage=usage),
    )


async def use_tool(uuid, pause_s, **metadata):
    """What the handler for AutoGen pushes: the end is told twice."""
    push(uuid, IntermediateStepType.TOOL_START, "weather", data=StreamEventData(input={"city": "Oslo"}))
    await asyncio.sleep(pause_s)
    push(
        uuid,
        IntermediateStepType.TOOL_END,
        "weather",
        span_event_timestamp=time.time(),
        data=StreamEventData(output=None if metadata else "rain"),
        metadata=metadata or None,
        usage_info=UsageInfo(token_usage=TokenUsageBaseModel()),
    )


@track_function(metadata={"stage": "parse"})
def parse(text, *, strict):
    if strict:
        raise ValueError(text)
    return text.upper()


@track_unregistered_function(name="side_by_side")
async def side_by_side():
    await asyncio.gather(
        ask("00000000-0000-4000-8000-00000000000a", 0.02, TokenUsageBaseModel()),
        use_tool("unknown", 0.03),
        use_tool("00000000-0000-4000-8000-00000000000b", 0.01, error="no such city"),
    )


async def request(number):
    state = ContextState.get()
    state.active_span_id_stack.set(["root"])
    steps = []
    state.event_stream.get().subscribe(steps.append)
    workflow = f"{number}0000000-1111-4111-8111-111111111111"
    known = {"workflow_trace_id": f"{number + 1:032x}"} if number else {}
    metadata = TraceMetadata(provided_metadata=known)
    push(
        workflow,
        IntermediateStepType.WORKFLOW_START,
        "answer",
        data=StreamEventData(input="?"),
        metadata=metadata,
    )
    with Context.get().push_active_function("agent", input_data="?"):
        parse("oslo", strict=False)
        await side_by_side()
        usage = TokenUsageBaseModel(prompt_tokens=12, completion_tokens=3, cached_tokens=4, total_tokens=15)
        await ask(f"{number}0000000-2222-4222-8222-222222222222", 0.005, usage, ["Ra", "in", "."])
        if number == 1:
            with contextlib.suppress(ValueError):
                parse("fails", strict=True)
    push(workflow, IntermediateStepType.WORKFLOW_END, "answer", data=StreamEventData(output="Rain."))
    return [IntermediateStep.model_validate(step.model_dump()) for step in steps]


async def main(folder):
    requests = [await asyncio.create_task(request(number)) for number in range(2)]
    await ProfilerRunner(ProfilerConfig(base_metrics=True), Path(folder)).run([requests[0], [], requests[1]])


asyncio.run(main(sys.argv[1]))
