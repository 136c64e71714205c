"""A conversation that every model call repeats from its beginning: what it takes on disk."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import millstream
from millstream import SpanKind

_SYSTEM_CHARACTERS = 2_000
_MESSAGE_CHARACTERS = 500


@dataclass(frozen=True)
class Conversation:
    """Sizes in bytes.

    Attributes:
        turns: model calls.
        last_input: of the last call's messages, as JSON.
        all_inputs: of all calls' messages added up.
        on_disk: of the journal.
    """

    turns: int
    last_input: int
    all_inputs: int
    on_disk: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def record_conversation(turns: int) -> Conversation:
    """Record so many model calls, each with all messages before it.

    Raises:
        RuntimeError: the last call does not come back as it was.
    """
    messages: list[dict[str, Any]] = [_message("system", 0, _SYSTEM_CHARACTERS)]
    sizes = []
    with tempfile.TemporaryDirectory(prefix="bench-recording-") as folder:
        with millstream.recording(home=folder):
            for turn in range(turns):
                messages.append(_message("user", turn, _MESSAGE_CHARACTERS))
                sizes.append(len(json.dumps(messages, separators=(",", ":"))))
                answer = _message("assistant", turn, _MESSAGE_CHARACTERS)
                with millstream.start_span("chat", kind=SpanKind.LLM, input=messages) as span:
                    span.set_output(answer)
                messages.append(answer)
        spans = sorted(millstream.open_store(folder).spans(), key=lambda span: span.start_ns)
        if len(spans) != turns or spans[-1].input != messages[:-1]:
            raise RuntimeError("the conversation was not read back as it was")
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.jsonl"))
    return Conversation(turns, sizes[-1], sum(sizes), on_disk)


def _message(role: str, number: int, characters: int) -> dict[str, Any]:
    text = " ".join(f"{role} {number * 1000 + word}" for word in range(characters // 8))
    return {"role": role, "content": text[:characters]}
