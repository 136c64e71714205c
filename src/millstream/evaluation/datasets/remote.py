"""Datasets at a URL: whatever fsspec has a driver for. Passwords of a URL are never shown."""

import re
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from millstream.errors import InputError, MissingExtraError, UnreachableError
from millstream.evaluation.datasets.http_errors import told_of_http
from millstream.evaluation.datasets.pump import SilentError, pumped
from millstream.workflow.secrets import MASK

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_BLOCK: Final = 1 << 20
_MAX_BYTES: Final = 2 << 30
_SILENCE_S: Final = 60.0
"""The longest wait for the first or the next bytes."""
_SHORTEST_SECRET: Final = 4


def is_url(text: str) -> bool:
    """Whether this names something elsewhere, and not a path."""
    return _URL.match(text) is not None


def shown(url: str) -> str:
    """A URL without user, password and the values of its query, which may be a signature."""
    return "::".join(_part_shown(part) for part in url.split("::"))


def fetch(url: str, into: BinaryIO) -> None:
    """Copy what is at a URL.

    Args:
        url: with a protocol that fsspec knows; several joined by `::` are fsspec's chains.
        into: a file.

    Raises:
        InputError: there is nothing, access is denied, it is too large, or the driver is not installed.
        MissingExtraError: fsspec is not installed.
        UnreachableError: the server does not answer, or stops in the middle.
    """
    try:
        import fsspec  # noqa: PLC0415  # an extra
    except ImportError:
        raise MissingExtraError(f"The dataset {shown(url)}", "datasets") from None
    what = f"The dataset {shown(url)}"
    _check_driver(fsspec, url, what)
    try:
        for block in pumped(lambda: _blocks(fsspec, url), _SILENCE_S):
            if into.write(block) and into.tell() > _MAX_BYTES:
                break
    except SilentError:
        raise UnreachableError(
            f"{what} cannot be read: nothing came for {_SILENCE_S:g} s. Try again, or copy the file to this "
            "machine."
        ) from None
    except Exception as error:  # noqa: BLE001  # drivers raise anything
        raise _told(error, url, what) from None
    if into.tell() > _MAX_BYTES:
        raise InputError(f"{what} is larger than {_MAX_BYTES >> 30} GiB; copy it to this machine first.")


def _told(error: BaseException, url: str, what: str) -> InputError | UnreachableError:
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the driver for HTTP says so of whatever went wrong
    of_http = told_of_http(error, what)
    if of_http is not None:
        return of_http
    if isinstance(error, FileNotFoundError):
        return InputError(f"{what} does not exist. Correct the address.")
    told = f"{what} cannot be read: {_reason(error, url)}."
    if isinstance(error, PermissionError):
        return InputError(f"{told} See which credentials the driver finds, and whether they may read this.")
    return UnreachableError(told) if isinstance(error, OSError) or _is_of_network(error) else InputError(told)


def _is_of_network(error: BaseException | None) -> bool:
    """Whether a connection failed below it; drivers have exceptions of their own for that."""
    while error is not None:
        if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
            return True
        error = error.__cause__ or error.__context__
    return False


def _blocks(fsspec: Any, url: str) -> Iterator[bytes]:
    with fsspec.open(url, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _check_driver(fsspec: Any, url: str, what: str) -> None:
    from fsspec.registry import known_implementations  # noqa: PLC0415

    for part in url.split("::"):
        protocol = part.partition("://")[0]
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError:
            driver = known_implementations[protocol]["class"].partition(".")[0]
            package = f"'fsspec[{protocol}]'" if driver == "fsspec" else driver
            if protocol in ("http", "https"):
                package = "aiohttp"
            raise InputError(f"{what} needs a driver that is not installed: pip install {package}") from None
        except ValueError:
            raise InputError(f"{what}: fsspec knows no protocol {protocol!r}.") from None


def _part_shown(part: str) -> str:
    protocol, mark, rest = part.partition("://")
    rest = rest.partition("#")[0]
    rest, question, _ = rest.partition("?")
    host = rest.partition("/")[0]
    port = host.rpartition(":")[2]
    if "@" in host or ("@" in rest and ":" in host and not port.isdigit()):  # a secret may hold a slash
        rest = f"{MASK}@{rest.rpartition('@')[2]}"
    return protocol + mark + rest + (f"?{MASK}" if question else "")


def _reason(error: BaseException, url: str) -> str:
    """What a driver says, without the secrets of the URL, which it may repeat."""
    text = f"{type(error).__name__}: {error}".replace(url, shown(url))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return " ".join(text.split())[:300].rstrip(".")


def _secrets(url: str) -> set[str]:
    found: set[str] = set()
    for part in url.split("::"):
        parts = urlsplit(part)
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        found |= {user, password, unquote(user), unquote(password), parts.query}
        found |= {value for _, value in parse_qsl(parts.query)}
        found |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}
