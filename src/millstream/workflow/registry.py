"""What components there are: registered by decorator, by a file of the user, or by an installed package.

Entry points are loaded on the first look-up. Ours come in by the same functions.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

from millstream.deliver.plugins import load_entry_point
from millstream.errors import ConfigError, nearest
from millstream.workflow.components import FunctionBaseConfig, LLMFrameworkEnum
from millstream.workflow.validation import parse_model

BuildT = TypeVar("BuildT", bound=Callable[..., Any])

COMPONENT_GROUPS = ("millstream.components", "millstream.agents")
_BUILT_IN = (
    "millstream.workflow.agents.tool_calling",
    "millstream.workflow.agents.react",
    "millstream.workflow.agents.router",
    "millstream.workflow.agents.sequential",
    "millstream.workflow.mcp_client",
    "millstream.workflow.python_target",
    "millstream.workflow.retrievers",
)


@dataclass(frozen=True)
class Registered:
    """One kind of function.

    Attributes:
        name: what `_type` calls it.
        config_type: model of its keys.
        build: `(config, builder)` to an async generator of one function, or to the function.
        framework_wrappers: frameworks to record while it is used; `None`: all that are found.
        agent: whether it lets a model choose among tools.
    """

    name: str
    config_type: type[FunctionBaseConfig]
    build: Callable[..., Any]
    framework_wrappers: tuple[LLMFrameworkEnum, ...] | None
    agent: bool = False


_registered: dict[str, Registered] = {}
_entry_points_loaded: set[str] = set()


def register_function(
    *,
    config_type: type[FunctionBaseConfig],
    framework_wrappers: Sequence[LLMFrameworkEnum | str] | None = None,
    agent: bool = False,
) -> Callable[[BuildT], BuildT]:
    """Register a kind of function under the name of its configuration.

    The decorated function gets `(config, builder)`. It is an async generator that yields one `FunctionInfo`
    or function and cleans up after the `yield`, or it returns one.

    Args:
        config_type: a subclass of `FunctionBaseConfig` with a `name=`.
        framework_wrappers: frameworks whose model and tool calls are recorded; when `None`, all there are.
        agent: list it among the agents.

    Raises:
        ConfigError: the configuration has no name, or another function is registered under it.
    """
    name = config_type.component_name
    if not name:
        raise ConfigError(
            f"{config_type.__name__} has no name; write class {config_type.__name__}(FunctionBaseConfig,"
            " name=…)"
        )
    wrappers = (
        None if framework_wrappers is None else tuple(LLMFrameworkEnum(item) for item in framework_wrappers)
    )

    def decorate(build: BuildT) -> BuildT:
        _add(Registered(name, config_type, build, wrappers, agent))
        return build

    return decorate


def find(name: str) -> Registered:
    """The kind of function that `_type` names.

    Raises:
        ConfigError: there is none; lists what there is.
    """
    if name not in _registered:
        _load_built_in()
    if name not in _registered:
        _load_entry_points()
    try:
        return _registered[name]
    except KeyError:
        raise ConfigError(f"unknown _type {name!r}{nearest(name, _registered)}") from None


def is_known(mapping: Mapping[str, Any]) -> bool:
    """Whether there is the kind of function that an entry names."""
    try:
        find(str(mapping["_type"]))
    except ConfigError:
        return False
    return True


def parse_component(mapping: Mapping[str, Any], where: str) -> tuple[Registered, FunctionBaseConfig]:
    """Which kind of function an entry is, and its configuration, checked.

    Raises:
        ConfigError: unknown `_type` or key, or a wrong value.
    """
    try:
        kind = find(str(mapping["_type"]))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return kind, parse_model(
        kind.config_type, {key: value for key, value in mapping.items() if key != "_type"}, where
    )


def registered() -> list[Registered]:
    """Every kind of function, by name."""
    _load_built_in()
    _load_entry_points()
    return sorted(_registered.values(), key=lambda item: item.name)


@contextmanager
def scratch_registry() -> Iterator[None]:
    """Forget, at the end of the block, what was registered in it: for tests."""
    _load_built_in()
    kept, loaded = dict(_registered), set(_entry_points_loaded)
    try:
        yield
    finally:
        _registered.clear()
        _registered.update(kept)
        _entry_points_loaded.clear()
        _entry_points_loaded.update(loaded)


def _add(new: Registered) -> None:
    old = _registered.get(new.name)
    if old is not None and _identity(old.build) != _identity(new.build):
        raise ConfigError(
            f"the component {new.name!r} is registered twice: by {_identity(old.build)} and by"
            f" {_identity(new.build)}; give one of them another name"
        )
    _registered[new.name] = new


def _identity(build: Callable[..., Any]) -> str:
    return f"{build.__module__}.{getattr(build, '__qualname__', repr(build))}"


def _load_built_in() -> None:
    for module in _BUILT_IN:
        importlib.import_module(module)


def _load_entry_points() -> None:
    for group in COMPONENT_GROUPS:
        for point in entry_points(group=group):
            key = f"{group}:{point.name}"
            if key in _entry_points_loaded:
                continue
            loaded = load_entry_point(point)
            _entry_points_loaded.add(key)
            if callable(loaded) and not any(item.build is loaded for item in _registered.values()):
                _add(_from_factory(point.name, loaded, agent=group == "millstream.agents"))


class _FreeConfig(FunctionBaseConfig, extra="allow"):
    """The keys of a component that is a plain factory: passed on as they are."""


class _FreeTimedConfig(_FreeConfig):
    """The same of a factory that has an option `timeout_s`."""

    times_itself = True


def _from_factory(name: str, factory: Callable[..., Any], *, agent: bool) -> Registered:
    """A component from a factory that takes its options as keywords and gives the function."""

    async def build(config: _FreeConfig, builder: Any) -> Any:
        options = dict(config.model_extra or {})
        if config.times_itself and config.timeout_s is not None:
            options["timeout_s"] = config.timeout_s
        if "builder" in inspect.signature(factory).parameters:
            options["builder"] = builder
        made = factory(**options)
        return await made if inspect.isawaitable(made) else made

    build.__module__, build.__qualname__ = factory.__module__, factory.__qualname__
    try:
        times_itself = "timeout_s" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # one of C
        times_itself = False
    return Registered(name, _FreeTimedConfig if times_itself else _FreeConfig, build, None, agent)
