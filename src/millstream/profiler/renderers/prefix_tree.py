"""The shared starts of a model's prompts as a tree: each under the longest other one that it begins with."""

import msgspec

from millstream.profiler.prefixes import ModelPrefixes, PrefixInfo

MAX_STARTS = 60
MAX_TEXT = 3000
LEAST_TEXT = 16
"""Characters that a start has to add to the one above it; those below it are then below that one."""


class Start(msgspec.Struct, frozen=True):
    """One shared start.

    Attributes:
        info: its figures; of the calls that it counts, those of the starts below it are a part.
        adds: what it adds to the start above it, at most `MAX_TEXT` characters.
        cut: characters left out of that.
        below: longer starts, the most common first.
    """

    info: PrefixInfo
    adds: str
    cut: int
    below: list["Start"]


def prefix_tree(found: ModelPrefixes) -> list[Start]:
    """The `MAX_STARTS` most common starts; those that begin with no other are at the top."""
    top: list[Start] = []
    above: list[Start] = []
    for info in sorted(found.prefix_info[:MAX_STARTS], key=lambda one: one.prefix):
        while above and not info.prefix.startswith(above[-1].info.prefix):
            above.pop()
        adds = info.prefix[above[-1].info.prefix_length :] if above else info.prefix
        if len(adds) < LEAST_TEXT and above:
            continue
        start = Start(info, adds[:MAX_TEXT], max(len(adds) - MAX_TEXT, 0), [])
        (above[-1].below if above else top).append(start)
        above.append(start)
    return _most_common_first(top)


def _most_common_first(starts: list[Start]) -> list[Start]:
    waiting = [starts]
    while waiting:
        siblings = waiting.pop()
        siblings.sort(key=lambda start: -start.info.calls_count)
        waiting.extend(start.below for start in siblings)
    return starts
