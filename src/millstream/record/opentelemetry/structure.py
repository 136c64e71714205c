"""What of a span's attributes is structure, and what is content of messages, arguments and results.

Without capture of content only what is known to be structure, usage and times is kept: a new name of
somebody's content must not be stored because nobody knew it.
"""

import functools
import re
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import SpanKind

Attributes = dict[str, Any]

_PATTERNS: Final = (
    # OpenTelemetry's conventions for GenAI, and what came before them
    r"gen_ai\.(operation\.name|provider\.name|system|output\.type|conversation\.id|data_source\.id)",
    r"gen_ai\.(is_streaming|token\.type|workflow\.name)",
    r"gen_ai\.request\.(model|temperature|top_p|top_k|max_tokens|stop_sequences|seed|type|is_stream)",
    r"gen_ai\.request\.(frequency_penalty|presence_penalty|choice\.count|encoding_formats)",
    r"gen_ai\.request\.(reasoning_effort|structured_output_schema)",
    r"gen_ai\.response\.(id|model|finish_reasons|time_to_first_chunk)",
    r"gen_ai\.(usage|aggregated_usage|embeddings|client|server|cost)\..+",
    r"gen_ai\.agent\.(id|name|version|call\.id)",
    r"gen_ai\.tool\.(name|type|description|definitions|call\.id)",
    r"(openinference|traceloop)\.span\.kind",
    r"traceloop\.(entity\.(name|path|version)|workflow\.name)",
    # OpenInference and OpenLLMetry
    r"llm\.(model_name|system|provider|finish_reason|is_streaming|top_k|frequency_penalty)",
    r"llm\.(presence_penalty|chat\.stop_sequences|request\.type|response\.(finish_reason|stop_reason))",
    r"llm\.(token_count|usage|cost)\..+",
    r"llm\.tools\.\d+\.tool\.json_schema",
    r"llm\.request\.functions\.\d+\.(name|description|parameters)",
    r"embedding\.model_name",
    r"reranker\.(model_name|top_k)",
    r"(tool|agent)\.(name|description|id)",
    r"(tool_call\.id|session\.id|graph\.node\.(id|name|parent_id))",
    # Logfire and pydantic-ai
    r"logfire\.(span_type|level_num|pending_parent_id|metrics)",
    r"(model_name|agent_name|duration|async|operation\.cost)",
    # The rest of a program
    r"(error\.type|exception\.(type|message|escaped))",
    r"http\.(method|status_code|route|flavor|scheme|request\.method|response\.status_code)",
    r"http\.(request|response)\.(body\.)?size",
    r"(server|client|network|net)\.[a-z_.]+",
    r"rpc\.(system|service|method|grpc\.status_code)",
    r"db\.(system|system\.name|operation|operation\.name|collection\.name|namespace|name)",
    r"db\.response\.status_code",
    r"messaging\.(system|operation(\.name|\.type)?|destination(\.name|_kind)?)",
    r"(code|thread|service|host|otel|faas|cloud|telemetry)\.[a-z_.]+",
    r"celery\.(action|task_name|state)",
)
_match: Final = re.compile("|".join(_PATTERNS)).fullmatch
_PARAMETERS: Final = frozenset({"llm.invocation_parameters", "embedding.invocation_parameters"})
_PARAMETER_NAMES: Final = frozenset(
    {
        "dimensions",
        "encoding_format",
        "frequency_penalty",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "model",
        "n",
        "presence_penalty",
        "seed",
        "stop",
        "stream",
        "temperature",
        "top_k",
        "top_p",
    }
)
_VECTOR: Final = ".embedding.vector"
_FIRST_VECTOR: Final = "embedding.embeddings.0.embedding.vector"

_KINDS: Final = {
    "chat": SpanKind.LLM,
    "text_completion": SpanKind.LLM,
    "completion": SpanKind.LLM,
    "generate_content": SpanKind.LLM,
    "embeddings": SpanKind.EMBEDDING,
    "embedding": SpanKind.EMBEDDING,
    "execute_tool": SpanKind.TOOL,
    "tool": SpanKind.TOOL,
    "invoke_agent": SpanKind.AGENT,
    "create_agent": SpanKind.AGENT,
    "agent": SpanKind.AGENT,
    "workflow": SpanKind.WORKFLOW,
}
_KIND_NAMES: Final = (
    "openinference.span.kind",
    "gen_ai.operation.name",
    "llm.request.type",
    "traceloop.span.kind",
)


def kind_at_start(attributes: Attributes) -> SpanKind:
    """The kind as far as the first attributes tell it, for a span that may never end; else TASK."""
    if not attributes:
        return SpanKind.TASK
    for name in _KIND_NAMES:
        told = attributes.get(name)
        if isinstance(told, str):
            kind = _KINDS.get(told) or SpanKind.__members__.get(told)
            if kind is not None:
                return kind
    return SpanKind.TASK


def everything(attributes: Attributes) -> Attributes:
    """All of them, where content is captured."""
    return attributes


@functools.lru_cache(4096)
def _is_structure(name: str) -> bool:
    return _match(name) is not None


def without_content(attributes: Attributes) -> Attributes:
    """Those that are known to be structure, usage and times."""
    kept = {key: value for key, value in attributes.items() if _is_structure(key)}
    for key in _PARAMETERS & attributes.keys():
        kept[key] = _known_parameters(attributes[key])
    return kept


def without_vectors(attributes: Attributes) -> Attributes:
    """Embeddings are not kept, their number and size are."""
    if _FIRST_VECTOR not in attributes:
        return attributes
    vectors = [value for key, value in attributes.items() if key.endswith(_VECTOR)]
    kept = {
        key: value for key, value in attributes.items() if not key.endswith(_VECTOR) and key != "output.value"
    }
    kept[semconv.EMBEDDINGS_COUNT] = len(vectors)
    kept[semconv.EMBEDDINGS_DIMENSIONS] = len(vectors[0])
    return kept


def _known_parameters(text: Any) -> str:
    try:
        told = msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        return "{}"
    if not isinstance(told, dict):
        return "{}"
    return msgspec.json.encode({key: told[key] for key in _PARAMETER_NAMES & told.keys()}).decode()
