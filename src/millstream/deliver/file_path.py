"""Whether a file can be written at a path: seen before anything is, and nothing is left there."""

import os
import tempfile
from errno import EDQUOT, EIO, ENOSPC, ETIMEDOUT
from pathlib import Path
from typing import Final

PASSES: Final = {ENOSPC: "make room on its disk", EDQUOT: "make room on its disk", EIO: "", ETIMEDOUT: ""}
"""Errors that may pass by themselves, and what helps."""
MEND: Final = "give another path, or the right to write there"


def why_not_writable(path: Path) -> str | None:
    """A sentence: why no file can be written there, and what to do; `None` where one can, or may soon.

    Of folders that are missing it is seen whether the one that they would be in takes anything.
    """
    try:
        if path.is_file():
            os.close(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC))
            return None
        if path.exists():
            return f"{path} is a folder; give a file in it" if path.is_dir() else None
        above = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}; {MEND}" if _stays(error) else None
    if not above.is_dir():
        return f"{path} cannot be made, for {above} is a file and no folder"
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        return (
            f"{path} cannot be made, for {above} takes no files: {error.strerror}; {MEND}"
            if _stays(error)
            else None
        )
    return None


def _stays(error: OSError) -> bool:
    return error.errno not in PASSES
