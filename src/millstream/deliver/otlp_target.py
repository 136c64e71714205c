"""Where OTLP is sent to, and how: checked without the network."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.deliver.endpoint import (
    Endpoint,
    checked_headers,
    credentials,
    parse_endpoint,
    redacted,
    without_slash,
)
from millstream.deliver.http import shortened
from millstream.deliver.options import collected, raise_all, sentences
from millstream.errors import ConfigError, nearest

HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"
TRACES_PATH: Final = "/v1/traces"
_EXAMPLES: Final = {HTTP: "http://localhost:4318", GRPC: "http://localhost:4317"}
"""A right endpoint of each protocol."""
_COMPRESSIONS: Final = ("gzip", "none")
_HEADERS: Final = "`headers`"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PORT: Final = re.compile(r":\d+$")
_LOOPBACK: Final = re.compile(r"localhost|127\.\d+\.\d+\.\d+|::1")


class Tls(msgspec.Struct, frozen=True):
    """The options under `tls`.

    Attributes:
        ca_file: a file (PEM) of certificates to trust instead of the system's.
        cert_file: a file (PEM) with a certificate to show.
        key_file: a file (PEM) with its key.
        insecure: with `https://`, take any certificate; with gRPC's `host:port`, do without TLS.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    insecure: bool = False


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver.

    Attributes:
        name: what receives, as the subject of a sentence.
        who: the options that say who asks, for people.
        endpoint: without `/v1/traces`.
        url: the same as a URL, with its password, if it has one.
        secure: whether TLS is spoken.
        headers: sent with each request, names in lower case.
        protocol: `http/protobuf` or `grpc`.
        gzip: whether requests are compressed.
        timeout_s: for one answer.
    """

    name: str
    who: str
    endpoint: Endpoint
    url: str
    secure: bool
    headers: Mapping[str, str]
    tls: Tls
    protocol: str
    gzip: bool
    timeout_s: float

    @property
    def subject(self) -> str:
        """The receiver, for people, without secrets."""
        return f"{self.name} at {self.endpoint.shown}"

    def not_accepted(self, said: str) -> str:
        """A sentence: what to do when it does not accept who asks."""
        if "authorization" in self.headers or self.endpoint.username is not None or self.who != _HEADERS:
            return f"{self.subject} does not accept the credentials ({said}): correct {self.who}"
        return f"{self.subject} asks for credentials ({said}): give them in {self.who}"

    def words(self, said: str) -> str:
        """What the receiver says, on one line, without what it was told in secret: some repeat that."""
        who = credentials(self.endpoint, username=None, password=None, api_key=None, bearer_token=None)
        secrets = (*self.headers.values(), self.endpoint.password, who.authorization)
        return shortened(redacted(said, secrets))


def target(
    endpoint: str,
    *,
    protocol: str,
    headers: Mapping[str, str] | None,
    compression: str,
    timeout_s: float,
    tls: Mapping[str, Any] | None,
    name: str,
    who: str,
    example: str = "",
) -> Target:
    """Where to send, of the options of a sink; `example` is a right endpoint, for messages.

    Raises:
        ConfigError: all options that are wrong, and files they name that cannot be used, one problem a line.
    """
    problems: list[str] = []
    if protocol not in _EXAMPLES:
        problems.append(f"protocol: {protocol!r} is not known{nearest(str(protocol), _EXAMPLES)}")
    if compression not in _COMPRESSIONS:
        problems.append(
            f"compression: {compression!r} is not known{nearest(str(compression), _COMPRESSIONS)}"
        )
    if timeout_s <= 0:
        problems.append(f"timeout: {timeout_s:g} is no time to wait; give seconds above 0")
    told_tls = None if tls is None else Tls()
    with collected(problems):
        told_tls = None if tls is None else _tls(tls)
    with collected(problems):
        sent = checked_headers(headers)
    with collected(problems):
        example = example or _EXAMPLES.get(protocol, _EXAMPLES[HTTP])
        url, parsed, secure = _address(endpoint, example, told_tls, is_grpc=protocol == GRPC)
    raise_all(problems)
    return Target(
        name=name,
        who=who,
        endpoint=parsed,
        url=url,
        secure=secure,
        headers=sent,
        tls=told_tls or Tls(),
        protocol=protocol,
        gzip=compression == "gzip",
        timeout_s=timeout_s,
    )


def _address(endpoint: str, example: str, tls: Tls | None, *, is_grpc: bool) -> tuple[str, Endpoint, bool]:
    """The URL with its password, its parts, and whether TLS is spoken there."""
    bare = isinstance(endpoint, str) and is_grpc and not _SCHEME.match(endpoint)
    if bare and not _PORT.search(endpoint.strip()):
        raise ConfigError(f"`endpoint` {endpoint!r} has no port: write host:port, as in localhost:4317")
    url = f"http://{endpoint.strip()}" if bare else endpoint
    url = without_slash(url).removesuffix(TRACES_PATH) if isinstance(url, str) else url
    parsed = parse_endpoint(url, example)
    credentials(parsed, username=None, password=None, api_key=None, bearer_token=None)
    secure = parsed.scheme == "https"
    options = tls or Tls()
    if bare:
        secure = not (options.insecure or (tls is None and _LOOPBACK.fullmatch(parsed.host)))
        parsed = msgspec.structs.replace(parsed, shown=parsed.shown.removeprefix("http://"))
    if is_grpc and parsed.path:
        raise ConfigError(f"`endpoint` {parsed.shown!r}: gRPC takes no path; leave out {parsed.path!r}")
    if is_grpc and secure and options.insecure:
        raise ConfigError("tls.insecure: gRPC always checks certificates; name its CA in tls.ca_file")
    if not secure and (options.ca_file or options.cert_file):
        raise ConfigError(f"tls: {parsed.shown} is without TLS; write https://, or leave out the files")
    return url, parsed, secure


def _tls(options: Mapping[str, Any]) -> Tls:
    known = Tls.__struct_fields__
    problems = [f"tls.{key}: unknown key{nearest(str(key), known)}" for key in options if key not in known]
    given: dict[str, Any] = {}
    for key in known:
        if key in options:
            try:
                given[key] = getattr(msgspec.convert({key: options[key]}, Tls, strict=False), key)
            except msgspec.ValidationError as error:
                problems += sentences(error, options[key], Any, "tls")
    tls = Tls(**given)
    if tls.key_file and not tls.cert_file:
        problems.append("tls.key_file is given without tls.cert_file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file:
        path = tls.ca_file
        with collected(problems):
            _checked("tls.ca_file", path, lambda: context.load_verify_locations(cafile=path))
    if tls.cert_file:
        certificate = tls.cert_file
        with collected(problems):
            _checked("tls.cert_file", certificate, lambda: context.load_cert_chain(certificate, tls.key_file))
    raise_all(problems)
    return tls


def _checked(option: str, path: str, load: Any) -> None:
    try:
        Path(path).read_bytes()
        load()
    except ssl.SSLError as error:
        raise ConfigError(f"{option}: {path} holds no usable certificate or key (PEM)") from error
    except OSError as error:
        raise ConfigError(f"{option}: {error.filename or path} cannot be read: {error.strerror}") from error
