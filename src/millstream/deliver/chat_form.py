"""Messages and tools in the form of OpenAI's chat API, as a request or an answer would hold them.

Integrations record most of them so. What is mended here is what LangChain's content blocks, Anthropic's, and
spans of a user's own or of other libraries write otherwise; what is of an unknown kind stays as it is.
"""

from collections import deque
from typing import Any, Final

import msgspec

from millstream.choices import messages_of

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
    "AIMessageChunk": "assistant",
}
_MAY_BE_NULL: Final = ("assistant", "function")
"""Roles whose content may be null."""
_JOINED: Final = ("assistant", "tool", "function")
"""Roles whose content is one text where all its parts are: frameworks take answers apart."""
_SAID: Final = (
    "content",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
    "reasoning_content",
    "reasoning",
)
_TEXTS: Final = ("text", "input_text", "output_text")
_CALLS: Final = ("tool_use", "tool_call", "function_call")
_THOUGHTS: Final = ("reasoning", "thinking", "redacted_thinking")
_ARGUMENTS: Final = ("arguments", "args", "input")
_PLAIN: Final = frozenset({"role", "content", "name", "tool_call_id"})
_CALL: Final = frozenset({"id", "type", "function"})
_FUNCTION: Final = frozenset({"name", "arguments"})
_AUDIO_FORMATS: Final = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}

Message = dict[str, Any]


class NotAChatError(ValueError):
    """Something cannot be put into the form of a chat; the message says what, without quoting it."""


def request_messages(given: Any) -> list[Message]:
    """What a model was given.

    Args:
        given: the input of an LLM span.

    Raises:
        NotAChatError: it holds no messages.
    """
    if isinstance(given, dict):
        inside = given.get("messages")
        given = inside if isinstance(inside, list) else [given]
    elif isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise NotAChatError("its input holds no messages")
    messages = [_message({"role": "user", "content": one} if isinstance(one, str) else one) for one in given]
    _name_calls(messages)
    return messages


def answer_messages(told: Any, call_prefix: str) -> list[Message]:
    """What a model answered: one message a choice.

    Args:
        told: the output of an LLM span.
        call_prefix: begins the ids of tool calls that have none.

    Raises:
        NotAChatError: it is no message.
    """
    answers = []
    for one in messages_of(told):
        said = {"content": one} if isinstance(one, str) else one
        if not isinstance(said, dict) or not any(key in said for key in _SAID):
            raise NotAChatError("its output is no message")
        answers.append(_message({**said, "role": "assistant"}))
    if not answers:
        raise NotAChatError("its output is no message")
    for number, answer in enumerate(answers):
        for place, call in enumerate(answer.get("tool_calls", ())):
            call["id"] = call["id"] or f"{call_prefix}_{number}_{place}"
    return answers


def is_empty(answer: Message) -> bool:
    """Whether a message says nothing at all."""
    return not any(answer.get(key) for key in _SAID)


def tool_definitions(tools: Any) -> list[Any] | None:
    """The tools that a model was offered, a provider's own as they are; `None` where there were none."""
    if not isinstance(tools, list) or not tools:
        return None
    return [_definition(tool) if isinstance(tool, dict) else tool for tool in tools]


def tool_choice(told: Any) -> Any:
    """How the tools were to be chosen; `None` where nothing says it."""
    kind = told.get("type") if isinstance(told, dict) else told
    if not isinstance(kind, str):
        return None
    if kind == "any":  # as Anthropic and Mistral say it
        return "required"
    if not isinstance(told, dict) or kind in ("auto", "none"):
        return kind
    if kind in ("function", "custom", "tool") and isinstance(told.get("name"), str):
        kind = "function" if kind == "tool" else kind
        return {"type": kind, kind: {"name": told["name"]}}
    return dict(told)


def response_format(told: Any) -> dict[str, Any] | None:
    """The form that the answer was to have; `None` where nothing says it, or it is a framework's own."""
    return dict(told) if isinstance(told, dict) and isinstance(told.get("type"), str) else None


def _definition(tool: dict[str, Any]) -> Any:
    function = tool.get("function")
    if isinstance(function, dict):
        return {**tool, "type": "function", "function": _known(function)}
    if not isinstance(tool.get("name"), str) or tool.get("type", "function") not in ("function", "custom"):
        return dict(tool)
    kind = tool.get("type", "function")
    told = {key: value for key, value in tool.items() if key != "type"}
    schema = told.pop("input_schema", None)
    return {"type": kind, kind: _known({"parameters": schema, **told})}


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


# Messages


def _message(told: Any) -> Message:
    role = told.get("role") if isinstance(told, dict) else None
    if not isinstance(role, str) or not role:
        raise NotAChatError("one of its messages has no role")
    if type(told.get("content")) is str and role not in _ROLES and _PLAIN.issuperset(told):
        return told  # type: ignore[no-any-return]  # as most are
    role = _ROLES.get(role, role)
    content, beside = _content(told.get("content"), role)
    message: Message = {"role": role, "content": content}
    for key, value in (*told.items(), *beside.items()):
        if key not in message and value is not None and value != []:
            message[key] = value
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"])
    return message


