"""Closed frequent subsequences, the most frequent first, within a stated amount of work.

Prefix projection (Pei et al., PrefixSpan, 2001): a pattern is known by the places at which its first
occurrence ends in each sequence, and grows by one item at a time. Two patterns that end at the same places
grow alike, so each set of places is searched once, with the longest patterns that lead to it (the idea of
CloSpan, Yan et al., 2003). 24 equal calls are then 24 steps, and not 2^24.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millstream.store.table import Ints

Hashes = NDArray[np.uint64]
Items = tuple[int, ...]

BUDGET: Final = 60_000_000
"""Places looked at, where each step of the search counts for at least `STEP`: some seconds on one core."""
STEP: Final = 10_000
MAX_BRANCHES: Final = 4_096
"""Of the items that a pattern can grow by, those in the most requests."""
MAX_ENDS: Final = 300_000
"""Sets of places that are known and not searched yet."""
MAX_ALIKE: Final = 16
"""Patterns, none part of another, that end at the same places."""
LOOK_UP: Final = 5
"""What finding a place by bisection counts for."""
COMPARISON: Final = 200
"""What comparing two patterns counts for."""
_NOWHERE: Final = np.iinfo(np.int64).max


class Pattern(NamedTuple):
    """A closed pattern and the number of requests that contain it."""

    items: Items
    frequency: int


class Mined(NamedTuple):
    """Closed patterns, in no order. Those in more than `complete_above` requests are all there."""

    patterns: list[Pattern]
    complete_above: int


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The distinct sequences of frequent items, one after the other.

    Attributes:
        item: one element a place, shape (places,).
        first: first place of each sequence and, last, the number of places, shape (sequences + 1,).
        before: the place before of the same item in the same sequence, -1 without one, shape (places,).
        weight: requests that have the sequence, shape (sequences,).
        request: requests by sequence, shape (requests with frequent items,).
        request_first: where each sequence's requests start in `request`, shape (sequences + 1,).
        call: the calls of those requests that have a frequent item, positions in what was given.
        call_first: where each request's calls start in `call`, shape (requests with frequent items,).
        places: of each item, ascending, and a last one that is after all others.
    """

    item: Ints
    first: Ints
    before: Ints
    weight: Ints
    request: Ints
    request_first: Ints
    call: Ints
    call_first: Ints
    places: dict[int, Ints]

    @classmethod
    def of(cls, item: Ints, request: Ints, support: int) -> "Sequences":
        """Build them.

        Args:
            item: one element a call, 0 and up.
            request: of each call, ascending.
            support: items in fewer requests are left out.
        """
        places = np.flatnonzero(_in_requests(item, request)[item] >= support) if len(item) else item
        of, start = np.unique(request[places], return_index=True)
        alike: dict[bytes, list[tuple[int, Ints]]] = {}
        for number, calls in zip(of.tolist(), _cut(places, start), strict=True):
            alike.setdefault(item[calls].tobytes(), []).append((number, calls))
        groups = list(alike.values())
        members = [member for group in groups for member in group]
        joined = _joined([item[group[0][1]] for group in groups])
        first = _starts([len(group[0][1]) for group in groups])
        return cls(
            item=joined,
            first=first,
            before=_before(joined, first),
            weight=np.array([len(group) for group in groups], np.int64),
            request=np.array([number for number, _ in members], np.int64),
            request_first=_starts([len(group) for group in groups]),
            call=_joined([calls for _, calls in members]),
            call_first=_starts([len(calls) for _, calls in members])[:-1],
            places=_places(joined),
        )

    def __len__(self) -> int:
        return len(self.weight)

    def occurrences(self, items: Items) -> tuple[Ints, Ints]:
        """Calls of a pattern's first occurrence in each request, shape (requests, items); the requests."""
        sequence = np.arange(len(self))
        end = self.first[:-1] - 1
        found: list[Ints] = []
        for item in items:
            sequence, end, inside = self.grown(sequence, end, self.places[item])
            found = [*(column[inside] for column in found), end]
        local = np.column_stack(found) - self.first[sequence][:, None]
        member, of = ranges(self.request_first[sequence], self.weight[sequence])
        order = np.argsort(self.request[member], kind="stable")
        member, of = member[order], of[order]
        return self.call[self.call_first[member][:, None] + local[of]], self.request[member]

    def grown(self, sequence: Ints, end: Ints, places: Ints) -> tuple[Ints, Ints, NDArray[np.bool_]]:
        """The sequences in which one of the places comes after `end`, the first such place, and which."""
        at = np.searchsorted(places, end, side="right")
        following = places[at]
        inside = following < self.first[sequence + 1]
        return sequence[inside], following[inside], inside


