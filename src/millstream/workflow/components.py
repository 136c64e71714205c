"""What components are made of: their configuration, and the function they offer."""

import inspect
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from millstream.errors import ConfigError


class LLMFrameworkEnum(str, Enum):
    """The frameworks that a function may use. Models and tools are offered for LangChain in this version."""

    LANGCHAIN = "langchain"
    LLAMA_INDEX = "llama_index"
    CREWAI = "crewai"
    SEMANTIC_KERNEL = "semantic_kernel"


class LLMRef(str):
    """A configuration value that names an entry of `llms`; `millstream validate` checks it."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(str)


class EmbedderRef(str):
    """A configuration value that names an entry of `embedders`; `millstream validate` checks it."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(str)


class FunctionRef(str):
    """A configuration value that names an entry of `functions`; `millstream validate` checks it."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        return handler(str)


class FunctionBaseConfig(BaseModel):
    """Base of the configuration of a registered function: `class X(FunctionBaseConfig, name="x")`.

    Its fields are the keys of the component in YAML; unknown keys are errors. Fields named `llm` or
    `llm_name` (or annotated `LLMRef`) name an entry of `llms`; those named `embedder` or `embedder_name` (or
    annotated `EmbedderRef`) one of `embedders`; those named `tool_names` (or annotated `FunctionRef`) name
    entries of `functions`.

    Attributes:
        timeout_s: seconds for one call of the function; a subclass that has the key means its own by it.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    component_name: ClassVar[str] = ""
    times_itself: ClassVar[bool] = False
    is_group: ClassVar[bool] = False

    timeout_s: Annotated[float, Field(gt=0)] | None = None

    def __init_subclass__(cls, *, name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            cls.component_name = name

    @classmethod
    def __pydantic_init_subclass__(cls, *, name: str | None = None, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if "timeout_s" in inspect.get_annotations(cls):
            cls.times_itself = True

    def check(self, directory: Path, where: str) -> None:
        """Look closer than types can, for `millstream validate`; override it, and run nothing.

        Args:
            directory: the folder of the workflow file.
            where: path of the component in it, for errors.

        Raises:
            ConfigError: a value is wrong.
        """


class FunctionInfo:
    """A function that a component offers.

    Attributes:
        fn: sync or async function, or async generator function.
        description: what it does, for people and models.
        input_schema: of its arguments, when its annotations do not say it: a pydantic model, or a JSON schema
            of arguments by name, which is told to models as it is and not checked here.
        recorded: whether a call is a FUNCTION span; `False` for one that records itself.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        description: str = "",
        input_schema: type[BaseModel] | Mapping[str, Any] | None = None,
        recorded: bool = True,
    ) -> None:
        self.fn = fn
        self.description = description
        self.input_schema = input_schema
        self.recorded = recorded

    @classmethod
    def from_fn(
        cls,
        fn: Callable[..., Any],
        *,
        description: str | None = None,
        input_schema: type[BaseModel] | Mapping[str, Any] | None = None,
    ) -> Self:
        """Offer `fn`. Without a description, its docstring is taken.

        Args:
            fn: sync or async function, or async generator function.
            description: what it does; models choose tools by it.
            input_schema: of its arguments, when its annotations do not say it.

        Raises:
            ConfigError: `fn` cannot be called.
        """
        if not callable(fn):
            raise ConfigError(f"FunctionInfo.from_fn needs a function, not {type(fn).__name__}")
        text = description if description is not None else (getattr(fn, "__doc__", None) or "")
        return cls(fn, description=text.strip(), input_schema=input_schema)


class FunctionGroup:
    """Several functions that one component offers, as a tool server does.

    In `tool_names`, the component's key is all of them and `key.name` one. The configuration of such a
    component says `is_group = True`.

    Args:
        functions: by name.
    """

    def __init__(self, functions: Mapping[str, FunctionInfo]) -> None:
        self.functions = dict(functions)
