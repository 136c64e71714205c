"""What was read of a journal's files, kept in SQLite so that it is read once.

The manifest is a cache: deleting it loses nothing, only readers write it, and where it cannot be read or
written they read the files anew.
"""

import contextlib
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)
Table = Literal["segments", "files"]

_VERSION: Final = 3
"""Of the tables below; those of another version are made anew."""
_TABLES: Final = tuple(
    f"{table} (name TEXT PRIMARY KEY, told BLOB NOT NULL)" for table in ("segments", "files")
)


def load(home: Path, table: Table, kind: type[T]) -> dict[str, T]:
    """What was kept of each file, by name, in order; nothing where it cannot be read."""
    path = home / "manifest.sqlite"
    if not path.is_file():
        return {}
    try:
        with closing(_connect(path)) as connection:
            rows = connection.execute(f"SELECT name, told FROM {table} ORDER BY rowid").fetchall()  # noqa: S608  # one of two
        return {name: msgspec.json.decode(told, type=kind) for name, told in rows}
    except (sqlite3.Error, OSError, msgspec.DecodeError):
        return {}


def save(home: Path, table: Table, told: Mapping[str, msgspec.Struct]) -> None:
    """Keep what is known of each file, and forget others."""
    path = home / "manifest.sqlite"
    try:
        try:
            _write(path, table, told)
        except sqlite3.OperationalError:
            return  # somebody else holds it, the disk is full, or it may not be written
        except sqlite3.DatabaseError:  # it is broken
            path.unlink()
            _write(path, table, told)
    except (sqlite3.Error, OSError):
        return


def _write(path: Path, table: Table, told: Mapping[str, msgspec.Struct]) -> None:
    path.touch(mode=0o600)
    with closing(_connect(path)) as connection, connection:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
        rows = [(name, msgspec.json.encode(one)) for name, one in told.items()]
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)  # noqa: S608


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            with connection:
                for table in _TABLES:
                    connection.execute(f"DROP TABLE IF EXISTS {table.partition(' ')[0]}")
                    connection.execute(f"CREATE TABLE {table}")
                connection.execute(f"PRAGMA user_version = {_VERSION:d}")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        raise
    return connection
