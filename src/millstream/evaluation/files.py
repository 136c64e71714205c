"""Files of an evaluation: strict JSON, written whole or not at all, and one run at a time in a folder."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from millstream.errors import StorageError


def json_bytes(value: Any, *, indent: int | None = None) -> bytes:
    """`value` as UTF-8 JSON. Half of a surrogate pair, which UTF-8 cannot hold, stays an escape."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace")


def write_file(path: Path, data: bytes) -> Path:
    """Write a file so that readers see the old content or the new, never half of it.

    Raises:
        StorageError: the disk is full or the folder read-only.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from error
    return path


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
