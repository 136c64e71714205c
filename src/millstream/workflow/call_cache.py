"""Answers of models, kept by what was asked, for evaluations that are run again.

    with CallCache(path) as cache, caching(cache):      # everything below it
        with cache_scope("rep 2"):                      # one item, or one evaluator's call
            with cache_salt("vote 3"):                  # asks its own question, though the words are the same
                ...

One SQLite file, which several processes may use. Only whole answers are kept, as the server wrote them: no
error, no half of a stream. The second equal call of a scope is another call than the first.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from millstream.errors import StorageError
from millstream.workflow.secrets import masked

_LAYOUT: Final = 1
"""Of the key and the table: another number is another cache."""
_BUSY_S: Final = 30.0
_TABLE: Final = """CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, url TEXT, request TEXT, content_type TEXT, body BLOB,
    kept_at TEXT DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID"""


class Kept(msgspec.Struct, frozen=True):
    """An answer: its media type and its body, decoded."""

    content_type: str
    body: bytes


class CallCache:
    """The file.

    Args:
        path: made where it is not there, with its folder.

    Raises:
        StorageError: it cannot be used.

    Attributes:
        hits: answers that were given.
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.hits = 0
        self.path = path
        self._lock = Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(path, error) from error

    def get(self, key: str) -> Kept | None:
        """The answer to a call; `None` where none is kept.

        Raises:
            StorageError: the file cannot be read.
        """
        row = self._run("SELECT content_type, body FROM calls WHERE key = ?", (key,))
        if row is None:
            return None
        self.hits += 1
        return Kept(*row)

    def put(self, key: str, url: str, request: bytes, kept: Kept) -> None:
        """Keep an answer; the first one stays.

        Raises:
            StorageError: the file cannot be written.
        """
        row = (key, url, request.decode(errors="replace"), kept.content_type, kept.body)
        self._run(
            "INSERT OR IGNORE INTO calls (key, url, request, content_type, body) VALUES (?, ?, ?, ?, ?)", row
        )

    def _run(self, statement: str, values: tuple[Any, ...]) -> Any:
        try:
            with self._lock:
                return self._file.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise _unusable(self.path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _unusable(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"the cache of model calls {path} cannot be used ({error}); name another file with"
        " eval.general.cache.path, or remove it"
    )


class _Scope(msgspec.Struct, frozen=True):
    """What makes equal requests different calls."""

    salts: tuple[str, ...]
    seen: Counter[str]


_cache: ContextVar[CallCache | None] = ContextVar("millstream_call_cache", default=None)
_scope: ContextVar[_Scope | None] = ContextVar("millstream_cache_scope", default=None)


@contextmanager
def caching(cache: CallCache | None) -> Iterator[None]:
    """Inside the block, calls of the workflow file's models are answered from a cache, or kept in it."""
    token = _cache.set(cache)
    try:
        yield
    finally:
        _cache.reset(token)


@contextmanager
def cache_scope(salt: str) -> Iterator[None]:
    """One run of something that is run again with the same calls: an item's repetition, an evaluator's call.

    The second equal call inside is another call than the first, and the third than the second.

    Args:
        salt: what makes it another run than others with the same questions, such as `rep 2`.
    """
    token = _scope.set(_Scope((salt,), Counter()))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def cache_salt(salt: str) -> Iterator[None]:
    """Calls that are to be answered apart from equal ones, such as `vote 2` of a judge."""
    around = _scope.get() or _Scope((), Counter())
    token = _scope.set(_Scope((*around.salts, salt), around.seen))
    try:
        yield
    finally:
        _scope.reset(token)


class CachedCall:
    """One call's place in the cache.

    Args:
        cache: the cache.
        url: of the request.
        body: of the request.
    """

    def __init__(self, cache: CallCache, url: str, body: bytes) -> None:
        self._cache = cache
        self._url = url
        self._body = _canonical(body)
        scope = _scope.get() or _Scope((), Counter())
        key = hashlib.sha256(
            b"\0".join(
                [str(_LAYOUT).encode(), url.encode(), *(salt.encode() for salt in scope.salts), self._body]
            )
        ).hexdigest()
        self._key = f"{key}-{scope.seen[key]}"
        scope.seen[key] += 1

    def get(self) -> Kept | None:
        """The answer that is kept."""
        return self._cache.get(self._key)

    def put(self, content_type: str, body: bytes) -> None:
        """Keep an answer, if it is a whole one."""
        if is_whole(content_type, body):
            self._cache.put(self._key, masked(self._url), self._body, Kept(content_type, body))


def cached_call(url: str, body: Callable[[], bytes]) -> CachedCall | None:
    """The place of a call in the cache; `None` where nothing is cached."""
    cache = _cache.get()
    return None if cache is None else CachedCall(cache, url, body())


def is_whole(content_type: str, body: bytes) -> bool:
    """Whether it is the whole answer of a model: JSON, or a stream of events to its end, without an error."""
    try:
        if "event-stream" not in content_type:
            told = json.loads(body)
            return isinstance(told, dict) and not told.get("error")
        said = [line[5:].strip() for line in body.splitlines() if line.startswith(b"data:")]
        return bool(said) and said[-1] == b"[DONE]" and not any(_is_error(one) for one in said[:-1])
    except ValueError:
        return False


def _is_error(event: bytes) -> bool:
    told = json.loads(event)
    return not isinstance(told, dict) or bool(told.get("error"))


def _canonical(body: bytes) -> bytes:
    try:
        told = json.loads(body)
    except ValueError:
        return body
    return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )
