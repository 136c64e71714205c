"""The ASGI application of the stand-in: which endpoints there are, and those that answer at once."""

import time
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from millstream.simulate.api_error import ApiError
from millstream.simulate.http_endpoint import json_response
from millstream.simulate.http_models import ChatCompletions, Embeddings, Responses
from millstream.simulate.stand_in import StandIn


def create_app(stand_in: StandIn, reset: Callable[[Scope], None]) -> Starlette:
    """The ASGI application.

    Args:
        stand_in: what answers.
        reset: breaks the TCP connection of a request.
    """
    pages = _Pages(stand_in)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", ChatCompletions(stand_in, reset), methods=["POST"]),
            Route("/v1/responses", Responses(stand_in, reset), methods=["POST"]),
            Route("/v1/embeddings", Embeddings(stand_in, reset), methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/health", pages.health),
            Route("/stats", pages.stats),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  # registered for this type
    return json_response(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this type
    message = f"Invalid URL ({request.method} {request.url.path})"
    if error.status_code == 405:  # noqa: PLR2004  # method not allowed
        message = f"Not allowed to {request.method} on {request.url.path}."
    headers = dict(error.headers or {})
    return json_response(ApiError(error.status_code, message).body, error.status_code, headers)


class _Pages:
    """The endpoints that answer at once."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._created_s = int(time.time())

    async def models(self, request: Request) -> Response:
        self._stand_in.authorize(request.headers.get("authorization"))
        models = [self._described(name) for name in self._stand_in.models]
        return json_response({"object": "list", "data": models})

    async def model(self, request: Request) -> Response:
        self._stand_in.authorize(request.headers.get("authorization"))
        name = request.path_params["name"]
        self._stand_in.model(name)
        return json_response(self._described(name))

    async def health(self, _request: Request) -> Response:
        return json_response({"status": "ok"})

    async def stats(self, _request: Request) -> Response:
        return json_response(self._stand_in.stats())

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created_s, "owned_by": "millstream"}
