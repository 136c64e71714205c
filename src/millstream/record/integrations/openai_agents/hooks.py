"""Where the Agents SDK is wrapped.

Runs at the runner, which also `Runner` and agents that are tools go through; model calls on every model
class; guardrails at their `run`. That an agent takes over from another is told by the SDK's tracing spans,
which it starts and ends even while its tracing is off.
"""

from typing import Any, Final

from agents.guardrail import InputGuardrail, OutputGuardrail
from agents.models.interface import Model
from agents.run import AgentRunner
from agents.run_internal import tool_execution
from agents.tool_guardrails import ToolInputGuardrail, ToolOutputGuardrail
from agents.tracing.spans import NoOpSpan, SpanImpl

from millstream.record.integrations import openai
from millstream.record.integrations.methods import Methods
from millstream.record.integrations.openai_agents import guardrails, models, runs, tools

_methods: Final = Methods()


def install() -> None:
    """Record what the SDK does from now on."""
    if _methods.on:
        return
    put = _methods.put
    put(AgentRunner, ["run"], runs.recording(_is_on))
    put(AgentRunner, ["run_streamed"], runs.recording_stream(_is_on))
    for span in (SpanImpl, NoOpSpan):
        put(span, ["start"], runs.telling_start)
        put(span, ["finish"], runs.telling_finish)
    _methods.calls(Model, ["get_response"], models.begin_call, models.tell, below=True)
    _methods.generators(Model, ["stream_response"], models.begin_call, models.Streamed, below=True)
    executor: Any = getattr(tool_execution, "_FunctionToolBatchExecutor", type("Absent", (), {}))
    put(executor, ["_invoke_tool_and_run_post_invoke"], tools.recording(_is_on))
    put(tools.FAILURES, ["maybe_invoke_function_tool_failure_error_function"], tools.noting_failure)
    for of_agents in (InputGuardrail, OutputGuardrail):
        _methods.calls(of_agents, ["run"], guardrails.begin_check, guardrails.tell)
    for of_tools in (ToolInputGuardrail, ToolOutputGuardrail):
        _methods.calls(of_tools, ["run"], guardrails.begin_tool_check, guardrails.tell_tool)
    openai.use("openai-agents")


def uninstall() -> None:
    """Put the SDK back as it was."""
    openai.leave("openai-agents")
    _methods.undo()


def _is_on() -> bool:
    return _methods.on
