"""A conversation is read back as it was, and stored once however often it comes again."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind, open_store, recording
from millstream.record import conversation as module
from millstream.record import recorder
from millstream.record.conversation import Conversation, Part, Shape
from millstream.record.opening import open_span
from millstream.record.serialize import to_json

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 600, "y" * 2000, "\ud800 torn", 'say "no"\n']))
MESSAGES = st.one_of(
    st.tuples(st.sampled_from(["user", "assistant"]), TEXTS),
    st.tuples(st.just("tool"), TEXTS, st.sampled_from(["call_1", "call_2"])),
    st.tuples(st.just("assistant"), TEXTS, st.sampled_from([b'[{"id":"call_1"}]', b"[]"])),
    st.builds(lambda text: to_json({"role": "user", "content": [text]}), st.text(max_size=2000)),
)


def talk(parts: list[Part]) -> Conversation:
    return Conversation(parts, size_of(parts))


def size_of(parts: list[Part]) -> int:
    return sum(len(part) if isinstance(part, bytes) else sum(map(len, part[1:])) for part in parts)


def record(parts: list[Part]) -> None:
    active = recorder.get()
    assert active is not None
    open_span(active, "model", SpanKind.LLM, talk(parts), None).end()


def plain(part: Part) -> Any:
    if isinstance(part, bytes):
        return msgspec.json.decode(part)
    role, content, *more = part
    assert isinstance(role, str)
    assert isinstance(content, str)
    message: dict[str, Any] = {"role": role, "content": content.encode(errors="replace").decode()}
    for value in more:
        if isinstance(value, bytes):
            message["tool_calls"] = msgspec.json.decode(value)
        else:
            message["tool_call_id"] = value
    return message


def recorded(home: Path) -> list[Span]:
    store = open_store(home)
    spans = list(store.spans())
    assert not store.rejected
    return spans


@settings(max_examples=60, deadline=None)
@given(
    parts=st.lists(MESSAGES, min_size=1, max_size=8), cuts=st.lists(st.integers(1, 8), min_size=1, max_size=6)
)
def test_what_is_read_back(tmp_path_factory, parts: list[Part], cuts: list[int]) -> None:
    home = tmp_path_factory.mktemp("home")
    with recording(home, segment_bytes=70_000, redaction=None):
        for cut in cuts:
            record(parts[:cut])
    assert [span.input for span in recorded(home)] == [[plain(part) for part in parts[:cut]] for cut in cuts]


def test_each_message_is_stored_once(tmp_path: Path) -> None:
    parts: list[Part] = [("system", "s" * 2000)]
    with recording(tmp_path):
        for turn in range(40):
            parts += [("user", f"{turn} " + "q" * 300), ("assistant", f"{turn} " + "a" * 300)]
            record(parts)
            record(parts)  # asked twice
    (segment,) = (tmp_path / "journal").iterdir()
    assert segment.read_bytes().count(b"sssss" * 400) == 1
    assert segment.stat().st_size < 80_000  # all inputs added up are over a million
    assert [len(span.input) for span in recorded(tmp_path)] == [
        n for turn in range(40) for n in [2 * turn + 3] * 2
    ]


def test_secrets_of_new_messages_are_not_written(tmp_path: Path) -> None:
    parts: list[Part] = [("user", "u" * 2000)]
    with recording(tmp_path):
        record(parts)
        record([*parts, ("user", "my key is sk-" + "a" * 30)])
    assert recorded(tmp_path)[1].input[1] == {"role": "user", "content": "my key is [redacted]"}


def test_a_conversation_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    with recording(tmp_path, content_limit=2000):
        record([("user", "u" * 5000), ("user", "last")])
    assert b"u" * 2000 not in msgspec.json.encode(recorded(tmp_path)[0])


def test_without_content_nothing_is_kept(tmp_path: Path) -> None:
    with recording(tmp_path, capture_content=False):
        record([("user", "u" * 5000)])
    assert recorded(tmp_path)[0].input is msgspec.UNSET


def test_processors_and_kept_traces_see_the_messages(tmp_path: Path) -> None:
    from millstream import Sampling

    seen = []
    with recording(tmp_path, processors=[lambda span: seen.append(span.input) or span]):
        record([("user", "u" * 5000)])
    with recording(tmp_path, sampling=Sampling(rate=0, slower_than_s=0)):
        record([("user", "v" * 5000)])
    assert seen == [[{"role": "user", "content": "u" * 5000}]]
    assert [span.input[0]["content"][0] for span in recorded(tmp_path)] == ["u", "v"]


class Asked(SimpleNamespace):
    pass


class Answered(SimpleNamespace):
    pass


class Result(SimpleNamespace):
    pass


SHAPES = {
    Asked: Shape("user", ("name", "extra")),
    Answered: Shape("assistant", ("name",), calls="calls", encode_calls=to_json),
    Result: Shape("tool", (), call_id="call_id"),
}
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "content": st.one_of(TEXTS, st.none(), st.just(["part"])),
        "name": st.sampled_from([None, "", "Ada", 0]),
        "extra": st.sampled_from([None, {}, {"a": 1}, []]),
        "calls": st.sampled_from([[], [{"id": "1"}], None, [object()], ()]),
        "call_id": st.sampled_from(["call_1", None, 7, ""]),
    },
)
OBJECTS = st.builds(
    lambda kind, fields: kind(**fields), st.sampled_from([Asked, Answered, Result, SimpleNamespace]), FIELDS
)


def apart(message: Any) -> bytes:
    return to_json({"role": "apart", "content": str(sorted(vars(message)))})


@given(messages=st.lists(OBJECTS, max_size=6))
def test_messages_are_read_by_their_fields(messages: list[Any]) -> None:
    talk = Conversation.read(messages, SHAPES, apart)
    parts, size = module._read_slowly(messages, SHAPES, apart)
    assert (talk.parts, talk.size) == (parts, size)
    assert size == size_of(parts)
    for message, part in zip(messages, parts, strict=True):
        if isinstance(part, tuple):
            assert part[:2] == (SHAPES[type(message)].role, message.content)
            assert not any(getattr(message, name) for name in SHAPES[type(message)].empty)


def test_a_message_that_cannot_be_read_apart_is_told() -> None:
    def fails(_: Any) -> bytes:
        raise LookupError("no such message")

    with pytest.raises(LookupError, match="no such message"):
        Conversation.read([Asked(content="a", name=None, extra={}), SimpleNamespace()], SHAPES, fails)


def test_calls_that_cannot_be_encoded_leave_the_message_to_be_read_apart() -> None:
    def fails(_: Any) -> bytes:
        raise LookupError("no such call")

    shapes = {Answered: Shape("assistant", (), calls="calls", encode_calls=fails)}
    message = Answered(content="a", calls=[1])
    assert Conversation.read([message], shapes, apart).parts == [apart(message)]
    assert module._read_slowly([message], shapes, apart)[0] == [apart(message)]


def test_an_interrupt_while_calls_are_encoded_goes_on() -> None:
    def stops(_: Any) -> bytes:
        raise KeyboardInterrupt

    shapes = {Answered: Shape("assistant", (), calls="calls", encode_calls=stops)}
    for read in (Conversation.read, module._read_slowly):
        with pytest.raises(KeyboardInterrupt):
            read([Answered(content="a", calls=[1])], shapes, apart)


def test_reading_keeps_nothing() -> None:
    message = Answered(content="".join(["a", "b"] * 9), calls=[{"id": "1"}])
    result = Result(content="r", call_id="c" * 9)
    messages = [message, result, Asked(content=None), SimpleNamespace()]
    watched = [message, message.content, message.calls, result.call_id, SHAPES[Answered].role, SHAPES[Asked]]
    before = [sys.getrefcount(value) for value in watched]
    for _ in range(1000):
        Conversation.read(messages, SHAPES, apart).marks()
    assert [sys.getrefcount(value) for value in watched] == before


def test_a_list_of_messages_that_grows_while_it_is_read() -> None:
    messages: list[Any] = [SimpleNamespace()]

    def grows(message: Any) -> bytes:
        if len(messages) < 100:
            messages.append(SimpleNamespace())
        return b"{}"

    assert len(Conversation.read(messages, SHAPES, grows).parts) == 100


@given(one=st.lists(MESSAGES, max_size=6), other=st.lists(MESSAGES, max_size=6))
def test_marks_tell_whether_beginnings_are_equal(one: list[Part], other: list[Part]) -> None:
    for marks in (lambda parts: talk(parts).marks(), module._marks_slowly):
        ours, theirs = marks(one), marks(other)
        assert len(ours) == len(one)
        for count in range(1, min(len(one), len(other)) + 1):
            assert (ours[count - 1] == theirs[count - 1]) == (one[:count] == other[:count])
