"""Long datasets: what is held in memory does not grow with answers, spans and scores."""

import gc
import json
import os
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.evaluation.files import json_bytes, write_list
from millstream.evaluation.heap import heap_at_rest
from millstream.evaluation.json_list import read_list

KB_A_ROW = 2.0
"""The dataset itself takes 0.9; holding results, spans and scores took 4."""


def _peak_mb(runs, rows: int, *arguments: str, **env: str) -> float:
    """The most memory that an evaluation of so many rows of some 200 bytes takes."""
    filler = "x" * 110
    lines = (f"{n},question {n} {filler},ANSWER {n} yyyyyyyyyy,ANSWER {n} yyyyyyyyyy" for n in range(rows))
    (runs.folder / "data.csv").write_text("\n".join(["id,question,answer,generated_answer", *lines]) + "\n")
    out = f"out{rows}"
    process = subprocess.Popen(
        [*runs.command, "--override", "eval.general.output_dir", out, *arguments],
        cwd=runs.folder,
        env={**runs.environment, "MILLSTREAM_HOME": str(runs.folder / f"home{rows}"), **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert process.stderr is not None
    with process.stderr:
        assert os.waitstatus_to_exitcode(status) == 0, process.stderr.read()
    process.returncode = 0
    scored = json.loads((runs.folder / out / "accuracy_output.json").read_bytes())
    assert scored["n"] == rows
    return usage.ru_maxrss / 1024


def test_scoring_long_datasets_takes_little_more_memory_than_short_ones(runs):
    runs.config(
        evaluators={"accuracy": {"_type": "exact_match"}, "loose": {"_type": "exact_match", "strip": False}}
    )
    short, long = _peak_mb(runs, 1_000, "--skip_workflow"), _peak_mb(runs, 9_000, "--skip_workflow")
    assert (long - short) * 1024 / 8_000 < KB_A_ROW
    again = _peak_mb(runs, 9_000, "--skip_workflow", "--resume")  # out of workflow_output.json
    assert (again - short) * 1024 / 8_000 < KB_A_ROW


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.lists(json_values, max_size=5), head=st.none() | st.just({"n": 3, "interval": None}))
def test_lists_are_written_as_json_writes_them_and_read_back(tmp_path_factory, values, head):
    path = tmp_path_factory.mktemp("lists") / "list.json"
    write_list(path, iter(values), head, "items")
    assert path.read_bytes() == json_bytes(values if head is None else {**head, "items": values}, indent=2)
    if head is None:
        assert list(read_list(path)) == values


any_text = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs among it


@given(value=st.recursive(json_values | any_text, lambda inner: st.dictionaries(any_text, inner, max_size=3)))
def test_indented_json_is_what_the_json_module_writes(value):
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2)
    assert json_bytes(value, indent=2) == text.encode("utf-8", "backslashreplace")


def test_the_heap_is_at_rest_only_within_the_block():
    assert gc.get_freeze_count() == 0
    with heap_at_rest():
        assert (held := gc.get_freeze_count()) > 10_000
        with heap_at_rest():
            assert gc.get_freeze_count() == held
        assert gc.get_freeze_count() == held
    assert gc.get_freeze_count() == 0


def test_long_lists_and_long_values_are_read(tmp_path):
    path = tmp_path / "list.json"
    values = [*range(30_000), "x" * 3_000_000, {"a": ["b" * 70_000]}, 12345]
    path.write_text(json.dumps(values))
    began_s = time.monotonic()
    assert list(read_list(path)) == values
    assert time.monotonic() - began_s < 20


@pytest.mark.parametrize("text", ["", "{}", "[1, 2", "[1 2]", "[1,]", '["a', "[1}", "nothing"])
def test_what_is_no_list_is_an_error(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(ValueError):  # noqa: PT011  # json's own words
        list(read_list(path))
