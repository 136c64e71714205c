"""A workflow file: from YAML to checked sections. Components are checked later, by what registered them."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from millstream.deliver.amounts import SIZES, amount
from millstream.deliver.options import component, described
from millstream.errors import nearest
from millstream.workflow.environment import expand
from millstream.workflow.prompts import with_prompts
from millstream.workflow.secrets import masked
from millstream.workflow.validation import Problems, join_path, parse_model
from millstream.workflow.yaml_file import override, read_yaml

SECTIONS = ("general", "llms", "embedders", "functions", "workflow", "eval")

Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LogConfig(_Section):
    """One destination of log messages: `general.telemetry.logging.<name>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["console", "file"] = Field(alias="_type")
    level: Level = "INFO"
    path: Path | None = None
    mode: Literal["append", "overwrite"] = "append"

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, value: Path | None) -> Path | None:
        if value == Path():
            raise ValueError("the path of a file is needed here")
        return value

    @field_validator("mode", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"a": "append", "w": "overwrite"}.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _file_has_a_path(self) -> Self:
        if self.type == "file" and self.path is None:
            raise ValueError("a file needs a path")
        if self.type == "console" and self.model_fields_set & {"path", "mode"}:
            raise ValueError("the console has no path and no mode; _type: file has")
        return self


class JournalConfig(_Section):
    """`general.telemetry.journal`: how much is kept of what processes that have ended recorded.

    Attributes:
        max_bytes: a number, or text with a unit, such as `2GiB`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_bytes: int | None = Field(default=None, ge=1)
    max_age_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("max_bytes", mode="before")
    @classmethod
    def _with_a_unit(cls, value: Any) -> Any:
        if isinstance(value, bool):  # a number to Python
            value = described(value)
        return round(amount(value, SIZES, "2GiB")) if isinstance(value, str) else value


class TelemetryConfig(_Section):
    """`general.telemetry`. Exporters are still mappings with `_type`: what delivers checks them."""

    logging: dict[str, LogConfig] = {}
    tracing: dict[str, dict[str, Any]] = {}
    journal: JournalConfig = JournalConfig()


class GeneralConfig(_Section):
    """`general`."""

    workflow_name: str | None = None
    modules: list[str] = []
    telemetry: TelemetryConfig = TelemetryConfig()

    @field_validator("workflow_name")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("a name is needed here")
        return value


class WorkflowConfig(BaseModel):
    """One workflow file, read. Components are still mappings with `_type`.

    Attributes:
        path: the file.
        eval: the raw mapping; the evaluation checks it.
        raw: every section with environment variables, overrides and `_type` in place.
        raw_effective: the same to be written down: secrets masked or left as `${NAME}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    general: GeneralConfig
    llms: dict[str, dict[str, Any]]
    embedders: dict[str, dict[str, Any]]
    functions: dict[str, dict[str, Any]]
    workflow: dict[str, Any] | None
    eval: dict[str, Any] | None
    raw: dict[str, Any]
    raw_effective: dict[str, Any]

    @property
    def directory(self) -> Path:
        """The folder of the file: modules and targets are relative to it."""
        return self.path.parent

    @property
    def name(self) -> str:
        """`general.workflow_name`, else the `_type` of the workflow (of `python`: the target's attribute)."""
        if self.general.workflow_name:
            return self.general.workflow_name
        component = self.workflow or {}
        if component.get("_type") == "python":
            return str(component.get("target", "")).rpartition(":")[2] or "python"
        return str(component.get("_type", "workflow"))


def load_config(
    path: Path,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    sections: Collection[str] = SECTIONS,
    environ: Mapping[str, str] | None = None,
) -> WorkflowConfig:
    """Read a workflow file, and the prompts in files that it names. Nothing is imported, built or contacted.

    Args:
        path: the YAML file.
        overrides: pairs of dot path and value as YAML, applied before environment variables are expanded.
        sections: what is needed; the others are left out, so that what is wrong in them does not matter.
        environ: the environment variables; those of the process when `None`.

    Raises:
        ConfigError: everything that is wrong, one problem a line.
    """
    path = Path(path)
    tree = read_yaml(path)
    override(tree, overrides)
    problems = Problems()
    for key in tree:
        if key not in SECTIONS:
            problems.lines.append(f"{key}: unknown section{nearest(str(key), SECTIONS)}")
    wanted = {name: tree[name] for name in SECTIONS if name in sections and tree.get(name) is not None}
    for name, value in wanted.items():
        if not isinstance(value, dict):
            problems.lines.append(f"{name}: a mapping of keys is needed here, not {described(value)}")
    problems.raise_if_any(str(path))
    wanted = _with_types(wanted, problems)
    expanded: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    with problems.collect():
        expanded, shown = expand(wanted, os.environ if environ is None else environ)
        expanded, shown = with_prompts(expanded, shown, path.parent, problems)
    general = GeneralConfig()
    with problems.collect():
        general = parse_model(GeneralConfig, expanded.get("general", {}), "general")
    problems.raise_if_any(str(path))
    return WorkflowConfig(
        path=path,
        general=general,
        llms=expanded.get("llms", {}),
        embedders=expanded.get("embedders", {}),
        functions=expanded.get("functions", {}),
        workflow=expanded.get("workflow"),
        eval=expanded.get("eval"),
        raw=expanded,
        raw_effective=masked(shown),
    )


def _with_types(tree: dict[str, Any], problems: Problems) -> dict[str, Any]:
    """Every component in one form: `_type` beside its keys; what is none is a problem, and left out."""
    tree = dict(tree)
    for section in ("llms", "embedders", "functions"):
        if section in tree:
            tree[section] = _components(tree[section], section, problems)
    if "workflow" in tree:
        with problems.collect():
            tree["workflow"] = component(tree["workflow"], "workflow")
    tree = _inside(tree, ("general", "telemetry", "logging"), problems)
    tree = _inside(tree, ("general", "telemetry", "tracing"), problems)
    tree = _inside(tree, ("eval", "evaluators"), problems)
    dataset = _at(tree, ("eval", "general", "dataset"))
    if isinstance(dataset, dict) and ("type" in dataset or "_type" in dataset):
        with problems.collect():
            eval_general = tree["eval"]["general"] | {"dataset": component(dataset, "eval.general.dataset")}
            tree["eval"] = tree["eval"] | {"general": eval_general}
    return tree


def _inside(tree: dict[str, Any], path: tuple[str, ...], problems: Problems) -> dict[str, Any]:
    group = _at(tree, path)
    if not isinstance(group, dict):
        return tree  # the section's model says what is wrong
    copy = dict(tree)
    here = copy
    for key in path[:-1]:
        here[key] = dict(here[key])
        here = here[key]
    here[path[-1]] = _components(group, join_path(*path), problems)
    return copy


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(key)
    return tree


def _components(group: dict[str, Any], where: str, problems: Problems) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for name, entry in group.items():
        with problems.collect():
            components[str(name)] = component(entry, join_path(where, str(name)))
    return components
