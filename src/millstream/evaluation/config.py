"""The section `eval` of a workflow file: what to ask, how to run it, how to score it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_validator,
    model_validator,
)

from millstream.errors import ConfigError, InputError
from millstream.evaluation.datasets.registry import CUSTOM, FILE_OPTIONS, SUFFIXES, check_type, type_of
from millstream.evaluation.datasets.remote import shown
from millstream.profiler.config import ProfilerConfig
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.retries import DEFAULT_BUDGET_S
from millstream.workflow.validation import parse_model

DEFAULT_OUTPUT_DIR = Path(".tmp/millstream/eval")
DEFAULT_CACHE = Path(".tmp/millstream/cache/calls.sqlite")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StructureConfig(_Section):
    """Which column is what. With `disable`, the whole row is the question, as JSON."""

    disable: bool = False
    question_key: str = "question"
    answer_key: str = "answer"
    generated_answer_key: str = "generated_answer"
    trajectory_key: str = "intermediate_steps"
    expected_trajectory_key: str = "expected_intermediate_steps"


class FilterRule(_Section):
    """Values by column, with the wildcards `*`, `?` and `[...]`; compared as text."""

    field: dict[str, list[str]] = {}

    @field_validator("field", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {str(column): [_text(one) for one in _listed(values)] for column, values in value.items()}


class FilterConfig(_Section):
    """A row is kept when every column of the allowlist matches and none of the denylist does."""

    allowlist: FilterRule = FilterRule()
    denylist: FilterRule = FilterRule()


class DatasetConfig(_Section):
    """One dataset. `file_path` is a path relative to the working directory, or a URL.

    The `_type`s that call a function take any other keys.
    """

    file_type: str = Field(alias="_type")
    file_path: str | None = Field(None, min_length=1)
    id_key: str = "id"
    structure: StructureConfig = StructureConfig()
    filter: FilterConfig = FilterConfig()
    _options: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that only this `_type` has."""
        return self._options

    @field_validator("file_type")
    @classmethod
    def _there_is_one(cls, value: str) -> str:
        return check_type(value)

    @field_validator("file_path", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="wrap")
    @classmethod
    def _own_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, Mapping):
            return handler(value)
        kind = str(value.get("_type"))
        taken = FILE_OPTIONS.get(kind, frozenset(map(str, value)))
        own = {key: one for key, one in value.items() if key in taken and key not in _DATASET_KEYS}
        made = handler({key: one for key, one in value.items() if key not in own})
        _check_own(kind, made, own)
        made._options = own  # noqa: SLF001  # its own
        return made


_DATASET_KEYS = frozenset(field.alias or name for name, field in DatasetConfig.model_fields.items())


def _check_own(kind: str, config: DatasetConfig, own: Mapping[str, Any]) -> None:
    if kind in FILE_OPTIONS and config.file_path is None:
        raise ValueError("the key 'file_path' is missing")
    for key in ("sheet",) if kind == "xls" else ("function",) if kind == CUSTOM else ():
        if key in own and not (isinstance(own[key], str) and own[key]):
            raise ValueError(f"{key} must be a text; put it in quotes")
    if kind == CUSTOM and "function" not in own:
        raise ValueError("the key 'function' is missing: module:attribute or path/to/file.py:attribute")


class OutputConfig(_Section):
    """Where the files go: another place to say `output_dir`."""

    dir: Path | None = None


class CacheConfig(_Section):
    """Whether model calls are kept and given again, and the file that keeps them."""

    enable: bool = False
    path: Path = DEFAULT_CACHE


class EndpointConfig(_Section):
    """How a workflow that is served elsewhere (`--endpoint`) is asked.

    Attributes:
        model: of a chat; the workflow's name where it is not given.
        headers: sent with every request.
        timeout_s: for one try, in seconds.
        max_retries: as that of `llms`.
        max_retry_s: likewise.
    """

    model: str | None = None
    headers: dict[str, str] | None = None
    timeout_s: float = Field(600, gt=0, allow_inf_nan=False)
    max_retries: int | None = Field(None, ge=0)
    max_retry_s: float = Field(DEFAULT_BUDGET_S, ge=0, allow_inf_nan=False)


