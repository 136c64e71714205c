"""HTTP to one endpoint, for sinks: answers as they are, and what goes wrong as two kinds of error.

    client = HttpClient(endpoint, name="the collector", extra="otlp", headers=headers)
    answer = client.request("POST", "/v1/traces", body, {"content-type": ...}, passed={400, 413})

`UnreachableError` is what may be well again by itself, `RefusedError` what a person has to mend.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final

import msgspec

from millstream.deliver.endpoint import NOWHERE, checked_headers, credentials, parse_endpoint, redacted
from millstream.deliver.options import collected, raise_all
from millstream.errors import MissingExtraError, RefusedError, UnreachableError

TOO_LARGE: Final = 413
NOT_FOUND: Final = 404
BAD_REQUEST: Final = 400
TOO_MANY: Final = 429
_OK: Final = range(200, 300)
_REDIRECTION: Final = range(300, 400)
_CREDENTIALS: Final = (401, 407)
_FORBIDDEN: Final = 403
_TIMEOUT: Final = 408
_SERVER_FAULT: Final = 500
_NOT_IMPLEMENTED: Final = (501, 505)
_PLAIN: Final = "text/plain"
_LONGEST_WAIT_S: Final = 3600.0
_LONGEST_REASON: Final = 200
_LONGEST_ANSWER: Final = 2000
"""Characters, or bytes, of an answer that are looked at for a reason."""


class Answer(msgspec.Struct, frozen=True):
    """What a server answered; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def retry_after_s(self) -> float | None:
        """Seconds that the server asked to wait, at most an hour."""
        return parse_retry_after(self.headers.get("retry-after"))


