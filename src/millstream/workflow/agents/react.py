"""`react_agent`: the model reasons and names tools in plain text (ReAct, Yao et al. 2023), for any model.

Each turn the model writes `Thought:` and either `Action:` with `Action Input:` or `Final Answer:`; the tool's
result comes back to it as `Observation:`.
"""

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, TypedDict

from pydantic import Field

from millstream.errors import WorkflowError
from millstream.workflow.agents import AgentConfig, as_messages, step_limit
from millstream.workflow.agents.react_text import Action, FinalAnswer, Malformed, parse_turn
from millstream.workflow.answers import answer_text, message_text
from millstream.workflow.builder import Builder
from millstream.workflow.components import FunctionInfo, LLMFrameworkEnum
from millstream.workflow.explain import is_server_failure
from millstream.workflow.registry import register_function

_FORMAT = """Answer the question as well as you can. You may use these tools:

{tools}

Write in exactly one of these two forms.

Thought: what you think about what to do next
Action: one of [{names}]
Action Input: the tool's arguments as a JSON object, such as {{"name": "value"}}

or, when you know the answer:

Thought: I know the final answer
Final Answer: the answer to the question

Write one action at a time and stop after it; its result comes as "Observation:"."""


class ReActAgentConfig(AgentConfig, name="react_agent"):
    """The keys of `react_agent`.

    Attributes:
        max_parse_retries: times in a row that the model is told what is wrong with its text.
        stop: texts that end the model's turn; an empty list for models that take no stop sequences.
    """

    max_parse_retries: Annotated[int, Field(ge=0)] = 3
    stop: list[str] = ["\nObservation:"]


class _State(TypedDict):
    messages: list[Any]
    turn: Action | FinalAnswer | Malformed | None
    rounds: int
    malformed: int


@register_function(config_type=ReActAgentConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN], agent=True)
async def react_agent(config: ReActAgentConfig, builder: Builder) -> AsyncGenerator[FunctionInfo, None]:
    """A LangGraph graph of two steps, think and act, over the models and tools of the workflow file."""
    llm = await builder.get_llm(config.llm_name)
    tools = await builder.get_tools(config.tool_names)
    loop = _Loop(
        config, llm.bind(stop=config.stop) if config.stop else llm, {tool.name: tool for tool in tools}
    )
    graph = loop.graph()
    system = {"role": "system", "content": _system_prompt(config, tools)}
    # Every step counts: at most one round more than allowed, each with all its repeats, and the end.
    limit = (config.max_iterations + 1) * (config.max_parse_retries + 2) + 2

    async def answer(message: str) -> Any:
        state = _State(messages=[system, *as_messages(message)], turn=None, rounds=0, malformed=0)
        result = await graph.ainvoke(state, {"recursion_limit": limit})
        turn = result["turn"]
        if isinstance(turn, FinalAnswer):
            return turn.text
        if isinstance(turn, Malformed):
            turns = config.max_parse_retries + 1
            raise WorkflowError(
                f"the react_agent's model wrote {turns} turn{'s' if turns > 1 else ''} in a row that are not"
                f" in the form Thought / Action / Final Answer ({turn.problem}); use a larger model, or"
                " tool_calling_agent"
            )
        raise step_limit("react_agent", config.max_iterations)

    yield FunctionInfo.from_fn(
        answer, description=config.description or "Answers a request with the help of tools."
    )


class _Loop:
    """The two steps and the ways between them."""

    def __init__(self, config: ReActAgentConfig, llm: Any, tools: Mapping[str, Any]) -> None:
        self._config = config
        self._llm = llm
        self._tools = tools

    def graph(self) -> Any:
        from langgraph.graph import END, START, StateGraph  # noqa: PLC0415  # an extra, and slow to import

        graph = StateGraph(_State)
        graph.add_node("think", self._think)
        graph.add_node("act", self._act)
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", self._next, {"think": "think", "act": "act", "end": END})
        graph.add_edge("act", "think")
        return graph.compile(name="react_agent")

    async def _think(self, state: _State) -> dict[str, Any]:
        reply = await self._llm.ainvoke(state["messages"])
        text = message_text(reply) or ""
        turn = parse_turn(text, self._tools)
        messages = [*state["messages"], {"role": "assistant", "content": getattr(turn, "kept", text) or text}]
        if isinstance(turn, Malformed):
            messages.append({"role": "user", "content": f"Observation: {turn.problem} {turn.advice}"})
        malformed = state["malformed"] + 1 if isinstance(turn, Malformed) else 0
        return {"messages": messages, "turn": turn, "malformed": malformed}

    async def _act(self, state: _State) -> dict[str, Any]:
        turn = state["turn"]
        assert isinstance(turn, Action)  # noqa: S101  # the only way here
        observation = await self._call(turn)
        message = {"role": "user", "content": f"Observation: {observation}"}
        return {"messages": [*state["messages"], message], "rounds": state["rounds"] + 1}

    async def _call(self, action: Action) -> str:
        tool = self._tools[action.tool]
        arguments = action.arguments
        if not isinstance(arguments, dict):
            names = list(tool.args)
            if len(names) != 1:
                return f"Error: {action.tool} needs a JSON object with the keys {', '.join(names)}."
            arguments = {names[0]: arguments}
        try:
            return answer_text(await tool.ainvoke(arguments))
        except Exception as error:
            if is_server_failure(error) or not self._config.handle_tool_errors:
                raise
            return f"Error: {type(error).__name__}: {error}"

    def _next(self, state: _State) -> str:
        turn = state["turn"]
        if isinstance(turn, Action):
            return "act" if state["rounds"] < self._config.max_iterations else "end"
        if isinstance(turn, Malformed) and state["malformed"] <= self._config.max_parse_retries:
            return "think"
        return "end"


def _system_prompt(config: ReActAgentConfig, tools: list[Any]) -> str:
    lines = [f"{tool.name}: {tool.description}. Arguments: {json.dumps(tool.args)}" for tool in tools]
    text = _FORMAT.format(tools="\n".join(lines) or "(none)", names=", ".join(tool.name for tool in tools))
    return f"{config.system_prompt}\n\n{text}" if config.system_prompt else text
