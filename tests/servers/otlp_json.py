"""OTLP's JSON, as plain dicts."""

import base64
from collections.abc import Iterator
from typing import Any


def spans(requests: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The spans of export requests, each with "resource" and "scope"; attributes are plain dicts."""
    for request in requests:
        for group in request.get("resourceSpans", []):
            resource = attributes(group.get("resource", {}))
            for scoped in group.get("scopeSpans", []):
                for span in scoped.get("spans", []):
                    yield {**plain(span), "resource": resource, "scope": scoped.get("scope", {}).get("name", "")}


def attributes(holder: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a resource, span, event or link."""
    return {each["key"]: value(each.get("value", {})) for each in holder.get("attributes", [])}


def value(any_value: dict[str, Any]) -> Any:
    """What an AnyValue holds; None for an empty one."""
    for name, held in any_value.items():
        match name:
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


def plain(span: dict[str, Any]) -> dict[str, Any]:
    """A span, event or link as in OTLP JSON, its attributes as a plain dict."""
    nested = {name: [plain(each) for each in span[name]] for name in ("events", "links") if name in span}
    return {**span, **nested, "attributes": attributes(span)}
