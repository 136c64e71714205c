"""What is taken out before anything is written, and that nothing is written where that fails."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream
from millstream import (
    Redaction,
    Span,
    SpanKind,
    Status,
    Usage,
    open_store,
    semconv,
    start_span,
    subscribe,
    track_function,
)
from millstream.errors import ConfigError
from millstream.record import faults
from millstream.record.redaction import _has_mark_slowly, may_hold_secret
from millstream.span import SpanError

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz012345"
WORDS = r"opaque-token|[\w-]*abcdefghijkl[\w-]*|AKIA\w+|AIza\w+|a{20,}|xoxb[\w-]+"
SECRETS = [
    {"headers": {"Authorization": f"Bearer {KEY}"}},
    {"headers": {"authorization": "opaque-token"}},
    {"headers": [["Authorization", "opaque-token"], ["x-api-key", "opaque-token"]]},
    {"headers": {"Cookie": "session=opaque-token"}},
    {"headers": {"Set-Cookie": ["a=opaque-token", "b=opaque-token"]}},
    {"proxy-authorization": "opaque-token"},
    {"api_key": "opaque-token"},
    {"apiKey": "opaque-token"},
    {"OPENAI_API_KEY": "opaque-token"},
    {"x-api-key": "opaque-token"},
    {"outer": [{"inner": {"api-key": {"nested": "opaque-token"}}}]},
    f"the key is {KEY}.",
    "Authorization: Bearer opaque-token-0123",
    "curl -H 'x-api-key: opaque-token' https://host/",
    "https://host/path?api_key=opaque-token&page=2",
    "Cookie: session=opaque-token; theme=dark",
    '{"api_key": "opaque-token", "city": "Oslo"}',
    json.dumps({"arguments": json.dumps({"api_key": "opaque-token"})}),
    "AKIAABCDEFGHIJKLMNOP",
    "AIza" + "B" * 35,
    "ghp_" + "a" * 36,
    "hf_" + "a" * 34,
    "nvapi-" + "a" * 40,
    "xoxb-123456789012-abcdef",
    "github_pat_" + "a" * 40,
]
HARMLESS = [
    {"max_tokens": 5, "keys": ["a", "b"], "token": "abc", "cookies_enabled": True, "api": "v1"},
    {"api_key": None},
    {"cookie": True},
    "bake a cookie, then ask for authorization",
    "a bearer of good news",
    "sk-8",
    "the task-oriented risk-averse desk-lamp",
    "compare",
    ["cookie", "biscuit"][1:],
]


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.setattr(faults, "strict", False)
    monkeypatch.setattr(faults, "counts", type(faults.counts)())


def on_disk(home):
    return "".join(path.read_text() for path in home.rglob("*.jsonl"))


@pytest.mark.parametrize("value", SECRETS, ids=range(len(SECRETS)))
@pytest.mark.parametrize("size", [0, 3_000])
def test_secrets_are_never_written(value, size, home, spans):
    @track_function
    def call(given, padding):
        return [given]

    call(value, "x" * size)
    with start_span("block", input=value, attributes={"seen": value}) as span:
        span.add_event("sent", {"with": value})
        span.set_output(value)
    text = on_disk(home)
    assert "[redacted]" in text
    for word in re.findall(
        r"opaque-token|[\w-]*abcdefghijkl[\w-]*|AKIA\w+|AIza\w+|a{20,}|xoxb[\w-]+", str(value)
    ):
        assert word not in text
    assert [span.name for span in spans()] == ["call", "block"]


@pytest.mark.parametrize("value", HARMLESS, ids=range(len(HARMLESS)))
def test_what_is_no_secret_stays(value, spans):
    with start_span("block", input=value) as span:
        span.set_output(value)
    (recorded,) = spans()
    assert recorded.input == recorded.output == value


def test_an_error_message_is_redacted(spans):
    with pytest.raises(ValueError, match="opaque"), start_span("block"):
        raise ValueError("api_key=opaque-token was refused")
    assert spans()[0].error.message == "api_key=[redacted] was refused"


def test_live_subscribers_see_no_secret(home):
    seen = []
    with subscribe(lambda step: seen.append(repr(step))), start_span("block", input={"api_key": KEY}) as span:
        span.add_chunk(f"Bearer {KEY}")
        span.set_output(KEY)
    assert len(seen) == 3
    assert KEY not in "".join(seen)


def test_it_can_be_turned_off(tmp_path):
    with millstream.recording(home=tmp_path, redaction=None), start_span("block", input={"api_key": "x"}):
        pass
    (span,) = open_store(tmp_path).spans()
    assert span.input == {"api_key": "x"}


def test_what_else_is_taken_out(tmp_path):
    redaction = Redaction(
        patterns=[r"\bACME-\d+\b"], fields=["Salary"], replacement="***", cards=True, emails=True, phones=True
    )
    value = {
        "text": "ACME-42 of ann@example.org, +47 22 12 34 56 and (212) 555-0123",
        "salary": 5,
        "SALARY": "five",
        "card": "4111 1111 1111 1111",
        "not a card": "4111 1111 1111 1112",
        "order": "20240101123456",
        "time": 1700000000123456789,
        "id": "7f9c2ba4-e88f-827d-6160-4550763d6ee0",
    }
    with millstream.recording(home=tmp_path, redaction=redaction), start_span("block", input=value):
        pass
    (span,) = open_store(tmp_path).spans()
    assert span.input == {
        **value,
        "text": "*** of ***, *** and ***",
        "salary": "***",
        "SALARY": "***",
        "card": "***",
    }


def test_numbers_and_truth_values_of_named_fields_are_taken_out(tmp_path):
    value = {
        "salary": 51234,
        "Salary": 70000.5,
        "deep": [{"salary": False, "none": None, "other": 5}, ["salary", 5]],
        "text": '{"salary": 81234}',
        "empty": {"salary": None},
    }
    redaction = Redaction(fields=["SALARY"])
    with (
        millstream.recording(home=tmp_path, redaction=redaction),
        start_span("block", input=value, attributes={"salary": 91234}) as span,
    ):
        span.set_output(value)
        span.add_event("paid", {"salary": 41234})
    (recorded,) = open_store(tmp_path).spans()
    assert recorded.input == recorded.output
    assert recorded.input == {
        "salary": "[redacted]",
        "Salary": "[redacted]",
        "deep": [{"salary": "[redacted]", "none": None, "other": 5}, ["salary", "[redacted]"]],
        "text": '{"salary":"[redacted]"}',
        "empty": {"salary": None},
    }
    assert recorded.attributes == {"salary": "[redacted]"}
    assert recorded.events[0].attributes == {"salary": "[redacted]"}


@pytest.mark.parametrize(
    "name", ["error", "events", "attributes", "usage", "input_tokens", "time_ns", "message"]
)
def test_the_fields_of_the_record_itself_stay(name, tmp_path):
    redaction = Redaction(fields=[name], patterns=[name])
    with (
        millstream.recording(home=tmp_path, redaction=redaction),
        pytest.raises(ValueError, match="x"),
        start_span("block", input={name: "hidden"}) as span,
    ):
        span.set_usage(Usage(1, 2))
        span.add_event("x", {"a": 1})
        raise ValueError("x")
    (recorded,) = open_store(tmp_path).spans()
    assert recorded.input == {"[redacted]": "[redacted]"}
    assert recorded.usage == Usage(1, 2)
    assert (recorded.events[0].name, recorded.events[0].attributes) == ("x", {"a": 1})
    assert recorded.error == SpanError("ValueError", "x")


@pytest.mark.parametrize("size", [1, 3_000])
@pytest.mark.parametrize("secret", [KEY, "ACME-42"])
def test_secrets_in_keys_are_never_written(secret, size, tmp_path):
    value = {f"of {secret}": "x" * size, "list": [{secret: 1, f"{secret}!": 2, "[redacted]": 3}]}
    redaction = Redaction(patterns=[r"\bACME-\d+\b"])
    with (
        millstream.recording(home=tmp_path, redaction=redaction),
        start_span("block", input=value, attributes={secret: "x", "gen_ai.request.model": "x"}) as span,
    ):
        span.set_output(json.dumps(value))
        span.add_event("seen", {secret: 1})
    assert secret not in on_disk(tmp_path)
    (recorded,) = open_store(tmp_path).spans()
    assert recorded.input == {
        "of [redacted]": "x" * size,
        "list": [{"[redacted] 1": 1, "[redacted]!": 2, "[redacted]": 3}],
    }
    assert json.loads(recorded.output) == recorded.input
    assert recorded.attributes == {"[redacted]": "x", "gen_ai.request.model": "x"}
    assert recorded.events[0].attributes == {"[redacted]": 1}


def test_the_names_of_semconv_stay():
    span = Span(
        "a" * 32,
        "b" * 16,
        None,
        "x",
        SpanKind.LLM,
        1,
        attributes={semconv.REQUEST_MODEL: "gen_ai", "gen_ai": 1},
    )
    Redaction(patterns=["gen_ai"])(span)
    assert span.attributes == {semconv.REQUEST_MODEL: "[redacted]", "[redacted]": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ["("]}, "no regular expression"),
        ({"patterns": "abc"}, "lists"),
        ({"fields": "abc"}, "lists"),
        ({"fields": [5]}, "names"),
    ],
)
def test_what_cannot_be_is_an_error(options, message):
    with pytest.raises(ConfigError, match=message):
        Redaction(**options)


def test_recording_says_what_it_takes():
    with pytest.raises(ConfigError, match="Redaction or None"):
        millstream.recording(redaction="yes")


def test_where_it_fails_no_content_is_written(tmp_path, lenient):
    class Broken(Redaction):
        def text(self, text):
            raise RuntimeError("broken")

    with millstream.recording(home=tmp_path, redaction=Broken()) as recording:
        for value in ({"api_key": KEY}, {"api_key": KEY, "padding": "x" * 5000}):
            with (
                pytest.raises(ValueError, match="x"),
                start_span("block", input=value, attributes={"api_key": KEY}),
            ):
                raise ValueError(f"x {KEY}")
        stats = recording.stats()
    assert KEY not in on_disk(tmp_path)
    for span in open_store(tmp_path).spans():
        assert (span.status, span.attributes) == (Status.ERROR, {"millstream.incomplete": True})
    assert stats["made"] == stats["stored"] == 2
    assert sum(stats["dropped"].values()) == 2


def test_as_a_processor_it_gives_the_span():
    span = Span(
        "a" * 32, "b" * 16, None, "x", SpanKind.LLM, 1, 2, Status.OK, None, [{"content": KEY}], {"a": 1}
    )
    assert Redaction()(span) is span
    assert span.input == [{"content": "[redacted]"}]
    assert span.output == {"a": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=15,
)


@given(json_values, st.sampled_from([KEY, f"Bearer {KEY}", "api_key=" + "q" * 20, "ghp_" + "z" * 36]))
def test_a_secret_is_found_wherever_it_stands(value, secret):
    """Whatever stands around it: in lists, behind keys, in JSON within JSON."""
    redaction = Redaction()
    for carrier in ([value, secret], {"a": {"b": [secret, value]}}, json.dumps({"k": [value, secret]})):
        text = json.dumps(carrier)
        assert may_hold_secret(text)
        mended = redaction.json(text.encode()).decode()
        assert secret.split("=")[-1].split()[-1] not in mended
        json.loads(mended)


@given(json_values)
def test_the_quick_test_never_hides_what_the_thorough_one_would_find(value):
    text = json.dumps(value, ensure_ascii=False)
    thorough = Redaction()._mend(json.loads(text), 0)
    if thorough != json.loads(text):
        assert may_hold_secret(text)


@pytest.mark.parametrize("name", ["cookie", "api_key", "Authorization"])
def test_a_large_secret_is_known_by_the_name_of_its_argument(name, home, spans):
    """Large values are stored apart from their names."""
    with start_span("block", input={name: "opaque-token " * 300, "text": "plain " * 300}):
        pass
    assert "opaque-token" not in on_disk(home)
    assert spans()[0].input == {name: "[redacted]", "text": "plain " * 300}


MARKS = (
    "author authorization Authoriz aiza AI z sk- sk - nvapi- glpat- xoxb- xox bearer Bear basic api key "
    "coo ie k _ gh ghp_ hf_ github_pat_ gsk_"
)


@given(
    st.lists(
        st.one_of(
            st.sampled_from([*MARKS.split(), " ", "\t", "\xa0"]),
            st.sampled_from("\u212aKé\u0130\n"),
            st.text(max_size=3),
        ),
        max_size=6,
    ).map("".join)
)
def test_the_compiled_search_finds_what_the_other_finds(text: str) -> None:
    compiled = pytest.importorskip("millstream.record._marks", exc_type=ImportError)
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # JSON holds none of these
    assert compiled.has_mark(text) or not _has_mark_slowly(text)
