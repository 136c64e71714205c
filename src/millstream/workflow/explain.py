"""What an exception of a model server means and what to do about it, in one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from millstream.errors import MillstreamError, UnreachableError, WorkflowError

_LLM_ATTRIBUTE = "_millstream_llm"
"""Attribute of an exception: path of the model whose call raised it, such as `llms.main`."""
_LONGEST = 500
_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/models")


@contextmanager
def named(where: str) -> Iterator[None]:
    """Tell exceptions of which model or embedder of the workflow file they are, such as `llms.main`."""
    try:
        yield
    except Exception as error:
        setattr(error, _LLM_ATTRIBUTE, where)
        raise


def explain(error: BaseException) -> str:
    """One plain sentence about an exception that left a workflow: what happened, and what to do.

    Errors of the OpenAI client are told by base URL and environment variable; our own and all others keep
    their message, with the type in front.
    """
    cause = server_failure(error)
    if cause is not None:
        return _of_server(cause)
    error = _only(error)
    if isinstance(error, MillstreamError):
        return str(error)
    message = str(error).strip()
    return _short(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def as_millstream_error(error: Exception) -> MillstreamError:
    """The error to end a command with: exit code 4 for a server that is down or refuses us, else 3."""
    cause = server_failure(error)
    only = _only(error)
    if cause is None and isinstance(only, MillstreamError):
        return only
    kind = UnreachableError if cause is not None and _unusable(cause) else WorkflowError
    return kind(explain(error))


def server_failure(error: BaseException) -> BaseException | None:
    """The exception of a model server's client behind `error`: itself, a cause, or part of a group."""
    for candidate in _behind(error):
        if _is_openai(candidate, "APIError") or type(candidate).__module__.partition(".")[0] in (
            "httpx",
            "httpx2",
        ):
            return candidate
    return None


def is_server_failure(error: BaseException) -> bool:
    """Whether a model server failed us: nothing that the model itself could mend."""
    return server_failure(error) is not None


def _behind(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        here = waiting.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        yield here
        if isinstance(here, BaseExceptionGroup):
            waiting += here.exceptions
        if here.__cause__ is not None:
            waiting.append(here.__cause__)


def _only(error: BaseException) -> BaseException:
    """The exception itself; of a group of one, that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _is_openai(error: BaseException, name: str) -> bool:
    openai = sys.modules.get("openai")
    kind = getattr(openai, name, None)
    return kind is not None and isinstance(error, kind)


def _unusable(error: BaseException) -> bool:
    """Whether nothing can be done with this server as it is: it is not there, or does not let us in."""
    return _failed_connection(error) == "down" or getattr(error, "status_code", None) in (401, 403)


def _failed_connection(error: BaseException) -> str | None:
    """How a connection failed: `down`, `slow` or `broken`; `None` when the server did answer."""
    names = {type(candidate).__name__ for candidate in _behind(error)}
    if names & {"ConnectError", "ConnectTimeout"}:
        return "down"
    if _is_openai(error, "APITimeoutError") or names & {"ReadTimeout", "WriteTimeout", "PoolTimeout"}:
        return "slow"
    if names & {"RemoteProtocolError", "ReadError", "WriteError", "CloseError"}:
        return "broken"
    return "down" if _is_openai(error, "APIConnectionError") else None


def _of_server(error: Any) -> str:
    base_url, llm = _base_url(error), _llm(error)
    status = getattr(error, "status_code", None)
    failed = _failed_connection(error)
    if failed == "slow":
        return (
            f"the model server at {base_url} did not answer in time; raise {llm}.timeout, or see what"
            " it is busy with"
        )
    if failed == "down":
        return (
            f"no model server answers at {base_url}{_reason(error)}; start it (`millstream simulate llm`"
            f" starts a stand-in), or correct {llm}.base_url or OPENAI_BASE_URL"
        )
    if failed == "broken" or status is None:
        why = _reason(error) or f" ({_said(error) or type(error).__name__})"
        return _short(f"the connection to the model server at {base_url} broke{why}; try again")
    return _short(_of_status(status, base_url, _said(error), llm))


def _of_status(status: int, base_url: str, said: str, llm: str) -> str:
    answer = f"the model server at {base_url}"
    why = f": {said}" if said else ""
    if status == 401:  # noqa: PLR2004  # HTTP's own numbers
        return f"{answer} refused the API key (401){why}; set {_key_variable(base_url)} or {llm}.api_key"
    if status == 403:  # noqa: PLR2004
        return f"{answer} does not allow this (403){why}; check what {_key_variable(base_url)} may use"
    if status == 404:  # noqa: PLR2004
        return (
            f"{answer} does not know this address or model (404){why}; check {llm}.model_name, and that"
            " base_url ends as the server wants it (most: /v1)"
        )
    if status == 429:  # noqa: PLR2004
        return (
            f"{answer} refused more calls for now (429){why}; wait, lower eval.general.max_concurrency or"
            f" {llm}.max_concurrency, or raise {llm}.max_retry_s (or its max_retries)"
        )
    if status >= 500:  # noqa: PLR2004
        return f"{answer} failed ({status}){why}; try again later, or look in its log"
    return (
        f"{answer} rejected the request ({status}){why}; change what is sent (model, prompt length, options)"
    )


def _llm(error: BaseException) -> str:
    """The path of the model in the workflow file, as far as known."""
    return str(getattr(error, _LLM_ATTRIBUTE, "llms.<name>"))


def _base_url(error: Any) -> str:
    """The address without the part that the client adds, and without anything secret."""
    try:
        parts = urlsplit(str(error.request.url))
    except (AttributeError, RuntimeError):  # httpx raises when there is no request
        return "its address"
    path = parts.path
    for suffix in _PATHS:
        path = path.removesuffix(suffix)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{path}"


def _key_variable(base_url: str) -> str:
    return "NVIDIA_API_KEY" if "nvidia.com" in base_url else "OPENAI_API_KEY"


def _said(error: Any) -> str:
    """The server's own words, without the client's around them."""
    body = getattr(error, "body", None)
    for place in (body.get("error") if isinstance(body, dict) else None, body):
        if isinstance(place, dict) and isinstance(place.get("message"), str):
            return str(place["message"]).strip().rstrip(".")
        if isinstance(place, str):
            return place.strip().rstrip(".")
    return str(getattr(error, "message", error)).strip().rstrip(".")


def _reason(error: BaseException) -> str:
    """Why a connection failed, as the operating system says it."""
    deepest = error
    for candidate in _behind(error):
        deepest = candidate
    text = str(deepest).strip()
    return f" ({text})" if text and deepest is not error else ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
