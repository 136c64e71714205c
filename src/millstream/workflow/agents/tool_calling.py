"""`tool_calling_agent`: the model calls tools by the protocol's own tool calls, until it answers."""

from collections.abc import AsyncGenerator
from typing import Any

from millstream.errors import WorkflowError
from millstream.workflow.agents import AgentConfig, as_messages, step_limit
from millstream.workflow.answers import answer_of
from millstream.workflow.builder import Builder
from millstream.workflow.components import FunctionInfo, LLMFrameworkEnum
from millstream.workflow.explain import is_server_failure
from millstream.workflow.functions import imported
from millstream.workflow.registry import register_function

_MALFORMED_IN_A_ROW = 3
_NOT_JSON = "Error: the arguments are not a valid JSON object. Write the call again with valid JSON."


class ToolCallingAgentConfig(AgentConfig, name="tool_calling_agent"):
    """The keys of `tool_calling_agent`."""


@register_function(
    config_type=ToolCallingAgentConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN], agent=True
)
async def tool_calling_agent(
    config: ToolCallingAgentConfig, builder: Builder
) -> AsyncGenerator[FunctionInfo, None]:
    """A LangGraph agent whose model and tools are those of the workflow file."""
    llm = await builder.get_llm(config.llm_name)
    tools = await builder.get_tools(config.tool_names)

    create_agent = (await imported("langchain.agents")).create_agent
    middleware = [_limit_of_rounds(config.max_iterations), _malformed_calls_to_model()]
    if config.handle_tool_errors:
        middleware.append(_tool_errors_to_model())
    agent: Any = create_agent(llm, tools, system_prompt=config.system_prompt, middleware=middleware)
    # A round is one step of the model and one of the tools; LangGraph counts the start and the end too.
    steps = 2 * (config.max_iterations + 1) + 2

    async def answer(message: str) -> Any:
        return answer_of(await agent.ainvoke({"messages": as_messages(message)}, {"recursion_limit": steps}))

    yield FunctionInfo.from_fn(
        answer, description=config.description or "Answers a request with the help of tools."
    )


def _limit_of_rounds(limit: int) -> Any:
    """Middleware that ends the run when the model wants one round of tools too many.

    LangGraph's own limit counts steps, and cannot tell the last answer from one more round.
    """
    from langchain.agents.middleware import wrap_model_call  # noqa: PLC0415

    @wrap_model_call
    async def count_rounds(request: Any, handler: Any) -> Any:
        response = await handler(request)
        rounds = sum(bool(getattr(message, "tool_calls", None)) for message in _of_this_run(request.messages))
        if rounds >= limit and any(getattr(message, "tool_calls", None) for message in response.result):
            raise step_limit("tool_calling_agent", limit)
        return response

    return count_rounds


def _malformed_calls_to_model() -> Any:
    """Middleware that lets the model write a tool call again whose arguments are not JSON.

    LangGraph takes such a call for an answer, which would mostly be an empty one.
    """
    from langchain.agents.middleware import wrap_model_call  # noqa: PLC0415
    from langchain_core.messages import ToolMessage  # noqa: PLC0415

    @wrap_model_call
    async def ask_again(request: Any, handler: Any) -> Any:
        for _ in range(_MALFORMED_IN_A_ROW):
            response = await handler(request)
            message = response.result[-1]
            malformed = getattr(message, "invalid_tool_calls", None)
            if not malformed:
                return response
            if message.tool_calls:  # the others are done; the API wants an answer to each that is kept
                message.invalid_tool_calls = []
                return response
            answers = [
                ToolMessage(content=_NOT_JSON, name=call["name"], tool_call_id=call["id"], status="error")
                for call in malformed
            ]
            request = request.override(messages=[*request.messages, message, *answers])
        raise WorkflowError(
            f"the model wrote {_MALFORMED_IN_A_ROW} tool calls in a row whose arguments are not JSON; use a"
            " model that is better at tool calls, or react_agent"
        )

    return ask_again


def _of_this_run(messages: list[Any]) -> list[Any]:
    """What came after the user's last message: earlier rounds were of earlier runs."""
    last = max((index for index, message in enumerate(messages) if message.type == "human"), default=-1)
    return messages[last + 1 :]


def _tool_errors_to_model() -> Any:
    """Middleware that turns a tool's exception into its answer, so that the model can react to it."""
    from langchain.agents.middleware import wrap_tool_call  # noqa: PLC0415
    from langchain_core.messages import ToolMessage  # noqa: PLC0415
    from langgraph.errors import GraphBubbleUp  # noqa: PLC0415

    @wrap_tool_call
    async def tell_the_model(request: Any, handler: Any) -> Any:
        try:
            return await handler(request)
        except GraphBubbleUp:  # LangGraph's own way to stop or hand over
            raise
        except Exception as error:
            if is_server_failure(error):
                raise
            return ToolMessage(
                content=f"Error: {type(error).__name__}: {error}",
                name=request.tool_call["name"],
                tool_call_id=request.tool_call["id"],
                status="error",
            )

    return tell_the_model
