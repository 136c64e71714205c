"""The nearest of many texts: one matrix of vectors, every one compared, so that the answer is exact.

A folder holds `vectors-NAME.npy`, `chunks-NAME.jsonl` and `index.json`, which names them and says their
sizes. It is written last and at once: a build that is cut off leaves the old index as it was.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from millstream.errors import InputError, MissingExtraError, StorageError

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as missing:
    raise MissingExtraError("a vector index", "retrieval") from missing

_HEAD: Final = "index.json"
_AT_A_TIME: Final = 16_384
"""Vectors compared in one go, which bounds the memory of a question."""


class Found(NamedTuple):
    """A chunk that was asked for, and its cosine with the question: 1 is the same direction."""

    chunk: dict[str, Any]
    score: float


class VectorIndex:
    """Vectors of length 1 (or 0) and the JSON line of each.

    Args:
        vectors: one row a chunk, single precision, of length 1.
        lines: the chunks as JSON, one a line.
        fingerprint: says what it was made of.
    """

    def __init__(self, vectors: NDArray[np.float32], lines: NDArray[np.uint8], fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._vectors = vectors
        self._lines = lines
        self._ends = np.flatnonzero(lines == ord("\n"))

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return int(self._vectors.shape[1])

    @classmethod
    def of(
        cls,
        chunks: Iterable[dict[str, Any]],
        batches: Iterable[Sequence[Sequence[float]]],
        fingerprint: str = "",
    ) -> Self:
        """An index in memory.

        Args:
            chunks: what is found, with a JSON form.
            batches: the vectors of all chunks, in their order.
            fingerprint: says what it is made of.

        Raises:
            InputError: vectors differ in length, hold what is no number, or are not as many as chunks.
        """
        rows = [np.asarray(batch, dtype=np.float32) for batch in batches if len(batch)]
        if len({row.shape[1:] for row in rows}) > 1 or any(row.ndim != 2 for row in rows):  # noqa: PLR2004  # a matrix
            raise InputError("the vectors of the index differ in length; was another embedder mixed in?")
        vectors = np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
        if not np.isfinite(vectors).all():
            raise InputError("a vector of the index holds what is no number; see what the embedder gives")
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        np.divide(vectors, lengths, out=vectors, where=lengths > 0)
        text = "".join(json.dumps(chunk, ensure_ascii=True) + "\n" for chunk in chunks)
        made = cls(vectors, np.frombuffer(text.encode(), np.uint8), fingerprint)
        if len(made._ends) != len(vectors):
            raise InputError(f"the index has {len(made._ends)} chunks and {len(vectors)} vectors")
        return made

    def search(self, query: Sequence[float], top_k: int) -> list[Found]:
        """The chunks nearest to a vector, the nearest first; of equal ones the earlier first.

        Raises:
            InputError: the vector is not as long as those of the index.
        """
        if not len(self):
            return []
        asked = np.asarray(query, dtype=np.float32)
        if asked.shape != (self.dimensions,):
            raise InputError(
                f"the question's vector has {asked.size} numbers and those of the index {self.dimensions};"
                " build the index again with this embedder"
            )
        length = float(np.linalg.norm(asked))
        if length:
            asked = asked / length
        scores = np.concatenate(
            [self._vectors[at : at + _AT_A_TIME] @ asked for at in range(0, len(self), _AT_A_TIME)]
        )
        least = np.partition(scores, -top_k)[-top_k] if top_k < len(self) else scores.min()
        near = np.flatnonzero(scores >= least)
        near = near[np.argsort(-scores[near], kind="stable")][:top_k]
        return [Found(self._chunk(int(at)), float(scores[at])) for at in near]

    def _chunk(self, at: int) -> dict[str, Any]:
        start = int(self._ends[at - 1]) + 1 if at else 0
        chunk: dict[str, Any] = json.loads(self._lines[start : int(self._ends[at])].tobytes())
        return chunk

    def save(self, folder: Path) -> None:
        """Write it to a folder, in place of the index that is there.

        Raises:
            StorageError: the disk is full, or the folder cannot be written.
        """
        name = self.fingerprint[:16] or "only"
        files: dict[str, NDArray[Any]] = {
            f"vectors-{name}.npy": self._vectors,
            f"chunks-{name}.jsonl": self._lines,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = {file: _put(folder / file, array) for file, array in files.items()}
            head = {"fingerprint": self.fingerprint, "files": sizes}
            _replace(folder / _HEAD, json.dumps(head, indent=2).encode() + b"\n")
            for old in [*folder.glob("vectors-*.npy"), *folder.glob("chunks-*.jsonl")]:
                if old.name not in files:
                    with contextlib.suppress(OSError):
                        old.unlink()
        except OSError as error:
            raise StorageError(
                f"the index in {folder} cannot be written: {error.strerror or error}; make room, or choose"
                " another index_dir"
            ) from error

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the index of a folder; its vectors and chunks are read as they are needed.

        Raises:
            InputError: there is none, or a file of it is torn; says which.
        """
        try:
            head = json.loads((folder / _HEAD).read_bytes())
            sizes = {str(name): int(size) for name, size in head["files"].items()}
            (vectors_name, chunks_name), fingerprint = sorted(sizes, reverse=True), str(head["fingerprint"])
        except FileNotFoundError:
            raise InputError(f"there is no index in {folder}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _torn(folder / _HEAD, f"cannot be read ({type(error).__name__})") from None
        for name, size in sizes.items():
            path = folder / Path(name).name
            there = path.stat().st_size if path.is_file() else None
            if there != size:
                raise _torn(
                    path, f"should have {size} bytes and {'is gone' if there is None else f'has {there}'}"
                )
        try:
            vectors = np.load(folder / vectors_name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise _torn(folder / vectors_name, f"cannot be read: {error}") from None
        lines = (
            np.memmap(folder / chunks_name, np.uint8, "r") if sizes[chunks_name] else np.zeros(0, np.uint8)
        )
        if vectors.dtype != np.float32 or vectors.ndim != 2:  # noqa: PLR2004  # a matrix
            raise _torn(folder / vectors_name, "holds no matrix of single precision numbers")
        made = cls(vectors, lines, fingerprint)
        if len(made._ends) != len(vectors):
            raise _torn(folder / chunks_name, f"has {len(made._ends)} lines for {len(vectors)} vectors")
        return made


def _torn(path: Path, what: str) -> InputError:
    return InputError(f"the index is damaged: {path} {what}; remove the folder to have it built again")


def _put(path: Path, array: NDArray[Any]) -> int:
    """Write an array, `.npy` or its plain bytes; gives the size of the file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, array, allow_pickle=False)
            else:
                file.write(array.data)
            file.flush()
            os.fsync(file.fileno())
        size = part.stat().st_size
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return size


def _replace(path: Path, data: bytes) -> None:
    _put(path, np.frombuffer(data, np.uint8))
