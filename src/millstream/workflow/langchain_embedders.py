"""Embedders of LangChain, imported lazily: each call of one is recorded as an EMBEDDING span."""

from typing import Any

from millstream.errors import MissingExtraError, WorkflowError
from millstream.workflow.embedders import HashConfig, LocalConfig, NIMEmbedderConfig, OpenAIEmbedderConfig
from millstream.workflow.explain import named
from millstream.workflow.functions import in_thread
from millstream.workflow.hashed_words import vector_of
from millstream.workflow.langchain import HttpClients, calls_of
from millstream.workflow.limiter import Limiter
from millstream.workflow.local_models import LocalModel, load

try:
    from langchain_core.embeddings import Embeddings
    from langchain_openai import OpenAIEmbeddings
    from pydantic import PrivateAttr
except ImportError as missing:
    raise MissingExtraError("an embedder", "langchain") from missing


class ServedEmbeddings(OpenAIEmbeddings):
    """`OpenAIEmbeddings` whose errors say which embedder it was.

    Its clients (`model_http`) wait for their turn, are patient and end in time.
    """

    _where: str = PrivateAttr(default="embedders.<name>")
    _tells_purpose: bool = PrivateAttr(default=False)

    @classmethod
    def of(cls, *, where: str, tells_purpose: bool, **options: Any) -> "ServedEmbeddings":
        """An embedder.

        Args:
            where: path of the embedder in the workflow file, for errors.
            tells_purpose: send whether a text is a question or a passage, as NVIDIA's models want it.
            options: of `OpenAIEmbeddings`.
        """
        made = cls(**options)
        made._where, made._tells_purpose = where, tells_purpose
        return made

    def embed_documents(
        self, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> list[list[float]]:
        """One vector a text."""
        with named(self._where):
            asked = self._for("passage", kwargs)
            return self._checked(super().embed_documents(texts, chunk_size, **asked), texts)

    async def aembed_documents(
        self, texts: list[str], chunk_size: int | None = None, **kwargs: Any
    ) -> list[list[float]]:
        """The same, awaited."""
        with named(self._where):
            asked = self._for("passage", kwargs)
            return self._checked(await super().aembed_documents(texts, chunk_size, **asked), texts)

    def embed_query(self, text: str, **kwargs: Any) -> list[float]:
        """The vector of a question."""
        return self.embed_documents([text], **self._for("query", kwargs))[0]

    async def aembed_query(self, text: str, **kwargs: Any) -> list[float]:
        """The same, awaited."""
        return (await self.aembed_documents([text], **self._for("query", kwargs)))[0]

    def _for(self, purpose: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        if not self._tells_purpose or "extra_body" in kwargs:
            return kwargs
        return {**kwargs, "extra_body": {"input_type": purpose}}

    def _checked(self, vectors: list[list[float]], texts: list[str]) -> list[list[float]]:
        if len(vectors) != len(texts):
            raise WorkflowError(
                f"{self._where}: the server gave {len(vectors)} vectors for {len(texts)} texts; see whether"
                " model_name is a model for embeddings"
            )
        return vectors


class HashedWords(Embeddings):
    """Vectors of hashed words, made in this process."""

    def __init__(self, dimensions: int) -> None:
        self.model_name = f"hash-{dimensions}"
        self.dimensions = dimensions

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return [vector_of(text, self.dimensions) for text in texts]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same, without holding up the event loop."""
        vectors: list[list[float]] = await in_thread(_vectors, texts, self.dimensions)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return vector_of(text, self.dimensions)

    async def aembed_query(self, text: str) -> list[float]:
        """The same."""
        return vector_of(text, self.dimensions)


class LocalEmbeddings(Embeddings):
    """Vectors of a model that runs in this process, on a thread when awaited."""

    def __init__(self, model: LocalModel, model_name: str) -> None:
        self._model = model
        self.model_name = model_name

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        return self._model.embed_documents(texts)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same, without holding up the event loop."""
        vectors: list[list[float]] = await in_thread(self._model.embed_documents, texts)
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return self._model.embed_query(text)

    async def aembed_query(self, text: str) -> list[float]:
        """The same, without holding up the event loop."""
        vector: list[float] = await in_thread(self._model.embed_query, text)
        return vector


def _vectors(texts: list[str], dimensions: int) -> list[list[float]]:
    return [vector_of(text, dimensions) for text in texts]


def served(
    config: OpenAIEmbedderConfig,
    base_url: str,
    api_key: str,
    limiter: Limiter,
    clients: HttpClients,
    where: str,
) -> Embeddings:
    """The embedder of a server.

    Args:
        config: the entry.
        base_url: where the server is.
        api_key: what it is told.
        limiter: of the endpoint.
        clients: makes the connections.
        where: path of the entry, such as `embedders.main`.
    """
    blocking, awaiting = clients.of(calls_of(config, limiter, where))
    options = {
        "dimensions": config.dimensions,
        "timeout": config.timeout,
        "default_headers": config.headers,
    }
    return ServedEmbeddings.of(
        where=where,
        tells_purpose=isinstance(config, NIMEmbedderConfig),
        model=config.model_name,
        base_url=base_url,
        api_key=api_key,
        max_retries=0,  # the clients see to it
        chunk_size=config.batch_size,
        check_embedding_ctx_length=False,  # it would send OpenAI's token numbers, from a download
        http_client=blocking,
        http_async_client=awaiting,
        **{key: value for key, value in options.items() if value is not None},
    )


def hashed(config: HashConfig) -> Embeddings:
    """The embedder without a model."""
    return HashedWords(config.dimensions)


async def local(config: LocalConfig, where: str) -> Embeddings:
    """The embedder of a folder, loaded.

    Args:
        config: the entry.
        where: path of the entry, such as `embedders.main`.

    Raises:
        ConfigError: the folder holds no model that can be loaded.
        MissingExtraError: the library that runs it is not installed.
    """
    folder = config.folder(where)
    return LocalEmbeddings(await in_thread(load, folder, where), folder.name)
