"""Documents for a retriever: read from files, and cut into chunks at sentences."""

import glob
import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from millstream.errors import InputError

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\s*\n\s*")  # noqa: RUF001  # of Chinese, too
_WORD_END: Final = re.compile(r"\s+")


class Document(NamedTuple):
    """A text, where it is from, and what else its line said about it."""

    text: str
    source: str
    metadata: dict[str, Any] = {}


def matching(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, each once, in order of name.

    Args:
        patterns: paths and globs (`**` is any folders), relative to the working directory.

    Raises:
        InputError: one of them names no file.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = [Path(pattern)] if Path(pattern).is_file() else map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207  # it takes absolute patterns
        files = sorted(path for path in paths if path.is_file())
        if not files:
            raise InputError(f"{pattern!r} names no file in {Path.cwd()}")
        found |= dict.fromkeys(files)
    return list(found)


def read_documents(paths: Sequence[Path]) -> Iterator[Document]:
    """The documents of files: of a `.jsonl` one a line, of any other its text.

    A line is `{"text": …}`, with `source` where it is from and any other keys about it.

    Raises:
        InputError: a file cannot be read, is not UTF-8, or has a line that is no document.
    """
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8 text") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        if path.suffix != ".jsonl":
            yield Document(text, str(path))
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield _of_line(line, f"{path}:{number}")


def _of_line(line: str, where: str) -> Document:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InputError(f"{where}: a document is an object with a 'text'")
    source = value.get("source", where)
    more = {key: each for key, each in value.items() if key not in ("text", "source")}
    return Document(value["text"], str(source), more)


def split(text: str, size: int, overlap: int) -> list[str]:
    """Chunks of a text, as it has them, together holding all of it but white space at their edges.

    They end at sentences and lines; a sentence longer than a chunk at words, a word longer than one anywhere.

    Args:
        text: any text.
        size: characters in a chunk, at most.
        overlap: characters at most that a chunk begins with of the one before it; less than `size`.
    """
    parts = _parts(text, size)
    ends = [end for _, end in parts]
    chunks: list[str] = []
    first = 0
    while first < len(parts):
        start = parts[first][0]
        after = max(first + 1, bisect_right(ends, start + size))
        end = ends[after - 1]
        chunks.append(text[start:end])
        if after == len(parts):
            break
        again = after
        while (
            again - 1 > first
            and end - parts[again - 1][0] <= overlap
            and ends[after] - parts[again - 1][0] <= size
        ):
            again -= 1
        first = again
    return chunks


def _parts(text: str, size: int) -> list[tuple[int, int]]:
    """Where the sentences of a text begin and end; of those longer than `size`, the words."""
    parts: list[tuple[int, int]] = []
    for sentence in _between(_SENTENCE_END, text, 0, len(text)):
        if sentence[1] - sentence[0] <= size:
            parts.append(sentence)
            continue
        for start, end in _between(_WORD_END, text, *sentence):
            parts += [(at, min(at + size, end)) for at in range(start, end, size)]
    return parts


def _between(gap: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of `text[start:end]` between gaps, without white space at their edges."""
    for found in [*gap.finditer(text, start, end), None]:
        stop = end if found is None else found.start()
        part = text[start:stop]
        inner = part.strip()
        if inner:
            begin = start + len(part) - len(part.lstrip())
            yield begin, begin + len(inner)
        start = stop if found is None else found.end()
