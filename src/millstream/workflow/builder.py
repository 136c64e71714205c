"""Builds what a workflow file names: each function once, when it is first needed."""

import asyncio
import inspect
import os
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from millstream.errors import ConfigError, MillstreamError, MissingExtraError, nearest
from millstream.record import instrument
from millstream.workflow.checks import check_references, check_tool_name
from millstream.workflow.circles import told, way_between
from millstream.workflow.components import FunctionGroup, FunctionInfo, LLMFrameworkEnum
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.embedders import EmbedderConfig, HashConfig, LocalConfig, parse_embedder
from millstream.workflow.functions import Function, imported
from millstream.workflow.limiter import Limiter, limiter_of
from millstream.workflow.llms import (
    OpenAIConfig,
    Server,
    api_key_of,
    base_url_of,
    model_from_entry_point,
    parse_llm,
    tightest_limit,
)
from millstream.workflow.modules import import_modules
from millstream.workflow.registry import parse_component
from millstream.workflow.time_limit import TimeLimit
from millstream.workflow.validation import join_path

_WORKFLOW = "workflow"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
_LANGCHAIN = "millstream.workflow.langchain"
"""An extra, which takes seconds to import."""
_Built = Function | dict[str, Function]
"""What a component gave: one function, or several by name."""
_building: ContextVar[tuple[str, ...]] = ContextVar("millstream_building", default=())


