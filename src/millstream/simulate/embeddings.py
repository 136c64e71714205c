"""A request for embeddings, checked, and its answer in OpenAI's JSON."""

import base64
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from millstream.simulate import chat_checks as checks
from millstream.simulate.api_error import ApiError, invalid
from millstream.simulate.draws import fingerprint
from millstream.simulate.rules import Model
from millstream.simulate.tokens import split_tokens

_FORMATS: Final = ("float", "base64")
_MOST_INPUTS: Final = 2048


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A request that passed the checks.

    Attributes:
        body: the JSON as it came.
        model: the model's name.
        texts: what gets a vector each; token ids as a text of numbers.
        tokens: the tokens of each text.
        dimensions: of the vectors; `None` for the model's own.
        as_base64: whether the vectors come as base64 of little-endian single precision numbers.
    """

    body: Mapping[str, Any]
    model: str
    texts: Sequence[str]
    tokens: Sequence[Sequence[str]]
    dimensions: int | None
    as_base64: bool

    @cached_property
    def fingerprint(self) -> bytes:
        """Names the request by its content."""
        return fingerprint(self.body)

    @cached_property
    def prompt_tokens(self) -> Sequence[str]:
        """The tokens of all texts."""
        return [token for tokens in self.tokens for token in tokens]

    def check_model(self, model: Model) -> None:
        """Refuse what this model cannot take.

        Raises:
            ApiError: 400, a text is longer than the context window, or more dimensions than it has are asked.
        """
        if self.dimensions is not None and self.dimensions > model.dimensions:
            raise invalid(
                f"Invalid value for 'dimensions' = {self.dimensions}. "
                f"Must be less than or equal to {model.dimensions}.",
                "dimensions",
            )
        longest, window = max(map(len, self.tokens)), model.context_window
        if window is not None and longest > window:
            message = (
                f"This model's maximum context length is {window} tokens, however you requested {longest} "
                f"tokens ({longest} in your prompt; 0 for the completion). Please reduce your prompt."
            )
            raise invalid(message, "input", "context_length_exceeded")


def parse_embeddings_request(raw: bytes) -> EmbeddingsRequest:
    """Read and check the body of a request.

    Raises:
        ApiError: 400, as OpenAI words it where it does.
    """
    body = checks.parse_json(raw)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("you must provide a model parameter")
    encoding = body.get("encoding_format") or "float"
    if encoding not in _FORMATS:
        raise checks.unknown_value(encoding, _FORMATS, "encoding_format")
    dimensions = checks.optional(body, "dimensions", int, None)
    if dimensions is not None and dimensions < 1:
        raise checks.below_minimum("dimensions", 1, dimensions)
    inputs = _read_inputs(body)
    return EmbeddingsRequest(
        body=body,
        model=model,
        texts=[given if isinstance(given, str) else " ".join(map(str, given)) for given in inputs],
        tokens=[split_tokens(given) if isinstance(given, str) else list(map(str, given)) for given in inputs],
        dimensions=dimensions,
        as_base64=encoding == "base64",
    )


def _read_inputs(body: Mapping[str, Any]) -> Sequence[str | list[int]]:
    """What gets a vector each: texts, or lists of token ids."""
    given = body.get("input")
    if given is None:
        raise checks.missing("input")
    inputs = given if isinstance(given, list) and not _are_tokens(given) else [given]
    if not inputs or not all((isinstance(one, str) and one) or _are_tokens(one) for one in inputs):
        raise _invalid_input()
    if len(inputs) > _MOST_INPUTS:
        text = (
            f"Invalid 'input': array too long. Expected an array with maximum length {_MOST_INPUTS}, but got "
        )
        raise invalid(f"{text}an array with length {len(inputs)} instead.", "input", "array_above_max_length")
    return inputs


def _are_tokens(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(type(token) is int and token >= 0 for token in value)
    )


def _invalid_input() -> ApiError:
    return invalid(
        "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        " (It is a text, or tokens as whole numbers, or an array of either, and nothing in it is empty.)",
        "input",
    )


def embedding_list(
    request: EmbeddingsRequest, vectors: Sequence[list[float]], usage: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(vector) if request.as_base64 else vector,
        }
        for index, vector in enumerate(vectors)
    ]
    counted = {name: usage[name] for name in ("prompt_tokens", "total_tokens")}
    return {"object": "list", "data": data, "model": request.model, "usage": counted}


def _encoded(vector: list[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
