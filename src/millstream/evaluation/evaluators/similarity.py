"""How alike the answer and the expected answer are: by characters, words, or the vectors of an embedder."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Literal, Self
from unicodedata import normalize

import msgspec
from pydantic import model_validator

from millstream.evaluation.evaluators.base import Binding, EvalItem, EvaluatorBase, Score
from millstream.evaluation.evaluators.edit_distance import levenshtein
from millstream.evaluation.evaluators.rouge import rouge_l, words
from millstream.workflow.answers import answer_text

MAX_PRODUCT: Final = 5_000_000_000
"""Of the lengths of two texts that are compared: some seconds."""


class Similarity(EvaluatorBase):
    """From 0 (nothing in common) to 1 (the same).

    Attributes:
        method: `edit`: 1 - Levenshtein distance / length of the longer text, in characters. `rouge_l`: F1 of
            the longest common subsequence of words. `embedding`: cosine of the vectors of an embedder, 0
            where it is negative.
        embedder_name: a key under `embedders`, for `embedding`.
    """

    needs_expected: ClassVar[bool] = True

    method: Literal["edit", "rouge_l", "embedding"]
    embedder_name: str | None = None

    @model_validator(mode="after")
    def _embedder_where_needed(self) -> Self:
        if self.method == "embedding" and self.embedder_name is None:
            raise ValueError("method embedding needs embedder_name, a key under embedders")
        if self.method != "embedding" and self.embedder_name is not None:
            raise ValueError(f"embedder_name is for method embedding, not for {self.method}")
        return self

    def unscorable(self, item: EvalItem) -> str | None:
        """An expected answer with nothing to compare."""
        if item.expected is None:
            return "the dataset has no expected answer for this item"
        expected = answer_text(item.expected)
        if self.method == "rouge_l" and not words(expected):
            return "the expected answer has no words"
        if self.method == "embedding" and not expected.strip():
            return "the expected answer is empty"
        return None

    def bind(self, binding: Binding) -> Callable[[EvalItem], Any]:
        """Check the embedder."""
        if self.embedder_name is None:
            return self
        binding.models.check_embedder(self.embedder_name, f"{binding.where}.embedder_name")
        name, models = self.embedder_name, binding.models

        async def compare(item: EvalItem) -> Score:
            reason = self.unscorable(item)
            if reason is not None:
                return Score(None, reason)
            answer, expected = _text(item.output), answer_text(item.expected)
            if not answer.strip():
                return Score(0.0, "the answer is empty")
            embedder = await models.embedder(name)
            return _cosine(*await embedder.aembed_documents([answer, expected]))

        return compare

    def __call__(self, item: EvalItem) -> Score:
        """Score one item by its characters or words."""
        reason = self.unscorable(item)
        if reason is not None:
            return Score(None, reason)
        answer, expected = (normalize("NFC", _text(value)) for value in (item.output, item.expected))
        return _by_characters(answer, expected) if self.method == "edit" else _by_words(answer, expected)


def _text(value: Any) -> str:
    return "" if value is None else answer_text(value)


def _by_characters(answer: str, expected: str) -> Score:
    longer = max(len(answer), len(expected))
    if answer == expected:
        return Score(1.0, {"distance": 0, "characters": longer})
    if len(answer) * len(expected) > MAX_PRODUCT:
        return _too_long(len(answer), len(expected), "characters")
    distance = levenshtein(answer, expected)
    return Score(1 - distance / longer, {"distance": distance, "characters": longer})


def _by_words(answer: str, expected: str) -> Score:
    given, wanted = words(answer), words(expected)
    if len(given) * len(wanted) > MAX_PRODUCT:
        return _too_long(len(given), len(wanted), "words")
    found = rouge_l(given, wanted)
    return Score(found.f1, {"values": msgspec.to_builtins(found)})


def _too_long(given: int, wanted: int, what: str) -> Score:
    return Score(
        None,
        f"the answer has {given:,} {what} and the expected one {wanted:,}: too long to compare, since their"
        f" product is over {MAX_PRODUCT:,}",
    )


def _cosine(answer: Sequence[float], expected: Sequence[float]) -> Score:
    if len(answer) != len(expected):
        return Score(None, f"the embedder gave vectors of {len(answer)} and {len(expected)} numbers")
    lengths = math.hypot(*answer), math.hypot(*expected)
    if not all(0 < length < math.inf for length in lengths):
        return Score(None, "the embedder gave a vector without a direction: all 0, or not finite")
    cosine = math.fsum(
        one / lengths[0] * (other / lengths[1]) for one, other in zip(answer, expected, strict=True)
    )
    cosine = min(max(cosine, -1.0), 1.0)  # rounding
    return Score(max(cosine, 0.0), {"cosine": cosine})
