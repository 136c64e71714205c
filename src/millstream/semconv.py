"""Attribute names in one table: OpenTelemetry's GenAI conventions as of 2026-11, and ours.

The conventions still move; code and tests use these constants, so that a rename is one line.
"""

from typing import Final

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
TOOL_DEFINITIONS: Final = "gen_ai.tool.definitions"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_DESCRIPTION: Final = "gen_ai.tool.description"
MCP_METHOD_NAME: Final = "mcp.method.name"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_ID: Final = "gen_ai.agent.id"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
EMBEDDINGS_COUNT: Final = "millstream.embeddings.count"
EMBEDDINGS_DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
"""Seconds from the start of the span to the first chunk of a stream or generator."""
CHUNK_COUNT: Final = "millstream.chunk_count"

FRAMEWORK: Final = "millstream.framework"
EVAL_ITEM_ID: Final = "millstream.eval.item_id"
EVAL_REP: Final = "millstream.eval.rep"
EVAL_RUN_ID: Final = "millstream.eval.run_id"

# Of spans copied from OpenTelemetry: what it does not keep among the attributes, under the names that its own
# exporters use towards systems without such fields, where they do.
OTEL_SCOPE_NAME: Final = "otel.scope.name"
"""Every copied span has it, and no other."""
OTEL_SCOPE_VERSION: Final = "otel.scope.version"
OTEL_SPAN_KIND: Final = "otel.span.kind"
OTEL_STATUS_CODE: Final = "otel.status_code"
OTEL_STATUS_DESCRIPTION: Final = "otel.status_description"
OTEL_SPAN_NAME: Final = "otel.span.name"
"""The name at the end, of a span that was renamed."""
OTEL_TRACE_ID: Final = "otel.trace_id"
"""OpenTelemetry's own trace, of a root that started in a span of ours and so belongs to our trace."""
OTEL_LINKS: Final = "otel.links"