class Builder:
    """Gives components to each other. Open a workflow with `open_workflow`, which makes one.

    Args:
        config: the workflow file.
    """

    def __init__(self, config: WorkflowConfig) -> None:
        self.config = config
        import_modules(config.general.modules, config.directory)
        self._functions: dict[str, _Built] = {}
        self._started: dict[str, asyncio.Lock] = {}
        self._needs: dict[str, set[str]] = {}
        self._generators: list[tuple[str, AsyncGenerator[Any, None]]] = []
        self._llms: dict[str, Any] = {}
        self._embedders: dict[str, Any] = {}
        self._clients: Any = None

    @property
    def directory(self) -> Path:
        """The folder of the workflow file."""
        return self.config.directory

    @property
    def building(self) -> str:
        """Path in the workflow file of the component that is being built, such as `functions.add`."""
        return _building.get()[-1]

    async def get_llm(
        self, name: str, wrapper_type: LLMFrameworkEnum | str = LLMFrameworkEnum.LANGCHAIN
    ) -> Any:
        """A model for a framework: for LangChain a `ChatOpenAI` that streams and asks for usage.

        Args:
            name: a key under `llms`.
            wrapper_type: the framework.

        Raises:
            ConfigError: there is no such entry, it is wrong, or the framework is not in this version.
            MissingExtraError: LangChain is not installed.
        """
        _only_langchain(wrapper_type, "get_llm")
        where = join_path("llms", name)
        if name not in self.config.llms:
            raise ConfigError(f"there is no {where}{nearest(name, self.config.llms)}")
        if name not in self._llms:
            mapping = self.config.llms[name]
            parsed = parse_llm(mapping, where)
            if isinstance(parsed, OpenAIConfig):
                await imported(_LANGCHAIN)
            _record_langchain()
            if name not in self._llms:  # another caller may have made it meanwhile
                self._llms[name] = (
                    self._chat_model(parsed, where)
                    if isinstance(parsed, OpenAIConfig)
                    else model_from_entry_point(parsed, mapping, where)
                )
        return self._llms[name]

    async def get_function(self, name: str) -> Function:
        """A function of the file; awaiting it with the function's arguments calls and records it.

        Args:
            name: a key under `functions`; of a component that gives several, `key.name`.

        Raises:
            ConfigError: there is no such entry, it is wrong, or gives several; functions need each other in a
                circle.
        """
        found = await self.get_functions(name)
        built = self._functions.get(name)
        if isinstance(built, dict):
            known = ", ".join(f"{name}.{each}" for each in built)
            raise ConfigError(f"{join_path('functions', name)} gives several functions; name one: {known}")
        return found[0]

    async def get_functions(self, name: str) -> list[Function]:
        """The functions that one name in `tool_names` means: of a component that gives several, all of them.

        Raises:
            ConfigError: as `get_function`.
        """
        known = self.config.functions
        key, tool = name, ""
        if name not in known:
            key, _, tool = name.partition(".")
        if key not in known:
            raise ConfigError(f"there is no {join_path('functions', name)}{nearest(name, known)}")
        where = join_path("functions", key)
        built = await self._get(key, known[key], where)
        if isinstance(built, Function):
            if tool:
                raise ConfigError(f"there is no {join_path('functions', name)}; {where} is one function")
            return [built]
        if tool and tool not in built:
            raise ConfigError(f"{where} has no function {tool!r}{nearest(tool, built)}")
        return [built[tool]] if tool else list(built.values())

    async def get_tools(
        self, tool_names: Sequence[str], wrapper_type: LLMFrameworkEnum | str = LLMFrameworkEnum.LANGCHAIN
    ) -> list[Any]:
        """Functions of the file as tools of a framework: for LangChain `StructuredTool`s named by their keys.

        Args:
            tool_names: keys under `functions`; of a component that gives several, its key for all of them, or
                `key.name`. Such a tool is named `key_name`.
            wrapper_type: the framework.

        Raises:
            ConfigError: as `get_function`; or the framework is not in this version.
            MissingExtraError: LangChain is not installed.
        """
        _only_langchain(wrapper_type, "get_tools")
        langchain = await imported(_LANGCHAIN)
        for name in tool_names:
            if "." not in name:  # else it is made one
                check_tool_name(name, "tool_names")
        functions = [each for name in tool_names for each in await self.get_functions(name)]
        for function in functions:
            check_tool_name(function.name, "tool_names")
        if len({function.name for function in functions}) < len(functions):
            names = ", ".join(function.name for function in functions)
            raise ConfigError(f"tool_names: a tool is named twice in {names}")
        _record_langchain()
        return [langchain.structured_tool(function) for function in functions]

    async def get_embedder(
        self, name: str, wrapper_type: LLMFrameworkEnum | str = LLMFrameworkEnum.LANGCHAIN
    ) -> Any:
        """An embedder for a framework: for LangChain `Embeddings`, whose calls are EMBEDDING spans.

        Args:
            name: a key under `embedders`.
            wrapper_type: the framework.

        Raises:
            ConfigError: there is no such entry, it is wrong, or the framework is not in this version.
            MissingExtraError: LangChain is not installed.
        """
        _only_langchain(wrapper_type, "get_embedder")
        where = join_path("embedders", name)
        if name not in self.config.embedders:
            raise ConfigError(f"there is no {where}{nearest(name, self.config.embedders)}")
        if name not in self._embedders:
            mapping = self.config.embedders[name]
            parsed = parse_embedder(mapping, where)
            if isinstance(parsed, EmbedderConfig):
                made = await self._embedder(parsed, where)
            else:
                _record_langchain()
                made = model_from_entry_point(parsed, mapping, where)
            self._embedders.setdefault(name, made)  # another caller may have made it meanwhile
        return self._embedders[name]

    async def get_workflow(self) -> Function:
        """The function that the section `workflow` describes.

        Raises:
            ConfigError: the file has no such section, or it is wrong.
        """
        if self.config.workflow is None:
            raise ConfigError("there is no section workflow in this file; it says what to run")
        built = await self._get("", self.config.workflow, _WORKFLOW)
        if not isinstance(built, Function):
            raise ConfigError("workflow: one function is needed here, and this component gives several")
        return built

    async def aclose(self) -> None:
        """Let every component clean up, the last built first; all of them, even when one fails."""
        failure: BaseException | None = None
        while self._generators:
            name, generator = self._generators.pop()
            try:
                await _finish(generator, name)
            except BaseException as error:  # noqa: BLE001  # the others still have to clean up
                failure = failure or error
        if self._clients is not None:
            await self._clients.aclose()
        if failure is not None:
            raise failure

    def _chat_model(self, config: OpenAIConfig, where: str) -> Any:
        from millstream.workflow import langchain  # noqa: PLC0415  # an extra

        return langchain.chat_model(config, *self._reach(config, where), where)

    async def _embedder(self, config: EmbedderConfig, where: str) -> Any:
        langchain_embedders = await imported(f"{_LANGCHAIN}_embedders")
        _record_langchain()
        if isinstance(config, HashConfig):
            return langchain_embedders.hashed(config)
        if isinstance(config, LocalConfig):
            return await langchain_embedders.local(config, where)
        instrument("openai")  # tells the tokens of an embedding, which LangChain does not
        return langchain_embedders.served(config, *self._reach(config, where), where)

    def _reach(self, config: Server, where: str) -> tuple[str, str, Limiter, Any]:
        """How a server is spoken to: its address and key, its limit, and the connections of this builder."""
        from millstream.workflow import langchain  # noqa: PLC0415  # an extra

        base_url = base_url_of(config, where, os.environ)
        api_key = api_key_of(config, base_url, where, os.environ)
        limiter = limiter_of(base_url, tightest_limit(self.config.llms, base_url, os.environ))
        if self._clients is None:
            self._clients = langchain.HttpClients()
        return base_url, api_key, limiter, self._clients

    async def _get(self, name: str, mapping: Mapping[str, Any], where: str) -> _Built:
        above = _building.get()
        if above:
            self._needs.setdefault(above[-1], set()).add(where)
            circle = way_between(self._needs, where, above[-1])
            if circle:
                raise ConfigError(told(circle))
        if name in self._functions:
            return self._functions[name]
        if where not in self._started:
            self._started[where] = asyncio.Lock()
        async with self._started[where]:
            if name not in self._functions:
                token = _building.set((*above, where))
                try:
                    self._functions[name] = await self._build(name, mapping, where)
                finally:
                    _building.reset(token)
        return self._functions[name]

    async def _build(self, name: str, mapping: Mapping[str, Any], where: str) -> _Built:
        kind, config = parse_component(mapping, where)
        check_references(config, self.config, where)
        if kind.framework_wrappers is None:
            instrument()
        elif LLMFrameworkEnum.LANGCHAIN in kind.framework_wrappers:
            _record_langchain()
        try:
            made: Any = kind.build(config, self)
            if isinstance(made, AsyncGenerator):
                offered = await _first(made, where)
                self._generators.append((where, made))
            else:
                offered = await made if inspect.isawaitable(made) else made
        except MillstreamError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{where} ({kind.name}) could not be built: {type(error).__name__}: {error}"
            ) from error
        if isinstance(offered, FunctionGroup):
            return _group(name, where, offered, None if config.times_itself else config.timeout_s)
        if isinstance(offered, FunctionInfo):
            info = offered
        elif callable(offered):
            info = FunctionInfo.from_fn(offered)
        else:
            raise ConfigError(
                f"{where}: {kind.name} gave {type(offered).__name__}, not a FunctionInfo or a function"
            )
        limit = TimeLimit(name or self.config.name, where, None if config.times_itself else config.timeout_s)
        return Function(name or self.config.name, info, limit)


