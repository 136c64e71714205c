"""Semantic Kernel: model calls, embeddings, functions that a model asks for, agents.

Its filters belong to a kernel, see no model calls and no failures of agents; its own telemetry tells nothing
until it is switched on. So the methods are wrapped in which each service sends a request, those in which a
function or an agent runs, and the way of messages between agents that work together.
"""

from typing import Final

from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.embedding_generator_base import EmbeddingGeneratorBase
from semantic_kernel.connectors.ai.text_completion_client_base import TextCompletionClientBase
from semantic_kernel.functions.kernel_function import KernelFunction

from millstream.record.integrations.methods import Methods
from millstream.record.integrations.on_import import forget, when_imported
from millstream.record.integrations.semantic_kernel.messages import Answer, tell_chat, tell_text
from millstream.record.integrations.semantic_kernel.models import (
    begin_chat,
    begin_embedding,
    begin_embedding_request,
    begin_text,
    sees_usage,
    tell_embedding,
)
from millstream.record.integrations.semantic_kernel.orchestrations import (
    begin_orchestration,
    delivered_in_sender,
    recorded_invoke,
    remembers_sender,
)
from millstream.record.integrations.semantic_kernel.runs import (
    Outcome,
    Said,
    begin_agent,
    begin_function,
    begin_group_chat,
    tell_agent,
    tell_function,
)

_CHAT: Final = "_inner_get_chat_message_contents"
_CHAT_STREAM: Final = "_inner_get_streaming_chat_message_contents"
_TEXT: Final = "_inner_get_text_contents"
_TEXT_STREAM: Final = "_inner_get_streaming_text_contents"
_EMBED: Final = ("generate_embeddings", "generate_raw_embeddings")
_methods: Final = Methods()


def install() -> None:
    """Record Semantic Kernel's calls, also of classes that are defined later."""
    if _methods.on:
        return
    _methods.calls(ChatCompletionClientBase, (_CHAT,), begin_chat, tell_chat, below=True)
    _methods.generators(ChatCompletionClientBase, (_CHAT_STREAM,), begin_chat, Answer, below=True)
    _methods.calls(TextCompletionClientBase, (_TEXT,), begin_text, tell_text, below=True)
    _methods.generators(TextCompletionClientBase, (_TEXT_STREAM,), begin_text, Answer, below=True)
    _methods.calls(EmbeddingGeneratorBase, _EMBED, begin_embedding, tell_embedding, below=True)
    _methods.calls(KernelFunction, ("invoke",), begin_function, tell_function)
    _methods.generators(KernelFunction, ("invoke_stream",), begin_function, Outcome)
    for module, record in _LATER.items():
        when_imported(f"semantic_kernel.{module}", record)


def uninstall() -> None:
    """Put Semantic Kernel back as it was; calls that have begun are recorded to their end."""
    for record in _LATER.values():
        forget(record)
    _methods.undo()


def _record_openai() -> None:
    from semantic_kernel.connectors.ai.open_ai.services.open_ai_handler import (  # noqa: PLC0415
        OpenAIHandler,
    )

    _methods.calls(OpenAIHandler, ("_send_embedding_request",), begin_embedding_request, tell_embedding)
    _methods.put(OpenAIHandler, ("store_usage",), sees_usage)


def _record_agents() -> None:
    from semantic_kernel.agents.agent import Agent  # noqa: PLC0415  # many programs use none

    _methods.calls(Agent, ("get_response",), begin_agent, tell_agent, below=True)
    _methods.generators(Agent, ("invoke", "invoke_stream"), begin_agent, Said, below=True)


def _record_group_chats() -> None:
    from semantic_kernel.agents.group_chat.agent_group_chat import AgentGroupChat  # noqa: PLC0415

    _methods.generators(AgentGroupChat, ("invoke", "invoke_stream"), begin_group_chat, Said)


def _record_orchestrations() -> None:
    from semantic_kernel.agents.orchestration.orchestration_base import (  # noqa: PLC0415
        OrchestrationBase,
    )

    _methods.put(OrchestrationBase, ("invoke",), recorded_invoke(_methods.while_on(begin_orchestration)))


def _record_runtime() -> None:
    from semantic_kernel.agents.runtime.in_process import in_process_runtime as module  # noqa: PLC0415

    for envelope in ("SendMessageEnvelope", "PublishMessageEnvelope"):
        _methods.put(getattr(module, envelope), ("__init__",), remembers_sender)
    _methods.put(module.InProcessRuntime, ("_process_send", "_process_publish"), delivered_in_sender)


_LATER: Final = {
    "connectors.ai.open_ai.services.open_ai_handler": _record_openai,
    "agents.agent": _record_agents,
    "agents.group_chat.agent_group_chat": _record_group_chats,
    "agents.orchestration.orchestration_base": _record_orchestrations,
    "agents.runtime.in_process.in_process_runtime": _record_runtime,
}
"""What is done once a module is imported; many programs use none of them."""
