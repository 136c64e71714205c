"""`vector_retriever`: a function that finds the chunks of documents which are nearest to a question."""

import hashlib
import json
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from millstream.errors import ConfigError, InputError
from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.builder import Builder
from millstream.workflow.components import EmbedderRef, FunctionBaseConfig, FunctionInfo
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.documents import matching, read_documents, split
from millstream.workflow.embedders import LocalConfig, parse_embedder
from millstream.workflow.functions import in_thread
from millstream.workflow.llms import Server, base_url_of
from millstream.workflow.registry import register_function
from millstream.workflow.validation import join_path

_log = logging.getLogger(__name__)
_BATCH: Final = 256
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_OF_TRANSPORT: Final = (
    "base_url",
    "api_key",
    "headers",
    "timeout",
    "max_retries",
    "max_retry_s",
    "batch_size",
)
"""Keys of an embedder that make no difference to its vectors."""


class VectorRetrieverConfig(FunctionBaseConfig, name="vector_retriever"):
    """The keys of `vector_retriever`.

    Attributes:
        documents: files and globs, relative to the working directory: text, or JSONL with a `text` a line.
        embedder_name: a key under `embedders`.
        chunk_size: characters of a chunk, at most.
        chunk_overlap: characters at most that a chunk begins with of the one before it.
        top_k: chunks that a question gets.
        index_dir: keeps the index, so that it is built again only when documents or embedder changed.
        description: what can be looked up, for the models that use it as a tool.
    """

    documents: Annotated[list[str], Field(min_length=1)]
    embedder_name: EmbedderRef
    chunk_size: Annotated[int, Field(ge=1)] = 1000
    chunk_overlap: Annotated[int, Field(ge=0)] = 100
    top_k: Annotated[int, Field(ge=1)] = 4
    index_dir: Path | None = None
    description: str | None = None

    @field_validator("documents", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    def check(self, directory: Path, where: str) -> None:  # noqa: ARG002  # documents are not beside the file
        """The documents are there, and chunks are longer than what they share."""
        if self.chunk_overlap >= self.chunk_size:
            raise ConfigError(
                f"{join_path(where, 'chunk_overlap')}: must be less than chunk_size ({self.chunk_size})"
            )
        try:
            matching(self.documents)
        except InputError as error:
            raise ConfigError(f"{join_path(where, 'documents')}: {error}") from error


@register_function(config_type=VectorRetrieverConfig)
async def vector_retriever(
    config: VectorRetrieverConfig, builder: Builder
) -> AsyncGenerator[FunctionInfo, None]:
    """Finds the chunks of documents that are nearest to a question."""
    config.check(builder.directory, builder.building)
    embedder = await builder.get_embedder(config.embedder_name)
    index = await _index(config, builder.config, embedder)

    async def retrieve(query: Annotated[str, "what to look up"]) -> list[dict[str, Any]]:
        with start_span("vector_retriever", kind=SpanKind.RETRIEVER, input=query) as span:
            found = index.search(await embedder.aembed_query(query), config.top_k)
            documents = [{**each.chunk, "score": round(each.score, 6)} for each in found]
            span.set_output(documents)
            return documents

    yield FunctionInfo.from_fn(
        retrieve,
        description=config.description or "Finds the passages of the documents that fit a question best.",
    )


async def _index(config: VectorRetrieverConfig, workflow: WorkflowConfig, embedder: Any) -> Any:
    """The index of the documents as they are now: that of `index_dir` if it is of them, else a new one."""
    from millstream.workflow.vector_index import VectorIndex  # noqa: PLC0415  # an extra

    chunks = await in_thread(_chunks, config)
    if not chunks:
        raise InputError("there is no text in the documents")
    entry = workflow.embedders[config.embedder_name]
    fingerprint = await in_thread(_fingerprint, chunks, entry, config.embedder_name)
    folder = config.index_dir
    if folder is not None and folder.exists():
        try:
            index = VectorIndex.load(folder)
        except InputError as error:
            _log.warning("%s (it is built again now)", error)
        else:
            if index.fingerprint == fingerprint:
                return index
    texts = [chunk["content"] for chunk in chunks]
    batches = [
        await embedder.aembed_documents(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)
    ]
    index = await in_thread(VectorIndex.of, chunks, batches, fingerprint)
    if folder is not None:
        await in_thread(index.save, folder)
    return index


def _chunks(config: VectorRetrieverConfig) -> list[dict[str, Any]]:
    """What can be found, in the form of OpenInference's documents."""
    return [
        {"content": text, "metadata": {**document.metadata, "source": document.source}}
        for document in read_documents(matching(config.documents))
        for text in split(document.text, config.chunk_size, config.chunk_overlap)
    ]


def _fingerprint(chunks: Sequence[dict[str, Any]], embedder: dict[str, Any], name: str) -> str:
    """Says what an index is made of: the chunks, and what makes their vectors."""
    where = join_path("embedders", name)
    made_by = {key: value for key, value in embedder.items() if key not in _OF_TRANSPORT}
    parsed = parse_embedder(embedder, where)
    if isinstance(parsed, Server):
        parts = urlsplit(base_url_of(parsed, where, os.environ))
        # A server of this machine may have another port each time.
        made_by["server"] = "here" if parts.hostname in _LOOPBACK else parts.geturl()
    elif isinstance(parsed, LocalConfig):
        made_by["model_name"] = parsed.folder(where).digest()  # the same files may lie elsewhere
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True, default=str).encode())
    for chunk in chunks:
        digest.update(b"\n" + json.dumps(chunk, sort_keys=True, default=str).encode())
    return digest.hexdigest()
