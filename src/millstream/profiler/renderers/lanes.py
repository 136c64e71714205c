"""Lanes for viewers in which what overlaps must nest: each call under its parent, or in a lane of its own."""

from millstream.store.table import Ints, SpanTable


def lanes(table: SpanTable, rows: slice, end_ns: Ints) -> list[int]:
    """The lane of each row of a request, from 0: the first lane in which the span nests.

    Args:
        table: the spans.
        rows: the rows of the request.
        end_ns: when each row of the table ends, shape (n,); nothing nests in a span that ends at -1.
    """
    starts, ends, parents = (column[rows].tolist() for column in (table.start_ns, end_ns, table.parent))
    running: list[list[int]] = []  # of each lane the stack of its spans that still run
    return [_lane(running, place, parent - rows.start, starts, ends) for place, parent in enumerate(parents)]


def _lane(running: list[list[int]], place: int, parent: int, starts: list[int], ends: list[int]) -> int:
    start, end = starts[place], ends[place]
    free = None
    for lane, stack in enumerate(running):
        while stack and 0 <= ends[stack[-1]] <= start and stack[-1] != parent:
            stack.pop()
        if not stack:
            free = lane if free is None else free
        elif stack[-1] == parent and 0 <= end <= ends[parent]:
            stack.append(place)
            return lane
    if free is None:
        free = len(running)
        running.append([])
    running[free].append(place)
    return free
