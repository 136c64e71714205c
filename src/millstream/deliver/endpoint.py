"""Where a sink sends to, and as whom: checked without the network, shown without secrets."""

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from millstream.deliver.options import collected, raise_all
from millstream.errors import ConfigError

_SCHEMES: Final = {"http": 80, "https": 443}
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._~:-]+")
_SECRET: Final = 4
"""Characters of a text that can be a secret."""
_SLASHES: Final = re.compile(r"(?<![:/])/+\Z")
_UNFIT: Final = re.compile(r"[\x00-\x20\x7f]")


class Endpoint(msgspec.Struct, frozen=True):
    """A server's address.

    Attributes:
        scheme: `http` or `https`.
        path: what stands before every path, without a slash at its end; mostly empty.
        shown: the address without credentials, for people.
        username: as given in the address.
        password: as given in the address.
    """

    scheme: str
    host: str
    port: int
    path: str
    shown: str
    username: str | None = None
    password: str | None = None


NOWHERE: Final = Endpoint("https", "", 0, "", "")
"""Stands for one that is malformed, to see what else is wrong."""


def parse_endpoint(endpoint: str, example: str = "http://localhost:9200") -> Endpoint:
    """The parts of an `endpoint`.

    Args:
        endpoint: as it was given.
        example: of a right one, for messages.

    Raises:
        ConfigError: it is no http or https URL; the message shows no password.
    """
    if not isinstance(endpoint, str) or not endpoint.strip():
        raise ConfigError(f"`endpoint` is empty: give the server's URL, as in {example}")
    endpoint = endpoint.strip()
    try:
        parts = urlsplit(endpoint)
        port = parts.port
    except ValueError:
        raise ConfigError(f"`endpoint` {_shown(endpoint)!r} is no URL: its host or port is wrong") from None
    if parts.scheme in _SCHEMES and "://" in endpoint and not parts.hostname:
        raise ConfigError(f"`endpoint` {_shown(endpoint)!r} names no server: write its host, as in {example}")
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise ConfigError(
            f"`endpoint` {_shown(endpoint)!r} is no URL: it begins with http:// or https://, as in {example}"
        )
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or port == 0 or _UNFIT.search(parts.path):
        raise ConfigError(f"`endpoint` {_shown(endpoint)!r} is no URL: its host, port or path is wrong")
    if parts.query or parts.fragment:
        raise ConfigError(f"`endpoint` {_shown(endpoint)!r} has a query or a fragment; leave out ? and #")
    return _endpoint(parts, host, port)


def without_slash(url: str) -> str:
    """A URL without slashes at its end; those of `http://` stay."""
    return _SLASHES.sub("", url.strip())


def _endpoint(parts: SplitResult, host: str, port: int | None) -> Endpoint:
    path = parts.path.rstrip("/")
    bracketed = f"[{host}]" if ":" in host else host
    return Endpoint(
        scheme=parts.scheme,
        host=host,
        port=_SCHEMES[parts.scheme] if port is None else port,
        path=path,
        shown=f"{parts.scheme}://{bracketed}{'' if port is None else f':{port}'}{path}",
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _shown(endpoint: str) -> str:
    """As much of a faulty address as can hold no password or token."""
    address = re.split(r"[?#]", endpoint, maxsplit=1)[0]
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def redacted(said: str, secrets: Iterable[str | None]) -> str:
    """What a server says, without what it was told in secret: some repeat that."""
    known = {secret for value in secrets if value for secret in (value, value.rpartition(" ")[2])}
    for secret in sorted(known, key=len, reverse=True):  # one may be a part of another
        if len(secret) >= _SECRET:
            said = said.replace(secret, "[redacted]")
    return said


class Credentials(msgspec.Struct, frozen=True):
    """Who asks.

    Attributes:
        kind: for people: what the server did not accept.
        mend: for people: what to correct.
    """

    authorization: str | None
    kind: str
    mend: str


def credentials(
    endpoint: Endpoint,
    *,
    username: str | None,
    password: str | None,
    api_key: str | None,
    bearer_token: str | None,
) -> Credentials:
    """What goes into the header `Authorization`.

    Raises:
        ConfigError: half of a pair is missing, or more than one kind is given.
    """
    if endpoint.username is not None and username is not None:
        raise ConfigError("`endpoint` and `username` both name a user: leave one out")
    user = endpoint.username if username is None else username
    secret = endpoint.password if password is None else password
    given = [
        name
        for name, value in (("username", user), ("api_key", api_key), ("bearer_token", bearer_token))
        if value
    ]
    if len(given) > 1:
        raise ConfigError(f"`{given[0]}` and `{given[1]}` are two ways to say who asks: leave one out")
    if secret and not user:
        raise ConfigError("`password` is given without `username`")
    if user:
        if not secret:
            raise ConfigError("`username` is given without `password` (is its environment variable empty?)")
        if ":" in user:
            raise ConfigError("`username` must not contain a colon")
        pair = f"{user}:{secret}".encode()
        return Credentials(
            f"Basic {base64.b64encode(pair).decode()}",
            f"the password of user {user!r}",
            "correct `username` and `password`",
        )
    if api_key:
        if ":" in api_key:  # id and key, as they are shown apart
            api_key = base64.b64encode(api_key.encode()).decode()
        header = _header("api_key", f"ApiKey {api_key}")
        return Credentials(header, "the API key", "correct `api_key`")
    if bearer_token:
        header = _header("bearer_token", f"Bearer {bearer_token}")
        return Credentials(header, "the token", "correct the token")
    return Credentials(None, "requests without credentials", "give `username` and `password`, or `api_key`")


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Headers of the user, names in lower case.

    Raises:
        ConfigError: some cannot be sent, one a line; the message shows no value.
    """
    checked: dict[str, str] = {}
    problems: list[str] = []
    for name, value in (headers or {}).items():
        with collected(problems):
            if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
                raise ConfigError(f"`headers`: {name!r} is no name of a header")
            checked[name.lower()] = _header(f"headers: {name}", value)
    raise_all(problems)
    return checked


def _header(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"`{name}` must be text, not {type(value).__name__}")
    if not value.isascii() or not value.isprintable():
        raise ConfigError(f"`{name}` holds characters that cannot stand in a header")
    return value.strip()
