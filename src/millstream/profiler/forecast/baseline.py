"""Quantiles and shares of requests that were at the same place: what every model has to beat.

States are grouped by workflow, calls so far and the last call; a group with states of fewer than
`SMALLEST_GROUP` requests is passed over for a coarser one, at last for all states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millstream.profiler.forecast.states import States
from millstream.profiler.forecast.timeline import Floats
from millstream.store.table import Bools, Ints

TAIL = 0.05
SMALLEST_GROUP = 20
FLATTEST = 0.1
_MANY = 0xFFF
_BITS = 12


class Interval(NamedTuple):
    """Three quantiles a state (5 %, 50 %, 95 %), each shape (n,)."""

    low: Floats
    median: Floats
    high: Floats

    def spread(self, floor: float | Floats) -> Floats:
        """Width, at least `floor`, shape (n,)."""
        return np.maximum(self.high - self.low, floor)


class _Level(NamedTuple):
    """Groups of states of one coarseness.

    Attributes:
        keys: of the groups, ascending, shape (groups,).
        group: position of each state's group in `keys`, shape (n,).
        first: of each group, in an order of the states by group.
        stop: likewise.
        large: whether it has states of enough requests; where there is one group of all, it always is.
    """

    keys: Ints
    group: NDArray[np.uint16]
    first: Ints
    stop: Ints
    large: Bools

    @classmethod
    def of(cls, keys: Ints, request: Ints) -> "_Level":
        """Group states, ordered by request, by a key a state."""
        order = np.argsort(keys, kind="stable")
        keys, request = keys[order], request[order]
        new = np.append(True, keys[1:] != keys[:-1])
        group = np.empty(len(keys), np.uint16)
        group[order] = np.cumsum(new) - 1
        first = np.flatnonzero(new)
        another = new | np.append(True, request[1:] != request[:-1])
        large = np.add.reduceat(another, first, dtype=np.int64) >= SMALLEST_GROUP
        return cls(keys[new], group, first, np.append(first[1:], len(keys)), large | (len(first) == 1))


@dataclass(frozen=True, slots=True, eq=False)
class Grouping:
    """States by the groups that quantiles are taken of, from the finest to all in one."""

    levels: list[_Level]

    @classmethod
    def fit(cls, states: States) -> "Grouping":
        """Group states, ordered by request, at most 65,535 of them."""
        return cls([_Level.of(keys, states.request) for keys in _quantile_keys(states)])


@dataclass(frozen=True, slots=True, eq=False)
class GroupedQuantiles:
    """Quantiles of one target by group.

    Attributes:
        levels: keys of the groups, from the finest to all states.
        quantiles: of each level's groups, shape (3, groups).
        floor: the least spread that is taken for a group's, so that differences can be divided by it.
    """

    levels: list[Ints]
    quantiles: list[Floats]
    floor: float

    @classmethod
    def fit(cls, grouping: Grouping, values: Floats) -> "GroupedQuantiles":
        """Learn from states that are grouped, and what was still to come in each, shape (n,)."""
        by_value = np.argsort(values, kind="stable")
        ordered = values[by_value]
        quantiles = []
        for level in grouping.levels:
            by_group = np.argsort(level.group[by_value], kind="stable")
            quantiles.append(_quantiles(ordered[by_group], level))
        overall = quantiles[-1][:, 0]
        floor = float(FLATTEST * (overall[2] - overall[0])) or 1.0
        return cls([level.keys[level.large] for level in grouping.levels], quantiles, floor)

    def predict(self, states: States) -> Interval:
        """The quantiles of each state's finest group."""
        found = np.full((3, len(states)), np.nan)
        for keys, level, quantiles in zip(_quantile_keys(states), self.levels, self.quantiles, strict=True):
            _fill(found, keys, level, quantiles)
        return Interval(*found)


