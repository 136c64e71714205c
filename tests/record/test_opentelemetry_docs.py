"""The examples of docs/opentelemetry.md do what the page says."""

import re
from pathlib import Path

import pytest

import millstream
from millstream.errors import MissingExtraError

PAGE = (Path(__file__).parents[2] / "docs" / "opentelemetry.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page(spans, home, monkeypatch):
    monkeypatch.chdir(home)
    (home / ".millstream").symlink_to(home)
    names: dict[str, object] = {"__name__": "page"}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102  # the page's own text
    names["provider"].shutdown()
    recorded = spans()
    above = {span.span_id: span.name for span in recorded}
    parents = {span.name: above.get(span.parent_id) for span in recorded}
    assert parents == {
        "request": None,
        "plan": "request",
        "query": "plan",
        "job": None,
        "step": "job",
        "sub-step": "step",
        "chat": None,
        "client": None,
        "server": "client",
        "parent": None,
        "sender": None,
    }
    by_name = {span.name: span for span in recorded}
    assert "otel.trace_id" in by_name["step"].attributes
    assert "otel.trace_id" not in by_name["query"].attributes


def test_the_processor_names_its_extra(monkeypatch):
    from millstream.record import opentelemetry

    monkeypatch.setattr(opentelemetry, "SpanProcessor", object)
    with pytest.raises(MissingExtraError, match=r"millstream\[opentelemetry\]"):
        millstream.OTelSpanProcessor()
