"""A request of the Responses API, checked and put as the chat that it is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from millstream.simulate import chat_checks as checks
from millstream.simulate.api_error import invalid
from millstream.simulate.chat import ChatRequest
from millstream.simulate.conversations import Conversations
from millstream.simulate.responses_input import read_input

_FEWEST_TOKENS: Final = 16
"""The lowest `max_output_tokens` that OpenAI takes."""
_UNSUPPORTED: Final = ("background", "conversation", "prompt")
_KINDS: Final[Mapping[str, type]] = {
    "instructions": str,
    "previous_response_id": str,
    "metadata": dict,
    "reasoning": dict,
    "text": dict,
    "include": list,
    "store": bool,
}
_NO_CONTENT: Final = ("input", "instructions", "previous_response_id", "stream_options", "store", "include")
"""What is in the chat's messages already, or changes nothing in what the answer is."""
_FORMATS: Final = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class ResponsesRequest:
    """A request that passed the checks.

    Attributes:
        body: the JSON as it came.
        chat: the same as a chat, which is what the rules are asked.
        messages: the chat's messages without the instructions, which the next request brings anew.
        store: whether a later request may go on from the response.
    """

    body: Mapping[str, Any]
    chat: ChatRequest
    messages: Sequence[Mapping[str, Any]]
    store: bool


def parse_responses_request(raw: bytes, conversations: Conversations) -> ResponsesRequest:
    """Read and check the body of a request.

    Args:
        raw: the body.
        conversations: where `previous_response_id` is looked up.

    Raises:
        ApiError: 400, as OpenAI words it where it does.
    """
    body = checks.parse_json(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise checks.missing("model")
    _check_parameters(body)
    previous = body.get("previous_response_id")
    messages = read_input(body, () if previous is None else conversations.until(previous))
    tools = _chat_tools(body, model)
    schemas = checks.read_tools({"tools": tools})
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if instructions else []
    chat_body = {
        **{key: value for key, value in body.items() if key not in _NO_CONTENT},
        "messages": [*system, *messages],
        "tools": tools,
        "response_format": _response_format(body),
    }
    chat = ChatRequest(
        body=chat_body,
        model=model,
        messages=chat_body["messages"],
        tools=schemas,
        tool_choice=_tool_choice(body, schemas),
        parallel_tool_calls=checks.optional(body, "parallel_tool_calls", bool, default=True),
        max_tokens=_max_tokens(body),
        stop=(),
        stream=checks.optional(body, "stream", bool, default=False),
        include_usage=True,
        source="input",
    )
    return ResponsesRequest(body, chat, messages, store=body.get("store") is not False)


def _check_parameters(body: Mapping[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if body.get(name):
            message = f"Unsupported parameter: '{name}' is not supported by the stand-in."
            raise invalid(message, name, "unsupported_parameter")
    for name, kind in _KINDS.items():
        checks.optional(body, name, kind, None)
    for name, highest in (("temperature", 2), ("top_p", 1)):
        checks.check_number(body, name, highest)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    limit: int | None = checks.optional(body, "max_output_tokens", int, None)
    if limit is not None and limit < _FEWEST_TOKENS:
        raise checks.below_minimum("max_output_tokens", _FEWEST_TOKENS, limit)
    return limit


def _chat_tools(body: Mapping[str, Any], model: str) -> list[dict[str, Any]]:
    """The function tools in the form that a chat has; tools that OpenAI itself runs are refused."""
    tools = []
    for index, tool in enumerate(checks.optional(body, "tools", list, [])):
        if not isinstance(tool, dict):
            raise checks.wrong_type(f"tools[{index}]", "an object", tool)
        kind = tool.get("type")
        if kind is None:
            raise checks.missing(f"tools[{index}].type")
        if kind != "function":
            raise invalid(f"Hosted tool '{kind}' is not supported with {model}.", "tools")
        if not isinstance(tool.get("name"), str):
            raise checks.missing(f"tools[{index}].name")
        function = {key: value for key, value in tool.items() if key != "type"}
        tools.append({"type": "function", "function": function})
    return tools


def _tool_choice(body: Mapping[str, Any], tools: Mapping[str, Any]) -> str:
    """`none`, `auto`, `required`, or the name of the tool that must be called."""
    choice = body.get("tool_choice", "auto")
    if choice in (None, "auto", "none") or (choice == "required" and tools):
        return choice or "auto"
    name = choice.get("name") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if not isinstance(name, str) or name not in tools:
        what = name if isinstance(name, str) else choice
        raise invalid(f"Tool choice '{what}' not found in 'tools' parameter.", "tool_choice")
    return name


def _response_format(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """`text.format` as the `response_format` of a chat; `None` for plain text."""
    form = (body.get("text") or {}).get("format")
    if form is None:
        return None
    if not isinstance(form, dict):
        raise checks.wrong_type("text.format", "an object", form)
    kind = form.get("type")
    if kind not in _FORMATS:
        raise checks.unknown_value(kind, _FORMATS, "text.format.type")
    if kind != "json_schema":
        return None if kind == "text" else {"type": kind}
    for key in ("name", "schema"):
        if not form.get(key):
            raise checks.missing(f"text.format.{key}")
    return {"type": kind, kind: {key: value for key, value in form.items() if key != "type"}}
