"""The compiled passes over call trees give what the NumPy operations give."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import Span, SpanKind
from millstream.profiler import critical_path, tree
from millstream.store.table import SpanTable

if not tree.COMPILED:
    if os.environ.get("CI") == "true" and shutil.which("cc"):
        raise RuntimeError("there is a C compiler, but millstream.profiler._trees was not built")
    pytest.skip("millstream was built without a C compiler", allow_module_level=True)

from millstream.profiler import _trees

COUNT = 12
SPANS = st.lists(
    st.tuples(
        st.integers(0, 1),  # trace
        st.one_of(st.none(), st.integers(0, COUNT - 1)),  # parent, perhaps after its child, or in a cycle
        st.integers(0, 30),
        st.one_of(st.none(), st.integers(0, 15)),  # duration
    ),
    max_size=COUNT,
)


def table_of(rows: list[tuple[int, int | None, int, int | None]]) -> SpanTable:
    return SpanTable.from_spans(
        Span(
            trace_id=f"{trace:032x}",
            span_id=f"{number:016x}",
            parent_id=None if parent is None else f"{parent:016x}",
            name="f",
            kind=SpanKind.FUNCTION,
            start_ns=start,
            end_ns=None if duration is None else start + duration,
        )
        for number, (trace, parent, start, duration) in enumerate(rows)
    )


@given(rows=SPANS)
def test_compiled_as_in_numpy(rows) -> None:
    table = table_of(rows)
    own = tree.self_time_ns(table)
    subtree = tree.subtree_time_ns(table, own)
    reached, start, end = tree.clipped(table)
    path = critical_path.critical_path_ns(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tree, "COMPILED", False)
        patch.setattr(critical_path, "COMPILED", False)
        assert own.tolist() == tree.self_time_ns(table).tolist()
        assert subtree.tolist() == tree.subtree_time_ns(table, own).tolist()
        slowly_reached, slowly_start, slowly_end = tree.clipped(table)
        assert reached.tolist() == slowly_reached.tolist()
        assert start[reached].tolist() == slowly_start[reached].tolist()
        assert end[reached].tolist() == slowly_end[reached].tolist()
        assert path.tolist() == critical_path.critical_path_ns(table).tolist()


def test_a_chain_of_five_thousand() -> None:
    depth = 5000
    table = table_of(
        [(0, number - 1 if number else None, number, 10 * depth - 2 * number) for number in range(depth)]
    )
    assert int(critical_path.critical_path_ns(table).sum()) == 10 * depth
    assert tree.subtree_time_ns(table, tree.self_time_ns(table))[0] == 10 * depth


@pytest.mark.parametrize(
    "arrays",
    [
        (np.zeros(2, np.int32), np.zeros(3, np.int64)),
        (np.zeros(2, np.int64), np.zeros(2, np.int64)),
        (np.array([2, 0], np.int32), np.zeros(2, np.int64)),  # a parent that is no row
        (np.zeros(2, np.int32),),
        ([0, 0], [0, 0]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays) -> None:
    with pytest.raises((TypeError, ValueError)):
        _trees.add_up(*arrays)


def test_arrays_that_may_not_be_written_are_refused() -> None:
    total = np.zeros(2, np.int64)
    total.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        _trees.add_up(np.full(2, -1, np.int32), total)
