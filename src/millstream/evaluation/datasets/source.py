"""Where a dataset file lies: on this machine, or at a URL."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from millstream.errors import InputError
from millstream.evaluation.datasets.remote import fetch, is_url, shown
from millstream.evaluation.datasets.rows import Source

_BLOCK: Final = 1 << 20


@contextmanager
def opened_source(file_path: str) -> Iterator[Source]:
    """The file at a path or a URL, open. What is no file on a disk is copied to one, without a name.

    Raises:
        InputError: it does not exist or cannot be read.
        MissingExtraError: a URL, and fsspec is not installed.
        UnreachableError: a server does not answer.
    """
    if is_url(file_path):
        with tempfile.TemporaryFile() as copy:
            fetch(file_path, copy)
            copy.flush()
            yield Source(shown(file_path), copy)
        return
    with _opened(file_path) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield Source(file_path, file)
            return
        with tempfile.TemporaryFile() as copy:  # a pipe can be read once
            shutil.copyfileobj(file, copy)
            copy.flush()
            yield Source(file_path, copy)


def sha256_of(file: BinaryIO) -> str:
    """Of its bytes, in hex."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _opened(path: str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise InputError(f"The file {path} does not exist (looked from {Path.cwd()}).") from None
    except OSError as error:
        raise InputError(f"The file {path} cannot be read: {error.strerror}.") from None
    except ValueError as error:  # a NUL in it
        raise InputError(f"The dataset {path!r} cannot be read: {error}.") from None
