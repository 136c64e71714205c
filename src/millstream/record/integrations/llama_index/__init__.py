"""LlamaIndex: model calls, embeddings, retrievers, rerankers, tools, agents.

LlamaIndex's own dispatcher tells of calls, but it cannot make a step current while a stream is read, nor end
the step of a run that goes on in the background; so methods are wrapped, those of the base classes and those
that each model or tool implements. What it calls chains are recorded where nothing else is around them.
"""

from typing import Final

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.tools.types import BaseTool

from millstream.record.integrations.llama_index.messages import tell_answer
from millstream.record.integrations.llama_index.models import (
    Answer,
    begin_chat,
    begin_completion,
    begin_embedding,
    tell_embedding,
)
from millstream.record.integrations.llama_index.steps import (
    begin_engine,
    begin_predict_and_call,
    begin_reranking,
    begin_retrieval,
    begin_tool,
    tell_engine,
    tell_nodes,
    tell_tool,
)
from millstream.record.integrations.llama_index.workflows import (
    begin_run,
    begin_turn,
    recorded_run,
    recorded_tool_call,
    tell_turn,
)
from millstream.record.integrations.methods import Methods
from millstream.record.integrations.on_import import forget, when_imported

_AND_CALL: Final = ("predict_and_call", "apredict_and_call")
_EMBED: Final = (
    "_get_query_embedding",
    "_aget_query_embedding",
    "_get_text_embedding",
    "_aget_text_embedding",
    "_get_text_embeddings",
    "_aget_text_embeddings",
)
"""One request each; what the cache knows is not asked for."""
_TOOL: Final = ("__call__", "call", "acall")
_PAUSES: Final = frozenset({"WaitingForEvent"})
"""What a tool raises that waits for somebody; it is called again when it has an answer."""
_CHAT_ENGINE: Final = ("chat", "achat", "stream_chat", "astream_chat")
_methods: Final = Methods()


def install() -> None:
    """Record LlamaIndex's calls, also of classes that are defined later."""
    if _methods.on:
        return
    _methods.calls(BaseLLM, ("chat", "achat"), begin_chat, tell_answer, below=True)
    _methods.calls(BaseLLM, ("complete", "acomplete"), begin_completion, tell_answer, below=True)
    _methods.streams(BaseLLM, ("stream_chat", "astream_chat"), begin_chat, Answer, below=True)
    _methods.streams(BaseLLM, ("stream_complete", "astream_complete"), begin_completion, Answer, below=True)
    _methods.calls(BaseLLM, _AND_CALL, begin_predict_and_call, tell_engine, below=True)
    _methods.calls(BaseEmbedding, _EMBED, begin_embedding, tell_embedding, below=True)
    _methods.calls(BaseTool, _TOOL, begin_tool, tell_tool, pauses=_PAUSES, below=True)
    _methods.calls(BaseRetriever, ("retrieve", "aretrieve"), begin_retrieval, tell_nodes)
    _methods.calls(
        BaseNodePostprocessor, ("postprocess_nodes", "apostprocess_nodes"), begin_reranking, tell_nodes
    )
    _methods.calls(BaseQueryEngine, ("query", "aquery"), begin_engine, tell_engine)
    _methods.calls(BaseChatEngine, _CHAT_ENGINE, begin_engine, tell_engine, below=True)
    when_imported("llama_index.core.workflow", _record_workflows)
    when_imported("llama_index.core.agent.workflow", _record_agents)


def uninstall() -> None:
    """Put LlamaIndex back as it was; calls that have begun are recorded to their end."""
    forget(_record_workflows)
    forget(_record_agents)
    _methods.undo()


def _record_workflows() -> None:
    from llama_index.core.workflow import Workflow  # noqa: PLC0415  # many programs use none

    _methods.put(Workflow, ("run",), recorded_run(_methods.while_on(begin_run)))


def _record_agents() -> None:
    from llama_index.core.agent.workflow import AgentWorkflow  # noqa: PLC0415
    from llama_index.core.agent.workflow.base_agent import BaseWorkflowAgent  # noqa: PLC0415

    _methods.calls(BaseWorkflowAgent, ("take_step",), begin_turn, tell_turn, below=True)
    for owner in (BaseWorkflowAgent, AgentWorkflow):
        _methods.put(owner, ("call_tool",), recorded_tool_call)
