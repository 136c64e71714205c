"""Rules and a request in, the planned answer out: a pure function of its arguments.

The plan is a row of pieces, each one chunk of a stream. Text, tool calls, `max_tokens` and `usage` are all
read off that row, so that a streamed answer and a whole one cannot differ.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from millstream.simulate.chat import ChatRequest
from millstream.simulate.draws import Draw
from millstream.simulate.matching import Match, choose
from millstream.simulate.rules import Failure, Model, Reply, Rules
from millstream.simulate.tokens import count_tokens, split_tokens
from millstream.simulate.wording import fill, padding, stretch, stretch_longest


@dataclass(frozen=True)
class Piece:
    """One chunk of an answer.

    Attributes:
        kind: `text`; `call`, the start of a tool call; `arguments`, a part of a call's JSON text.
        text: the token or tokens, or the tool's name.
        call: which tool call, from 0; unused for text.
        tokens: what it counts.
        choice: of which of several answers to one request it is, from 0.
    """

    kind: Literal["text", "call", "arguments"]
    text: str
    call: int = 0
    tokens: int = 1
    choice: int = 0


@dataclass(frozen=True)
class PlannedCall:
    """A tool call as the message has it; `arguments` is JSON text, broken off where the call is malformed."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """One choice of what will be answered, apart from when.

    Attributes:
        id: the completion's id.
        rule: which rule answered: `rule 3`, `schema` or `default`; `embeddings` for vectors.
        pieces: the chunks, in order; only those before the failure when there is one.
        finish_reason: `stop`, `length` or `tool_calls`.
        reasoning_tokens: hidden tokens before the first piece; part of `completion_tokens`.
        delay_s: extra seconds before the first token.
        failure: the error that comes instead of an answer (no pieces), or breaks it off after its pieces.
        choice: its number, from 0; the first stands for the request.
        others: of the first, the choices that come beside it.
    """

    id: str
    rule: str
    pieces: Sequence[Piece]
    finish_reason: Literal["stop", "length", "tool_calls"]
    reasoning_tokens: int
    delay_s: float
    failure: Failure | None
    choice: int = 0
    others: "Sequence[Answer]" = ()

    @property
    def choices(self) -> "Sequence[Answer]":
        """All answers to the request."""
        return [self, *self.others]

    @cached_property
    def content(self) -> str | None:
        """The message's text; `None` when it only calls tools."""
        text = "".join(piece.text for piece in self.pieces if piece.kind == "text")
        return text if text or not self.tool_calls else None

    @cached_property
    def tool_calls(self) -> Sequence[PlannedCall]:
        """The message's tool calls."""
        names = {piece.call: piece.text for piece in self.pieces if piece.kind == "call"}
        return [
            PlannedCall(
                id=self.call_id(index),
                name=name,
                arguments="".join(p.text for p in self.pieces if p.kind == "arguments" and p.call == index),
            )
            for index, name in names.items()
        ]

    def call_id(self, index: int) -> str:
        """The id of a tool call."""
        return f"call_{self.key[:20]}{self.choice:02d}{index:02d}"

    @property
    def key(self) -> str:
        """The letters and digits that all ids of this answer share."""
        return self.id.removeprefix("chatcmpl-")

    @property
    def completion_tokens(self) -> int:
        """All tokens of the answer, reasoning included."""
        return self.reasoning_tokens + sum(piece.tokens for piece in self.pieces)


def plan_answer(rules: Rules, request: ChatRequest, draw: Draw, number: int) -> Answer:
    """Plan the answer to a request: the first of its choices, with the others.

    Args:
        rules: the rules file; it has the request's model.
        request: what is asked.
        draw: the chance for this request.
        number: which request to this model it is, from 1; only `errors` with `every` look at it.
    """
    model = rules.models[request.model]
    match = choose(rules, request, draw)
    failure = _failure_of(model, draw, number) or match.reply.error
    first, *others = (
        _plan_choice(match, model, request, draw_of(draw, choice), failure)
        for choice in range(request.choices)
    )
    return replace(
        first,
        others=[
            replace(
                other,
                id=first.id,
                choice=choice,
                pieces=[replace(piece, choice=choice) for piece in other.pieces],
            )
            for choice, other in enumerate(others, start=1)
        ],
    )


def draw_of(draw: Draw, choice: int) -> Draw:
    """The chance for one choice of a request; the first has that of the request."""
    return draw.branch(f"choice {choice}") if choice else draw


