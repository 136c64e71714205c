"""Models and tools of LangChain, which only this, `langchain_calls` and the agents import, all lazily."""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from millstream.errors import MissingExtraError
from millstream.workflow.explain import LLM_ATTRIBUTE
from millstream.workflow.limiter import Limiter
from millstream.workflow.llms import OpenAIConfig

try:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_openai import ChatOpenAI
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
    from pydantic import PrivateAttr

    from millstream.workflow.langchain_calls import finished, mark_broken_calls, strict, unmark
except ImportError as missing:
    raise MissingExtraError("this workflow", "langchain") from missing


class BoundedChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose calls wait for their turn and end in time, whatever the server does.

    The client's own timeout is of one read, which a server that sends a little now and then never meets.
    A tool call whose arguments are not a JSON object is always among the `invalid_tool_calls`.
    """

    _limiter: Limiter | None = PrivateAttr(default=None)
    _timeout_s: float | None = PrivateAttr(default=None)
    _old_max_tokens: bool = PrivateAttr(default=False)
    _where: str = PrivateAttr(default="llms.<name>")

    @classmethod
    def bounded(
        cls,
        limiter: Limiter | None,
        timeout_s: float | None,
        *,
        old_max_tokens: bool,
        where: str,
        **options: Any,
    ) -> Any:
        """A model with its bounds.

        Args:
            limiter: shared by the models of one endpoint.
            timeout_s: seconds for one call once it is its turn.
            old_max_tokens: send `max_tokens`, which every server knows, and not `max_completion_tokens`.
            where: path of the model in the workflow file, for errors.
            options: of `ChatOpenAI`.
        """
        model = cls(**options)
        model._limiter, model._timeout_s, model._old_max_tokens = limiter, timeout_s, old_max_tokens
        model._where = where
        return model

    def _get_request_payload(
        self, input_: Any, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)
        if self._old_max_tokens and "max_completion_tokens" in payload:
            payload["max_tokens"] = payload.pop("max_completion_tokens")
        return payload

    def _create_chat_result(self, response: Any, *args: Any, **kwargs: Any) -> ChatResult:
        mark_broken_calls(response)
        return unmark(super()._create_chat_result(response, *args, **kwargs))

    def _late(self, started_s: float) -> None:
        if self._timeout_s is not None and time.monotonic() - started_s > self._timeout_s:
            raise TimeoutError(
                f"the model {self.model_name} did not finish within {self._timeout_s:g} s; raise"
                f" {self._where}.timeout"
            )

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Tell exceptions which model of the workflow file it was."""
        try:
            yield
        except Exception as error:
            setattr(error, LLM_ATTRIBUTE, self._where)
            raise

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._named(), self._limiter or _NOTHING:
            started_s = time.monotonic()
            for chunk in super()._stream(*args, **kwargs):
                self._late(started_s)
                yield strict(chunk)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with self._named():
            async with self._limiter or _NOTHING:
                started_s = time.monotonic()
                async for chunk in super()._astream(*args, **kwargs):
                    self._late(started_s)
                    yield strict(chunk)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        with self._named(), self._limiter or _NOTHING:
            return super()._generate(messages, *args, **kwargs)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        with self._named():
            async with self._limiter or _NOTHING:
                return await super()._agenerate(messages, *args, **kwargs)

    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return finished(super()._generate_with_cache(*args, **kwargs))

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return finished(await super()._agenerate_with_cache(*args, **kwargs))


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
    config: OpenAIConfig,
    base_url: str,
    api_key: str,
    limiter: Limiter | None,
    clients: HttpClients,
    where: str,
) -> ChatOpenAI:
    """A LangChain chat model for one entry of `llms`; it streams and asks for usage.

    Args:
        config: the entry.
        base_url: where the server is.
        api_key: what it is told.
        limiter: shared by the models of this base URL.
        clients: the connections to use.
        where: path of the entry, such as `llms.main`.
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
        where=where,
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
        args_schema=function.schema,
        coroutine=call,
        func=None if function.is_async else call_in_thread,
    )
