"""The plainest value that fits a JSON schema: the answer where a form is asked for and no rule says more."""

from collections.abc import Mapping
from typing import Any, Final

_DEEPEST: Final = 12


def instance_of(schema: Any, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """A small value for a schema: required properties only, first choices, lowest numbers.

    Args:
        schema: a JSON schema as tools and `response_format` give it; `$ref` into `root` is followed.
        root: the schema that holds the definitions; `schema` itself when it is the outermost.
        depth: how many schemas this one is inside of; a schema that contains itself ends in `None`.
    """
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    root = schema if root is None else root
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return instance_of(_resolve(str(schema["$ref"]), root), root, depth + 1)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return instance_of(schema[key][0], root, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_kind(kind[0] if isinstance(kind, list) and kind else kind, schema, root, depth)


def _of_kind(kind: Any, schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if kind == "object":
        properties = schema.get("properties") or {}
        return {
            name: instance_of(properties.get(name), root, depth + 1) for name in schema.get("required") or ()
        }
    if kind == "array":
        return [
            instance_of(schema.get("items"), root, depth + 1) for _ in range(int(schema.get("minItems") or 0))
        ]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return False
    return "text".ljust(int(schema.get("minLength") or 0), "t") if kind == "string" else None


def _resolve(reference: str, root: Mapping[str, Any]) -> Any:
    here: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            here = here.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(here, dict) else None
    return here
