"""The rules file: which models there are, how fast and how able they are, and what they say.

docs/simulate.md explains every key.
"""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from millstream.errors import ConfigError
from millstream.workflow.validation import Problems, parse_model
from millstream.workflow.yaml_file import parse_yaml

PLACEHOLDERS: Final = frozenset({"user", "first_user", "last", "system", "model", "turn"})
"""What a reply's template may name besides the named groups of its rule's regular expressions."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


IntegerRange = Annotated[tuple[Positive, Positive], BeforeValidator(_pair)]
"""`3`, or `[2, 5]`: both ends included."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Strict):
    """How long a model takes; times of single tokens vary by lognormal factors with mean 1."""

    time_to_first_token_s: Seconds = 0.0
    time_per_input_token_s: Seconds = 0.0
    time_per_output_token_s: Seconds = 0.0
    jitter: Annotated[float, Field(ge=0, le=2)] = 0.0


class ToolCalling(_Strict):
    """How often a wanted tool call goes wrong; what is left of 1 goes well."""

    malformed: Probability = 0.0
    prose: Probability = 0.0

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.malformed + self.prose > 1:
            raise ValueError("malformed and prose together are more than 1")
        return self


class RateLimits(_Strict):
    """Buckets that refill steadily; a full bucket is one minute's worth."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None


class PrefixCache(_Strict):
    """Blocks of prompt tokens seen before are not computed again; the least recently used go first."""

    block_tokens: Positive = 16
    max_blocks: Positive = 100_000


class Failure(_Strict):
    """An answer that is an error: an HTTP status, or a connection that breaks or stays silent."""

    status: Annotated[int, Field(ge=400, le=599)] | None = None
    fault: Literal["reset", "hang"] | None = None
    message: str | None = None
    retry_after_s: Seconds | None = None
    delay_s: Seconds = 0.0
    after_tokens: Count = 0

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.status is None) == (self.fault is None):
            raise ValueError("give one of status (400 to 599) and fault (reset or hang)")
        return self


class ModelError(Failure):
    """A failure that happens now and then: by chance, or at every n-th request to the model."""

    probability: Probability | None = None
    every: Positive | None = None

    @model_validator(mode="after")
    def _how_often(self) -> Self:
        if (self.probability is None) == (self.every is None):
            raise ValueError("give one of probability (0 to 1) and every (a number of requests)")
        return self


class Model(_Strict):
    """One model: its speed, its limits and its failings."""

    latency: Latency = Latency()
    max_concurrency: Positive | None = None
    verbosity: Annotated[float, Field(gt=0, le=100)] = 1.0
    reasoning_tokens: Count = 0
    context_window: Positive | None = None
    tool_calling: ToolCalling = ToolCalling()
    rate_limits: RateLimits = RateLimits()
    errors: list[ModelError] = []
    prefix_cache: bool | PrefixCache = False
    tokens_per_chunk: Positive = 1
    dimensions: Positive = 256


class When(_Strict):
    """Conditions on a request; all that are given must hold."""

    model: str | None = None
    system_contains: str | None = None
    last_user_matches: re.Pattern[str] | None = None
    last_message_matches: re.Pattern[str] | None = None
    last_message_role: Literal["system", "developer", "user", "assistant", "tool"] | None = None
    has_tool: str | None = None
    turn: IntegerRange | None = None
    chance: Probability | None = None

    @property
    def patterns(self) -> list[re.Pattern[str]]:
        """The regular expressions whose named groups the reply may use."""
        return [p for p in (self.last_user_matches, self.last_message_matches) if p is not None]


class ToolCall(_Strict):
    """A call the model makes; `arguments` is an object of templates, or one template of JSON text."""

    name: str
    arguments: dict[str, Any] | str = {}


class Reply(_Strict):
    """What the model answers: words, JSON, a number of tokens, tool calls, or an error."""

    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    json_value: Any = Field(default=None, alias="json")
    tokens: IntegerRange | None = None
    tool_calls: list[ToolCall] = []
    prose: str | Annotated[list[str], Field(min_length=1)] | None = None
    error: Failure | None = None
    reasoning_tokens: Count = 0
    delay_s: Seconds = 0.0

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        words = [
            name
            for name, value in (("text", self.text), ("json", self.json_value), ("tokens", self.tokens))
            if value is not None
        ]
        if len(words) > 1:
            raise ValueError(f"give only one of {' and '.join(words)}")
        if self.error is not None and (self.error.after_tokens > 0) != bool(words or self.tool_calls):
            raise ValueError("an error stands alone, or beside words or tool_calls with its after_tokens")
        if self.error is None and not words and not self.tool_calls:
            raise ValueError("give one of text, json, tokens, tool_calls and error")
        return self

    def templates(self) -> Iterator[str]:
        """Every template in it."""
        yield from _strings([self.text, self.json_value, self.prose])
        for call in self.tool_calls:
            yield from _strings(call.arguments)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _words_alone(value: Any) -> Any:
    return {"text": value} if isinstance(value, str | list) else value


AnyReply = Annotated[Reply, BeforeValidator(_words_alone)]
"""A `Reply`; a bare text, or a list of texts to pick from, is short for its `text`."""


class Rule(_Strict):
    """When these conditions hold, this is the reply."""

    when: When = When()
    reply: AnyReply

    @model_validator(mode="after")
    def _placeholders_known(self) -> Self:
        groups = {name for pattern in self.when.patterns for name in pattern.groupindex}
        _check_placeholders(self.reply, groups)
        return self


class Rules(_Strict):
    """A whole rules file. The first rule that fits a request answers it; `default` answers the others."""

    models: Annotated[dict[str, Model], Field(min_length=1)]
    rules: list[Rule] = []
    default: AnyReply = Reply(text="This is the default answer of the stand-in model $model.")
    api_key: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_models(cls, value: Any) -> Any:
        """`name:` with nothing after it is a model with the defaults."""
        if isinstance(value, dict) and isinstance(value.get("models"), dict):
            models = {name: {} if model is None else model for name, model in value["models"].items()}
            return {**value, "models": models}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_placeholders(self.default, set())
        for index, rule in enumerate(self.rules):
            pattern = rule.when.model
            if pattern is not None and not any(fnmatchcase(name, pattern) for name in self.models):
                known = ", ".join(self.models)
                raise ValueError(f"rules.{index}.when.model: {pattern!r} fits none of the models ({known})")
        return self


def _check_placeholders(reply: Reply, groups: set[str]) -> None:
    for text in reply.templates():
        template = Template(text)
        if not template.is_valid():
            raise ValueError(f"{text!r} has a $ that starts no name; write $$ for a dollar sign")
        for name in template.get_identifiers():
            if name not in groups | PLACEHOLDERS:
                known = ", ".join(f"${known}" for known in sorted(groups | PLACEHOLDERS))
                raise ValueError(
                    f"the reply names ${name}, which is none of {known}; write $$ for a dollar sign"
                )


def load_rules(path: Path) -> Rules:
    """Read a rules file.

    Raises:
        ConfigError: the file is missing, is not YAML, or says something that is not understood; the message
            names the file, the place in it and the nearest known key.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"there is no rules file {path}; check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a rules file: it needs a mapping with the key 'models'")
    problems = Problems()
    with problems.collect():
        return parse_model(Rules, content)
    problems.raise_if_any(str(path))
    raise AssertionError("unreachable: parse_model returns or raises")