class GeneralConfig(_Section):
    """How the evaluation runs.

    Attributes:
        max_concurrency: items that run at the same time.
        timeout_s: the most one item may take, in seconds; `None` is no limit.
        scoring_timeout_s: the most one evaluator may take for one item, in seconds.
        run_timeout_s: the most that asking and scoring may take together; `None` is no limit.
        verbose: a line for every finished item.
        interval_level: the confidence of all intervals.
        slices: fields of the dataset by which the scores are also told apart; `all` takes every field with
            few values.
        cache: of model calls.
        endpoint: how `--endpoint` is asked.
    """

    output_dir: Path | None = None
    output: OutputConfig = OutputConfig()
    max_concurrency: int = Field(8, ge=1)
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    scoring_timeout_s: float = Field(300, gt=0, allow_inf_nan=False)
    run_timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False)
    verbose: bool = False
    interval_level: float = Field(0.95, ge=0.5, le=0.999)
    slices: list[str] = []
    dataset: DatasetConfig | None = None
    cache: CacheConfig = CacheConfig()
    endpoint: EndpointConfig = EndpointConfig()
    profiler: ProfilerConfig = ProfilerConfig()

    @model_validator(mode="after")
    def _one_output(self) -> Self:
        if self.output_dir and self.output.dir and self.output_dir != self.output.dir:
            raise ValueError("output_dir and output.dir name different folders; give one of them")
        return self

    @property
    def folder(self) -> Path:
        """The folder that the files go to."""
        return self.output_dir or self.output.dir or DEFAULT_OUTPUT_DIR


class EvalConfig(_Section):
    """The whole section. The options of an evaluator are checked by the evaluator itself."""

    general: GeneralConfig = GeneralConfig()
    evaluators: dict[str, dict[str, Any]] = {}

    @property
    def dataset(self) -> DatasetConfig:
        """The dataset.

        Raises:
            ConfigError: there is none.
        """
        if self.general.dataset is None:
            raise ConfigError(
                "eval.general.dataset is missing: give _type and file_path there, or --dataset FILE"
            )
        return self.general.dataset


def parse_eval(section: Mapping[str, Any] | None, dataset: str | Path | None = None) -> EvalConfig:
    """Check the section `eval`.

    Args:
        section: what the workflow file holds there; `None` where it holds none.
        dataset: a file or URL that takes the place of the configured one; its type is told by its suffix.

    Raises:
        ConfigError: a key is unknown or a value is wrong; names the path.
        InputError: the type of `dataset` is not known.
    """
    if section is None and dataset is None:
        raise ConfigError(
            "there is no section eval in this file; it needs eval.general.dataset and eval.evaluators"
        )
    return parse_model(EvalConfig, with_dataset(section or {}, dataset), "eval")


def with_dataset(section: Mapping[str, Any], dataset: str | Path | None) -> dict[str, Any]:
    """The section `eval` with its dataset replaced; the keys that every dataset has stay."""
    if dataset is None:
        return dict(section)
    file_type = type_of(str(dataset))
    if file_type is None:
        raise InputError(f"--dataset {shown(str(dataset))}: its suffix must be one of {', '.join(SUFFIXES)}")
    general = dict(section.get("general") or {})
    configured = general.get("dataset") or {}
    if configured.get("_type") != file_type:  # the other keys are of that type
        configured = {key: value for key, value in configured.items() if key in _DATASET_KEYS}
    general["dataset"] = {**configured, "_type": file_type, "file_path": str(dataset)}
    return {**section, "general": general}


def with_slices(config: WorkflowConfig, fields: Sequence[str]) -> WorkflowConfig:
    """The workflow file with more fields to slice by than `eval.general.slices` names."""
    if not fields:
        return config

    def added(section: Mapping[str, Any] | None) -> dict[str, Any]:
        general = dict((section or {}).get("general") or {})
        configured = general.get("slices") or []
        return {**(section or {}), "general": {**general, "slices": [*configured, *fields]}}

    written = {**config.raw_effective, "eval": added(config.raw_effective.get("eval"))}
    return config.model_copy(update={"eval": added(config.eval), "raw_effective": written})


def _listed(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