def _plan_choice(
    match: Match, model: Model, request: ChatRequest, draw: Draw, failure: Failure | None
) -> Answer:
    reply = match.reply
    pieces = list(_pieces(match, model, request, draw))
    reasoning = model.reasoning_tokens + reply.reasoning_tokens
    called = any(piece.kind == "call" for piece in pieces)
    finish: Literal["stop", "length", "tool_calls"] = "tool_calls" if called else "stop"
    if request.max_tokens is not None and reasoning + sum(p.tokens for p in pieces) > request.max_tokens:
        finish = "length"
        reasoning = min(reasoning, request.max_tokens)
        pieces = _cut(pieces, request.max_tokens - reasoning)
    if failure is not None:
        pieces = _cut(pieces, failure.after_tokens)
    pieces = _grouped(pieces, model.tokens_per_chunk)
    return Answer(
        id=f"chatcmpl-{draw.text('id', 29)}",
        rule=match.label,
        pieces=pieces,
        finish_reason=finish,
        reasoning_tokens=reasoning,
        delay_s=reply.delay_s,
        failure=failure,
    )


def plan_embeddings(model: Model, draw: Draw, number: int) -> Answer:
    """Plan the answer to a request for vectors: no pieces, but the errors of the model."""
    return Answer(
        id=draw.text("id", 29),
        rule="embeddings",
        pieces=(),
        finish_reason="stop",
        reasoning_tokens=0,
        delay_s=0.0,
        failure=_failure_of(model, draw, number),
    )


def _failure_of(model: Model, draw: Draw, number: int) -> Failure | None:
    for index, error in enumerate(model.errors):
        if error.every is not None and number % error.every == 0:
            return error
        if error.probability is not None and draw.uniform(f"error {index}") < error.probability:
            return error
    return None


def _pieces(match: Match, model: Model, request: ChatRequest, draw: Draw) -> Iterator[Piece]:
    reply = match.reply
    calls = [(call.name, _arguments(call.arguments, match)) for call in reply.tool_calls]
    if calls and not request.parallel_tool_calls:
        calls = calls[:1]
    fate = draw.uniform("tool calling") if calls else 1.0
    prose = fate < model.tool_calling.prose
    malformed = not prose and fate < model.tool_calling.prose + model.tool_calling.malformed
    text = _prose(reply, match, draw) if prose else _text(reply, match, draw, model.verbosity)
    yield from (Piece("text", token) for token in split_tokens(_stopped(text, request.stop)))
    if prose:
        return
    for index, (name, arguments) in enumerate(calls):
        yield Piece("call", name, index, count_tokens(name))
        tokens = split_tokens(arguments)
        kept = tokens[: len(tokens) // 2] if malformed else tokens
        yield from (Piece("arguments", token, index) for token in kept)


def _arguments(arguments: dict[str, Any] | str, match: Match) -> str:
    filled = fill(arguments, match.values)
    return filled if isinstance(filled, str) else json.dumps(filled, ensure_ascii=False)


def _text(reply: Reply, match: Match, draw: Draw, verbosity: float) -> str:
    if reply.json_value is not None:
        value = stretch_longest(fill(reply.json_value, match.values), verbosity)
        return json.dumps(value, ensure_ascii=False)
    if reply.tokens is not None:
        return padding(max(1, round(draw.integer("tokens", *sorted(reply.tokens)) * verbosity)))
    return stretch(_picked(reply.text, match, draw), verbosity) if reply.text else ""


def _prose(reply: Reply, match: Match, draw: Draw) -> str:
    if reply.prose:
        return _picked(reply.prose, match, draw)
    return f"I would use {' and '.join(call.name for call in reply.tool_calls)} for this."


def _picked(texts: str | list[str], match: Match, draw: Draw) -> str:
    text = texts if isinstance(texts, str) else draw.choice("text", texts)
    return str(fill(text, match.values))


def _stopped(text: str, stops: Sequence[str]) -> str:
    ends = [end for end in (text.find(stop) for stop in stops) if end >= 0]
    return text[: min(ends)] if ends else text


def _grouped(pieces: Sequence[Piece], tokens_per_chunk: int) -> list[Piece]:
    """Pieces of one text joined into chunks of several tokens; the very first token is a chunk of its own."""
    grouped = list(pieces[:1])
    for piece in pieces[1:]:
        last = grouped[-1]
        joins = len(grouped) > 1 and (piece.kind, piece.call) == (last.kind, last.call)
        if joins and last.tokens + piece.tokens <= tokens_per_chunk:
            grouped[-1] = Piece(last.kind, last.text + piece.text, last.call, last.tokens + piece.tokens)
        else:
            grouped.append(piece)
    return grouped


def _cut(pieces: Sequence[Piece], budget: int) -> list[Piece]:
    kept: list[Piece] = []
    for piece in pieces:
        budget -= piece.tokens
        if budget < 0:
            break
        kept.append(piece)
    return kept
