"""`_type: python`: any callable, class, LangGraph graph or LangChain runnable as a function or workflow."""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from millstream.errors import ConfigError
from millstream.workflow.answers import answer_of
from millstream.workflow.builder import Builder
from millstream.workflow.components import FunctionBaseConfig, FunctionInfo
from millstream.workflow.functions import call_any
from millstream.workflow.modules import load_target
from millstream.workflow.registry import register_function
from millstream.workflow.validation import join_path

METHODS: Final = ("ainvoke", "invoke", "kickoff_async", "kickoff", "arun", "run")


class PythonConfig(FunctionBaseConfig, name="python"):
    """The keys of `_type: python`.

    Attributes:
        target: `module:attribute` or `path/to/file.py:attribute`, relative to the workflow file.
        init: keyword arguments of a class.
        method: what to call on an object; else what it can do of ainvoke, invoke, kickoff, run, `__call__`.
        input_key: the input goes in under this key: `{input_key: input}`.
        output_key: the answer is this key of the result.
        description: for the models that use it as a tool.
    """

    target: str
    init: dict[str, Any] = {}
    method: str | None = None
    input_key: str | None = None
    output_key: str | None = None
    description: str | None = None

    def check(self, directory: Path, where: str) -> None:
        """The target can be imported."""
        load_target(self.target, directory, where=join_path(where, "target"))


@register_function(config_type=PythonConfig)
async def python(config: PythonConfig, builder: Builder) -> AsyncGenerator[FunctionInfo, None]:
    """A Python function, class, LangGraph graph or LangChain runnable, called with the message."""
    yield await function_of(load_target(config.target, builder.directory), config)


async def function_of(target: Any, config: PythonConfig) -> FunctionInfo:
    """Anything that can be called with a message, as a function.

    Raises:
        ConfigError: it cannot be called, or not so.
    """
    target = await _ready(target, config)
    graph = config.method is None and is_runnable(target)
    call = target.ainvoke if graph else _method(target, config)
    if not graph and config.input_key is None and config.output_key is None and not _takes_inputs(call):
        return FunctionInfo.from_fn(call, description=config.description)

    async def run(message: str) -> Any:
        if graph:
            result = await call(input_of(target, message, config))
        else:
            result = await call_any(call, **_given(message, call, config))
        return _pick(result, config)

    return FunctionInfo.from_fn(run, description=config.description or "")


async def _ready(target: Any, config: PythonConfig) -> Any:
    """An object that can be called: classes are made, factories asked, graphs compiled."""
    if inspect.isclass(target):
        try:
            target = target(**config.init)
        except TypeError as error:
            raise ConfigError(
                f"target: {config.target} with init {sorted(config.init)} failed: {error}"
            ) from error
    elif config.init:
        raise ConfigError(f"init: {config.target} is not a class, so it takes no init")
    elif inspect.isroutine(target) and not inspect.signature(target).parameters:
        target = await call_any(target)
    return compiled(target)


def compiled(target: Any) -> Any:
    """A LangGraph graph that is still being drawn, ready; anything else as it is."""
    return target.compile() if hasattr(target, "compile") and hasattr(target, "add_node") else target


def is_runnable(target: Any) -> bool:
    """Whether it is a LangGraph graph or a LangChain runnable."""
    return hasattr(target, "ainvoke") and hasattr(target, "get_input_jsonschema")


def _method(target: Any, config: PythonConfig) -> Any:
    if config.method is not None:
        found = getattr(target, config.method, None)
        if not callable(found):
            raise ConfigError(f"method: {config.target} has no method {config.method!r}")
        return found
    if inspect.isroutine(target):
        return target
    for name in METHODS:
        found = getattr(target, name, None)
        if callable(found):
            return found
    if callable(target):
        return target
    raise ConfigError(
        f"target: {config.target} is a {type(target).__name__}, which cannot be called and has none of the"
        f" methods {', '.join(METHODS)}; name one with the key method"
    )


def _takes_inputs(call: Callable[..., Any]) -> bool:
    """A crew's kickoff takes `inputs`, a mapping for its templates."""
    return "inputs" in inspect.signature(call).parameters


def _given(message: Any, call: Callable[..., Any], config: PythonConfig) -> dict[str, Any]:
    values = {config.input_key: message} if config.input_key else message
    if _takes_inputs(call):
        return {"inputs": values if isinstance(values, Mapping) else {"input": values}}
    names = list(inspect.signature(call).parameters)
    if config.input_key and config.input_key in names:
        return {config.input_key: message}
    return {names[0]: values} if names else {}


def input_of(target: Any, message: Any, config: PythonConfig) -> Any:
    """How a graph or chain takes one message: its state's `messages`, its only input, or the text itself."""
    keys = _input_keys(target)
    if config.input_key:
        return {config.input_key: message}
    if not keys or (isinstance(message, Mapping) and set(message) <= keys):
        return message
    if "messages" in keys:
        return {"messages": [_human(message)]}
    if len(keys) == 1:
        return {next(iter(keys)): message}
    raise ConfigError(
        f"{config.target} takes {', '.join(sorted(keys))}; say with input_key which of them the input is, and"
        " with output_key which one of its result is the answer"
    )


def _input_keys(target: Any) -> set[str]:
    """The keys that a graph's state or a chain's prompt takes; none when it takes a plain value."""
    state = getattr(getattr(target, "builder", None), "input_schema", None)
    if state is not None:  # a LangGraph graph; its JSON schema may not exist, as of typing.TypedDict
        return set(getattr(state, "model_fields", None) or getattr(state, "__annotations__", {}))
    try:
        schema = target.get_input_jsonschema()
    except Exception:  # noqa: BLE001  # a chain whose input has no schema takes what it is given
        return set()
    return set(schema.get("properties") or ()) if schema.get("type") == "object" else set()


def _human(message: Any) -> Any:
    from langchain_core.messages import HumanMessage  # noqa: PLC0415  # only where a graph is

    return HumanMessage(content=message if isinstance(message, str) else str(answer_of(message)))


def _pick(result: Any, config: PythonConfig) -> Any:
    if config.output_key is None:
        return answer_of(result)
    try:
        return answer_of(result[config.output_key])
    except (KeyError, TypeError, IndexError):
        keys = ", ".join(map(str, result)) if isinstance(result, Mapping) else type(result).__name__
        raise ConfigError(f"output_key: {config.target} gave no {config.output_key!r}, but {keys}") from None
