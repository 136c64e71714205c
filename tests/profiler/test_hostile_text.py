"""Any text in any field of a span: every file is written, and its readers read it."""

import csv
import json

import pytest

from millstream import semconv
from millstream.profiler import profile, write_profile
from millstream.span import SpanError, SpanEvent, SpanKind, SpanLink, Status, Usage
from tests.profiler.profiler_synthetic import EPOCH_NS, span

TEXTS = {
    "a lone surrogate": "\ud800",
    "the other half": "x\udfffy",
    "NUL": "a\x00b",
    "line separators": "a\u2028b\u2029c\x85d",
    "the end of a script": "</script><script>alert(1)</script><!--",
    "right to left": "\u202egnp.exe\u200f\u061c",
    "one megabyte": "m" * 1_000_000,
    "markup": "<b>&amp; ' \" ` {{ 7 * 7 }} {% raw %}",
    "controls": "".join(map(chr, range(32))) + "\x7f",
    "a formula": r"$\frac{1}{0}$ \u0041 %s {0}",
}
KINDS = (SpanKind.LLM, SpanKind.LLM, SpanKind.TOOL, SpanKind.TOOL, SpanKind.FUNCTION)
FAILED = 3


def messages(text, step):
    called = {"role": text, "content": text * step, "tool_calls": [{text: text}], text: {text: text}}
    return [{"role": "system", "content": text}, called]


def requests_with(text, requests):
    """Requests of which every field that is text is `text`, and one whose ids are."""
    at = EPOCH_NS
    for number in range(requests):
        common = {
            "name": text,
            "trace_id": f"{number:032x}",
            "workload_id": text,
            "attributes": {
                semconv.REQUEST_MODEL: text,
                semconv.FRAMEWORK: text,
                semconv.EVAL_ITEM_ID: text,
                text: {text: [text]},
            },
            "events": [SpanEvent(text, at, {text: text})],
            "links": [SpanLink(text, text, {text: text})],
            "output": {text: text},
        }
        root = f"{number:08x}00000000"
        yield span(root, at, at + 10**9, kind=SpanKind.WORKFLOW, input=text, **common)
        for step, kind in enumerate(KINDS, start=1):
            yield span(
                f"{number:08x}{step:08x}",
                at + step * 10**7,
                at + (step + 1) * 10**7,
                root,
                kind=kind,
                status=Status.ERROR if step == FAILED else Status.OK,
                error=SpanError(text, text) if step == FAILED else None,
                input=messages(text, step) if kind is SpanKind.LLM else {text: text},
                usage=Usage(10, 5, 3, 1) if kind is SpanKind.LLM else None,
                **common,
            )
        at += 10**10
    yield span(text, at, at + 5, name=text, trace_id=text, input=text)


@pytest.mark.parametrize("what", TEXTS)
def test_all_files_are_written(what, tmp_path):
    requests = 1 if len(TEXTS[what]) > 1000 else 40
    found = profile(requests_with(TEXTS[what], requests))
    failed = {}
    written = write_profile(found, tmp_path, on_error=lambda name, error: failed.update({name: repr(error)}))
    assert (found.failures, failed) == ({}, {})
    assert len(written) == 12
    for path in written:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
    with (tmp_path / "standardized_data_all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {23}
    assert len(rows) == 1 + 2 * (requests * (1 + len(KINDS)) + 1)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script>")
    assert "alert(1)</script>" not in page
    assert len(page) < 15_000_000
