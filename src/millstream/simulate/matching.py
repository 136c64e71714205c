"""Which rule answers a request, and with what its templates are filled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from millstream.simulate.chat import ChatRequest, text_of
from millstream.simulate.draws import Draw
from millstream.simulate.instances import instance_of
from millstream.simulate.rules import Reply, Rule, Rules, ToolCall, When


@dataclass(frozen=True)
class Match:
    """The reply that was chosen.

    Attributes:
        label: `rule 3` (counted from 1), `schema` or `default`; sent as the header `x-millstream-rule`.
        reply: the reply, its templates still open.
        values: what the templates are filled with.
    """

    label: str
    reply: Reply
    values: Mapping[str, str]


def choose(rules: Rules, request: ChatRequest, draw: Draw) -> Match:
    """The first rule that fits; else a value of the schema that was asked for; else the default reply.

    A rule whose reply calls tools fits only requests that offer these tools; where the request demands a tool
    call, only such a rule fits.
    """
    values = _values(request)
    for number, rule in enumerate(rules.rules, start=1):
        if _tools_allow(rule.reply, request):
            groups = _groups(rule, request, draw, f"rule {number}")
            if groups is not None:
                return Match(f"rule {number}", rule.reply, {**values, **groups})
    demanded = _demanded(request)
    if demanded is not None:
        return Match("schema", demanded, {})
    return Match("default", rules.default, values)


def _values(request: ChatRequest) -> dict[str, str]:
    users: Sequence[str] = request.user_messages or [""]
    return {
        "user": users[-1],
        "first_user": users[0],
        "last": text_of(request.messages[-1]),
        "system": request.system,
        "model": request.model,
        "turn": str(request.turn),
    }


def _tools_allow(reply: Reply, request: ChatRequest) -> bool:
    if not reply.tool_calls:
        return reply.error is not None or request.tool_choice in ("auto", "none")
    if request.tool_choice == "none":
        return False
    names = {call.name for call in reply.tool_calls}
    if not names <= request.tools.keys():
        return False
    return request.tool_choice in ("auto", "required") or names == {request.tool_choice}


def _groups(rule: Rule, request: ChatRequest, draw: Draw, label: str) -> dict[str, str] | None:
    """The named groups of the rule's patterns when its conditions hold, else `None`."""
    when = rule.when
    if not _plain_conditions_hold(when, request):
        return None
    groups: dict[str, str] = {}
    users = request.user_messages
    for pattern, text in (
        (when.last_user_matches, users[-1] if users else None),
        (when.last_message_matches, text_of(request.messages[-1])),
    ):
        if pattern is not None:
            found = pattern.search(text) if text is not None else None
            if found is None:
                return None
            groups.update(found.groupdict(default=""))
    if when.chance is not None and draw.uniform(label) >= when.chance:
        return None
    return groups


def _plain_conditions_hold(when: When, request: ChatRequest) -> bool:
    return (
        (when.model is None or fnmatchcase(request.model, when.model))
        and (when.system_contains is None or when.system_contains in request.system)
        and (when.last_message_role is None or when.last_message_role == request.messages[-1]["role"])
        and (when.has_tool is None or when.has_tool in request.tools)
        and (when.turn is None or when.turn[0] <= request.turn <= when.turn[1])
    )


def _demanded(request: ChatRequest) -> Reply | None:
    """A reply made from a schema, where the request leaves no choice but a form."""
    if request.tool_choice not in ("auto", "none"):
        name = next(iter(request.tools)) if request.tool_choice == "required" else request.tool_choice
        return Reply(tool_calls=[ToolCall(name=name, arguments=_escaped(_object_of(request.tools[name])))])
    form = request.body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        described = form.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        return Reply(json=_escaped(_object_of(schema)))
    return None


def _object_of(schema: Any) -> dict[str, Any]:
    value = instance_of(schema or {"type": "object"})
    return value if isinstance(value, dict) else {}


def _escaped(value: Any) -> Any:
    """Dollar signs doubled: texts of a schema are no templates."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return [_escaped(item) for item in value] if isinstance(value, list) else value
