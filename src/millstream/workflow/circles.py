"""Components that need each other in a circle."""

from collections.abc import Collection, Iterator, Mapping


def circles(needs: Mapping[str, Collection[str]], first: str) -> Iterator[list[str]]:
    """The circles that are met on the way from one component, and then from every other.

    Args:
        needs: paths of components, each with those of the ones that it needs.
        first: where to begin, as a run does.
    """
    done: set[str] = set()
    for start in dict.fromkeys([first, *needs]):
        way: list[str] = []
        left = [iter([start])]
        while left:
            here = next(left[-1], None)
            if here is None:
                left.pop()
                done.update(way[-1:])
                del way[-1:]
            elif here in way:
                yield way[way.index(here) :]
            elif here not in done:
                way.append(here)
                left.append(iter(needs.get(here, ())))


def way_between(needs: Mapping[str, Collection[str]], start: str, end: str) -> list[str]:
    """The way from one component to another by what they need, or nothing."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop()
        if way[-1] == end:
            return way
        for needed in sorted(set(needs.get(way[-1], ())) - seen):
            seen.add(needed)
            ways.append([*way, needed])
    return []


def told(circle: list[str]) -> str:
    """What is wrong with components in a circle."""
    return f"components need each other in a circle: {' -> '.join([*circle, circle[0]])}"
