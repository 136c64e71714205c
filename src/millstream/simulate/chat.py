"""A chat completion request: checked as strictly as OpenAI checks it, and read as a conversation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from millstream.simulate.api_error import ApiError, invalid
from millstream.simulate.draws import fingerprint
from millstream.simulate.tokens import split_tokens

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_TOOL_CHOICES: Final = ("none", "auto", "required")
_MESSAGE_OVERHEAD: Final = ("<|start|>", "<|role|>", "<|end|>")
_REPLY_OVERHEAD: Final = ("<|start|>", "<|assistant|>", "<|message|>")
_IMAGE_TOKENS: Final = 85
"""What OpenAI counts for an image at low detail; here for any part that is not text."""


@dataclass(frozen=True)
class ChatRequest:
    """A request that passed the checks.

    Attributes:
        body: the JSON as it came.
        model: the model's name.
        messages: as they came.
        tools: name to JSON schema of its parameters.
        tool_choice: `none`, `auto`, `required`, or the name of the one tool that must be called.
        max_tokens: most tokens of the answer, reasoning included; `None` for no limit.
    """

    body: Mapping[str, Any]
    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Mapping[str, Mapping[str, Any]]
    tool_choice: str
    parallel_tool_calls: bool
    max_tokens: int | None
    stop: Sequence[str]
    stream: bool
    include_usage: bool

    @cached_property
    def fingerprint(self) -> bytes:
        """Names the request by its content."""
        return fingerprint(self.body)

    @cached_property
    def prompt_tokens(self) -> Sequence[str]:
        """The tokens of the rendered prompt: tools first, then the messages with three tokens around each."""
        tokens: list[str] = []
        if self.body.get("tools"):
            tokens += split_tokens(json.dumps(self.body["tools"], separators=(",", ":"), ensure_ascii=False))
        for message in self.messages:
            tokens += _MESSAGE_OVERHEAD
            tokens += split_tokens(text_of(message))
            tokens += ["<|image|>"] * (_IMAGE_TOKENS * _other_parts(message))
            for call in message.get("tool_calls") or ():
                tokens += split_tokens(f"{call['function']['name']} {call['function']['arguments']}")
        return [*tokens, *_REPLY_OVERHEAD]

    @cached_property
    def system(self) -> str:
        """The system and developer messages, with line breaks between."""
        return "\n".join(text_of(m) for m in self.messages if m["role"] in ("system", "developer"))

    @cached_property
    def user_messages(self) -> Sequence[str]:
        """The texts of the user's messages."""
        return [text_of(m) for m in self.messages if m["role"] == "user"]

    @cached_property
    def turn(self) -> int:
        """1 for the first answer to the last user message, 2 after one answer of the assistant, and so on."""
        turn = 1
        for message in reversed(self.messages):
            if message["role"] == "user":
                break
            turn += message["role"] == "assistant"
        return turn


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text; parts of text are joined with line breaks, other parts have none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")


