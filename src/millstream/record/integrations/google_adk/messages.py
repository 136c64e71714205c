"""Gemini's contents, tools and usage, in which ADK speaks to every model, in OpenAI's form."""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from millstream.record.serialize import to_json
from millstream.span import Usage

_PARAMETERS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
    "stop_sequences": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "candidate_count": "n",
}
"""OpenAI's names of a request's parameters, by Gemini's."""


def messages_json(request: Any) -> list[dict[str, Any]]:
    """The contents of an `LlmRequest` as OpenAI chat messages, its system instruction first."""
    instruction = text_of(getattr(request.config, "system_instruction", None))
    found = [{"role": "system", "content": instruction}] if instruction else []
    for content in request.contents:
        parts = content.parts or []
        if content.role == "model":
            found.append(answer_json(parts))
        else:
            found += [_result_json(part.function_response) for part in parts if part.function_response]
            if said := [part for part in parts if not part.function_response]:
                found.append({"role": "user", "content": content_json(said)})
    return found


def text_of(content: Any) -> str | None:
    """The text of a content, of parts or of a text; `None` where there is none."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else getattr(content, "parts", None) or [content]
    texts = [
        part if isinstance(part, str) else getattr(part, "text", None) or ""
        for part in parts
        if not getattr(part, "thought", None)
    ]
    return "".join(texts) or None


def content_json(parts: Iterable[Any]) -> Any:
    """What a user says: one text as it is, else a list of OpenAI's content parts."""
    found = [_part_json(part) for part in parts]
    return found[0]["text"] if len(found) == 1 and found[0]["type"] == "text" else found


def _part_json(part: Any) -> dict[str, Any]:
    if part.text is not None:
        return {"type": "text", "text": part.text}
    blob, file = part.inline_data, part.file_data
    url = mime = None
    if blob is not None:
        mime = blob.mime_type or "application/octet-stream"
        url = f"data:{mime};base64,{base64.b64encode(blob.data or b'').decode()}"
    elif file is not None:
        mime, url = file.mime_type, file.file_uri
    if url is None:  # code that the provider ran, and what will be
        return {"type": "text", "text": to_json(part.model_dump(mode="json", exclude_none=True)).decode()}
    if str(mime).startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _result_json(result: Any) -> dict[str, Any]:
    return {
        "role": "tool",
        "tool_call_id": result.id,
        "name": result.name,
        "content": to_json(result.response).decode(),
    }


def answer_json(parts: Iterable[Any]) -> dict[str, Any]:
    """What a model says as an OpenAI assistant message."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls, files = [], []
    for part in parts:
        if part.function_call is not None:
            calls.append(_call_json(part.function_call))
        elif part.text is None:
            files.append(_part_json(part))
        else:
            (thoughts if part.thought else texts).append(part.text)
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if files:
        message["content"] = [*([{"type": "text", "text": text}] if text else []), *files]
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call_json(call: Any) -> dict[str, Any]:
    arguments = to_json(call.args or {}).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def parameters_json(request: Any, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters of an `LlmRequest` under OpenAI's names.

    Args:
        request: what is asked.
        own: those that the model was made with, which those of the request go before.
    """
    told = {name: getattr(request.config, key, None) for key, name in _PARAMETERS.items()}
    asked = {name: value for name, value in told.items() if value is not None}
    return {**(own or {}), **asked, "tools": tools_json(request.config.tools)}


def tools_json(tools: Iterable[Any] | None) -> list[dict[str, Any]] | None:
    """The tools that a request offers: functions and the provider's own."""
    found: list[dict[str, Any]] = []
    for tool in tools or ():
        functions = getattr(tool, "function_declarations", None)
        if functions is None and hasattr(tool, "model_dump"):
            found += [{"type": kind} for kind in tool.model_dump(exclude_none=True)]
        for function in functions or ():
            schema = function.parameters_json_schema
            if schema is None and function.parameters is not None:
                dumped = function.parameters.model_dump(mode="json", exclude_none=True, by_alias=True)
                schema = _lowered(dumped)
            told = {"name": function.name, "description": function.description, "parameters": schema}
            found.append({"type": "function", "function": told})
    return found or None


def _lowered(schema: Any) -> Any:
    """Gemini's schema as JSON Schema, which writes types small."""
    if isinstance(schema, list):
        return [_lowered(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.lower() if key == "type" and isinstance(value, str) else _lowered(value)
        for key, value in schema.items()
    }


def usage_of(told: Any) -> Usage | None:
    """Tokens as Gemini tells them, thoughts beside the answer; LiteLLM has them in it, as the total shows."""
    if told is None or told.prompt_token_count is None:
        return None
    given = told.prompt_token_count + (getattr(told, "tool_use_prompt_token_count", None) or 0)
    made, thoughts, total = told.candidates_token_count, told.thoughts_token_count, told.total_token_count
    if thoughts and (total is None or given + (made or 0) + thoughts <= total):
        made = (made or 0) + thoughts
    return Usage(given, made, told.cached_content_token_count, thoughts)
