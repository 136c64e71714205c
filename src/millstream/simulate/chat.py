"""A request for words: a chat completion, checked as strictly as OpenAI checks it, read as a conversation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from millstream.simulate import chat_checks as checks
from millstream.simulate.api_error import invalid
from millstream.simulate.draws import fingerprint
from millstream.simulate.rules import Model
from millstream.simulate.tokens import split_tokens

_MESSAGE_OVERHEAD: Final = ("<|start|>", "<|role|>", "<|end|>")
_REPLY_OVERHEAD: Final = ("<|start|>", "<|assistant|>", "<|message|>")
_IMAGE_TOKENS: Final = 85
"""What OpenAI counts for an image at low detail; here for any part that is not text."""


@dataclass(frozen=True)
class ChatRequest:
    """A request that passed the checks.

    Attributes:
        body: the JSON as it came.
        model: the model's name.
        messages: as they came.
        tools: name to JSON schema of its parameters.
        tool_choice: `none`, `auto`, `required`, or the name of the one tool that must be called.
        max_tokens: most tokens of the answer, reasoning included; `None` for no limit.
        source: the parameter that the messages came in.
        choices: how many answers are asked for.
    """

    body: Mapping[str, Any]
    model: str
    messages: Sequence[Mapping[str, Any]]
    tools: Mapping[str, Mapping[str, Any]]
    tool_choice: str
    parallel_tool_calls: bool
    max_tokens: int | None
    stop: Sequence[str]
    stream: bool
    include_usage: bool
    source: str = "messages"
    choices: int = 1

    @cached_property
    def fingerprint(self) -> bytes:
        """Names the request by its content."""
        return fingerprint(self.body)

    @cached_property
    def prompt_tokens(self) -> Sequence[str]:
        """The tokens of the rendered prompt: tools first, then the messages with three tokens around each."""
        tokens: list[str] = []
        if self.body.get("tools"):
            tokens += split_tokens(json.dumps(self.body["tools"], separators=(",", ":"), ensure_ascii=False))
        for message in self.messages:
            tokens += _MESSAGE_OVERHEAD
            tokens += split_tokens(text_of(message))
            tokens += ["<|image|>"] * (_IMAGE_TOKENS * _other_parts(message))
            for call in message.get("tool_calls") or ():
                tokens += split_tokens(f"{call['function']['name']} {call['function']['arguments']}")
        return [*tokens, *_REPLY_OVERHEAD]

    @cached_property
    def system(self) -> str:
        """The system and developer messages, with line breaks between."""
        return "\n".join(text_of(m) for m in self.messages if m["role"] in ("system", "developer"))

    @cached_property
    def user_messages(self) -> Sequence[str]:
        """The texts of the user's messages."""
        return [text_of(m) for m in self.messages if m["role"] == "user"]

    @cached_property
    def turn(self) -> int:
        """1 for the first answer to the last user message, 2 after one answer of the assistant, and so on."""
        turn = 1
        for message in reversed(self.messages):
            if message["role"] == "user":
                break
            turn += message["role"] == "assistant"
        return turn

    def check_model(self, model: Model) -> None:
        """Refuse what this model cannot take.

        Raises:
            ApiError: 400, the prompt is longer than the context window.
        """
        prompt, window = len(self.prompt_tokens), model.context_window
        if window is None or prompt + (self.max_tokens or 1) <= window:
            return
        message = f"This model's maximum context length is {window} tokens. However, your {self.source} "
        message += f"resulted in {prompt} tokens"
        message += f" and you asked for up to {self.max_tokens} more" if self.max_tokens else ""
        raise invalid(
            f"{message}. Please reduce the length of the {self.source}.",
            self.source,
            "context_length_exceeded",
        )


def text_of(message: Mapping[str, Any]) -> str:
    """A message's text; parts of text are joined with line breaks, other parts have none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")


def _other_parts(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    return 0 if isinstance(content, str) else sum(part.get("type") != "text" for part in content or ())


def parse_chat_request(raw: bytes) -> ChatRequest:
    """Read and check the body of a request.

    Raises:
        ApiError: 400, as OpenAI words it where it does.
    """
    body = checks.parse_json(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("you must provide a model parameter")
    for name, highest in (("temperature", 2), ("top_p", 1)):
        checks.check_number(body, name, highest)
    stream = checks.optional(body, "stream", bool, default=False)
    tools = checks.read_tools(body)
    return ChatRequest(
        body=body,
        model=model,
        messages=checks.read_messages(body),
        tools=tools,
        tool_choice=checks.read_tool_choice(body, tools),
        parallel_tool_calls=checks.optional(body, "parallel_tool_calls", bool, default=True),
        max_tokens=checks.read_max_tokens(body),
        stop=checks.read_stop(body),
        stream=stream,
        include_usage=checks.read_include_usage(body, stream=stream),
        choices=checks.read_choices(body),
    )