def ranges(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """The whole numbers of several ranges one after the other, and the range that each is of."""
    of = np.repeat(np.arange(len(start)), length)
    skipped = np.cumsum(length) - length
    return np.arange(len(of)) + (start - skipped)[of], of


def _in_requests(item: Ints, request: Ints) -> Ints:
    """In how many requests each item is."""
    requests = int(request.max()) + 1
    pair = np.sort(item * requests + request)
    is_new = np.append(True, pair[1:] != pair[:-1])
    return np.bincount(pair[is_new] // requests)


def _joined(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _starts(lengths: Sequence[int]) -> Ints:
    return np.concatenate(([0], np.cumsum(np.array(lengths, np.int64))))


def _places(item: Ints) -> dict[int, Ints]:
    order = np.argsort(item, kind="stable")
    distinct, first = np.unique(item[order], return_index=True)
    ended = np.insert(order, np.append(first[1:], len(order)), _NOWHERE) if len(order) else order
    return dict(zip(distinct.tolist(), _cut(ended, first + np.arange(len(first))), strict=True))


def _cut(array: Ints, first: Ints) -> list[Ints]:
    """The parts of an array that start at these places."""
    ends = [*first[1:].tolist(), len(array)]
    return [array[start:end] for start, end in zip(first.tolist(), ends, strict=False)]


def _before(item: Ints, first: Ints) -> Ints:
    sequence = np.repeat(np.arange(len(first) - 1), np.diff(first))
    order = np.lexsort((sequence, item))
    same = (np.diff(item[order]) == 0) & (np.diff(sequence[order]) == 0)
    before = np.full(len(item), -1, np.int64)
    before[order[1:][same]] = order[:-1][same]
    return before


@dataclass(slots=True, eq=False)
class _Ends:
    """Patterns that end at the same places of the same sequences."""

    frequency: int
    sequences_key: int
    item: int
    grown_from: "_Ends | None"
    alike: list[Items] = field(default_factory=list)
    sequence: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    end: Ints = field(default_factory=lambda: np.zeros(0, np.int64))


class _Branches(NamedTuple):
    """What a pattern can grow by, one element an item."""

    item: Ints
    frequency: Ints
    reach: NDArray[np.float64]
    key: Hashes
    sequences_key: Hashes


def mine(sequences: Sequences, support: int, wanted: int, budget: int = BUDGET) -> Mined:
    """Closed patterns in at least `support` requests, until `wanted` of them are sure to be the first.

    Patterns are met in the order of their frequency, so that where the budget ends all those in more requests
    are known. Of equal frequency the one that ends earlier comes first, so that all that leads to a set of
    places has been searched before it.

    Args:
        sequences: from `Sequences.of` with the same support.
        support: 1 or more.
        wanted: patterns wanted; there are more where the last are equally frequent.
        budget: see `BUDGET`.
    """
    return _Search(sequences, support, budget).run(wanted)


class _Search:
    def __init__(self, sequences: Sequences, support: int, budget: int) -> None:
        self.sequences, self.support = sequences, support
        self.left, self.left_to_compare = budget, budget // 4
        self.missed = 0
        numbers = np.arange(max(len(sequences.item), len(sequences)) + 1, dtype=np.uint64)
        self.hashes = _mixed(numbers)
        self.weight = sequences.weight.astype(np.float64)
        self.known: dict[int, _Ends] = {}
        self.heap: list[tuple[int, float, int]] = []

    def run(self, wanted: int) -> Mined:
        root = _Ends(len(self.sequences.request), 0, -1, None, [()])
        root.sequence = np.arange(len(self.sequences))
        root.end = self.sequences.first[:-1] - 1
        if len(self.sequences):
            self._expand(root)
        closed: list[Pattern] = []
        level: list[_Ends] = []
        while self.heap:
            frequency = -self.heap[0][0]
            if level and frequency < level[0].frequency:
                closed += self._closed(level)
                level = []
                if len(closed) >= wanted:
                    return Mined(closed, self.missed)
            if self.left <= 0:
                self.missed = max(self.missed, frequency)
                level += self._ahead(frequency, wanted)
                break
            ends = self.known.pop(heapq.heappop(self.heap)[2])
            self._place(ends)
            if not self._expand(ends):
                level.append(ends)
        return Mined(closed + self._closed(level), self.missed)

    def _ahead(self, frequency: int, wanted: int) -> list[_Ends]:
        """Where the budget ends: the longest patterns known, and one that grew for as long as it could."""
        known = [ends for ends in self.known.values() if ends.frequency == frequency]
        known.sort(key=lambda ends: _longest_first(ends.alike[0]))
        at, self.left = known[0], self.left_to_compare
        while self.left > 0:
            self._place(at)
            branches = self._branches(at)
            everywhere = np.flatnonzero(branches.frequency == frequency)
            if not len(everywhere):
                break
            item = int(branches.item[everywhere[np.argmin(branches.reach[everywhere])]])
            at = _Ends(frequency, at.sequences_key, item, at, [(*at.alike[0], item)])
        return [at, *known[:wanted]]

    def _place(self, ends: _Ends) -> None:
        above = ends.grown_from
        if above is not None:
            places = self.sequences.places[ends.item]
            ends.sequence, ends.end, _ = self.sequences.grown(above.sequence, above.end, places)
            ends.grown_from = None

    def _expand(self, ends: _Ends) -> bool:
        """Note what the patterns can grow by; whether one of these is in all their sequences."""
        branches = self._branches(ends)
        rows = zip(*(column.tolist() for column in branches), strict=True)
        for item, frequency, reach, key, sequences_key in rows:
            found = self.known.get(key)
            if found is None:
                found = self.known[key] = _Ends(frequency, sequences_key, item, ends)
                heapq.heappush(self.heap, (-frequency, reach, key))
            self._add(found, [(*items, item) for items in ends.alike])
        if len(self.known) > MAX_ENDS:
            self.left = 0
        return bool(len(branches.item)) and int(branches.frequency.max()) == ends.frequency

    def _branches(self, ends: _Ends) -> _Branches:
        s = self.sequences
        place, sequence = self._first_after(ends)
        items, code = np.unique(s.item[place], return_inverse=True)
        frequency = np.bincount(code, self.weight[sequence], len(items)).astype(np.int64)
        chosen = self._chosen(frequency)
        number = np.full(len(items) + 1, -1, np.int64)
        number[chosen] = np.arange(len(chosen))
        code = number[code]
        kept = code >= 0
        code, place, sequence = code[kept], place[kept], sequence[kept]
        key, sequences_key = np.zeros((2, len(chosen)), np.uint64)
        np.add.at(key, code, self.hashes[place])
        np.add.at(sequences_key, code, self.hashes[sequence])
        reach = np.bincount(code, place, len(chosen)).astype(np.float64)
        return _Branches(items[chosen], frequency[chosen], reach, key, sequences_key)

    def _first_after(self, ends: _Ends) -> tuple[Ints, Ints]:
        """The first place of each item after the ends in each of their sequences; these sequences."""
        s = self.sequences
        start = ends.end + 1
        length = s.first[ends.sequence + 1] - start
        to_look_at, to_look_up = int(length.sum()), LOOK_UP * len(start) * len(s.places)
        self.left -= max(min(to_look_at, to_look_up), STEP)
        if to_look_up < to_look_at:
            found = [s.grown(ends.sequence, ends.end, places)[:2] for places in s.places.values()]
            return _joined([place for _, place in found]), _joined([sequence for sequence, _ in found])
        place, of = ranges(start, length)
        is_first = s.before[place] <= ends.end[of]
        return place[is_first], ends.sequence[of[is_first]]

    def _chosen(self, frequency: Ints) -> Ints:
        chosen = np.flatnonzero(frequency >= self.support)
        if len(chosen) > MAX_BRANCHES:
            order = chosen[np.argsort(-frequency[chosen], kind="stable")]
            self.missed = max(self.missed, int(frequency[order[MAX_BRANCHES]]))
            chosen = np.sort(order[:MAX_BRANCHES])
        return chosen

    def _add(self, ends: _Ends, candidates: Iterable[Items]) -> None:
        """Add patterns to those that end there, and leave out what is part of another."""
        for candidate in candidates:
            if any(contains(longer, candidate) for longer in ends.alike):
                continue
            ends.alike = [shorter for shorter in ends.alike if not contains(candidate, shorter)]
            ends.alike.append(candidate)
            self.left -= COMPARISON * (len(ends.alike) - 1)
        if len(ends.alike) > MAX_ALIKE:
            ends.alike = sorted(ends.alike, key=_longest_first)[:MAX_ALIKE]
            self.missed = max(self.missed, ends.frequency)

    def _closed(self, level: list[_Ends]) -> list[Pattern]:
        """Of patterns of one frequency that cannot grow, those that are not part of another."""
        same: dict[int, list[_Ends]] = {}
        for ends in level:
            same.setdefault(ends.sequences_key, []).append(ends)
        closed = []
        for group in same.values():
            kept: list[Items] = []
            for items in sorted((items for ends in group for items in ends.alike), key=_longest_first):
                if self.left_to_compare < 0:
                    self.missed = max(self.missed, group[0].frequency)
                    break
                self.left_to_compare -= COMPARISON * len(kept)
                if not any(contains(longer, items) for longer in kept):
                    kept.append(items)
            closed += [Pattern(items, group[0].frequency) for items in kept]
        return closed


def _longest_first(items: Items) -> tuple[int, Items]:
    return -len(items), items


def contains(longer: Sequence[int], shorter: Sequence[int]) -> bool:
    """Whether the items of `shorter` are all in `longer`, in their order."""
    if len(shorter) > len(longer):
        return False
    rest = iter(longer)
    return all(item in rest for item in shorter)


def _mixed(numbers: Hashes) -> Hashes:
    """64 well mixed bits a number (the finaliser of SplitMix64): sums of them name a set of numbers."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
