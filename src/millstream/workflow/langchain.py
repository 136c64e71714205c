"""Models and tools of LangChain, which only this, `langchain_calls` and the agents import, all lazily."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

from millstream.errors import MissingExtraError
from millstream.workflow.explain import named
from millstream.workflow.functions import imported
from millstream.workflow.limiter import Limiter
from millstream.workflow.llms import OpenAIConfig, Server
from millstream.workflow.retries import Retries

try:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_core.tools import BaseTool, StructuredTool
    from langchain_openai import ChatOpenAI
    from pydantic import PrivateAttr

    from millstream.workflow.langchain_calls import finished, mark_broken_calls, strict, unmark
    from millstream.workflow.model_http import AwaitingClient, BlockingClient, Calls
except ImportError as missing:
    raise MissingExtraError("this workflow", "langchain") from missing


class BoundedChatOpenAI(ChatOpenAI):
    """`ChatOpenAI` whose clients (`model_http`) wait for their turn, are patient and end in time.

    A tool call whose arguments are not a JSON object is always among the `invalid_tool_calls`.
    """

    _old_max_tokens: bool = PrivateAttr(default=False)
    _where: str = PrivateAttr(default="llms.<name>")

    @classmethod
    def bounded(cls, *, old_max_tokens: bool, where: str, **options: Any) -> Any:
        """A model.

        Args:
            old_max_tokens: send `max_tokens`, which every server knows, and not `max_completion_tokens`.
            where: path of the model in the workflow file, for errors.
            options: of `ChatOpenAI`.
        """
        model = cls(**options)
        model._old_max_tokens, model._where = old_max_tokens, where
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

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with named(self._where):
            for chunk in super()._stream(*args, **kwargs):
                yield strict(chunk)

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with named(self._where):
            async for chunk in super()._astream(*args, **kwargs):
                yield strict(chunk)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        with named(self._where):
            return super()._generate(messages, *args, **kwargs)

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        with named(self._where):
            return await super()._agenerate(messages, *args, **kwargs)

    def _generate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        return finished(super()._generate_with_cache(*args, **kwargs))

    async def _agenerate_with_cache(self, *args: Any, **kwargs: Any) -> ChatResult:
        if "response_format" in kwargs:
            await imported("openai.resources.beta.beta")  # by the client in the first such call, for a second
        return finished(await super()._agenerate_with_cache(*args, **kwargs))


class HttpClients:
    """Connections of the models of one builder: those of a model are its own.

    `ChatOpenAI` of its own shares them with the whole process, past the end of the event loop they belong to.
    """

    def __init__(self) -> None:
        self._open: list[tuple[BlockingClient, AwaitingClient]] = []

    def of(self, calls: Calls) -> tuple[BlockingClient, AwaitingClient]:
        """The clients of a model, for callers that block and for those in an event loop."""
        pair = BlockingClient(calls), AwaitingClient(calls)
        self._open.append(pair)
        return pair

    async def aclose(self) -> None:
        """Close every connection."""
        while self._open:
            blocking, awaiting = self._open.pop()
            blocking.close()
            await awaiting.aclose()


def calls_of(config: Server, limiter: Limiter, where: str) -> Calls:
    """How the calls of an entry of `llms` or `embedders` are made.

    Args:
        config: the entry.
        limiter: of its endpoint.
        where: path of the entry, such as `llms.main`.
    """
    late = f"the model {config.model_name} did not finish within {config.timeout or 0:g} s"
    retries = Retries(config.max_retries, config.max_retry_s)
    return Calls(limiter, retries, config.timeout, f"{late}; raise {where}.timeout")


def chat_model(
    config: OpenAIConfig,
    base_url: str,
    api_key: str,
    limiter: Limiter,
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
    blocking, awaiting = clients.of(calls_of(config, limiter, where))
    model: ChatOpenAI = BoundedChatOpenAI.bounded(
        old_max_tokens=not host.endswith(("openai.com", "openai.azure.com")),
        where=where,
        model=config.model_name,
        base_url=base_url,
        api_key=api_key,
        max_retries=0,  # the clients see to it
        streaming=config.streaming,
        stream_usage=True,
        use_responses_api=False,
        http_client=blocking,
        http_async_client=awaiting,
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
