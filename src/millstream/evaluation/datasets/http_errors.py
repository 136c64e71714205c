"""What exceptions of fsspec's driver for HTTP mean, in sentences that say what to do."""

import os
from http import HTTPStatus
from typing import Any, Final

from millstream.errors import InputError, UnreachableError

_GONE: Final = (404, 410)
_NOT_LET_IN: Final = (401, 403, 407)
_LATER: Final = (408, 429)
_SERVER_ERROR: Final = 500
_ELSE: Final = "or copy the file to this machine"


def told_of_http(error: BaseException, what: str) -> InputError | UnreachableError | None:
    """The error to raise; `None` where it is none of HTTP.

    Args:
        error: of aiohttp.
        what: the dataset, with its URL as it may be shown.
    """
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.startswith("aiohttp.")}
    if not names:
        return None
    status = getattr(error, "status", 0)
    if "TooManyRedirects" in names:
        return InputError(f"{what} cannot be read: its server redirects without end. Correct the address.")
    if "ClientResponseError" in names and isinstance(status, int) and status:
        return _of_status(status, what)
    if "InvalidURL" in names:
        return InputError(f"{what} cannot be read: the address is malformed. Correct it.")
    return UnreachableError(f"{what} cannot be read: {_of_connection(error, names)}.")


def _of_status(status: int, what: str) -> InputError | UnreachableError:
    answer = f"{status} {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else str(status)
    if status in _GONE:
        return InputError(f"{what} does not exist: its server answers {answer}. Correct the address.")
    if status in _NOT_LET_IN:
        return InputError(
            f"{what} cannot be read: its server does not let us in ({answer}). Put user and password, or a "
            f"valid signature, into the URL, {_ELSE}."
        )
    if status in _LATER or status >= _SERVER_ERROR:
        return UnreachableError(
            f"{what} cannot be read: its server cannot give it now ({answer}). Try again later, {_ELSE}."
        )
    return InputError(
        f"{what} cannot be read: its server refuses the request ({answer}). Correct the address, {_ELSE}."
    )


def _of_connection(error: Any, names: set[str]) -> str:
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    system = getattr(error, "os_error", None)
    if "ClientConnectorDNSError" in names:
        return f"no host is called {host}. Correct the address, or see whether this machine has a network"
    if names & {"ClientConnectorSSLError", "ClientConnectorCertificateError", "ClientSSLError"}:
        why = getattr(error, "certificate_error", None) or system
        reason = getattr(why, "verify_message", None) or getattr(why, "reason", None) or "it was refused"
        shown = str(reason).replace("_", " ").lower()
        return (
            f"there is no TLS connection to {host}:{port} ({shown}). Is it http:// and not https://? Else "
            "mend the server's certificate"
        )
    if "ClientConnectorError" in names:
        number = getattr(system, "errno", None)
        reason = f" ({os.strerror(number)})" if number else ""
        return f"nothing answers at {host}:{port}{reason}. Start the server, or correct the address"
    if "ServerTimeoutError" in names:
        return f"its server did not answer in time. Try again, {_ELSE}"
    return f"its server broke the connection off. Try again, {_ELSE}"
