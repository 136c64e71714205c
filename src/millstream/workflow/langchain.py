"""The only place of the workflow layer, beside the agents, that imports LangChain. Import it lazily."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from urllib.parse import urlsplit

from millstream.errors import MissingExtraError
from millstream.workflow.limiter import Limiter
from millstream.workflow.llms import OpenAIConfig

try:
    from langchain_core.messages import (
        AIMessageChunk,
        BaseMessage,
        InvalidToolCall,
        ToolCall,
        ToolCallChunk,
        message_chunk_to_message,
    )
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
    from pydantic import PrivateAttr, model_validator
except ImportError as missing:
    raise MissingExtraError("this workflow", "langchain") from missing


class StrictChunk(AIMessageChunk):
    """A piece of a message whose tool calls, once it is whole, have arguments that are a JSON object.

    LangChain completes the arguments of streamed calls by guess, so that one that broke off would run with
    what had come by then. Here it is an `invalid_tool_calls`, with its text as it came.
    """

    @model_validator(mode="after")
    def strict_tool_calls(self) -> Self:
        """Sort the calls of the whole message by their text."""
        reason = self.response_metadata.get("finish_reason")
        if not (reason or self.chunk_position == "last") or not self.tool_call_chunks:
            return self
        last = len(self.tool_call_chunks) - 1
        valid: list[ToolCall] = []
        invalid: list[InvalidToolCall] = []
        for place, chunk in enumerate(self.tool_call_chunks):
            arguments = _arguments_object(chunk, may_be_empty=reason != "length" or place < last)
            name, call_id, text = chunk["name"], chunk["id"], chunk["args"]
            if arguments is None:
                invalid.append(
                    InvalidToolCall(
                        name=name, args=text or "", id=call_id, error=None, type="invalid_tool_call"
                    )
                )
            else:
                valid.append(ToolCall(name=name or "", args=arguments, id=call_id, type="tool_call"))
        self.tool_calls, self.invalid_tool_calls = valid, invalid
        return self


def _arguments_object(chunk: ToolCallChunk, *, may_be_empty: bool) -> dict[str, Any] | None:
    """The arguments of a call by name; `None` when its text is not a JSON object."""
    if not chunk["args"]:
        return {} if may_be_empty else None
    try:
        arguments = json.loads(chunk["args"], strict=False)
    except ValueError:
        return None
    return arguments if isinstance(arguments, dict) else None


def _strict(chunk: ChatGenerationChunk) -> ChatGenerationChunk:
    message = chunk.message
    if type(message) is AIMessageChunk:  # what is added to it is strict too
        chunk.message = StrictChunk.model_construct(message.model_fields_set, **vars(message))
    return chunk


def _finished(result: ChatResult) -> ChatResult:
    """The result with plain messages: LangChain takes the first base class for that of the whole message."""
    for generation in result.generations:
        generation.message = message_chunk_to_message(generation.message)
    return result


class BoundedChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose calls wait for their turn and end in time, whatever the server does.

    The client's own timeout is of one read, which a server that sends a little now and then never meets.
    Tool calls of streamed answers are as strict as those of others.
    """

    _limiter: Limiter | None = PrivateAttr(default=None)
    _timeout_s: float | None = PrivateAttr(default=None)
    _old_max_tokens: bool = PrivateAttr(default=False)

    @classmethod
    def bounded(
        cls, limiter: Limiter | None, timeout_s: float | None, *, old_max_tokens: bool, **options: Any
    ) -> Any:
        """A model with its bounds.

        Args:
            limiter: shared by the models of one endpoint.
            timeout_s: seconds for one call once it is its turn.
            old_max_tokens: send `max_tokens`, which every server knows, and not `max_completion_tokens`.
            options: of `ChatOpenAI`.
        """
        model = cls(**options)
        model._limiter, model._timeout_s, model._old_max_tokens = limiter, timeout_s, old_max_tokens
        return model

    def _get_request_payload(
        self, input_: Any, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)
        if self._old_max_tokens and "max_completion_tokens" in payload:
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return payload

    def _late(self, started_s: float) -> None:
        if self._timeout_s is not None and time.monotonic() - started_s > self._timeout_s:
            raise TimeoutError(f"the model {self.model_name} did not finish within {self._timeout_s:g} s")

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._limiter or _NOTHING:
            started_s = time.monotonic()
            for chunk in super()._stream(*args, **kwargs):
                self._late(started_s)
                yield _strict(chunk)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        async with self._limiter or _NOTHING:
            started_s = time.monotonic()
            async for chunk in super()._astream(*args, **kwargs):
                self._late(started_s)
                yield _strict(chunk)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        with self._limiter or _NOTHING:
            return super()._generate(messages, *args, **kwargs)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        async with self._limiter or _NOTHING:
            return await super()._agenerate(messages, *args, **kwargs)

    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return _finished(super()._generate_with_cache(*args, **kwargs))

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return _finished(await super()._agenerate_with_cache(*args, **kwargs))


class _Nothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        pass


_NOTHING = _Nothing()


class HttpClients:
    """Connections shared by the models of one builder.

    `ChatOpenAI` of its own shares them with the whole process, past the end of the event loop they belong to.
    """

    def __init__(self) -> None:
        self.blocking = DefaultHttpxClient()
        self.awaiting = DefaultAsyncHttpxClient()

    async def aclose(self) -> None:
        """Close every connection."""
        self.blocking.close()
        await self.awaiting.aclose()


def chat_model(
    config: OpenAIConfig, base_url: str, api_key: str, limiter: Limiter | None, clients: HttpClients
) -> ChatOpenAI:
    """A LangChain chat model for one entry of `llms`; it streams and asks for usage.

    Args:
        config: the entry.
        base_url: where the server is.
        api_key: what it is told.
        limiter: shared by the models of this base URL.
        clients: the connections to use.
    """
    options: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "max_completion_tokens": config.max_tokens,
        "seed": config.seed,
        "stop_sequences": config.stop,
        "frequency_penalty": config.frequency_penalty,
        "presence_penalty": config.presence_penalty,
        "reasoning_effort": config.reasoning_effort,
        "timeout": config.timeout,
        "default_headers": config.headers,
        "extra_body": config.extra_body,
    }
    host = urlsplit(base_url).hostname or ""
    model: ChatOpenAI = BoundedChatOpenAI.bounded(
        limiter,
        config.timeout,
        old_max_tokens=not host.endswith(("openai.com", "openai.azure.com")),
        model=config.model_name,
        base_url=base_url,
        api_key=api_key,
        max_retries=config.max_retries,
        streaming=config.streaming,
        stream_usage=True,
        use_responses_api=False,
        http_client=clients.blocking,
        http_async_client=clients.awaiting,
        **{key: value for key, value in options.items() if value is not None},
    )
    return model


def structured_tool(function: Any) -> BaseTool:
    """A built function as a LangChain tool: its key is the name, its annotations the arguments.

    Args:
        function: a `Function` of the builder.
    """

    async def call(**arguments: Any) -> Any:
        return await function.call_with(arguments)

    def call_in_thread(**arguments: Any) -> Any:
        return function.call_with_sync(arguments)

    return StructuredTool(
        name=function.name,
        description=function.description or function.name,
        args_schema=function.arguments_model,
        coroutine=call,
        func=None if function.is_async else call_in_thread,
    )
