"""Lanes for viewers in which what overlaps must nest: each call under its parent, or in a lane of its own."""

from heapq import heappop, heappush

from millstream.store.table import Ints, SpanTable


def lanes(table: SpanTable, rows: slice, end_ns: Ints) -> list[int]:
    """The lane of each row of a request, from 0: its parent's if it nests there, else the first that is free.

    Args:
        table: the spans.
        rows: the rows of the request.
        end_ns: when each row of the table ends, shape (n,); what ends at -1 is never over, and nothing nests
            in it.
    """
    starts, ends, parents = (column[rows].tolist() for column in (table.start_ns, end_ns, table.parent))
    chosen: list[int] = []
    running: list[list[int]] = []  # of each lane the stack of its spans that may still run
    busy: list[tuple[int, int]] = []  # when the lowest span of a lane ends, and the lane
    free: list[int] = []
    for place, (start, end, row) in enumerate(zip(starts, ends, parents, strict=True)):
        parent = row - rows.start
        while busy and busy[0][0] <= start:
            heappush(free, heappop(busy)[1])
        if 0 <= parent < place and 0 <= end <= ends[parent]:
            stack = running[chosen[parent]]
            while stack and stack[-1] != parent and 0 <= ends[stack[-1]] <= start:
                stack.pop()
            if stack and stack[-1] == parent:
                stack.append(place)
                chosen.append(chosen[parent])
                continue
        if not free:
            heappush(free, len(running))
            running.append([])
        lane = heappop(free)
        running[lane] = [place]
        chosen.append(lane)
        if end >= 0:
            heappush(busy, (end, lane))
    return chosen
