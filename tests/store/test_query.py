"""SQL over spans gives what the spans say, however much of a journal is compacted."""

import statistics
import subprocess
import sys

import msgspec
import pytest

from millstream import open_store
from millstream.errors import InputError
from millstream.store.compaction import compact
from millstream.store.query import connect, rows_of
from tests.store.test_compaction import RECORD


@pytest.fixture
def half_compacted(tmp_path):
    home = tmp_path / "it's"
    subprocess.run([sys.executable, "-c", RECORD, str(home), "4"], check=True)
    compact(home)
    subprocess.run([sys.executable, "-c", RECORD, str(home), "3"], check=True)
    return home


@pytest.mark.parametrize("kind", ["journal", "file"])
def test_sums_and_medians_are_those_of_the_spans(half_compacted, tmp_path, kind):
    source = half_compacted
    spans = list(open_store(source).spans())
    if kind == "file":
        source = tmp_path / "spans.jsonl"
        source.write_bytes(b"".join(msgspec.json.encode(span) + b"\n" for span in spans))
    calls = [span for span in spans if span.kind == "LLM"]
    found = rows_of(
        connect(source),
        "SELECT count(*), sum(input_tokens), median(duration_s), count(DISTINCT trace_id),"
        " max(input->>'$[1].content') FROM spans WHERE model = 'm'",
    )
    (row,) = found.rows
    assert row[:2] == (len(calls), sum(span.usage.input_tokens for span in calls))
    assert row[2] == pytest.approx(statistics.median(span.duration_s for span in calls))
    assert row[3:] == (7, max(span.input[1]["content"] for span in calls))
    (first,) = rows_of(connect(source), "SELECT epoch_ns(min(start_time)) FROM spans").rows[0]
    assert first == min(span.start_ns for span in spans)


def test_what_cannot_be_answered(half_compacted):
    connection = connect(half_compacted)
    for sql in ("SELECT nothing FROM spans", "SELECT 1/", ""):
        with pytest.raises(InputError, match="The query cannot be answered"):
            rows_of(connection, sql or "FROM")
