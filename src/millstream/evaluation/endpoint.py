"""`--endpoint URL`: a workflow that is served elsewhere, asked over HTTP in the place of the file's own."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final

import msgspec

from millstream.errors import ConfigError, InputError, UnreachableError, WorkflowError
from millstream.evaluation.config import EndpointConfig
from millstream.evaluation.messages import have_roles
from millstream.record.opening import start_span
from millstream.span import SpanKind
from millstream.workflow.answers import answer_of
from millstream.workflow.config import WorkflowConfig
from millstream.workflow.delivery import delivering
from millstream.workflow.functions import in_thread
from millstream.workflow.http_workflow import (
    CHAT,
    NoReplyError,
    Reply,
    check_url,
    content_of,
    exchange,
    request_of,
    said,
)
from millstream.workflow.limiter import Limiter, limiter_of
from millstream.workflow.logging import log_messages
from millstream.workflow.retries import Attempts, Failure, Kind, Retries, failure_of_answer
from millstream.workflow.secrets import masked

_VALUE: Final = "value"
"""The only key of what the reference's `/generate` answers."""
_CREDENTIALS: Final = (401, 403)
_GOOD: Final = range(200, 300)
_GRACE_S: Final = 5.0
"""The thread that was given up ends so much later."""


class Endpoint:
    """What is asked in the place of a workflow.

    Args:
        name: of its root spans, and the model of a chat where the configuration names none.
        url: that of a chat, or of anything that takes `{"input_message": ...}`; one that ends in `/v1` is
            completed to that of a chat.
        config: `eval.general.endpoint`.
    """

    def __init__(self, name: str, url: str, config: EndpointConfig) -> None:
        self._name = name
        self._config = config
        self._url = checked_endpoint(url)
        self._shown = masked(self._url)
        self._is_chat = self._url.endswith(CHAT)
        self._limiter: Limiter = limiter_of(self._url, None)
        self._retries = Retries(config.max_retries, config.max_retry_s)

    async def run(
        self,
        message: Any,
        *,
        trace_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        within: AbstractAsyncContextManager[Any] | None = None,
    ) -> Any:
        """Answer one message; the run is a WORKFLOW span, which the server is told in `traceparent`.

        Raises:
            UnreachableError: nothing answers there, or it does not let us in.
            WorkflowError: it answers with an error, with what cannot be read, or too late.
        """
        with start_span(
            self._name, kind=SpanKind.WORKFLOW, input=message, workload_id=self._name, trace_id=trace_id
        ) as span:
            span.set_attributes(attributes or {})
            async with within or nullcontext():
                answer = answer_of(await self._ask(message))
            span.set_output(answer)
            return answer

    async def _ask(self, message: Any) -> Any:
        body = self._chat(message) if self._is_chat else _plain(message)
        attempts = Attempts(self._retries, self._limiter)
        while True:
            await self._limiter.wait_async(attempts.ticket)
            is_good = False
            try:
                attempts.begin()
                found = await self._try(body)
                if isinstance(found, Reply):
                    if is_good := found.status in _GOOD:
                        self._limiter.answered()
                        return self._answer(found)
                    failure = failure_of_answer(found.status, found.headers, found.body)
                else:
                    failure = Failure(Kind.DOWN if found.is_down else Kind.FAILED, found.reason)
                wait_s = None if failure is None else attempts.again_in(failure)
            finally:
                self._limiter.give_back(answered=is_good)
            if wait_s is None:
                raise self._error(found, attempts.repeats)
            await asyncio.sleep(wait_s)

    async def _try(self, body: Any) -> Reply | NoReplyError:
        timeout_s = self._config.timeout_s
        headers = self._config.headers or {}
        request = request_of(self._url, body, headers)
        try:
            async with asyncio.timeout(timeout_s):
                reply: Reply = await in_thread(exchange, request, timeout_s + _GRACE_S)
        except NoReplyError as error:
            return error
        except TimeoutError:
            raise WorkflowError(
                f"{self._shown} did not answer within {timeout_s:g} s; raise eval.general.endpoint.timeout_s,"
                " or see what it is busy with"
            ) from None
        return reply

    def _chat(self, message: Any) -> dict[str, Any]:
        model = self._config.model or self._name
        if isinstance(message, Mapping) and "messages" in message:
            return {"model": model, **message}
        if have_roles(message):
            return {"model": model, "messages": message}
        text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
        return {"model": model, "messages": [{"role": "user", "content": text}]}

    def _answer(self, reply: Reply) -> Any:
        content = content_of(reply, self._shown)
        if self._is_chat:
            return said(content, self._shown)
        return content[_VALUE] if isinstance(content, dict) and set(content) == {_VALUE} else content

    def _error(self, found: Reply | NoReplyError, repeats: int) -> Exception:
        tries = f" (asked {repeats + 1} times)" if repeats else ""
        if isinstance(found, NoReplyError):
            if not found.is_down:
                return WorkflowError(f"the connection to {self._shown} broke: {found.reason}{tries}")
            return UnreachableError(
                f"nothing answers at {self._shown} ({found.reason}){tries}; start it, or correct --endpoint"
            )
        message = f"{self._shown} answered {found.status}{tries}: {found.shown}"
        if found.status in _CREDENTIALS:
            return UnreachableError(f"{message}; set eval.general.endpoint.headers.Authorization")
        return WorkflowError(message)


def checked_endpoint(url: str) -> str:
    """The address that is posted to.

    Raises:
        ConfigError: it is no address of HTTP, or holds a password.
    """
    try:
        parts = check_url(url, "--endpoint")
    except InputError as error:
        raise ConfigError(str(error)) from None
    return f"{url.rstrip('/')}{CHAT}" if parts.path.rstrip("/").endswith("/v1") else url


@asynccontextmanager
async def open_endpoint(config: WorkflowConfig, url: str, options: EndpointConfig) -> AsyncIterator[Endpoint]:
    """As `open_workflow`, of a workflow that is served elsewhere.

    Raises:
        ConfigError: the URL is none.
    """
    with log_messages(config):
        async with delivering(config):
            yield Endpoint(config.name, url, options)


def _plain(message: Any) -> Any:
    return message if isinstance(message, Mapping) else {"input_message": message}
