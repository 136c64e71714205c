"""`millstream info`: what a workflow file may contain."""

import json
import types
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import AliasChoices, BaseModel

from millstream.cli.options import option
from millstream.deliver.options import Accepted
from millstream.deliver.plugins import EXPORTERS, PROCESSORS, load_entry_point
from millstream.deliver.plugins import available as plugins
from millstream.errors import ConfigError
from millstream.evaluation.config import DatasetConfig
from millstream.evaluation.datasets.registry import CUSTOM, FILE_OPTIONS, SUFFIXES, dataset_types, own_keys
from millstream.evaluation.registry import evaluator_types
from millstream.record.integrations import available
from millstream.workflow.embedders import EMBEDDER_GROUP, EMBEDDERS
from millstream.workflow.llms import LLM_GROUP, PROVIDERS
from millstream.workflow.registry import registered


@click.command()
@option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(*, as_json: bool) -> None:
    """List what a workflow file may contain: components, datasets, evaluators, exporters, with their keys."""
    groups = _components()
    if as_json:
        click.echo(json.dumps(groups, indent=2, default=str))
        return
    for group, items in groups.items():
        click.echo(f"{group}:" if items else f"{group}: none")
        for item in items:
            click.echo(f"  {item['name']}" + (f"  {item['description']}" if item.get("description") else ""))
            for key in item.get("keys", []):
                click.echo(f"      {_line(key)}")


def _line(key: Mapping[str, Any]) -> str:
    told = "required" if key["required"] else f"default {json.dumps(key['default'], default=str)}"
    also = f"; also {', '.join(key['aliases'])}" if key["aliases"] else ""
    return f"{key['name']}: {key['type']} ({told}{also})"


def _components() -> dict[str, list[dict[str, Any]]]:
    functions = [
        (
            kind.agent,
            {"name": kind.name, "description": _first_line(kind.build), "keys": _keys(kind.config_type)},
        )
        for kind in registered()
    ]
    llms = [{"name": name, "keys": _keys(model)} for name, model in PROVIDERS.items()]
    llms += [{"name": point.name, "keys": []} for point in entry_points(group=LLM_GROUP)]
    embedders = [{"name": name, "keys": _keys(model)} for name, model in EMBEDDERS.items()]
    embedders += [{"name": point.name, "keys": []} for point in entry_points(group=EMBEDDER_GROUP)]
    return {
        "agents": [item for agent, item in functions if agent],
        "functions": [item for agent, item in functions if not agent],
        "llms": llms,
        "embedders": embedders,
        "integrations": [{"name": name} for name in available()],
        "datasets": [_dataset(kind) for kind in dataset_types()],
        "evaluators": _plugins(evaluator_types()),
        "exporters": _plugins(plugins(EXPORTERS)),
        "processors": _plugins(plugins(PROCESSORS)),
    }


def _dataset(kind: str) -> dict[str, Any]:
    """A type of dataset: its own keys, and those that all have."""
    suffixes = ", ".join(suffix for suffix, meant in SUFFIXES.items() if meant == kind)
    description = f"The files that end in {suffixes}" if suffixes else ""
    if kind == CUSTOM:
        description = "What a Python function gives; any other key is an argument of it"
    try:
        own = _typed(own_keys(kind))
    except ConfigError as error:
        return {"name": kind, "description": str(error), "keys": []}
    shared = [key for key in _keys(DatasetConfig) if key["name"] != "_type"]
    for key in shared:
        if key["name"] == "file_path" and kind in FILE_OPTIONS:
            key.update(type="str", required=True)
    return {"name": kind, "description": description, "keys": [*own, *shared]}


def _plugins(points: Mapping[str, EntryPoint]) -> list[dict[str, Any]]:
    """What entry points make, with its options; one that cannot be loaded says why."""
    items: list[dict[str, Any]] = []
    for name, point in sorted(points.items()):
        try:
            made = load_entry_point(point)
        except ConfigError as error:
            items.append({"name": name, "description": str(error), "keys": []})
            continue
        is_model = isinstance(made, type) and issubclass(made, BaseModel)
        keys = _keys(made) if is_model else _typed(Accepted(made).keys)
        items.append({"name": name, "description": _first_line(made), "keys": keys})
    return items


def _first_line(build: Any) -> str:
    return (build.__doc__ or "").strip().partition("\n")[0]


def _keys(model: type[BaseModel]) -> list[dict[str, Any]]:
    keys = []
    for name, field in model.model_fields.items():
        required, key = field.is_required(), field.alias or name
        default = None if required else field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            default = default.model_dump(mode="json")
        choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else []
        keys.append(
            {
                "name": key,
                "type": _type_text(field.annotation),
                "required": required,
                "default": default,
                "aliases": [each for each in choices if each != key],
            }
        )
    return keys


def _typed(keys: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**key, "type": _type_text(key["type"])} for key in keys]


def _type_text(annotation: Any) -> str:
    """A type as people write it, without bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_type_text(argument) for argument in arguments)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    name = getattr(origin or annotation, "__name__", str(annotation))
    name = {"NoneType": "None", "SecretStr": "str"}.get(name, name)
    return f"{name}[{', '.join(map(_type_text, arguments))}]" if arguments else name
