"""SQL over spans: DuckDB in memory, over what a journal was compacted into and what is left of it."""

import contextlib
import os
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from millstream.errors import InputError, MissingExtraError
from millstream.span import Span
from millstream.store.journal_store import JournalStore
from millstream.store.moment import held, undisturbed
from millstream.store.open import open_store

try:
    import duckdb
    import pyarrow as pa

    from millstream.store import loose
    from millstream.store.journal_table import open_journal
    from millstream.store.parquet import FIELD_NAMES
except ModuleNotFoundError as error:
    raise MissingExtraError("SQL over spans", "profiling") from error

_ROWS_AT_ONCE: Final = 50_000
_COLUMNS: Final = ", ".join(f'"{name}"' for name in [*FIELD_NAMES, "model", "time_to_first_chunk_s"])
_ALSO: Final = "(end_ns - start_ns) / 1e9 AS duration_s, make_timestamp_ns(start_ns) AS start_time"
_Setting = str | bool | int | float | list[str]
_NO_NETWORK: Final[dict[str, _Setting]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


def connect(source: str | os.PathLike[str]) -> duckdb.DuckDBPyConnection:
    """A connection with one view, `spans`: one row a span.

    Its columns are those of `spans.parquet` that tell of the span itself (ids, name, kind, times, status,
    error, tokens, `model`; `input`, `output`, `attributes`, `events` and `links` as JSON text), `duration_s`
    in seconds and `start_time` in UTC.

    Args:
        source: as `open_store` takes it. A folder is shown as it is at this moment; its files are read when a
            query needs them, also once they are removed.

    Raises:
        InputError: there are no spans.
        MissingExtraError: the extra is not installed.
    """
    store = open_store(source)
    opened = contextlib.ExitStack()
    if isinstance(store, JournalStore):
        paths, left = undisturbed(store.home, lambda: _of_journal(store.home, opened))
    else:
        paths, left = [], pa.concat_tables([loose.NO_ROWS, *_rows(store.spans())])
    connection = duckdb.connect(config=_NO_NETWORK)
    weakref.finalize(connection, opened.close)
    connection.register("left_over", left)
    parts = [f"SELECT {_COLUMNS} FROM left_over"]  # noqa: S608  # names of ours
    if paths:
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
        parts.append(f"SELECT {_COLUMNS} FROM read_parquet([{files}])")  # noqa: S608
    rows = " UNION ALL ".join(parts)
    connection.execute(f"CREATE VIEW spans AS SELECT {_COLUMNS}, {_ALSO} FROM ({rows})")  # noqa: S608
    return connection


def _of_journal(home: Path, opened: contextlib.ExitStack) -> tuple[list[Path], pa.Table]:
    """The files of a journal, held open, and the rest of it."""
    known, left, _ = open_journal(home)
    return held(known.paths, opened), left


def _rows(spans: Iterable[Span]) -> Iterator[pa.Table]:
    waiting = iter(spans)
    while some := list(islice(waiting, _ROWS_AT_ONCE)):
        yield loose.of_spans(some)


class Rows(NamedTuple):
    """What a query found."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


def rows_of(connection: duckdb.DuckDBPyConnection, sql: str) -> Rows:
    """The rows that a query gives.

    Raises:
        InputError: DuckDB does not understand it, or cannot answer it.
    """
    with ThreadPoolExecutor(1) as pool:  # DuckDB itself may not see for long that it is to stop
        answer = pool.submit(_answer, connection, sql)
        try:
            return answer.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> Rows:
    try:
        found = connection.execute(sql)
        if found is None:
            raise InputError('There is no query; try "SELECT count(*) FROM spans"')
        return Rows([column[0] for column in found.description or ()], found.fetchall())
    except duckdb.Error as error:
        raise InputError(f"The query cannot be answered: {error}") from error
