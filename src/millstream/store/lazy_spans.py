"""Spans that are made of columns when they are looked at, with those around them; the last ones are kept."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, overload

import pyarrow as pa

from millstream.span import Span
from millstream.store.arrays import Ints

_ROWS: Final = 256
"""Made at once: whoever looks at one often looks at the next."""
_KEPT: Final = 100
"""So many times as many: what writes the files of a profile looks at each span a dozen times."""


class LazySpans(Sequence[Span], ABC):
    """Spans by row.

    Args:
        count: how many they are.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._made: OrderedDict[int, list[Span]] = OrderedDict()

    @abstractmethod
    def between(self, start: int, stop: int) -> list[Span]:
        """Make the spans of rows that follow each other."""

    @abstractmethod
    def stored(self, rows: Ints, names: list[str]) -> pa.Table:
        """Rows as they are stored.

        Args:
            rows: those wanted, in ascending order.
            names: of the columns wanted, some of `parquet.STORED`.
        """

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> list[Span]: ...
    def __getitem__(self, at: int | slice) -> Span | list[Span]:
        if isinstance(at, slice):
            start, stop, step = at.indices(self._count)
            return (
                self._several(start, stop) if step == 1 else [self[row] for row in range(start, stop, step)]
            )
        row = at + self._count if at < 0 else at
        if not 0 <= row < self._count:
            raise IndexError(f"there is no row {at}")
        return self._block(row // _ROWS)[row % _ROWS]

    def __iter__(self) -> Iterator[Span]:
        for start in range(0, self._count, _ROWS):
            yield from self._block(start // _ROWS)

    def _several(self, start: int, stop: int) -> list[Span]:
        found: list[Span] = []
        while start < stop:
            block, first = divmod(start, _ROWS)
            found += self._block(block)[first : first + stop - start]
            start = (block + 1) * _ROWS
        return found

    def _block(self, block: int) -> list[Span]:
        made = self._made.get(block)
        if made is None:
            made = self.between(block * _ROWS, min((block + 1) * _ROWS, self._count))
            self._made[block] = made
            if len(self._made) > _KEPT:
                self._made.popitem(last=False)
        else:
            self._made.move_to_end(block)
        return made
