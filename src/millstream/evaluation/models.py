"""The models and embedders of the workflow file, for evaluators that ask one."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from millstream.errors import ConfigError, nearest
from millstream.workflow.builder import Builder
from millstream.workflow.checks import check_embedder
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.validation import join_path


class Models:
    """Checked when an evaluator is bound; `async with` makes them all and closes their connections.

    Args:
        config: the workflow file.
    """

    def __init__(self, config: WorkflowConfig) -> None:
        self._config = config
        self._named: list[tuple[str, str]] = []
        self._builder: Builder | None = None

    @property
    def named(self) -> int:
        """How often an evaluator named a model or an embedder."""
        return len(self._named)

    def check_llm(self, name: str, where: str) -> None:
        """Whether there is such a model.

        Args:
            name: a key under `llms`.
            where: path of the option that names it, for the error.

        Raises:
            ConfigError: there is none.
        """
        self._check("llms", name, self._config.llms, where)

    def check_embedder(self, name: str, where: str) -> None:
        """The same of a key under `embedders`, and whether that embedder can be made.

        Raises:
            ConfigError: there is none, or it is wrong.
            MissingExtraError: the library that it needs is not installed.
        """
        self._check("embedders", name, self._config.embedders, where)
        check_embedder(self._config.embedders[name], join_path("embedders", name))

    async def llm(self, name: str) -> Any:
        """A LangChain chat model; its calls are recorded, and bounded as `llms` says."""
        return await self._made().get_llm(name)

    async def embedder(self, name: str) -> Any:
        """LangChain `Embeddings`."""
        return await self._made().get_embedder(name)

    def _made(self) -> Builder:
        if self._builder is None:
            self._builder = Builder(self._config)
        return self._builder

    def _check(self, section: str, name: str, known: Mapping[str, Any], where: str) -> None:
        if name not in known:
            raise ConfigError(f"{where}: there is no {join_path(section, name)}{nearest(name, known)}")
        self._named.append((section, name))

    async def __aenter__(self) -> Self:
        """Make all that are named: what is wrong with one is told now, not to each item.

        Raises:
            ConfigError: an entry is wrong, or lacks its key.
            MissingExtraError: LangChain is not installed.
        """
        try:
            for section, name in dict.fromkeys(self._named):
                await (self.llm(name) if section == "llms" else self.embedder(name))
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        builder, self._builder = self._builder, None
        if builder is not None:
            await builder.aclose()