class HttpClient:
    """Connections to one endpoint, kept open; safe to use from several threads.

    The constructor checks its arguments and uses no network.

    Args:
        endpoint: `http://` or `https://`; may hold `user:password@` and a path, which goes before each path.
        name: what answers there, as the subject of a sentence: "the collector"; may be told better later.
        extra: the extra of this package that brings what is needed.
        api_key: what follows `ApiKey ` in the header, or `id:key`.
        bearer_token: what follows `Bearer `.
        headers: sent with each request.
        ca_certs: a file or folder of certificates (PEM) to trust instead of the system's.
        verify_certs: whether the server must prove who it is.
        ssl_assert_fingerprint: SHA-256 of the server's certificate, or of a CA that it sends along and that
            signed it; hexadecimal, with or without colons. Then nothing else is trusted.
        client_cert: a file (PEM) with a certificate to show.
        client_key: a file (PEM) with its key, where `client_cert` does not hold it.
        timeout_s: for the answer; for the connection it is 5 s at most.

    Raises:
        ConfigError: all arguments that are wrong, one a line.
        MissingExtraError: the extra is not installed.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        name: str,
        extra: str,
        username: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        bearer_token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_certs: str | None = None,
        verify_certs: bool = True,
        ssl_assert_fingerprint: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        problems: list[str] = []
        self._endpoint = NOWHERE
        with collected(problems):
            self._endpoint = parse_endpoint(endpoint)
        with collected(problems):
            if self._endpoint is NOWHERE and "@" in str(endpoint):
                username, password = None, None  # whether both are there cannot be known
            self._credentials = credentials(
                self._endpoint,
                username=username,
                password=password,
                api_key=api_key,
                bearer_token=bearer_token,
            )
        with collected(problems):
            self._headers = checked_headers(headers)
        try:
            from millstream.deliver.connections import Pool  # noqa: PLC0415  # urllib3 is optional
            from millstream.deliver.tls import Tls  # noqa: PLC0415
        except ImportError as error:
            raise_all(problems)
            raise MissingExtraError(f"Sending to {name}", extra) from error
        with collected(problems):
            tls = Tls(ca_certs, verify_certs, ssl_assert_fingerprint, client_cert, client_key)
            self._pool = Pool(self._endpoint, tls, timeout_s=timeout_s)
        raise_all(problems)
        if self._credentials.authorization is not None:
            self._headers["authorization"] = self._credentials.authorization
        key = api_key and api_key.rpartition(":")[2]
        self._secrets = (*self._headers.values(), password, self._endpoint.password, key, bearer_token)
        self.name = name

    @property
    def url(self) -> str:
        """The endpoint, for people: without credentials."""
        return self._endpoint.shown

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        passed: Collection[int] = (),
        timeout_s: float | None = None,
    ) -> Answer:
        """Ask once (again at once where a connection that had been idle proves to be closed).

        Args:
            method: `GET`, `POST`, …
            path: begins with `/`, percent-encoded; is put behind the endpoint's own.
            body: is sent as it is.
            headers: added to those of the client; names in lower case.
            passed: statuses above 299 that are answers to the caller.
            timeout_s: for this answer.

        Raises:
            UnreachableError: no answer, or 408, 429 or 5xx.
            RefusedError: TLS fails, or any other status above 299.
        """
        (answer,) = self.request_all(method, path, [body], headers, passed=passed, timeout_s=timeout_s)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def request_all(
        self,
        method: str,
        path: str,
        bodies: Sequence[bytes | None],
        headers: Mapping[str, str] | None = None,
        *,
        passed: Collection[int] = (),
        timeout_s: float | None = None,
    ) -> list[Answer | UnreachableError | RefusedError]:
        """Ask once for each body, all at the same time; see `request`, whose errors are returned."""
        told: list[Answer | UnreachableError | RefusedError] = []
        every = {**self._headers, **(headers or {})}
        for one in self._pool.exchange(method, self._endpoint.path + path, bodies, every, timeout_s):
            if isinstance(one, OSError):
                told.append(self._failure(one))
                continue
            answer = Answer(*one)
            is_answer = answer.status in _OK or answer.status in passed
            told.append(answer if is_answer else self.refusal(answer))
        return told

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _failure(self, error: OSError) -> UnreachableError | RefusedError:
        """There was no answer."""
        if isinstance(error, PermissionError):
            return RefusedError(f"{self.subject} cannot be trusted: {error}")
        return UnreachableError(f"{self.subject} does not answer: {error}")

    def refusal(self, answer: Answer) -> UnreachableError | RefusedError:
        """What an answer is that is none, which the caller had passed."""
        status, reason = answer.status, self.reason_of(answer)
        said = f": {reason}" if reason else ""
        if status in {TOO_MANY, _TIMEOUT}:
            return UnreachableError(
                f"{self.subject} is too busy now ({status}{said})", answer.retry_after_s, says_later=True
            )
        if status >= _SERVER_FAULT and status not in _NOT_IMPLEMENTED:
            return UnreachableError(
                f"{self.subject} cannot answer now ({status}{said})", answer.retry_after_s, says_later=True
            )
        if status in _CREDENTIALS:
            return RefusedError(
                f"{self.subject} does not accept {self._credentials.kind} ({status}{said}): "
                f"{self._credentials.mend}"
            )
        if status == _FORBIDDEN:
            return RefusedError(f"{self.subject} does not allow it ({status}{said})")
        if status == NOT_FOUND:
            return RefusedError(f"{self.subject} has nothing there ({status}{said}): correct `endpoint`")
        if status in _REDIRECTION:
            return RefusedError(f"{self.subject} sends elsewhere ({status}): correct `endpoint`")
        return RefusedError(f"{self.subject} refuses what is sent ({status}{said})")

    def reason_of(self, answer: Answer) -> str:
        """The server's own words, for people; nothing where it has none."""
        return shortened(self.without_secrets(reason_of(answer)))

    def without_secrets(self, said: str) -> str:
        """What a server says, without what it was told in secret."""
        return redacted(said, self._secrets)

    @property
    def subject(self) -> str:
        """What answers where, to begin a sentence with."""
        return f"{self.name} at {self.url}"


def reason_of(answer: Answer) -> str:
    """The server's own words in an answer of JSON or plain text; its beginning, to be shortened yet.

    What the server was told in secret is taken out first: half of it would not be known as such.
    """
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    text = answer.body[:_LONGEST_ANSWER].decode("utf-8", "ignore")
    try:
        told = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text if kind == _PLAIN or (not kind and not text.lstrip().startswith("<")) else ""
    for name in ("error", "message", "detail", "reason"):
        if isinstance(told, dict) and name in told:
            told = told[name]
            if isinstance(told, dict):
                told = told.get("reason", told.get("message", told.get("type")))
            break
    if isinstance(told, str):
        return told[:_LONGEST_ANSWER]
    return text if kind == _PLAIN else ""  # a number, say, is JSON as well


def shortened(text: str) -> str:
    """One printable line of at most 200 characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _LONGEST_REASON]).split())
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


def parse_retry_after(value: Any) -> float | None:
    """Seconds that `Retry-After` asks to wait, a date included; `None` where it says nothing sensible."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    if not 0 <= seconds < float("inf"):
        return None
    return min(seconds, _LONGEST_WAIT_S)
