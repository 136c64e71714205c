"""Which keys and variables hold secrets, and how a value with one is shown."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "********"

_WORD = (
    r"(?:api_?key|access_?key|private_?key|password|passwd|passphrase|pwd|secret|token|authorization"
    r"|credentials?)"
)
_SECRET_KEY = re.compile(rf"{_WORD}$|(?:^|[_.-])auth$", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(rf"(?:^|_)(?:{_WORD}|key|auth)(?:_|$)", re.IGNORECASE)
_WITH_SECRETS = re.compile(r"headers$|cookies$", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):(?!\d+/)([^\s@]+)@")  # one of S3 may hold a slash
_URL_TOKEN = re.compile(r"(?<=https://)[^/\s:@]+(?=@)")
_URL_QUERY = re.compile(r"(?<=://)[^\s?]*\?\S+")
_SECRET_PARAMETER = re.compile(rf"((?:{_WORD}|signature|\bsig|\bkey)=)[^&#\s]+", re.IGNORECASE)


def is_secret_key(key: str) -> bool:
    """Whether a key of a workflow file holds a secret: `api_key`, `password`, … but not `max_tokens`."""
    return bool(_SECRET_KEY.search(key) or _WITH_SECRETS.search(key))


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable holds a secret, by the words of its name."""
    return bool(_SECRET_VARIABLE.search(name))


def masked(value: Any, key: str = "") -> Any:
    """`value` with the values of secret keys, and passwords and signatures in URLs, replaced by asterisks.

    A reference to an environment variable (`${NAME}`) says nothing and is kept.
    """
    if isinstance(value, Mapping):
        hide = bool(_WITH_SECRETS.search(key))
        return {name: _hidden(item) if hide else masked(item, str(name)) for name, item in value.items()}
    if is_secret_key(key):
        return _hidden(value)
    if isinstance(value, list):
        return [masked(item) for item in value]
    return _without_url_secrets(value) if isinstance(value, str) else value


def _without_url_secrets(text: str) -> str:
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _URL_TOKEN.sub(MASK, text)
    return _URL_QUERY.sub(lambda url: _SECRET_PARAMETER.sub(rf"\1{MASK}", url[0]), text)


def _hidden(value: Any) -> Any:
    if value is None or (isinstance(value, str) and re.fullmatch(r"\$\{\w+(:-)?\}", value)):
        return value
    return MASK
