"""A conversation is read back as it was, and stored once however often it comes again."""

from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream import Span, SpanKind, open_store, recording
from millstream.record import recorder
from millstream.record.conversation import Conversation, Part
from millstream.record.opening import open_span
from millstream.record.serialize import to_json

TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["x" * 600, "y" * 2000, "\ud800 torn", 'say "no"\n']))
MESSAGES = st.one_of(
    st.tuples(st.sampled_from(["user", "assistant"]), TEXTS),
    st.tuples(st.just("tool"), TEXTS, st.sampled_from(["call_1", "call_2"])),
    st.builds(lambda text: to_json({"role": "user", "content": [text]}), st.text(max_size=2000)),
)


def talk(parts: list[Part]) -> Conversation:
    return Conversation(parts, sum(len(part) if isinstance(part, bytes) else len(part[1]) for part in parts))


def record(parts: list[Part]) -> None:
    active = recorder.get()
    assert active is not None
    open_span(active, "model", SpanKind.LLM, talk(parts), None).end()


def plain(part: Part) -> Any:
    if isinstance(part, bytes):
        return msgspec.json.decode(part)
    return dict(
        zip(
            ("role", "content", "tool_call_id"),
            (text.encode(errors="replace").decode() for text in part),
            strict=False,
        )
    )


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
