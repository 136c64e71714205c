"""What OpenAI refuses in a request, parameter by parameter; each check raises a 400.

The messages are OpenAI's where they are short and clear.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from millstream.simulate.api_error import ApiError, invalid

_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_TOOL_CHOICES: Final = ("none", "auto", "required")
_MOST_CHOICES: Final = 128
_JSON_TYPES: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object of a request's body."""
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


def optional(body: Mapping[str, Any], name: str, kind: type[Any], default: Any) -> Any:
    """A parameter that may be absent or null; then the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong_type(name, _JSON_TYPES[kind], value)
    return value


def wrong_type(name: str, wanted: str, value: Any) -> ApiError:
    """400: a parameter of another JSON type than the one that is wanted."""
    what = "null" if value is None else _JSON_TYPES[type(value)]
    return invalid(
        f"Invalid type for '{name}': expected {wanted}, but got {what} instead.", name, "invalid_type"
    )


def missing(name: str) -> ApiError:
    """400: a parameter that every request needs is not there."""
    return invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def below_minimum(name: str, lowest: int, value: int) -> ApiError:
    """400: a whole number that is too small."""
    wanted = f"Expected a value >= {lowest}, but got {value} instead."
    return invalid(
        f"Invalid '{name}': integer below minimum value. {wanted}", name, "integer_below_min_value"
    )


def unknown_value(value: Any, allowed: Sequence[str], param: str) -> ApiError:
    """400: a word that is none of those that are known here."""
    known = ", ".join(f"'{word}'" for word in allowed)
    return invalid(f"Invalid value: '{value}'. Supported values are: {known}.", param, "invalid_value")


def read_choices(body: Mapping[str, Any]) -> int:
    """How many answers are asked for."""
    number: int = optional(body, "n", int, 1)
    if number < 1:
        raise below_minimum("n", 1, number)
    if number > _MOST_CHOICES:
        wanted = f"Expected a value <= {_MOST_CHOICES}, but got {number} instead."
        raise invalid(f"Invalid 'n': integer above maximum value. {wanted}", "n", "integer_above_max_value")
    return number


def check_number(body: Mapping[str, Any], name: str, highest: float) -> None:
    """Refuse a number outside 0 to `highest`."""
    value = body.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(name, "a decimal number", value)
    if not 0 <= value <= highest:
        message = f"Invalid '{name}': expected a value between 0 and {highest}, but got {value} instead."
        raise invalid(
            message, name, "decimal_above_max_value" if value > highest else "decimal_below_min_value"
        )


def read_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages, checked one by one and in their order."""
    if body.get("messages") is None:
        raise missing("messages")
    messages: list[dict[str, Any]] = optional(body, "messages", list, [])
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
        raise wrong_type(where, "an object", message)
    role = message.get("role")
    if role not in _ROLES:
        raise unknown_value(role, _ROLES, f"{where}.role")
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
        raise wrong_type(where, "a string or an array of parts", content)
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


def read_tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The schema of each tool's parameters by its name."""
    tools: dict[str, Mapping[str, Any]] = {}
    for index, tool in enumerate(optional(body, "tools", list, [])):
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


def read_tool_choice(body: Mapping[str, Any], tools: Mapping[str, Any]) -> str:
    """`none`, `auto`, `required`, or the name of the tool that must be called."""
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if not tools and choice != "none":
        raise invalid("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if isinstance(choice, str) and choice in _TOOL_CHOICES:
        return choice
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or name not in tools:
        message = (
            f"Invalid value for 'tool_choice': {choice!r} is not none, auto, required or one of the tools."
        )
        raise invalid(message, "tool_choice")
    return name


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    """The limit on the answer's tokens; the newer name counts first."""
    limits = [optional(body, name, int, None) for name in ("max_completion_tokens", "max_tokens")]
    for name, limit in zip(("max_completion_tokens", "max_tokens"), limits, strict=True):
        if limit is not None and limit < 1:
            raise below_minimum(name, 1, limit)
    return next((limit for limit in limits if limit is not None), None)


def read_stop(body: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer."""
    stop = body.get("stop")
    if stop is None:
        return []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise wrong_type("stop", "a string or an array of strings", stop)
    return stops


def read_include_usage(body: Mapping[str, Any], *, stream: bool) -> bool:
    """Whether a stream ends with its usage."""
    options = optional(body, "stream_options", dict, None)
    if options is None:
        return False
    if not stream:
        raise invalid(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options"
        )
    return bool(optional(options, "include_usage", bool, default=False))