@dataclass(frozen=True, slots=True, eq=False)
class GroupedShares:
    """How often each tool came next, by group.

    Attributes:
        tools: positions of the tools in the names, -1 for none, ascending, shape (tools,).
        levels: keys of the groups, from the finest to all states.
        shares: of each level's groups, shape (tools, groups).
    """

    tools: Ints
    levels: list[Ints]
    shares: list[Floats]

    @classmethod
    def fit(cls, states: States) -> "GroupedShares":
        """Learn from states."""
        tools, tool = np.unique(states.next_tool, return_inverse=True)
        levels, shares = [], []
        for keys in _share_keys(states):
            level = _Level.of(keys, states.request)
            counts = np.zeros((len(tools), len(level.keys)))
            np.add.at(counts, (tool, level.group), 1)
            levels.append(level.keys[level.large])
            shares.append((counts / counts.sum(axis=0))[:, level.large])
        return cls(tools, levels, shares)

    def predict(self, states: States) -> Floats:
        """The share of each tool, shape (tools, n); each column adds up to 1."""
        found = np.full((len(self.tools), len(states)), np.nan)
        for keys, level, shares in zip(_share_keys(states), self.levels, self.shares, strict=True):
            _fill(found, keys, level, shares)
        return found


def _quantile_keys(states: States) -> list[Ints]:
    """A key a state for each coarseness."""
    calls = states.llm_calls + states.tool_calls
    about = np.round(2 * np.log2(calls + 1)).astype(np.int64)
    return [
        _key(states.workflow, states.llm_calls, states.tool_calls, states.last_call),
        _key(states.workflow, states.llm_calls, states.tool_calls),
        _key(states.workflow, calls),
        _key(states.workflow, about),
        _key(calls),
        _key(about),
        np.zeros(len(states), np.int64),
    ]


def _share_keys(states: States) -> list[Ints]:
    return [
        _key(states.workflow, states.tools_started, states.last_tool, states.llm_calls),
        _key(states.workflow, states.tools_started, states.last_tool),
        _key(states.workflow, states.last_tool),
        _key(states.last_tool),
        np.zeros(len(states), np.int64),
    ]


def _key(*columns: Ints) -> Ints:
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        key = (key << _BITS) | np.minimum(column + 1, _MANY)
    return key


def _quantiles(ordered: Floats, level: _Level) -> Floats:
    """Low, median and high of each large group, shape (3, groups).

    Values are ordered by group, ascending in each.

    The ends are the order statistics floor(5 % (n + 1)) and ceil(95 % (n + 1)), which hold a new value of
    the same kind with at least 90 % probability (Vovk et al., Algorithmic Learning in a Random World, 2.3).
    """
    first, n = level.first[level.large], (level.stop - level.first)[level.large]
    low = np.clip(np.floor(TAIL * (n + 1)).astype(np.int64), 1, n)
    high = np.clip(np.ceil((1 - TAIL) * (n + 1)).astype(np.int64), 1, n)
    middle = (ordered[first + (n - 1) // 2] + ordered[first + n // 2]) / 2
    return np.stack((ordered[first + low - 1], middle, ordered[first + high - 1]))


def _fill(found: Floats, keys: Ints, level: Ints, values: Floats) -> None:
    """Where nothing is found yet, take the values of the group with the same key."""
    if len(level) == 0:
        return
    place = np.minimum(np.searchsorted(level, keys), len(level) - 1)
    there = (level[place] == keys) & np.isnan(found[0])
    found[:, there] = values[:, place[there]]


def first_guess(shares: Floats) -> Ints:
    """The most likely tool of each state, as a position in `tools`, shape (n,)."""
    guess: Ints = np.argmax(shares, axis=0)
    return guess


def within(shares: Floats, actual: Ints, mass: float) -> Bools:
    """Whether what came is among the most likely tools that together have `mass`, shape (n,).

    Args:
        shares: shape (tools, n).
        actual: positions in the first axis, -1 for a tool that was never seen, shape (n,).
        mass: of the set, between 0 and 1.
    """
    own = np.where(actual >= 0, shares[actual, np.arange(shares.shape[1])], -1.0)
    likelier = np.where(shares > own, shares, 0).sum(axis=0)
    among: Bools = (own > 0) & (likelier < mass)
    return among


def position_of(values: Ints, among: Sequence[int] | Ints) -> Ints:
    """Positions of values in an ascending list; -1 for those that are not there."""
    known = np.asarray(among)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[place] == values, place, -1)
