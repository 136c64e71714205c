"""Embeddings: no callback tells of them, so the methods of every embedding class are wrapped."""

from typing import Any, Final

from langchain_core.embeddings import Embeddings

from millstream import semconv
from millstream.record.integrations.methods import Methods, argument
from millstream.record.integrations.observed import Observed, begin
from millstream.span import SpanKind

_DOCUMENTS: Final = ("embed_documents", "aembed_documents")
_QUERY: Final = ("embed_query", "aembed_query")


def record(methods: Methods) -> None:
    """Record the calls of all embedding classes, also of those that are defined later."""
    methods.calls(Embeddings, _DOCUMENTS, _begin_documents, _tell_documents, below=True)
    methods.calls(Embeddings, _QUERY, _begin_query, _tell_query, below=True)


def _begin_documents(embeddings: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    return _begin(embeddings, argument(args, kwargs, 0, "texts"))


def _begin_query(embeddings: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed:
    return _begin(embeddings, argument(args, kwargs, 0, "text"))


def _begin(embeddings: Any, content: Any) -> Observed:
    model = getattr(embeddings, "model", None) or getattr(embeddings, "model_name", None)
    model = model if isinstance(model, str) else None
    attributes = {semconv.OPERATION_NAME: "embeddings", semconv.REQUEST_MODEL: model}
    name = model or type(embeddings).__name__
    return begin(SpanKind.EMBEDDING, name, content, framework="langchain", attributes=attributes)


def _tell_documents(step: Observed, vectors: Any) -> None:
    """Record how many vectors came and how long they are; they are not kept."""
    size = len(vectors[0]) if len(vectors) else None
    step.answer({"count": len(vectors), "dimensions": size})
    step.know({semconv.EMBEDDINGS_COUNT: len(vectors), semconv.EMBEDDINGS_DIMENSIONS: size})


def _tell_query(step: Observed, vector: Any) -> None:
    _tell_documents(step, [vector])