def _tool_calls(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise NotAChatError("tool_calls of one of its messages is no list")
    return [call if _is_openais(call) else _call(call) for call in calls]


def _is_openais(call: Any) -> bool:
    if not isinstance(call, dict) or len(call) != len(_CALL) or not _CALL.issuperset(call):
        return False
    function = call["function"]
    return (
        bool(call["id"])
        and type(call["id"]) is str
        and call["type"] == "function"
        and isinstance(function, dict)
        and len(function) == len(_FUNCTION)
        and _FUNCTION.issuperset(function)
        and bool(function["name"])
        and bool(function["arguments"])
        and type(function["name"]) is type(function["arguments"]) is str
    )


def _call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise NotAChatError("one of its tool calls is no object")
    call_id = str(call["id"]) if call.get("id") else None
    if isinstance(call.get("custom"), dict):
        return {"id": call_id, "type": "custom", "custom": dict(call["custom"])}
    function = call.get("function")
    function = function if isinstance(function, dict) else call
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise NotAChatError("one of its tool calls has no name")
    arguments = next((function[key] for key in _ARGUMENTS if function.get(key) is not None), None)
    # A tool without parameters is called with nothing by some models; readers want an object.
    text = _text_of(arguments) if arguments not in (None, "") else "{}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def _name_calls(messages: list[Message]) -> None:
    """Give calls an id that have none, and their results the same, in their order."""
    waiting: deque[str] = deque()
    for number, message in enumerate(messages):
        for place, call in enumerate(message.get("tool_calls", ())):
            if call["id"] is None:
                waiting.append(f"call_{number}_{place}")
                call["id"] = waiting[-1]
        if waiting and message["role"] == "tool" and not message.get("tool_call_id"):
            messages[number] = {**message, "tool_call_id": waiting.popleft()}


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# Content


def _content(told: Any, role: str) -> tuple[Any, dict[str, Any]]:
    """The content of a message, and what belongs beside it."""
    if isinstance(told, str):
        return told, {}
    nothing = None if role in _MAY_BE_NULL else ""
    if told is None:
        return nothing, {}
    if isinstance(told, dict) and isinstance(told.get("type"), str):
        told = [told]
    if not isinstance(told, list) or not all(_is_part(part) for part in told):
        return _text_of(told), {}
    parts, beside = _parts(told)
    if role in _JOINED and all(part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts) or nothing, beside
    return parts or nothing, beside


def _is_part(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("type"), str))


def _parts(told: list[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    calls: list[Any] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    for part in told:
        kind = "text" if isinstance(part, str) else part["type"]
        if kind in _CALLS:
            calls.append(part)
        elif kind in _THOUGHTS:
            thoughts += _thoughts(part)
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            refusals.append(part["refusal"])
        else:
            parts.append(_part(part, kind))
    beside: dict[str, Any] = {"tool_calls": calls}
    if thoughts:
        beside["reasoning_content"] = "\n".join(thoughts)
    if refusals:
        beside["refusal"] = "".join(refusals)
    return parts, beside


def _thoughts(part: dict[str, Any]) -> list[str]:
    summary = part.get("summary")
    pieces = [part, *(summary if isinstance(summary, list) else ())]
    told = [piece.get(key) for piece in pieces if isinstance(piece, dict) for key in (*_THOUGHTS, "text")]
    return [text for text in told if isinstance(text, str) and text]


def _part(part: Any, kind: str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if kind in _TEXTS:
        return {"type": "text", "text": _text_of(part.get("text") or "")}
    if kind in ("image", "image_url", "input_image"):
        return _image(part)
    if kind == "audio" and (data := _data(part)):
        form = str(part.get("mime_type") or "audio/wav").rpartition("/")[2]
        audio = {"data": data, "format": _AUDIO_FORMATS.get(form, form)}
        return {"type": "input_audio", "input_audio": audio}
    if kind in ("file", "input_file") and not isinstance(part.get("file"), dict):
        return {"type": "file", "file": _file(part)}
    return dict(part)


def _image(part: dict[str, Any]) -> dict[str, Any]:
    image = part.get("image_url")
    if isinstance(image, dict):
        return {"type": "image_url", "image_url": dict(image)}
    url = image or _url(part, "image/png")
    told = _known({"url": url, "file_id": _file_id(part), "detail": part.get("detail")})
    return {"type": "image_url", "image_url": told} if told else dict(part)


def _file(part: dict[str, Any]) -> dict[str, Any]:
    data = part.get("file_data") or (_data(part) and _url(part, "application/octet-stream"))
    name = part.get("filename") or part.get("name")
    url = part.get("file_url") or part.get("url")
    return _known({"file_data": data, "filename": name, "file_id": _file_id(part), "file_url": url})


def _file_id(part: dict[str, Any]) -> Any:
    return part.get("file_id") or (part.get("id") if part.get("source_type") == "id" else None)


def _data(part: dict[str, Any]) -> Any:
    """What LangChain and Anthropic hold in base 64."""
    source = part.get("source")
    inner = source.get("data") if isinstance(source, dict) else None
    return part.get("base64") or part.get("data") or inner


def _url(part: dict[str, Any], mime_type: str) -> Any:
    source = part.get("source")
    source = source if isinstance(source, dict) else {}
    if data := _data(part):
        kind = part.get("mime_type") or source.get("media_type") or mime_type
        return f"data:{kind};base64,{data}"
    return part.get("url") or source.get("url")
