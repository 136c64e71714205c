"""Web pages as text: fetched within limits, links of the same server followed; and a server for a folder."""

import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.client import HTTPException
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import urldefrag, urljoin, urlsplit

LOOPBACK = "127.0.0.1"
MAX_BYTES = 2_000_000
TIMEOUT_S = 15.0
SKIPPED = {"head", "script", "style", "noscript", "template", "nav", "header", "footer"}
INLINE = {"a", "abbr", "b", "code", "em", "i", "kbd", "small", "span", "strong", "sub", "sup"}


class PageError(Exception):
    """A page cannot be had; the message says why."""


class Page(NamedTuple):
    """A page as text, one line a paragraph, and where it is."""

    url: str
    text: str
    links: list[str]


def load_pages(url: str, max_pages: int) -> list[Page]:
    """A page and those of the same server that it leads to, the nearest first.

    A link that leads nowhere is left out; the first page must be there.

    Raises:
        PageError: the first page cannot be had.
    """
    pages = [fetch(url)]
    origin = _origin(pages[0].url)
    seen, waiting = {url, pages[0].url}, list(pages[0].links)
    while waiting and len(pages) < max_pages:
        link = waiting.pop(0)
        if link in seen or _origin(link) != origin:
            continue
        seen.add(link)
        try:
            page = fetch(link)
        except PageError:
            continue
        if page.url == link or (page.url not in seen and _origin(page.url) == origin):
            seen.add(page.url)
            pages.append(page)
            waiting += page.links
    return pages


def fetch(url: str, *, max_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S) -> Page:
    """One page over HTTP.

    Args:
        url: an http or https address; no other is opened, nor one that it redirects to.
        max_bytes: a longer page is refused.
        timeout_s: for all of it.

    Raises:
        PageError: it is no such address, does not answer in time, is too long, or is neither HTML nor text.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise PageError(f"{url} is not opened: only http and https addresses are")
    late_s = time.monotonic() + timeout_s
    try:
        with _opener(url).open(url, timeout=timeout_s) as response:
            kind = response.headers.get_content_type()
            if not kind.startswith("text/") and kind != "application/xhtml+xml":
                raise PageError(f"{url} is {kind}, not a page")
            body = bytearray()
            while part := response.read1(65_536):
                body += part
                if len(body) > max_bytes:
                    raise PageError(f"{url} is longer than {max_bytes} bytes")
                if time.monotonic() > late_s:
                    raise PageError(f"{url} did not come within {timeout_s:g} s")
            at, charset = response.url, response.headers.get_content_charset("utf-8")
    except (OSError, HTTPException, ValueError) as error:
        raise PageError(f"{url} cannot be read: {error}") from error
    try:
        text = body.decode(charset, "replace")
    except LookupError:  # a charset that nobody knows
        text = body.decode("utf-8", "replace")
    return page_of(text, at) if kind != "text/plain" else Page(at, text, [])


def page_of(html: str, url: str) -> Page:
    """The text and the links of an HTML page."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.text).split("\0"))
    links = dict.fromkeys(urldefrag(urljoin(url, href)).url for href in reader.links)
    return Page(url, "\n".join(line for line in lines if line), list(links))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of this machine alone for the files of a folder, while the block runs."""
    server = ThreadingHTTPServer((LOOPBACK, 0), partial(_QuietHandler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Reader(HTMLParser):
    """Collects what a reader of the page sees; a NUL ends a paragraph."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self._skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.links.append(href)
        if tag in SKIPPED:
            self._skipped.append(tag)
        self._separate(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._skipped:
            while self._skipped.pop() != tag:
                pass
        self._separate(tag)

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.text.append(data.replace("\0", ""))

    def _separate(self, tag: str) -> None:
        if tag not in INLINE:
            self.text.append("\0")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Knows http and https alone: no redirect leads to a file."""
    opener = urllib.request.OpenerDirector()
    request = urllib.request
    kinds = [request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler]
    kinds += [request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor, request.UnknownHandler]
    if urlsplit(url).hostname not in (LOOPBACK, "localhost", "::1"):
        kinds.append(request.ProxyHandler)
    for kind in kinds:
        opener.add_handler(kind())
    opener.addheaders = [("User-Agent", "millstream-example")]
    return opener


def _origin(url: str) -> tuple[str, str]:
    return urlsplit(url)[:2]