def _other_parts(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return 0 if isinstance(content, str) else sum(part.get("type") != "text" for part in content or ())


def parse_chat_request(raw: bytes) -> ChatRequest:
    """Read and check the body of a request.

    Raises:
        ApiError: 400, as OpenAI words it where it does.
    """
    body = _parse_json(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("you must provide a model parameter")
    if _optional(body, "n", int, 1) != 1:
        raise invalid("Only n = 1 is supported by the stand-in: send the request once for each answer.", "n")
    for name, highest in (("temperature", 2), ("top_p", 1)):
        _check_number(body, name, highest)
    stream = _optional(body, "stream", bool, default=False)
    tools = _tools(body)
    return ChatRequest(
        body=body,
        model=model,
        messages=_messages(body),
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        parallel_tool_calls=_optional(body, "parallel_tool_calls", bool, default=True),
        max_tokens=_max_tokens(body),
        stop=_stop(body),
        stream=stream,
        include_usage=_include_usage(body, stream=stream),
    )


def _parse_json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
            "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid "
            f"JSON: {error}.)"
        ) from None
    if not isinstance(body, dict):
        raise invalid("The body of the request must be a JSON object.")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _optional(body: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {bool: "a boolean", int: "an integer", dict: "an object", list: "an array"}[kind]
        raise _wrong_type(name, wanted, value)
    return value


def _wrong_type(name: str, wanted: str, value: Any) -> ApiError:
    got = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "an array"}
    what = got.get(type(value), "null" if value is None else "an object")
    return invalid(
        f"Invalid type for '{name}': expected {wanted}, but got {what} instead.", name, "invalid_type"
    )


def _check_number(body: Mapping[str, Any], name: str, highest: float) -> None:
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(name, "a decimal number", value)
    if not 0 <= value <= highest:
        message = f"Invalid '{name}': expected a value between 0 and {highest}, but got {value} instead."
        raise invalid(
            message, name, "decimal_above_max_value" if value > highest else "decimal_below_min_value"
        )


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    if body.get("messages") is None:
        raise invalid("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    messages: list[dict[str, Any]] = _optional(body, "messages", list, [])
    if not messages:
        text = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise invalid(text, "messages", "empty_array")
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        _check_message(message, where)
        waiting = _check_order(message, waiting, where)
    if waiting:
        raise _unanswered(waiting, f"messages[{len(messages) - 1}]")
    return messages


def _check_message(message: Any, where: str) -> None:
    if not isinstance(message, dict):
        raise _wrong_type(where, "an object", message)
    role = message.get("role")
    if role not in _ROLES:
        allowed = ", ".join(f"'{known}'" for known in _ROLES)
        raise invalid(
            f"Invalid value: '{role}'. Supported values are: {allowed}.", f"{where}.role", "invalid_value"
        )
    content = message.get("content")
    calls = message.get("tool_calls")
    if content is None and not (role == "assistant" and (calls or message.get("refusal"))):
        raise invalid(
            f"Invalid value for 'content' of {where}: expected a string, got null.", f"{where}.content"
        )
    if content is not None and not isinstance(content, str):
        _check_parts(content, f"{where}.content")
    if calls is not None:
        _check_calls(calls, f"{where}.tool_calls")
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        raise invalid(f"Missing parameter 'tool_call_id' of {where}.", f"{where}.tool_call_id")


def _check_parts(content: Any, where: str) -> None:
    if not isinstance(content, list):
        raise _wrong_type(where, "a string or an array of parts", content)
    for index, part in enumerate(content):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise invalid(f"{where}[{index}] must be an object with a 'type'.", f"{where}[{index}]")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise invalid(f"{where}[{index}] must have a 'text'.", f"{where}[{index}].text")


def _check_calls(calls: Any, where: str) -> None:
    if not isinstance(calls, list) or not calls:
        raise invalid(f"{where} must be an array with at least one call.", where)
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(call.get("id"), str)
            or not all(isinstance(function.get(key), str) for key in ("name", "arguments"))
        ):
            message = (
                f"{where}[{index}] must have an 'id' and a 'function' with a 'name' and 'arguments' (text)."
            )
            raise invalid(message, f"{where}[{index}]")


def _check_order(message: Mapping[str, Any], waiting: set[str], where: str) -> set[str]:
    """The ids of tool calls that have no answer yet, after this message."""
    if message["role"] == "tool":
        if message["tool_call_id"] not in waiting:
            text = (
                "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                f"with 'tool_calls'; {where} answers {message['tool_call_id']!r}, which waits for none."
            )
            raise invalid(text, where)
        return waiting - {message["tool_call_id"]}
    if waiting:
        raise _unanswered(waiting, where)
    return {call["id"] for call in message.get("tool_calls") or ()}


def _unanswered(waiting: set[str], where: str) -> ApiError:
    return invalid(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        "'tool_call_id'. The following tool_call_ids did not have response messages: "
        f"{', '.join(sorted(waiting))}",
        where,
    )


def _tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    tools: dict[str, Mapping[str, Any]] = {}
    for index, tool in enumerate(_optional(body, "tools", list, [])):
        function = tool.get("function") if isinstance(tool, dict) else None
        if (
            not isinstance(function, dict)
            or tool.get("type") != "function"
            or not isinstance(function.get("name"), str)
        ):
            message = (
                f"tools[{index}] must be an object with type 'function' and a 'function' that has a 'name'."
            )
            raise invalid(message, f"tools[{index}]")
        parameters = function.get("parameters")
        tools[function["name"]] = parameters if isinstance(parameters, dict) else {}
    return tools


def _tool_choice(body: Mapping[str, Any], tools: Mapping[str, Any]) -> str:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if not tools and choice != "none":
        raise invalid("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if isinstance(choice, str) and choice in _TOOL_CHOICES:
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in tools:
        message = (
            f"Invalid value for 'tool_choice': {choice!r} is not none, auto, required or one of the tools."
        )
        raise invalid(message, "tool_choice")
    return str(name)


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    limits = [_optional(body, name, int, None) for name in ("max_completion_tokens", "max_tokens")]
    for name, limit in zip(("max_completion_tokens", "max_tokens"), limits, strict=True):
        if limit is not None and limit < 1:
            message = (
                f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {limit}."
            )
            raise invalid(message, name, "integer_below_min_value")
    return next((limit for limit in limits if limit is not None), None)


def _stop(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise _wrong_type("stop", "a string or an array of strings", stop)
    return stops


def _include_usage(body: Mapping[str, Any], *, stream: bool) -> bool:
    options = _optional(body, "stream_options", dict, None)
    if options is None:
        return False
    if not stream:
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
        )
    return bool(_optional(options, "include_usage", bool, default=False))
