"""Calls of models, of whichever class; OpenAI's client, where one uses it, tells what a model does not."""

from typing import Any, Final

import msgspec
from agents.models.fake_id import FAKE_RESPONSES_ID
from agents.tool import FunctionTool

from millstream import semconv
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, model_call
from millstream.record.integrations.openai.answers import items, read
from millstream.record.integrations.openai.requests import provider_of
from millstream.record.integrations.openai.response_items import answer_message, messages
from millstream.record.integrations.openai.responses import ResponsesAnswer
from millstream.record.integrations.openai_agents.runs import FRAMEWORK
from millstream.span import Usage

_PARAMETERS: Final = ("temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty")


def begin_call(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    """Start the step of a model's `get_response` or `stream_response`."""
    name = getattr(model, "model", None)
    settings = argument(args, kwargs, 2, "model_settings")
    content = messages(
        argument(args, kwargs, 0, "system_instructions") or None, argument(args, kwargs, 1, "input")
    )
    step = model_call(str(name) if name else None, content, framework=FRAMEWORK)
    parameters = {key: read(settings, key) for key in _PARAMETERS}
    client = getattr(model, "_client", None)
    step.request(provider=provider_of(client) if hasattr(client, "base_url") else None, parameters=parameters)
    tools = [_tool_definition(tool) for tool in items(argument(args, kwargs, 3, "tools"))]
    tools += [_handoff_definition(handoff) for handoff in items(argument(args, kwargs, 5, "handoffs"))]
    step.know({semconv.TOOL_DEFINITIONS: tools or None})
    return step


def _tool_definition(tool: Any) -> dict[str, Any]:
    if isinstance(tool, FunctionTool):
        return _function(tool.name, tool.description, tool.params_json_schema)
    return {"type": str(getattr(tool, "name", type(tool).__name__))}


def _handoff_definition(handoff: Any) -> dict[str, Any]:
    """A handoff is offered to the model as a tool."""
    return _function(handoff.tool_name, handoff.tool_description, handoff.input_json_schema)


def _function(name: str, description: str, parameters: Any) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def tell(step: Observed, response: Any) -> None:
    """Record what the client has not told of an answer."""
    output = answer_message(response.output)
    _rest(step).answer(output, usage=_usage(response.usage), response_id=_known_id(response.response_id))


def _rest(step: Observed) -> Observed:
    """The step for one who writes over nothing that is known."""
    return Observed(step.span, inner=True)


def _known_id(response_id: str | None) -> str | None:
    return None if response_id == FAKE_RESPONSES_ID else response_id


def _usage(told: Any) -> Usage | None:
    """Tokens as the SDK counts them, which calls those 0 that it does not know."""
    if not told or not (told.input_tokens or told.output_tokens):
        return None
    return Usage(
        told.input_tokens,
        told.output_tokens,
        read(told.input_tokens_details, "cached_tokens") or None,
        read(told.output_tokens_details, "reasoning_tokens") or None,
    )


class Streamed:
    """The events of a streamed answer."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._answer = _Answer(_rest(step))

    def see(self, event: Any) -> None:
        """Take in an event."""
        if self._answer.see(event):
            self._step.piece(read(event, "delta"))

    def finish(self) -> None:
        """Record the answer that came, or as much of it."""
        self._answer.finish()


class _Answer(ResponsesAnswer):
    """An answer as an event says it, which the SDK has made up where the API was another."""

    def whole(self, answer: Any) -> None:
        """Record what the client has not told."""
        output = read(answer, "output")
        usage = read(answer, "usage")
        self.step.answer(
            answer_message(output) if output else msgspec.UNSET,
            usage=_usage(usage),
            response_id=_known_id(read(answer, "id")),
        )
