"""Files of an evaluation: strict JSON, written whole or not at all, and one run at a time in a folder."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from millstream.errors import MillstreamError, StorageError


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """`value` as UTF-8 JSON. Half of a surrogate pair, which UTF-8 cannot hold, stays an escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
        return text.encode("utf-8", "backslashreplace")
    return data if indent is None else msgspec.json.format(data, indent=indent)  # json indents in Python


def write_file(path: Path, data: bytes) -> Path:
    """Write a file so that readers see the old content or the new, never half of it.

    Raises:
        StorageError: the disk is full or the folder read-only.
    """
    with _replacing(path) as file:
        file.write(data)
    return path


def write_list(
    path: Path, values: Iterable[Any], head: Mapping[str, Any] | None = None, key: str = ""
) -> None:
    """Write a list as indented JSON, one value after the other, as `write_file` writes.

    Args:
        path: the file.
        values: asked for one by one.
        head: with it the file is an object that has these keys first, and the list under `key`.
        key: see `head`.

    Raises:
        StorageError: as `write_file`.
    """
    before = b"" if head is None else json_bytes({**head, key: []}, indent=2).removesuffix(b"[]\n}")
    indent = b"\n  " if head is None else b"\n    "
    with _replacing(path) as file:
        file.write(before + b"[")
        separator = b""
        for value in values:
            file.write(separator + indent + json_bytes(value, indent=2).replace(b"\n", indent))
            separator = b","
        file.write((indent[:-2] if separator else b"") + b"]" + (b"" if head is None else b"\n}"))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and not isinstance(error, MillstreamError):
            raise cannot_write(path, error) from error
        raise


def cannot_write(path: Path, error: OSError) -> StorageError:
    """The error for a file that cannot be written."""
    return StorageError(
        f"{path} cannot be written: {error.strerror or error}. Make room or choose another "
        "eval.general.output_dir"
    )


@contextmanager
def locked_folder(folder: Path) -> Iterator[Path]:
    """Make a folder and hold it for this process, to the end of the block or of the process.

    Raises:
        StorageError: it cannot be made, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"the folder {folder} cannot be used: {_why(folder, error)}; choose another "
            "eval.general.output_dir"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StorageError(
                f"another run is writing to {folder}; wait for it or choose another eval.general.output_dir"
            ) from None
        yield folder
    finally:
        os.close(descriptor)


def _why(folder: Path, error: OSError) -> str:
    """What is in the way of a folder; of a file the system only says that it exists."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                return f"{place} is a file, not a folder"
    return error.strerror or str(error)


def check_recordable(home: Path) -> None:
    """See that spans can be recorded, before anything is asked that would go unrecorded.

    Raises:
        StorageError: the folder of recordings cannot be made or written.
    """
    journal = home / "journal"
    try:
        journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(journal, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StorageError(
            f"{journal} cannot be written: {error.strerror}; set MILLSTREAM_HOME to another folder"
        ) from error