def _group(key: str, where: str, group: FunctionGroup, timeout_s: float | None) -> dict[str, Function]:
    """The functions of a group, with names that model servers take."""
    functions: dict[str, Function] = {}
    for each, info in group.functions.items():
        name = _NOT_IN_A_NAME.sub("_", f"{key}_{each}")
        functions[each] = Function(name, info, TimeLimit(name, where, timeout_s))
    names = sorted(function.name for function in functions.values())
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: two of its functions would have one name: {', '.join(names)}")
    return functions


def _record_langchain() -> None:
    try:
        instrument("langchain")
    except MissingExtraError as error:
        raise MissingExtraError("this workflow", error.extra) from error


def _only_langchain(wrapper_type: LLMFrameworkEnum | str, method: str) -> None:
    if LLMFrameworkEnum(wrapper_type) is not LLMFrameworkEnum.LANGCHAIN:
        raise ConfigError(
            f"{method} with wrapper_type {LLMFrameworkEnum(wrapper_type).value!r} is not in this version; use"
            " LLMFrameworkEnum.LANGCHAIN"
        )


async def _first(generator: AsyncGenerator[Any, None], where: str) -> Any:
    try:
        return await anext(generator)
    except StopAsyncIteration:
        raise ConfigError(f"{where}: its build function ended without yielding a function") from None


async def _finish(generator: AsyncGenerator[Any, None], where: str) -> None:
    """Run what is after the `yield`."""
    try:
        await anext(generator)
    except StopAsyncIteration:
        return
    await generator.aclose()
    raise ConfigError(
        f"{where}: its build function yields more than once; it may yield one FunctionInfo or FunctionGroup"
    )
