"""OpenAI's error answers: status, body and headers, word for word where clients look at the words."""

import math
from typing import Any


class ApiError(Exception):
    """An error answer to one request; the HTTP layer sends it as it is.

    Args:
        status: HTTP status.
        message: what the client's exception will say.
        kind: `error.type` of the body.
        param: the parameter that is wrong.
        code: `error.code` of the body.
        retry_after_s: sent as `Retry-After`, seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {
            "error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code},
        }

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer; whole seconds, rounded up, as HTTP wants."""
        if self.retry_after_s is None:
            return {}
        return {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
        }


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request is not one that OpenAI would take."""
    return ApiError(400, message, param=param, code=code)


_BY_STATUS: dict[int, tuple[str, str | None, str]] = {
    400: ("invalid_request_error", None, "The request was refused by a rule of the stand-in."),
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    403: ("invalid_request_error", None, "You are not allowed to use this model."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist."),
    429: ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
    500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
    503: ("server_error", None, "The engine is currently overloaded, please try again later."),
}


def error_on_demand(status: int, message: str | None, retry_after_s: float | None) -> ApiError:
    """The error that a rules file asks for; the usual type, code and message of its status."""
    server_error = 500
    fallback = _BY_STATUS[500 if status >= server_error else 400]
    kind, code, usual = _BY_STATUS.get(status, fallback)
    return ApiError(status, message or usual, kind=kind, code=code, retry_after_s=retry_after_s)
