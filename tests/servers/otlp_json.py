"""OTLP's JSON, as plain dicts; servers differ in how they write it."""

import base64
import re
from collections.abc import Iterator
from typing import Any


def spans(requests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The spans of export requests, as plain() gives them, with their "resource" and their scope's name."""
    for request in requests:
        for group in request.get("resourceSpans", []):
            resource = attributes(group.get("resource", {}))
            for scoped in group.get("scopeSpans", []):
                for span in scoped.get("spans", []):
                    yield {
                        **plain(span),
                        "resource": resource,
                        "scope": scoped.get("scope", {}).get("name", ""),
                    }


def plain(item: dict[str, Any]) -> dict[str, Any]:
    """A span, event or link: names as in OTLP JSON, attributes as a dict, times as int, no nulls."""
    made = {_camel(name): held for name, held in item.items() if held is not None}
    for name, held in made.items():
        if name in {"events", "links"}:
            made[name] = [plain(each) for each in held]
        elif name.endswith("UnixNano"):
            made[name] = int(held)
    return {**made, "attributes": attributes(item)}


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a resource, span, event or link."""
    return {each["key"]: value(each.get("value", {})) for each in holder.get("attributes") or []}


def value(any_value: dict[str, Any]) -> Any:
    """What an AnyValue holds; None for an empty one."""
    for name, held in any_value.items():
        if held is None:
            continue
        match _camel(name):
            case "intValue":
                return int(held)
            case "bytesValue":
                return base64.b64decode(held)
            case "arrayValue":
                return [value(each) for each in held.get("values", [])]
            case "kvlistValue":
                return {each["key"]: value(each.get("value", {})) for each in held.get("values", [])}
            case _:
                return held
    return None


def _camel(name: str) -> str:
    return re.sub(r"_(\w)", lambda found: found[1].upper(), name)
