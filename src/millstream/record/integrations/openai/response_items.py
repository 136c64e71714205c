"""The items of OpenAI's Responses API as messages of a chat, and its tools as those of one."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from millstream.record.integrations.openai.answers import items, known, read

_TEXTS: Final = ("input_text", "output_text", "text")


def messages(instructions: Any, given: Any) -> list[dict[str, Any]]:
    """What a model is given, as messages in OpenAI's chat form.

    A call is part of the assistant's message that it follows. Items of tools that the API runs itself, and
    thoughts that it keeps to itself, are left out.
    """
    found: list[dict[str, Any]] = []
    if isinstance(instructions, str):
        found.append({"role": "system", "content": instructions})
    elif instructions:
        _add_all(found, items(instructions))
    if isinstance(given, str):
        found.append({"role": "user", "content": given})
    else:
        _add_all(found, items(given))
    return [
        {key: value for key, value in message.items() if value or key != "tool_calls"} for message in found
    ]


def answer_message(output: Any) -> dict[str, Any]:
    """The items that a model gave, as one message of the assistant's."""
    result: dict[str, Any] = {"role": "assistant", "content": None}
    for message in messages(None, output):
        if message["role"] == "assistant":
            for key, value in message.items():
                before = result.get(key)
                result[key] = value if not before or key == "role" else _joined(before, value)
    return result


def _joined(before: Any, value: Any) -> Any:
    if not value:
        return before
    if isinstance(before, str) != isinstance(value, str):
        before, value = _parts(before), _parts(value)
    return before + value


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _add_all(found: list[dict[str, Any]], given: Iterable[Any]) -> None:
    for item in given:
        kind = read(item, "type") or "message"
        if kind == "message":
            _add_message(found, item)
        elif kind == "reasoning":
            texts = [
                read(part, "text") or ""
                for part in (*items(read(item, "summary")), *items(read(item, "content")))
            ]
            if any(texts):
                _assistant(found)["reasoning_content"] = "\n".join(texts)
        elif (call_id := read(item, "call_id")) and kind.endswith("_output"):
            found.append({"role": "tool", "tool_call_id": call_id, "content": _content(read(item, "output"))})
        elif call_id and kind.endswith("_call"):
            message = _assistant(found)
            message["tool_calls"] = [*message.get("tool_calls", ()), _call(kind, call_id, item)]


def _add_message(found: list[dict[str, Any]], item: Any) -> None:
    role, content = read(item, "role") or "assistant", _content(read(item, "content"))
    last = found[-1] if found else {}
    if role == "assistant" == last.get("role") and last["content"] is None and "tool_calls" not in last:
        last["content"] = content
    else:
        found.append({"role": role, "content": content})
    refusals = [text for part in items(read(item, "content")) if (text := read(part, "refusal"))]
    if refusals:
        found[-1]["refusal"] = "".join(refusals)


def _assistant(found: list[dict[str, Any]]) -> dict[str, Any]:
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    return found[-1]


def _call(kind: str, call_id: str, item: Any) -> dict[str, Any]:
    """A call that the program answers: of a function, or of a tool that the API has a name for."""
    if kind == "custom_tool_call":
        return {
            "id": call_id,
            "type": "custom",
            "custom": {"name": read(item, "name"), "input": read(item, "input")},
        }
    if kind == "function_call":
        name, arguments = read(item, "name"), read(item, "arguments")
    else:  # computer, local_shell, shell, apply_patch
        name = kind.removesuffix("_call")
        arguments = json.dumps(_plain(read(item, "action") or read(item, "operation") or {}), default=str)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _content(content: Any) -> Any:
    """A text where all parts are text, else the parts of a chat message."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return _plain(content)
    parts = [part for part in content if read(part, "type") != "refusal"]
    if all(read(part, "type") in _TEXTS for part in parts):
        return "".join(read(part, "text") or "" for part in parts) if parts else None
    return [_PARTS.get(read(part, "type"), _plain)(part) for part in parts]


def _text_part(part: Any) -> dict[str, Any]:
    return {"type": "text", "text": read(part, "text")}


def _image_part(part: Any) -> dict[str, Any]:
    image = known(url=read(part, "image_url"), file_id=read(part, "file_id"), detail=read(part, "detail"))
    return {"type": "image_url", "image_url": image}


def _file_part(part: Any) -> dict[str, Any]:
    names = ("file_id", "file_data", "file_url", "filename")
    return {"type": "file", "file": known(**{name: read(part, name) for name in names})}


def _plain(value: Any) -> Any:
    """One of the SDK's objects as a dict."""
    return value.to_dict() if hasattr(value, "to_dict") else value


_PARTS: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_TEXTS, _text_part),
    "input_image": _image_part,
    "input_file": _file_part,
}


def tool_definitions(tools: Any) -> list[Any] | None:
    """The tools of a request in the chat API's form; those that the API runs itself as they are."""
    return [_definition(_plain(tool)) for tool in items(tools)] or None


def tool_choice(choice: Any) -> Any:
    """How a request wants its tools chosen, in the chat API's form; what that has not, as it is."""
    if not isinstance(choice, Mapping):
        return choice
    told = dict(choice)
    kind = told.pop("type", None)
    if kind == "allowed_tools":
        told["tools"] = [tool_choice(tool) for tool in items(told.get("tools"))]
    return {"type": kind, kind: told} if kind in ("function", "custom", "allowed_tools") else choice


def response_format(form: Any) -> Any:
    """The `text.format` of a request in the chat API's form."""
    if not isinstance(form, Mapping) or form.get("type") != "json_schema":
        return form
    schema = {key: value for key, value in form.items() if key != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}


def _definition(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or tool.get("type") not in ("function", "custom"):
        return tool
    kind = tool["type"]
    return {
        "type": kind,
        kind: {key: value for key, value in tool.items() if key != "type" and value is not None},
    }
