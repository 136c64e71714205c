"""Tools, retrievers, rerankers, query and chat engines."""

from contextvars import ContextVar
from typing import Any, Final

import msgspec

from millstream import context, semconv
from millstream.record.integrations.llama_index.models import NAME
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, begin, tool_run
from millstream.span import SpanKind

asked_for: Final[ContextVar[tuple[str, str] | None]] = ContextVar("millstream_llama_index_tool", default=None)
"""The tool that a model asked for, by name, and the id of its call."""
_PLAIN: Final = (str, int, float, bool, list, dict)

# Tools


def begin_tool(tool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A tool runs."""
    metadata = tool.metadata
    name = str(metadata.name or type(tool).__name__)
    asked = asked_for.get()
    call_id = asked[1] if asked is not None and asked[0] == name else None
    arguments = {**_by_name(metadata, args), **kwargs}
    arguments.pop(getattr(tool, "ctx_param_name", None) or "", None)
    return tool_run(name, arguments, framework=NAME, call_id=call_id, description=metadata.description)


def tell_tool(step: Observed, output: Any) -> None:
    """A tool returned; one that says that it failed has failed."""
    raw = getattr(output, "raw_output", None)
    step.answer(raw if isinstance(raw, _PLAIN) else getattr(output, "content", str(output)))
    if getattr(output, "is_error", False) and (error := getattr(output, "exception", None)):
        step.end(error)


def _by_name(metadata: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    if not args:
        return {}
    schema = getattr(metadata, "fn_schema", None)
    names = list(getattr(schema, "model_fields", ())) or ["input"]
    return dict(zip(names, args, strict=False))


# Retrievers and rerankers


def begin_retrieval(retriever: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A retriever is asked."""
    query = _query(argument(args, kwargs, 0, "str_or_query_bundle"))
    return begin(SpanKind.RETRIEVER, type(retriever).__name__, query, framework=NAME)


def begin_reranking(reranker: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """Nodes are put into another order; what else is done to them is not recorded."""
    name = type(reranker).__name__
    if "rerank" not in name.lower():
        return None
    query = argument(args, kwargs, 1, "query_bundle") or argument(args, kwargs, 2, "query_str")
    content = {"query": _query(query), "nodes": _nodes(argument(args, kwargs, 0, "nodes") or ())}
    model = getattr(reranker, "model", None)
    attributes = {semconv.REQUEST_MODEL: model if isinstance(model, str) else None}
    return begin(SpanKind.RERANKER, name, content, framework=NAME, attributes=attributes)


def tell_nodes(step: Observed, nodes: Any) -> None:
    """Nodes came back."""
    step.answer(_nodes(nodes))


def _query(query: Any) -> Any:
    return getattr(query, "query_str", query)


def _nodes(nodes: Any) -> list[dict[str, Any]]:
    return [
        {"content": found.node.get_content(), "metadata": found.node.metadata, "score": found.score}
        for found in nodes
    ]


# Engines: the outermost is recorded where nothing else is around it


def begin_engine(engine: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A query or chat engine is asked."""
    if context.current.get() is not None:
        return None
    asked: Any = args[0] if args else next(iter(kwargs.values()), msgspec.UNSET)
    return begin(SpanKind.CHAIN, type(engine).__name__, _query(asked), framework=NAME)


def begin_predict_and_call(_llm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A model is asked, and the tools that it calls are run."""
    if context.current.get() is not None:
        return None
    asked = argument(args, kwargs, 1, "user_msg")
    content = msgspec.UNSET if asked is None else getattr(asked, "content", asked)
    return begin(SpanKind.CHAIN, "predict_and_call", content, framework=NAME)


def tell_engine(step: Observed, response: Any) -> None:
    """An engine answered; what it streams is told by the model call."""
    if "streaming" not in type(response).__name__.lower():
        step.answer(str(response))
