"""Chat completions, and text completions as chats."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from millstream import choices
from millstream.record.integrations.observed import Observed, usage_from_openai
from millstream.record.integrations.openai.answers import Answer, items, known, read

_REASONING = ("reasoning_content", "reasoning")
"""What servers of open models call the thoughts that they show."""


class ChatAnswer(Answer):
    """An answer of the chat completions API, of one choice or several."""

    operation: ClassVar[str] = "chat"

    def __init__(self, step: Observed) -> None:
        super().__init__(step)
        self._choices: dict[int, _Choice] = {}
        self._last: Any = None
        self._usage: Any = None

    @staticmethod
    def content(body: Mapping[str, Any]) -> Any:
        """The messages as they are."""
        return body.get("messages", msgspec.UNSET)

    @staticmethod
    def parameters(body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The parameters as they are, but functions as the tools that they became."""
        if "functions" not in body or "tools" in body:
            return body
        return {
            **body,
            "tools": [{"type": "function", "function": each} for each in items(body["functions"])],
        }

    def whole(self, answer: Any) -> None:
        """Record a completion."""
        made = list(items(read(answer, "choices")))
        self._tell(
            answer,
            [message_json(read(choice, "message")) for choice in made],
            [read(choice, "finish_reason") for choice in made],
            read(answer, "usage"),
        )

    def see(self, piece: Any) -> bool:
        """Take in a chunk."""
        self._last = piece
        self._usage = read(piece, "usage") or self._usage
        carries = False
        for choice in items(read(piece, "choices")):
            found = self._choices.setdefault(read(choice, "index") or 0, _Choice())
            carries = found.add(choice) or carries
        return carries

    def finish(self) -> None:
        """Record the messages that the chunks make."""
        if self._last is not None:
            made = [choice for _, choice in sorted(self._choices.items())]
            reasons = [choice.finish_reason for choice in made]
            self._tell(self._last, [choice.message() for choice in made], reasons, self._usage)

    def _tell(self, answer: Any, messages: list[Any], reasons: list[Any], usage: Any) -> None:
        self.step.answer(
            choices.output_of(messages),
            usage=usage_from_openai(usage),
            model=read(answer, "model"),
            response_id=read(answer, "id"),
            finish_reasons=choices.reasons_of(reasons),
        )


class _Choice:
    """One choice of a streamed completion, as far as it has come."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._function: dict[str, str] = {}

    def add(self, choice: Any) -> bool:
        """Take in the choice's part of a chunk; whether it carries something."""
        self.finish_reason = read(choice, "finish_reason") or self.finish_reason
        delta = read(choice, "delta")
        carries = False
        for name in ("content", "refusal", *_REASONING):
            if text := read(delta, name):
                self._texts.setdefault(name, []).append(text)
                carries = True
        for number, call in enumerate(items(read(delta, "tool_calls"))):
            self._add_call(number, call)
            carries = True
        if function := read(delta, "function_call"):
            _append(self._function, function)
            carries = True
        return carries

    def _add_call(self, number: int, call: Any) -> None:
        index = read(call, "index")
        found = self._calls.setdefault(number if index is None else index, {})
        for name in ("id", "type"):
            if value := read(call, name):
                found[name] = value
        for name in ("function", "custom"):
            if value := read(call, name):
                _append(found.setdefault(name, {}), value)

    def message(self) -> dict[str, Any]:
        """What has come, as a message."""
        texts = {name: "".join(parts) for name, parts in self._texts.items()}
        calls = [{"type": "function", **call} for _, call in sorted(self._calls.items())]
        return {
            "role": "assistant",
            "content": texts.pop("content", None),
            **known(**texts, tool_calls=calls, function_call=self._function),
        }


def _append(found: dict[str, str], part: Any) -> None:
    for name in ("name", "arguments", "input"):
        if (value := read(part, name)) is not None:
            found[name] = found.get(name, "") + value


def message_json(message: Any) -> dict[str, Any]:
    """A message of an answer as plain JSON, without what the SDK has parsed of it."""
    audio = read(message, "audio")
    function = read(message, "function_call")
    return {
        "role": read(message, "role") or "assistant",
        "content": read(message, "content"),
        **known(
            **{name: read(message, name) for name in ("refusal", *_REASONING)},
            tool_calls=[_call_json(call) for call in items(read(message, "tool_calls"))],
            function_call=function and _only(function, "name", "arguments"),
            audio=audio and _only(audio, "id", "transcript"),
        ),
    }


def _call_json(call: Any) -> dict[str, Any]:
    kind = read(call, "type") or "function"
    made = _only(read(call, kind), "name", "input" if kind == "custom" else "arguments")
    return {"id": read(call, "id"), "type": kind, kind: made}


def _only(value: Any, *names: str) -> dict[str, Any]:
    return {name: read(value, name) for name in names}


class CompletionAnswer(Answer):
    """An answer of the older text completions API."""

    operation: ClassVar[str] = "text_completion"

    def __init__(self, step: Observed) -> None:
        super().__init__(step)
        self._texts: dict[int, str] = {}
        self._reasons: dict[int, str | None] = {}
        self._last: Any = None
        self._usage: Any = None

    @staticmethod
    def content(body: Mapping[str, Any]) -> Any:
        """Each prompt as a message of the user's; one of token numbers as it is."""
        prompt = body.get("prompt", msgspec.UNSET)
        if isinstance(prompt, str):
            prompt = [prompt]
        if not isinstance(prompt, list) or not all(isinstance(each, str) for each in prompt):
            return prompt
        return [{"role": "user", "content": each} for each in prompt]

    def whole(self, answer: Any) -> None:
        """Record a completion."""
        self.see(answer)
        self.finish()

    def see(self, piece: Any) -> bool:
        """Take in a completion, or a chunk of one; they look alike."""
        self._last = piece
        self._usage = read(piece, "usage") or self._usage
        carries = False
        for choice in items(read(piece, "choices")):
            text = read(choice, "text")
            carries = carries or bool(text)
            index = read(choice, "index") or 0
            self._texts[index] = self._texts.get(index, "") + (text or "")
            self._reasons[index] = read(choice, "finish_reason") or self._reasons.get(index)
        return carries

    def finish(self) -> None:
        """Record the text of each choice, those of the first prompt first."""
        if self._last is not None:
            texts = [text for _, text in sorted(self._texts.items())] or [""]
            self.step.answer(
                choices.output_of([{"role": "assistant", "content": text} for text in texts]),
                usage=usage_from_openai(self._usage),
                model=read(self._last, "model"),
                response_id=read(self._last, "id"),
                finish_reasons=choices.reasons_of(reason for _, reason in sorted(self._reasons.items())),
            )
