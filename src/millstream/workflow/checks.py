"""Everything about a workflow file that can be known without building or contacting anything."""

import os
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from millstream.deliver.exporters import check
from millstream.errors import ConfigError, nearest
from millstream.workflow.circles import circles, told
from millstream.workflow.components import EmbedderRef, FunctionRef, LLMRef
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.embedders import LocalConfig, parse_embedder
from millstream.workflow.llms import OpenAIConfig, Server, api_key_of, base_url_of, parse_llm
from millstream.workflow.logging import check_destinations
from millstream.workflow.modules import import_module
from millstream.workflow.registry import find, is_known, parse_component
from millstream.workflow.validation import Problems, join_path

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAMES = {
    "llms": ("llm", "llm_name"),
    "embedders": ("embedder", "embedder_name"),
    "functions": ("tool_names",),
}
_KINDS = {"llms": LLMRef, "embedders": EmbedderRef, "functions": FunctionRef}


def check_config(config: WorkflowConfig) -> None:
    """Check the components and exporters of a workflow file: that they exist, their keys, whom they name.

    The user's modules are imported; nothing is built, run or contacted.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
        MissingExtraError: something that an exporter or an embedder needs is not installed.
    """
    problems = Problems()
    with problems.collect():
        check_destinations(config.general.telemetry.logging)
    with problems.collect():
        check(config.general.telemetry.tracing)
    before = len(problems.lines)
    for index, name in enumerate(config.general.modules):
        with problems.collect():
            import_module(name, config.directory, where=join_path("general.modules", index))
    imported = len(problems.lines) == before
    for name, mapping in config.llms.items():
        where = join_path("llms", name)
        with problems.collect():
            parsed = parse_llm(mapping, where)
            if isinstance(parsed, OpenAIConfig):
                api_key_of(parsed, base_url_of(parsed, where, os.environ), where, os.environ)
    for name, mapping in config.embedders.items():
        with problems.collect():
            check_embedder(mapping, join_path("embedders", name))
    components = {join_path("functions", name): mapping for name, mapping in config.functions.items()}
    if config.workflow is not None:
        components["workflow"] = config.workflow
    needs: dict[str, list[str]] = {}
    for where, mapping in components.items():
        if not imported and not is_known(mapping):  # it may be of the module that could not be imported
            continue
        with problems.collect():
            _, parsed_component = parse_component(mapping, where)
            needs[where] = _needed_functions(parsed_component, config)
            problems.lines += _wrong_references(parsed_component, config, where)
            parsed_component.check(config.directory, where)
    problems.lines += map(told, circles(needs, first="workflow"))
    problems.lines += _wrong_references_of_evaluators(config)
    problems.raise_if_any()


def check_embedder(mapping: Mapping[str, Any], where: str) -> None:
    """Check an entry of `embedders`: its keys, and that its server's key or its model's folder is there.

    Raises:
        ConfigError: something is wrong.
        MissingExtraError: the library that runs a model in a folder is not installed.
    """
    parsed = parse_embedder(mapping, where)
    if isinstance(parsed, Server):
        api_key_of(parsed, base_url_of(parsed, where, os.environ), where, os.environ)
    elif isinstance(parsed, LocalConfig):
        parsed.folder(where)


def check_references(component: BaseModel, config: WorkflowConfig, where: str) -> None:
    """Whether the models, embedders and functions that a component names are in the file.

    Raises:
        ConfigError: those that are not, one a line.
    """
    problems = Problems()
    problems.lines += _wrong_references(component, config, where)
    problems.raise_if_any()


def check_tool_name(name: str, where: str) -> None:
    """Whether model servers take a key as the name of a tool.

    Raises:
        ConfigError: they do not.
    """
    if not _TOOL_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} cannot be the name of a tool; model servers take letters, digits, _ and -,"
            " at most 64"
        )


def _wrong_references(component: BaseModel, config: WorkflowConfig, where: str) -> Iterator[str]:
    for group, entries in (("llms", config.llms), ("embedders", config.embedders)):
        for field, name in _references(component, group):
            if name not in entries:
                yield f"{join_path(where, field)}: there is no {group}.{name}{nearest(name, entries)}"
    for field, name in _references(component, "functions"):
        if _is_in_a_group(name, config.functions):
            continue
        if name not in config.functions:
            yield f"{join_path(where, field)}: there is no functions.{name}{nearest(name, config.functions)}"
        elif field in _NAMES["functions"]:
            try:
                check_tool_name(name, join_path(where, field))
            except ConfigError as error:
                yield str(error)


def _needed_functions(component: BaseModel, config: WorkflowConfig) -> list[str]:
    """Paths of the functions that a component names."""
    names = [name for _, name in _references(component, "functions")]
    keys = (name if name in config.functions else name.partition(".")[0] for name in names)
    return [join_path("functions", key) for key in keys]


def _references(component: BaseModel, group: str) -> Iterator[tuple[str, str]]:
    """The entries of a section that a component names, each with the field that does."""
    for field, info in type(component).model_fields.items():
        if field in _NAMES[group] or _mentions(info.annotation, _KINDS[group]):
            value = getattr(component, field)
            for name in value if isinstance(value, list | tuple) else [value]:
                if isinstance(name, str):
                    yield field, name


def _wrong_references_of_evaluators(config: WorkflowConfig) -> Iterator[str]:
    """Models that evaluators name and that are not there; evaluators of packages need not look themselves."""
    evaluators = (config.eval or {}).get("evaluators")
    for evaluator, mapping in evaluators.items() if isinstance(evaluators, Mapping) else ():
        for key, group, entries in (
            ("llm_name", "llms", config.llms),
            ("embedder_name", "embedders", config.embedders),
        ):
            name = mapping.get(key)
            if isinstance(name, str) and name not in entries:
                where = join_path("eval.evaluators", str(evaluator), key)
                yield f"{where}: there is no {join_path(group, name)}{nearest(name, entries)}"


def _is_in_a_group(name: str, functions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a name is `key.name` of a component that gives several functions; only it knows which."""
    key, dot, _ = name.partition(".")
    if name in functions or not dot or key not in functions:
        return False
    mapping = functions[key]
    return is_known(mapping) and find(str(mapping["_type"])).config_type.is_group


def _mentions(annotation: Any, kind: type) -> bool:
    """Whether an annotation is a kind of reference, or a list or choice of it."""
    if annotation is kind:
        return True
    if get_origin(annotation) in (list, tuple, Union, types.UnionType, Annotated):
        return any(_mentions(argument, kind) for argument in get_args(annotation))
    return False
