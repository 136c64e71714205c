"""Tools as a model is offered them, in OpenAI's form whatever the provider's own."""

from collections.abc import Mapping, Sequence
from typing import Any


def tools_json(tools: Any) -> Any:
    """Tools in OpenAI's form; those of an unknown form stay as they are, none are `None`."""
    if not isinstance(tools, Sequence) or not tools:
        return None
    return [_tool(tool) if isinstance(tool, Mapping) else tool for tool in tools]


def _tool(tool: Mapping[str, Any]) -> Any:
    name = tool.get("name")
    if name is None or "function" in tool:
        return tool
    parameters = tool.get("parameters") or tool.get("input_schema")  # OpenAI's Responses API; Anthropic
    function = {"name": name, "description": tool.get("description"), "parameters": parameters}
    return {
        "type": "function",
        "function": {key: value for key, value in function.items() if value is not None},
    }
