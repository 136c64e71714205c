"""When each piece of an answer comes: the latency model, without waiting."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from millstream.simulate.answer import Answer, Piece, draw_of
from millstream.simulate.draws import Draw
from millstream.simulate.rules import Latency


@dataclass(frozen=True)
class Pace:
    """Seconds after the model took the request up.

    Attributes:
        pieces: in the order in which they come, those of several choices in turns.
        pieces_s: when each piece comes, never decreasing.
        end_s: when the answer is complete.
    """

    pieces: Sequence[Piece]
    pieces_s: Sequence[float]
    end_s: float


def pace_of(latency: Latency, answer: Answer, computed_tokens: int, draw: Draw) -> Pace:
    """The times of an answer. Its choices are made beside each other, as from one batch.

    The first token comes after `time_to_first_token_s` and `time_per_input_token_s` for each prompt token
    that is not cached, times one lognormal factor, plus the rule's `delay_s`; each later token, hidden
    reasoning included, `time_per_output_token_s` times a factor of its own after the one before.

    Args:
        latency: the model's.
        answer: what is answered.
        computed_tokens: prompt tokens that are not in the cache.
        draw: the chance for this request.
    """
    pieces: list[tuple[float, int, Piece]] = []
    end_s = 0.0
    for choice in answer.choices:
        times, at_s = _times_of(latency, choice, computed_tokens, draw_of(draw, choice.choice))
        pieces += zip(times, count(), choice.pieces)
        end_s = max(end_s, at_s)
    pieces.sort(key=lambda each: each[:2])
    return Pace([piece for _, _, piece in pieces], [piece_s for piece_s, _, _ in pieces], end_s)


def _times_of(
    latency: Latency, answer: Answer, computed_tokens: int, draw: Draw
) -> tuple[list[float], float]:
    """When the pieces of one choice come, and when it is complete."""
    prefill_s = latency.time_to_first_token_s + latency.time_per_input_token_s * computed_tokens
    at_s = prefill_s * draw.factor("first token", latency.jitter) + answer.delay_s
    number = 0

    def advance(tokens: int) -> None:
        nonlocal at_s, number
        for _ in range(tokens):
            if number:
                at_s += latency.time_per_output_token_s * draw.factor(f"token {number}", latency.jitter)
            number += 1

    advance(answer.reasoning_tokens)
    times: list[float] = []
    for piece in answer.pieces:
        advance(piece.tokens)
        times.append(at_s)
    return times, at_s
